#!/usr/bin/env python3
"""Train several configs side by side, and draw them in one picture.

    tools/compare_runs.py --config-file configs/mini/dab_detr.yaml configs/mini/dn_detr.yaml --output output/series

Writes comparison.png, curves over iterations, and comparison.md, a table, into the folder; the run of each config lies
there under the name of its file. An interrupted comparison goes on where it stopped; runs that are done are not trained
again. For detectors with learned queries it also says how steadily they are matched: of the objects in some training
images, the share whose matched query is another than at the evaluation before.
"""

import argparse
from pathlib import Path

import dk_detr  # noqa: F401  registers the detectors; first, so that Detectron2 can be imported
from dk_detr.commands.compare_runs import main


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument("--metric", nargs="+", default=["AP50-base"], help="of boxes, say AP50-base AP50-novel")
    parser.add_argument("--period", type=int, default=250, help="iterations from one evaluation to the next")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time, which share the CPUs equally")
    parser.add_argument("--matching-images", type=int, default=200, help="training images whose matching is followed")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config options of all runs")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse(), Path(__file__).with_name("train_net.py"))
