"""Deformable attention, backend against backend: the encoder of a detector on one image."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from dk_detr.benchmark.measure import Work, side_by_side
from dk_detr.benchmark.report import Report
from dk_detr.layers import grid_of_cells
from dk_detr.layers.ops import available_backends, ms_deform_attn
from dk_detr.layers.ops.triton_backend import moved_bytes, moved_bytes_backward

HEADS, WIDTH, POINTS, STRIDES = 8, 32, 4, (8, 16, 32, 64)
SPREAD = 2.0  # cells, standard deviation of the sampled places around a query's own
COMPILED, COPIED_BYTES = "reference, torch.compile", 2**30
Arguments = tuple[Tensor, Tensor, Tensor]
Shapes = Sequence[tuple[int, int]]


def benchmark_attention(device: str, rounds: int, size: int = 800, dtype: torch.dtype = torch.float32) -> Report:
    """All backends that work on the device, and on a GPU `torch.compile` of the reference, against the reference."""
    shapes = tuple((-(-size // stride), -(-size // stride)) for stride in STRIDES)
    arguments = encoder_arguments(shapes, device, dtype)
    report = Report(
        device,
        f"Deformable attention, image {size}×{size}, {len(shapes)} levels, {HEADS} heads of {WIDTH} channels, {POINTS} "
        f"points, {arguments[1].shape[1]} queries (all tokens), {str(dtype).removeprefix('torch.')}",
    )
    names = ["reference", *(name for name in available_backends(device) if name != "reference")]
    names += [COMPILED] if device == "cuda" else []
    _check_that_they_agree(names, arguments, shapes)
    for task, make in (("forward", _forward), ("forward + backward", _forward_and_backward)):
        ways = {name: partial(make, name, shapes, device, dtype) for name in names}
        report.add(task, "reference", side_by_side(ways, rounds, device, task))
    if device == "cuda":
        _add_bandwidth(report, arguments)
    return report


def encoder_arguments(shapes: Shapes, device: str, dtype: torch.dtype) -> Arguments:
    """Value, locations and weights of one image, every token looking around its own place; the same on every call."""
    generator = torch.Generator().manual_seed(0)
    grid = grid_of_cells(tuple(shapes), torch.device("cpu"))
    own = (grid.centers / grid.sides[:, grid.level])[:, :, None, None, None]
    tokens, levels = own.shape[1], len(shapes)
    value = torch.randn(1, tokens, HEADS, WIDTH, generator=generator)
    offsets = torch.randn(1, tokens, HEADS, levels, POINTS, 2, generator=generator) * SPREAD
    weights = torch.randn(1, tokens, HEADS, levels * POINTS, generator=generator).softmax(-1)
    locations = own + offsets / grid.sides[0, :, None]
    return value.to(device, dtype), locations.to(device), weights.unflatten(-1, (levels, POINTS)).to(device)


def _attention(name: str) -> Callable[..., Tensor]:
    if name == COMPILED:
        return torch.compile(partial(ms_deform_attn, backend="reference"))
    return partial(ms_deform_attn, backend=name)


def _forward(name: str, shapes: Shapes, device: str, dtype: torch.dtype) -> Work:
    value, locations, weights = encoder_arguments(shapes, device, dtype)
    return torch.no_grad()(partial(_attention(name), value, shapes, locations, weights))


def _forward_and_backward(name: str, shapes: Shapes, device: str, dtype: torch.dtype) -> Work:
    arguments = [tensor.requires_grad_() for tensor in encoder_arguments(shapes, device, dtype)]
    value, locations, weights = arguments
    attention = _attention(name)
    gradient = torch.ones(*locations.shape[:2], HEADS * WIDTH, device=device, dtype=dtype)

    def run() -> None:
        for tensor in arguments:
            tensor.grad = None
        attention(value, shapes, locations, weights).backward(gradient)

    return run


@torch.no_grad()
def _check_that_they_agree(names: Sequence[str], arguments: Arguments, shapes: Shapes) -> None:
    """A fast wrong answer is no answer. Raises RuntimeError naming the way that differs from the reference."""
    value, locations, weights = arguments
    wanted = ms_deform_attn(value.float(), shapes, locations, weights, backend="reference")
    tolerance = 1e-4 if value.dtype == torch.float32 else 0.05
    for name in names:
        difference = float((_attention(name)(value, shapes, locations, weights).float() - wanted).abs().max())
        if not difference < tolerance * float(wanted.abs().max()):
            raise RuntimeError(f'"{name}" differs from the reference by {difference:g}: nothing was measured.')


def _add_bandwidth(report: Report, arguments: Arguments) -> None:
    """Bytes that must move, each once, over the time, against a copy on the same card in the same run."""
    copy_rate = 2 * COPIED_BYTES / side_by_side({"copy": _copy}, 20, "cuda")["copy"].median
    forward = moved_bytes(*arguments)
    moved = {"forward": forward, "forward + backward": forward + moved_bytes_backward(*arguments)}
    for row in report.rows:
        rate = moved[row["task"]] / row["median s"]
        row["GB/s"], row["of copy"] = rate / 1e9, rate / copy_rate
    report.notes.append(f"Copy bandwidth: {copy_rate / 1e9:.0f} GB/s. GB/s counts each tensor once.")


def _copy() -> Work:
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    return partial(torch.empty_like(source).copy_, source)
