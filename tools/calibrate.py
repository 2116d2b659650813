#!/usr/bin/env python3
"""Fit the sigmoids of a detector to its teacher: which cosine with a word or a crop is a "yes", and which a "no".

    tools/calibrate.py --config-file configs/dk_detr_plus_R50.yaml
    tools/calibrate.py --config-file configs/dk_detr_R50.yaml --output calibration.json
    tools/train_net.py --config-file configs/dk_detr_R50.yaml MODEL.CALIBRATION calibration.json

The teacher is MODEL.CLIP with MODEL.TEACHER.CROP_SCALES; it looks at base boxes of DATASETS.TRAIN. Beside the file lies
a picture. What the numbers are is described in tools/README.md.
"""

import argparse

import dk_detr  # noqa: F401  first, so that Detectron2 can be imported
from dk_detr.commands.calibrate import main
from dk_detr.commands.custom_data_options import parse_with_custom_data


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the detector that is to be trained")
    parser.add_argument("--output", metavar="JSON", help="(default: where MODEL.CALIBRATION of the config expects it)")
    parser.add_argument("--images", type=int, default=500, metavar="N", help="to look at, at most (default: 500)")
    return parse_with_custom_data(parser)


if __name__ == "__main__":
    main(parse())
