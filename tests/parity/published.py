"""State dicts by the names and shapes that others publish, at small sizes, filled with random numbers."""

from collections.abc import Mapping

import torch
import torchvision
from torch import Tensor

from tests.model_fixtures import random

Shapes = dict[str, tuple[int, ...]]
CHANNELS, FFN, HEADS, POINTS = 64, 48, 8, 4
ENCODER_LAYERS, DECODER_LAYERS, LEVELS = 2, 3, 4
BACKBONE_WIDTHS = (128, 256, 512)  # of the maps of a ResNet-18 that detectors look at


def linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, width: int = CHANNELS) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def deformable(name: str) -> Shapes:
    samples = HEADS * LEVELS * POINTS
    return {
        **linear(f"{name}.sampling_offsets", 2 * samples, CHANNELS),
        **linear(f"{name}.attention_weights", samples, CHANNELS),
        **linear(f"{name}.value_proj", CHANNELS, CHANNELS),
        **linear(f"{name}.output_proj", CHANNELS, CHANNELS),
    }


def dense(name: str) -> Shapes:
    """PyTorch's MultiheadAttention."""
    packed = {f"{name}.in_proj_weight": (3 * CHANNELS, CHANNELS), f"{name}.in_proj_bias": (3 * CHANNELS,)}
    return {**packed, **linear(f"{name}.out_proj", CHANNELS, CHANNELS)}


def resnet(prefix: str, frozen: bool) -> Shapes:
    """A torchvision ResNet-18 without its classifier; frozen norms count no batches."""
    state = torchvision.models.resnet18().state_dict()
    skipped = ("fc.", "num_batches_tracked") if frozen else ("fc.",)
    return {prefix + name: tuple(t.shape) for name, t in state.items() if not any(part in name for part in skipped)}


def filled(shapes: Shapes) -> dict[str, Tensor]:
    """Random numbers of the size that they have in a network; nothing is zero, no two tensors are alike."""
    return {name: _filled(name, shape, seed) for seed, (name, shape) in enumerate(shapes.items())}


def _filled(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(1000 + seed)
    noise = random(*shape, seed=seed)
    if name.endswith("running_var"):
        return 0.5 + noise.abs()
    if len(shape) > 1:
        return noise / noise[0].numel() ** 0.5
    return 1 + 0.2 * noise if name.endswith(".weight") else 0.2 * noise


def accounted(used: Mapping[str, object], listed: Mapping[str, object]) -> set[str]:
    """The tensors that a conversion says something about, whole or in rows."""
    return set(used) | {name.partition("[")[0] for name in listed}
