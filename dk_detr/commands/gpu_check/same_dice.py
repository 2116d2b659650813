"""SameDice: random numbers of a GPU are those of the CPU, so that both can be compared number by number."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


class SameDice(TorchDispatchMode):
    """Within it, whatever draws random numbers draws them on the CPU, from its generator, and moves them."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Of each operation of torch: done elsewhere if it draws."""
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        device = _device_of(args, kwargs)
        on_cpu = tree_map(lambda value: value.cpu() if isinstance(value, Tensor) else value, (args, kwargs))
        if "device" in kwargs:
            on_cpu[1]["device"] = torch.device("cpu")
        drawn = func(*on_cpu[0], **on_cpu[1])
        if func._schema.is_mutable:
            return args[0].copy_(drawn)
        return tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, drawn)


def _device_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.device:
    """Where the answer belongs."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    return next((value.device for value in args if isinstance(value, Tensor)), torch.device("cpu"))
