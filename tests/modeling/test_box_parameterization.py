"""Box parameterizations: numbers of zero change nothing, and each does to a box what its paper says."""

import pytest
import torch

from dk_detr.modeling import BOX_PARAMETERIZATIONS
from dk_detr.modeling.box_parameterization import ScaleRatio
from tests.model_fixtures import configured_detector, random, tiny_input, training_losses

SIZES = ((48, 64), (100, 50))
BOXES = torch.tensor([[[0.5, 0.25, 0.2, 0.1], [0.3, 0.7, 0.1, 0.4]], [[0.4, 0.4, 0.3, 0.2], [0.6, 0.5, 0.5, 0.5]]])


@pytest.mark.parametrize("name", BOX_PARAMETERIZATIONS)
def test_numbers_of_zero_give_the_box_back(name: str) -> None:
    boxes = BOX_PARAMETERIZATIONS[name]().decode(BOXES, torch.zeros(2, 2, 4), SIZES)
    torch.testing.assert_close(boxes, BOXES)


def test_scale_and_ratio_are_those_of_the_box_in_pixels() -> None:
    """By the formula of AdaMixer's release: x += dx 2^z, y += dy 2^z, z += dz, r += dr, of z = log2 sqrt(w h) and
    r = log2(h / w)."""
    delta = random(2, 2, 4)
    found = ScaleRatio().decode(BOXES, delta, SIZES)
    for image, (height, width) in enumerate(SIZES):
        for query in range(2):
            x, y, w, h = (BOXES[image, query] * torch.tensor([width, height, width, height])).tolist()
            dx, dy, dz, dr = delta[image, query].tolist()
            side, ratio = (w * h) ** 0.5, h / w
            x, y = x + dx * side, y + dy * side
            side, ratio = side * 2**dz, ratio * 2**dr
            w, h = side / ratio**0.5, side * ratio**0.5
            wanted = torch.tensor([x / width, y / height, w / width, h / height])
            torch.testing.assert_close(found[image, query], wanted)


def test_a_point_has_no_scale() -> None:
    with pytest.raises(ValueError, match='BOXES "ScaleRatio" needs queries that start from boxes'):
        ScaleRatio().decode(BOXES[..., :2], torch.zeros(2, 2, 4), SIZES)


def test_a_detector_with_boxes_of_scale_and_ratio_trains_and_detects() -> None:
    detector = configured_detector("dk_dino_R50", BOXES="ScaleRatio")
    losses = training_losses(detector, [tiny_input(), tiny_input((32, 40), seed=1)])
    sum(losses.values()).backward()
    assert all(head.layers[-1].weight.grad.any() for head in detector.decoder.box_heads)
    assert len(detector.eval()([tiny_input()])[0]["instances"])
