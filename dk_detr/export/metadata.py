"""What an exported file says of itself: words, where they are from, and how its images are to be made."""

import json

import torch
from detectron2.config import CfgNode

from dk_detr.export.graph import DetectionGraph

FORMAT = "dk_detr export 1"


def metadata_of(cfg: CfgNode, graph: DetectionGraph, image_size: tuple[int, int] | None) -> dict[str, str]:
    """All values are texts; lists and objects are JSON.

    "names" and "novel" are of the words that the detector had when it was exported, in the order of the labels where
    they are fixed; "train_names" those of
    training, and of trainings before it. "provenance" is that of the embeddings (see `Vocabulary`).
    "min_size", "max_size" are INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST, "order" the channels. "padded_side" is the square
    that no image may exceed, 0 for none; "image_size" (h, w), if it is the only one.
    """
    model = graph.model
    provenance = {key: value for key, value in model.vocabulary.provenance.items() if key not in ("request", "remedy")}
    told = {
        "names": list(model.vocabulary.names),
        "novel": model.novel.tolist(),
        "train_names": [*model.train_vocabulary.names, *sorted(model.trained_before)],
        "provenance": provenance,
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
        "padded_side": model.padded_size,
        "image_size": list(image_size) if image_size else None,
    }
    texts = {
        "format": FORMAT,
        "words": "fixed" if graph.fixed_words else "input",
        "order": cfg.INPUT.FORMAT,
        "weights": cfg.MODEL.WEIGHTS,
        "outputs": ",".join(graph.outputs),
        "torch": torch.__version__,
    }
    return texts | {key: json.dumps(value) for key, value in told.items()}
