"""What a step reports: into the event storage of a training loop, and nowhere without one."""

import pytest
from detectron2.utils.events import EventStorage

from dk_detr.utils import record, timed


def test_scalars_and_times_reach_the_storage_of_the_loop() -> None:
    with EventStorage(7) as storage:
        record("regions", 3)
        with timed("teacher"):
            pass
    assert storage.latest()["regions"] == (3.0, 7)
    assert storage.latest()["time_teacher"][0] >= 0


def test_outside_a_loop_nothing_happens() -> None:
    record("regions", 3)
    with timed("teacher"):
        pass


def test_a_timed_block_still_raises_what_it_raises() -> None:
    with pytest.raises(ZeroDivisionError), timed("teacher"):
        _ = 1 / 0
