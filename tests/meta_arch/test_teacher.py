"""The teacher in a detector: asked in training, and otherwise not there."""

import copy
import pickle

import torch

from tests.model_fixtures import tiny_detector, tiny_distillation, tiny_input, training_losses

INPUTS = [tiny_input(seed=1), tiny_input(seed=2)]


def teacher_of(detector) -> torch.nn.Module:
    return detector.extensions["Distillation"].queries.teacher.guest.on(torch.device("cpu")).model


def test_the_teacher_is_not_saved_not_trained_and_stays_in_eval() -> None:
    detector = tiny_detector(tiny_distillation())
    teacher = teacher_of(detector)
    before = copy.deepcopy(teacher.state_dict())
    weights = {id(parameter) for parameter in teacher.parameters()}

    saved = [key for key in detector.state_dict() if key.startswith("extensions")]
    assert saved == ["extensions.Distillation.queries.content.weight"]
    assert not weights & {id(parameter) for parameter in detector.parameters()}
    assert teacher not in set(detector.modules())

    sum(training_losses(detector, INPUTS).values()).backward()
    assert detector.training and not teacher.training
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in teacher.parameters())
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())


def test_a_deep_copy_shares_the_teacher_and_nothing_else() -> None:
    detector = tiny_detector(tiny_distillation())
    other = copy.deepcopy(detector)
    assert teacher_of(other) is teacher_of(detector)
    assert not {id(p) for p in other.parameters()} & {id(p) for p in detector.parameters()}
    first, second = training_losses(detector, INPUTS), training_losses(other, INPUTS)
    assert all(torch.equal(first[name], loss) for name, loss in second.items())


def test_the_same_step_gives_the_same_losses() -> None:
    """The teacher answers without dropout."""
    detector = tiny_detector(tiny_distillation())
    first, second = training_losses(detector, INPUTS), training_losses(detector, INPUTS)
    assert all(torch.equal(first[name], loss) for name, loss in second.items())


def test_at_inference_nobody_is_asked() -> None:
    detector = tiny_detector(tiny_distillation())

    def refuse(*given: object) -> None:
        raise AssertionError("The teacher was asked at inference.")

    detector.extensions["Distillation"].queries.teacher = refuse
    assert len(detector(INPUTS)) == 2


def test_a_checkpoint_of_a_taught_detector_serves_one_without_distillation() -> None:
    taught, plain = tiny_detector(tiny_distillation()), tiny_detector()
    loaded = plain.load_state_dict(taught.state_dict(), strict=False)
    assert loaded.missing_keys == [] and loaded.unexpected_keys == ["extensions.Distillation.queries.content.weight"]


def test_words_and_weights_survive_a_pickle() -> None:
    detector = tiny_detector()
    other = pickle.loads(pickle.dumps(detector))
    assert torch.equal(other(INPUTS)[0]["instances"].scores, detector(INPUTS)[0]["instances"].scores)
