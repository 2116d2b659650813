"""Where queries look: a reader for each kind of attention at the image, given what a forward pass handed it.

Readers ask the modules' own methods, after the pass and for one image: the detector computes nothing for them.
N chosen queries, H heads (AdaMixer: groups), L levels, P points, S tokens.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dk_detr.modeling import ConditionalCross, DeformableCross, DenseCross, FirstConditionalCross
from dk_detr.modeling.adamixer.sampling import AdaptiveSampling


@dataclass(frozen=True)
class Points:
    """The places that one query samples in one decoder layer.

    Attributes:
        xy: (H, L, P, 2) in [0, 1] of the unpadded image; what lies outside is zero to the detector.
        weights: (H, L, P). Their sum is 1 over levels and points of a head, in AdaMixer over the levels of a point.
    """

    xy: Tensor
    weights: Tensor

    def shares(self) -> Tensor:
        """(H, L, P) the same as parts of all that the query sees: their sum is 1."""
        return self.weights / self.weights.sum()


@dataclass(frozen=True)
class HeatMap:
    """How much one query looks at each cell in one decoder layer.

    Attributes:
        weights: (H, h, w) of the cells that show the image, in its rows and columns; their sum is 1 for each head.
    """

    weights: Tensor

    def shares(self) -> Tensor:
        """(h, w) the mean of the heads: their sum is 1."""
        return self.weights.mean(0)


Look = Points | HeatMap


@dataclass(frozen=True)
class Call:
    """One call of a module: what it was given by position, and what it gave."""

    module: Any
    arguments: tuple[Any, ...]
    output: Any


Reader = Callable[[Call, Tensor], list[Look]]


@contextmanager
def recorded(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, Call]]:
    """Gives the last call of each module, once it is done. The hooks are gone when the block ends."""
    calls: dict[nn.Module, Call] = {}

    def keep(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        calls[module] = Call(module, arguments, output)

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def attention_of(layer: nn.Module) -> nn.Module:
    """The part of a decoder layer that looks at the image. Raises ValueError for one that no reader knows."""
    for module in layer.modules():
        if type(module) in READERS:
            return module
    inside = ", ".join(sorted({type(module).__name__ for module in layer.children()}))
    known = ", ".join(kind.__name__ for kind in READERS)
    raise ValueError(
        f"A decoder layer {type(layer).__name__} ({inside}) has no attention that can be explained; known are {known} "
        "(READERS in dk_detr/explain/attention.py)."
    )


def looks(call: Call, queries: Tensor) -> list[Look]:
    """What the chosen queries (N,) of the first image look at, given a call of `attention_of` their layer."""
    return READERS[type(call.module)](call, queries)


def _deformable(call: Call, queries: Tensor) -> list[Look]:
    content, position, reference, memory = call.arguments
    query = content + position.cross_attention
    places, weights = call.module.samples(query, reference, memory.shapes, memory.valid_ratios)
    xy = places[0, queries]
    if memory.valid_ratios is not None:  # of the padded levels
        xy = xy / memory.valid_ratios[0, :, None]
    return [Points(*each) for each in zip(xy, weights[0, queries])]


def _dense(call: Call, queries: Tensor) -> list[Look]:
    content, position, _, memory = call.arguments
    maps = call.module.weights(content, position, memory)[0][:, queries].unflatten(-1, memory.shapes[0])
    if memory.valid_size is not None:
        width, height = memory.valid_size[0, 0].tolist()
        maps = maps[..., :height, :width]
    return [HeatMap(each) for each in maps.transpose(0, 1)]


def _adaptive(call: Call, queries: Tensor) -> list[Look]:
    content, boxes, memory = call.arguments
    places, weights = call.module.samples(content, boxes)
    height, width = memory.image_sizes[0]
    xy = (places[0, queries] / places.new_tensor([width, height])).transpose(1, 2)  # (N, G, P, 2)
    on_levels = weights[0, queries].permute(0, 2, 3, 1)  # (N, G, L, P)
    return [Points(*each) for each in zip(torch.stack([xy] * on_levels.shape[2], dim=2), on_levels)]


READERS: dict[type[nn.Module], Reader] = {
    DeformableCross: _deformable,
    DenseCross: _dense,
    ConditionalCross: _dense,
    FirstConditionalCross: _dense,
    AdaptiveSampling: _adaptive,
}
"""By the kind of module that looks at the image; see `modeling.ATTENTIONS` and AdaMixer. A new kind adds its own."""
