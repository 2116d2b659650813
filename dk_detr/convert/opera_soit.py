"""SOIT as its authors released it (hikvision-research/opera), by mmdet's names."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dk_detr.convert import opera
from dk_detr.convert.conversion import Conversion
from dk_detr.convert.heads import class_head, image_and_class_notes
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.whole import finish_detector

SIGNS = opera.SIGNS
EVALUATION = (
    "The release's figures on COCO val2017, mask AP 42.2 and box AP 48.9, are of images of 800 pixels, at most 1333, "
    "and 100 detections an image, as in the config."
)


def is_it(state: Mapping[str, Tensor]) -> bool:
    """DK-DETR has the same names; but its class heads end in the space of CLIP, all but the encoder's."""
    heads = [len(tensor) for name, tensor in state.items() if _is_class_bias(name)]
    return len(set(heads)) == 1 and not any("text_encoder." in name for name in state)


def _is_class_bias(name: str) -> bool:
    return name.startswith("bbox_head.cls_branches.") and name.endswith(".bias")


def convert(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> Conversion:
    """The detector with its mask head."""
    ledger = Ledger(state)
    opera.rename(ledger)
    for layer in range(opera.num_layers(ledger)):
        class_head(ledger, f"bbox_head.cls_branches.{layer}", f"classifier.projections.{layer}")
    choices = {**opera.choices(ledger), "MODEL.DETR.CLASSIFIER.NAME": "Linear", **known}
    notes = [*image_and_class_notes(ledger), EVALUATION]
    return finish_detector("opera-soit", ledger, choices, "configs/soit_R50.yaml", notes)
