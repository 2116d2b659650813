"""What a builder refuses before it starts."""

import os

from detectron2.config import CfgNode

from dk_detr.commands.build_embedding_bank.process import Process


def refuse_config(cfg: CfgNode) -> None:
    """Raises ValueError for a config that makes no bank."""
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: whose images?")
    if not cfg.MODEL.CLIP.WEIGHTS and cfg.MODEL.CLIP.LIBRARY == "open_clip":
        raise ValueError('MODEL.CLIP.WEIGHTS is "": a bank of random embeddings teaches nothing. Name a tag or file.')


def refuse_a_vocabulary_of_many(cfg: CfgNode, process: Process) -> None:
    """Raises ValueError where several processes would build the vocabulary of custom data at the same time."""
    own = bool(cfg.DATASETS.CUSTOM.TRAIN_JSON)
    if own and process.number > 1 and not os.path.isfile(cfg.MODEL.VOCABULARY.TEST):
        raise ValueError(
            f"There is no {cfg.MODEL.VOCABULARY.TEST} yet, and several processes would write it. Run this command once "
            "as a single process and with --estimate."
        )
