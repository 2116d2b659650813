"""A backend of deformable attention against the reference in float64."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from dk_detr.commands.gpu_check.finding import Finding, Tell, at_most, attempt
from dk_detr.layers.ops import ms_deform_attn

CASES = {  # levels, channels of a head, points, queries
    "one level, one channel": (((5, 3),), 1, 1, 7),
    "20 channels, rows and columns": (((3, 2), (1, 1), (1, 4)), 20, 3, 7),
    "four levels, 32 channels": (((32, 40), (16, 20), (8, 10), (4, 5)), 32, 4, 500),
    "two levels, 64 channels": (((13, 17), (7, 9)), 64, 8, 100),
}
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}  # of the largest number
Tensors = tuple[Tensor, Tensor, Tensor]
Shapes = tuple[tuple[int, int], ...]


def check_backend(name: str, device: str, tell: Tell) -> None:
    """Each dtype in both modes, the worst of all cases; and whether the deterministic mode is."""
    for dtype in TOLERANCE:
        for deterministic in (False, True):
            how = f"{str(dtype).removeprefix('torch.')}{', deterministic' if deterministic else ''}"
            what = f"forward and backward in {how}"
            attempt(tell, what, partial(_all_cases, what, name, device, dtype, deterministic, tell))
    attempt(tell, "deterministic mode twice", lambda: tell(_twice(name, device)))


def _all_cases(what: str, name: str, device: str, dtype: torch.dtype, deterministic: bool, tell: Tell) -> None:
    with _mode(deterministic):
        worst = max(_difference(name, device, dtype, case) for case in CASES)
    tell(at_most(TOLERANCE[dtype], what, worst))


def _twice(name: str, device: str) -> Finding:
    with _mode(deterministic=True):
        one, other = (_answers(name, _inputs(CASES["four levels, 32 channels"], device)) for _ in range(2))
    same = all(torch.equal(a, b) for a, b in zip(one, other))
    return Finding("deterministic mode twice", aim="the same bits", met=same)


def _difference(name: str, device: str, dtype: torch.dtype, case: str) -> float:
    """The worst of answer and gradients, as a share of the largest number there."""
    shapes, (value, locations, weights) = _inputs(CASES[case], "cpu")
    given = (value.to(dtype), locations, weights.to(dtype))
    exact = _answers("reference", (shapes, tuple(tensor.double() for tensor in given)))  # type: ignore[arg-type]
    found = _answers(name, (shapes, tuple(tensor.to(device) for tensor in given)))  # type: ignore[arg-type]
    return max(float((f.cpu().double() - w).abs().max() / w.abs().max()) for f, w in zip(found, exact))


def _answers(name: str, inputs: tuple[Shapes, Tensors]) -> tuple[Tensor, ...]:
    """Answer, and gradients of the three inputs."""
    shapes, given = inputs
    value, locations, weights = (tensor.detach().requires_grad_() for tensor in given)
    answer = ms_deform_attn(value, shapes, locations, weights, backend=name)
    wanted = torch.randn(answer.shape, generator=torch.Generator().manual_seed(1)).to(answer)
    return (answer.detach(), *torch.autograd.grad(answer, (value, locations, weights), wanted))


def _inputs(case: tuple[Shapes, int, int, int], device: str) -> tuple[Shapes, Tensors]:
    """Two images, three heads; some places lie outside."""
    shapes, channels, points, queries = case
    dice = torch.Generator().manual_seed(0)
    value = torch.randn(2, sum(h * w for h, w in shapes), 3, channels, generator=dice)
    locations = torch.rand(2, queries, 3, len(shapes), points, 2, generator=dice) * 1.4 - 0.2
    weights = torch.rand(2, queries, 3, len(shapes), points, generator=dice)
    return shapes, (value.to(device), locations.to(device), weights.to(device))


@contextmanager
def _mode(deterministic: bool) -> Iterator[None]:
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
