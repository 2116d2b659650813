"""What the first stage of a detector sees, for evaluators to score beside its detections."""

from typing import Any

from detectron2.structures import Boxes, Instances
from torch import nn

from dk_detr.layers import to_pixels
from dk_detr.modeling import Proposals
from dk_detr.modeling.queries.first_stage import FirstStage


def proposes(detector: nn.Module) -> bool:
    """Whether a detector proposes boxes before it names them: by its queries, or, in a project, by a method
    `propose(batched_inputs) -> list[Instances]`."""
    return hasattr(detector, "propose") or isinstance(getattr(detector, "queries", None), Proposals)


class WithProposals(nn.Module):
    """A detector whose outputs carry "proposals" beside "instances": Instances with proposal_boxes (xyxy in pixels of
    the output, clipped) and objectness_logits, the best first.

    Raises: ValueError for a detector whose queries are no proposals.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        if not proposes(detector):
            raise ValueError(
                'TEST.ALSO_RECALL_OF "proposals" needs MODEL.DETR.QUERIES "Proposals" or "Mixed": others propose none.'
            )
        self.detector = detector
        self.training = detector.training  # what Detectron2 puts back after it has evaluated

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Detect, and keep what the first stage said on the way."""
        detector: Any = self.detector
        if hasattr(detector, "propose"):
            both = zip(detector(batched_inputs), detector.propose(batched_inputs))
            return [{**output, "proposals": proposals} for output, proposals in both]
        seen: list[FirstStage] = []
        queries: Any = self.detector.queries
        hook = queries.register_forward_hook(lambda _, __, first_stage: seen.append(first_stage))
        try:
            outputs = self.detector(batched_inputs)
        finally:
            hook.remove()
        return [
            {**output, "proposals": _proposals(seen[0], number, output["instances"].image_size)}
            for number, output in enumerate(outputs)
        ]


def _proposals(first_stage: FirstStage, number: int, size: tuple[int, int]) -> Instances:
    references = first_stage.group.reference
    assert references is not None and first_stage.objectness is not None
    boxes = Boxes(to_pixels(references[number].float(), size))
    boxes.clip(size)
    objectness = first_stage.objectness[number]
    return Instances(size, proposal_boxes=boxes, objectness_logits=objectness)[objectness.isfinite()]
