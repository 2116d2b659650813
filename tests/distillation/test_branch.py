"""The branch: its companions, how its terms are summed over images and layers, and what it refuses.

B images, Q queries, C channels, N regions, E width.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from dk_detr.distillation import (
    Companions,
    DistillationBranch,
    SlotSelection,
    Term,
    TermSettings,
    build_terms,
    embedding_l1_loss,
    relational_kd_loss,
    semantic_kd_loss,
)
from dk_detr.modeling import CosineText, FirstStage
from dk_detr.structures import Assignment, Predictions, QueryGroup, RegionKnowledge, Regions, Trace
from tests.model_fixtures import CHANNELS, QUERIES, TERMS, WIDTH, fixed_seed, random, stir, targets_of, tiny_branch

IMAGES, LAYERS = 2, 2
NOBODY = Assignment(*torch.zeros(4, 0, dtype=torch.long))
NOTHING = targets_of(([], []), ([], []))


def first_stage() -> FirstStage:
    content, position = random(2, IMAGES, QUERIES, CHANNELS)
    boxes = torch.rand(IMAGES, QUERIES, 4, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.2
    group = QueryGroup("detect", content, position, boxes, ("detect",), "detect")
    objectness = torch.arange(QUERIES, 0, -1.0).expand(IMAGES, -1)
    return FirstStage(group, objectness, Predictions(objectness[None, ..., None], boxes[None]))


def classifier() -> CosineText:
    with fixed_seed():
        return CosineText(CHANNELS, WIDTH, LAYERS)


def step(branch: DistillationBranch, assignment: Assignment = NOBODY) -> tuple[dict[str, Tensor], Tensor]:
    """The branch's losses, and the hidden features of all queries that they rest on."""
    stage = first_stage()
    queries = branch.add_queries(stage)
    hidden = random(LAYERS, IMAGES, queries.content.shape[1], CHANNELS, seed=7).requires_grad_()
    trace = Trace(hidden, torch.zeros(*hidden.shape[:3], 4), queries)
    pixels, sizes = random(IMAGES, 3, 32, 40), [(32, 40), (30, 33)]
    return branch(pixels, sizes, stage, trace, classifier(), assignment, NOTHING), hidden


def taught(branch: DistillationBranch, assignment: Assignment = NOBODY) -> list[list[int]]:
    """[layer, image, query] of the features that the branch teaches."""
    losses, hidden = step(branch, assignment)
    sum(losses.values()).backward()
    return hidden.grad.any(-1).nonzero().tolist()


def knowledge(*images: int) -> RegionKnowledge:
    """Teacher rows of regions in these images."""
    index = torch.tensor(images, dtype=torch.long)
    regions = Regions(index, torch.arange(len(images)), torch.zeros(len(images), 4))
    return RegionKnowledge(regions, random(len(images), WIDTH, seed=1))


def test_companions_share_positions_and_boxes_and_have_their_own_content() -> None:
    branch, stage = tiny_branch(), first_stage()
    queries = branch.add_queries(stage)
    detect, distil = queries.groups
    assert detect is stage.group and distil.name == "distil"
    assert torch.equal(distil.position, detect.position) and torch.equal(distil.reference, detect.reference)
    assert not distil.content.any()  # all slots start alike, near what detection queries know
    stir(branch)
    assert torch.equal(branch.add_queries(stage)["distil"].content, branch.content.weight.expand(IMAGES, -1, -1))
    assert distil.reads == ("distil",) and distil.steered_by == "detect"


@pytest.mark.parametrize(("reference", "steered_by"), [("follow", "detect"), ("stay", None)])
def test_companions_follow_the_detection_boxes_or_stay(reference: str, steered_by: str | None) -> None:
    queries = tiny_branch(companions=Companions(reference=reference)).add_queries(first_stage())
    assert queries["distil"].steered_by == steered_by


def test_companions_read_whom_they_are_told_to() -> None:
    queries = tiny_branch(companions=Companions(reads=("distil", "detect"))).add_queries(first_stage())
    assert queries["distil"].reads == ("distil", "detect") and queries["detect"].reads == ("detect",)


def test_distilling_into_the_detection_queries_adds_no_queries_and_no_weights() -> None:
    branch = tiny_branch(companions=Companions(group="detect"))
    assert [group.name for group in branch.add_queries(first_stage()).groups] == ["detect"]
    assert list(branch.parameters()) == []
    assert taught(branch) == [[1, image, query] for image in range(2) for query in range(5)]


def test_the_best_slots_of_the_last_layer_of_the_companions_are_taught() -> None:
    assert taught(tiny_branch()) == [[1, image, QUERIES + query] for image in range(2) for query in range(5)]


def test_slots_matched_by_the_last_layer_are_not_taught_and_those_of_other_layers_are() -> None:
    columns = [torch.tensor(column) for column in ([0, 1], [0, 1], [0, 1], [0, 0])]
    slots = [slot[1:] for slot in taught(tiny_branch(), Assignment(*columns))]
    assert slots == [[0, QUERIES + q] for q in range(5)] + [[1, QUERIES + q] for q in (0, 2, 3, 4, 5)]


def test_all_layers_are_taught_with_their_own_projection_and_summed() -> None:
    together, hidden = step(tiny_branch(layers="all"))
    assert taught(tiny_branch(layers="all")) == [
        [layer, image, QUERIES + query] for layer in range(2) for image in range(2) for query in range(5)
    ]
    branch, stage = tiny_branch(["embedding_l1"]), first_stage()
    regions = branch.slots(stage.group.reference, stage.objectness, NOBODY, NOTHING, [(32, 40), (30, 33)])
    teacher = branch.teacher(random(IMAGES, 3, 32, 40), [(32, 40), (30, 33)], regions)
    wanted = 0.0
    for layer in range(LAYERS):
        rows = classifier().projections[layer](hidden[layer, regions.image, QUERIES + regions.query])
        wanted += embedding_l1_loss(rows, teacher.embeddings).item()  # five regions in both images
    assert together["loss_kd_embedding_l1"].item() == pytest.approx(wanted, rel=1e-5)


def test_each_term_has_its_name_in_the_losses() -> None:
    losses, _ = step(tiny_branch(TERMS))
    assert set(losses) == {
        "loss_kd_semantic", "loss_kd_relational_image", "loss_kd_relational_batch", "loss_kd_embedding_l1",
    }  # fmt: skip
    assert all(loss.shape == () and loss > 0 for loss in losses.values())


def test_without_regions_losses_are_zero_and_all_weights_get_a_gradient() -> None:
    branch = tiny_branch(slots=SlotSelection(min_side=1e6))
    losses, hidden = step(branch)
    assert all(loss.item() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert hidden.grad is not None and not hidden.grad.any()


def test_over_images_a_term_is_the_mean_of_those_that_have_regions() -> None:
    student, teacher = random(5, WIDTH), knowledge(0, 0, 3, 3, 3)
    term = Term("semantic", semantic_kd_loss, weight=3.0)
    wanted = [semantic_kd_loss(student[part], teacher.embeddings[part]) for part in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(term(student, teacher, num_images=4), 3.0 * (wanted[0] + wanted[1]) / 2)


def test_over_the_batch_a_term_sees_all_images_at_once() -> None:
    student, teacher = random(5, WIDTH), knowledge(0, 0, 3, 3, 3)
    term = Term("relational_batch", relational_kd_loss, weight=3.0, scope="batch")
    torch.testing.assert_close(
        term(student, teacher, num_images=4), 3.0 * relational_kd_loss(student, teacher.embeddings)
    )


def test_an_image_with_one_region_has_no_relations_but_a_meaning() -> None:
    student, teacher = random(1, WIDTH), knowledge(0)
    assert Term("relational_image", relational_kd_loss, 1.0)(student, teacher, 1) == 0
    assert Term("semantic", semantic_kd_loss, 1.0)(student, teacher, 1) > 0


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
        torch.testing.assert_close(term(student, teacher, 1), wanted[term.name])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Companions(group="noise"), 'MODEL.KD.GROUP is "noise"; choose one of distil, detect'),
        (lambda: Companions(reads=("distil", "noise")), 'MODEL.KD.READS is "noise"'),
        (lambda: Companions(reference="wander"), 'MODEL.KD.REFERENCE is "wander"; choose one of follow, stay'),
        (lambda: tiny_branch(layers="first"), 'MODEL.KD.LAYERS is "first"; choose one of last, all'),
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
