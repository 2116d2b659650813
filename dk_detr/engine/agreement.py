"""Processes of one run must do the same work: same config, same files, one output folder. Where they differ they would
wait for one another forever, or train something that no config describes; so it is asked before."""

import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from dk_detr.data.bank import file_sha256
from dk_detr.engine.failures import current_member, place, this_host
from dk_detr.engine.renamed_keys import by_dotted_key
from dk_detr.utils import atomic_write

UNTIL_SEEN = 60.0  # seconds; a network file system may show a new file late
Decision = TypeVar("Decision")


def num_machines() -> int:
    """Of this run."""
    member = current_member()
    return member.num_machines if member else 1


def gathered(value: Any) -> list[Any]:
    """The values of all processes, in their order."""
    values = [value] * comm.get_world_size()
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def agreed(decision: Decision) -> Decision:
    """What the first process has decided: it alone changes the output folder, which others may see a moment later."""
    first: Decision = gathered(decision)[0]
    return first


def require_same_run(cfg: CfgNode, options: Mapping[str, Any]) -> None:
    """All processes have the same config and options, of several machines also the same files, and one OUTPUT_DIR.

    Args:
        options: of the command line, by their names.

    Raises: ValueError naming the first key or file that differs, and the machines.
    """
    if comm.get_world_size() == 1:
        return
    require_same({**options, **by_dotted_key(cfg)})
    if num_machines() > 1:
        require_shared(cfg.OUTPUT_DIR)
        require_same(contents_of_files(cfg) if comm.get_local_rank() == 0 else None)


def require_same(values: Mapping[str, Any] | None) -> None:
    """Raises ValueError, in all processes, where they have other values; None takes no part."""
    told = gathered((this_host(), None if values is None else {key: str(v) for key, v in values.items()}))
    first_host, first = told[0]
    for rank, (host, theirs) in enumerate(told):
        for key in [] if theirs is None else sorted({*first, *theirs}):
            one, other = first.get(key, "not there"), theirs.get(key, "not there")
            if one != other:
                raise ValueError(
                    f"{key} is {one} for {_named(0, first_host)}, but {other} for {_named(rank, host)}. All need the "
                    "same command and the same files."
                )


def require_same_start(iteration: int, folder: str) -> None:
    """All processes go on from the same iteration. Raises ValueError."""
    starts = gathered(iteration)
    other = next((rank for rank, start in enumerate(starts) if start != starts[0]), None)
    if other is not None:
        raise ValueError(
            f"{_named(0)} goes on from iteration {starts[0]}, {_named(other)} from {starts[other]}: they do not see "
            f"the same {folder} (OUTPUT_DIR). Start again when they do."
        )


def require_shared(folder: str) -> None:
    """A folder is the same one on all machines: what the first process writes there, the others see.

    Raises: ValueError naming a machine that does not see it.
    """
    path = os.path.join(os.path.abspath(folder), f".shared_{agreed(uuid.uuid4().hex)}")
    if comm.is_main_process():
        os.makedirs(folder, exist_ok=True)
        atomic_write(path, "Whether all machines see this folder.")
    comm.synchronize()
    seen = comm.get_local_rank() != 0 or _appears(path)
    told = gathered((this_host(), seen))
    if comm.is_main_process():
        os.remove(path)
    blind = next(((rank, host) for rank, (host, sees) in enumerate(told) if not sees), None)
    if blind is not None:
        raise ValueError(
            f"{_named(*blind)} does not see what machine 0 writes to {os.path.abspath(folder)}: OUTPUT_DIR must be on "
            "a file system that all machines share, by the same path."
        )


def _appears(path: str) -> bool:
    deadline = time.monotonic() + UNTIL_SEEN
    while not os.path.isfile(path) and time.monotonic() < deadline:
        time.sleep(0.2)
    return os.path.isfile(path)


def contents_of_files(cfg: CfgNode) -> dict[str, str]:
    """Checksums of all files that the config names, by their keys, and of the annotations of its data sets, which may
    lie elsewhere on each machine. Images and folders are not looked at."""
    found = {key: path for key, path in _paths(by_dotted_key(cfg)) if os.path.isfile(path)}
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        path = MetadataCatalog.get(name).get("json_file", "")
        found |= {f"The annotation file of {name}": path} if os.path.isfile(path) else {}
    return {key: f"a file with SHA-256 {file_sha256(path)[:12]}" for key, path in found.items()}


def _paths(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        texts: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
        for text in texts:
            if isinstance(text, str):
                path = text.partition("=")[2] or text  # "name=file" in MODEL.VOCABULARY.OF_DATASETS
                yield f"{key} {path}", path


def _named(rank: int, host: str = "") -> str:
    machines = num_machines()
    known = place(rank, rank * machines // comm.get_world_size(), machines)
    return f"{known[:-1]}, {host})" if host and known.endswith(")") else known
