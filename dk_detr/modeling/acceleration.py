"""Less memory and less time for the same result: layers that are computed again in backward, layers that are compiled.

A layer keeps its place in the module tree, the names of its parameters, and its class; copies of it are
accelerated, too.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from detectron2.layers import CNNBlockBase
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

logger = logging.getLogger(__name__)

BACKEND = "inductor"  # of torch.compile
TRANSFORMER, TEACHER = ("encoder", "decoder"), "teacher"  # the latter is compiled where it is built


def accelerate(parts: Mapping[str, Any], checkpointed: Sequence[str], compiled: Sequence[str]) -> None:
    """Change the layers of those parts of a detector that are named.

    Args:
        parts: "backbone", "encoder" and "decoder". checkpointed, compiled: see MODEL.DETR in config.py.

    Raises: ValueError for another name, or a backbone that has no blocks to checkpoint.
    """
    _check_names("COMPILED", compiled, (*TRANSFORMER, TEACHER))
    _check_names("CHECKPOINTED", checkpointed, ("backbone", *TRANSFORMER))
    compiler = Compiler(BACKEND)
    for name in set(compiled) - {TEACHER}:
        for layer in _layers(parts[name], "COMPILED", name):
            layer.forward = Compiled(layer.forward, compiler)
    for name in checkpointed:
        for layer in _blocks(parts[name]) if name == "backbone" else _layers(parts[name], "CHECKPOINTED", name):
            layer.forward = Checkpointed(layer.forward, layer)


def _check_names(key: str, names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f'MODEL.DETR.{key} names "{unknown[0]}"; choose from {", ".join(known)}.')


def _layers(part: nn.Module, key: str, name: str) -> Iterable[nn.Module]:
    layers: Iterable[nn.Module] | None = getattr(part, "layers", None)
    if layers is None:
        raise ValueError(f'MODEL.DETR.{key} names "{name}", but {type(part).__name__} has no layers. Leave it out.')
    return layers


def _blocks(backbone: nn.Module) -> list[nn.Module]:
    blocks = [module for module in backbone.modules() if isinstance(module, CNNBlockBase)]
    if not blocks:
        raise ValueError(
            f'MODEL.DETR.CHECKPOINTED names "backbone", but {type(backbone).__name__} has no residual blocks as '
            "Detectron2's ResNet has them. Leave it out."
        )
    return blocks


class Checkpointed:
    """A layer's forward that keeps its inputs only; backward computes the rest again, with the same random numbers."""

    def __init__(self, forward: Callable[..., Any], layer: nn.Module) -> None:
        self.forward, self.layer = forward, layer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(*args, **kwargs)
        return checkpoint(self.forward, *args, use_reentrant=False, context_fn=self._contexts, **kwargs)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Of forward and of forward again."""
        return nullcontext(), _statistics_kept(self.layer)


@contextmanager
def _statistics_kept(layer: nn.Module) -> Iterator[None]:
    """BatchNorm counts a batch once, not each time that it is computed: meanwhile it writes into copies."""
    norms = [module for module in layer.modules() if isinstance(module, _BatchNorm)]
    statistics = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers(recurse=False)]
    for norm, name, buffer in statistics:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in statistics:
            setattr(norm, name, buffer)


class Compiler:
    """torch.compile for several layers; where it fails they all go on without it, after one warning."""

    def __init__(self, backend: str) -> None:
        self.backend, self.works = backend, True

    def compile(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """For all sizes of images at once: each would be compiled anew."""
        try:
            return torch.compile(forward, backend=self.backend, dynamic=True)
        except RuntimeError as error:  # this Python or system is unknown to it
            self.give_up(error)
            return forward

    def give_up(self, error: Exception) -> None:
        """Say why."""
        if self.works:
            cause = getattr(error, "inner_exception", error)
            reason = f"{type(cause).__name__}: {str(cause).strip().splitlines()[0]}" if str(cause) else repr(cause)
            logger.warning(f"torch.compile does not work here ({reason}); going on without it (MODEL.DETR.COMPILED).")
        self.works = False


class Compiled:
    """A layer's forward, compiled at its first call. A copy of the layer compiles its own."""

    def __init__(self, forward: Callable[..., Any], compiler: Compiler) -> None:
        self.forward, self.compiler = forward, compiler
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException  # torch itself imports that late, as it is slow

        if self.compiler.works:
            try:
                self._compiled = self._compiled or self.compiler.compile(self.forward)
                return self._compiled(*args, **kwargs)
            except TorchDynamoException as error:
                self.compiler.give_up(error)
        return self.forward(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_compiled": None}
