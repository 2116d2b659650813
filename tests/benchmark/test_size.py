"""Parameters and multiply-adds of a detector."""

import pytest
import torch
from torch import nn

from dk_detr.benchmark import size
from dk_detr.benchmark.size import size_of
from tests.run_fixtures import MINI, SHRUNK

OPTS = [str(word) for pair in SHRUNK.items() for word in pair]


class Convolution(nn.Module):
    """A "detector" whose work can be counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3, padding=1, bias=False)

    def forward(self, batch):
        from detectron2.structures import Boxes, Instances

        features = self.layer(batch[0]["image"][None])
        found = Instances((4, 4), pred_boxes=Boxes(features[0, 0, :, :4]), scores=features[0, 0, :, 0])
        return [{"instances": found}]


def test_a_convolution_is_counted_as_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size, "build_model", lambda cfg: Convolution())
    found = size_of(MINI, OPTS)
    assert found.parameters == pytest.approx(3 * 8 * 9 / 1e6)
    assert found.gflops == pytest.approx(64 * 85 * 3 * 8 * 9 / 1e9)  # an image of 64 x 85


def test_an_open_detector_is_counted_without_its_files_and_more_queries_cost_more() -> None:
    few, many = size_of(MINI, OPTS), size_of(MINI, [*OPTS, "MODEL.DETR.NUM_QUERIES", "100"])
    assert many.parameters - few.parameters == pytest.approx(90 * 64 / 1e6)  # what the queries learn
    assert many.gflops > few.gflops > 0 and torch.is_grad_enabled()
