"""The published AdaMixer, by its names, converted: logits and boxes of all stages are those of its formulas."""

from pathlib import Path

import pytest
import torch
from detectron2.structures import ImageList
from torch.nn import functional as F

from dk_detr.convert import Conversion, convert, likely_source
from dk_detr.language import save_vocabulary
from dk_detr.structures import Vocabulary
from tests.model_fixtures import random
from tests.parity.adamixer_formulas import CLASSES, GROUPS, OUT, POINTS, QUERIES, STAGES, Detector, released
from tests.parity.detector import detector_of
from tests.parity.formulas import Weights
from tests.parity.published import accounted

SIZE, CANVAS = (80, 96), (96, 128)


@pytest.fixture(scope="module")
def conversion() -> Conversion:
    return convert("adamixer", released())


@pytest.mark.parametrize("canvas", [SIZE, CANVAS], ids=["alone", "padded"])
@torch.no_grad()
def test_logits_and_boxes_of_all_stages_are_those_of_the_formulas(
    canvas: tuple[int, int], conversion: Conversion, tmp_path: Path
) -> None:
    image = random(3, *SIZE, seed=1)
    pixels = F.pad(image, (0, canvas[1] - SIZE[1], 0, canvas[0] - SIZE[0]))
    logits, boxes = Detector(Weights(released()), SIZE).answer(pixels)
    detector = detector_of(conversion, MODEL__VOCABULARY__TEST=words(tmp_path))
    found = detector.predict(ImageList(pixels[None], [SIZE]), detector.text)
    assert found.logits.shape == (STAGES, 1, QUERIES, CLASSES) and boxes.std() > 5
    torch.testing.assert_close(found.logits[:, 0], logits, atol=1e-4, rtol=1e-4)
    h, w = SIZE
    center, side = (found.boxes[:, 0] * torch.tensor([w, h, w, h])).split(2, dim=-1)
    torch.testing.assert_close(torch.cat([center - side / 2, center + side / 2], -1), boxes, atol=1e-2, rtol=1e-4)


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
