"""Vocabularies and CLIP as a config asks for them."""

from detectron2.config import CfgNode
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

from dk_detr.language.clip import Clip, load_clip
from dk_detr.language.vocabularies import load_vocabulary
from dk_detr.structures import Vocabulary

LVIS_NAMES = tuple(c["name"] for c in sorted(LVIS_CATEGORIES, key=lambda c: c["id"]))
LVIS_NOVEL = tuple(c["name"] for c in LVIS_CATEGORIES if c["frequency"] == "r")
COCO_NAMES = tuple(c["name"] for c in COCO_CATEGORIES if c["isthing"])


def clip_from_config(cfg: CfgNode) -> Clip:
    """The CLIP of MODEL.CLIP."""
    return load_clip(cfg.MODEL.CLIP.LIBRARY, cfg.MODEL.CLIP.ARCHITECTURE, cfg.MODEL.CLIP.WEIGHTS)


def vocabularies_from_config(cfg: CfgNode) -> tuple[Vocabulary, Vocabulary]:
    """The words to train with (base only) and the words to detect."""
    test = read_vocabulary(cfg.MODEL.VOCABULARY.TEST)
    train = read_vocabulary(cfg.MODEL.VOCABULARY.TRAIN) if cfg.MODEL.VOCABULARY.TRAIN else test
    if train.width != test.width:
        raise ValueError(
            f"MODEL.VOCABULARY.TRAIN ({train.describe()}) and MODEL.VOCABULARY.TEST ({test.describe()}) come from "
            "different text encoders: their widths differ."
        )
    return train.base(), test


def read_vocabulary(path: str) -> Vocabulary:
    """A vocabulary file; a bare matrix is understood by its number of rows: 1203 is LVIS v1 (rare = novel), 80 COCO."""
    if not path:
        raise ValueError("MODEL.VOCABULARY.TEST is empty: name a vocabulary file, made by tools/build_vocabulary.py.")
    if path.endswith(".npz"):
        return load_vocabulary(path)
    for names, novel in ((LVIS_NAMES, LVIS_NOVEL), (COCO_NAMES, ())):
        try:
            return load_vocabulary(path, names, novel)
        except ValueError as error:
            reason = error
    raise ValueError(f"{reason} Bare matrices are understood for LVIS v1 (1203 rows) and COCO (80 rows) only.")
