"""Small constant tensors, such as grids of cells, made once and not at every step."""

import functools
from collections.abc import Callable
from typing import Any

import torch


def cached(make: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a function of hashable arguments that makes tensors which nobody changes: the last 32 results are kept.

    A tracer gets fresh ones, for what it sees is no real tensor; and what was made in inference mode could not train.
    """
    kept = functools.lru_cache(maxsize=32)(make)

    @functools.wraps(make)
    def remembered(*arguments: Any) -> Any:
        if torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return make(*arguments)
        with torch.inference_mode(False):
            return kept(*arguments)

    return remembered
