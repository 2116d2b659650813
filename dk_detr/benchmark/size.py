"""How large a detector of a config is: parameters, and the multiply-adds of one image."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.engine.setup import for_inference, setup_cfg, with_values
from dk_detr.language import COCO_NAMES, is_closed, save_vocabulary
from dk_detr.structures import Vocabulary

WIDTH = 512  # of ViT-B/32's embeddings
IN_PLACE: dict[str, Any] = {  # of what a config has: what can be built and traced anywhere
    "MODEL.DEVICE": "cpu", "MODEL.WEIGHTS": "", "MODEL.VOCABULARY.OF_DATASETS": [],
    "MODEL.DETR.ATTENTION_BACKEND": "reference",
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """Of a detector, as it infers.

    Attributes:
        parameters: in millions. gflops: 1e9 multiply-adds of an image 4:3 at the size of the config's evaluation. Open
            detectors are asked for COCO's 80 words.
    """

    parameters: float
    gflops: float


def size_of(config_file: str, opts: Sequence[str] = ()) -> Size:
    """Build the detector on the CPU, with random weights, and count.

    Raises: ValueError, OSError, RuntimeError where it cannot be built or traced without further files.
    """
    with tempfile.TemporaryDirectory() as folder:
        cfg = _config(config_file, opts, os.path.join(folder, "words.npz"))
        model = build_model(cfg).eval()
    image = torch.zeros(3, cfg.INPUT.MIN_SIZE_TEST, round(cfg.INPUT.MIN_SIZE_TEST * 4 / 3))
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return Size(millions, _multiply_adds(model, image) / 1e9)


def _config(config_file: str, opts: Sequence[str], words: str) -> CfgNode:
    cfg = for_inference(with_values(setup_cfg(config_file, opts), IN_PLACE))
    if is_closed(cfg):
        return cfg
    save_vocabulary(_words(), words)
    return with_values(cfg, {"MODEL.VOCABULARY.TEST": words})


def _words() -> Vocabulary:
    rows = torch.randn(len(COCO_NAMES), WIDTH, generator=torch.Generator().manual_seed(0))
    return Vocabulary(tuple(COCO_NAMES), F.normalize(rows, dim=1), torch.zeros(len(COCO_NAMES), dtype=torch.bool))


class _OfAnImage(nn.Module):
    """The detector as a function of tensors, as tracing wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Any:
        """(3, h, w) -> boxes and scores."""
        (answer,) = self.model([{"image": image, "height": image.shape[-2], "width": image.shape[-1]}])
        found = answer["instances"]
        return found.pred_boxes.tensor, found.scores


@torch.no_grad()
def _multiply_adds(model: nn.Module, image: Tensor) -> float:
    counted = FlopCountAnalysis(_OfAnImage(model).eval(), image).tracer_warnings("none")
    counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return float(counted.total())
