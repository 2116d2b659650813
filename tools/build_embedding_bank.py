#!/usr/bin/env python3
"""Build an embedding bank: regions of the training images with what CLIP sees in them, computed once.

    # regions that a trained detector's first stage proposes
    tools/build_embedding_bank.py --config-file configs/dk_detr_R50.yaml --output bank/ MODEL.WEIGHTS detector.pth
    # regions of a file: a JSON list of {"image_id", "bbox", "score"}, or Detectron2's proposals as .pkl
    tools/build_embedding_bank.py --config-file configs/dk_detr_R50.yaml --output bank/ --proposals proposals.json
    # eight processes; on a CPU, too, where each computes with one thread
    torchrun --nproc-per-node 8 tools/build_embedding_bank.py --config-file … --output bank/ MODEL.WEIGHTS detector.pth
    # the first of two machines, into a folder that both see; they need not start together, or have a --dist-url
    tools/build_embedding_bank.py --config-file … --output bank/ --num-gpus 8 --num-machines 2 --machine-rank 0 …

Images are those of DATASETS.TRAIN. After a kill the same command goes on. The format is described in tools/README.md.
"""

import argparse

import dk_detr  # noqa: F401  first, so that Detectron2 can be imported
from dk_detr.commands.build_embedding_bank.main import main
from dk_detr.commands.custom_data_options import parse_with_custom_data
from dk_detr.commands.machine_options import add_machine_options


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="MODEL.CLIP is the teacher")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--proposals", metavar="FILE", help="instead of the first stage of MODEL.WEIGHTS")
    parser.add_argument("--regions", type=int, default=300, metavar="N", help="of an image, at most (default: 300)")
    parser.add_argument("--nms", type=float, default=0.7, metavar="IOU", help="of duplicates (default: 0.7)")
    parser.add_argument(
        "--crop-scales", type=float, nargs="+", default=[1.0, 1.5], metavar="X",
        help="of a region's sides; what is seen at each is averaged (default: 1.0 1.5)",
    )  # fmt: skip
    parser.add_argument("--images-per-shard", type=int, default=100, metavar="N", help="default: 100")
    parser.add_argument("--shards", metavar="FIRST:LAST", help="only these, counted from 0, without the last")
    parser.add_argument("--estimate", action="store_true", help="say what it would take, and write nothing")
    add_machine_options(parser)
    return parse_with_custom_data(parser)


if __name__ == "__main__":
    main(parse())
