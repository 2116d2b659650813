"""Start a function in one process or several: GPUs or CPU, spawned here or by torchrun."""

import itertools
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm

TIMEOUT = timedelta(minutes=30)
LOCAL = "127.0.0.1"


def launch(main: Callable[..., None], num_processes: int, args: tuple[Any, ...] = (), device: str = "") -> None:
    """Run `main(*args)` in `num_processes` processes that know of one another (Detectron2's `comm`).

    Under torchrun the processes exist already and `num_processes` is ignored. On GPUs each process takes one and NCCL
    connects them; on CPU it is gloo. `device` "cpu" keeps to the CPU where GPUs are present.
    """
    on_gpu = torch.cuda.is_available() and device != "cpu"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _join(int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]), None, on_gpu)
        _leave_after(main, args)
    elif num_processes > 1:
        if on_gpu and num_processes > torch.cuda.device_count():
            raise ValueError(f"--num-gpus {num_processes}, but this machine has {torch.cuda.device_count()}.")
        # This process keeps the store, so that it outlives the workers, which ask it who has failed first.
        store = dist.TCPStore(LOCAL, 0, is_master=True, wait_for_workers=False, timeout=TIMEOUT)
        try:
            torch.multiprocessing.spawn(_worker, (main, args, num_processes, store.port, on_gpu), nprocs=num_processes)
        except torch.multiprocessing.ProcessExitedException as error:
            if error.exit_code != 1:
                raise ChildProcessError(_end_of(error)) from error
            sys.exit(1)  # the process has said why
    else:
        main(*args)


def is_first_to_fail() -> bool:
    """Whether no other process of this run has reported an error yet: only the first one does."""
    try:
        store = _common_store()
        return store is None or store.add(f"failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1
    except RuntimeError:  # whoever kept the store is gone
        return False


def shared_numbers(name: str) -> Iterator[int]:
    """0, 1, 2, … without end; of several processes each number goes to one, the first that asks: a queue of work.

    Args:
        name: of this queue; once in a run.
    """
    store = _common_store()
    if store is None:
        yield from itertools.count()
    while store is not None:
        yield store.add(f"numbers/{name}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) - 1


def _common_store() -> dist.Store | None:
    """The key-value store of the process group or of torchrun; None for a single process."""
    if dist.is_initialized():
        return dist.distributed_c10d._get_default_store()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=10))
    return None


def _end_of(error: torch.multiprocessing.ProcessExitedException) -> str:
    """How a process ended that has not reported an error."""
    if error.signal_name is None:
        return f"Process {error.error_index} ended with status {error.exit_code}."
    hint = "; the system does so when memory runs out" if error.signal_name == "SIGKILL" else ""
    return f"Process {error.error_index} was ended by {error.signal_name}{hint}."


def _worker(
    rank: int, main: Callable[..., None], args: tuple[Any, ...], world_size: int, port: int, on_gpu: bool
) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size))
    _join(rank, world_size, dist.TCPStore(LOCAL, port, is_master=False, timeout=TIMEOUT), on_gpu)
    _leave_after(main, args)


def _join(local_rank: int, local_size: int, store: dist.Store | None, on_gpu: bool) -> None:
    """Join the process group: through the store, or without one as torchrun's environment says."""
    if on_gpu:
        torch.cuda.set_device(local_rank)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // local_size))
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT, world_size=world_size, rank=rank, store=store)
    # Detectron2 asks this group for the rank on this machine.
    for first in range(0, world_size, local_size):
        group = dist.new_group(list(range(first, first + local_size)))
        if first <= rank < first + local_size:
            comm._LOCAL_PROCESS_GROUP = group


def _leave_after(main: Callable[..., None], args: tuple[Any, ...]) -> None:
    try:
        main(*args)
        comm.synchronize()
    except Exception:  # noqa: BLE001  a bug. Other processes then fail as well, and their errors are not the reason
        if is_first_to_fail():
            traceback.print_exc()
        sys.exit(1)
    finally:
        comm._LOCAL_PROCESS_GROUP = None
        dist.destroy_process_group()
