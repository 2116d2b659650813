"""Several machines that make one run: which there are, how they meet, and how each hears that another has failed.

The first machine keeps a key-value store at --dist-url. Each machine signs in there before it starts its processes, and
looks there every second while they work.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch.distributed as dist

from dk_detr.engine.failures import Member, this_host

AUTO, LOCAL = "auto", "127.0.0.1"
TIMEOUT = timedelta(minutes=30)  # of one exchange between processes; the first evaluates alone meanwhile
TO_MEET = 600.0  # seconds in which all machines must have come
SILENCE = 60.0  # seconds without a sign of life, after which a machine counts as gone
TO_LEAVE = 20.0  # seconds that the first machine keeps the store for others that are not done


@dataclass(frozen=True)
class Machines:
    """The machines of a run, and which of them this is.

    Attributes:
        number: how many. rank: of this one, counted from 0. url: "tcp://HOST:PORT", an address of the first machine and
            a free port there; "auto" for one machine.

    Raises: ValueError for what cannot be.
    """

    number: int = 1
    rank: int = 0
    url: str = AUTO

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"--num-machines must be at least 1, got {self.number}.")
        if not 0 <= self.rank < self.number:
            raise ValueError(
                f"--machine-rank {self.rank} of --num-machines {self.number}: machines are counted from 0 to "
                f"{self.number - 1}."
            )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the store; port 0 is any that is free. Raises ValueError where the url does not say them."""
        if self.url == AUTO and self.number > 1:
            raise ValueError(
                f"--num-machines {self.number} needs --dist-url tcp://HOST:PORT, the same on all machines: an address "
                "of machine 0, and a free port there."
            )
        if self.url == AUTO:
            return LOCAL, 0
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or not port or parts.scheme != "tcp":
            raise ValueError(f"--dist-url {self.url} is no address; wanted tcp://HOST:PORT such as tcp://10.0.0.1:29500.")
        return host, port

    def refuse_under_torchrun(self) -> None:
        """Raises ValueError where torchrun has started the processes, and other machines are named than its own."""
        if self != ONE_MACHINE:
            raise ValueError(
                "Under torchrun its own --nnodes, --node-rank and --rdzv-endpoint name the machines: leave out "
                "--num-machines, --machine-rank and --dist-url."
            )


ONE_MACHINE = Machines()


class MachineGone(ChildProcessError):
    """Another machine has failed or vanished; the message is the error of the run."""


@dataclass
class Meeting:
    """What the machines of a run tell one another.

    Attributes:
        machines: of the run. num_processes: of each machine. tcp: the store. member: of the process that watches the
            workers of this machine. is_lost: whether the store is gone, and with it the first machine.
    """

    machines: Machines
    num_processes: int
    tcp: dist.TCPStore
    member: Member
    is_lost: bool = False
    _signed_in: bool = False
    _beats: dict[int, tuple[bytes, float]] = field(default_factory=dict)

    @property
    def store(self) -> dist.Store:
        """Where the machines write."""
        return self.member.store

    def sign_in(self) -> None:
        """Wait for all machines. Raises ValueError where they do not agree, TimeoutError where some do not come."""
        mine: dict[str, Any] = {"machines": self.machines.number, "processes": self.num_processes, "host": this_host()}
        entry = json.dumps({**mine, "pid": os.getpid()})
        there = self.store.compare_set(f"machine/{self.machines.rank}", "", entry).decode()
        if there != entry:
            raise ValueError(
                f"--machine-rank {self.machines.rank} is there already, on {json.loads(there)['host']}: give each "
                "machine its own."
            )
        self._signed_in = True
        deadline, told = time.monotonic() + TO_MEET, False
        missing = set(range(self.machines.number))
        while missing:
            for rank in sorted(missing):
                if self.store.check([f"machine/{rank}"]):
                    self._require_agreement(rank, mine, json.loads(self.store.get(f"machine/{rank}")))
                    missing.remove(rank)
            self._raise_what_others_report()
            if missing and time.monotonic() > deadline:
                raise TimeoutError(f"{_named(missing)} did not come within {TO_MEET / 60:.0f} minutes. Is it started?")
            if missing and not told:
                _say(f"Waiting for {_named(missing)}, for at most {TO_MEET / 60:.0f} minutes.")
                told = True
            time.sleep(0.1 if missing else 0)

    def is_complete(self) -> bool:
        """Whether all machines have come."""
        return self.store.check([f"machine/{rank}" for rank in range(self.machines.number)])

    def _require_agreement(self, rank: int, mine: dict[str, Any], theirs: dict[str, Any]) -> None:
        for key, option in (("machines", "--num-machines"), ("processes", "--num-gpus")):
            if mine[key] != theirs[key]:
                raise ValueError(
                    f"{option} is {mine[key]} on machine {self.machines.rank} ({mine['host']}), but {theirs[key]} on "
                    f"machine {rank} ({theirs['host']}); it must be the same."
                )

    def watch(self) -> None:
        """To be called every second. Raises MachineGone where another machine reports an error, or none."""
        try:
            self._raise_what_others_report()
            if self.machines.rank == 0:
                self._listen()
            else:
                self.store.set(f"beat/{self.machines.rank}", str(time.monotonic()))
        except RuntimeError as error:
            self.is_lost = True
            told = f"Machine 0 ({self.machines.url}) is gone. {self.member.remedy}".rstrip()
            raise MachineGone(told) from error

    def _raise_what_others_report(self) -> None:
        failure = self.member.first_failure()
        if failure is not None:
            raise MachineGone(failure)

    def _listen(self) -> None:
        now = time.monotonic()
        for rank in range(1, self.machines.number):
            key = f"beat/{rank}"
            beat = self.store.get(key) if self.store.check([key]) else b""
            last, since = self._beats.get(rank, (None, now))
            self._beats[rank] = (beat, since if beat == last else now)
            if now - self._beats[rank][1] > SILENCE and not self.store.check([f"left/{rank}"]):
                host = json.loads(self.store.get(f"machine/{rank}"))["host"]
                told = f"Machine {rank} ({host}) has given no sign of life for {SILENCE:.0f} seconds."
                raise MachineGone(f"{told} {self.member.remedy}".rstrip())

    def last_words(self, text: str) -> str | None:
        """What to print of an error; see `Member.last_words`."""
        return text if self.is_lost else self.member.last_words(text)

    def leave(self) -> None:
        """Say that this machine is done; the first one waits for the others, which ask its store."""
        if not self._signed_in:
            return
        try:
            self.store.set(f"left/{self.machines.rank}", "")
            signed = [f"left/{rank}" for rank in range(self.machines.number) if self.store.check([f"machine/{rank}"])]
            if self.machines.rank == 0 and signed:
                self.store.wait(signed, timedelta(seconds=TO_LEAVE))
        except RuntimeError:
            pass  # the first machine is gone, or others do not come any more: there is nobody to tell


@contextmanager
def meeting(machines: Machines, num_processes: int, remedy: str) -> Iterator[Meeting]:
    """Meet the other machines.

    Args:
        num_processes: of this machine. remedy: what to do where a machine is lost; a sentence.

    Raises: ValueError, TimeoutError; the other machines learn the reason.
    """
    tcp = _store(machines)
    store = dist.PrefixStore("dk_detr", tcp)
    member = Member(store, machine=machines.rank, num_machines=machines.number, remedy=remedy)
    met = Meeting(machines, num_processes, tcp, member)
    try:
        _sign_in(met)
        yield met
    finally:
        met.leave()


def _sign_in(met: Meeting) -> None:
    try:
        met.sign_in()
    except (ValueError, TimeoutError) as error:
        if not met.is_complete():  # else the others work already, and this machine is one too many
            met.last_words(str(error))
        raise


def _store(machines: Machines) -> dist.TCPStore:
    host, port = machines.address
    if machines.rank:
        _wait_for(machines)
    timeout = TIMEOUT if machines.number == 1 else timedelta(seconds=SILENCE)
    try:
        return dist.TCPStore(host, port, is_master=machines.rank == 0, wait_for_workers=False, timeout=timeout)
    except RuntimeError as error:
        raise ValueError(
            f"--dist-url {machines.url}: {str(error).splitlines()[0]} It must be an address of machine 0 and a port "
            "that is free there."
        ) from error


def _wait_for(machines: Machines) -> None:
    """Wait until the first machine answers. Raises TimeoutError."""
    deadline, told = time.monotonic() + TO_MEET, False
    while True:
        try:
            socket.create_connection(machines.address, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"Machine 0 did not answer at {machines.url} within {TO_MEET / 60:.0f} minutes ({error}). Is it "
                    "started, and is this its address?"
                ) from error
            if not told:
                _say(f"Waiting for machine 0 at {machines.url}, for at most {TO_MEET / 60:.0f} minutes ({error}).")
                told = True
        time.sleep(0.2)


def _named(ranks: set[int]) -> str:
    return f"machine {', '.join(map(str, sorted(ranks)))}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
