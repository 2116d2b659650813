"""Teacher: a frozen network that sees the student's crops. B crops, E width of embeddings, K words."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor
from torch.nn import functional as F

from dk_detr.distillation.guest import Guest
from dk_detr.distillation.teacher_words import rows_of_student
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.setup import for_inference, guest_cfg
from dk_detr.language import Clip, clip_from_config, require_one_space, require_words_of
from dk_detr.modeling import CosineText, Linear
from dk_detr.structures import Vocabulary
from dk_detr.utils import errors_of
from projects.BackboneDistillation.backbone_distillation.seen import Seen
from projects.BackboneDistillation.backbone_distillation.terms import Term

KEY = "MODEL.BACKBONE_KD.TEACHER"
CLIP = "CLIP"


class Teacher:
    """A classifier of this project, or a CLIP. It lives as a guest in the student: not in its weights, nor trained.

    Args:
        network: `ClassifierSees` or `ClipSees`. words: (K, E') rows of the student's words of training.
        flipped: whether its channels are in the other order.
    """

    def __init__(self, network: Any, words: Tensor, flipped: bool) -> None:
        self.guest, self._words, self.flipped = Guest(network), words, flipped

    @torch.no_grad()
    def see(self, crops: Tensor) -> Seen:
        """(B, 3, S, S) in [0, 255], in the student's INPUT.FORMAT."""
        self._words = self._words.to(crops.device)
        seen: Seen = self.guest.on(crops.device).see(crops.flip(1) if self.flipped else crops, self._words)
        return seen

    def hand_over(self, classifier: CosineText | Linear, words: Vocabulary) -> None:
        """Where only embeddings are learnt, a student's are the teacher's: so is its classifier, which then stays as it
        is.

        Args:
            words: of the student's training.

        Raises: ValueError where the two are of different kinds, or for other words.
        """
        network = self.guest.on(self._words.device)
        theirs: Any = getattr(getattr(network, "head", None), "classifier", None)
        if type(theirs) is not type(classifier) or theirs is None or theirs.width != classifier.width:
            raise ValueError(
                "MODEL.BACKBONE_KD.LABEL_WEIGHT 0 takes over the teacher's classifier, and that is of another kind: "
                f"name a teacher ({KEY}.CONFIG) with the student's MODEL.DETR.CLASSIFIER.NAME and MODEL.VOCABULARY."
            )
        with errors_of(f"The teacher ({KEY})"):
            if isinstance(classifier, Linear) and words.names != network.train_vocabulary.names:
                raise ValueError("it knows other words, or in another order (MODEL.VOCABULARY).")
            require_one_space(words, network.train_vocabulary, "Choose a teacher of the student's MODEL.VOCABULARY.")
        classifier.load_state_dict(theirs.state_dict())
        classifier.requires_grad_(False)


class ClipSees:
    """CLIP's image tower: embeddings as it gives them, and cosines with words over a temperature.

    Args:
        clip: the CLIP. temperature: of the cosines.
    """

    def __init__(self, clip: Clip, temperature: float) -> None:
        self.clip, self.temperature = clip, temperature

    def to(self, device: torch.device) -> "ClipSees":
        """See `Guest`."""
        self.clip.to(device)
        return self

    def see(self, crops: Tensor, words: Tensor) -> Seen:
        """See `Teacher`."""
        side, model = self.clip.image_size, cast(Any, self.clip.model)
        mean, std = (crops.new_tensor(values).view(-1, 1, 1) for values in (self.clip.mean, self.clip.std))
        shown = F.interpolate(crops, (side, side), mode="bicubic", antialias=True, align_corners=False)
        embeddings = model.encode_image((shown.clamp(0, 255) / 255 - mean) / std).float()
        with torch.autocast(crops.device.type, enabled=False):  # a logit of half floats is off by a tenth
            logits = F.normalize(embeddings, dim=-1) @ words.T / self.temperature
        return Seen(embeddings, logits, None)


def learns_words(label_weight: float, terms: Sequence[Term]) -> bool:
    """Whether anything teaches the student's classifier."""
    return label_weight > 0 or any(term.compares_words for term in terms)


def refuse_mismatch(cfg: CfgNode, theirs: CfgNode, terms: Sequence[Term]) -> None:
    """What two configs alone tell: raises ValueError for a teacher of another kind, and for other widths."""
    own, named = cfg.MODEL.BACKBONE_KD, cfg.MODEL.BACKBONE_KD.TEACHER.CONFIG
    if theirs.MODEL.META_ARCHITECTURE != "ImageClassifier":
        raise ValueError(
            f"{KEY}.CONFIG {named} is of MODEL.META_ARCHITECTURE "
            f'"{theirs.MODEL.META_ARCHITECTURE}"; a teacher here is an "ImageClassifier", or "{CLIP}".'
        )
    _require(terms, own.EMBEDDING, theirs.MODEL.BACKBONE_KD.EMBEDDING)


def teacher_from_config(cfg: CfgNode, words: Vocabulary, terms: Sequence[Term]) -> Teacher:
    """The teacher of MODEL.BACKBONE_KD.TEACHER.

    Args:
        words: of the student's training. terms: what is asked of it.

    Raises: ValueError for a teacher that does not know the words, whose embeddings are of another width, or that cannot
        look at cells where a term needs that; FileNotFoundError for weights that are not there.
    """
    own = cfg.MODEL.BACKBONE_KD
    if own.TEACHER.CONFIG == CLIP:
        clip = clip_from_config(cfg)
        require_words_of(clip, words)
        _require(terms, own.EMBEDDING, clip.width, has_map=False)
        return Teacher(ClipSees(clip, own.TEACHER.TEMPERATURE), words.embeddings, cfg.INPUT.FORMAT == "BGR")
    if not own.TEACHER.WEIGHTS:
        raise ValueError(
            f"{KEY}.WEIGHTS is empty: name the teacher's weights, or let projects/BackboneDistillation/train.py train "
            f"{own.TEACHER.CONFIG} first."
        )
    opts = ["MODEL.DEVICE", cfg.MODEL.DEVICE, *map(str, own.TEACHER.OPTS)]
    theirs = guest_cfg(own.TEACHER.CONFIG, opts, f"{KEY}.CONFIG")
    refuse_mismatch(cfg, theirs, terms)
    with errors_of(f"The teacher ({KEY})"), torch.random.fork_rng(devices=[]):  # its first weights are not kept
        network: Any = build_model(for_inference(theirs)).eval().requires_grad_(False)
        StrictCheckpointer(network).load(own.TEACHER.WEIGHTS)
        known, compared = network.train_vocabulary, any(term.compares_words for term in terms)
        rows = rows_of_student(known, words, "it") if compared else known.embeddings
    return Teacher(network, rows, {cfg.INPUT.FORMAT, theirs.INPUT.FORMAT} == {"RGB", "BGR"})


def _require(terms: Sequence[Term], ours: int, theirs: int, has_map: bool = True) -> None:
    if any(term.compares_embeddings for term in terms) and ours != theirs:
        raise ValueError(
            f'MODEL.BACKBONE_KD.TERMS "embeddings" compares embeddings, MODEL.BACKBONE_KD.EMBEDDING {ours} wide here '
            f"and {theirs} wide of the teacher: they must be equal."
        )
    if not has_map and any(term.compares_cells for term in terms):
        raise ValueError(
            f'MODEL.BACKBONE_KD.TERMS that look at cells need a map, and {KEY}.CONFIG "{CLIP}" gives none: choose '
            '"logits" or "embeddings".'
        )
