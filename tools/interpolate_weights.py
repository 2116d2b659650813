#!/usr/bin/env python3
"""Between what a detector was before fine-tuning and what it is after: weights that know the old words and the new.

    tools/interpolate_weights.py output/mine
    tools/interpolate_weights.py output/mine --alpha 0.3 0.4 --start trained.pth

Writes model_interpolated_<share>.pth into the folder of the run, tests each on the run's data sets (DATASETS.TEST and
KEEP), and writes the table interpolation.md. Interrupted, the same command goes on.
"""

import argparse

import dk_detr  # noqa: F401  registers the detectors; first, so that Detectron2 can be imported
from dk_detr.commands.interpolate_weights import main


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="OUTPUT_DIR of a fine-tuning by tools/train_net.py, finished")
    share = "shares of the tuned weights in [0, 1]; 0 is the start, 1 the tuned (default: 0.25 0.5 0.75)"
    parser.add_argument("--alpha", nargs="+", type=float, default=[0.25, 0.5, 0.75], metavar="SHARE", help=share)
    parser.add_argument("--start", metavar="FILE", help="weights before the fine-tuning (default: its MODEL.WEIGHTS)")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config options of the evaluation")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
