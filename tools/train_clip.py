#!/usr/bin/env python
"""Pretrain the mini CLIP on the mini world's image-caption pairs, and measure what it recognises.

    tools/train_clip.py --data datasets/mini_lvis --config configs/mini/mini_clip.json --output output/mini/clip

Writes mini_clip.pt, a state dict that open_clip loads into the config, and metrics.json. Interrupted, run it again;
finished, it only prints the metrics.
"""

import argparse

from dk_detr.engine import one_clear_error
from dk_detr.mini_world.contrastive import Recipe, pretrain, report


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of a mini world")
    parser.add_argument("--config", required=True, help="open_clip model config (.json)")
    parser.add_argument("--output", required=True, help="folder for the weights and metrics")
    parser.add_argument("--iterations", type=int, default=Recipe.iterations)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    recipe = Recipe(iterations=arguments.iterations, seed=arguments.seed)
    with one_clear_error():
        print(report(pretrain(arguments.data, arguments.config, arguments.output, recipe)))


if __name__ == "__main__":
    main()
