"""Annotation files of your own: from the command line into the config, from the config into Detectron2's catalog."""

import argparse
import os

from detectron2.config import CfgNode

from dk_detr.data import register
from dk_detr.utils.names import NOVEL_HELP

TRAIN, VAL = "custom_train", "custom_val"
VOCABULARY = "custom_vocabulary.npz"  # in the folder of a run
_OPTIONS = {
    "TRAIN_JSON": ("--train-json", "FILE", "annotations of your own to train with, in COCO or LVIS format"),
    "TRAIN_IMAGES": ("--train-images", "DIR", "the folder that their file names are below"),
    "VAL_JSON": ("--val-json", "FILE", "annotations to evaluate with"),
    "VAL_IMAGES": ("--val-images", "DIR", "the folder that their file names are below"),
    "NOVEL": (
        "--novel",
        "A,B",
        f"names that training must not see (default: those without a box in --train-json), {NOVEL_HELP}",
    ),
}  # key of DATASETS.CUSTOM: option, what follows it, what for


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments of the command line, with options for the keys of DATASETS.CUSTOM; `opts` has all KEY VALUE
    pairs."""
    group = parser.add_argument_group("your own data (DATASETS.CUSTOM; see configs/custom_data/README.md)")
    for option, metavar, help_text in _OPTIONS.values():
        group.add_argument(option, metavar=metavar, help=help_text)
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="override keys of the config")
    args = parser.parse_args()
    args.opts = _as_options(args) + args.opts
    return args


def _as_options(args: argparse.Namespace) -> list[str]:
    """KEY VALUE pairs for the options that were given."""
    given = {key: getattr(args, option[2:].replace("-", "_")) for key, (option, *_) in _OPTIONS.items()}
    if given["NOVEL"] is not None and not given["NOVEL"].strip():
        given["NOVEL"] = []  # as the config says none: see `novel_of`
    # In quotes: a category may be called "7", and yacs would take that for a number.
    said = {key: value for key, value in given.items() if value is not None}
    return [word for key, value in said.items() for word in (f"DATASETS.CUSTOM.{key}", repr(value))]


def spelt(key: str) -> str:
    """How errors call a key: by its option, too."""
    return f"{_OPTIONS[key][0]}, DATASETS.CUSTOM.{key}"


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
    if own.TRAIN_JSON or own.VAL_JSON:
        cfg.MODEL.VOCABULARY.TEST = os.path.join(cfg.OUTPUT_DIR, VOCABULARY)
        cfg.MODEL.VOCABULARY.TRAIN = ""
