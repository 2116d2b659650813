"""Pseudo objects: the first stage is told of what the teacher takes for an object, and nobody else is. B images."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dk_detr.distillation.pseudo_objects import PseudoObjects
from dk_detr.meta_arch import DETR
from dk_detr.meta_arch.combinations import refuse_bad_combinations
from dk_detr.structures import Assignment, Predictions, Targets
from tests.model_fixtures import configured_detector, fixed_seed, tiny_config, tiny_input, training_losses

INPUTS = [tiny_input(seed=1), tiny_input((32, 40), 3, seed=2)]
OPTIONS: dict[str, Any] = {
    "CLASSIFIER__LOGIT_BIAS": -2.0,
    "MODEL__KD__SLOT_FILTERS": ["duplicates"],
    "MODEL__KD__PSEUDO_OBJECTS": 0.001,
}
FORMS = ("Auxiliary", "SelectedAuxiliary", "Detection", "ROIHead")


def detector(queries: str) -> DETR:
    return configured_detector("dk_detr_R50", MODEL__KD__QUERIES=queries, MODEL__KD__REFERENCE="stay", **OPTIONS)


def step(made: DETR, choose: PseudoObjects | None) -> dict[str, Tensor]:
    made.extensions["Distillation"].choose_pseudo_objects = choose
    with fixed_seed(7):
        return training_losses(made, INPUTS)


@pytest.mark.parametrize("queries", FORMS)
def test_only_the_first_stage_learns_otherwise(queries: str) -> None:
    made = detector(queries)
    chooses = made.extensions["Distillation"].choose_pseudo_objects
    without, told = step(made, None), step(made, chooses)
    assert without.keys() == told.keys()
    assert told["loss_proposal_class"] != without["loss_proposal_class"]
    for name in (name for name in told if not name.startswith("loss_proposal_")):
        assert torch.equal(told[name], without[name]), name


def test_the_first_stage_compares_with_labelled_and_pseudo_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    made = detector("ROIHead")
    chooses = made.extensions["Distillation"].choose_pseudo_objects
    compared: list[Targets] = []
    match = made.proposal_criterion.match

    def watched(said: Predictions, targets: Targets, stage: str) -> Assignment:
        compared.append(targets)
        return match(said, targets, stage)

    monkeypatch.setattr(made.proposal_criterion, "match", watched)
    step(made, None)
    step(made, chooses)
    labelled, told = compared
    for before, after in zip(labelled.boxes, told.boxes):
        assert len(after) > len(before)
        assert torch.equal(after[: len(before)], before)
    assert not any(labels.any() for labels in told.labels)


def test_no_belief_is_high_enough_for_none() -> None:
    made = detector("ROIHead")
    without, told = step(made, None), step(made, PseudoObjects(belief=1.0))
    assert all(torch.equal(without[name], told[name]) for name in told)


def test_without_a_belief_there_are_none() -> None:
    made = configured_detector("dk_detr_R50")
    assert made.extensions["Distillation"].choose_pseudo_objects is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"CLASSIFIER__LOGIT_BIAS": None}, "MODEL.KD.PSEUDO_OBJECTS 0.001 asks .* needs MODEL.CALIBRATION"),
        ({"MODEL__KD__SLOT_FILTERS": ["unmatched"]}, 'add "duplicates" to MODEL.KD.SLOT_FILTERS'),
        ({"MODEL__KD__PSEUDO_OBJECTS": 0.0}, "is a belief above 0 and at most 1.* got 0.0"),
        ({"MODEL__KD__PSEUDO_OBJECTS": 1.5}, "got 1.5"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refuse_bad_combinations(tiny_config("dk_detr_R50", **OPTIONS | options))
