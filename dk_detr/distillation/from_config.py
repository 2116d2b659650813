"""From a config to the parts of the distillation. Bad combinations are refused here, naming the keys."""

from detectron2.config import CfgNode

from dk_detr.distillation.anneal import anneal_from_config
from dk_detr.distillation.calibration_file import calibration_from_config
from dk_detr.distillation.pseudo_objects import pseudo_objects_from_config
from dk_detr.distillation.slots import SlotSelection
from dk_detr.distillation.taught_queries import (
    AUXILIARY,
    AuxiliaryQueries,
    DetectionQueries,
    SelectedAuxiliaryQueries,
    TaughtQueries,
    TaughtROIHead,
)
from dk_detr.distillation.teachers import TEACHERS, Teacher
from dk_detr.distillation.terms import TermSettings, build_terms
from dk_detr.modeling import CLASSIFIERS, QUERIES, CosineText
from dk_detr.structures import DETECTION, Calibration, Vocabulary
from dk_detr.utils import choose, require

TAUGHT = ("Auxiliary", "SelectedAuxiliary", "Detection", "ROIHead")  # by their name in MODEL.KD.QUERIES


def build_teacher(cfg: CfgNode, vocabulary: Vocabulary) -> Teacher:
    """The teacher of MODEL.TEACHER, for these words."""
    return choose(TEACHERS, "MODEL.TEACHER.NAME", cfg.MODEL.TEACHER.NAME)(cfg, vocabulary)


def build_slots(cfg: CfgNode) -> SlotSelection:
    """How slots are chosen, of MODEL.KD."""
    kd = cfg.MODEL.KD
    return SlotSelection(kd.NUM_SLOTS, tuple(kd.SLOT_FILTERS), kd.BASE_OVERLAP_IOU, kd.DUPLICATES_IOU, kd.MIN_SIDE)


def build_taught_queries(cfg: CfgNode, teacher: Teacher) -> TaughtQueries:
    """The queries that are taught, and how slots are chosen, of MODEL.KD."""
    kd, detr, slots = cfg.MODEL.KD, cfg.MODEL.DETR, build_slots(cfg)
    if kd.QUERIES == "Detection":
        return DetectionQueries(teacher, slots)
    if kd.QUERIES == "ROIHead":
        return TaughtROIHead(teacher, slots)
    if kd.QUERIES == "SelectedAuxiliary":
        return SelectedAuxiliaryQueries(teacher, slots, detr.CHANNELS, kd.ATTENDS_TO)
    return AuxiliaryQueries(teacher, slots, detr.NUM_QUERIES, detr.CHANNELS, kd.ATTENDS_TO, kd.REFERENCE)


def refuse_bad_distillation(cfg: CfgNode, name: str) -> None:
    """Raises ValueError for what of MODEL.KD, MODEL.TEACHER and MODEL.DETR does not go together; before any CLIP is
    loaded. `name`: of the extension."""
    kd = cfg.MODEL.KD
    require("MODEL.KD.QUERIES", kd.QUERIES, TAUGHT)
    require("MODEL.KD.REFERENCE", kd.REFERENCE, ("follow", "stay"))
    for group in kd.ATTENDS_TO:
        require("MODEL.KD.ATTENDS_TO", group, (AUXILIARY, DETECTION))
    if not kd.TERMS:
        raise ValueError(
            f'MODEL.TRAINING_EXTENSIONS names "{name}", but MODEL.KD.TERMS is []: name what is to be learned, '
            f'such as ["semantic", "relational"], or take "{name}" out.'
        )
    require("MODEL.KD.LAYERS", kd.LAYERS, ("last", "all"))
    build_terms(kd.TERMS, term_settings(cfg))
    build_slots(cfg)
    anneal_from_config(cfg)
    _refuse_what_cannot_be_taught(cfg, name)
    if kd.QUERIES == "ROIHead":
        _refuse_what_an_roi_head_cannot(cfg)
    _refuse_what_cannot_be_selected(kd, cfg.MODEL.TEACHER.NAME)
    require("MODEL.KD.NEGATIVES", kd.NEGATIVES, ("Hard", "Soft"))
    if kd.NEGATIVES == "Soft":
        _refuse_soft_negatives(cfg)
    if pseudo_objects_from_config(cfg) is not None:
        _refuse_pseudo_objects(cfg)


def _refuse_soft_negatives(cfg: CfgNode) -> None:
    queries = cfg.MODEL.KD.QUERIES
    if queries in ("SelectedAuxiliary", "ROIHead"):
        raise ValueError(
            'MODEL.KD.NEGATIVES "Soft" is for detection queries where the teacher looks, and MODEL.KD.QUERIES '
            f'"{queries}" belong to none: choose "Auxiliary" or "Detection", or set the former to "Hard".'
        )
    _require_calibrated_sigmoid(cfg, 'MODEL.KD.NEGATIVES "Soft"')


def _refuse_pseudo_objects(cfg: CfgNode) -> None:
    asked = f"MODEL.KD.PSEUDO_OBJECTS {cfg.MODEL.KD.PSEUDO_OBJECTS}"
    _require_calibrated_sigmoid(cfg, asked)
    if "duplicates" not in cfg.MODEL.KD.SLOT_FILTERS:
        raise ValueError(
            f'{asked} would make several objects of one where regions overlap: add "duplicates" to '
            f"MODEL.KD.SLOT_FILTERS {list(cfg.MODEL.KD.SLOT_FILTERS)}."
        )
    if not QUERIES[cfg.MODEL.DETR.QUERIES].proposes:
        raise ValueError(
            f'{asked} is for a first stage to propose, and MODEL.DETR.QUERIES "{cfg.MODEL.DETR.QUERIES}" has no first '
            "stage: set the former to None."
        )


def _require_calibrated_sigmoid(cfg: CfgNode, asked: str) -> None:
    """`asked`: the key and its value. Without an offset a teacher believes in every word."""
    classifier = cfg.MODEL.DETR.CLASSIFIER
    if classifier.NAME != "CosineText" or not (cfg.MODEL.CALIBRATION or classifier.LOGIT_BIAS):
        raise ValueError(
            f"{asked} asks the teacher by a sigmoid that is calibrated to it: it needs MODEL.CALIBRATION and "
            f'MODEL.DETR.CLASSIFIER.NAME "CosineText", got "{cfg.MODEL.CALIBRATION}" and "{classifier.NAME}".'
        )


def _refuse_what_cannot_be_selected(kd: CfgNode, teacher: str) -> None:
    """What does not go together with choosing before decoding, or with stored regions."""
    if kd.QUERIES not in ("SelectedAuxiliary", "ROIHead"):
        if teacher == "EmbeddingBank":
            raise ValueError(
                'MODEL.TEACHER.NAME "EmbeddingBank" knows its own regions: it needs MODEL.KD.QUERIES '
                f'"SelectedAuxiliary" or "ROIHead" (got "{kd.QUERIES}").'
            )
        return
    if "unmatched" in kd.SLOT_FILTERS:
        raise ValueError(
            f'MODEL.KD.QUERIES "{kd.QUERIES}" selects before anything is matched: take "unmatched" out of '
            'MODEL.KD.SLOT_FILTERS; "base_overlap" leaves out what base objects cover.'
        )
    if kd.QUERIES == "SelectedAuxiliary" and kd.REFERENCE != "stay":
        raise ValueError(
            'MODEL.KD.QUERIES "SelectedAuxiliary" belong to no detection query that they could follow: '
            f'MODEL.KD.REFERENCE must be "stay", not "{kd.REFERENCE}".'
        )


def _refuse_what_an_roi_head_cannot(cfg: CfgNode) -> None:
    classifier, layers = cfg.MODEL.DETR.CLASSIFIER.NAME, cfg.MODEL.KD.LAYERS
    if classifier != "CosineText":
        raise ValueError(
            f'MODEL.KD.QUERIES "ROIHead" says novel words beside a sigmoid: MODEL.DETR.CLASSIFIER.NAME "{classifier}" '
            'is none, choose "CosineText".'
        )
    if layers != "last":
        raise ValueError(
            f'MODEL.KD.QUERIES "ROIHead" belongs to no decoder layer: MODEL.KD.LAYERS must be "last", not "{layers}".'
        )


def _refuse_what_cannot_be_taught(cfg: CfgNode, name: str) -> None:
    detr, queries = cfg.MODEL.DETR, QUERIES[cfg.MODEL.DETR.QUERIES]
    wanted = f'MODEL.TRAINING_EXTENSIONS names "{name}", but'
    compares = issubclass(CLASSIFIERS[detr.CLASSIFIER.NAME], CosineText)
    stored = cfg.MODEL.TEACHER.NAME == "EmbeddingBank" and queries.starts_from_boxes
    if not (queries.proposes or stored):
        raise ValueError(
            f'{wanted} MODEL.DETR.QUERIES "{detr.QUERIES}" proposes no places for the teacher to look at. '
            f'Choose "Proposals" or "Mixed"; or MODEL.TEACHER.NAME "EmbeddingBank", which has places of its own, for '
            f'queries that start from boxes; or take "{name}" out.'
        )
    if not compares:
        raise ValueError(
            f'{wanted} MODEL.DETR.CLASSIFIER.NAME "{detr.CLASSIFIER.NAME}" has no space in common with the teacher. '
            f'Choose "CosineText", or take "{name}" out.'
        )


def term_settings(cfg: CfgNode) -> TermSettings:
    """Numbers of the terms, of MODEL.KD; those of "semantic" of MODEL.CALIBRATION where there is one."""
    kd, calibration = cfg.MODEL.KD, calibration_from_config(cfg)
    semantic = Calibration(kd.SEMANTIC.TEMPERATURE, kd.SEMANTIC.OFFSET) if calibration is None else calibration.semantic
    return TermSettings(
        weights={name: kd[name.upper()].WEIGHT for name in ("semantic", "relational", "embedding_l1")},
        semantic_temperature=semantic.temperature,
        semantic_offset=semantic.offset,
        relational_temperature=kd.RELATIONAL.TEMPERATURE,
        relational_direction=kd.RELATIONAL.DIRECTION,
        relational_scopes=tuple(kd.RELATIONAL.SCOPES),
    )


def refuse_terms_without_distillation(cfg: CfgNode) -> None:
    """Asked for before training. Raises ValueError for terms that nothing would learn, and for an ROI head that nobody
    would teach."""
    if cfg.MODEL.KD.TERMS and "Distillation" not in cfg.MODEL.TRAINING_EXTENSIONS:
        raise ValueError(
            f"MODEL.KD.TERMS is {list(cfg.MODEL.KD.TERMS)}, but MODEL.TRAINING_EXTENSIONS "
            f'{list(cfg.MODEL.TRAINING_EXTENSIONS)} has no "Distillation" to learn them: add it, or set MODEL.KD.TERMS '
            "to []."
        )
    if cfg.MODEL.KD.QUERIES == "ROIHead" and "Distillation" not in cfg.MODEL.TRAINING_EXTENSIONS:
        raise ValueError(
            'MODEL.KD.QUERIES "ROIHead" is taught by "Distillation", which MODEL.TRAINING_EXTENSIONS '
            f'{list(cfg.MODEL.TRAINING_EXTENSIONS)} lacks: add it, or choose "Auxiliary".'
        )
