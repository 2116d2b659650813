"""The published AdaMixer, by its names, converted: logits and boxes of all stages are those of its formulas."""

from functools import cache
from pathlib import Path

import pytest
import torch
from detectron2.structures import ImageList
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from dk_detr.convert import Conversion, convert, likely_source
from dk_detr.language import save_vocabulary
from dk_detr.layers import to_normalized_cxcywh
from dk_detr.structures import Targets, Vocabulary
from tests.model_fixtures import random
from tests.parity.adamixer_formulas import CLASSES, GROUPS, OUT, POINTS, QUERIES, STAGES, Detector, released
from tests.parity.detector import detector_of
from tests.parity.formulas import Weights
from tests.parity.published import accounted

SIZE, CANVAS = (80, 96), (96, 128)


@pytest.fixture(scope="module")
def conversion() -> Conversion:
    return convert("adamixer", released())


@cache
def formulas(canvas: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Logits and boxes of an image, top left of its canvas."""
    with torch.no_grad():
        return Detector(Weights(released()), SIZE).answer(on(canvas))


def on(canvas: tuple[int, int]) -> Tensor:
    return F.pad(random(3, *SIZE, seed=1), (0, canvas[1] - SIZE[1], 0, canvas[0] - SIZE[0]))


@pytest.mark.parametrize("canvas", [SIZE, CANVAS], ids=["alone", "padded"])
@torch.no_grad()
def test_logits_and_boxes_of_all_stages_are_those_of_the_formulas(
    canvas: tuple[int, int], conversion: Conversion, tmp_path: Path
) -> None:
    logits, boxes = formulas(canvas)
    detector = detector_of(conversion, MODEL__VOCABULARY__TEST=words(tmp_path))
    found = detector.predict(ImageList(on(canvas)[None], [SIZE]), detector.text)
    assert found.logits.shape == (STAGES, 1, QUERIES, CLASSES) and boxes.std() > 5
    torch.testing.assert_close(found.logits[:, 0], logits, atol=1e-4, rtol=1e-4)
    h, w = SIZE
    center, side = (found.boxes[:, 0] * torch.tensor([w, h, w, h])).split(2, dim=-1)
    torch.testing.assert_close(torch.cat([center - side / 2, center + side / 2], -1), boxes, atol=1e-2, rtol=1e-4)


BOXES = torch.tensor([[10.0, 8.0, 40.0, 44.0], [30.0, 20.0, 90.0, 70.0], [5.0, 50.0, 25.0, 78.0]])  # xyxy in pixels
LABELS = [2, 5, 2]


@torch.no_grad()
def test_losses_of_all_stages_are_those_of_the_formulas(conversion: Conversion, tmp_path: Path) -> None:
    (h, w), (logits, boxes) = SIZE, formulas(SIZE)
    wanted = dict.fromkeys(("loss_class", "loss_l1", "loss_giou"), 0.0)
    for said, found in zip(logits, boxes):
        for name, value in losses_of_a_stage(said, found, torch.tensor([w, h, w, h])).items():
            wanted[name] += value / len(LABELS)
    detector = detector_of(conversion, MODEL__VOCABULARY__TEST=words(tmp_path))
    predictions = detector.predict(ImageList(on(SIZE)[None], [SIZE]), detector.text)
    target = Targets((torch.tensor(LABELS),), (to_normalized_cxcywh(BOXES, SIZE),))
    losses, _ = detector.criterion(predictions, target, float(len(LABELS)))
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(wanted, rel=1e-4)


def losses_of_a_stage(logits: Tensor, boxes: Tensor, sides: Tensor) -> dict[str, float]:
    """Matched at the lowest cost; weighted sums."""
    p = logits.sigmoid()
    present = 0.25 * (1 - p) ** 2 * -(p + 1e-12).log()
    absent = 0.75 * p**2 * -(1 - p + 1e-12).log()
    cost = torch.zeros(len(boxes), len(LABELS))
    for query, box in enumerate(boxes):
        for number, (label, thing) in enumerate(zip(LABELS, BOXES)):
            l1 = ((box - thing) / sides).abs().sum()
            cost[query, number] = 2 * (present - absent)[query, label] + 5 * l1 - 2 * generalized_iou(box, thing)
    pairs = list(zip(*linear_sum_assignment(cost.numpy())))
    class_loss = absent.sum() + sum((present - absent)[query, LABELS[number]] for query, number in pairs)
    return {
        "loss_class": 2 * float(class_loss),
        "loss_l1": 5 * sum(float(((boxes[query] - BOXES[number]) / sides).abs().sum()) for query, number in pairs),
        "loss_giou": 2 * sum(1 - float(generalized_iou(boxes[query], BOXES[number])) for query, number in pairs),
    }


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    shared = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0).prod()
    union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared
    around = (torch.maximum(a[2:], b[2:]) - torch.minimum(a[:2], b[:2])).prod()
    return shared / union - (around - union) / around


def words(folder: Path) -> str:
    names = tuple(f"word {number}" for number in range(CLASSES))
    path = str(folder / "words.npz")
    save_vocabulary(Vocabulary(names, torch.eye(CLASSES), torch.zeros(CLASSES, dtype=torch.bool)), path)
    return path


def test_every_tensor_is_used_or_listed_and_shapes_tell_groups_and_points(conversion: Conversion) -> None:
    assert likely_source(released()) == "adamixer"
    assert accounted(conversion.used, conversion.listed) == set(released())
    assert conversion.by_reason()["constant: every query begins as the whole image"]
    told = {key: conversion.settings[f"MODEL.DETR.ADAMIXER.{key}"] for key in ("GROUPS", "POINTS", "OUT_POINTS")}
    assert told == {"GROUPS": GROUPS, "POINTS": POINTS, "OUT_POINTS": OUT}
    assert conversion.config == "configs/adamixer_R50_1x.yaml"


@pytest.mark.parametrize(
    ("name", "what"),
    [("backbone.layer2.0.conv2.conv_offset.weight", "deformable convolutions"),
     ("backbone.patch_embed.projection.weight", "Swin")],
)  # fmt: skip
def test_backbones_that_are_not_offered_are_refused_by_name(name: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        convert("adamixer", {**released(), name: torch.zeros(1)})
