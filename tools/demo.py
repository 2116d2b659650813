#!/usr/bin/env python3
"""Detect in pictures and videos, with any vocabulary, and draw what was found.

    tools/demo.py --config-file configs/dk_detr_R50.yaml --input photos/ --output found/ \\
        --vocabulary custom --custom_vocabulary "headphone,webcam,coffee mug" --opts MODEL.WEIGHTS dk_detr.pth

    tools/demo.py --config-file configs/dk_detr_R50.yaml --video-input street.mp4 --output found/ ...

Weights, words and the CLIP of MODEL.CLIP are enough: no vocabulary file is needed, for weights say which words they
were trained with. Without --vocabulary the words are those of MODEL.VOCABULARY.TEST, or, if that is empty, of training.

Writes a picture for each image, and detections.json: for each image its file, width, height, and the detections with
name, score and box (x0, y0, x1, y1 in pixels). A star marks words that are novel, that is, never had a box in training.
Images that cannot be read are named at the end, with exit status 1; the others are done all the same.

Of a video, a stream, a camera or the screen it writes a video (MP4, H.264), and in detections.json a record of each
frame, with its time in seconds. Ctrl-C leaves both whole, and says how to go on.
"""

import argparse

import dk_detr  # noqa: F401  registers the detectors; first, so that Detectron2 can be imported
from dk_detr.commands.demo import main
from dk_detr.data.frames import TIMEOUT
from dk_detr.detector.detector import THRESHOLD
from dk_detr.detector.sliced import SLICE
from dk_detr.detector.thresholds import FORM
from dk_detr.language import WORD_LISTS
from dk_detr.utils.names import NAMES_HELP


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--input", nargs="+", metavar="IMAGE", help='images, folders, "photos/**"')
    what.add_argument("--video-input", metavar="VIDEO", help="a video file, or a stream (http, rtsp)")
    what.add_argument("--webcam", nargs="?", type=int, const=0, metavar="N", help="a camera (default 0)")
    what.add_argument("--screen", nargs="?", type=int, const=1, metavar="N", help="a screen (default 1)")
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument("--vocabulary", choices=(*WORD_LISTS, "custom"), help="default: the words of the config")
    parser.add_argument("--custom_vocabulary", metavar='"A,B,C"', help=f"with --vocabulary custom: {NAMES_HELP}")
    parser.add_argument("--confidence-threshold", "--threshold", type=float, default=THRESHOLD, metavar="SCORE")
    parser.add_argument("--thresholds", metavar="WORD=SCORE", help=f"of single words: {FORM}")
    tiles = f"look at tiles of N pixels, too, for small objects in large images (default {SLICE})"
    parser.add_argument("--slice", nargs="?", type=int, const=SLICE, metavar="N", help=tiles)
    parser.add_argument("--every", type=int, default=1, metavar="K", help="of K frames look at one")
    parser.add_argument("--start", type=float, metavar="SECONDS", help="of a video; goes on with one")
    parser.add_argument("--end", type=float, metavar="SECONDS", help="stop there")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, metavar="SECONDS", help="of a silent stream")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config overrides")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
