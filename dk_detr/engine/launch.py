"""Start a function in one process or several, on one machine or several: GPUs or CPU, spawned here or by torchrun."""

import itertools
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm

from dk_detr.engine.failures import Member, last_words, member_of_torchrun, place, set_member, store_of_attempt
from dk_detr.engine.machines import LOCAL, ONE_MACHINE, TIMEOUT, MachineGone, Machines, Meeting, meeting
from dk_detr.engine.setup import one_clear_error

Main = Callable[..., None]
Crash = torch.multiprocessing.ProcessExitedException


def launch(
    main: Main, num_processes: int, args: tuple[Any, ...] = (), device: str = "", machines: Machines = ONE_MACHINE,
    remedy: str = "",
) -> None:  # fmt: skip
    """Run `main(*args)` in `num_processes` processes on each machine that know of one another (Detectron2's `comm`).

    Under torchrun the processes exist already and `num_processes` is ignored. On GPUs each process takes one and NCCL
    connects them; on CPU it is gloo.

    Args:
        device: "cpu" keeps to the CPU where GPUs are present. machines: all of the run, and which this is.
        remedy: a sentence that says what to do where a process was killed.

    Raises: ValueError for arguments that cannot be, or on which machines disagree; TimeoutError where a machine does
        not come; ChildProcessError where a process was killed, here or on another machine. Of an error that a process
        has reported, SystemExit.
    """
    on_gpu = torch.cuda.is_available() and device != "cpu"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        machines.refuse_under_torchrun()
        _work_under_torchrun(main, args, on_gpu, remedy)
        return
    _refuse_number(num_processes, machines, on_gpu)
    if num_processes * machines.number <= 1:
        main(*args)
        return
    with meeting(machines, num_processes, remedy) as met:
        _spawn(_worker, (main, args, machines, num_processes, met.tcp.port, on_gpu, remedy), met)


def share_out(
    main: Main, num_processes: int, args: tuple[Any, ...] = (), device: str = "", machines: Machines = ONE_MACHINE,
    remedy: str = "",
) -> None:  # fmt: skip
    """Run `main(rank, number, *args)` in `num_processes` processes on each machine, each of which does a share of the
    work and never waits for another. Machines do not meet; `rank` counts the processes of all, `number` is how many.

    Args and Raises: see `launch`. Each process finds in LOCAL_RANK which GPU is its own.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        machines.refuse_under_torchrun()
        main(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), *args)
        return
    _refuse_number(num_processes, machines, torch.cuda.is_available() and device != "cpu")
    if num_processes <= 1:
        main(machines.rank, machines.number, *args)
        return
    with meeting(ONE_MACHINE, num_processes, remedy) as met:
        _spawn(_sharer, (main, args, machines, num_processes, met.tcp.port, remedy), met)


def shared_numbers(name: str) -> Iterator[int]:
    """0, 1, 2, … without end; of several processes each number goes to one, the first that asks: a queue of work.

    Args:
        name: of this queue; once in a run.
    """
    store = dist.distributed_c10d._get_default_store() if dist.is_initialized() else None
    if store is None:
        yield from itertools.count()
    while store is not None:
        yield store.add(f"numbers/{name}", 1) - 1


def _spawn(work: Callable[..., None], args: tuple[Any, ...], met: Meeting) -> None:
    """Start the processes of this machine and wait for them. This process keeps the store, or watches it, so that it
    outlives the workers, which ask it who has failed first."""
    try:
        _watch(torch.multiprocessing.spawn(work, args, nprocs=met.num_processes, join=False), met)
    except (Crash, MachineGone) as error:
        said = met.last_words(_end_of(error, met) if isinstance(error, Crash) else str(error))
        if said is None:
            sys.exit(1)  # a process of this machine has said why
        raise ChildProcessError(said) from error


def _refuse_number(num_processes: int, machines: Machines, on_gpu: bool) -> None:
    if on_gpu and num_processes > torch.cuda.device_count():
        have = torch.cuda.device_count()
        raise ValueError(f"{num_processes} processes were asked for, each with a GPU; this machine has {have}.")
    if num_processes < 1 and machines.number > 1:
        raise ValueError(f"--num-gpus must be at least 1 on each of several machines, got {num_processes}.")


def _watch(workers: Any, met: Meeting) -> None:
    """Wait for the processes of this machine, and end them where another machine has failed."""
    if met.machines.number == 1:
        while not workers.join():
            pass
        return
    try:
        while not workers.join(timeout=1):
            met.watch()
    finally:
        _end(workers.processes)


def _end(processes: list[Any]) -> None:
    """End what still runs."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + 10
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
        process.kill()


def _end_of(error: Crash, met: Meeting) -> str:
    """How a process ended, and what to do, where it has not reported an error."""
    rank = met.machines.rank * met.num_processes + error.error_index
    who = place(rank, met.machines.rank, met.machines.number)
    if error.signal_name is None:
        return f"{who} ended with status {error.exit_code}."
    hint = "; the system does so when memory runs out" if error.signal_name == "SIGKILL" else ""
    return f"{who} was ended by {error.signal_name}{hint}. {met.member.remedy}".rstrip()


def _worker(
    local_rank: int, main: Main, args: tuple[Any, ...], machines: Machines, num_processes: int, port: int, on_gpu: bool,
    remedy: str,
) -> None:  # fmt: skip
    rank, world_size = machines.rank * num_processes + local_rank, machines.number * num_processes
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size))
    store = dist.TCPStore(machines.address[0], port, is_master=False, timeout=TIMEOUT)
    common = dist.PrefixStore("dk_detr", store)
    set_member(Member(common, rank, world_size, machines.rank, machines.number, remedy))
    _work(partial(_join, local_rank, num_processes, store, on_gpu), main, args)


def _sharer(
    local_rank: int, main: Main, args: tuple[Any, ...], machines: Machines, num_processes: int, port: int, remedy: str
) -> None:
    store = dist.PrefixStore("dk_detr", dist.TCPStore(LOCAL, port, is_master=False, timeout=TIMEOUT))
    set_member(Member(store, local_rank, num_processes, remedy=remedy))
    os.environ["LOCAL_RANK"] = str(local_rank)
    rank, number = machines.rank * num_processes + local_rank, machines.number * num_processes
    main(rank, number, *args)


def _work_under_torchrun(main: Main, args: tuple[Any, ...], on_gpu: bool, remedy: str) -> None:
    store = store_of_attempt()
    _join(int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]), store, on_gpu)
    set_member(member_of_torchrun(remedy, store))
    _work(lambda: None, main, args)


def _join(local_rank: int, local_size: int, store: dist.Store | None, on_gpu: bool) -> None:
    """Join the process group: through the store, or without one as torchrun's environment says."""
    if on_gpu:
        torch.cuda.set_device(local_rank)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // local_size))
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT, world_size=world_size, rank=rank, store=store)
    _require_equal_machines(rank, world_size, local_size, backend)
    # Detectron2 asks this group for the rank on this machine.
    for first in range(0, world_size, local_size):
        group = dist.new_group(list(range(first, first + local_size)))
        if first <= rank < first + local_size:
            comm._LOCAL_PROCESS_GROUP = group


def _require_equal_machines(rank: int, world_size: int, local_size: int, backend: str) -> None:
    """Raises ValueError where machines have other numbers of processes, or some no GPU; they would wait for one another
    forever."""
    store = dist.distributed_c10d._get_default_store()
    store.set(f"machine of rank {rank}", f"{local_size} processes, connected by {backend}")
    told = [store.get(f"machine of rank {other}").decode() for other in range(world_size)]
    other = next((other for other in range(world_size) if told[other] != told[0]), None)
    if other is not None:
        raise ValueError(
            f"The machine of rank 0 has {told[0]}, that of rank {other} has {told[other]}. All need the same "
            "--nproc-per-node (--num-gpus), and GPUs all or none."
        )


def _work(join: Callable[[], None], main: Main, args: tuple[Any, ...]) -> None:
    try:
        with one_clear_error():
            join()
        main(*args)
        comm.synchronize()
    except Exception as error:  # noqa: BLE001  a bug. Others then fail as well, and their errors are not the reason
        said = last_words(error, traceback.format_exc())
        if said:
            print(said, file=sys.stderr)
        sys.exit(1)
    finally:
        set_member(None)
        comm._LOCAL_PROCESS_GROUP = None
        if dist.is_initialized():
            dist.destroy_process_group()
