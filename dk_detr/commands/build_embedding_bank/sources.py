"""Where the boxes of a bank come from: the first stage of a detector of ours, or a file of proposals."""

from typing import Any, Protocol

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from dk_detr.data.bank import identity_of
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.setup import for_inference

Boxes = tuple[Tensor, Tensor]  # (N, 4) xyxy in pixels of the image, (N,) finite scores


class Source(Protocol):
    """Gives the boxes of an image.

    Attributes:
        settings: what they follow from, for the manifest.
        needs_input: whether a sample must have "image", the input of the detector.
    """

    settings: dict[str, Any]
    needs_input: bool

    def __call__(self, sample: dict[str, Any]) -> Boxes:
        """Of a sample of `ReadImages`."""


class FirstStageBoxes:
    """Every place of an image that the first stage of a trained detector takes for an object; it knows no classes.

    Raises: ValueError for a detector without weights, or without a first stage.
    """

    needs_input = True

    def __init__(self, cfg: CfgNode) -> None:
        if not cfg.MODEL.WEIGHTS:
            raise ValueError(
                "MODEL.WEIGHTS is empty: whose proposals? Add `MODEL.WEIGHTS some.pth`, a detector trained with this "
                "config, or --proposals FILE."
            )
        self.detector: Any = build_model(for_inference(cfg)).eval()
        if not self.detector.proposes:
            raise ValueError(
                f'{cfg.MODEL.META_ARCHITECTURE} with MODEL.DETR.QUERIES "{cfg.MODEL.DETR.QUERIES}" proposes nothing; '
                'use a "DETR" with "Proposals" or "Mixed", or --proposals FILE.'
            )
        StrictCheckpointer(self.detector).load(cfg.MODEL.WEIGHTS)
        self.settings = {
            "source": "first stage",
            "weights": identity_of(cfg.MODEL.WEIGHTS),
            "input": [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT],
            "padded_size": cfg.MODEL.DETR.PADDED_SIZE,
        }

    @torch.no_grad()
    def __call__(self, sample: dict[str, Any]) -> Boxes:
        """See `Source`."""
        (found,) = self.detector.propose([sample])
        return found.proposal_boxes.tensor, found.objectness_logits
