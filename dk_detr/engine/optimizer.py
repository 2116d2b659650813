"""AdamW for DETRs, SGD for R-CNNs: other rates for some parameters, no decay on norms, the whole gradient clipped."""

from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from dk_detr.structures import require

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


class _Clipped(torch.optim.Optimizer):
    """First scales the gradient of all parameters together to a norm of at most `max_norm` (0: as it is)."""

    def __init__(self, groups: list[dict[str, Any]], max_norm: float, **kwargs: Any) -> None:
        super().__init__(groups, **kwargs)
        self.max_norm = max_norm

    def step(self, closure: Any = None) -> Any:
        """Clip, then step."""
        if self.max_norm > 0:
            parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
            norm = get_total_norm([p.grad for p in parameters])
            # Under mixed precision a fused optimizer is given gradients that still carry the scale: a tensor, and
            # asking for its value would let the host wait for the device.
            scale = getattr(self, "grad_scale", None)
            clip_grads_with_norm_(parameters, self.max_norm, norm if scale is None else norm / scale)
        return super().step(closure)


class ClippedAdamW(_Clipped, torch.optim.AdamW):
    """AdamW, clipped."""


class ClippedSGD(_Clipped, torch.optim.SGD):
    """SGD, clipped."""


def build_optimizer(cfg: CfgNode, model: nn.Module) -> ClippedAdamW | ClippedSGD:
    """The optimizer of SOLVER for the trainable parameters, each of which enters once."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE != "full_model":
        raise ValueError(
            f'SOLVER.CLIP_GRADIENTS.CLIP_TYPE is "{clip.CLIP_TYPE}", but this project clips the norm of the whole '
            'gradient, as DETRs do: set it to "full_model".'
        )
    max_norm = clip.CLIP_VALUE if clip.ENABLED else 0.0
    groups: Any = parameter_groups(cfg, model)
    common: dict[str, Any] = {"max_norm": max_norm, "lr": cfg.SOLVER.BASE_LR, "fused": _can_fuse(model)}
    require("SOLVER.OPTIMIZER", cfg.SOLVER.OPTIMIZER, ("AdamW", "SGD"))
    if cfg.SOLVER.OPTIMIZER == "AdamW":
        return ClippedAdamW(groups, **common)
    return ClippedSGD(groups, momentum=cfg.SOLVER.MOMENTUM, nesterov=cfg.SOLVER.NESTEROV, **common)


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    """Parameters by learning rate and decay: few groups, so that the step is quick."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                full_name = f"{module_name}.{name}"
                groups.setdefault((_rate(cfg, full_name), _decay(cfg, module, name)), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def _rate(cfg: CfgNode, name: str) -> float:
    if name.startswith("backbone."):
        return cfg.SOLVER.BASE_LR * cfg.SOLVER.BACKBONE_MULTIPLIER
    if "sampling_offsets" in name or name.startswith("queries.reference."):
        return cfg.SOLVER.BASE_LR * cfg.SOLVER.SAMPLING_MULTIPLIER
    return cfg.SOLVER.BASE_LR


def _decay(cfg: CfgNode, module: nn.Module, name: str) -> float:
    if isinstance(module, NORMS):
        return cfg.SOLVER.WEIGHT_DECAY_NORM
    if name == "bias" and cfg.SOLVER.WEIGHT_DECAY_BIAS is not None:
        return cfg.SOLVER.WEIGHT_DECAY_BIAS
    return cfg.SOLVER.WEIGHT_DECAY


def _can_fuse(model: nn.Module) -> bool:
    return all(p.is_floating_point() and p.device.type in ("cuda", "cpu") for p in model.parameters())
