"""What the processes of a run say when it fails: the first error, once on each machine, and who is gone.

Errors of other processes mostly follow from the first: their connection to it is closed. So the first error is kept in
the key-value store that all processes know, and what follows from it is not printed.
"""

import os
import signal
import socket
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

MEETING = timedelta(minutes=30)  # in which all processes of an attempt of torchrun have come
PATIENCE = 10.0  # seconds in which processes whose connection is lost say that they are alive
LOST = ("gloo", "connection closed by peer", "connection reset by peer", "broken pipe", "ncclremoteerror")


@dataclass(frozen=True)
class Member:
    """A process of a run.

    Attributes:
        store: that all processes of the run know. rank, world_size: of this process, and how many there are.
        machine, num_machines: the same of its machine. remedy: what to do where a process was killed; a sentence.
    """

    store: dist.Store
    rank: int = 0
    world_size: int = 1
    machine: int = 0
    num_machines: int = 1
    remedy: str = ""

    @property
    def place(self) -> str:
        """Which process this is, for errors."""
        return place(self.rank, self.machine, self.num_machines)

    def last_words(self, text: str) -> str | None:
        """Keep an error if it is the run's first.

        Returns: what to print: the first error, which may be another than this; None where a process of this machine
            prints it, or the store is gone, and with it whoever started this process.
        """
        try:
            first = self.store.compare_set("failure", "", text).decode()
            return first if self.store.add(f"said on machine {self.machine}", 1) == 1 else None
        except RuntimeError:
            return None

    def first_failure(self) -> str | None:
        """The first error that any process has reported."""
        return self.store.get("failure").decode() if self.store.check(["failure"]) else None

    def wait_for_news(self) -> list[int]:
        """After a lost connection: say that this process is alive, and wait until the reason is known, or it is clear
        that nobody will tell it. Returns: the ranks that did not say that they are alive."""
        stopped: list[int] = []
        if "TORCHELASTIC_RUN_ID" in os.environ:  # it ends the others a moment after it finds one dead
            signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
        self.store.set(f"alive/{self.rank}", self.place)
        deadline = time.monotonic() + PATIENCE
        silent = [rank for rank in range(self.world_size) if rank != self.rank]
        while silent and not stopped and time.monotonic() < deadline and self.first_failure() is None:
            time.sleep(0.1)
            silent = [rank for rank in silent if not self.store.check([f"alive/{rank}"])]
        return silent


_member: Member | None = None


def set_member(member: Member | None) -> None:
    """Say which process of a run this one is; None for none."""
    global _member
    _member = member


def current_member() -> Member | None:
    """This process as one of a run; None for a process alone."""
    if _member is not None:
        return _member
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return member_of_torchrun("")
    if dist.is_initialized():
        store = _of_attempt(dist.distributed_c10d._get_default_store())
        return Member(store, dist.get_rank(), dist.get_world_size())
    return None


def store_of_attempt() -> dist.Store | None:
    """A part of torchrun's store for this attempt alone; None where torchrun keeps no store.

    The store outlives a restart, and has the addresses of the processes before it. No variable tells attempts apart:
    each machine counts its own restarts. So rank 0 makes a name for the attempt, and gives it to each of the others
    that asks; it is done when all have thanked it.
    """
    if not _has_agent_store():
        return None
    shared = dist.PrefixStore("dk_detr/attempts", _agent_store(MEETING))
    rank, world_size = _number("RANK", "0"), _number("WORLD_SIZE", "1")
    if rank:
        question = uuid.uuid4().hex
        shared.set(f"question/{rank}", question)
        name = shared.get(f"answer/{question}").decode()
        shared.set(f"thanks/{name}/{rank}", "")
        return dist.PrefixStore(name, shared)
    name, deadline = uuid.uuid4().hex, time.monotonic() + MEETING.total_seconds()
    waiting = set(range(1, world_size))
    while waiting:
        for other in [other for other in waiting if shared.check([f"question/{other}"])]:
            shared.set(f"answer/{shared.get(f'question/{other}').decode()}", name)
        waiting = {other for other in waiting if not shared.check([f"thanks/{name}/{other}"])}
        if waiting and time.monotonic() > deadline:
            raise TimeoutError(f"Rank {', '.join(map(str, sorted(waiting)))} did not come.")
        time.sleep(0.02)
    return dist.PrefixStore(name, shared)


def _has_agent_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _agent_store(timeout: timedelta) -> dist.Store:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(address, port, is_master=False, timeout=timeout)


def member_of_torchrun(remedy: str, store: dist.Store | None = None) -> Member | None:
    """This process as torchrun numbered it; None where it has not met the others yet and torchrun keeps no store.

    Args:
        store: of this attempt, once it has been agreed on.
    """
    if store is None and _has_agent_store():
        store = _of_attempt(_agent_store(timedelta(seconds=10)))
    elif store is None and dist.is_initialized():
        store = _of_attempt(dist.distributed_c10d._get_default_store())
    if store is None:
        return None
    names = (("RANK", "0"), ("WORLD_SIZE", "1"), ("GROUP_RANK", "0"), ("GROUP_WORLD_SIZE", "1"))
    rank, world_size, machine, machines = (_number(name, default) for name, default in names)
    return Member(store, rank, world_size, machine, machines, remedy)


def _of_attempt(store: dist.Store) -> dist.Store:
    """A restart of torchrun begins without errors."""
    return dist.PrefixStore(f"dk_detr/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _number(variable: str, default: str) -> int:
    return int(os.environ.get(variable, default))


def last_words(error: BaseException, text: str) -> str | None:
    """What this process should print of an error that ends it; None where another has said it.

    Args:
        text: of the error; of a lost connection it is replaced by who is gone.
    """
    try:
        member = current_member()
    except RuntimeError:  # whoever kept the store is gone
        return None
    if member is None:
        return text
    if is_lost_connection(error):
        return member.last_words(_about_a_lost_connection(member, text))
    return member.last_words(f"{member.place}: {text}" if member.num_machines > 1 else text)


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error says no more than that another process cannot be reached."""
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in LOST)


def _about_a_lost_connection(member: Member, text: str) -> str:
    try:
        silent = member.wait_for_news()
    except RuntimeError:
        silent = []
    if not silent:
        return f"{member.place} lost its connection: {text} {member.remedy}".rstrip()
    per_machine = max(member.world_size // member.num_machines, 1)
    gone = ", ".join(place(rank, rank // per_machine, member.num_machines) for rank in silent)
    return f"{gone} ended without a word: killed, or its machine is gone. {member.remedy}".rstrip()


def place(rank: int, machine: int, num_machines: int) -> str:
    """Name a process: its rank and, of several, its machine."""
    return f"Rank {rank} (machine {machine})" if num_machines > 1 else f"Rank {rank}"


def this_host() -> str:
    """The name of this machine, for people."""
    return socket.gethostname()
