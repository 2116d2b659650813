#!/usr/bin/env python3
"""Measure speed and memory against what people use today, side by side in one run.

    tools/benchmark.py attention     our backends against `grid_sample`: the encoder's attention of one 800×800 image
    tools/benchmark.py evaluation    our LVIS scoring against the `lvis` package, and `faster-coco-eval` if installed
    tools/benchmark.py distillation  a training step with and without distillation, with a live teacher and a bank
    tools/benchmark.py masks         a training step and an image with and without masks
    tools/benchmark.py detector      our detector against Hugging Face's of the same weights (needs `transformers`)
"""

import argparse

import dk_detr  # noqa: F401  makes Detectron2 importable
from dk_detr.commands.benchmark import DTYPES, main


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["attention", "detector", "distillation", "evaluation", "masks"])
    parser.add_argument("--rounds", type=int, help="of each measurement, in alternation (default 10; evaluation 1)")
    parser.add_argument("--device", default="", help="cpu or cuda (default: cuda if there is one)")
    parser.add_argument("--size", type=int, default=800, help="side of the image in pixels (default 800)")
    parser.add_argument("--train-size", type=int, default=512, help="the same of the training step (default 512)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the values of attention")
    parser.add_argument("--images", type=int, default=5000, help="of evaluation, at most (default 5000)")
    parser.add_argument("--config-file", default="", help="of distillation, masks (default: mini; on a GPU R50)")
    parser.add_argument("--batch", type=int, default=8, help="images of their training step (default 8)")
    parser.add_argument("--json", metavar="FILE", help="write the same for programs")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
