"""AdamW for DETRs, SGD for R-CNNs: other rates for some parameters, no decay on norms, the whole gradient clipped."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from dk_detr.utils import require

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


class _Clipped(torch.optim.Optimizer):
    """Before each step, scales the gradient of all parameters together to a norm of at most `max_norm` (0: no limit).

    A fused step, which CPUs and GPUs have, changes no weight where the gradient is not finite. The host need not wait
    for the device to know that: it reads `norm` when it next waits anyway.

    Attributes:
        norm: of the last gradient, on the device. None before the first, and where a scaler looks after overflows.
    """

    norm: Tensor | None = None

    def __init__(self, groups: list[dict[str, Any]], max_norm: float, norm_type: float = 2.0, **kwargs: Any) -> None:
        super().__init__(groups, **kwargs)
        self.max_norm, self.norm_type = max_norm, norm_type

    def step(self, closure: Any = None) -> Any:
        """Clip, then step."""
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters], self.norm_type)
        # Under mixed precision a fused optimizer is given gradients that still carry the scale: a tensor, and
        # asking for its value would let the host wait for the device.
        scale = getattr(self, "grad_scale", None)
        if self.max_norm > 0:
            clip_grads_with_norm_(parameters, self.max_norm, norm if scale is None else norm / scale)
        with self._unless_broken(norm):
            return super().step(closure)

    @contextmanager
    def _unless_broken(self, norm: Tensor) -> Iterator[None]:
        """Tells a fused step to change nothing where the norm is not finite, the way that scalers tell it."""
        watched = hasattr(self, "found_inf")
        self.norm = None if watched else norm
        if watched or not self.defaults.get("fused"):
            yield
            return
        self.found_inf = 1.0 - norm.isfinite().float()
        try:
            yield
        finally:
            del self.found_inf

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what is known of each parameter, by its name. Rates, decays and the like stay those of this optimizer
        as a run may go on with others. Raises ValueError for another kind of optimizer, and for other parameters."""
        ours, theirs = self.state_dict()["param_groups"], state_dict["param_groups"]
        if _kind(ours) != _kind(theirs):
            raise ValueError(
                f'SOLVER.OPTIMIZER is "{_kind(ours)}", but the run was trained with "{_kind(theirs)}", and neither can '
                "go on from what the other knows: leave it, or start a new run from MODEL.WEIGHTS."
            )
        wanted, found = _numbers(ours), _numbers(_with_names(theirs, ours))
        _refuse_other_parameters(wanted.keys() - found.keys(), found.keys() - wanted.keys())
        state = state_dict["state"]
        moved = {number: state[found[name]] for name, number in wanted.items() if found[name] in state}
        super().load_state_dict({"state": moved, "param_groups": ours})


def _kind(groups: list[dict[str, Any]]) -> str:
    """The SOLVER.OPTIMIZER that groups are of."""
    return "AdamW" if "betas" in groups[0] else "SGD"


def _numbers(groups: list[dict[str, Any]]) -> dict[Any, int]:
    """The number that a state knows each parameter by, by its name."""
    return {name: i for group in groups for name, i in zip(group.get("names", group["params"]), group["params"])}


def _with_names(groups: list[dict[str, Any]], ours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """States that were saved before names were have ours, if the groups are as large."""
    if all("names" in group for group in groups) or not all("names" in group for group in ours):
        return groups
    sizes, wanted = ([len(group["params"]) for group in some] for some in (groups, ours))
    if sizes != wanted:
        raise ValueError(
            f"The run trained parameters in groups of {sizes}, this config trains groups of {wanted}, and the "
            "checkpoint does not name them: go on with the settings of the run, or start a new one from MODEL.WEIGHTS."
        )
    return [{**group, "names": mine["names"]} for group, mine in zip(groups, ours)]


def _refuse_other_parameters(new: Collection[str], gone: Collection[str]) -> None:
    told = [f"{min(names)} is trained {where} only" for names, where in ((new, "now"), (gone, "by the run")) if names]
    if told:
        raise ValueError(
            f"The run cannot go on with other parameters: {', '.join(told)} ({len(new) + len(gone)} such). Leave the "
            "settings that they follow from, or start a new run from MODEL.WEIGHTS."
        )


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
    if cfg.SOLVER.BIAS_LR_FACTOR != 1.0:
        raise ValueError(f"SOLVER.BIAS_LR_FACTOR is {cfg.SOLVER.BIAS_LR_FACTOR}: biases learn as weights do, set 1.0.")
    max_norm = clip.CLIP_VALUE if clip.ENABLED else 0.0
    groups: Any = parameter_groups(cfg, model)
    common: dict[str, Any] = {
        "max_norm": max_norm, "norm_type": clip.NORM_TYPE, "lr": cfg.SOLVER.BASE_LR, "fused": _can_fuse(model),
    }  # fmt: skip
    require("SOLVER.OPTIMIZER", cfg.SOLVER.OPTIMIZER, ("AdamW", "SGD"))
    if cfg.SOLVER.OPTIMIZER == "AdamW":
        return ClippedAdamW(groups, **common)
    return ClippedSGD(groups, momentum=cfg.SOLVER.MOMENTUM, nesterov=cfg.SOLVER.NESTEROV, **common)


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    """Parameters, with their names, by learning rate and decay: few groups, so that the step is quick."""
    groups: dict[tuple[float, float], dict[str, nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                full_name = f"{module_name}.{name}"
                groups.setdefault((_rate(cfg, full_name), _decay(cfg, module, name)), {})[full_name] = parameter
    return [
        {"params": list(named.values()), "names": list(named), "lr": rate, "weight_decay": decay}
        for (rate, decay), named in groups.items()
    ]


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
