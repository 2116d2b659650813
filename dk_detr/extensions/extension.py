"""Training extension: whatever training adds to a detector. More queries, another loss, a teacher: one protocol.

An extension *prepares* before decoding: query groups that the detection queries cannot see. It *supervises* after it:
weighted losses of what was predicted. At inference no extension is built. B images, K words, E text width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from detectron2.config import CfgNode
from detectron2.structures import ImageList
from torch import Tensor, nn

from dk_detr.criterion import SetCriterion
from dk_detr.modeling import Heads, InitialQueries, Queries, ROIHead
from dk_detr.structures import Assignment, FeaturePyramid, Memory, Predictions, QueryGroup, Targets, Trace, Vocabulary


@dataclass(frozen=True)
class TrainingInputs:
    """What a training step knows before decoding.

    Attributes:
        images: normalised and padded. batched_inputs: the samples as the loader gave them.
        pyramid: levels of the neck, and the backbone's own maps. memory: encoded tokens.
        initial: the detection queries, and what the first stage says. targets: the ground truth.
        num_objects: of the batch, what detection losses are divided by; see `mean_num_objects`.
        queries: what made the detection queries; it gives others their positional codes.
        roi_head: of the detector, for a teacher; None where it has none.
    """

    images: ImageList
    batched_inputs: list[dict[str, Any]]
    pyramid: FeaturePyramid
    memory: Memory
    initial: InitialQueries
    targets: Targets
    num_objects: float | Tensor
    queries: Queries
    roi_head: ROIHead | None = None


@dataclass(frozen=True)
class TrainingOutputs:
    """What a training step knows after decoding.

    Attributes:
        trace: hidden states and boxes of all groups. predictions: of each group, by its name, against `text`.
        text: (K, E) of the words of training. assignment: of the detections of all decoder layers.
        heads: what predictions were made by, for those that want others.
    """

    trace: Trace
    predictions: Mapping[str, Predictions]
    text: Tensor
    assignment: Assignment
    heads: Heads


@dataclass(frozen=True)
class Plan:
    """What an extension prepared for a step.

    Attributes:
        groups: queries to decode beside the detection queries; () for an extension that adds none.
    """

    groups: tuple[QueryGroup, ...]


@dataclass(frozen=True)
class BuildContext:
    """What extensions are built with, besides the config.

    Attributes:
        train_vocabulary: base words. vocabulary: the words to detect. criterion: the losses of detections.
        network: what the detector has at inference, by the names of `DETR`'s arguments, to be looked at, not kept: a
            module that an extension keeps would be its own.
    """

    train_vocabulary: Vocabulary
    vocabulary: Vocabulary
    criterion: SetCriterion
    network: Mapping[str, Any]


PlanT = TypeVar("PlanT", bound=Plan)


class TrainingExtension(nn.Module, ABC, Generic[PlanT]):
    """One thing that training adds; built from a config and a `BuildContext`. Any number of them train together.

    Attributes:
        prefix: of the names of its losses, such as "dn_"; no two extensions of a detector share one.
        has_teacher: whether a model teaches, of which inference knows nothing.
        teaches_image_embeddings: whether a teacher's image embeddings are learned, which some classifiers need.
    """

    prefix: str
    has_teacher = False
    teaches_image_embeddings = False

    @classmethod
    def refuse_bad_combinations(cls, cfg: CfgNode, name: str) -> None:
        """Asked before anything is built. Raises ValueError, naming both keys, for a config that it cannot train with.

        Args:
            name: under which MODEL.TRAINING_EXTENSIONS has it.
        """

    @abstractmethod
    def prepare(self, inputs: TrainingInputs) -> PlanT:
        """Before decoding. Random numbers that queries depend on are drawn here, in the order of the extensions."""

    def negative_weight(self, plan: PlanT, inputs: TrainingInputs, outputs: TrainingOutputs) -> Tensor | None:
        """(B, Q, K) in [0, 1], how much each detection query is to learn that it is not a word of training; None for
        all of it. Asked before the losses of the detections; those of several extensions are multiplied. A matched
        query learns the word of its object in any case."""
        return None

    def pseudo_objects(self, plan: PlanT, inputs: TrainingInputs, outputs: TrainingOutputs) -> Targets | None:
        """Objects that have no label, of class 0, for the first stage to propose beside the labelled ones; None for
        none. Only a class-agnostic first stage is told of them."""
        return None

    @abstractmethod
    def supervise(self, plan: PlanT, inputs: TrainingInputs, outputs: TrainingOutputs) -> dict[str, Tensor]:
        """Weighted losses `loss_<prefix><name>`: the same names in every step of every worker. With nothing to
        learn a loss is a 0 that depends on the extension's parameters, for DDP waits for every gradient."""
