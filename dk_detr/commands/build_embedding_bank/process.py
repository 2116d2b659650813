"""One of several processes that build a bank: which shards are its own, and with what it computes."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from dk_detr.utils.memory import keep_freed_memory


@dataclass(frozen=True)
class Process:
    """This process among those that build."""

    rank: int = 0
    number: int = 1

    def share_of(self, shards: Sequence[int]) -> list[int]:
        """The shards that are this process's."""
        return [shard for shard in shards if shard % self.number == self.rank]

    def say(self, text: str) -> None:
        """On the terminal, once for all processes."""
        if self.rank == 0:
            print(text, flush=True)


ALONE = Process()


def chosen_shards(text: str | None, number: int) -> range:
    """ "3:8" -> shards 3 to 7; None for all. Raises ValueError for what is no part of them."""
    if text is None:
        return range(number)
    first, colon, last = text.partition(":")
    if not (colon and all(part.isdecimal() or not part for part in (first, last))):
        raise ValueError(f'--shards is "{text}"; wanted FIRST:LAST such as 0:500, counted from 0, without the last.')
    shards = range(int(first or 0), min(int(last or number), number))
    if not shards:
        raise ValueError(f"--shards {text} names none of the {number} shards (0:{number}).")
    return shards


@contextmanager
def deterministic(device: str) -> Iterator[None]:
    """Compute so that the last bits do not tell how many processes there are.

    On a CPU with one thread: more would add up in another order, and several processes use several cores as well. On
    GPUs each process takes its own.
    """
    if device != "cpu":
        if "LOCAL_RANK" in os.environ:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
        yield
        return
    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
