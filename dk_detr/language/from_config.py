"""Vocabularies and CLIP as a config asks for them."""

import os

import torch
from detectron2.config import CfgNode
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

from dk_detr.language.clip import Clip, load_clip
from dk_detr.language.vocabularies import load_vocabulary, novel_mask
from dk_detr.structures import Vocabulary

LVIS_NAMES = tuple(c["name"] for c in sorted(LVIS_CATEGORIES, key=lambda c: c["id"]))
LVIS_NOVEL = tuple(c["name"] for c in LVIS_CATEGORIES if c["frequency"] == "r")
COCO_NAMES = tuple(c["name"] for c in COCO_CATEGORIES if c["isthing"])
CLOSED = ("Linear", "LinearBackground")  # values of MODEL.DETR.CLASSIFIER.NAME
WORD_LISTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # names, and the novel among them
    "lvis": (LVIS_NAMES, LVIS_NOVEL),
    "coco": (COCO_NAMES, ()),
}


def clip_from_config(cfg: CfgNode) -> Clip:
    """The CLIP of MODEL.CLIP."""
    return load_clip(cfg.MODEL.CLIP.LIBRARY, cfg.MODEL.CLIP.ARCHITECTURE, cfg.MODEL.CLIP.WEIGHTS)


def is_closed(cfg: CfgNode) -> bool:
    """Whether the detector of a config knows a fixed list of words, by their names alone."""
    return cfg.MODEL.DETR.CLASSIFIER.NAME in CLOSED


def vocabularies_from_config(cfg: CfgNode) -> tuple[Vocabulary, Vocabulary]:
    """The words to train with (base only) and the words to detect."""
    if is_closed(cfg):
        return _closed_vocabularies(cfg.MODEL.VOCABULARY)
    test = read_vocabulary(cfg.MODEL.VOCABULARY.TEST)
    train = read_vocabulary(cfg.MODEL.VOCABULARY.TRAIN) if cfg.MODEL.VOCABULARY.TRAIN else test
    if train.width != test.width:
        raise ValueError(
            f"MODEL.VOCABULARY.TRAIN ({train.describe()}) and MODEL.VOCABULARY.TEST ({test.describe()}) come from "
            "different text encoders: their widths differ."
        )
    return train.base(), test


def _closed_vocabularies(words: CfgNode) -> tuple[Vocabulary, Vocabulary]:
    test = closed_vocabulary(words.TEST)
    train = test.select(closed_vocabulary(words.TRAIN).base().names) if words.TRAIN else test
    return train.base(), test


def closed_vocabulary(source: str) -> Vocabulary:
    """The words of a detector that knows a fixed list of them: each is an axis, a unit vector (see `Linear`).

    Args:
        source: "coco", "lvis" (rare = novel), or a vocabulary file, of which only the names count.

    Raises: FileNotFoundError; ValueError for a file that is no vocabulary.
    """
    if source in WORD_LISTS:
        names, novel = WORD_LISTS[source]
    elif source and not os.path.isfile(source):
        raise FileNotFoundError(
            f"There is no vocabulary {source} (MODEL.VOCABULARY.TEST); name a file, or one of {', '.join(WORD_LISTS)}."
        )
    else:
        words = read_vocabulary(source)
        names, novel = words.names, words.novel_names
    remedy = 'A MODEL.DETR.CLASSIFIER.NAME that begins with "Linear" knows no others; "CosineText" takes any words.'
    return Vocabulary(
        names, torch.eye(len(names)), novel_mask(names, novel), {"file": f"{source} (closed)", "remedy": remedy}
    )


def read_vocabulary(path: str) -> Vocabulary:
    """A vocabulary file; a bare matrix is understood by its number of rows: 1203 is LVIS v1 (rare = novel), 80 COCO."""
    if not path:
        raise ValueError("MODEL.VOCABULARY.TEST is empty: name a vocabulary file, made by tools/build_vocabulary.py.")
    if path.endswith(".npz"):
        return load_vocabulary(path)
    for names, novel in WORD_LISTS.values():
        try:
            return load_vocabulary(path, names, novel)
        except ValueError as error:
            reason = error
    raise ValueError(f"{reason} Bare matrices are understood for LVIS v1 (1203 rows) and COCO (80 rows) only.")
