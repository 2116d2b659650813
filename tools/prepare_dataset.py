#!/usr/bin/env python3
"""Make the split files of a benchmark from the official annotation files.

    tools/prepare_dataset.py lvis-norare     # lvis/lvis_v1_train.json -> lvis/lvis_v1_train_norare.json
"""

import argparse
import os

import dk_detr  # noqa: F401  first, so that Detectron2 can be imported
from dk_detr.data import datasets_root
from dk_detr.data.prepare import drop_rare
from dk_detr.engine import one_clear_error


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=("lvis-norare",))
    parser.add_argument("--source", metavar="JSON", help="default: lvis/lvis_v1_train.json in DETECTRON2_DATASETS")
    parser.add_argument("--output", metavar="JSON", help="default: lvis/lvis_v1_train_norare.json beside it")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Do it, and say how many there are of what."""
    with one_clear_error():
        source = args.source or os.path.join(datasets_root(), "lvis", "lvis_v1_train.json")
        output = args.output or os.path.join(os.path.dirname(source), "lvis_v1_train_norare.json")
        for what, number in drop_rare(source, output).items():
            print(f"{what}: {number}")
        print(f"written: {output}")


if __name__ == "__main__":
    main(parse())
