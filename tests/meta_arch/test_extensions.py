"""Training extensions: several together, those of projects, and none at inference.

B images, Q queries, C channels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from dk_detr.criterion import SetCriterion
from dk_detr.distillation.teachers import clip_crops
from dk_detr.engine.setup import for_inference
from dk_detr.extensions import BuildContext, Denoising, Plan, TrainingExtension, TrainingInputs, TrainingOutputs
from dk_detr.language import is_closed
from dk_detr.meta_arch import DETR, build
from dk_detr.meta_arch.extensions import TRAINING_EXTENSIONS
from dk_detr.structures import Predictions, QueryGroup, Targets, Vocabulary
from tests.model_fixtures import (
    CHANNELS,
    QUERIES,
    TwoConvolutions,
    closed_vocabulary,
    config_of,
    configured_detector,
    fixed_seed,
    tiny_config,
    tiny_input,
    tiny_vocabulary,
    training_losses,
)
from tests.run_fixtures import REPOSITORY

DK_DINO = "dk_dino_R50"
INPUTS = [tiny_input(seed=1), tiny_input((32, 40), 3, seed=2)]
FOLDER = REPOSITORY / "configs"


def named(path: Path) -> str:
    return str(path.relative_to(FOLDER).with_suffix(""))


EXTENDED = [
    name
    for name in map(named, sorted(FOLDER.rglob("*.yaml")))
    if not Path(name).name.startswith("Base-") and config_of(name).MODEL.TRAINING_EXTENSIONS
]
"""The configs that name a training extension."""


def detector_with(*extensions: str, like: DETR | None = None) -> DETR:
    """DK-DINO with these extensions; with the weights of `like` where it has them."""
    detector = configured_detector(DK_DINO, TRAINING_EXTENSIONS=list(extensions))
    if like is not None:
        detector.load_state_dict({key: like.state_dict()[key] for key in detector.state_dict()})
    return detector


def step(detector: DETR) -> dict[str, Tensor]:
    """The losses of a step with the same dice each time."""
    with fixed_seed(7):
        return training_losses(detector, INPUTS)


def assert_trains(detector: DETR) -> dict[str, Tensor]:
    """Finite losses, and a finite gradient on every parameter: DDP waits for those that get none."""
    losses = step(detector)
    assert all(loss.shape == () and math.isfinite(loss.item()) for loss in losses.values())
    sum(losses.values()).backward()
    grads = {name: parameter.grad for name, parameter in detector.named_parameters()}
    assert not [name for name, grad in grads.items() if grad is None or not grad.isfinite().all()]
    return losses


def assert_holds(whole: dict[str, Tensor], part: dict[str, Tensor]) -> None:
    """The losses of the part are among those of the whole, with the same values."""
    for name, loss in part.items():
        torch.testing.assert_close(whole[name], loss, rtol=1e-5, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


# ---- several together ----


@pytest.mark.parametrize("denoising", ["Denoising", "BoxDenoising", "ContrastiveDenoising"])
@pytest.mark.parametrize("order", [1, -1], ids=["denoising first", "distillation first"])
def test_extensions_together_have_the_losses_of_each_alone(denoising: str, order: int) -> None:
    together = detector_with(*[denoising, "Distillation"][::order])
    losses = assert_trains(together)
    bare = step(detector_with(like=together))
    alone = [step(detector_with(name, like=together)) for name in (denoising, "Distillation")]
    own = [each.keys() - bare.keys() for each in alone]
    assert {name[: len("loss_dn_")] for name in own[0]} == {"loss_dn_"}
    assert {name[: len("loss_kd_")] for name in own[1]} == {"loss_kd_"}
    assert losses.keys() == bare.keys() | own[0] | own[1]
    for part in (bare, *alone):
        assert_holds(losses, part)


def test_all_extensions_of_the_house_that_can_be_together_train_together() -> None:
    names = ("BoxDenoising", "OneToMany", "Distillation")
    together = detector_with(*names)
    losses = assert_trains(together)
    bare = step(detector_with(like=together))
    alone = [step(detector_with(name, like=together)) for name in names]
    terms = [{name for name in each if name not in bare} for each in alone]
    assert terms[0] == {"loss_dn_l1", "loss_dn_giou"}
    assert terms[1] == {"loss_o2m_class", "loss_o2m_l1", "loss_o2m_giou"}
    assert losses.keys() == {*bare}.union(*terms)
    for part in (bare, *alone):
        assert_holds(losses, part)


def test_a_detector_that_rates_boxes_trains_its_raters_in_all_places_and_with_all_queries() -> None:
    names = ["BoxDenoising", "OneToMany", "Distillation"]
    rates = {"QUALITY__PLACES": ["first_stage", "decoder"]}
    losses = assert_trains(configured_detector(DK_DINO, TRAINING_EXTENSIONS=names, **rates))
    rated = {name for name in losses if name.endswith("quality")}
    assert rated == {"loss_quality", "loss_proposal_quality", "loss_dn_quality", "loss_o2m_quality"}
    assert all(losses[name] > 0 for name in rated - {"loss_proposal_quality", "loss_quality"})


def test_groups_are_decoded_in_the_order_in_which_the_config_names_their_extensions() -> None:
    started: list[list[str]] = []
    for names in (["ContrastiveDenoising", "Distillation"], ["Distillation", "ContrastiveDenoising"]):
        detector = detector_with(*names)
        detector.decoder.register_forward_pre_hook(lambda _, given: started.append([g.name for g in given[0].groups]))
        step(detector)
    assert started == [["detection", "denoising", "auxiliary"], ["detection", "auxiliary", "denoising"]]


def test_a_loss_without_the_prefix_of_its_extension_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take the place of the detector's own."""

    class Taking(Denoising):
        def supervise(self, plan: Any, inputs: TrainingInputs, outputs: TrainingOutputs) -> dict[str, Tensor]:
            return {"loss_class": self.content.weight.sum() * 0}

    monkeypatch.setitem(TRAINING_EXTENSIONS, "Taking", Taking)
    detector = configured_detector("dino_R50_4scale", TRAINING_EXTENSIONS=["Taking"])
    with pytest.raises(ValueError, match='"Taking" gives loss_class; its losses begin with loss_dn_'):
        training_losses(detector, [tiny_input()])


@pytest.mark.parametrize("prefix", ["", "proposal_", "mask_"])
def test_an_extension_cannot_take_the_names_of_the_detectors_own_losses(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRAINING_EXTENSIONS, "Taking", type("Taking", (Denoising,), {"prefix": prefix}))
    with pytest.raises(ValueError, match=f'"Taking" has the prefix "{prefix}" of the detector\'s own losses'):
        configured_detector("dino_R50_4scale", TRAINING_EXTENSIONS=["Taking"])


def test_two_extensions_of_one_prefix_are_refused_by_both_names_and_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    class OtherNoise(Denoising):
        """Another with the prefix of `Denoising`."""

    monkeypatch.setitem(TRAINING_EXTENSIONS, "OtherNoise", OtherNoise)
    for names in (["Denoising", "OtherNoise"], ["OtherNoise", "Distillation", "Denoising"], ["OtherNoise"] * 2):
        first, second = (name for name in names if name != "Distillation")
        message = rf'MODEL\.TRAINING_EXTENSIONS names "{first}" and "{second}", .* \(loss_dn_…\): take one of them out'
        with pytest.raises(ValueError, match=message):
            detector_with(*names)
    detector_with("OtherNoise", "Distillation")


# ---- none at inference ----


def words_of(cfg: CfgNode) -> tuple[Vocabulary, Vocabulary]:
    words = closed_vocabulary() if is_closed(cfg) else tiny_vocabulary()
    return words.base(), words


@pytest.mark.parametrize("name", EXTENDED)
def test_a_detector_for_inference_has_no_extension_and_loads_no_teacher(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "vocabularies_from_config", words_of)
    monkeypatch.setattr(clip_crops, "clip_from_config", lambda cfg: pytest.fail("CLIP was loaded for nothing."))
    cfg = tiny_config(name)
    detector = DETR(**build.parts_from_config(for_inference(cfg), TwoConvolutions())).eval()
    assert not len(detector.extensions) and cfg.MODEL.TRAINING_EXTENSIONS
    assert not [key for key in detector.state_dict() if "extensions" in key]
    assert len(detector(INPUTS)) == 2


# ---- one of a project ----

EXTRA = 4  # queries of `Hybrid`, of an image


@dataclass(frozen=True)
class HybridPlan(Plan):
    """Each object of an image `times` times."""

    targets: Targets


class Hybrid(TrainingExtension[HybridPlan]):
    """More queries, and each object is matched to several of them (as in H-DETR); they start from the backbone's map.

    Attributes:
        seen: what the last step showed to it.
    """

    prefix = "many_"

    @configurable
    def __init__(self, channels: int, criterion: SetCriterion, times: int = 2) -> None:
        super().__init__()
        self.criterion, self.times = criterion, times
        self.content = nn.Linear(CHANNELS, channels)
        self.places = nn.Embedding(EXTRA, 4)
        self.seen: dict[str, Any] = {}

    @classmethod
    def from_config(cls, cfg: CfgNode, context: BuildContext) -> dict[str, Any]:
        return {"channels": cfg.MODEL.DETR.CHANNELS, "criterion": context.criterion}

    def prepare(self, inputs: TrainingInputs) -> HybridPlan:
        """See `TrainingExtension`."""
        shown = self.content(inputs.pyramid.backbone["fine"].mean((2, 3)))[:, None].expand(-1, EXTRA, -1)
        boxes = self.places.weight.sigmoid().expand(len(shown), -1, -1)
        position = inputs.queries.position_of(boxes, shown.dtype)
        group = QueryGroup("many", shown, position, boxes, attends_to=("many",), reference_from="many")
        labels = tuple(each.repeat(self.times) for each in inputs.targets.labels)
        targets = Targets(labels, tuple(each.repeat(self.times, 1) for each in inputs.targets.boxes))
        self.seen["backbone"] = inputs.pyramid.backbone
        return HybridPlan((group,), targets)

    def supervise(self, plan: HybridPlan, inputs: TrainingInputs, outputs: TrainingOutputs) -> dict[str, Tensor]:
        """See `TrainingExtension`."""
        predictions = outputs.predictions["many"]
        self.seen["predictions"] = predictions
        losses, _ = self.criterion(predictions, plan.targets, inputs.num_objects * self.times, self.prefix)
        return losses


@pytest.fixture
def with_hybrid(monkeypatch: pytest.MonkeyPatch) -> Callable[..., DETR]:
    monkeypatch.setitem(TRAINING_EXTENSIONS, "Hybrid", Hybrid)
    return detector_with


ALL_THREE = ("ContrastiveDenoising", "Distillation", "Hybrid")


def test_an_extension_of_a_project_trains_beside_those_of_the_house(with_hybrid: Callable[..., DETR]) -> None:
    detector = with_hybrid(*ALL_THREE)
    losses = assert_trains(detector)
    others = step(with_hybrid(*ALL_THREE[:2], like=detector))
    assert losses.keys() - others.keys() == {f"loss_many_{term}" for term in ("class", "l1", "giou")}
    assert all(losses[name] > 0 for name in losses)
    assert_holds(losses, others)
    assert_holds(losses, step(with_hybrid("Hybrid", like=detector)))


def test_it_sees_the_maps_of_the_backbone_and_they_learn_from_it(with_hybrid: Callable[..., DETR]) -> None:
    detector, own = with_hybrid(*ALL_THREE), {}
    detector.backbone.register_forward_hook(lambda module, given, maps: own.update(maps))
    losses = step(detector)
    seen = detector.extensions["Hybrid"].seen["backbone"]
    assert list(seen) == ["fine", "coarse"] and all(seen[name] is own[name] for name in own)
    many: Any = sum(loss for name, loss in losses.items() if name.startswith("loss_many_"))
    many.backward()
    learners = [*detector.backbone.first.parameters(), *detector.extensions["Hybrid"].parameters()]
    assert all(parameter.grad.any() for parameter in learners)


def test_it_sees_the_predictions_of_its_own_group_in_every_layer(with_hybrid: Callable[..., DETR]) -> None:
    detector, traces = with_hybrid(*ALL_THREE), []
    detector.decoder.register_forward_hook(lambda module, given, trace: traces.append(trace))
    step(detector)
    predictions: Predictions = detector.extensions["Hybrid"].seen["predictions"]
    hidden_states, boxes = traces[0].of("many")
    assert predictions.logits.shape == (3, 2, EXTRA, 3) and predictions.valid is None
    torch.testing.assert_close(predictions.logits, detector.classifier(hidden_states, detector.train_text))
    assert torch.equal(predictions.boxes, boxes)


def test_at_inference_it_is_not_there(with_hybrid: Callable[..., DETR]) -> None:
    detector, seen = with_hybrid(*ALL_THREE), []
    detector.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    assert len(detector(INPUTS)) == 2 and not detector.extensions["Hybrid"].seen
    assert [(group.name, len(group)) for group in seen[0].groups] == [("detection", QUERIES)]
