#!/usr/bin/env python
"""Make the mini world: an LVIS-v1-format data set of drawn objects, and image-caption pairs for a mini CLIP.

    tools/make_mini_lvis.py --output datasets/mini_lvis

Takes about half a minute on two cores. Interrupted, run it again; finished, it returns at once.
"""

import argparse
import os

from dk_detr.engine import one_clear_error
from dk_detr.mini_world import MiniWorld, make_mini_world, write_new_words

NEW_WORDS = (
    "also write annotations/new_words_{train,test}.json, to fine-tune with: every second novel word alone, in so many "
    "images of val and of test"
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder of the data set, for example datasets/mini_lvis")
    parser.add_argument("--seed", type=int, default=MiniWorld.seed)
    parser.add_argument("--train-images", type=int, default=MiniWorld.train_images)
    parser.add_argument("--val-images", type=int, default=MiniWorld.val_images)
    parser.add_argument("--test-images", type=int, default=MiniWorld.test_images)
    parser.add_argument("--caption-images", type=int, default=MiniWorld.captions_images, help="scenes cut into crops")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; the result is the same")
    parser.add_argument("--new-words", nargs=2, type=int, metavar=("TRAIN", "TEST"), help=NEW_WORDS)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    world = MiniWorld(
        arguments.seed,
        arguments.train_images,
        arguments.val_images,
        arguments.test_images,
        arguments.caption_images,
    )
    with one_clear_error():
        make_mini_world(arguments.output, world, arguments.workers)
        if arguments.new_words:
            print("new words:", *write_new_words(arguments.output, *arguments.new_words))


if __name__ == "__main__":
    main()
