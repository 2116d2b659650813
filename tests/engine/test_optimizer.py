"""The optimizer: which parameter learns how fast and decays how much, and how the gradient is clipped."""

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from dk_detr.engine import setup_cfg
from dk_detr.engine.optimizer import ClippedAdamW, ClippedSGD, build_optimizer, parameter_groups
from tests.run_fixtures import MINI, World

RATES: dict[str, Any] = {
    "SOLVER__BASE_LR": 1e-3,
    "SOLVER__BACKBONE_MULTIPLIER": 0.1,
    "SOLVER__SAMPLING_MULTIPLIER": 0.5,
    "SOLVER__WEIGHT_DECAY": 0.05,
}


@pytest.fixture(scope="module")
def cfg(world: World) -> CfgNode:
    return setup_cfg(MINI, world.options(**RATES))


@pytest.fixture(scope="module")
def model(cfg: CfgNode) -> nn.Module:
    return build_model(cfg)


@pytest.fixture(scope="module")
def settings(cfg: CfgNode, model: nn.Module) -> dict[str, tuple[float, float]]:
    """Name of each parameter -> learning rate, weight decay."""
    groups = parameter_groups(cfg, model)
    of = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    return {name: of[id(parameter)] for name, parameter in model.named_parameters() if id(parameter) in of}


def test_every_trainable_parameter_enters_once(cfg: CfgNode, model: nn.Module) -> None:
    entered = [id(p) for group in parameter_groups(cfg, model) for p in group["params"]]
    assert sorted(entered) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_a_shared_parameter_enters_once_and_a_frozen_one_not_at_all(cfg: CfgNode) -> None:
    model = nn.ModuleDict({"one": nn.Linear(2, 2), "frozen": nn.Linear(2, 2).requires_grad_(False)})
    model["two"] = model["one"]
    assert [len(group["params"]) for group in parameter_groups(cfg, model)] == [2]


def test_norms_do_not_decay(model: nn.Module, settings: dict[str, tuple[float, float]]) -> None:
    norms = [name for name in settings if ".norm" in name or ".token.1." in name or ".to_query.1." in name]
    assert norms and {settings[name][1] for name in norms} == {0.0}


def test_what_is_no_norm_decays(settings: dict[str, tuple[float, float]]) -> None:
    taught = "extensions.Distillation.queries.content.weight"
    for name in ("encoder.layers.0.ffn.linear1.weight", "encoder.level_embed", taught):
        assert settings[name][1] == 0.05


def test_the_backbone_learns_at_its_own_rate(settings: dict[str, tuple[float, float]]) -> None:
    assert {settings[name][0] for name in settings if name.startswith("backbone.")} == {1e-3 * 0.1}


def test_sampling_offsets_learn_at_their_own_rate(settings: dict[str, tuple[float, float]]) -> None:
    offsets = [name for name in settings if "sampling_offsets" in name]
    assert len(offsets) == 4  # weight and bias, in one encoder and one decoder layer
    assert {settings[name][0] for name in offsets} == {1e-3 * 0.5}


def test_learned_points_learn_like_sampling_offsets(world: World) -> None:
    """Deformable DETR's release: both say where to look."""
    cfg = setup_cfg(MINI, world.options(**RATES, MODEL__DETR__QUERIES="Learned", MODEL__TRAINING_EXTENSIONS=[]))
    model = build_model(cfg)
    groups = parameter_groups(cfg, model)
    of = {id(p): group["lr"] for group in groups for p in group["params"]}
    queries = {name: of[id(parameter)] for name, parameter in model.queries.named_parameters()}
    assert queries.pop("reference.weight") == queries.pop("reference.bias") == 1e-3 * 0.5
    assert queries == {"content.weight": 1e-3, "position.weight": 1e-3}


def test_the_rest_learns_at_the_base_rate(settings: dict[str, tuple[float, float]]) -> None:
    rest = [name for name in settings if not name.startswith("backbone.") and "sampling_offsets" not in name]
    assert {settings[name][0] for name in rest} == {1e-3}


def test_groups_are_few(cfg: CfgNode, model: nn.Module) -> None:
    settings = [(group["lr"], group["weight_decay"]) for group in parameter_groups(cfg, model)]
    assert len(settings) == len(set(settings)) <= 6


def test_biases_follow_their_own_decay_where_it_is_set(world: World, model: nn.Module) -> None:
    cfg = setup_cfg(MINI, world.options(SOLVER__WEIGHT_DECAY_BIAS=0.01, **RATES))
    decays = {id(p): group["weight_decay"] for group in parameter_groups(cfg, model) for p in group["params"]}
    assert decays[id(model.decoder.layers[0].ffn.linear1.bias)] == 0.01
    assert decays[id(model.decoder.layers[0].ffn.norm.bias)] == 0.0


# ---- clipping ----


def two_parameters(*gradients: list[float]) -> list[dict[str, Any]]:
    """One group each, with this gradient."""
    parameters = [nn.Parameter(torch.zeros(len(gradient))) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = torch.tensor(gradient)
    return [{"params": [parameter]} for parameter in parameters]


def gradients(groups: list[dict[str, Any]]) -> list[list[float]]:
    return [group["params"][0].grad.tolist() for group in groups]


def test_the_gradient_of_all_groups_is_clipped_together() -> None:
    groups = two_parameters([3.0, 0.0], [4.0])  # together of length 5, here brought to 0.1
    ClippedAdamW(groups, max_norm=0.1, lr=1e-3).step()
    assert gradients(groups) == [pytest.approx([0.06, 0.0]), pytest.approx([0.08])]


def test_a_short_gradient_stays_as_it_is() -> None:
    groups = two_parameters([0.03, 0.0], [0.04])
    ClippedAdamW(groups, max_norm=0.1, lr=1e-3).step()
    assert gradients(groups) == [pytest.approx([0.03, 0.0]), pytest.approx([0.04])]


def test_without_clipping_a_long_gradient_stays_as_it_is() -> None:
    groups = two_parameters([3.0, 0.0], [4.0])
    ClippedAdamW(groups, max_norm=0.0, lr=1e-3).step()
    assert gradients(groups) == [[3.0, 0.0], [4.0]]


def test_clipping_sees_the_gradient_without_the_scale_of_mixed_precision() -> None:
    """A scaler hands scaled gradients to a fused optimizer; 0.05 is short, though times 1024 it is long."""
    groups = two_parameters([0.05])
    parameter = groups[0]["params"][0]
    optimizer = ClippedAdamW(groups, max_norm=0.1, lr=1e-3, betas=(0.0, 0.0), eps=1.0, weight_decay=0.0, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.zeros(()))  # makes the scale
    parameter.grad *= 1024
    scaler.step(optimizer)
    assert parameter.item() == pytest.approx(-1e-3 * 0.05 / (0.05 + 1.0), rel=1e-4)


def test_clipping_by_value_is_refused_by_its_key(world: World, model: nn.Module) -> None:
    cfg = setup_cfg(MINI, world.options(SOLVER__CLIP_GRADIENTS__CLIP_TYPE="value"))
    with pytest.raises(ValueError, match='SOLVER.CLIP_GRADIENTS.CLIP_TYPE is "value".*"full_model"'):
        build_optimizer(cfg, model)


def test_the_config_says_how_much_is_clipped(world: World, cfg: CfgNode, model: nn.Module) -> None:
    assert build_optimizer(cfg, model).max_norm == 1.0
    off = setup_cfg(MINI, world.options(SOLVER__CLIP_GRADIENTS__ENABLED=False))
    assert build_optimizer(off, model).max_norm == 0.0


# ---- gradients that are not finite, and states of other runs ----


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("max_norm", [0.0, 1.0])
@pytest.mark.parametrize("kind", [ClippedAdamW, ClippedSGD])
def test_a_gradient_that_is_not_finite_changes_nothing(kind: Any, max_norm: float, broken: float) -> None:
    groups = two_parameters([1.0, broken], [2.0])
    optimizer = kind(groups, max_norm=max_norm, lr=0.1, fused=True)
    optimizer.step()
    assert all(not parameter.any() for group in groups for parameter in group["params"])
    assert not optimizer.norm.isfinite()
    for group in groups:
        group["params"][0].grad.fill_(1.0)
    optimizer.step()
    assert all(parameter.all() for group in groups for parameter in group["params"])
    assert optimizer.norm == pytest.approx(3**0.5)


def test_an_overflow_under_a_scaler_is_left_to_the_scaler() -> None:
    groups = two_parameters([float("inf")])
    optimizer = ClippedAdamW(groups, max_norm=0.1, lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.zeros(()))
    scaler.step(optimizer)
    scaler.update()
    assert optimizer.norm is None and scaler.get_scale() == 512.0 and groups[0]["params"][0].item() == 0


def test_a_state_is_taken_up_by_the_names_of_parameters_whatever_the_groups() -> None:
    one = {"params": [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2))], "names": ["a", "b"]}
    old = ClippedSGD([one], max_norm=0.0, lr=1.0, momentum=0.9)
    for parameter in one["params"]:
        parameter.grad = torch.ones_like(parameter)
    old.step()
    groups = [{"params": [nn.Parameter(torch.zeros(size))], "names": [name]} for name, size in (("b", 2), ("a", 1))]
    new = ClippedSGD(groups, max_norm=0.0, lr=3.0, momentum=0.5)
    new.load_state_dict(old.state_dict())
    assert [len(new.state[group["params"][0]]["momentum_buffer"]) for group in groups] == [2, 1]
    assert {(group["lr"], group["momentum"]) for group in new.param_groups} == {(3.0, 0.5)}


def test_the_norm_is_of_the_type_that_the_config_says(world: World, model: nn.Module) -> None:
    cfg = setup_cfg(MINI, world.options(SOLVER__CLIP_GRADIENTS__NORM_TYPE=1.0))
    assert build_optimizer(cfg, model).norm_type == 1.0
    groups = two_parameters([3.0, 0.0], [4.0])
    ClippedAdamW(groups, max_norm=0.7, norm_type=1.0, lr=1e-3).step()
    assert gradients(groups) == [pytest.approx([0.3, 0.0]), pytest.approx([0.4])]
