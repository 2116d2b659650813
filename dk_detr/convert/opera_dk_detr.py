"""DK-DETR as its authors released it (hikvision-research/opera), by mmdet's names."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dk_detr.convert import opera
from dk_detr.convert.conversion import Conversion
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.torchvision_resnet import IMAGES
from dk_detr.convert.whole import finish_detector

SIGNS = opera.SIGNS
EVALUATION = (
    "The release's figures on LVIS v1 val, box AP 33.5 and APr 22.4, mask AP 30.0 and APr 20.5, are of images resized "
    "to fit 1024x1024 and padded on the right and below to that square before the backbone (MODEL.DETR.PADDED_SIZE "
    "1024, INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST 1024, as in the config), with 300 detections an image and the "
    "text embeddings of DetPro. With PADDED_SIZE 0 most detections are others."
)
NOTES = (
    IMAGES,
    EVALUATION,
    "To detect, MODEL.RESNETS.NORM FrozenBN uses the statistics of training; SyncBN goes on training as published.",
    "Text embeddings (MODEL.VOCABULARY.TEST, MODEL.CLIP) must come from the CLIP of the release, ViT-B/32.",
)


def convert(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> Conversion:
    """The detector, with its mask head where the release has one."""
    ledger = Ledger(state)
    opera.rename(ledger)
    for layer in range(opera.num_layers(ledger)):
        for part in ("weight", "bias"):
            ledger.use(f"bbox_head.cls_branches.{layer}.{part}", f"classifier.projections.{layer}.{part}")
    choices = {**opera.choices(ledger), "MODEL.DETR.CLASSIFIER.NAME": "CosineText", **known}
    config = "configs/dk_detr_mask_R50.yaml" if opera.has_masks(state) else "configs/dk_detr_R50.yaml"
    return finish_detector("opera-dk-detr", ledger, choices, config, NOTES)
