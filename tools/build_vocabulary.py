#!/usr/bin/env python3
"""Build a vocabulary: names with their text embeddings, and which of them are novel.

    # the categories of an annotation file, encoded by CLIP; the rare ones (LVIS) are novel
    tools/build_vocabulary.py --annotations lvis_v1_val.json --output lvis_v1.npz
    # any words
    tools/build_vocabulary.py --names "cat,dog,traffic light" --output mine.npz
    # embeddings that others ship, with the names of an annotation file
    tools/build_vocabulary.py --annotations lvis_v1_val.json --embeddings lvis_v1_clip_a+cname.npy --output lvis_v1.npz
"""

import argparse

import dk_detr  # noqa: F401  first, so that Detectron2 can be imported
from dk_detr.commands.build_vocabulary import main
from dk_detr.language import PROMPTS
from dk_detr.utils.names import NAMES_HELP, NOVEL_HELP


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--annotations", metavar="JSON", help="LVIS or COCO annotations, or a list of categories")
    source.add_argument("--names", metavar="A,B,C", help=f"names, {NAMES_HELP}")
    novel = f"novel names (default: frequency r of LVIS, unseen of OV-COCO), {NOVEL_HELP}"
    parser.add_argument("--novel", metavar="A,B", help=novel)
    rows = "a matrix (K, E), .npy or .pt, with a row for each category by ascending id"
    parser.add_argument("--embeddings", metavar="FILE", help=rows)
    parser.add_argument("--prompt", choices=PROMPTS, default="vild")
    parser.add_argument("--library", choices=("open_clip", "clip"), default="open_clip")
    parser.add_argument("--architecture", default="ViT-B-32-quickgelu", help="model name, or an open_clip .json config")
    parser.add_argument("--weights", default="openai", help="a tag, or a checkpoint file")
    parser.add_argument("--output", required=True, metavar="NPZ")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
