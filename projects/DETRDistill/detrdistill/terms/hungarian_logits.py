"""Hungarian-matching logits distillation: the teacher's predictions are soft labels for those that resemble them.

P pairs of layers, B images, N queries of the student, M of the teacher, n pairs of queries.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from detectron2.config import CfgNode
from torch import Tensor

from dk_detr.layers import to_cxcywh, to_xyxy
from dk_detr.structures import DETECTION, Predictions
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.soft import Comparison, Pairs, counted_queries, match, probabilities
from projects.DETRDistill.detrdistill.step import Step
from projects.DETRDistill.detrdistill.terms.term import Term


class HungarianLogits(Term):
    """Layer by layer, see `StagePairs`; sums over layers.

    The paper's form: a prediction that the teacher matched with an object is a label, its scores and its box. The
    teacher's other predictions, the rest, teach boxes, matched among the student's other queries. Each is divided by
    its own number. The release's form: one matching of all with all, classes included, divided by the number of all.

    Args:
        activation: of both classifiers. cost, weights: of "CLASS", "L1", "GIOU".
        rest, rest_class: weights of the boxes and of the classes of the rest. variant: "paper" or "release".

    Source: DETRDistill (ICCV 2023), eq. 3 to 5.
    """

    def __init__(
        self,
        activation: str,
        cost: Mapping[str, float],
        weights: Mapping[str, float],
        rest: float = 1.0,
        rest_class: float = 0.0,
        variant: str = "paper",
    ) -> None:
        super().__init__()
        self.activation, self.cost, self.weights = activation, dict(cost), dict(weights)
        self.rest, self.rest_class, self.variant = rest, rest_class, variant

    @classmethod
    def build(cls, kd: CfgNode, student: Side, teacher: Side) -> "HungarianLogits":
        """See `Term`."""
        own = kd.HUNGARIAN_LOGITS
        return cls(student.activation, own.COST, own.WEIGHTS, own.REST, own.REST_CLASS, own.VARIANT)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """See `Term`."""
        ours, theirs = step.in_pairs(DETECTION)
        if self.variant == "release":
            return self._of_all(step, ours, replace(theirs, boxes=_inside_the_image(theirs.boxes)))
        return self._of_objects_and_rest(step, ours, theirs)

    def _of_objects_and_rest(self, step: Step, ours: Predictions, theirs: Predictions) -> dict[str, Tensor]:
        cost, loss = self._comparisons(step)
        score = probabilities(theirs.logits, self.activation).amax(-1)
        free, there = counted_queries(ours), counted_queries(theirs)
        objects = _matched_with_objects(step) & there
        positive = match(cost.cost(ours, theirs), free, objects, score)
        taken = torch.zeros_like(free).index_put(_of_student(positive), torch.ones_like(positive.ours).bool())
        rest = match(cost.cost(ours, theirs, of_class=bool(self.rest_class)), free & ~taken, there & ~objects, score)
        weight = step.stages.weights(ours.boxes)
        labels = loss.class_losses(*positive.of(ours.logits, theirs.logits))
        boxes = loss.box_losses(*positive.of(ours.boxes, theirs.boxes))
        of_rest = {name: self.rest * each for name, each in loss.box_losses(*rest.of(ours.boxes, theirs.boxes)).items()}
        if self.rest_class:
            classes = loss.class_losses(*rest.of(ours.logits, theirs.logits))
            of_rest |= {name: self.rest_class * each for name, each in classes.items()}
        number = max(len(rest.image) / len(ours.boxes), 1.0)
        return {
            **{name: _sum(each, positive, weight) / step.inputs.num_objects for name, each in (labels | boxes).items()},
            **{f"rest_{name}": _sum(each, rest, weight) / number for name, each in of_rest.items()},
        }

    def _of_all(self, step: Step, ours: Predictions, theirs: Predictions) -> dict[str, Tensor]:
        cost, loss = self._comparisons(step)
        pairs = cost.match_all(ours, theirs)
        weight, number = step.stages.weights(ours.boxes), max(len(pairs.image) / len(ours.boxes), 1.0)
        labels = loss.class_losses(*pairs.of(ours.logits, theirs.logits))
        boxes = loss.box_losses(*pairs.of(ours.boxes, theirs.boxes))
        return {name: _sum(each, pairs, weight) / number for name, each in (labels | boxes).items()}

    def _comparisons(self, step: Step) -> tuple[Comparison, Comparison]:
        """For matching, and for learning."""
        form = step.box_form
        return Comparison(self.activation, form, self.cost), Comparison(self.activation, form, self.weights)


def _matched_with_objects(step: Step) -> Tensor:
    """(P, B, M) bool, of the teacher's queries in each pair of layers."""
    boxes, pairs = step.teacher.detections.boxes, step.assignment
    matched = torch.zeros(boxes.shape[:3], dtype=torch.bool, device=boxes.device)
    matched[pairs.layer, pairs.image, pairs.query] = True
    return step.stages.of_teacher(matched)


def _of_student(pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    return pairs.stage, pairs.image, pairs.ours


def _sum(losses: Tensor, pairs: Pairs, weight: Tensor) -> Tensor:
    return (losses * weight[pairs.stage]).sum()


def _inside_the_image(boxes: Tensor) -> Tensor:
    return to_cxcywh(to_xyxy(boxes).clamp(0, 1))
