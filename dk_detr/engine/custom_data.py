"""Annotation files of your own (DATASETS.CUSTOM): from the config into Detectron2's catalog."""

import os

from detectron2.config import CfgNode

from dk_detr.data import register

TRAIN, VAL = "custom_train", "custom_val"
VOCABULARY = "custom_vocabulary.npz"  # in the folder of a run


def option_of(key: str) -> str:
    """The option of tools/ for a key of DATASETS.CUSTOM."""
    return f"--{key.lower().replace('_', '-')}"


def option_and_key(key: str) -> str:
    """How errors call a key of DATASETS.CUSTOM: by its option, too."""
    return f"{option_of(key)}, DATASETS.CUSTOM.{key}"


def use_custom_data(cfg: CfgNode) -> None:
    """Where DATASETS.CUSTOM names files: register them, train and evaluate with them, and with words of their own.

    Nothing is read; `prepare_custom_data` does that before it is needed.
    """
    own = cfg.DATASETS.CUSTOM
    if own.TRAIN_JSON:
        register(TRAIN, own.TRAIN_JSON, own.TRAIN_IMAGES, "coco")
        cfg.DATASETS.TRAIN = (TRAIN,)
    if own.VAL_JSON:
        register(VAL, own.VAL_JSON, own.VAL_IMAGES, "coco")
    if (own.TRAIN_JSON or own.VAL_JSON) and VAL not in cfg.DATASETS.TEST:
        cfg.DATASETS.TEST = (VAL,) if own.VAL_JSON else ()
    use_custom_words(cfg)


def use_custom_words(cfg: CfgNode) -> None:
    """Where DATASETS.CUSTOM names files: the words are those of the run that OUTPUT_DIR names."""
    own = cfg.DATASETS.CUSTOM
    if own.TRAIN_JSON or own.VAL_JSON:
        cfg.MODEL.VOCABULARY.TEST = os.path.join(cfg.OUTPUT_DIR, VOCABULARY)
        cfg.MODEL.VOCABULARY.TRAIN = ""
