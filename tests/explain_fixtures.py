"""A tiny detector that explanations can be asked of."""

from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances

from dk_detr.meta_arch import DETR
from tests.model_fixtures import tiny_input

HEIGHT, WIDTH = 80, 96  # of the picture, twice what the network sees


class TinyPredictor:
    """What `Predictor` is to an explanation, for a detector that is there already."""

    fuses = False

    def __init__(self, model: DETR) -> None:
        self.model, self.vocabulary = model, model.vocabulary

    def sample_of(self, image: Any = None) -> dict[str, Any]:
        return {**tiny_input(), "height": HEIGHT, "width": WIDTH}

    def __call__(self, image: Any = None) -> Instances:
        return self.model.detect([self.sample_of(image)])[0]["instances"]


def picture() -> np.ndarray:
    """The (h, w, 3) uint8 that the explanations are drawn on."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (HEIGHT, WIDTH, 3), generator=generator).to(torch.uint8).numpy()
