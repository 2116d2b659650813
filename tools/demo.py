#!/usr/bin/env python3
"""Detect in pictures, with any vocabulary, and draw what was found.

    tools/demo.py --config-file configs/dk_detr_R50.yaml --input photos/ --output found/ \\
        --vocabulary custom --custom_vocabulary "headphone,webcam,coffee mug" --opts MODEL.WEIGHTS dk_detr.pth

Weights, words and the CLIP of MODEL.CLIP are enough: no vocabulary file is needed, for weights say which words they
were trained with. Without --vocabulary the words are those of MODEL.VOCABULARY.TEST, or, if that is empty, of training.

Writes a picture for each image, and detections.json: for each image its file, width, height, and the detections with
name, score and box (x0, y0, x1, y1 in pixels). A star marks words that are novel, that is, never had a box in training.
Images that cannot be read are named at the end, with exit status 1; the others are done all the same.
"""

import argparse

import dk_detr  # noqa: F401  registers the detectors; first, so that Detectron2 can be imported
from dk_detr.commands.demo import main
from dk_detr.language import WORD_LISTS
from dk_detr.utils.names import NAMES_HELP


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--input", nargs="+", required=True, metavar="IMAGE", help='images, folders, "photos/**"')
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument("--vocabulary", choices=(*WORD_LISTS, "custom"), help="default: the words of the config")
    parser.add_argument("--custom_vocabulary", metavar='"A,B,C"', help=f"with --vocabulary custom: {NAMES_HELP}")
    parser.add_argument("--confidence-threshold", type=float, default=0.3, metavar="SCORE")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config overrides")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
