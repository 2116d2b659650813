"""DATASETS.KEEP: data sets with the words from before a fine-tuning, tested beside DATASETS.TEST."""

from detectron2.config import CfgNode


def use_kept_data(cfg: CfgNode, words_before: str) -> None:
    """Test the data sets of DATASETS.KEEP, too, with the words that the config had before those of DATASETS.CUSTOM.

    Args:
        words_before: MODEL.VOCABULARY.TEST before that. Files in MODEL.VOCABULARY.OF_DATASETS come first.
    """
    kept, words = tuple(cfg.DATASETS.KEEP), cfg.MODEL.VOCABULARY
    cfg.DATASETS.TEST = (*cfg.DATASETS.TEST, *(name for name in kept if name not in cfg.DATASETS.TEST))
    if words_before and words_before != words.TEST:
        listed = [str(entry).partition("=")[0] for entry in words.OF_DATASETS]
        more = [f"{name}={words_before}" for name in kept if name not in listed]
        words.OF_DATASETS = [*words.OF_DATASETS, *more]
