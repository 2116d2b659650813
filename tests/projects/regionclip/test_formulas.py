"""Losses and scores by hand, and by the forms of the release."""

import math

import pytest
import torch
from torch.nn import functional as F

from projects.RegionCLIP.regionclip.detections import best_detections, fused
from projects.RegionCLIP.regionclip.heads import Words
from projects.RegionCLIP.regionclip.losses import word_loss
from tests.model_fixtures import random

LOGITS, LABELS = random(6, 4), torch.tensor([0, 1, 3, 3, 2, 3])


def test_the_background_has_the_logit_zero() -> None:
    rows, text = random(5, 16), F.normalize(random(3, 16, seed=1), dim=1)
    logits = Words(16, 0.01).score(rows, text)
    assert logits.shape == (5, 4) and not logits[:, 3].any()
    torch.testing.assert_close(logits[:, :3], F.normalize(rows, dim=1) @ text.T / 0.01)
    torch.testing.assert_close(Words(16, 0.01).score(3 * rows, text), logits)
    with_it, without = logits.softmax(-1)[:, :3], logits[:, :3].softmax(-1)
    factor = 1 / (1 + 1 / logits[:, :3].exp().sum(-1, keepdim=True))
    torch.testing.assert_close(with_it, without * factor)


def test_without_weights_it_is_cross_entropy() -> None:
    torch.testing.assert_close(word_loss(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS))


def test_on_lvis_the_mean_is_weighted() -> None:
    weight = torch.tensor([1.0, 1.0, 1.0, 0.8])
    torch.testing.assert_close(word_loss(LOGITS, LABELS, 0.8), F.cross_entropy(LOGITS, LABELS, weight))


def test_on_coco_the_sum_is_divided_by_the_regions() -> None:
    losses = F.cross_entropy(LOGITS, LABELS, reduction="none")
    weights = torch.where(LABELS == 3, 0.2, 1.0)
    wanted = (weights * (1 - LOGITS.softmax(-1).gather(1, LABELS[:, None])[:, 0]).sqrt() * losses).sum() / 6
    torch.testing.assert_close(word_loss(LOGITS, LABELS, 0.2, 0.5), wanted)


def test_a_region_that_is_right_beyond_doubt_has_a_finite_gradient() -> None:
    logits = torch.tensor([[80.0, 0.0]], requires_grad=True)
    word_loss(logits, torch.tensor([0]), 0.2, 0.5).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_no_region_is_no_loss_with_a_gradient() -> None:
    logits = torch.zeros(0, 4, requires_grad=True)
    word_loss(logits, torch.zeros(0, dtype=torch.long)).backward()
    assert logits.grad is not None


def test_objectness_is_fused_as_asked() -> None:
    scores, objectness = torch.tensor([[0.25], [0.25], [0.25]]), torch.tensor([4.0, 0.0, -1.0])
    assert torch.equal(fused(scores, objectness, "none"), scores)
    assert fused(scores, objectness, "raw_logit").flatten().tolist() == [1.0, 0.0, 0.0]
    seen = fused(scores, objectness, "sigmoid").flatten().tolist()
    assert seen == pytest.approx([math.sqrt(0.25 / (1 + math.exp(-o))) for o in (4.0, 0.0, -1.0)])
    assert fused(torch.ones(1, 1), torch.tensor([50.0]), "sigmoid").item() <= 1
    assert torch.equal(fused(scores, None, "sigmoid"), scores)


BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 8.0], [20.0, 20.0, 30.0, 30.0]])


def softly(boxes: torch.Tensor, scores: list[float], count: int = 10) -> tuple[list[int], list[float]]:
    found = best_detections(boxes, torch.tensor(scores)[:, None], (100, 100), 0.0, 0.5, count, "Soft")
    return found.region.tolist(), found.scores.tolist()


def test_soft_nms_lowers_what_overlaps() -> None:
    kept, scores = softly(BOXES, [0.9, 0.8, 0.5])
    lowered = 0.8 * math.exp(-(0.8**2) / 0.5)
    assert kept == [0, 2, 1] and scores == pytest.approx([0.9, 0.5, lowered])


def test_soft_nms_prunes_what_is_next_to_nothing() -> None:
    assert softly(torch.stack([BOXES[0]] * 3), [0.9, 0.003, 0.5])[0] == [0, 2]


def test_soft_nms_of_many_words_is_that_of_each() -> None:
    """The best of all words, one at a time, are those of the words apart, sorted."""
    corners = 20 * random(12, 2, seed=2).abs()
    boxes = torch.cat([corners, corners + 5 + 20 * random(12, 2, seed=3).abs()], dim=1)
    scores = random(12, 4, seed=4).sigmoid()
    together = best_detections(boxes, scores, (100, 100), 0.3, 0.5, 20, "Soft")
    apart = [best_detections(boxes, scores[:, k : k + 1], (100, 100), 0.3, 0.5, 99, "Soft") for k in range(4)]
    wanted = torch.cat([one.scores for one in apart]).sort(descending=True)[0][:20]
    torch.testing.assert_close(together.scores, wanted)


@pytest.mark.parametrize("nms", ["Hard", "Soft"])
def test_detections_are_of_each_word_and_sorted(nms: str) -> None:
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.7], [0.5, 0.0]])
    found = best_detections(BOXES, scores, (25, 40), 0.05, 0.5, 3, nms)
    assert len(found) == 3 and found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert found.pred_boxes.tensor[:, 3].max() <= 25
    assert (found.region[0], found.pred_classes[0]) == (0, 0)
    assert len(best_detections(BOXES, scores * 0, (25, 40), 0.05, 0.5, 3, nms)) == 0
