"""A GPU to find mistakes with where there is none: tensors that say they are on it and lie on the CPU.

Under `PretendGpu` whatever mixes devices as a real GPU would not allow is refused, at each call of torch's API. Numbers
are those of the CPU. What waits for the device (`item`, `tolist`, …) is counted.
"""

import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
WAITS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu", "nonzero", "masked_select", "unique"}
MOVES = {"to", "cpu", "cuda", "copy_", "as_subclass", "type_as"}
HOST_ONLY = {"numpy", "__array__"}
OF_DEVICE = {"is_cuda": True, "is_cpu": False, "device": CUDA}


class OnGpu(Tensor):
    """Says it is on the GPU, to those who ask under `PretendGpu`."""

    __torch_function__ = torch._C._disabled_torch_function_impl


class MixedDevices(RuntimeError):
    """What a real GPU would refuse."""


class PretendGpu(TorchFunctionMode):
    """Within it there is a GPU. `waits`: how often a line of dk_detr waited for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        asked = getattr(getattr(func, "__self__", None), "__name__", "") if name == "__get__" else ""
        if asked in OF_DEVICE and isinstance(args[0], OnGpu):
            return OF_DEVICE[asked]
        tensors = [value for value in tree_flatten((args, given))[0] if isinstance(value, Tensor)]
        here = any(isinstance(tensor, OnGpu) for tensor in tensors)
        if here and name in HOST_ONLY:
            raise MixedDevices(f"{name}() of a tensor on the GPU")
        if here and (name in WAITS or (name == "__getitem__" and _has_mask(args[1]))):
            self._count(name)
        if here and name not in MOVES and asked == "":
            _refuse_mixed(name, args, tensors)
        there, args, given = _target(name, args, given, here)
        if there and getattr(given.get("generator"), "device", CUDA).type == "cpu":
            raise MixedDevices(f"{name}() on the GPU with a generator of the CPU")
        return tree_map(lambda value: _placed(value, there), func(*args, **given))

    def _count(self, name: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if "/dk_detr/" in frame.filename]
        place = f"{frames[-1].filename.split('/dk_detr/')[-1]}:{frames[-1].lineno}" if frames else "elsewhere"
        self.waits[f"{place} {name}"] += 1


def _has_mask(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, OnGpu) and part.dtype == torch.bool for part in parts)


def _refuse_mixed(name: str, args: Sequence[Any], tensors: Sequence[Tensor]) -> None:
    """Numbers of the CPU may meet a GPU, and so may indices; rows may not."""
    if name in ("__getitem__", "__setitem__", "index_put_"):
        if isinstance(args[0], OnGpu):
            return
        raise MixedDevices(f"{name}() of a tensor on the CPU with an index or a value on the GPU")
    strangers = [tensor for tensor in tensors if not isinstance(tensor, OnGpu) and tensor.dim() > 0]
    if strangers:
        raise MixedDevices(f"{name}() of tensors on both devices; on the CPU: {[tuple(s.shape) for s in strangers]}")


def _target(name: str, args: Sequence[Any], given: dict[str, Any], here: bool) -> tuple[bool, Any, dict[str, Any]]:
    """Whether the answer is on the GPU; and the arguments with a device that there is."""
    if name == "cpu":
        return False, args, given
    if name == "cuda":
        return True, (args[0],), {}
    named = [value for value in (*args[1:], *given.values()) if _is_device(name, value)]
    there = here
    if named:
        device = named[-1]
        there = isinstance(device, OnGpu) if isinstance(device, Tensor) else torch.device(device).type == "cuda"
        args = (*args[:1], *(_on_cpu(name, value) for value in args[1:]))
        given = {key: _on_cpu(name, value) for key, value in given.items()}
    return there, args, given


def _on_cpu(name: str, value: Any) -> Any:
    return CPU if _is_device(name, value) and not isinstance(value, Tensor) else value


def _is_device(name: str, value: Any) -> bool:
    if isinstance(value, torch.device):
        return True
    if name == "to" and isinstance(value, Tensor):
        return True  # what it is to be like
    return isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda")


def _placed(value: Any, there: bool) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, OnGpu) == there:
        return value
    return value.as_subclass(OnGpu if there else Tensor)


def moved(module: Any) -> Any:
    """The module, its parameters and buffers on the GPU."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(parameter.data.as_subclass(OnGpu), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.as_subclass(OnGpu)
    return module


@contextmanager
def pretend_gpu() -> Iterator[PretendGpu]:
    """A GPU with streams that do nothing."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    with (
        patch.object(torch.cuda, "current_stream", lambda device=None: stream),
        patch.object(torch.cuda, "Stream", lambda device=None: stream),
        patch.object(torch.cuda, "stream", lambda stream: nullcontext()),
        patch.object(Tensor, "record_stream", _record_stream),
        patch.object(nn.Module, "to", _module_to),
        PretendGpu() as mode,
    ):
        yield mode


def _record_stream(tensor: Tensor, stream: Any) -> None:
    if not isinstance(tensor, OnGpu):
        raise MixedDevices("record_stream() of a tensor on the CPU")


_real_to = nn.Module.to


def _module_to(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    devices = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.device | str)]
    if any(torch.device(device).type == "cuda" for device in devices):
        return moved(module)
    return _real_to(module, *args, **kwargs)
