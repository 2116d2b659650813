"""Layers that are computed again in backward, and layers that are compiled: the same result at another price."""

import copy
import logging
import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock, ResNet
from torch import Tensor, nn

from dk_detr.meta_arch import DETR
from dk_detr.modeling import acceleration
from dk_detr.modeling.acceleration import accelerate
from tests.model_fixtures import random, tiny_detector, tiny_distillation, tiny_input, training_losses

BOTH = ["encoder", "decoder"]
BATCH = [tiny_input(seed=1), tiny_input(seed=2)]
PADDED = [tiny_input((40, 48), seed=1), tiny_input((64, 33), seed=2)]


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile follows the code, and then calls torch's own operators: seconds instead of minutes."""
    monkeypatch.setattr(acceleration, "BACKEND", "eager")


def detector(
    checkpointed: list[str] | None = None, compiled: list[str] | None = None, dropout: float = 0.0
) -> DETR:
    built = tiny_detector(tiny_distillation())
    for module in [*built.encoder.modules(), *built.decoder.modules()]:
        if isinstance(module, nn.Dropout):
            module.p = dropout
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = dropout
    accelerate({"encoder": built.encoder, "decoder": built.decoder}, checkpointed or [], compiled or [])
    return built


def learn(model: DETR, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Losses and gradients of a step."""
    torch.manual_seed(0)
    losses = training_losses(model, inputs)
    model.zero_grad()
    sum(losses.values()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {name: value.detach().clone() for name, value in {**losses, **gradients}.items()}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


# ---- computed again ----


@pytest.mark.parametrize("parts", [["encoder"], ["decoder"], BOTH], ids="+".join)
def test_what_is_computed_again_is_the_same_bit_for_bit_with_its_dropout(parts: list[str]) -> None:
    for inputs in (BATCH, PADDED):
        again, once = learn(detector(parts, dropout=0.2), inputs), learn(detector(dropout=0.2), inputs)
        assert_same(again, once)
        assert not torch.equal(once["loss_class"], learn(detector(), inputs)["loss_class"])


def test_what_is_computed_again_is_the_same_in_half_floats() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        plain, checkpointed = learn(detector(dropout=0.2), BATCH), learn(detector(BOTH, dropout=0.2), BATCH)
    assert_same(checkpointed, plain)


def bytes_kept(model: DETR) -> int:
    """What forward keeps of the encoder and decoder for backward."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        training_losses(model, BATCH)
    return sum(kept.values())


def test_what_is_computed_again_is_not_kept() -> None:
    assert bytes_kept(detector(BOTH)) < 0.6 * bytes_kept(detector())


def test_nothing_is_computed_again_where_nothing_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "checkpoint", lambda *args, **kwargs: pytest.fail("in evaluation"))
    assert detector(BOTH).eval()([{"image": BATCH[0]["image"]}])


def resnet() -> ResNet:
    """Two stages with batch norms."""
    stem = BasicStem(3, 8, norm="BN")
    stages = [
        ResNet.make_stage(BottleneckBlock, 2, in_channels=8, out_channels=16, bottleneck_channels=8, norm="BN"),
        ResNet.make_stage(BottleneckBlock, 2, in_channels=16, out_channels=16, bottleneck_channels=8, norm="BN"),
    ]
    torch.manual_seed(0)
    net = ResNet(stem, stages, out_features=["res2", "res3"])
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net.train()


def test_a_backbone_that_is_computed_again_counts_a_batch_once() -> None:
    plain, checkpointed = resnet(), resnet()
    accelerate({"backbone": checkpointed}, ["backbone"], [])
    for net in (plain, checkpointed):
        sum(level.square().mean() for level in net(random(2, 3, 32, 32)).values()).backward()
    assert_same(dict(checkpointed.state_dict()), dict(plain.state_dict()))
    assert checkpointed.state_dict()["stem.conv1.norm.num_batches_tracked"] == 1
    gradients = [{name: p.grad for name, p in net.named_parameters()} for net in (checkpointed, plain)]
    assert_same(*gradients)


# ---- compiled ----


def graphs_compiled() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.usefixtures("traced_only")
def test_what_is_compiled_is_the_same_for_all_sizes_and_compiled_twice() -> None:
    """Once for batches without padding, once for those with."""
    import torch._dynamo.utils

    torch._dynamo.reset()
    before = graphs_compiled()
    compiled, plain = detector(compiled=["encoder"]), detector()
    for sizes in ([(40, 48), (40, 48)], [(40, 48), (64, 33)], [(56, 40), (56, 40)], [(72, 48), (48, 64)]):
        inputs = [tiny_input(size, seed=seed) for seed, size in enumerate(sizes)]
        assert_same(learn(compiled, inputs), learn(plain, inputs))
    assert graphs_compiled() - before == 2
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.usefixtures("traced_only")
def test_what_is_compiled_can_be_computed_again() -> None:
    assert_same(learn(detector(BOTH, BOTH), BATCH), learn(detector(), BATCH))
    with_dropout = [learn(detector(again, BOTH, dropout=0.2), BATCH) for again in (BOTH, [])]
    assert_same(*with_dropout)


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler")
def test_the_compiler_gives_the_same_detections(caplog: pytest.LogCaptureFixture) -> None:
    """In earnest, with generated code, for one encoder layer in evaluation."""
    given = [{"image": BATCH[0]["image"]}]
    (plain,), (compiled,) = detector()(given), detector(compiled=["encoder"])(given)
    ours, theirs = compiled["instances"], plain["instances"]
    assert torch.equal(ours.pred_classes, theirs.pred_classes)
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
    assert "does not work here" not in caplog.text


def no_compiler(graph: Any, inputs: Any) -> Callable[..., Any]:
    raise FileNotFoundError("g++ is not there")


def test_without_a_compiler_all_goes_on_as_it_is_after_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceleration, "BACKEND", no_compiler)
    compiled = detector(compiled=BOTH)
    with caplog.at_level(logging.WARNING, "dk_detr"):
        for inputs in (BATCH, PADDED):
            assert_same(learn(compiled, inputs), learn(detector(), inputs))
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("dk_detr.modeling")]
    assert len(warnings) == 1
    assert "g++ is not there" in warnings[0] and "MODEL.DETR.COMPILED" in warnings[0]


def test_where_torch_cannot_compile_at_all_it_goes_on_as_well(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("torch.compile is not supported on this Python")

    monkeypatch.setattr(torch, "compile", refuse)
    assert_same(learn(detector(compiled=BOTH), BATCH), learn(detector(), BATCH))
    assert caplog.text.count("torch.compile is not supported on this Python") == 1


@pytest.mark.usefixtures("traced_only")
def test_an_error_of_the_layer_itself_is_not_taken_for_one_of_the_compiler() -> None:
    compiled = detector(compiled=["encoder"])
    compiled.encoder.layers[0].attention.backend = "no such backend"
    with pytest.raises(ValueError, match='no backend "no such backend"'):
        learn(compiled, BATCH)


# ---- what holds for both ----


@pytest.mark.usefixtures("traced_only")
def test_names_and_copies_are_as_they_were() -> None:
    changed, plain = detector(BOTH, BOTH), detector()
    assert list(changed.state_dict()) == list(plain.state_dict())
    before = learn(changed, BATCH)
    other = copy.deepcopy(changed)
    assert_same(learn(other, BATCH), before)
    with torch.no_grad():
        other.encoder.layers[0].ffn.linear1.weight.zero_()
        other.decoder.layers[0].ffn.linear1.weight.zero_()
    assert not torch.equal(learn(other, BATCH)["loss_class"], before["loss_class"])
    assert_same(learn(changed, BATCH), before)


def test_an_unknown_part_is_refused_by_its_key() -> None:
    with pytest.raises(ValueError, match='MODEL.DETR.CHECKPOINTED names "neck"; choose from backbone, encoder, dec'):
        accelerate({}, ["neck"], [])
    with pytest.raises(ValueError, match='MODEL.DETR.COMPILED names "backbone"; choose from encoder, decoder'):
        accelerate({}, [], ["backbone"])


def test_a_backbone_without_blocks_is_refused_by_the_key() -> None:
    with pytest.raises(ValueError, match='MODEL.DETR.CHECKPOINTED names "backbone", but TwoConvolutions has no'):
        accelerate({"backbone": tiny_detector().backbone}, ["backbone"], [])
