"""Language: from names to the text embeddings that classify regions."""

from dk_detr.language.checkpoint_words import WORDS, words_of_checkpoint
from dk_detr.language.clip import Clip, load_clip
from dk_detr.language.from_config import (
    CLOSED,
    COCO_NAMES,
    LVIS_NAMES,
    WORD_LISTS,
    clip_from_config,
    closed_vocabulary,
    is_closed,
    read_vocabulary,
    vocabularies_from_config,
)
from dk_detr.language.prompts import PROMPTS, prompt_texts, readable
from dk_detr.language.region_tower import RegionTower, region_tower
from dk_detr.language.space import require_one_space, require_same_probe, require_words_of
from dk_detr.language.vocabularies import (
    NO_ENCODER,
    WrongNumber,
    build_vocabulary,
    load_vocabulary,
    novel_mask,
    save_vocabulary,
)
from dk_detr.language.vocabulary_file import VocabularyRequest, write_vocabulary_once

__all__ = [
    "CLOSED", "COCO_NAMES", "LVIS_NAMES", "NO_ENCODER", "PROMPTS", "WORDS", "WORD_LISTS", "Clip",
    "RegionTower", "VocabularyRequest", "WrongNumber",
    "build_vocabulary", "clip_from_config", "closed_vocabulary", "is_closed", "load_clip",
    "load_vocabulary", "novel_mask", "prompt_texts", "read_vocabulary", "readable", "region_tower",
    "require_one_space", "require_same_probe", "require_words_of", "save_vocabulary", "vocabularies_from_config",
    "words_of_checkpoint", "write_vocabulary_once",
]  # fmt: skip
