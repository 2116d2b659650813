"""The label embeddings of denoising queries, which only training has. K classes, C channels."""

from torch import Tensor

from dk_detr.convert.heads import list_rows, rows_of_classes
from dk_detr.convert.ledger import Ledger

TRAINING_ONLY = "training only: embeddings of labels for denoising, which do not fit the classes"
NO_CLASS = "training only: embeddings for denoising of labels that are no class"


def use_labels(ledger: Ledger, name: str, labels: Tensor, number: int, extension: str) -> list[str]:
    """Use the embeddings (at least K, C) of labels that denoising queries start from; list them where they are too few.

    Args:
        name: of the tensor in the source that they are made of. number: K, or of COCO's ids.

    Returns: what MODEL.TRAINING_EXTENSIONS must be.
    """
    if len(labels) < number:
        ledger.listed[name] = TRAINING_ONLY
        return []
    rows = rows_of_classes(number)
    list_rows(ledger, name, set(range(len(labels))) - set(rows), NO_CLASS)
    ledger.use(name, f"extensions.{extension}.content.weight", labels[rows])
    return [extension]
