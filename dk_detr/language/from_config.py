"""Vocabularies and CLIP as a config asks for them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from detectron2.data.datasets.pascal_voc import CLASS_NAMES as VOC_NAMES

from dk_detr.annotations import marked_novel, read_categories
from dk_detr.language.checkpoint_words import words_of_checkpoint
from dk_detr.language.clip import Clip, load_clip, load_image_tower
from dk_detr.language.space import require_one_space
from dk_detr.language.vocabularies import WrongNumber, load_vocabulary, novel_mask
from dk_detr.structures import Vocabulary

CLOSED = ("Linear", "LinearBackground")  # values of MODEL.DETR.CLASSIFIER.NAME


class WordList(NamedTuple):
    """The names of a data set's categories, and the novel ones as its benchmark marks them."""

    names: tuple[str, ...]
    novel: tuple[str, ...]

    @classmethod
    def of(cls, categories: Sequence[Mapping[str, Any]]) -> "WordList":
        """Of categories as annotation files have them, in their order."""
        return cls(tuple(category["name"] for category in categories), marked_novel(categories))


WORD_LISTS: dict[str, WordList] = {
    "lvis": WordList.of(sorted(LVIS_CATEGORIES, key=lambda category: category["id"])),
    "coco": WordList.of([category for category in COCO_CATEGORIES if category["isthing"]]),
    "voc": WordList(tuple(VOC_NAMES), ()),
}
LVIS_NAMES, COCO_NAMES = WORD_LISTS["lvis"].names, WORD_LISTS["coco"].names
TEST, TRAIN = "MODEL.VOCABULARY.TEST", "MODEL.VOCABULARY.TRAIN"


def clip_from_config(cfg: CfgNode) -> Clip:
    """The CLIP of MODEL.CLIP."""
    named = cfg.MODEL.CLIP
    clip = load_clip(named.LIBRARY, named.ARCHITECTURE, named.WEIGHTS)
    if named.IMAGE_WEIGHTS:
        load_image_tower(clip, named.IMAGE_WEIGHTS)
    return clip


def require_pixels_of(clip: Clip, cfg: CfgNode) -> None:
    """Raises ValueError for images that are not normalised as CLIP's input: it would recognise next to nothing."""
    wanted = {"PIXEL_MEAN": clip.mean, "PIXEL_STD": clip.std}
    for key, values in wanted.items():
        here, there = list(cfg.MODEL[key]), [round(255 * value, 3) for value in values]
        if cfg.INPUT.FORMAT != "RGB" or max(abs(a - b) for a, b in zip(here, there)) > 0.5:
            raise ValueError(
                f'{cfg.MODEL.CLIP.ARCHITECTURE} (MODEL.CLIP) takes images in INPUT.FORMAT "RGB" with MODEL.{key} '
                f'{there}; got "{cfg.INPUT.FORMAT}" and {here}.'
            )


def is_closed(cfg: CfgNode) -> bool:
    """Whether the detector of a config knows a fixed list of words, by their names alone."""
    return cfg.MODEL.DETR.CLASSIFIER.NAME in CLOSED


def vocabularies_from_config(cfg: CfgNode) -> tuple[Vocabulary, Vocabulary]:
    """The words to train with (base only) and the words to detect."""
    if is_closed(cfg):
        return _closed_vocabularies(cfg.MODEL.VOCABULARY)
    test = read_vocabulary(cfg.MODEL.VOCABULARY.TEST, _only(cfg.DATASETS.TEST))
    if not cfg.MODEL.VOCABULARY.TRAIN:
        return test.base(), test
    train = read_vocabulary(cfg.MODEL.VOCABULARY.TRAIN, _only(cfg.DATASETS.TRAIN), TRAIN)
    if train.width != test.width:
        raise ValueError(
            f"MODEL.VOCABULARY.TRAIN ({train.describe()}) and MODEL.VOCABULARY.TEST ({test.describe()}) come from "
            "different text encoders: their widths differ."
        )
    require_one_space(train, test)
    return train.base(), test


def _only(datasets: Sequence[str]) -> str:
    """The data set that a vocabulary is for; "" where it may be any."""
    return datasets[0] if len(datasets) == 1 else ""


def _closed_vocabularies(words: CfgNode) -> tuple[Vocabulary, Vocabulary]:
    test = closed_vocabulary(words.TEST)
    train = test.select(closed_vocabulary(words.TRAIN, TRAIN).base().names) if words.TRAIN else test
    return train.base(), test


def closed_vocabulary(source: str, key: str = TEST) -> Vocabulary:
    """The words of a detector that knows a fixed list of them: each is an axis, a unit vector (see `Linear`).

    Args:
        source: "coco", "lvis" (rare = novel), "voc", or what `read_vocabulary` reads, of which only the names count.
        key: how errors call it.

    Raises: FileNotFoundError; ValueError for a file that is no vocabulary, and for a checkpoint of a detector that has
        novel words, too: they have axes, and it does not name them.
    """
    if source in WORD_LISTS:
        names, novel = WORD_LISTS[source]
    elif source and not os.path.isfile(source):
        raise FileNotFoundError(
            f"There is no vocabulary {source} ({key}); name a file, or one of {', '.join(WORD_LISTS)}."
        )
    else:
        words = read_vocabulary(source, key=key)
        _require_all_axes(words, source, key)
        names, novel = words.names, words.novel_names
    remedy = 'A MODEL.DETR.CLASSIFIER.NAME that begins with "Linear" knows no others; "CosineText" takes any words.'
    return Vocabulary(
        names, torch.eye(len(names)), novel_mask(names, novel), {"file": f"{source} (closed)", "remedy": remedy}
    )


def _require_all_axes(words: Vocabulary, source: str, key: str) -> None:
    if source.endswith(".pth") and len(words) < words.width:
        raise ValueError(
            f"{source} ({key}) says {len(words)} words of its training, but knows {words.width}: the others are novel, "
            "and it does not say them. Name the vocabulary file of its training."
        )


def read_vocabulary(path: str, dataset: str = "", key: str = TEST) -> Vocabulary:
    """A vocabulary file, or a checkpoint (.pth) of this project for the words of its training. A bare matrix is
    understood by its number of rows: 1203 is LVIS v1 (rare = novel), 80 COCO, 20 VOC; any other has the categories of
    its data set by ascending id.

    Args:
        dataset: that the file is given for, if it is one. key: how errors call what named the file.

    Raises: FileNotFoundError; ValueError for what is no vocabulary, or a matrix of other rows.
    """
    if not path:
        raise ValueError(f"{key} is empty: name a vocabulary file, made by tools/build_vocabulary.py.")
    if path.endswith(".npz"):
        return load_vocabulary(path, key=key)
    trained = words_of_checkpoint(path) if os.path.isfile(path) else None
    if trained is not None:
        return trained
    tried = []
    for known, (names, novel) in _rows_of(dataset):
        try:
            return load_vocabulary(path, names, novel, key)
        except WrongNumber as error:
            tried.append(f"{known} ({len(names)})")
            rows = error.rows
    raise ValueError(
        f"{path} ({key}) has {rows} rows, but bare matrices are understood for {', '.join(dict.fromkeys(tried))}, or "
        "for the one data set that they are given for, with a row for each of its categories. Give this one names: "
        f"tools/build_vocabulary.py --annotations JSON --embeddings {path}."
    )


def _rows_of(dataset: str) -> Iterator[tuple[str, WordList]]:
    """What the rows of a matrix for this data set may be. Its own list first, if it is of a benchmark, for the file of
    LVIS takes long to read; then the categories of its annotation file."""
    own = MetadataCatalog.get(dataset).get("word_list") if dataset else None
    if own:
        yield own, WORD_LISTS[own]
    path = MetadataCatalog.get(dataset).get("json_file") if dataset else None
    if path and os.path.isfile(path):
        yield dataset, WordList.of(read_categories(path))
    yield from WORD_LISTS.items()
