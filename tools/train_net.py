#!/usr/bin/env python3
"""Train or evaluate a detector, the Detectron2 way.

    tools/train_net.py --config-file configs/dk_detr_R50.yaml --num-gpus 8
    tools/train_net.py --config-file configs/dk_detr_R50.yaml --eval-only MODEL.WEIGHTS model.pth
    tools/train_net.py --config-file configs/dk_detr_R50.yaml --train-json a.json --train-images a/ \
        --val-json b.json --val-images b/ --novel "x,y"
    tools/train_net.py --config-file configs/dk_detr_R50.yaml --train-json a.json --train-images a/ \
        --keep-test lvis_v1_val --keep-by interpolation MODEL.WEIGHTS trained.pth
    torchrun --nproc-per-node 8 tools/train_net.py --config-file configs/dk_detr_R50.yaml
    # two machines, 0 and 1: tools/README.md says what they must share
    tools/train_net.py --config-file configs/dk_detr_R50.yaml --num-gpus 8 --num-machines 2 --machine-rank 0 \
        --dist-url tcp://10.0.0.1:29500
"""

import argparse

import dk_detr  # noqa: F401  registers the detectors; first, so that Detectron2 can be imported
from dk_detr.commands.custom_data_options import add_keep_options, parse_with_custom_data
from dk_detr.commands.machine_options import add_machine_options
from dk_detr.commands.train import main


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--eval-only", action="store_true", help="evaluate on DATASETS.TEST, beside a run")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    add_machine_options(parser)
    add_keep_options(parser)
    return parse_with_custom_data(parser)


if __name__ == "__main__":
    main(parse())
