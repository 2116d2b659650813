"""What stands beside the weights of a checkpoint, read without the weights."""

import zipfile
from collections.abc import Mapping
from typing import Any

import torch

from dk_detr.utils.arrays import INERT, UNREADABLE


def checkpoint_entry(path: str, name: str) -> Any | None:
    """An entry at the top of a .pth or .pt file; None where there is none of this name.

    Raises: ValueError for a file that is not whole.
    """
    try:
        with torch.serialization.safe_globals([(inert, name) for name, inert in INERT.items()]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (*UNREADABLE, RuntimeError, OSError) as error:
        reason = (str(error).splitlines() or ["it is empty"])[0]
        raise ValueError(f"{path} holds no whole checkpoint or matrix of text embeddings ({reason}).") from error
    return content.get(name) if isinstance(content, Mapping) else None
