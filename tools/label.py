#!/usr/bin/env python3
"""Label a folder of images by a detector, for people to correct or for another detector to learn from.

    tools/label.py output/dk_detr_R50/model_final.pth --input photos/ --classes words.txt --output annotations.json
    tools/label.py dk_detr_R50 --weights dk_detr.pth --input photos/ --classes "cat,paper cup" --output a.json \\
        --threshold 0.3 --thresholds "cat=0.5" --format yolo voc
    torchrun --nproc-per-node 8 tools/label.py ...

Writes COCO's format, with the score of each annotation and, where the detector has them, masks. Killed or interrupted,
the same command goes on; the file is the same whatever the number of processes and interruptions. Images that cannot be
read are named at the end, with exit status 1; the others are labelled all the same.
"""

import argparse

import dk_detr  # noqa: F401  registers the detectors; first, so that Detectron2 can be imported
from dk_detr.commands.label.formats import FORMATS
from dk_detr.commands.label.main import main
from dk_detr.detector.detector import THRESHOLD
from dk_detr.detector.thresholds import FORM


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", metavar="WEIGHTS_OR_CONFIG", help="of a training; or a config and --weights")
    parser.add_argument("--weights", metavar="FILE", help="of a config")
    parser.add_argument("--input", nargs="+", required=True, metavar="IMAGE", help='images, folders, "photos/**"')
    parser.add_argument("--output", required=True, metavar="JSON", help="the annotation file")
    what = 'a file with a name on each line, or "a,b", or lvis, coco, voc, or a vocabulary'
    parser.add_argument("--classes", metavar="WORDS", help=f"{what} (default: the detector's own words)")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, metavar="SCORE", help=f"default {THRESHOLD}")
    parser.add_argument("--thresholds", metavar="WORD=SCORE", help=f"of single words: {FORM}")
    parser.add_argument(
        "--words-per-box", choices=("best", "all"), default="best", help="of several words for the very same box"
    )
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=["coco"], help="yolo, voc: folders beside it")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="GPUs; on a CPU processes of one thread")
    parser.add_argument("--device", metavar="DEVICE", help='"cpu", "cuda" (default: the config\'s)')
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config overrides")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
