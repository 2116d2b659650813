#!/usr/bin/env python3
"""Write a trained detector as a file that runs without dk_detr, and check it against the detector.

    tools/export.py --config-file configs/dk_detr_R50.yaml --format onnx --output detector.onnx --check \\
        --images photos/ --opts MODEL.WEIGHTS dk_detr.pth
    tools/run_onnx.py detector.onnx photos/*.jpg --vocabulary words.npz

Inputs are `images`, `orig_target_sizes` and, of an open detector, `text_embeddings` of any number of words; outputs
`labels`, `boxes`, `scores`, and `masks` where the detector draws them. tools/README.md describes them.

--check compares with the detector on --images, or the first of DATASETS.TEST, and prints the time of both; of float16
it compares the AP on DATASETS.TEST. Exit status 1 where the file is not true to the detector.
"""

import argparse

import dk_detr  # noqa: F401  first, so that Detectron2 can be imported
from dk_detr.commands.export import main
from dk_detr.export import DTYPES, FORMATS, WORDS


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--format", required=True, choices=list(FORMATS))
    parser.add_argument("--output", required=True, metavar="FILE", help=".onnx, .pt2 (torch_export), .ts (torchscript)")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of weights and products (default float32)")
    fixed = "an input, or fixed: those of the config (default: an input where the detector is open)"
    parser.add_argument("--words", choices=WORDS, default=WORDS[0], help=fixed)
    sizes = "of all images; torchscript needs it (default: any size)"
    parser.add_argument("--image-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=sizes)
    parser.add_argument("--check", action="store_true", help="compare with the detector")
    parser.add_argument("--images", nargs="+", default=[], metavar="IMAGE", help="to compare on: images, folders")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config overrides")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
