"""The words that a checkpoint was trained with: it keeps them beside its weights, and they will do for a vocabulary."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

from dk_detr.structures import Vocabulary
from dk_detr.utils.checkpoint_entry import checkpoint_entry

WORDS = "words"  # in checkpoints, beside the weights: names, embeddings, provenance


def words_of_checkpoint(path: str) -> Vocabulary | None:
    """The words of training that a checkpoint of this project says; None for any other file. The weights are not read.

    Raises: ValueError for a file that is not whole.
    """
    if not path.endswith((".pth", ".pt")):
        return None
    saved = checkpoint_entry(path, WORDS)
    return None if saved is None else _vocabulary(saved, path)


def _vocabulary(saved: Mapping[str, Any], path: str) -> Vocabulary:
    rows = F.normalize(saved["embeddings"].float(), dim=1)
    provenance = {**saved["provenance"], "file": path}
    return Vocabulary(tuple(saved["names"]), rows, torch.zeros(len(rows), dtype=torch.bool), provenance)
