#!/usr/bin/env python3
"""Show a training run: a table of its scores, detections beside ground truth, and the training curves.

    tools/show_run.py output/mini/dk_detr_mask

Writes pictures/detections.png and pictures/curves.png into the folder of the run. Uses the detections that the last
evaluation saved; where there are none, detects in the images that are shown, with the weights of the run.
"""

import argparse

import dk_detr  # noqa: F401  registers the detectors; first, so that Detectron2 can be imported
from dk_detr.commands.show_run import main


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", help="OUTPUT_DIR of a run of tools/train_net.py")
    parser.add_argument("--images", type=int, default=12, help="how many; those with novel objects come first")
    parser.add_argument("--seed", type=int, default=0, help="chooses among the images")
    parser.add_argument("--confidence-threshold", type=float, default=0.3, metavar="SCORE")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
