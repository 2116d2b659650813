"""What a training step reports besides its losses: scalars and times, into Detectron2's event storage."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.utils.events import get_event_storage


def record(name: str, value: float) -> None:
    """Store a scalar under this iteration; outside a training loop it does nothing."""
    try:
        storage = get_event_storage()
    except AssertionError:  # Detectron2's way to say that no storage is open.
        return
    storage.put_scalar(name, float(value))


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Store the wall time of a block, in seconds, as `time_<name>`; on a GPU that of the host, which does not wait."""
    start = time.perf_counter()
    yield
    record(f"time_{name}", time.perf_counter() - start)
