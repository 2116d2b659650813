"""The words of annotation files of your own: read and compared, and the vocabulary of a run is built of them."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from dk_detr.annotations import choose_novel, marked_novel
from dk_detr.data import load_coco_format, read_annotations, register, require_images
from dk_detr.engine.custom_data import TRAIN, VAL, VOCABULARY, option_and_key
from dk_detr.engine.run_folder import holds_run
from dk_detr.engine.setup import with_values
from dk_detr.language import (
    NO_ENCODER,
    VocabularyRequest,
    is_closed,
    load_vocabulary,
    novel_mask,
    save_vocabulary,
    write_vocabulary_once,
)
from dk_detr.structures import Vocabulary
from dk_detr.utils.names import novel_names


@dataclass(frozen=True)
class CustomFile:
    """An annotation file of your own, read.

    Attributes:
        path: of the file. folder: of the images. names: of its categories by ascending id. kind: "lvis" where it says
            which categories were looked for, else "coco". with_boxes: names that have a box to train on: no crowd,
            and not to be ignored. marked: names that are novel by LVIS's or OV-COCO's own marks.
    """

    path: str
    folder: str
    names: tuple[str, ...]
    kind: str
    with_boxes: frozenset[str]
    marked: tuple[str, ...]


def prepare_custom_data(cfg: CfgNode, training: bool) -> None:
    """Read what DATASETS.CUSTOM names, refuse what cannot work, and build the vocabulary in OUTPUT_DIR if it is new.

    Raises: FileNotFoundError, ValueError; each names the option and the way out.
    """
    own = cfg.DATASETS.CUSTOM
    if not (own.TRAIN_JSON or own.VAL_JSON):
        _refuse_leftovers(own)
        return
    if training and not own.TRAIN_JSON:
        raise ValueError(
            f"There is nothing to train with: name a file ({option_and_key('TRAIN_JSON')}), or add --eval-only."
        )
    train = _read(own, "TRAIN", TRAIN) if own.TRAIN_JSON else None
    val = _read(own, "VAL", VAL) if own.VAL_JSON else None
    names, novel = custom_vocabulary(train, val, novel_of(own.NOVEL, train, val))
    if training:
        _refuse_other_words(cfg, names, novel)
    for name, file in ((TRAIN, train), (VAL, val)):
        if file:
            register(name, file.path, file.folder, file.kind)
    if comm.is_main_process():
        logging.getLogger(__name__).info(_write_vocabulary(cfg, names, novel))
    comm.synchronize()


def prepare_custom_evaluation(cfg: CfgNode, folder: str) -> CfgNode:
    """What --eval-only needs of DATASETS.CUSTOM: the annotations to evaluate with, and the words that the weights were
    trained with. The vocabulary of their run stays as it is; where there is none, one is built as for training.

    Args:
        folder: may be written to, for words that the run did not know.

    Returns: the config with the vocabularies to use. Raises: as `prepare_custom_data`.
    """
    if not cfg.DATASETS.CUSTOM.VAL_JSON:
        prepare_custom_data(cfg, training=False)
        return cfg
    known = _vocabulary_of_the_run(cfg)
    if not known:
        cfg = with_values(cfg, {"MODEL.VOCABULARY.TEST": os.path.join(folder, VOCABULARY)})
        prepare_custom_data(cfg, training=False)
        return cfg
    cfg = with_values(cfg, {"MODEL.VOCABULARY.TEST": known})
    val = _read(cfg.DATASETS.CUSTOM, "VAL", VAL)
    register(VAL, val.path, val.folder, val.kind)
    return _with_words_of(cfg, val.names, load_vocabulary(known), os.path.join(folder, VOCABULARY))


def _vocabulary_of_the_run(cfg: CfgNode) -> str | None:
    """Where the run that MODEL.WEIGHTS or OUTPUT_DIR belong to keeps its own words."""
    weights = [os.path.dirname(cfg.MODEL.WEIGHTS) or os.curdir] if cfg.MODEL.WEIGHTS else []
    for folder in (*weights, cfg.OUTPUT_DIR):
        path = os.path.join(folder, VOCABULARY)
        if holds_run(folder) and os.path.isfile(path):
            return path
    return None


def _with_words_of(cfg: CfgNode, names: Sequence[str], words: Vocabulary, path: str) -> CfgNode:
    """A config that evaluates on these names. If the run does not know all of them, they are written to `path`."""
    own = cfg.DATASETS.CUSTOM
    told = set(words.novel_names if own.NOVEL in (None, "") else novel_names(own.NOVEL) or ())
    if told != set(words.novel_names):
        trained = ", ".join(words.novel_names) or "none"
        raise ValueError(
            f'"{own.NOVEL}" ({option_and_key("NOVEL")}), but the run that trained the weights has other novel names: '
            f"{trained} ({cfg.MODEL.VOCABULARY.TEST}). Leave it out: what was trained stays trained."
        )
    base = set(words.names) - told
    if set(names) <= set(words.names):
        return cfg
    if comm.is_main_process():
        novel = [name for name in names if name not in base]
        written = _write_vocabulary(with_values(cfg, {"MODEL.VOCABULARY.TEST": path}), names, novel)
        logging.getLogger(__name__).info(written)
    comm.synchronize()
    return with_values(cfg, {"MODEL.VOCABULARY.OF_DATASETS": [*cfg.MODEL.VOCABULARY.OF_DATASETS, f"{VAL}={path}"]})


def _refuse_other_words(cfg: CfgNode, names: Sequence[str], novel: Sequence[str]) -> None:
    """Raises ValueError where a run would go on with other words than it was begun with."""
    path = cfg.MODEL.VOCABULARY.TEST
    if not (holds_run(cfg.OUTPUT_DIR) and os.path.isfile(path)):
        return
    words = load_vocabulary(path)
    if (tuple(names), set(novel)) != (words.names, set(words.novel_names)):
        raise ValueError(
            f"The run in {cfg.OUTPUT_DIR} was begun with other words ({words.describe()}) than the annotations and "
            f"{option_and_key('NOVEL')} name now ({len(names)} names, {len(novel)} novel). Put them back, or start "
            "a new run."
        )


def _refuse_leftovers(own: CfgNode) -> None:
    for key in ("NOVEL", "TRAIN_IMAGES", "VAL_IMAGES"):
        if own[key] not in ("", None):
            file = option_and_key("TRAIN_JSON")
            raise ValueError(f'"{own[key]}" ({option_and_key(key)}) belongs to annotations: name them ({file}).')


def _read(own: CfgNode, part: str, dataset: str) -> CustomFile:
    path, folder = own[f"{part}_JSON"], own[f"{part}_IMAGES"]
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no annotation file {path} ({option_and_key(f'{part}_JSON')}).")
    if not folder:
        raise ValueError(f"Where are the images of {path}? Name their folder ({option_and_key(f'{part}_IMAGES')}).")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"There is no folder {folder} ({option_and_key(f'{part}_IMAGES')}).")
    content = read_annotations(path, dataset)
    names = _names(content["categories"], path)
    remedy = f"Is {folder} the folder that its file names are below ({option_and_key(f'{part}_IMAGES')})?"
    require_images(load_coco_format(path, folder, dataset), path, remedy)
    kind = "lvis" if _is_federated(content) else "coco"
    marked = marked_novel(content["categories"])
    return CustomFile(path, folder, tuple(names.values()), kind, _with_boxes(content, names), marked)


def _names(categories: list[dict[str, Any]], path: str) -> dict[int, str]:
    """Names by ascending id."""
    if not categories:
        raise ValueError(f"{path} lists no categories with id and name.")
    return {category["id"]: category["name"] for category in sorted(categories, key=lambda c: c["id"])}


def novel_of(given: Any, train: CustomFile | None, val: CustomFile | None) -> list[str] | None:
    """What DATASETS.CUSTOM.NOVEL says (see `novel_names`). In older configs "" was the default, which meant the names
    without a box to train on; today it means none.

    Raises: ValueError for "" where the two differ.
    """
    others = _novel_unless_named(train, val) if given == "" else []
    if others:
        raise ValueError(
            f'DATASETS.CUSTOM.NOVEL is "", which says that no name is novel, but in older configs said that '
            f'"{others[0]}" is, for it has no box to train on. Write null for that, [] for none (on the command line '
            f'--novel ""), or the names.'
        )
    return novel_names(given)


def _novel_unless_named(train: CustomFile | None, val: CustomFile | None) -> list[str]:
    """Names without a box to train on, or, of a file to evaluate with alone, those that it marks."""
    if train:
        return [name for name in train.names if name not in train.with_boxes]
    return list(val.marked) if val else []


def _is_federated(content: dict[str, Any]) -> bool:
    """Whether the file has what LVIS's protocol needs: frequencies, and which categories were looked for where."""
    fields = {"neg_category_ids", "not_exhaustive_category_ids"}
    return all("frequency" in c for c in content["categories"]) and all(fields <= i.keys() for i in content["images"])


def _with_boxes(content: dict[str, Any], names: dict[int, str]) -> frozenset[str]:
    trained = (box for box in content["annotations"] if not (box.get("iscrowd") or box.get("ignore")))
    return frozenset(names[i] for i in {box["category_id"] for box in trained})


def custom_vocabulary(
    train: CustomFile | None, val: CustomFile | None, novel: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """All words of a run, and the novel among them.

    Args:
        novel: as --novel says; None for the words without a box in the training file, or, where none is given, for
            those that the file itself marks.

    Raises: ValueError for a name of --novel that no file has, files with different categories, nothing to train on.
    """
    known, file = train or val, val or train
    assert known and file  # the caller has read one
    names = [*known.names, *(name for name in file.names if name not in known.names)]
    unknown = [name for name in novel or () if name not in names]
    if unknown:
        raise ValueError(f'"{unknown[0]}" ({option_and_key("NOVEL")}) is no category; there are: {", ".join(names)}.')
    novel = choose_novel(novel, marked=_novel_unless_named(train, val))
    if train and val:
        _refuse_other_categories(train, val, novel)
    if train and not train.with_boxes:
        raise ValueError(
            f"{train.path} has no annotation to train on: there is none, or all are crowds (iscrowd 1) or ignored."
        )
    if train and not train.with_boxes - set(novel):
        raise ValueError(f"No box of {train.path} is of a base category: there is nothing to train on.")
    return names, list(novel)


def _refuse_other_categories(train: CustomFile, val: CustomFile, novel: Sequence[str]) -> None:
    """What is novel may be missing from the training file; all else must be in both."""
    for name in val.names:
        if name not in train.names and name not in novel:
            raise ValueError(
                f'{val.path} has a category "{name}", but {train.path} has not. Use the same categories in both, or '
                f"say that training does not know it ({option_and_key('NOVEL')})."
            )
    for name in train.names:
        if name not in val.names:
            raise ValueError(
                f'{train.path} has a category "{name}", but {val.path} has not. Use the same categories in both: those '
                "without objects are listed, too."
            )


def _write_vocabulary(cfg: CfgNode, names: Sequence[str], novel: list[str]) -> str:
    path, clip = cfg.MODEL.VOCABULARY.TEST, cfg.MODEL.CLIP
    if is_closed(cfg):  # reads the names alone; no CLIP is loaded for them
        closed = Vocabulary(tuple(names), torch.eye(len(names)), novel_mask(names, novel), {"encoder": NO_ENCODER})
        save_vocabulary(closed, path)
        return f"{path}: {closed.describe()}"
    encoder = (cfg.MODEL.VOCABULARY.PROMPT, clip.LIBRARY, clip.ARCHITECTURE, clip.WEIGHTS)
    return write_vocabulary_once(VocabularyRequest(tuple(names), tuple(novel), *encoder), path)
