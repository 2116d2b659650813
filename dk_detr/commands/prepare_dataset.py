"""What tools/prepare_dataset.py does: one sub-command a benchmark, and `check`."""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass

from dk_detr.commands import check_dataset
from dk_detr.data import DATASETS, datasets_root
from dk_detr.data.prepare import (
    Written,
    convert_objects365,
    convert_voc,
    drop_rare,
    split_coco,
    split_custom,
    take_minival,
)
from dk_detr.engine.setup import one_clear_error
from dk_detr.utils.names import NOVEL_HELP, novel_names

Arguments = argparse.Namespace


@dataclass(frozen=True)
class Command:
    """A sub-command: what it is for, its arguments, its work."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Arguments], None]


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The command line of the tool."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help)
        command.add_arguments(sub)
    return parser


def main(args: Arguments) -> None:
    """Run the sub-command that was asked for."""
    with one_clear_error():
        COMMANDS[args.command].run(args)


def _say(*files: Written) -> None:
    for written in files:
        print(f"{written.report()}\n")


def _below(*parts: str) -> str:
    return os.path.join(datasets_root(), *parts)


def _of_dataset(name: str) -> str:
    return _below(DATASETS[name].json_file)


def _add_counts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--counts", choices=("published", "any"), default="published",
        help="which numbers of images and boxes will do; others than the published ones are an error, unless any will",
    )  # fmt: skip


# ---- lvis-norare, lvis-minival ----


def _lvis_arguments(source: str, target: str) -> Callable[[argparse.ArgumentParser], None]:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--source", metavar="JSON", help=f"default: lvis/{source} in DETECTRON2_DATASETS")
        parser.add_argument("--output", metavar="JSON", help=f"default: {target} beside it")
        parser.set_defaults(source_name=source, output_name=target)
        _add_counts(parser)

    return add


def _lvis(make: Callable[..., Written]) -> Callable[[Arguments], None]:
    def run(args: Arguments) -> None:
        source = args.source or _below("lvis", args.source_name)
        _say(make(source, args.output or os.path.join(os.path.dirname(source), args.output_name), args.counts))

    return run


# ---- ov-coco ----


def _ov_coco_arguments(parser: argparse.ArgumentParser) -> None:
    for part in ("train", "val"):
        default = f"coco/annotations/instances_{part}2017.json in DETECTRON2_DATASETS"
        parser.add_argument(f"--{part}", metavar="JSON", help=f"default: {default}")
    parser.add_argument("--output", metavar="DIR", help="default: coco/zero-shot in DETECTRON2_DATASETS")
    _add_counts(parser)


def _ov_coco(args: Arguments) -> None:
    train, val = (
        getattr(args, part) or _below("coco", "annotations", f"instances_{part}2017.json") for part in ("train", "val")
    )
    _say(*split_coco(train, val, args.output or _below("coco", "zero-shot"), args.counts))


# ---- voc ----


def _voc_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", metavar="DIR", help="default: VOC2007 in DETECTRON2_DATASETS")
    parser.add_argument("--part", default="test", metavar="NAME", help="a list in ImageSets/Main (default: test)")
    parser.add_argument("--output", metavar="JSON", help="default: voc_2007_<part>.json in the folder")
    _add_counts(parser)


def _voc(args: Arguments) -> None:
    folder = args.source or _below("VOC2007")
    output = args.output or os.path.join(folder, f"voc_2007_{args.part}.json")
    _say(convert_voc(folder, args.part, output, args.counts))


# ---- objects365 ----


def _objects365_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", choices=("val", "train"), default="val")
    default = "objects365/annotations/zhiyuan_objv2_<part>.json in DETECTRON2_DATASETS"
    parser.add_argument("--source", metavar="JSON", help=f"default: {default}")
    parser.add_argument("--images", metavar="DIR", help="default: objects365/<part> in DETECTRON2_DATASETS")
    parser.add_argument("--output", metavar="JSON", help="default: the file of the data set objects365_v2_<part>")
    _add_counts(parser)


def _objects365(args: Arguments) -> None:
    source = args.source or _below("objects365", "annotations", f"zhiyuan_objv2_{args.part}.json")
    images = args.images or _below("objects365", args.part)
    output = args.output or _of_dataset(f"objects365_v2_{args.part}")
    _say(convert_objects365(source, images, output, args.part, args.counts))


# ---- custom ----


def _custom_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", required=True, metavar="JSON", help="annotations in COCO or LVIS format")
    parser.add_argument("--output", required=True, metavar="DIR", help="for train.json and val.json")
    what = "names whose boxes the training part shall not have (default: none)"
    parser.add_argument("--novel", metavar="A,B", help=f"{what}, {NOVEL_HELP}")
    parser.add_argument("--val-share", type=float, default=0.2, metavar="X", help="of the images (default: 0.2)")
    parser.add_argument("--seed", type=int, default=0)


def _custom(args: Arguments) -> None:
    _say(*split_custom(args.source, args.output, novel_names(args.novel) or [], args.val_share, args.seed))


COMMANDS = {
    "lvis-norare": Command(
        "OV-LVIS: LVIS v1 train without the boxes of rare categories",
        _lvis_arguments("lvis_v1_train.json", "lvis_v1_train_norare.json"),
        _lvis(drop_rare),
    ),
    "lvis-minival": Command(
        "the images of LVIS v1 val that COCO's val2017 holds",
        _lvis_arguments("lvis_v1_val.json", "lvis_v1_minival.json"),
        _lvis(take_minival),
    ),
    "ov-coco": Command("OV-COCO: 48 base, 17 novel categories of COCO 2017", _ov_coco_arguments, _ov_coco),
    "voc": Command("PASCAL VOC 2007 as COCO JSON", _voc_arguments, _voc),
    "objects365": Command("Objects365 v2 as COCO JSON, names mended", _objects365_arguments, _objects365),
    "custom": Command("cut a file of your own into train.json and val.json", _custom_arguments, _custom),
    "check": Command("say what is wrong with a data set", check_dataset.add_arguments, check_dataset.main),
}
