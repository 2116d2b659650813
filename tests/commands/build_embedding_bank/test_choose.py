"""Which boxes of an image are kept, counted by hand."""

import pytest
import torch

from dk_detr.commands.build_embedding_bank.choose import choose
from dk_detr.commands.build_embedding_bank.settings import Selection

SIZE = (100, 200)  # h, w


def chosen(boxes: list[list[float]], scores: list[float], **selection: float) -> list[float]:
    """The scores of those that are kept."""
    settings = Selection(**{"regions": 9, "nms": 0.5, **selection})  # type: ignore[arg-type]
    return choose(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), SIZE, settings)[1].tolist()


def test_of_duplicates_the_best_is_kept() -> None:
    """The second overlaps the first with an IoU of 0.6, the third with one of 0.4."""
    boxes = [[0.0, 0, 10, 10], [0, 0, 6, 10], [0, 0, 10, 4]]
    assert chosen(boxes, [1, 3, 2]) == [3, 2]
    assert chosen(boxes, [1, 3, 2], nms=0.7) == [3, 2, 1]


def test_the_best_come_first_and_no_more_than_wanted() -> None:
    apart = [[20.0 * i, 0, 20.0 * i + 10, 10] for i in range(4)]
    assert chosen(apart, [0, 5, -1, 7], regions=3) == [7, 5, 0]


def test_of_equal_scores_the_first_comes_first() -> None:
    apart = torch.tensor([[20.0 * i, 0, 20.0 * i + 10, 10] for i in range(4)])
    boxes, _ = choose(apart, torch.zeros(4), SIZE, Selection())
    assert torch.equal(boxes, apart)


def test_boxes_are_clipped_to_the_image_and_dropped_where_too_little_is_left() -> None:
    boxes = torch.tensor([[-10.0, -5, 20, 300], [197, 0, 260, 50], [0, 0, 50, 3.5], [300, 0, 350, 50]])
    kept, scores = choose(boxes, torch.arange(4.0), SIZE, Selection(min_side=4))
    assert kept.tolist() == [[0, 0, 20, 100]] and scores.tolist() == [0]


def test_only_so_many_candidates_are_compared() -> None:
    apart = [[20.0 * i, 0, 20.0 * i + 10, 10] for i in range(4)]
    assert chosen(apart, [0, 5, -1, 7], candidates=2) == [7, 5]


def test_no_boxes_stay_no_boxes() -> None:
    boxes, scores = choose(torch.zeros(0, 4), torch.zeros(0), SIZE, Selection())
    assert boxes.shape == (0, 4) and scores.shape == (0,)


@pytest.mark.parametrize("more", [{"regions": 0}, {"nms": 0.0}, {"nms": 1.5}])
def test_numbers_that_choose_nothing_are_refused(more: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="--"):
        Selection(**more)  # type: ignore[arg-type]
