"""Names that parameters had in older checkpoints, which load under today's."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from dk_detr.engine.ema import EMA_KEY
from dk_detr.extensions import Denoising

OLD_PREFIXES = {
    "branch.companions.": "extensions.Distillation.queries.",
    "branch.content.": "extensions.Distillation.queries.content.",
    "companions.0.": "extensions.{denoising}.",
}


def under_current_names(checkpoint: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """The checkpoint, its weights, their moving average and the optimizer's parameters under the names of today."""
    names = {old: new.format(denoising=_denoising_of(model)) for old, new in OLD_PREFIXES.items()}

    def renamed(name: str) -> str:
        for old, new in names.items():
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    content = {**checkpoint, "model": {renamed(name): tensor for name, tensor in checkpoint["model"].items()}}
    average = content.get(EMA_KEY)
    if isinstance(average, dict) and isinstance(average.get("weights"), dict):
        weights = {renamed(name): weight for name, weight in average["weights"].items()}
        content[EMA_KEY] = {**average, "weights": weights}
    for group in _parameter_groups(content):  # in place: the file was read for this
        if "names" in group:
            group["names"] = [renamed(name) for name in group["names"]]
    return content


def _denoising_of(model: nn.Module) -> str:
    """What the model calls its denoising; older checkpoints only counted it."""
    extensions: Mapping[str, nn.Module] = getattr(model, "extensions", {})
    return next((name for name, extension in extensions.items() if isinstance(extension, Denoising)), "Denoising")


def _parameter_groups(checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    found: Any = checkpoint
    for key in ("trainer", "_trainer", "optimizer", "param_groups"):
        if not isinstance(found, dict) or key not in found:
            return []
        found = found[key]
    return list(found)
