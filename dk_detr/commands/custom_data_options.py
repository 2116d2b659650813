"""Options of tools/ for annotation files of your own: each sets a key of DATASETS.CUSTOM."""

import argparse

from dk_detr.engine.custom_data import option_of
from dk_detr.utils.names import NOVEL_HELP

OPTIONS = {
    "TRAIN_JSON": ("FILE", "annotations of your own to train with, in COCO or LVIS format"),
    "TRAIN_IMAGES": ("DIR", "the folder that their file names are below"),
    "VAL_JSON": ("FILE", "annotations to evaluate with"),
    "VAL_IMAGES": ("DIR", "the folder that their file names are below"),
    "NOVEL": ("A,B", f"names that training must not see (default: those without a box in --train-json), {NOVEL_HELP}"),
}
"""Key of DATASETS.CUSTOM -> what follows its option, and what it is for."""


KEEP_OPTIONS = {
    "--keep-test": ("DATASETS.KEEP", "data sets with the words from before, tested before, during and after training"),
    "--keep-by": ("SOLVER.KEEP", "how training keeps these words: classifier_projection, interpolation, distillation"),
}
"""Option -> its key, a list of names, and what it is for."""


def add_keep_options(parser: argparse.ArgumentParser) -> None:
    """Options to fine-tune a detector of any words; `parse_with_custom_data` reads them."""
    group = parser.add_argument_group("to fine-tune, and keep the words that MODEL.WEIGHTS know")
    for option, (key, help_text) in KEEP_OPTIONS.items():
        group.add_argument(option, dest=key, metavar="A,B", help=f"{help_text} ({key})")


def parse_with_custom_data(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments of the command line. `opts` has all KEY VALUE pairs, those of DATASETS.CUSTOM first."""
    group = parser.add_argument_group("your own data (DATASETS.CUSTOM; see configs/custom_data/README.md)")
    for key, (metavar, help_text) in OPTIONS.items():
        group.add_argument(option_of(key), dest=key, metavar=metavar, help=help_text)
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="override keys of the config")
    args = parser.parse_args()
    kept = {key: getattr(args, key, None) for key, _ in KEEP_OPTIONS.values()}
    lists = [word for key, text in kept.items() if text is not None for word in (key, repr(_names(text)))]
    args.opts = as_opts({key: getattr(args, key) for key in OPTIONS}) + lists + args.opts
    return args


def as_opts(given: dict[str, str | None]) -> list[str]:
    """KEY VALUE pairs for the options that were given."""
    values: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    if not str(values.get("NOVEL", "some")).strip():
        values["NOVEL"] = []  # as the config says none: see `novel_of`
    # In quotes: a category may be called "7", and yacs would take that for a number.
    return [word for key, value in values.items() for word in (f"DATASETS.CUSTOM.{key}", repr(value))]


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, text.split(","))))
