"""Beside: a frozen teacher thinks while the student goes on. What it says is for a student to learn from."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

Said = TypeVar("Said")


def beside(think: Callable[[], Said], shown: Iterable[Tensor], who: str) -> Callable[[], Said]:
    """Start to think, without gradients. On a GPU that is done on a stream of the teacher's own.

    Args:
        think: gives a tensor, or dataclasses, tuples and dictionaries of tensors. shown: what it reads.
        who: thinks; teachers of different names do not wait for one another.

    Returns: a function that waits for what was thought. Autograd may keep it.
    """
    shown = tuple(shown)
    device = shown[0].device
    if device.type != "cuda":
        said = _frozen(think)
        return lambda: said
    here, stream = torch.cuda.current_stream(device), _stream(device, who)
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        said = _frozen(think)
    for tensor in shown:
        tensor.record_stream(stream)

    def wait() -> Said:
        now = torch.cuda.current_stream(device)
        now.wait_stream(stream)
        for tensor in _tensors_in(said):
            tensor.record_stream(now)
        return said

    return wait


@cache
def _stream(device: torch.device, who: str) -> torch.cuda.Stream:
    """A teacher's stream on a GPU."""
    return torch.cuda.Stream(device)


def _frozen(think: Callable[[], Said]) -> Said:
    """What is made in inference mode cannot be kept for a backward pass: it leaves as a copy."""
    with torch.inference_mode():
        said = think()
    return _mapped(lambda tensor: tensor.clone() if tensor.is_inference() else tensor, said)


def _mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same with all its tensors changed."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(_mapped(function, each) for each in value)
    if isinstance(value, dict):
        return {key: _mapped(function, each) for key, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _mapped(function, getattr(value, f.name)) for f in fields(value)})
    return value


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _tensors_in(each)
    elif isinstance(value, Mapping):
        yield from _tensors_in(tuple(value.values()))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _tensors_in(tuple(getattr(value, f.name) for f in fields(value)))
