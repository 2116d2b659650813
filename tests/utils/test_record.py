"""What a step reports: into the event storage of a training loop, and nowhere without one."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from dk_detr.utils import current_iteration, record, record_later, record_now, timed


def test_scalars_and_times_reach_the_storage_of_the_loop() -> None:
    with EventStorage(7) as storage:
        record("regions", 3)
        with timed("teacher"):
            pass
    assert storage.latest()["regions"] == (3.0, 7)
    assert storage.latest()["time_teacher"][0] >= 0


def test_what_is_recorded_later_is_stored_once_with_its_last_value() -> None:
    record_now()  # of what other tests left
    record_later({"outside of a loop": torch.tensor(1.0)})
    with EventStorage(7) as storage:
        record_later({"a": torch.tensor(1.0, requires_grad=True), "b": torch.tensor(2.0)})
        record_later({"a": torch.tensor(3.0)})
        assert not storage.latest()
        record_now()
        assert storage.latest() == {"a": (3.0, 7), "b": (2.0, 7)}
    with EventStorage(8) as storage:
        record_now()
        assert not storage.latest()


def test_what_is_not_smoothed_is_shown_as_it_is() -> None:
    with EventStorage(7) as storage:
        for value in (1.0, 2.0, 9.0):
            record("as it is", value, smoothed=False)
            record("median", value)
    shown = storage.latest_with_smoothing_hint()
    assert shown["as it is"][0] == 9.0 and shown["median"][0] == 2.0


def test_the_iteration_is_that_of_the_loop_and_none_outside() -> None:
    assert current_iteration() is None
    with EventStorage(7):
        assert current_iteration() == 7


def test_outside_a_loop_nothing_happens() -> None:
    record("regions", 3)
    with timed("teacher"):
        pass


def test_a_timed_block_still_raises_what_it_raises() -> None:
    with pytest.raises(ZeroDivisionError), timed("teacher"):
        _ = 1 / 0
