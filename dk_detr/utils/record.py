"""What a training step reports besides its losses: scalars and times, into Detectron2's event storage."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor

_LATER: dict[str, Tensor] = {}


def current_iteration() -> int | None:
    """Of the training loop, from 0; also after --resume it counts from the start of the run. None outside of a loop."""
    storage = _storage()
    return None if storage is None else int(storage.iter)


def record(name: str, value: float, smoothed: bool = True) -> None:
    """Store a scalar under this iteration; outside a training loop it does nothing.

    Args:
        smoothed: whether metrics.json and TensorBoard show the median of the last 20 values in its place.
    """
    storage = _storage()
    if storage is not None:
        storage.put_scalar(name, float(value), smoothing_hint=smoothed)


def record_later(values: Mapping[str, Tensor]) -> None:
    """Store scalars that a device may still be computing, when `record_now` is called: until then nobody waits."""
    if _storage() is not None:
        _LATER.update({name: value.detach() for name, value in values.items()})


def record_now() -> None:
    """Store what `record_later` was given since the last time; one wait for all. Called once an iteration."""
    names, values = list(_LATER), list(_LATER.values())
    _LATER.clear()
    if names:
        for name, value in zip(names, torch.stack(values).tolist()):
            record(name, value)


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Store the wall time of a block, in seconds, as `time_<name>`; on a GPU that of the host, which does not wait."""
    start = time.perf_counter()
    yield
    record(f"time_{name}", time.perf_counter() - start)


def _storage() -> EventStorage | None:
    try:
        return get_event_storage()
    except AssertionError:  # Detectron2's way to say that no storage is open.
        return None
