"""Localizer: a frozen network that proposes boxes. What they show is none of its business."""

from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import nms
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import Instances
from torch import Tensor, nn

from dk_detr.convert.reading import read_content
from dk_detr.engine.evaluated import evaluated_weights
from dk_detr.engine.predictor import with_words_of_training
from dk_detr.engine.setup import for_inference, guest_cfg, with_values
from dk_detr.meta_arch.open_vocabulary import OpenVocabularyDetector

KEY = "MODEL.REGIONCLIP.LOCALIZER"
COUNTER = "num_batches_tracked"  # of batch norms; who loads without it, needs it not


class Localizer(nn.Module):
    """Has its own backbone, normalisation and weights; only the images are shared.

    Args:
        network: Detectron2's ProposalNetwork, or a detector of this project that proposes.
        count: boxes of an image, at most. nms_iou: of a first stage that does no NMS of its own.
        flipped: whether its channels are in the other order. missing: what is to be said where it is used before a
            checkpoint brought its weights; "" where it has some.
    """

    def __init__(
        self, network: nn.Module, count: int = 1000, nms_iou: float = 0.7, flipped: bool = False, missing: str = ""
    ) -> None:
        super().__init__()
        self.network, self.flipped, self.missing = network.requires_grad_(False).eval(), flipped, missing
        self.count, self.nms_iou = count, nms_iou

    def train(self, mode: bool = True) -> "Localizer":
        """It never trains."""
        return super().train(False)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[Instances]:
        """Of each image Instances with proposal_boxes (xyxy in pixels of the sample) and objectness_logits, the best
        first. Raises ValueError where it never got weights."""
        if self.missing:
            raise ValueError(self.missing)
        images = [given["image"] for given in batched_inputs]
        shown = [{"image": image.flip(0) if self.flipped else image} for image in images]
        if not isinstance(self.network, OpenVocabularyDetector):
            return [output["proposals"][: self.count] for output in self.network(shown)]
        return [self._without_duplicates(found) for found in self.network.propose(shown, 4 * self.count)]

    def _without_duplicates(self, found: Instances) -> Instances:
        kept = nms(found.proposal_boxes.tensor, found.objectness_logits, self.nms_iou)
        best: Instances = found[kept[: self.count]]
        return best

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: Any) -> None:
        """Weights of a whole detector bring its own. Where they do not, those that it has stay: Detectron2's frozen
        norms would fill in statistics that are missing."""
        if any(name.startswith(prefix) for name in state_dict):
            self.missing = ""
        elif not self.missing:
            state_dict.update({prefix + name: tensor for name, tensor in self.state_dict().items()})
        super()._load_from_state_dict(state_dict, prefix, *others)


def localizer_from_config(cfg: CfgNode) -> Localizer | None:
    """That of MODEL.REGIONCLIP.LOCALIZER; None where regions are the ground truth. Where its own weights are not there,
    MODEL.WEIGHTS must bring them, and it says so when it is first used.

    Raises: ValueError for no config, for a network that proposes nothing, and for weights that are not its own.
    """
    own = cfg.MODEL.REGIONCLIP
    if own.REGIONS == "GroundTruth":
        return None
    named = own.LOCALIZER
    if not named.CONFIG:
        raise ValueError(
            'MODEL.REGIONCLIP.REGIONS "Proposals" needs a network that makes them: name its config in '
            f'{KEY}.CONFIG, or choose "GroundTruth".'
        )
    if named.COUNT < 1:
        raise ValueError(f"{KEY}.COUNT must be at least 1, got {named.COUNT}.")
    opts = ["MODEL.DEVICE", cfg.MODEL.DEVICE, *map(str, named.OPTS)]
    theirs = guest_cfg(named.CONFIG, opts, f"{KEY}.CONFIG")
    there = Path(named.WEIGHTS).is_file()
    network: Any = build_model(_as_guest(theirs, named.WEIGHTS if there else ""))
    if not getattr(network, "proposes", not isinstance(network, OpenVocabularyDetector)):
        raise _proposes_nothing(named.CONFIG, theirs)
    if there:
        load_localizer(network, named.WEIGHTS)
    flipped = {cfg.INPUT.FORMAT, theirs.INPUT.FORMAT} == {"RGB", "BGR"}
    return Localizer(network, named.COUNT, named.NMS_IOU, flipped, "" if there else _missing(named.WEIGHTS))


def _missing(path: str) -> str:
    told = f"There are no weights {path} ({KEY}.WEIGHTS)" if path else f"{KEY}.WEIGHTS is empty"
    return f"The localizer has no weights: {told}, and MODEL.WEIGHTS holds none of it. Name weights that are there."


def _as_guest(theirs: CfgNode, weights: str) -> CfgNode:
    """The config of a detector that only proposes. Raises ValueError for one that does not."""
    name = theirs.MODEL.META_ARCHITECTURE
    if name == "ProposalNetwork":
        return theirs
    if name not in META_ARCH_REGISTRY or not issubclass(META_ARCH_REGISTRY.get(name), OpenVocabularyDetector):
        raise _proposes_nothing("", theirs)
    if weights:
        theirs = with_words_of_training(with_values(theirs, {"MODEL.WEIGHTS": weights}))
    return for_inference(with_values(theirs, {"MODEL.DETR.PADDED_SIZE": 0}))


def _proposes_nothing(config: str, theirs: CfgNode) -> ValueError:
    return ValueError(
        f'{KEY}.CONFIG {config} is of MODEL.META_ARCHITECTURE "{theirs.MODEL.META_ARCHITECTURE}": choose '
        '"ProposalNetwork", which takes the weights of any Faster or Mask R-CNN, or a detector of this project with a '
        "first stage."
    )


def load_localizer(network: nn.Module, path: str) -> None:
    """Load a network from a detector's weights, which may hold more: only what the network has is taken.

    Raises: ValueError naming what is missing or of another shape.
    """
    file = Path(path)
    theirs = evaluated_weights(read_content(file), file)
    ours = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(COUNTER)}
    missing = [name for name in ours if name not in theirs]
    if missing:
        raise ValueError(
            f"{path} ({KEY}.WEIGHTS) has no {missing[0]} ({len(missing)} of {len(ours)} tensors of the localizer): are "
            f"they weights of {KEY}.CONFIG?"
        )
    other = [name for name in ours if ours[name].shape != theirs[name].shape]
    if other:
        raise ValueError(
            f"{path} ({KEY}.WEIGHTS): {other[0]} has shape {tuple(theirs[other[0]].shape)}, wanted "
            f"{tuple(ours[other[0]].shape)}."
        )
    network.load_state_dict({name: theirs[name] for name in ours}, strict=False)
