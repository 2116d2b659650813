"""From a config to the distillation branch. Bad combinations are refused here, naming the keys."""

import torch
from detectron2.config import CfgNode

from dk_detr.distillation import (
    DISTIL,
    AllCompanions,
    ChosenCompanions,
    CLIPCrops,
    Companions,
    DistillationBranch,
    NoCompanions,
    SlotSelection,
    StoredEmbeddings,
    Teacher,
    TermSettings,
    build_terms,
)
from dk_detr.language import Clip, clip_from_config, require_words_of
from dk_detr.modeling import CLASSIFIERS, QUERIES, CosineText, Proposals
from dk_detr.modeling.acceleration import TEACHER
from dk_detr.structures import Vocabulary
from dk_detr.structures.queries import DETECT
from dk_detr.utils import choose, require


def build_branch(cfg: CfgNode, vocabulary: Vocabulary) -> DistillationBranch:
    """The distillation branch of MODEL.KD with the teacher of MODEL.TEACHER."""
    kd = cfg.MODEL.KD
    _refuse_what_cannot_be_taught(cfg.MODEL.DETR, kd)
    teacher = build_teacher(cfg, vocabulary)
    terms = build_terms(kd.TERMS, _term_settings(kd))
    return DistillationBranch(build_companions(cfg, teacher), terms, kd.LAYERS)


def build_teacher(cfg: CfgNode, vocabulary: Vocabulary) -> Teacher:
    """The teacher of MODEL.TEACHER, for these words."""
    settings = cfg.MODEL.TEACHER
    require("MODEL.TEACHER.NAME", settings.NAME, ("CLIPCrops", "EmbeddingBank"))
    if settings.NAME == "EmbeddingBank":
        return StoredEmbeddings(vocabulary.width)
    clip = clip_from_config(cfg)
    require_one_clip(cfg, clip, vocabulary)
    return CLIPCrops(
        clip,
        cfg.MODEL.PIXEL_MEAN,
        cfg.MODEL.PIXEL_STD,
        bgr=cfg.INPUT.FORMAT == "BGR",
        crop_scales=settings.CROP_SCALES,
        dtype=teacher_dtype(cfg),
        compiled=TEACHER in cfg.MODEL.DETR.COMPILED,
    )


def require_one_clip(cfg: CfgNode, clip: Clip, vocabulary: Vocabulary) -> None:
    """Raises ValueError for a CLIP that is not that of the words: it could not teach this config's detector."""
    if clip.width != vocabulary.width:
        raise ValueError(
            f"The teacher {cfg.MODEL.CLIP.ARCHITECTURE} (MODEL.CLIP) gives embeddings of width {clip.width}, but "
            f"MODEL.VOCABULARY.TEST has width {vocabulary.width}: both must come from the same CLIP."
        )
    require_words_of(clip, vocabulary)


def teacher_dtype(cfg: CfgNode) -> torch.dtype:
    """What the teacher computes in: MODEL.TEACHER.DTYPE."""
    automatic = torch.float32 if cfg.MODEL.DEVICE == "cpu" else torch.bfloat16
    dtypes = {"auto": automatic, "float32": torch.float32, "bfloat16": torch.bfloat16}
    return choose(dtypes, "MODEL.TEACHER.DTYPE", cfg.MODEL.TEACHER.DTYPE)


def build_slots(kd: CfgNode) -> SlotSelection:
    """How slots are chosen, of MODEL.KD."""
    return SlotSelection(kd.NUM_SLOTS, tuple(kd.SLOT_FILTERS), kd.BASE_OVERLAP_IOU, kd.DUPLICATES_IOU, kd.MIN_SIDE)


def build_companions(cfg: CfgNode, teacher: Teacher) -> Companions:
    """The queries that are taught, and how slots are chosen, of MODEL.KD."""
    kd, detr = cfg.MODEL.KD, cfg.MODEL.DETR
    slots = build_slots(kd)
    require("MODEL.KD.GROUP", kd.GROUP, (DETECT, DISTIL))
    require("MODEL.KD.COMPANIONS", kd.COMPANIONS, ("All", "Chosen"))
    require("MODEL.KD.REFERENCE", kd.REFERENCE, ("follow", "stay"))
    for name in kd.READS:
        require("MODEL.KD.READS", name, (DISTIL, DETECT))
    _refuse_what_cannot_be_chosen(cfg)
    if kd.GROUP == DETECT:
        return NoCompanions(teacher, slots)
    if kd.COMPANIONS == "Chosen":
        return ChosenCompanions(teacher, slots, detr.CHANNELS, kd.READS)
    return AllCompanions(teacher, slots, detr.NUM_QUERIES, detr.CHANNELS, kd.READS, kd.REFERENCE)


def _refuse_what_cannot_be_chosen(cfg: CfgNode) -> None:
    """What does not go together with choosing before decoding, or with stored regions."""
    kd, teacher = cfg.MODEL.KD, cfg.MODEL.TEACHER.NAME
    if kd.COMPANIONS != "Chosen" or kd.GROUP != DISTIL:
        if teacher == "EmbeddingBank":
            raise ValueError(
                f'MODEL.TEACHER.NAME "EmbeddingBank" knows its own regions: it needs MODEL.KD.COMPANIONS "Chosen" '
                f'(got "{kd.COMPANIONS}") and MODEL.KD.GROUP "{DISTIL}" (got "{kd.GROUP}").'
            )
        return
    if "unmatched" in kd.SLOT_FILTERS:
        raise ValueError(
            'MODEL.KD.COMPANIONS "Chosen" chooses before anything is matched: take "unmatched" out of '
            'MODEL.KD.SLOT_FILTERS; "base_overlap" leaves out what base objects cover.'
        )
    if kd.REFERENCE != "stay":
        raise ValueError(
            f'MODEL.KD.COMPANIONS "Chosen" belongs to no detection query that it could follow: MODEL.KD.REFERENCE must '
            f'be "stay", not "{kd.REFERENCE}".'
        )


def _refuse_what_cannot_be_taught(detr: CfgNode, kd: CfgNode) -> None:
    wanted = f"MODEL.KD.TERMS is {list(kd.TERMS)}, but"
    proposes = issubclass(QUERIES[detr.QUERIES], Proposals)
    compares = issubclass(CLASSIFIERS[detr.CLASSIFIER.NAME], CosineText)
    if not proposes:
        raise ValueError(
            f'{wanted} MODEL.DETR.QUERIES "{detr.QUERIES}" proposes no places for the teacher to look at. '
            'Choose "Proposals" or "Mixed", or set MODEL.KD.TERMS to [].'
        )
    if not compares:
        raise ValueError(
            f'{wanted} MODEL.DETR.CLASSIFIER.NAME "{detr.CLASSIFIER.NAME}" has no space in common with the teacher. '
            'Choose "CosineText", or set MODEL.KD.TERMS to [].'
        )


def _term_settings(kd: CfgNode) -> TermSettings:
    names = ("semantic", "relational", "embedding_l1")
    return TermSettings(
        {name: kd[name.upper()].WEIGHT for name in names},
        kd.SEMANTIC.TEMPERATURE,
        kd.RELATIONAL.TEMPERATURE,
        kd.RELATIONAL.DIRECTION,
        tuple(kd.RELATIONAL.SCOPES),
    )
