"""Distillation: which queries are taught, how its terms are summed over images and layers, and what it refuses.

B images, Q queries, C channels, N regions, E width.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor

from dk_detr.distillation import (
    AUXILIARY,
    Anneal,
    Distillation,
    DistillationPlan,
    DistillationTerm,
    SlotSelection,
    StoredEmbeddings,
    TermSettings,
    build_terms,
    embedding_l1_loss,
    relational_kd_loss,
    semantic_kd_loss,
)
from dk_detr.extensions import TrainingInputs, TrainingOutputs
from dk_detr.modeling import CosineText, Heads, InitialQueries
from dk_detr.structures import (
    DETECTION,
    Assignment,
    Predictions,
    QueryGroup,
    QuerySet,
    RegionKnowledge,
    Regions,
    Targets,
    Trace,
)
from tests.model_fixtures import (
    CHANNELS,
    QUERIES,
    TERMS,
    WIDTH,
    fixed_seed,
    random,
    stir,
    targets_of,
    tiny_distillation,
    training_inputs,
)

IMAGES, LAYERS = 2, 2
NOBODY = Assignment(*torch.zeros(4, 0, dtype=torch.long))
IMAGE_LIST = ImageList(random(IMAGES, 3, 32, 40), [(32, 40), (30, 33)])
NOTHING = targets_of(([], []), ([], []))


def initial_queries() -> InitialQueries:
    content, position = random(2, IMAGES, QUERIES, CHANNELS)
    boxes = torch.rand(IMAGES, QUERIES, 4, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.2
    group = QueryGroup(DETECTION, content, position, boxes, (DETECTION,), DETECTION)
    objectness = torch.arange(QUERIES, 0, -1.0).expand(IMAGES, -1)
    return InitialQueries(group, objectness, Predictions(objectness[None, ..., None], boxes[None]))


def classifier() -> CosineText:
    with fixed_seed():
        return CosineText(CHANNELS, WIDTH, LAYERS)


def inputs_of(
    initial: InitialQueries, samples: Sequence[dict[str, Any]] = ({}, {}), targets: Targets = NOTHING
) -> TrainingInputs:
    return training_inputs(initial, targets, IMAGE_LIST, list(samples), position_of)


def prepare(
    distillation: Distillation, initial: InitialQueries, samples: Sequence[dict[str, Any]] = ({}, {})
) -> DistillationPlan:
    return distillation.prepare(inputs_of(initial, samples))


def decoded(plan: DistillationPlan, initial: InitialQueries | None = None) -> QuerySet:
    return QuerySet(((initial or initial_queries()).group, *plan.groups))


def position_of(boxes: Tensor, dtype: torch.dtype) -> Tensor:
    return boxes.repeat(1, 1, CHANNELS // 4).to(dtype)


def step(distillation: Distillation, assignment: Assignment = NOBODY) -> tuple[dict[str, Tensor], Tensor]:
    """The losses of distillation, and the hidden states of all queries that they rest on."""
    inputs = inputs_of(initial_queries())
    plan = distillation.prepare(inputs)
    queries = decoded(plan, inputs.initial)
    hidden_states = random(LAYERS, IMAGES, queries.content.shape[1], CHANNELS, seed=7).requires_grad_()
    trace = Trace(hidden_states, torch.zeros(*hidden_states.shape[:3], 4), queries)
    heads, text = Heads(classifier()), random(3, WIDTH)
    outputs = TrainingOutputs(trace, heads(trace, text), text, assignment, heads)
    return distillation.supervise(plan, inputs, outputs), hidden_states


def taught(distillation: Distillation, assignment: Assignment = NOBODY) -> list[list[int]]:
    """[layer, image, query] of the hidden states that are taught."""
    losses, hidden_states = step(distillation, assignment)
    sum(losses.values()).backward()
    return hidden_states.grad.any(-1).nonzero().tolist()


def knowledge(*images: int) -> RegionKnowledge:
    """Teacher rows of regions in these images."""
    index = torch.tensor(images, dtype=torch.long)
    regions = Regions(index, torch.arange(len(images)), torch.zeros(len(images), 4))
    return RegionKnowledge(regions, random(len(images), WIDTH, seed=1))


def test_auxiliary_queries_share_positions_and_boxes_and_have_their_own_content() -> None:
    distillation, initial = tiny_distillation(), initial_queries()
    queries = decoded(prepare(distillation, initial), initial)
    detection, auxiliary = queries.groups
    assert detection is initial.group and auxiliary.name == AUXILIARY
    assert torch.equal(auxiliary.position, detection.position)
    assert torch.equal(auxiliary.reference, detection.reference)
    assert not auxiliary.content.any()  # all slots start alike, near what detection queries know
    stir(distillation)
    content = distillation.queries.content.weight
    assert torch.equal(decoded(prepare(distillation, initial))[AUXILIARY].content, content.expand(IMAGES, -1, -1))
    assert auxiliary.attends_to == (AUXILIARY,) and auxiliary.reference_from == DETECTION


def test_auxiliary_queries_beside_detection_queries_that_fill_up_only_fill_up_too() -> None:
    initial = initial_queries()
    valid = torch.arange(QUERIES).expand(IMAGES, -1) < torch.tensor([[QUERIES], [3]])
    initial = replace(initial, group=replace(initial.group, valid=valid))
    assert torch.equal(decoded(prepare(tiny_distillation(), initial), initial)[AUXILIARY].valid, valid)


@pytest.mark.parametrize(("reference", "reference_from"), [("follow", DETECTION), ("stay", None)])
def test_auxiliary_queries_follow_the_detection_boxes_or_stay(reference: str, reference_from: str | None) -> None:
    queries = decoded(prepare(tiny_distillation(reference=reference), initial_queries()))
    assert queries[AUXILIARY].reference_from == reference_from


def test_auxiliary_queries_attend_to_whom_they_are_told_to() -> None:
    queries = decoded(prepare(tiny_distillation(attends_to=(AUXILIARY, DETECTION)), initial_queries()))
    assert queries[AUXILIARY].attends_to == (AUXILIARY, DETECTION)
    assert queries[DETECTION].attends_to == (DETECTION,)


def test_distilling_into_the_detection_queries_adds_no_queries_and_no_weights() -> None:
    distillation = tiny_distillation(queries="Detection")
    assert prepare(distillation, initial_queries()).groups == ()
    assert list(distillation.parameters()) == []
    assert taught(distillation) == [[1, image, query] for image in range(2) for query in range(5)]


def test_the_best_slots_of_the_last_layer_of_the_auxiliary_queries_are_taught() -> None:
    assert taught(tiny_distillation()) == [[1, image, QUERIES + query] for image in range(2) for query in range(5)]


def test_slots_matched_by_the_last_layer_are_not_taught_and_those_of_other_layers_are() -> None:
    columns = [torch.tensor(column) for column in ([0, 1], [0, 1], [0, 1], [0, 0])]
    slots = [slot[1:] for slot in taught(tiny_distillation(), Assignment(*columns))]
    assert slots == [[0, QUERIES + q] for q in range(5)] + [[1, QUERIES + q] for q in (0, 2, 3, 4, 5)]


@pytest.mark.parametrize("queries", ["Auxiliary", "SelectedAuxiliary", "Detection"])
def test_a_slot_shows_too_little_by_the_pixels_of_its_own_image(queries: str) -> None:
    """A quarter of the width is 10 pixels of the first image and 8.25 of the second."""
    initial, slots = initial_queries(), SlotSelection(num_slots=5, filters=(), min_side=9.0)
    boxes = torch.tensor([0.5, 0.5, 0.25, 0.5]).repeat(IMAGES, QUERIES, 1)
    initial = replace(initial, group=replace(initial.group, reference=boxes))
    plan = prepare(tiny_distillation(queries=queries, slots=slots), initial)
    assert plan.knowledge(NOBODY).regions.image.tolist() == [0] * 5


def test_all_layers_are_taught_with_their_own_projection_and_summed() -> None:
    together, hidden_states = step(tiny_distillation(layers="all"))
    assert taught(tiny_distillation(layers="all")) == [
        [layer, image, QUERIES + query] for layer in range(2) for image in range(2) for query in range(5)
    ]
    queries, initial = tiny_distillation(["embedding_l1"]).queries, initial_queries()
    regions = queries.slots(initial.group.reference, initial.objectness, NOBODY, NOTHING, IMAGE_LIST.image_sizes)
    teacher = queries.teacher(IMAGE_LIST.tensor, IMAGE_LIST.image_sizes, regions)
    wanted = 0.0
    for layer in range(LAYERS):
        rows = classifier().projections[layer](hidden_states[layer, regions.image, QUERIES + regions.query])
        wanted += embedding_l1_loss(rows, teacher).item()  # five regions in both images
    assert together["loss_kd_embedding_l1"].item() == pytest.approx(wanted, rel=1e-5)


def test_each_term_has_its_name_in_the_losses() -> None:
    losses, _ = step(tiny_distillation(TERMS))
    assert set(losses) == {
        "loss_kd_semantic", "loss_kd_relational_image", "loss_kd_relational_batch", "loss_kd_embedding_l1",
    }  # fmt: skip
    assert all(loss.shape == () and loss > 0 for loss in losses.values())


def test_all_losses_scale_with_the_factor_of_the_iteration() -> None:
    plain, _ = step(tiny_distillation())
    with EventStorage(5):
        annealed, _ = step(tiny_distillation(anneal=Anneal("Linear", 1.0, 0.2, num_iterations=10)))
    assert annealed.keys() == plain.keys() and all(loss > 0 for loss in plain.values())
    assert all(torch.equal(loss, 0.6 * plain[name]) for name, loss in annealed.items())


def test_without_regions_losses_are_zero_and_all_weights_get_a_gradient() -> None:
    losses, hidden_states = step(tiny_distillation(slots=SlotSelection(min_side=1e6)))
    assert all(loss.item() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert hidden_states.grad is not None and not hidden_states.grad.any()


def test_over_images_a_term_is_the_mean_of_those_that_have_regions() -> None:
    student, teacher = random(5, WIDTH), knowledge(0, 0, 3, 3, 3)
    term = DistillationTerm("semantic", semantic_kd_loss, weight=3.0)
    wanted = [semantic_kd_loss(student[part], teacher.embeddings[part]) for part in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(term(student, teacher), 3.0 * (wanted[0] + wanted[1]) / 2)


def test_over_the_batch_a_term_sees_all_images_at_once() -> None:
    student, teacher = random(5, WIDTH), knowledge(0, 0, 3, 3, 3)
    term = DistillationTerm("relational_batch", relational_kd_loss, weight=3.0, scope="batch")
    torch.testing.assert_close(term(student, teacher), 3.0 * relational_kd_loss(student, teacher.embeddings))


def test_an_image_with_one_region_has_no_relations_but_a_meaning() -> None:
    student, teacher = random(1, WIDTH), knowledge(0)
    assert DistillationTerm("relational_image", relational_kd_loss, 1.0)(student, teacher) == 0
    assert DistillationTerm("semantic", semantic_kd_loss, 1.0)(student, teacher) > 0


def test_settings_reach_the_losses() -> None:
    settings = TermSettings(
        weights={"semantic": 2.0, "relational": 3.0, "embedding_l1": 4.0},
        semantic_temperature=0.2,
        relational_temperature=0.3,
        relational_direction="student_teacher",
        relational_scopes=("batch",),
    )
    student, teacher = random(4, WIDTH), knowledge(0, 0, 0, 0)
    wanted: dict[str, Any] = {
        "semantic": 2 * semantic_kd_loss(student, teacher.embeddings, 0.2),
        "relational_batch": 3 * relational_kd_loss(student, teacher.embeddings, 0.3, "student_teacher"),
        "embedding_l1": 4 * embedding_l1_loss(student, teacher.embeddings),
    }
    terms = build_terms(TERMS, settings)
    assert [term.name for term in terms] == list(wanted)
    for term in terms:
        torch.testing.assert_close(term(student, teacher), wanted[term.name])


# ---- auxiliary queries of the selected slots alone ----


def regions_of(boxes_xyxy_abs: list[list[float]], size: tuple[int, int] = (32, 40), seed: int = 0) -> Instances:
    """Stored regions of an image, as the mapper gives them."""
    number = len(boxes_xyxy_abs)
    return Instances(
        size,
        proposal_boxes=Boxes(torch.tensor(boxes_xyxy_abs).reshape(-1, 4)),
        objectness_logits=torch.arange(number, 0, -1.0),
        embeddings=random(number, WIDTH, seed=seed).half(),
    )


def from_a_bank(**settings: Any) -> Distillation:
    return tiny_distillation(queries="SelectedAuxiliary", teacher=StoredEmbeddings(WIDTH), **settings)


def test_selected_auxiliary_queries_are_as_many_as_slots_and_stay_where_the_teacher_looks() -> None:
    initial = initial_queries()
    own = decoded(prepare(tiny_distillation(queries="SelectedAuxiliary"), initial))[AUXILIARY]
    assert len(own) == 5 and own.reference_from is None and own.inner_mask() is None
    assert torch.equal(own.reference, initial.group.reference[:, :5])  # the best by objectness
    assert torch.equal(own.position, position_of(own.reference, torch.float32)) and not own.content.any()


def test_selected_slots_are_taught_in_their_own_seats() -> None:
    distillation = tiny_distillation(queries="SelectedAuxiliary")
    assert taught(distillation) == [[1, image, QUERIES + seat] for image in range(2) for seat in range(5)]


def test_what_selected_auxiliary_queries_learn_is_what_all_would_learn_of_the_same_slots() -> None:
    slots = SlotSelection(num_slots=5, filters=(), min_side=0.0)
    every, selected = (
        prepare(tiny_distillation(queries=kind, slots=slots), initial_queries()).knowledge(NOBODY)
        for kind in ("Auxiliary", "SelectedAuxiliary")
    )
    torch.testing.assert_close(every.embeddings, selected.embeddings)
    assert torch.equal(every.regions.image, selected.regions.image)
    assert torch.equal(every.regions.boxes, selected.regions.boxes)


def test_stored_regions_are_the_references_and_their_rows_the_answers() -> None:
    one, two = regions_of([[4, 4, 20, 20], [0, 0, 40, 32]]), regions_of([[3, 3, 12, 30]], (30, 33), seed=5)
    plan = prepare(from_a_bank(), initial_queries(), [{"regions": one}, {"regions": two}])
    knowledge = plan.knowledge(NOBODY)
    assert knowledge.regions.image.tolist() == [0, 0, 1] and knowledge.regions.query.tolist() == [0, 1, 0]
    rows = torch.cat([one.embeddings, two.embeddings]).float()
    torch.testing.assert_close(knowledge.embeddings, rows / rows.norm(dim=1, keepdim=True))
    reference = decoded(plan)[AUXILIARY].reference
    torch.testing.assert_close(reference[0, 0], torch.tensor([12 / 40, 12 / 32, 16 / 40, 16 / 32]))
    torch.testing.assert_close(reference[1, 0], torch.tensor([7.5 / 33, 16.5 / 30, 9 / 33, 27 / 30]))


def test_free_seats_are_seen_by_nobody_and_taught_nothing() -> None:
    samples = [{"regions": regions_of([[4, 4, 20, 20]])}, {"regions": regions_of([], (30, 33))}]
    plan = prepare(from_a_bank(), initial_queries(), samples)
    own = decoded(plan)[AUXILIARY]
    assert len(plan.knowledge(NOBODY).regions) == 1
    assert own.valid.tolist() == [[True, False, False, False, False], [False] * 5]
    blocked = own.inner_mask()
    assert not blocked[:, range(5), range(5)].any()  # each sees itself
    assert blocked[0, :, 1:].sum() == 4 * 4 and not blocked[0, :, 0].any() and blocked[1].sum() == 5 * 4


def test_selected_slots_leave_out_what_base_objects_cover() -> None:
    distillation = from_a_bank(slots=SlotSelection(5, ("base_overlap",), min_side=0.0))
    samples = [{"regions": regions_of([[4, 4, 20, 20], [24, 2, 38, 30]])}, {"regions": regions_of([], (30, 33))}]
    objects = targets_of(([0], [[12 / 40, 12 / 32, 16 / 40, 16 / 32]]), ([], []))
    plan = distillation.prepare(inputs_of(initial_queries(), samples, objects))
    assert plan.knowledge(NOBODY).regions.boxes[:, 0].tolist() == pytest.approx([31 / 40])


def test_samples_without_stored_regions_are_refused() -> None:
    with pytest.raises(ValueError, match="EmbeddingBank.*needs samples with"):
        prepare(from_a_bank(), initial_queries())


def test_stored_rows_of_another_width_are_refused() -> None:
    regions = regions_of([[4, 4, 20, 20]])
    regions.embeddings = regions.embeddings[:, :7]
    with pytest.raises(ValueError, match="width 7, but the vocabulary has width 16"):
        prepare(from_a_bank(), initial_queries(), [{"regions": regions}, {"regions": regions}])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tiny_distillation(layers="first"), 'MODEL.KD.LAYERS is "first"; choose one of last, all'),
        (lambda: build_terms(["semantics"], TermSettings()), 'MODEL.KD.TERMS is "semantics"; choose one of semantic'),
        (
            lambda: build_terms(["relational"], TermSettings(relational_scopes=("world",))),
            'MODEL.KD.RELATIONAL.SCOPES is "world"; choose one of image, batch',
        ),
        (
            lambda: build_terms(["relational"], TermSettings(relational_direction="sideways")),
            'MODEL.KD.RELATIONAL.DIRECTION is "sideways"; choose one of teacher_student, student_teacher',
        ),
    ],
)
def test_unknown_names_are_refused_with_their_key(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
