"""Batches of things that come one after the other."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Thing = TypeVar("Thing")


def batches_of(things: Iterable[Thing], size: int) -> Iterator[list[Thing]]:
    """Lists of `size` things, the last with what is left. Raises ValueError for a size below 1."""
    if size < 1:
        raise ValueError(f"A batch needs a size of at least 1, got {size}.")
    rest = iter(things)
    while batch := list(islice(rest, size)):
        yield batch
