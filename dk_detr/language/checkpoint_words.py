"""The words that a checkpoint was trained with: it keeps them beside its weights, and they will do for a vocabulary."""

import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

from dk_detr.structures import Vocabulary
from dk_detr.utils.arrays import INERT, UNREADABLE

WORDS = "words"  # in checkpoints, beside the weights: names, embeddings, provenance


def words_of_checkpoint(path: str) -> Vocabulary | None:
    """The words of training that a checkpoint of this project says; None for any other file. The weights are not read.

    Raises: ValueError for a file that is not whole.
    """
    if not path.endswith((".pth", ".pt")):
        return None
    try:
        with torch.serialization.safe_globals([(inert, name) for name, inert in INERT.items()]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (*UNREADABLE, RuntimeError, OSError) as error:
        reason = (str(error).splitlines() or ["it is empty"])[0]
        raise ValueError(f"{path} holds no whole checkpoint or matrix of text embeddings ({reason}).") from error
    return _vocabulary(content[WORDS], path) if isinstance(content, Mapping) and WORDS in content else None


def _vocabulary(saved: Mapping[str, Any], path: str) -> Vocabulary:
    rows = F.normalize(saved["embeddings"].float(), dim=1)
    provenance = {**saved["provenance"], "file": path}
    return Vocabulary(tuple(saved["names"]), rows, torch.zeros(len(rows), dtype=torch.bool), provenance)
