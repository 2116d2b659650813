"""Which weights of a checkpoint are evaluated: not always those of the last iteration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dk_detr.convert.reading import weights_in
from dk_detr.engine.ema import averaged
from dk_detr.engine.keep.interpolation import KEY as INTERPOLATION
from dk_detr.engine.keep.interpolation import interpolated


def instead_of_the_last(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Tensor], str] | None:
    """What a checkpoint has to be evaluated in place of the last weights, and what that is; None where it has not."""
    between = interpolated(checkpoint)
    if between is not None:
        alpha = checkpoint[INTERPOLATION]["alpha"]
        return {**checkpoint["model"], **between}, f"weights between its start and now (SOLVER.KEEP_ALPHA {alpha})"
    average = averaged(checkpoint)
    return None if average is None else (average, "a moving average of its weights (SOLVER.EMA_DECAY)")


def evaluated_weights(content: Any, file: Path) -> dict[str, Tensor]:
    """The weights of a file that are evaluated. `content`: what is in it. Raises ValueError for one without weights."""
    found = instead_of_the_last(content) if isinstance(content, Mapping) else None
    return dict(weights_in(content, file).state) if found is None else found[0]
