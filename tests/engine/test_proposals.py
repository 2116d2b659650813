"""What the first stage proposes, as evaluators see it: beside the detections, in their pixels, nothing else changed."""

from typing import Any

import pytest
import torch
from detectron2.structures import Instances

from dk_detr.engine.proposals import WithProposals
from tests.model_fixtures import QUERIES, tiny_detector, tiny_input


def proposals(detector: Any, *inputs: dict[str, Any]) -> list[Instances]:
    with torch.no_grad():
        return [output["proposals"] for output in WithProposals(detector)(list(inputs))]


def test_proposals_are_the_references_in_pixels_of_the_output_the_best_first() -> None:
    detector, given = tiny_detector(), tiny_input((40, 48)) | {"height": 400, "width": 240}
    seen = []
    detector.queries.register_forward_hook(lambda _, __, initial: seen.append(initial))
    (found,) = proposals(detector, given)
    assert found.image_size == (400, 240) and len(found) == QUERIES
    x, y, w, h = seen[0].group.reference[0].unbind(1)
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=1).clamp(0, 1)
    torch.testing.assert_close(found.proposal_boxes.tensor, corners * torch.tensor([240, 400, 240, 400]))
    assert torch.equal(found.objectness_logits, seen[0].objectness[0])
    assert torch.equal(found.objectness_logits, found.objectness_logits.sort(descending=True).values)


def test_proposals_of_a_batch_are_those_of_its_images_and_none_lies_in_the_padding() -> None:
    detector = tiny_detector()
    small, large = tiny_input((16, 20), seed=1), tiny_input((64, 72), seed=2)
    for together, given in zip(proposals(detector, small, large), (small, large)):
        (alone,) = proposals(detector, given)
        torch.testing.assert_close(together.proposal_boxes.tensor, alone.proposal_boxes.tensor, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(together.objectness_logits, alone.objectness_logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("training", [False, True])
def test_detections_and_the_state_of_the_detector_are_the_same_with_and_without(training: bool) -> None:
    detector, given = tiny_detector(), tiny_input()
    with torch.no_grad():
        (alone,) = detector([given])
        (beside,) = WithProposals(detector)([given])
    assert torch.equal(beside["instances"].scores, alone["instances"].scores)
    assert WithProposals(detector.train(training)).training is training


def test_the_proposals_beside_detections_are_the_best_of_all_that_the_first_stage_takes_for_objects() -> None:
    detector, given = tiny_detector(), tiny_input()
    (beside,), (every,) = WithProposals(detector)([given]), detector.propose([given])
    (few,) = detector.propose([given], limit=5)
    chosen = beside["proposals"]
    assert len(chosen) == QUERIES < len(every) and len(few) == 5
    for some in (chosen, few):
        assert torch.equal(some.objectness_logits, every.objectness_logits[: len(some)])
        assert torch.equal(some.proposal_boxes.tensor, every.proposal_boxes.tensor[: len(some)])
    assert (every.objectness_logits.diff() <= 0).all()


def test_a_detector_without_a_first_stage_says_that_it_proposes_nothing() -> None:
    detector = tiny_detector(queries="Learned")
    assert not detector.proposes
    with pytest.raises(NotImplementedError, match="DETR proposes nothing"):
        detector.propose([tiny_input()])


def test_queries_that_are_no_proposals_are_refused() -> None:
    with pytest.raises(ValueError, match='needs MODEL.DETR.QUERIES "Proposals" or "Mixed"'):
        WithProposals(tiny_detector(queries="Learned"))
