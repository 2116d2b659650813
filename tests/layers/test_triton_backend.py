"""Backend "triton" computes what the reference computes. On a GPU where there is one, else in Triton's interpreter.

The interpreter is chosen when Triton is imported, for all that follows in that process: this file therefore runs a
second time, in a process of its own. Expectations come from the reference in float64.

B images, Q queries, S tokens, H heads, D channels of a head, L levels, P points.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dk_detr.layers import ops
from dk_detr.layers.ops import triton_backend
from dk_detr.layers.ops.reference import ms_deform_attn_reference
from dk_detr.layers.ops.triton_backend import MOST_QUERIES, backward, forward, moved_bytes, moved_bytes_backward

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
runs = pytest.mark.skipif(
    not INTERPRETED and DEVICE == "cpu", reason="no GPU here; test_all_of_this_holds_in_the_interpreter runs it"
)
compiles = pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")

SHAPES = ((4, 6), (2, 3))
SIZES = {  # levels, channels of a head, points
    "one level, one channel, one point": (((5, 3),), 1, 1),
    "three points": (SHAPES, 8, 3),
    "20 channels, rows and columns": (((3, 2), (1, 1), (1, 4)), 20, 1),
    "one cell, eight points": (((1, 1),), 32, 8),
    "four levels, 64 channels": (((4, 5), (2, 3), (1, 2), (1, 1)), 64, 4),
}
FLOATS = {  # of values, locations and weights
    "half": (torch.float16,) * 3,
    "bfloat16": (torch.bfloat16,) * 3,
    "double": (torch.float64,) * 3,
    "autocast": (torch.float16, torch.float32, torch.float16),
    "only weights half": (torch.float32, torch.float32, torch.bfloat16),
}
TOLERANCE = {torch.float32: (1e-5, 3e-5), torch.float64: (1e-12, 1e-12), torch.float16: (1e-3, 1e-4)}

Inputs = tuple[Tensor, Tensor, Tensor]


def random_inputs(shapes=SHAPES, channels=4, points=2, b=2, queries=3, heads=2) -> Inputs:
    """Value, locations (some outside) and weights."""
    g = torch.Generator().manual_seed(0)
    value = torch.randn(b, sum(h * w for h, w in shapes), heads, channels, generator=g)
    locations = torch.rand(b, queries, heads, len(shapes), points, 2, generator=g) * 1.6 - 0.3
    weights = torch.rand(b, queries, heads, len(shapes), points, generator=g)
    return value.to(DEVICE), locations.to(DEVICE), weights.to(DEVICE)


def random_gradient(value: Tensor, locations: Tensor) -> Tensor:
    shape = (*locations.shape[:2], locations.shape[2] * value.shape[3])
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(value)


def expected(shapes, inputs: Inputs, grad_output: Tensor) -> tuple[Tensor, Inputs]:
    """Answer and gradients of the reference in float64."""
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    answer = ms_deform_attn_reference(exact[0], shapes, *exact[1:])
    return answer.detach(), torch.autograd.grad(answer, exact, grad_output.double())


def assert_near(actual: Tensor, wanted: Tensor) -> None:
    rtol, atol = TOLERANCE.get(actual.dtype, (1e-2, 1e-2))
    torch.testing.assert_close(actual, wanted.to(actual.dtype), rtol=rtol, atol=atol)


@contextmanager
def deterministic_algorithms(wanted: bool = True) -> Iterator[None]:
    """Also fills new memory with NaN, so that what a kernel forgets to write is seen."""
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def assert_is_the_reference(shapes, inputs: Inputs, *, deterministic: bool) -> None:
    grad_output = random_gradient(*inputs[:2])
    answer, gradients = expected(shapes, inputs, grad_output)
    with deterministic_algorithms(deterministic):
        assert_near(forward(inputs[0], shapes, *inputs[1:]), answer)
        found = backward(grad_output, inputs[0], shapes, *inputs[1:])
    for gradient, wanted, tensor in zip(found, gradients, inputs):
        assert gradient.dtype == tensor.dtype
        assert gradient.is_contiguous()
        assert_near(gradient, wanted)


@pytest.mark.skipif(INTERPRETED or DEVICE == "cuda", reason="the other tests run here")
def test_all_of_this_holds_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "-x", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, check=False, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@runs
def test_it_is_available_where_its_tests_run() -> None:
    assert triton_backend.unavailable() is None


@runs
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_answer_and_gradients_are_the_references(name: str, deterministic: bool) -> None:
    shapes, channels, points = SIZES[name]
    assert_is_the_reference(shapes, random_inputs(shapes, channels, points, b=1), deterministic=deterministic)


@runs
@pytest.mark.parametrize("name, deterministic", [*((name, False) for name in FLOATS), ("half", True), ("double", True)])
def test_half_and_mixed_inputs_are_rounded_once_at_the_end(name: str, deterministic: bool) -> None:
    value, locations, weights = (x.to(dtype) for x, dtype in zip(random_inputs(b=1, queries=2), FLOATS[name]))
    assert_is_the_reference(SHAPES, (value, locations, weights), deterministic=deterministic)


@runs
def test_half_precision_is_summed_in_full_precision() -> None:
    value = torch.ones(1, 1, 1, 1, dtype=torch.float16, device=DEVICE)
    weights = torch.tensor([1024.0, 0.25, 0.25, 0.25, 0.25], device=DEVICE).view(1, 1, 1, 1, 5).half()
    locations = torch.full((1, 1, 1, 1, 5, 2), 0.5, device=DEVICE)
    assert forward(value, ((1, 1),), locations, weights).item() == 1025
    assert backward(value.flatten(2), value, ((1, 1),), locations, weights)[0].item() == 1025


@runs
def test_queries_of_several_programs_images_and_heads_do_not_mix() -> None:
    inputs = random_inputs(((3, 4),), channels=1, points=1, queries=2 * MOST_QUERIES + 1, heads=3)
    assert_is_the_reference(((3, 4),), inputs, deterministic=False)


@runs
def test_borders_are_the_references() -> None:
    value, _, weights = random_inputs(((3, 4),), points=6, b=1, queries=1, heads=1)
    places = [[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.3, 1.1], [-0.12, 0.4], [1.124, -0.16]]
    locations = torch.tensor(places, device=DEVICE).view(1, 1, 1, 1, 6, 2)
    assert_is_the_reference(((3, 4),), (value, locations, weights), deterministic=False)


@runs
@pytest.mark.parametrize("axis", [0, 1])
def test_what_is_far_outside_sees_nothing_and_learns_nothing(axis: int) -> None:
    inf = float("inf")
    places = torch.tensor([1e6, -1e6, 1e37, 2.0, -3e9])
    locations = torch.full((1, 1, 1, 1, 5, 2), 0.5)
    locations[..., axis] = places
    value = torch.full((1, 12, 1, 4), inf, device=DEVICE)
    weights = torch.ones(1, 1, 1, 1, 5, device=DEVICE)
    answer = forward(value, ((3, 4),), locations.to(DEVICE), weights)
    gradients = backward(torch.ones_like(answer), value, ((3, 4),), locations.to(DEVICE), weights)
    for tensor in (answer, *gradients):
        assert not tensor.any()  # NaN counts as something


@runs
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy, in the interpreter
@pytest.mark.parametrize("where", ["x", "y", "weight", "value"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_shows_where_the_reference_shows_it(bad: float, where: str) -> None:
    value, locations, weights = random_inputs(b=1)
    if where == "value":  # the first cell, and one sample that sees it
        value[0, 0, 1, 0], locations[0, 0, 1, 0, 0] = bad, 0.1
    elif where == "weight":
        weights[0, :2, 1, 0, 0] = bad
    else:
        locations[0, :2, 1, 0, 0, "xy".index(where)] = bad
    grad_output = random_gradient(value, locations)
    # On the CPU: gradients of places that are no number differ between PyTorch's own kernels.
    answer, gradients = expected(SHAPES, tuple(x.cpu() for x in (value, locations, weights)), grad_output.cpu())
    found = forward(value, SHAPES, locations, weights), *backward(grad_output, value, SHAPES, locations, weights)
    assert not found[0].isfinite().all()
    for actual, wanted in zip(found, (answer, *gradients)):
        assert torch.equal(actual.cpu().isfinite(), wanted.isfinite())
        assert_near(actual.cpu()[wanted.isfinite()], wanted[wanted.isfinite()])


@runs
def test_samples_on_the_border_read_nothing_beyond_it() -> None:
    value = torch.full((2, 8, 2, 3), float("nan"), device=DEVICE)
    value[0, 2:6, 0] = 1.0  # the second of three levels
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], device=DEVICE)
    locations = torch.full((2, 1, 2, 3, 4, 2), -9.0, device=DEVICE)
    locations[0, :, 0, 1] = corners
    weights = torch.ones(2, 1, 2, 3, 4, device=DEVICE)
    answer = forward(value, ((1, 2), (2, 2), (2, 1)), locations, weights)
    assert answer[0, 0].tolist() == [1.0] * 3 + [0.0] * 3  # four samples that see a quarter each; the other head
    gradients = backward(torch.ones_like(answer), value, ((1, 2), (2, 2), (2, 1)), locations, weights)
    assert gradients[0][0, 2:6, 0].eq(0.25).all()
    assert gradients[0].sum().item() == 12 * 0.25
    assert all(gradient.isfinite().all() for gradient in gradients)


@runs
@pytest.mark.parametrize("empty", [{"queries": 0}, {"b": 0}, {"points": 0}, {"channels": 0}])
def test_nothing_gives_nothing_or_zero(empty: dict[str, int]) -> None:
    value, locations, weights = random_inputs(**empty)
    answer = forward(value, SHAPES, locations, weights)
    assert answer.shape == (*locations.shape[:2], 2 * value.shape[3])
    gradients = backward(answer, value, SHAPES, locations, weights)
    assert [gradient.shape for gradient in gradients] == [value.shape, locations.shape, weights.shape]
    assert not any(tensor.any() for tensor in (answer, *gradients))


@runs
def test_the_layout_in_memory_does_not_matter() -> None:
    inputs = random_inputs()
    turned = tuple(tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in inputs)
    assert not any(tensor.is_contiguous() for tensor in turned)
    assert_is_the_reference(SHAPES, turned, deterministic=False)
    grad_output = torch.ones(1, device=DEVICE).expand(2, 3, 8)
    found = backward(grad_output, turned[0], SHAPES, *turned[1:])
    for gradient, wanted in zip(found, expected(SHAPES, inputs, grad_output)[1]):
        assert_near(gradient, wanted)


def on_one_cell(queries: int, gradients: Tensor) -> Tensor:
    """Gradient of one cell that `queries` samples see with weight 1; gradients (Q,) arrive there. In fixed point."""
    value = torch.zeros(1, 1, 1, 1, device=DEVICE)
    locations = torch.full((1, queries, 1, 1, 1, 2), 0.5, device=DEVICE)
    weights = torch.ones(1, queries, 1, 1, 1, device=DEVICE)
    with deterministic_algorithms():
        return backward(gradients.view(1, queries, 1).to(DEVICE), value, ((1, 1),), locations, weights)[0].flatten()


@runs
def test_deterministic_sums_do_not_depend_on_the_order_of_queries() -> None:
    value, locations, weights = random_inputs(((2, 2),), channels=2, points=1, b=1, queries=MOST_QUERIES + 9, heads=1)
    grad_output = random_gradient(value, locations)
    order = torch.randperm(locations.shape[1], generator=torch.Generator().manual_seed(0)).to(DEVICE)
    with deterministic_algorithms():
        once = backward(grad_output, value, ((2, 2),), locations, weights)
        again = backward(grad_output, value, ((2, 2),), locations, weights)
        shuffled = backward(grad_output[:, order], value, ((2, 2),), locations[:, order], weights[:, order])
    assert all(torch.equal(a, b) for a, b in zip(once, again))
    assert torch.equal(once[0], shuffled[0])
    assert torch.equal(once[1][:, order], shuffled[1])


@runs
def test_deterministic_sums_do_not_overflow_when_all_samples_meet_in_one_cell() -> None:
    assert on_one_cell(63, torch.ones(63)).item() == 63
    assert on_one_cell(63, torch.full((63,), -1e30)).item() == pytest.approx(-63e30, rel=1e-6)


@runs
def test_deterministic_sums_keep_the_small_beside_the_large() -> None:
    gradients = torch.tensor([1e5, 1e-3, -1e5, 1e-3])
    assert on_one_cell(4, gradients).item() == pytest.approx(2e-3, rel=1e-5, abs=0)
    assert on_one_cell(2, torch.tensor([1e-30, 2e-30])).item() == pytest.approx(3e-30, rel=1e-5, abs=0)
    assert on_one_cell(2, torch.zeros(2)).item() == 0


@runs
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy, in the interpreter
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_not_hidden_by_whole_numbers(bad: float) -> None:
    value, locations, weights = random_inputs()
    grad_output = random_gradient(value, locations)
    wanted = expected(SHAPES, (value, locations, weights), grad_output)[1][0]
    grad_output[1, 2, 0] = bad  # head 0
    with deterministic_algorithms():
        gradient = backward(grad_output, value, SHAPES, locations, weights)[0]
    assert gradient[1, :, 0].isnan().all()
    assert_near(gradient[0], wanted[0])
    assert_near(gradient[1, :, 1], wanted[1, :, 1])


@pytest.mark.skipif(DEVICE == "cpu" or INTERPRETED, reason="needs a GPU")
def test_tensors_may_exceed_2_to_the_31_numbers() -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < 32 * 2**30:
        pytest.skip("needs 32 GiB on the GPU")
    shapes = ((1024, 1024),)
    _, locations, weights = random_inputs(shapes, points=1, b=3, heads=8)
    value = torch.randn(3, 2**20, 8, 128, dtype=torch.float16, device=DEVICE)
    assert value.numel() > 2**31
    grad_output = random_gradient(value, locations)
    answer, found = forward(value, shapes, locations, weights), backward(grad_output, value, shapes, locations, weights)
    last = (value[2:], locations[2:], weights[2:])
    alone = forward(last[0], shapes, *last[1:]), backward(grad_output[2:], last[0], shapes, *last[1:])
    assert torch.equal(answer[2:], alone[0])
    for gradient, gradient_alone in zip(found, alone[1]):
        assert_near(gradient[2:], gradient_alone)


@runs
def test_whole_numbers_are_refused_as_values() -> None:
    value, locations, weights = random_inputs()
    with pytest.raises(ValueError, match="values of torch.int64; convert"):
        forward(value.long(), SHAPES, locations, weights)


@compiles
def test_tensors_on_the_cpu_are_refused_by_name() -> None:
    pytest.importorskip("triton")
    value, locations, weights = (tensor.cpu() for tensor in random_inputs())
    with pytest.raises(ValueError, match=r"\['cpu'\].*interpreter.*\"auto\""):
        forward(value, SHAPES, locations, weights)


def test_without_triton_it_says_so_instead_of_failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ops, "triton_kernels", raising=False)
    monkeypatch.delitem(sys.modules, "dk_detr.layers.ops.triton_kernels", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    try:
        triton_backend._kernels.cache_clear()
        assert re.match("Triton cannot be imported", triton_backend.unavailable.__wrapped__() or "")
    finally:
        triton_backend._kernels.cache_clear()


def test_without_a_c_compiler_it_says_so_instead_of_failing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: str) -> None:
        raise RuntimeError("Failed to find\nC compiler.")

    monkeypatch.setattr(triton_backend, "_kernels", lambda: SimpleNamespace(INTERPRETED=True))
    monkeypatch.setattr(triton_backend, "_try_out", fail)
    assert "(RuntimeError: Failed to find C compiler.)" in (triton_backend.unavailable.__wrapped__() or "")


def test_moved_bytes_are_counted_by_hand() -> None:
    value = torch.zeros(1, 6, 2, 4, dtype=torch.float16)  # 96 bytes
    locations = torch.zeros(1, 3, 2, 1, 5, 2)  # 240 bytes
    weights = torch.zeros(1, 3, 2, 1, 5, dtype=torch.float16)  # 60 bytes
    answer = 3 * 2 * 4 * 2
    assert moved_bytes(value, locations, weights) == 96 + 240 + 60 + answer
    assert moved_bytes_backward(value, locations, weights) == 2 * (96 + 240 + 60) + answer


class Recorder:
    """Stands in for a kernel and keeps what it would be started with."""

    def __getitem__(self, grid: tuple[int]) -> Any:
        return self.record

    def record(self, *arguments: Any, num_warps: int, **constants: Any) -> None:
        self.arguments, self.constants, self.num_warps = arguments, constants, num_warps


def recorded(name: str, inputs: Inputs, shapes, monkeypatch: pytest.MonkeyPatch, deterministic: bool) -> Recorder:
    """What `forward` or `backward` starts for these inputs, which may lie on the CPU."""
    recorder = Recorder()
    monkeypatch.setattr(triton_backend._kernels(), "INTERPRETED", True)
    monkeypatch.setattr(triton_backend._kernels(), f"{name}_kernel", recorder)
    with deterministic_algorithms(deterministic):
        if name == "forward":
            forward(inputs[0], shapes, *inputs[1:])
        else:
            backward(random_gradient(*inputs[:2]), inputs[0], shapes, *inputs[1:])
    return recorder


def type_name(argument: Any) -> Any:
    """As Triton's compiler calls it."""
    if isinstance(argument, tuple):
        return tuple(map(type_name, argument))
    names = {torch.float32: "*fp32", torch.float16: "*fp16", torch.float64: "*fp64"}
    names |= {torch.bfloat16: "*bf16", torch.int64: "*i64"}
    return names[argument.dtype] if isinstance(argument, Tensor) else "i32"


def compiled(kernel: Any, start: Recorder, target: Any) -> Any:
    """The machine code that a GPU of this kind would get, from compilers that need no GPU."""
    import triton
    from triton.compiler import ASTSource

    types = dict(zip(kernel.arg_names, map(type_name, start.arguments)))
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    constants = {(kernel.arg_names.index(name),): number for name, number in start.constants.items()}
    pointers = [i for i, argument in enumerate(start.arguments) if isinstance(argument, Tensor)]
    source = ASTSource(kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in pointers})
    return triton.compile(source, target=target, options={"num_warps": start.num_warps})


def code_for(
    architecture: int | str, name: str, dtype: torch.dtype, deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Of what is started for 32 channels, 2 levels and 2 points; 90 is a Hopper GPU, "gfx942" one of AMD's."""
    pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    kernel = getattr(triton_backend._kernels(), f"{name}_kernel")
    shapes = ((1, 1), (16, 8))
    value, locations, weights = (tensor.cpu() for tensor in random_inputs(shapes, channels=32))
    start = recorded(name, (value.to(dtype), locations, weights), shapes, monkeypatch, deterministic)
    amd = isinstance(architecture, str)
    return compiled(kernel, start, GPUTarget("hip", architecture, 64) if amd else GPUTarget("cuda", architecture, 32))


@compiles
@pytest.mark.parametrize("architecture, dtype", [(90, torch.float64), (80, torch.bfloat16), ("gfx942", torch.float32)])
@pytest.mark.parametrize("name, deterministic", [("forward", False), ("backward", False), ("backward", True)])
def test_the_kernels_compile_for_gpus(
    name: str,
    deterministic: bool,
    architecture: int | str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    code = code_for(architecture, name, dtype, deterministic, monkeypatch)
    assert len(code.asm["hsaco" if "hsaco" in code.asm else "cubin"]) > 0


@compiles
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["forward", "backward"])
def test_hopper_reads_and_adds_16_bytes_at_once_and_never_waits_at_a_barrier(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    instructions = code_for(90, name, dtype, False, monkeypatch).asm["ptx"]
    assert "ld.global.v4.b32" in instructions
    assert not re.search(r"\bbar\.|ld\.shared|ld\.local", instructions)
    additions = re.findall(r"(?:atom|red)\.global\S+", instructions)
    assert bool(additions) == (name == "backward")
    assert all(addition.endswith("relaxed.add.v4.f32") for addition in additions)


@compiles
def test_a_new_image_size_needs_no_new_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    kernel = triton_backend._kernels().forward_kernel
    assert {parameter.name for parameter in kernel.params if parameter.do_not_specialize} == {"tokens", "queries"}
    shapes = ((1, 1), (16, 32), (7, 8))
    inputs = tuple(tensor.cpu() for tensor in random_inputs(shapes))
    *_, sizes, tokens, queries = recorded("forward", inputs, shapes, monkeypatch, deterministic=False).arguments
    assert (tokens, queries) == (569, 3)
    numbers = [number for pair in sizes for number in pair]
    assert not any(number == 1 or number % 16 == 0 for number in numbers)  # for these Triton compiles anew
    assert [number // 2 for number in numbers] == [1, 1, 16, 32, 7, 8]
