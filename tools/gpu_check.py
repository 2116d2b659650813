#!/usr/bin/env python3
"""Check a card: does everything work on it, and how fast? Writes gpu_check.json and a table, gpu_check.md, as it goes.

    tools/gpu_check.py                        all parts, 10 minutes at most
    tools/gpu_check.py --parts correct        one group: correct, fast, useful; or parts by their names
    tools/gpu_check.py --device cpu           a dry run without a card, at tiny sizes: its figures say nothing

Each part is a process of its own with a time limit; what fails or takes too long does not end the rest. A further call
with the same --output adds its parts to the same table.
"""

import argparse

import dk_detr  # noqa: F401  makes Detectron2 importable
from dk_detr.commands.gpu_check.main import main
from dk_detr.commands.gpu_check.parts import GROUPS, PARTS


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=[], metavar="PART", help=f"of {', '.join([*GROUPS, *PARTS])}")
    parser.add_argument("--output", default="output/gpu_check", help="folder (default output/gpu_check)")
    parser.add_argument("--device", default="", help="cuda (default), or cpu for a dry run")
    parser.add_argument("--photos", default="", metavar="FOLDER", help="COCO's photos with LVIS's words, to learn")
    parser.add_argument("--mini", default="", metavar="FOLDER", help="CLIP and words of `make demo`: output/mini")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the whole call (default 10)")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
