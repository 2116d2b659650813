"""What a builder refuses before it starts."""

import argparse
import os

from detectron2.config import CfgNode

from dk_detr.commands.build_embedding_bank.process import Process


def refuse_arguments(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Raises ValueError for arguments that make no bank."""
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: whose images?")
    if args.images_per_shard < 1:
        raise ValueError(f"--images-per-shard must be at least 1, got {args.images_per_shard}.")
    if not cfg.MODEL.CLIP.WEIGHTS and cfg.MODEL.CLIP.LIBRARY == "open_clip":
        raise ValueError('MODEL.CLIP.WEIGHTS is "": a bank of random embeddings teaches nothing. Name a tag or file.')
    if os.path.exists(args.output) and not os.path.isdir(args.output):
        raise ValueError(f"--output {args.output} is a file; name a folder.")


def refuse_a_vocabulary_of_many(cfg: CfgNode, process: Process) -> None:
    """Raises ValueError where several processes would build the vocabulary of own data at the same time."""
    own = bool(cfg.DATASETS.CUSTOM.TRAIN_JSON)
    if own and process.number > 1 and not os.path.isfile(cfg.MODEL.VOCABULARY.TEST):
        raise ValueError(
            f"There is no {cfg.MODEL.VOCABULARY.TEST} yet, and several processes would write it. Run this command once "
            "without torchrun and with --estimate."
        )
