#!/usr/bin/env python3
"""See of one image why a detector finds what it finds, and what CLIP taught it.

    tools/explain.py --config-file configs/dk_detr_R50.yaml --input photo.jpg --output explained/ \\
        --opts MODEL.WEIGHTS dk_detr.pth

Writes photo_detection_1.png, … , a sheet for each of the best detections: where its box comes from, layer by layer,
which words compete for it, and where each decoder layer looks. Of a distilled detector whose CLIP can be loaded, also
photo_regions.png, the distilled regions with the words that CLIP has for them, and photo_relations.png, how much these
regions resemble one another to CLIP and to the detector. photo_explained.json has all the numbers; tools/README.md says
how to read them.
"""

import argparse

import dk_detr  # noqa: F401  registers the detectors; first, so that Detectron2 can be imported
from dk_detr.commands.explain import main
from dk_detr.language import WORD_LISTS
from dk_detr.utils.names import NAMES_HELP


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--input", required=True, metavar="IMAGE")
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument("--vocabulary", choices=(*WORD_LISTS, "custom"), help="default: the words of the config")
    parser.add_argument("--custom_vocabulary", metavar='"A,B,C"', help=f"with --vocabulary custom: {NAMES_HELP}")
    parser.add_argument("--detections", type=int, default=5, metavar="N", help="to explain, at most (default: 5)")
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.3, metavar="SCORE",
        help="of detections to explain (default: 0.3); where none has it, the best are explained",
    )  # fmt: skip
    parser.add_argument(
        "--teacher", action="store_true", help="fail where what CLIP says cannot be shown (default: say why and go on)"
    )
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config overrides")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
