"""Precision: half floats where they do no harm, with losses that hardly change; float16 with a scale, on GPUs only."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from dk_detr.criterion import HungarianMatcher
from dk_detr.distillation import SlotSelection
from dk_detr.engine import setup_cfg
from dk_detr.engine.optimizer import ClippedAdamW
from dk_detr.engine.precision import Precision, precision_from_config
from dk_detr.engine.step import Step
from dk_detr.meta_arch import DETR
from dk_detr.structures import Predictions, Targets
from tests.model_fixtures import tiny_detector, tiny_distillation, tiny_input, training_losses
from tests.run_fixtures import MINI, World

BFLOAT16 = {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": "bfloat16"}


def cfg(world: World, **keys: Any) -> CfgNode:
    return setup_cfg(MINI, world.options(**{f"SOLVER__AMP__{key}": value for key, value in keys.items()}))


# ---- what the config says ----


def test_without_a_word_all_is_in_full_precision(world: World) -> None:
    precision = precision_from_config(cfg(world))
    assert precision.dtype is None and not precision.scaler.is_enabled()
    with precision.autocast():
        assert not torch.is_autocast_enabled("cpu")


def test_bfloat16_needs_no_scale(world: World) -> None:
    precision = precision_from_config(cfg(world, ENABLED=True, DTYPE="bfloat16"))
    assert precision.dtype == torch.bfloat16 and not precision.scaler.is_enabled()
    with precision.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_float16_is_refused_where_there_is_no_gpu(world: World) -> None:
    with pytest.raises(ValueError, match='SOLVER.AMP.DTYPE "float16" .*MODEL.DEVICE is "cpu".*"bfloat16"'):
        precision_from_config(cfg(world, ENABLED=True))


def test_float16_on_a_gpu_scales_its_gradients(world: World) -> None:
    config = cfg(world, ENABLED=True)
    config.defrost()
    config.MODEL.DEVICE = "cuda:0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a machine without one switches the scale off, with a warning
        precision = precision_from_config(config)
    assert precision.device == "cuda" and precision.dtype == torch.float16
    assert precision.scaler.is_enabled() == torch.cuda.is_available()


def test_an_unknown_dtype_is_refused_by_its_key(world: World) -> None:
    with pytest.raises(ValueError, match='SOLVER.AMP.DTYPE is "fp8"; choose one of float16, bfloat16'):
        precision_from_config(cfg(world, ENABLED=True, DTYPE="fp8"))


# ---- what half floats change ----


def detector() -> DETR:
    """All twelve slots are taught: the best few might be others in half floats."""
    return tiny_detector(tiny_distillation(slots=SlotSelection(12, (), min_side=0.0)))


@pytest.fixture
def first_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stage chooses the tokens that it chose the first time: half floats may rank others first, and losses of
    other regions say nothing about precision."""
    chosen: list[Tensor] = []
    true_topk = Tensor.topk

    def topk(scores: Tensor, number: int, dim: int = -1) -> tuple[Tensor, Tensor]:
        if not chosen:
            chosen.append(true_topk(scores, number, dim)[1])
        assert chosen[0].shape == (len(scores), number) and dim == 1
        return scores.gather(1, chosen[0]), chosen[0]

    monkeypatch.setattr(Tensor, "topk", topk)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.usefixtures("first_choice_stays")
def test_losses_in_half_floats_are_those_in_full_precision(seed: int, dtype: torch.dtype) -> None:
    """Detection to one in a hundred, distillation, which compares at a low temperature, to five."""
    inputs = [tiny_input(seed=2 * seed + 1), tiny_input((40, 60), seed=2 * seed + 2)]
    full = training_losses(detector(), inputs)
    with Precision("cpu", dtype).autocast():
        half = training_losses(detector(), inputs)
    for name, loss in full.items():
        assert half[name].dtype == torch.float32
        assert half[name].item() == pytest.approx(loss.item(), rel=0.05 if "_kd_" in name else 0.01), name
    assert any(half[name] != full[name] for name in full)  # it did compute in half floats


def test_gradients_in_half_floats_point_the_same_way() -> None:
    def gradient(precision: Precision) -> Tensor:
        model = detector()
        with precision.autocast():
            losses = training_losses(model, [tiny_input(seed=1), tiny_input(seed=2)])
        precision.backward(sum(losses.values()))
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    full, half = gradient(Precision()), gradient(Precision("cpu", torch.bfloat16))
    assert half.dtype == torch.float32
    assert torch.cosine_similarity(full, half, dim=0) > 0.98
    assert half.norm().item() == pytest.approx(full.norm().item(), rel=0.05)


def test_scores_boxes_and_costs_of_matching_are_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    def watched(self: HungarianMatcher, predictions: Predictions, targets: Targets) -> Tensor:
        cost = true_cost(self, predictions, targets)
        seen.append([predictions.logits.dtype, predictions.boxes.dtype, cost.dtype])
        return cost

    seen: list[list[torch.dtype]] = []
    true_cost = HungarianMatcher.cost
    monkeypatch.setattr(HungarianMatcher, "cost", watched)
    with torch.autocast("cpu", torch.bfloat16):
        training_losses(detector(), [tiny_input(seed=1)])
    assert seen == 2 * [3 * [torch.float32]]


def test_a_run_trains_in_half_floats_and_is_evaluated_in_full_precision(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watched(self: DETR, given: list[dict[str, Any]]) -> Any:
        seen.add((self.training, torch.is_autocast_enabled("cpu")))
        return true_forward(self, given)

    seen: set[tuple[bool, bool]] = set()
    true_forward = DETR.forward
    monkeypatch.setattr(DETR, "forward", watched)
    world.train(tmp_path, SOLVER__MAX_ITER=2, **BFLOAT16)
    assert seen == {(True, True), (False, False)}


# ---- the scale of float16 ----


class Factor(nn.Module):
    """A loss whose gradient is one of `values` after the other, times the scale."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        left = iter(values)
        self.weight.register_hook(lambda gradient: gradient * next(left))

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        return {"loss": self.weight * 1.0}


def scaled(device: str = "cpu") -> Precision:
    """The scale of float16 on a machine without a GPU."""
    return Precision(device, None, torch.amp.GradScaler(device, init_scale=2.0**10, growth_interval=2))


def steps(precision: Precision, *gradients: float) -> tuple[list[float], Step]:
    """The weight after each step, and what took them."""
    model = Factor(*gradients)
    optimizer = ClippedAdamW([{"params": list(model.parameters())}], max_norm=0.1, lr=0.1, betas=(0.5, 0.5), eps=1.0)
    step, weights = Step(model, [[{}] for _ in gradients], optimizer, precision=precision), []
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with EventStorage(), warnings.catch_warnings():
        warnings.simplefilter("error")  # of a schedule that moves on without a step
        for _ in gradients:
            step.run_step()
            schedule.step()
            weights.append(model.weight.item())
    return weights, step


def test_a_scale_changes_no_step() -> None:
    """0.05 is short, 3 is clipped."""
    assert steps(scaled(), 0.05, 3.0, -0.02)[0] == pytest.approx(steps(Precision(), 0.05, 3.0, -0.02)[0], rel=1e-5)


def test_a_step_whose_gradient_overflows_is_skipped_and_the_scale_halved() -> None:
    weights, step = steps(scaled(), 0.05, float("inf"), 0.05)
    assert weights[0] == weights[1] != weights[2]
    assert step.precision.scaler.get_scale() == 2.0**9


def test_the_scale_goes_on_where_it_was() -> None:
    _, step = steps(scaled(), 0.05, 0.05, 0.05)
    assert step.precision.scaler.get_scale() == 2.0**11
    _, other = steps(scaled())
    other.load_state_dict(step.state_dict())
    assert other.precision.state_dict() == step.precision.state_dict()


def test_a_run_may_begin_or_cease_to_scale() -> None:
    _, plain = steps(Precision(), 0.05)
    _, lifted = steps(scaled(), 0.05)
    states = plain.state_dict(), lifted.state_dict()
    lifted.load_state_dict(states[0])
    plain.load_state_dict(states[1])
    assert lifted.precision.scaler.get_scale() == 2.0**10 and not plain.precision.state_dict()
