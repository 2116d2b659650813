"""Localizer: a frozen network that proposes boxes. What they show is none of its business."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import Tensor, nn

from dk_detr.convert.reading import read_content, weights_in
from dk_detr.engine.predictor import with_words_of_training
from dk_detr.engine.setup import for_inference, guest_cfg
from dk_detr.meta_arch.open_vocabulary import OpenVocabularyDetector


class Localizer(nn.Module):
    """Has its own backbone, normalisation and weights; only the images are shared.

    Args:
        network: Detectron2's ProposalNetwork, or a detector of this project that proposes. flipped: whether its
            channels are in the other order. known: whether it has weights already.
    """

    def __init__(self, network: nn.Module, flipped: bool = False, known: bool = False) -> None:
        super().__init__()
        self.network, self.flipped, self.known = network.requires_grad_(False).eval(), flipped, known

    def train(self, mode: bool = True) -> "Localizer":
        """It never trains."""
        return super().train(False)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[Instances]:
        """Of each image Instances with proposal_boxes (xyxy in pixels of the sample) and objectness_logits, the best
        first. Raises ValueError where it never got weights."""
        if not self.known:
            raise ValueError(
                "The localizer (MODEL.REGIONCLIP.LOCALIZER) has no weights: name them in "
                "MODEL.REGIONCLIP.LOCALIZER.WEIGHTS, or a MODEL.WEIGHTS that holds them, too."
            )
        images = [given["image"] for given in batched_inputs]
        shown = [{"image": image.flip(0) if self.flipped else image} for image in images]
        if isinstance(self.network, OpenVocabularyDetector):
            return self.network.propose(shown)
        return [output["proposals"] for output in self.network(shown)]

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *others: Any) -> None:
        """Weights of a whole detector bring its own."""
        self.known = self.known or any(name.startswith(prefix) for name in state_dict)
        super()._load_from_state_dict(state_dict, prefix, *others)


def localizer_from_config(cfg: CfgNode) -> Localizer | None:
    """That of MODEL.REGIONCLIP.LOCALIZER; None where regions are the ground truth.

    Raises: ValueError for no config, for a network that proposes nothing, and for weights that are not its own.
    """
    own = cfg.MODEL.REGIONCLIP
    if own.REGIONS == "GroundTruth":
        return None
    named = own.LOCALIZER
    if not named.CONFIG:
        raise ValueError(
            'MODEL.REGIONCLIP.REGIONS "Proposals" needs a network that makes them: name its config in '
            'MODEL.REGIONCLIP.LOCALIZER.CONFIG, or choose "GroundTruth".'
        )
    opts = ["MODEL.DEVICE", cfg.MODEL.DEVICE, *map(str, named.OPTS)]
    theirs = guest_cfg(named.CONFIG, opts, "MODEL.REGIONCLIP.LOCALIZER.CONFIG")
    if theirs.MODEL.META_ARCHITECTURE != "ProposalNetwork":
        if named.WEIGHTS:
            theirs.defrost()
            theirs.MODEL.WEIGHTS = named.WEIGHTS
            theirs = with_words_of_training(theirs)
        theirs = for_inference(theirs)
    network: Any = build_model(theirs)
    if not getattr(network, "proposes", theirs.MODEL.META_ARCHITECTURE == "ProposalNetwork"):
        raise ValueError(
            f"MODEL.REGIONCLIP.LOCALIZER.CONFIG {named.CONFIG} is of MODEL.META_ARCHITECTURE "
            f'"{theirs.MODEL.META_ARCHITECTURE}", which proposes nothing: choose "ProposalNetwork", or a detector with '
            "a first stage."
        )
    if named.WEIGHTS:
        load_localizer(network, named.WEIGHTS)
    flipped = {cfg.INPUT.FORMAT, theirs.INPUT.FORMAT} == {"RGB", "BGR"}
    return Localizer(network, flipped, known=bool(named.WEIGHTS))


def load_localizer(network: nn.Module, path: str) -> None:
    """Load a network from a detector's weights, which may hold more: only what the network has is taken.

    Raises: FileNotFoundError; ValueError naming what is missing or of another shape.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There are no weights {path} (MODEL.REGIONCLIP.LOCALIZER.WEIGHTS).")
    theirs = weights_in(read_content(file), file).state
    ours = network.state_dict()
    missing = [name for name in ours if name not in theirs]
    if missing:
        raise ValueError(
            f"{path} (MODEL.REGIONCLIP.LOCALIZER.WEIGHTS) has no {missing[0]} ({len(missing)} of {len(ours)} tensors "
            "of the localizer): are they weights of MODEL.REGIONCLIP.LOCALIZER.CONFIG?"
        )
    other = [name for name in ours if ours[name].shape != theirs[name].shape]
    if other:
        raise ValueError(
            f"{path} (MODEL.REGIONCLIP.LOCALIZER.WEIGHTS): {other[0]} has shape {tuple(theirs[other[0]].shape)}, "
            f"wanted {tuple(ours[other[0]].shape)}."
        )
    network.load_state_dict({name: theirs[name] for name in ours})
