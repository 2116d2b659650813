"""A training step: what is in its losses, whom they reach, and images that have nothing to teach."""

import math
from itertools import combinations
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage

from dk_detr.distillation import SlotSelection, TermSettings
from dk_detr.extensions import Denoising
from dk_detr.meta_arch import DETR
from dk_detr.modeling import CLASSIFIERS, QUERIES, REFINEMENTS
from dk_detr.utils import record_now
from tests.model_fixtures import (
    CHANNELS,
    TERMS,
    teaching,
    tiny_detector,
    tiny_distillation,
    tiny_input,
    training_losses,
)

TAUGHT = ("Auxiliary", "SelectedAuxiliary", "Detection")
each_kind_of_queries = pytest.mark.parametrize("taught", TAUGHT)
COMBINATIONS = [terms for count in (1, 2, 3) for terms in combinations(TERMS, count)]
QUERIES_AND_CLASSIFIERS = [  # a teacher looks at proposals; build.py refuses queries that are none
    (queries, name)
    for queries in sorted(set(QUERIES) - {"WholeImage"})  # it starts as "Anchors" does; test_adamixer.py trains it
    for name, part in CLASSIFIERS.items()
    if not (part.learns_image_embeddings and queries in ("Learned", "Anchors"))
]
DETECTION = {f"loss_{stage}{term}" for stage in ("", "proposal_") for term in ("class", "l1", "giou")}


def assert_trains(detector: DETR, inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Finite losses, and a finite gradient on every parameter: DDP waits for those that get none."""
    losses = training_losses(detector, inputs)
    assert all(loss.shape == () and math.isfinite(loss.item()) for loss in losses.values()), losses
    detector.zero_grad()
    sum(losses.values()).backward()
    grads = {name: parameter.grad for name, parameter in detector.named_parameters()}
    unused = [name for name, grad in grads.items() if grad is None]
    assert not unused and not [name for name, grad in grads.items() if not grad.isfinite().all()]
    return losses


def test_the_losses_are_those_of_both_stages_and_nothing_else() -> None:
    assert set(assert_trains(tiny_detector(), [tiny_input(seed=1), tiny_input(seed=2)])) == DETECTION


@each_kind_of_queries
@pytest.mark.parametrize("terms", COMBINATIONS, ids="+".join)
def test_every_combination_of_terms_trains_every_parameter(terms: tuple[str, ...], taught: str) -> None:
    detector = tiny_detector(tiny_distillation(terms, taught))
    losses = assert_trains(detector, [tiny_input(seed=1), tiny_input((32, 40), seed=2)])
    scopes = {"relational": ("relational_image", "relational_batch")}
    wanted = {f"loss_kd_{name}" for term in terms for name in scopes.get(term, (term,))}
    assert set(losses) == DETECTION | wanted
    assert all(losses[name] > 0 for name in losses)


@pytest.mark.parametrize("layers", ["last", "all"])
@pytest.mark.parametrize(
    "auxiliary", [{"reference": "follow"}, {"reference": "stay"}, {"queries": "SelectedAuxiliary"}], ids=str
)
@pytest.mark.parametrize("attends_to", [("auxiliary",), ("detection",), ("auxiliary", "detection")], ids="+".join)
def test_every_kind_of_auxiliary_query_trains_every_parameter(
    attends_to: tuple[str, ...], auxiliary: dict[str, Any], layers: str
) -> None:
    distillation = tiny_distillation(attends_to=attends_to, layers=layers, **auxiliary)
    assert_trains(tiny_detector(distillation), [tiny_input(seed=1), tiny_input((32, 40), seed=2)])


@each_kind_of_queries
@pytest.mark.parametrize("queries", ["Proposals", "Mixed"])
def test_every_kind_of_proposal_trains_every_parameter_beside_distillation(queries: str, taught: str) -> None:
    detector = tiny_detector(tiny_distillation(queries=taught), queries=queries)
    assert_trains(detector, [tiny_input(seed=1), tiny_input((32, 40), seed=2)])


@pytest.mark.parametrize("num_heads", [1, 2], ids=["shared", "per_layer"])
@pytest.mark.parametrize(("queries", "classifier"), QUERIES_AND_CLASSIFIERS)
@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_every_detector_made_of_parts_trains_every_parameter(
    queries: str, refinement: str, classifier: str, num_heads: int
) -> None:
    parts = {"queries": queries, "refinement": refinement, "classifier": classifier, "num_heads": num_heads}
    detector = tiny_detector(teaching(classifier), **parts)
    losses = assert_trains(detector, [tiny_input(seed=1), tiny_input((32, 40), seed=2)])
    silent = {"loss_class"} if classifier == "CosineTextObjectness" else set()  # it learns no labels
    assert {name for name, loss in losses.items() if loss == 0} == silent


@each_kind_of_queries
@pytest.mark.parametrize("classifier", [name for name, part in CLASSIFIERS.items() if part.learns_image_embeddings])
def test_a_batch_with_nothing_to_see_trains_every_projection(classifier: str, taught: str) -> None:
    """The last layer alone is taught, and here not even that: DDP waits all the same."""
    distillation = tiny_distillation(["embedding_l1"], taught, slots=SlotSelection(num_slots=5, min_side=1e6))
    losses = assert_trains(tiny_detector(distillation, classifier=classifier), [tiny_input(num_objects=0)])
    assert losses["loss_kd_embedding_l1"] == 0


def test_the_teacher_moves_the_image_projection_of_an_ensemble_and_labels_the_other() -> None:
    detector = tiny_detector(tiny_distillation(["embedding_l1"], "Detection", "all"), classifier="CosineTextEnsemble")
    losses = training_losses(detector, [tiny_input(seed=1), tiny_input(seed=2)])
    classifier = detector.classifier
    for name, learns, does_not in (
        ("loss_kd_embedding_l1", classifier.image_projections, classifier.projections),
        ("loss_class", classifier.projections, classifier.image_projections),
    ):
        detector.zero_grad()
        losses[name].backward(retain_graph=True)
        assert all(parameter.grad.any() for parameter in learns.parameters())
        assert not any(p.grad is not None and p.grad.any() for p in does_not.parameters())


@pytest.mark.parametrize("classifier", [name for name, part in CLASSIFIERS.items() if part.learns_image_embeddings])
def test_a_classifier_that_learns_from_a_teacher_misses_it_in_training_and_not_in_detection(classifier: str) -> None:
    detector = tiny_detector(classifier=classifier)
    assert len(detector([tiny_input()])[0]["instances"])
    message = rf'CLASSIFIER.NAME "{classifier}" learns from a teacher: .*MODEL.TRAINING_EXTENSIONS.*MODEL.KD.TERMS'
    with pytest.raises(ValueError, match=message):
        training_losses(detector, [tiny_input()])


def test_denoising_is_no_teacher() -> None:
    detector = tiny_detector(classifier="CosineTextEnsemble")
    detector.extensions["Denoising"] = Denoising(CHANNELS, len(detector.train_vocabulary), detector.criterion)
    with pytest.raises(ValueError, match="learns from a teacher"):
        training_losses(detector, [tiny_input()])


def test_all_proposals_are_taught_where_there_is_a_slot_for_each_and_no_filter() -> None:
    slots = SlotSelection(num_slots=12, filters=(), min_side=0.0)
    detector = tiny_detector(tiny_distillation(["embedding_l1"], "Detection", slots=slots))
    with EventStorage() as storage:
        training_losses(detector, [tiny_input(), tiny_input()])
    assert storage.latest()["kd_regions"][0] == 2 * 12


def test_a_detector_of_one_stage_has_the_losses_of_the_decoder_alone() -> None:
    losses = assert_trains(tiny_detector(queries="Learned"), [tiny_input(seed=1), tiny_input(seed=2)])
    assert set(losses) == {name for name in DETECTION if "proposal" not in name}


@pytest.mark.parametrize("scopes", [("image",), ("batch",), ("image", "batch")], ids="+".join)
def test_every_scope_of_relations_has_its_loss(scopes: tuple[str, ...]) -> None:
    distillation = tiny_distillation(["relational"], settings=TermSettings(relational_scopes=scopes))
    losses = assert_trains(tiny_detector(distillation), [tiny_input(seed=1), tiny_input(seed=2)])
    assert set(losses) - DETECTION == {f"loss_kd_relational_{scope}" for scope in scopes}


def test_all_layers_teach_more_than_the_last() -> None:
    last, both = (
        training_losses(tiny_detector(tiny_distillation(layers=name)), [tiny_input()]) for name in ("last", "all")
    )
    assert both["loss_kd_semantic"] > 1.2 * last["loss_kd_semantic"]


def test_auxiliary_queries_that_follow_and_those_that_stay_see_different_places() -> None:
    follow, stay = (
        training_losses(tiny_detector(tiny_distillation(reference=name)), [tiny_input()]) for name in ("follow", "stay")
    )
    assert (follow["loss_kd_semantic"] - stay["loss_kd_semantic"]).abs() > 1e-4


def test_an_image_without_objects_trains() -> None:
    detector = tiny_detector(tiny_distillation())
    losses = assert_trains(detector, [tiny_input(num_objects=0, seed=1), tiny_input(seed=2)])
    assert all(loss > 0 for loss in losses.values())


def test_a_batch_without_objects_trains() -> None:
    detector = tiny_detector(tiny_distillation())
    losses = assert_trains(detector, [tiny_input(num_objects=0, seed=seed) for seed in (1, 2)])
    boxes = [f"loss_{stage}{term}" for stage in ("", "proposal_") for term in ("l1", "giou")]
    assert all(losses[name] == 0 for name in boxes)
    assert losses["loss_class"] > 0 and losses["loss_kd_semantic"] > 0


def test_an_image_with_more_objects_than_queries_trains() -> None:
    """All slots are matched, so that nothing is left to distil."""
    losses = assert_trains(tiny_detector(tiny_distillation()), [tiny_input(num_objects=15)])
    assert all((loss == 0) == ("_kd_" in name) for name, loss in losses.items())


def test_a_batch_without_any_region_to_teach_trains() -> None:
    detector = tiny_detector(tiny_distillation(layers="all", slots=SlotSelection(min_side=1e6)))
    losses = assert_trains(detector, [tiny_input(seed=1), tiny_input(seed=2)])
    assert all(loss == 0 for name, loss in losses.items() if "_kd_" in name)


def test_queries_that_see_nothing_learn_nothing() -> None:
    """A tiny image beside a larger one fills up with queries in the padding: no object, no region, no background."""
    detector, seen = tiny_detector(tiny_distillation(slots=SlotSelection(num_slots=12, min_side=0.0))), {}
    detector.queries.register_forward_hook(lambda module, given, initial: seen.update(initial=initial))
    detector.decoder.register_forward_hook(lambda module, given, trace: seen.update(trace=trace))
    losses = training_losses(detector, [tiny_input((8, 12), seed=1), tiny_input(seed=2)])
    (grad,) = torch.autograd.grad(sum(losses.values()), seen["trace"].hidden_states)
    nothing = (seen["initial"].objectness < -1e3).repeat(1, 2)  # of both groups
    assert torch.equal(nothing[:, :12], ~seen["initial"].group.valid)
    assert nothing[0].any() and not nothing[0].all() and not nothing[1].any()
    assert not grad[-1][nothing].any()


def test_one_image_with_one_region_trains() -> None:
    distillation = tiny_distillation(slots=SlotSelection(num_slots=1, min_side=0.0))
    losses = assert_trains(tiny_detector(distillation), [tiny_input()])
    assert losses["loss_kd_relational_image"] == 0 and losses["loss_kd_semantic"] > 0


def test_a_few_steps_lower_the_loss_on_what_was_seen() -> None:
    detector, inputs = tiny_detector(tiny_distillation()), [tiny_input(seed=1), tiny_input(seed=2)]
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    totals = []
    for _ in range(20):
        total = sum(training_losses(detector, inputs).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.7 * totals[0]


@pytest.mark.parametrize("label", [3, -1])
def test_a_class_outside_the_training_vocabulary_is_refused_with_its_image(label: int) -> None:
    given = tiny_input(seed=7)
    given["instances"].gt_classes[0] = label
    with pytest.raises(ValueError, match=rf"7\.jpg: class {label} is not among the 3 words"):
        training_losses(tiny_detector(), [given])


def test_a_broken_image_shows_in_the_loss() -> None:
    """The trainer stops at a loss that is not finite; nothing on the way may hide or crash it."""
    given = tiny_input(seed=1)
    given["image"][:, 3, 4] = float("nan")
    losses = training_losses(tiny_detector(tiny_distillation()), [given, tiny_input(seed=2)])
    assert not math.isfinite(sum(losses.values()).item())


def test_metrics_go_to_the_event_storage() -> None:
    with EventStorage() as storage:
        training_losses(tiny_detector(tiny_distillation()), [tiny_input(seed=1), tiny_input(seed=2)])
        record_now()
    seen = storage.latest()
    assert seen["kd_regions"][0] == 10
    assert seen["time_teacher"][0] > 0 and [name for name in seen if name.startswith("time_matching")]
    assert {"last_layer/class", "last_layer/l1", "last_layer/giou"} <= set(seen)
