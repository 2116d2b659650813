"""Heads: class and box heads of other people's detectors, and the numbers that stand for classes in COCO."""

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

from dk_detr.convert.ledger import Ledger
from dk_detr.convert.torchvision_resnet import IMAGES

COCO_IDS = [category["id"] for category in COCO_CATEGORIES if category["isthing"]]
NUM_RAW_COCO_IDS = 91  # outputs of a head whose classes are COCO's ids themselves, 0 to 90
UNUSED_IDS = "outputs for ids between 0 and 90 that COCO gives to no category"
SOFTMAX = (
    "Outputs for ids of no category took a share in the softmax, as good as none after training; scores may be larger "
    "by that."
)


def rows_of_classes(number: int) -> list[int]:
    """Which of so many outputs stand for classes."""
    return COCO_IDS if number == NUM_RAW_COCO_IDS else list(range(number))


def use_rows(ledger: Ledger, name: str, rows: list[int], target: str, reason: str) -> None:
    """Use these rows of a tensor, in this order, and list the others."""
    tensor = ledger.get(name)
    list_rows(ledger, name, set(range(len(tensor))) - set(rows), reason)
    ledger.use(name, target, tensor[rows])


def list_rows(ledger: Ledger, name: str, rows: set[int], reason: str) -> None:
    """List rows of a tensor, if there are any."""
    if rows:
        ledger.listed[f"{name}[{', '.join(map(str, sorted(rows)))}]"] = reason


def class_head(ledger: Ledger, theirs: str, ours: str, background: bool = False) -> None:
    """A linear layer to classes; with `background` its last output is no object."""
    for part in ("weight", "bias"):
        number = len(ledger.get(f"{theirs}.{part}")) - background
        rows = rows_of_classes(number) + [number] * background
        use_rows(ledger, f"{theirs}.{part}", rows, f"{ours}.{part}", UNUSED_IDS)


def box_head(ledger: Ledger, theirs: str, ours: str) -> None:
    """A box head of three layers."""
    for layer in range(3):
        for part in ("weight", "bias"):
            ledger.use(f"{theirs}.layers.{layer}.{part}", f"{ours}.layers.{layer}.{part}")


def image_and_class_notes(ledger: Ledger, background: bool = False) -> list[str]:
    """How images must come, and what the classes of the result are."""
    if UNUSED_IDS not in ledger.listed.values():
        bias: Tensor | tuple[()] = ledger.target.get("classifier.projections.0.bias", ())
        number = max(len(bias) - background, 0)
        return [IMAGES, f"The {number} classes must be named in this order by MODEL.VOCABULARY.TEST."]
    coco = "The classes are the 80 of COCO in the order of their ids: MODEL.VOCABULARY.TEST coco."
    return [IMAGES, coco, SOFTMAX] if background else [IMAGES, coco]
