"""A student with a teacher, whole: every family, every term, and that it stays the detector that it is."""

import math

import pytest
import torch

from dk_detr.meta_arch import DETR
from projects.DETRDistill.detrdistill import TERMS
from tests.model_fixtures import configured_detector, fixed_seed
from tests.projects.detrdistill.distill_fixtures import (
    FAMILIES,
    INPUTS,
    ONE_EMPTY,
    PAPER,
    detector,
    losses_of,
    same_weights,
    step_of,
    taught,
    teach,
)

CLOSED_TERMS = [name for name in TERMS if name != "query_embeddings"]
LARGER = {"ENCODER_LAYERS": 3, "DECODER_LAYERS": 6, "CHANNELS": 64, "NUM_QUERIES": 15, "FFN_CHANNELS": 64}
every_family = pytest.mark.parametrize("family", FAMILIES)


def larger(family: str) -> DETR:
    """A teacher with more layers, channels and queries."""
    layers = {"ENCODER_LAYERS": 0} if family == "adamixer" else {}
    return detector(family, **{**LARGER, **layers})


def assert_trains(student: DETR, inputs: list) -> dict[str, torch.Tensor]:
    losses = losses_of(student, inputs)
    assert all(loss.shape == () and math.isfinite(loss.item()) for loss in losses.values())
    sum(losses.values()).backward()
    grads = {name: parameter.grad for name, parameter in student.named_parameters()}
    assert not [name for name, grad in grads.items() if grad is None or not grad.isfinite().all()]
    return losses


@every_family
@pytest.mark.parametrize("variant", ["paper", "release"])
def test_a_larger_teacher_of_the_family_teaches_everything(family: str, variant: str) -> None:
    student = detector(family)
    teach(student, larger(family), *CLOSED_TERMS, VARIANT=variant)
    losses = assert_trains(student, INPUTS)
    names = set(taught(losses))
    assert {"hungarian_logits_class", "target_aware_features", "fitnet", "mgd", "fgd_relation"} <= names
    assert {"query_prior_assignment_giou", "kd_detr_specific_class", "kd_detr_general_l1"} <= names
    assert all(loss.item() > 0 for loss in taught(losses).values())
    assert set(taught(losses_of(student, ONE_EMPTY))) == names


@every_family
@pytest.mark.parametrize("term", CLOSED_TERMS)
def test_each_term_trains_alone(family: str, term: str) -> None:
    student = detector(family)
    teach(student, detector(family), term)
    for inputs in (INPUTS, ONE_EMPTY):
        assert_trains(student, inputs)
        student.zero_grad()


@pytest.mark.parametrize(
    ("student", "teacher"),
    [("dab", "dino"), ("conditional", "deformable"), ("refined", "conditional"), ("dino", "dab")],
)
def test_families_that_start_alike_teach_one_another(student: str, teacher: str) -> None:
    taught_one = detector(student)
    teach(taught_one, larger(teacher), *CLOSED_TERMS)
    assert_trains(taught_one, INPUTS)


def test_a_family_that_starts_otherwise_teaches_all_but_its_queries() -> None:
    student, queries = detector("deformable"), ("query_prior_assignment", "kd_detr")
    with pytest.raises(ValueError, match="the student's start from points, the teacher's from boxes"):
        teach(student, larger("dino"), *queries)
    teach(student, larger("dino"), *(term for term in CLOSED_TERMS if term not in queries))
    assert_trains(student, INPUTS)


def test_images_without_any_object_teach_what_they_can() -> None:
    student = detector("deformable")
    teach(student, detector("deformable"), *CLOSED_TERMS)
    nothing = [{**sample, "instances": sample["instances"][:0]} for sample in INPUTS]
    losses = assert_trains(student, nothing)
    assert losses["loss_dd_hungarian_logits_class"] == 0 and losses["loss_dd_target_aware_features"] == 0


@every_family
def test_detections_are_the_same_to_the_bit_with_and_without_the_teachers_queries(family: str) -> None:
    student = detector(family)
    plain = losses_of(student)
    teach(student, larger(family), "query_prior_assignment", "kd_detr")
    with_company = losses_of(student)
    for name, loss in plain.items():
        torch.testing.assert_close(with_company[name], loss, rtol=1e-5, atol=1e-6)
    found, alone = student.eval()(INPUTS), detector(family).eval()(INPUTS)
    for one, other in zip(found, alone):
        assert torch.equal(one["instances"].pred_boxes.tensor, other["instances"].pred_boxes.tensor)
        assert torch.equal(one["instances"].scores, other["instances"].scores)


def test_the_teacher_is_a_guest() -> None:
    student, teacher = detector("two-stage"), larger("two-stage")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    teach(student, teacher, *PAPER)
    mine = {id(parameter) for parameter in student.parameters()}
    assert not mine & {id(parameter) for parameter in teacher.parameters()}
    assert not [name for name in student.state_dict() if "guest" in name or "teacher" in name]
    student.train()
    assert not teacher.training
    sum(losses_of(student).values()).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_teacher_is_asked_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = detector("deformable"), detector("deformable")
    teach(student, teacher, *CLOSED_TERMS)
    calls = []
    monkeypatch.setattr(
        teacher, "extract_features", lambda images: calls.append(1) or DETR.extract_features(teacher, images)
    )
    losses_of(student)
    assert calls == [1]


def test_nothing_that_the_teacher_says_has_a_gradient_and_backward_may_keep_it() -> None:
    student = detector("dino")
    teach(student, larger("dino"), *PAPER)
    said = step_of(student).teacher
    tensors = [said.memory.tokens, *said.pyramid.levels, *said.hidden_states.values(), said.detections.logits]
    tensors += [said.detections.boxes, said.groups[0].content, said.groups[0].reference]
    assert not any(tensor.requires_grad or tensor.is_inference() for tensor in tensors)


def test_what_the_teacher_says_is_what_it_says_alone() -> None:
    student, teacher = detector("two-stage"), larger("two-stage")
    teach(student, teacher, *PAPER, "kd_detr")
    step = step_of(student)
    with torch.no_grad():
        alone = teacher.predict(student.preprocess(INPUTS), teacher.train_text)
    torch.testing.assert_close(step.teacher.detections.boxes, alone.boxes)
    torch.testing.assert_close(step.teacher.detections.logits, alone.logits)


def test_a_teacher_that_sees_other_channels_and_means_sees_the_same_images() -> None:
    student, teacher = detector("deformable"), detector("deformable")
    extension = teach(student, teacher, "fitnet")
    teacher.pixel_mean, teacher.pixel_std = teacher.pixel_mean.flip(0), teacher.pixel_std.flip(0)
    extension.teacher.same_input, extension.teacher.flipped = False, True
    with torch.no_grad():
        teacher.backbone.first.weight.copy_(teacher.backbone.first.weight.flip(1))
    torch.testing.assert_close(step_of(student).teacher.memory.tokens, step_of_plain().teacher.memory.tokens)


def step_of_plain():
    student = detector("deformable")
    teach(student, detector("deformable"), "fitnet")
    return step_of(student)


def test_a_student_like_its_teacher_has_nothing_to_learn_but_what_the_teacher_is_unsure_of() -> None:
    student, teacher = detector("deformable"), detector("deformable")
    same_weights(student, teacher)
    extension = teach(student, teacher, "hungarian_logits", "target_aware_features", "fitnet", "kd_detr")
    with torch.no_grad():
        losses = taught(losses_of(student))
    zero = {name: loss for name, loss in losses.items() if name != "hungarian_logits_class"}
    assert all(abs(loss.item()) < 1e-3 for loss in zero.values()), zero
    probability = step_of(student).teacher.detections.logits.sigmoid()
    step = step_of(student)
    rows = probability[step.assignment.layer, step.assignment.image, step.assignment.query]
    entropy = -(rows * rows.log() + (1 - rows) * (1 - rows).log()).sum() / step.inputs.num_objects
    torch.testing.assert_close(losses["hungarian_logits_class"], entropy, rtol=1e-4, atol=1e-5)
    assert extension.stages.teacher == (0, 1, 2)


def test_words_of_a_student_that_learns_fewer_are_found_among_the_teachers() -> None:
    student, teacher = detector("deformable"), detector("deformable")
    words = student.train_vocabulary.select(student.train_vocabulary.names[::-1])
    teach(student, teacher, "hungarian_logits", words=words)
    said = step_of(student).teacher.detections.logits
    teach(student, teacher, "hungarian_logits")
    torch.testing.assert_close(said, step_of(student).teacher.detections.logits.flip(-1))


@pytest.mark.parametrize("name", ["dk_detr_R50", "dk_dino_R50"])
def test_students_of_any_words_learn_from_teachers_of_any_words(name: str) -> None:
    student, teacher = detector(name), detector(name, **LARGER)
    teach(student, teacher, *PAPER, "query_embeddings")
    losses = assert_trains(student, INPUTS)
    assert losses["loss_dd_query_embeddings"] > 0


def test_clip_and_a_detector_teach_together() -> None:
    student = configured_detector("dk_detr_R50")
    teach(student, detector("dk_detr_R50", **LARGER), *PAPER, "query_embeddings")
    losses = assert_trains(student, INPUTS)
    assert {"loss_kd_semantic", "loss_dd_query_embeddings"} <= set(losses)


def test_random_points_are_new_in_each_step_and_the_same_for_both() -> None:
    student, teacher = detector("dab"), detector("dab")
    teach(student, teacher, "kd_detr")
    one, other = step_of(student, seed=1), step_of(student, seed=2)
    boxes = [step.teacher.groups[1].reference for step in (one, other)]
    assert not torch.allclose(*boxes)
    assert torch.equal(one.outputs.trace.queries["random"].reference, boxes[0])


def test_gradients_reach_the_student_and_not_the_copies_of_the_teachers_queries() -> None:
    student = detector("deformable")
    teach(student, detector("deformable"), "query_prior_assignment")
    step = step_of(student)
    group = step.outputs.trace.queries["of_teacher"]
    assert not group.content.requires_grad and not group.reference.requires_grad


def test_dropout_of_the_student_leaves_the_teacher_alone() -> None:
    student, teacher = detector("deformable", DROPOUT=0.2), detector("deformable", DROPOUT=0.2)
    teach(student, teacher, "fitnet")
    one, other = step_of(student, seed=1), step_of(student, seed=2)
    assert torch.equal(one.teacher.memory.tokens, other.teacher.memory.tokens)
    with fixed_seed():
        assert not torch.equal(one.inputs.memory.tokens, other.inputs.memory.tokens)
