"""What the first stage of a detector proposes, for evaluators to score beside its detections."""

from typing import Any

from torch import nn


class WithProposals(nn.Module):
    """A detector whose outputs carry "proposals" beside "instances", see `OpenVocabularyDetector.propose`.

    Raises: ValueError for a detector that proposes none.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        if not getattr(detector, "proposes", False):
            raise ValueError(
                'TEST.ALSO_RECALL_OF "proposals" needs MODEL.DETR.QUERIES "Proposals" or "Mixed": others propose none.'
            )
        self.detector: Any = detector
        self.training = detector.training  # what Detectron2 puts back after it has evaluated

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Detect, and keep what the first stage said on the way."""
        outputs: list[dict[str, Any]] = self.detector.detect_with_proposals(batched_inputs)
        return outputs
