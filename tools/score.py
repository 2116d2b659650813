#!/usr/bin/env python3
"""Score a file of results by the rules of a benchmark; any detector's, in COCO's or LVIS's format of results.

    tools/score.py --annotations lvis_v1_val.json --results lvis_results.json --protocol lvis --json scores.json
    tools/score.py --annotations lvis_v1_val.json --results masks.json --protocol lvis-fixed --iou-type segm
    tools/score.py --annotations mine.json --results mine_results.json --protocol coco --novel "zebra,okapi"

Metrics are in points, NaN where there is no ground truth. AR@100 and AR@300 are class-agnostic recall.
"""

import argparse

import dk_detr  # noqa: F401  first, so that Detectron2 can be imported
from dk_detr.commands.score import main
from dk_detr.evaluation import IOU_TYPES, PROTOCOLS
from dk_detr.utils.names import NOVEL_HELP


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", required=True, metavar="JSON", help="ground truth, in COCO or LVIS format")
    parser.add_argument("--results", required=True, metavar="JSON", help="a list of detections")
    parser.add_argument("--protocol", required=True, choices=list(PROTOCOLS))
    novel = f"novel names (default: OV-COCO's 17, LVIS's rare ones, else none), {NOVEL_HELP}"
    parser.add_argument("--novel", metavar="A,B", help=novel)
    parser.add_argument("--iou-type", choices=IOU_TYPES, default="bbox", help="compare boxes or masks (default boxes)")
    parser.add_argument("--tables", metavar="DIR", default="", help="write a table of categories as CSV and Markdown")
    parser.add_argument("--json", metavar="FILE", help='write {"bbox" or "segm": {metric: points}}')
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
