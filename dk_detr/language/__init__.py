"""Language: from names to the text embeddings that classify regions."""

from dk_detr.language.clip import Clip, load_clip
from dk_detr.language.from_config import (
    CLOSED,
    COCO_NAMES,
    LVIS_NAMES,
    LVIS_NOVEL,
    WORD_LISTS,
    clip_from_config,
    closed_vocabulary,
    is_closed,
    read_vocabulary,
    vocabularies_from_config,
)
from dk_detr.language.prompts import PROMPTS, prompt_texts, readable
from dk_detr.language.vocabularies import build_vocabulary, load_vocabulary, novel_mask, save_vocabulary

__all__ = [
    "CLOSED", "COCO_NAMES", "LVIS_NAMES", "LVIS_NOVEL", "PROMPTS", "WORD_LISTS", "Clip", "build_vocabulary",
    "clip_from_config", "closed_vocabulary", "is_closed", "load_clip", "load_vocabulary", "novel_mask", "prompt_texts",
    "read_vocabulary", "readable", "save_vocabulary", "vocabularies_from_config",
]  # fmt: skip
