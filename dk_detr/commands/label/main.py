"""What tools/label.py does."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from dk_detr.commands.label.coco import read_info
from dk_detr.commands.label.formats import write_format
from dk_detr.commands.label.journal import ENDING
from dk_detr.commands.label.process import absolute, image_root, label
from dk_detr.data.image_files import find_images
from dk_detr.engine.launch import launch
from dk_detr.engine.setup import one_clear_error

INTERRUPTED = 130  # the exit status that shells give to Ctrl-C
SHOWN = 10  # words of the summary


def main(args: argparse.Namespace) -> None:
    """See tools/label.py for the arguments. Ends with exit status 1 if an image could not be done."""
    with one_clear_error():
        _check(args)
        images = absolute(find_images(args.input))
        try:
            launch(label, args.processes, (args, images), args.device or "")
        except KeyboardInterrupt:
            print("Interrupted. Nothing is lost: the same command goes on.", file=sys.stderr)
            sys.exit(INTERRUPTED)
        if os.environ.get("RANK", "0") == "0":
            _finish(args, image_root(images))


def _check(args: argparse.Namespace) -> None:
    if args.processes < 1:
        raise ValueError(f"--processes {args.processes} must be at least 1.")
    if len(args.opts) % 2:
        raise ValueError(f"--opts come in pairs KEY VALUE; {len(args.opts)} words were given.")
    if Path(args.output).is_dir() or not args.output.endswith(".json"):
        raise ValueError(f"--output {args.output}: name the annotation file, such as annotations.json.")


def _finish(args: argparse.Namespace, root: Path) -> None:
    output = Path(args.output)
    result: dict[str, Any] = read_info(output)["result"]
    print(f"{result['annotations']} annotations of {result['images']} images are in {output}: {_most(result)}")
    print(f"File names are below {root}.")
    for kind in sorted(set(args.format) - {"coco"}):
        print(f"The same for {kind.upper()} is in {write_format(kind, output)}.")
    if result["without_area"]:
        print(f"{result['without_area']} detections without an area were left out.")
    if failed := result["failed"]:
        number = f"{len(failed)} of {len(failed) + result['images']} images"
        print(f"{number} could not be read or labelled:", *failed, sep="\n  ", file=sys.stderr)
        print(f"Mended, the same command labels them; until then {output}{ENDING} keeps the rest.", file=sys.stderr)
        sys.exit(1)


def _most(result: dict[str, Any]) -> str:
    words = [f"{name} {number}" for name, number in result["of_words"].items()]
    more = [f"and {len(words) - SHOWN} more words"] if len(words) > SHOWN else []
    return ", ".join([*words[:SHOWN], *more]) + "." if words else "nothing was found."
