"""A student with a teacher, whole: every family, every term, and that it stays the detector that it is."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from dk_detr.engine import setup_cfg
from dk_detr.engine.optimizer import build_optimizer
from dk_detr.meta_arch import DETR
from dk_detr.structures import Vocabulary
from projects.DETRDistill.detrdistill import TERMS
from projects.DETRDistill.detrdistill.teacher import Sight
from projects.DETRDistill.detrdistill.terms.target_aware_features import counted_scores, qualities
from tests.model_fixtures import configured_detector, fixed_seed, tiny_input
from tests.projects.detrdistill.config_fixtures import DEFORMABLE
from tests.projects.detrdistill.distill_fixtures import (
    FAMILIES,
    INPUTS,
    ONE_EMPTY,
    PAPER,
    VARIANTS,
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
    teach(student, larger(family), *CLOSED_TERMS, **VARIANTS[variant])
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
def test_detection_queries_do_not_see_the_teachers(family: str) -> None:
    student = detector(family)
    teach(student, larger(family), "query_prior_assignment", "kd_detr")
    trace = step_of(student).outputs.trace
    assert [group.name for group in trace.queries.groups] == ["detection", "of_teacher", "random"]
    del student.extensions["DETRDistill"]
    alone = losses_of(student)
    teach(student, larger(family), "query_prior_assignment", "kd_detr")
    beside = losses_of(student)
    assert all(loss.item() == pytest.approx(beside[name].item(), rel=1e-5, abs=1e-6) for name, loss in alone.items())
    with torch.no_grad():
        by_itself = student.predict(student.preprocess(INPUTS), student.train_text)
    torch.testing.assert_close(trace.of("detection")[1], by_itself.boxes, rtol=1e-3, atol=1e-4)


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
    teach(student, teacher, "fitnet", sight=Sight(same_input=False, flipped=True))
    teacher.pixel_mean, teacher.pixel_std = teacher.pixel_mean.flip(0), teacher.pixel_std.flip(0)
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


def test_gradients_reach_the_students_decoder_and_not_the_copies_of_the_teachers_queries() -> None:
    student = detector("deformable")
    teach(student, detector("deformable"), "query_prior_assignment")
    sum(taught(losses_of(student)).values()).backward()
    assert student.decoder.layers[0].ffn.linear1.weight.grad.abs().max() > 0
    assert not student.queries.content.weight.grad.any()  # of the detection queries
    group = step_of(student).outputs.trace.queries["of_teacher"]
    assert not group.content.requires_grad and not group.reference.requires_grad


def test_a_copy_of_the_student_shares_its_teacher_and_the_optimizer_does_not_know_it() -> None:
    student, teacher = detector("deformable"), larger("deformable")
    extension = teach(student, teacher, *PAPER)
    copied = copy.deepcopy(student)
    assert copied.extensions["DETRDistill"].teacher.guest is extension.teacher.guest
    known = {
        id(p) for group in build_optimizer(setup_cfg(str(DEFORMABLE)), student).param_groups for p in group["params"]
    }
    assert not known & {id(p) for p in teacher.parameters()} and len(known) > 20


def test_accumulated_parts_have_the_losses_of_the_whole_batch() -> None:
    student, inputs = detector("deformable"), [*INPUTS, *INPUTS]
    terms = [name for name in CLOSED_TERMS if name not in ("contrastive_queries", "mgd")]
    teach(student, larger("deformable"), *terms, KD_DETR__POINTS=["specific"])
    whole = taught(losses_of(student, inputs))
    objects = sum(len(sample["instances"]) for sample in inputs) / 2
    with fixed_seed(7):
        parts = [taught(student.train()(part, num_objects=objects)) for part in (inputs[:2], inputs[2:])]
    for name, loss in whole.items():
        mean = (parts[0][name] + parts[1][name]) / 2
        torch.testing.assert_close(mean, loss, rtol=1e-4, atol=1e-5, msg=name)


def test_a_teacher_with_fewer_tokens_than_queries_counts_only_what_is_one() -> None:
    student = detector("two-stage")
    teach(student, detector("two-stage", NUM_QUERIES=90), *CLOSED_TERMS)
    small = [tiny_input((16, 16), 1, seed=1), tiny_input((40, 48), 2, seed=2)]
    losses = losses_of(student, small)
    assert all(math.isfinite(loss.item()) for loss in losses.values())
    said = step_of(student, small).teacher.detections
    assert said.valid is not None and not said.valid[0].all()
    targets = step_of(student, small).targets
    assert not qualities(said, targets, "sigmoid", 0.5)[:, ~said.valid].any()
    assert not counted_scores(said, targets, "sigmoid")[:, ~said.valid].any()


def test_a_teacher_in_half_precision_teaches_a_student_in_half_precision() -> None:
    student = detector("deformable")
    teach(student, larger("deformable"), *CLOSED_TERMS, sight=Sight(dtype=torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(student)
    assert all(math.isfinite(loss.item()) for loss in losses.values())
    sum(losses.values()).backward()


def test_features_are_taught_across_families_whose_classes_cannot_be_compared() -> None:
    student = detector("detr")
    teach(student, larger("dino"), "fitnet", "mgd", "fgd", "target_aware_features")
    assert_trains(student, INPUTS)
    with pytest.raises(ValueError, match=r'judges words by a sigmoid \("Linear"\), the student by a softmax'):
        teach(student, larger("dino"), "hungarian_logits")


def test_the_same_points_are_the_same_where_the_student_reads_points_itself() -> None:
    student, own = detector("deformable"), {"QUERY_PRIOR_ASSIGNMENT__REFERENCE": "student"}
    teach(student, larger("deformable"), "query_prior_assignment", "kd_detr", KD_DETR__POINTS=["general"], **own)
    step = step_of(student)
    random = step.outputs.trace.queries["random"]
    assert torch.equal(random.reference, step.teacher.groups[1].reference)
    given = step.outputs.trace.queries["of_teacher"]
    torch.testing.assert_close(given.reference, student.queries.points_of(given.position))
    with pytest.raises(ValueError, match='and the term "kd_detr" compares what both say at the same'):
        teach(student, larger("deformable"), "kd_detr", **own)


def test_words_of_another_width_are_refused() -> None:
    student, teacher = detector("dk_detr_R50"), detector("dk_detr_R50")
    words = student.train_vocabulary
    wider = Vocabulary(words.names, F.normalize(F.pad(words.embeddings, (0, 4)), dim=1), words.novel)
    with pytest.raises(ValueError, match="compares with text embeddings of width 16"):
        teach(student, teacher, "hungarian_logits", words=wider)


def test_dropout_of_the_student_leaves_the_teacher_alone() -> None:
    student, teacher = detector("deformable", DROPOUT=0.2), detector("deformable", DROPOUT=0.2)
    teach(student, teacher, "fitnet")
    one, other = step_of(student, seed=1), step_of(student, seed=2)
    assert torch.equal(one.teacher.memory.tokens, other.teacher.memory.tokens)
    with fixed_seed():
        assert not torch.equal(one.inputs.memory.tokens, other.inputs.memory.tokens)
