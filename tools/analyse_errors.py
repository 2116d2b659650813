#!/usr/bin/env python3
"""Why is AP low? The errors of a run, or of any detector's results, by kind and by group of words.

    tools/analyse_errors.py --output-dir output/mini/dk_detr_mask
    tools/analyse_errors.py --annotations lvis_v1_val.json --results lvis_results.json --protocol lvis \\
        --json errors.json --tables tables/
    tools/analyse_errors.py --annotations mine.json --results mine_results.json --protocol coco --novel "zebra,okapi" \\
        --group "striped=zebra,tiger" --picture errors.png

Of a run the last evaluation is analysed, with its novel names and groups; the picture goes to pictures/errors.png in
its folder. tools/README.md says how to read the tables.
"""

import argparse

import dk_detr  # noqa: F401  first, so that Detectron2 can be imported
from dk_detr.commands.analyse_errors import main
from dk_detr.evaluation import IOU_TYPES, PROTOCOLS
from dk_detr.utils.names import NAMES_HELP, NOVEL_HELP


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", metavar="RUN", help="OUTPUT_DIR of a run of tools/train_net.py")
    parser.add_argument("--dataset", metavar="NAME", help="of DATASETS.TEST of the run (default: the first)")
    parser.add_argument("--annotations", metavar="JSON", help="ground truth, in COCO or LVIS format")
    parser.add_argument("--results", metavar="JSON", help="a list of detections")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), help="whose rules say which detections count")
    novel = f"novel names (default: those of the run, OV-COCO's 17, LVIS's rare ones, else none), {NOVEL_HELP}"
    parser.add_argument("--novel", metavar="A,B", help=novel)
    group = f"a further group of names, {NAMES_HELP}; may be given several times"
    parser.add_argument("--group", metavar="NAME=A,B", action="append", default=[], help=group)
    parser.add_argument("--iou-type", choices=IOU_TYPES, default="bbox", help="compare boxes or masks (default boxes)")
    parser.add_argument("--json", metavar="FILE", help="write all numbers, those of each word too")
    parser.add_argument("--tables", metavar="DIR", help="write the tables, and one of all words, as Markdown")
    parser.add_argument("--picture", metavar="PNG", help='write a picture (of a run, by default; "" for none)')
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
