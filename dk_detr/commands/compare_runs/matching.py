"""How stable matching is: whether an object stays matched to the same query while a detector learns.

Source: the instability of DN-DETR (CVPR 2022), §3.2, as a share of objects.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from dk_detr.data import TrainMapper, categories_of, labels_among, train_records
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.setup import for_inference
from dk_detr.meta_arch import DETR
from dk_detr.modeling import QUERIES, Anchors, Learned
from dk_detr.structures import Predictions

BATCH = 8  # images that are looked at together


def has_steady_queries(cfg: CfgNode) -> bool:
    """Whether query number 7 is the same query in each image: learned, and not a rank among proposals."""
    detr = cfg.MODEL.DETR
    return cfg.MODEL.META_ARCHITECTURE == "DETR" and issubclass(QUERIES[detr.QUERIES], (Learned, Anchors))


def changes_of_matching(cfg: CfgNode, folder: Path, num_images: int) -> dict[int, float]:
    """Iteration -> share of objects whose matched query is another than at the checkpoint before.

    Args:
        folder: holds the checkpoints. num_images: training images that are asked, without augmentation.
    """
    detector: Any = build_model(for_inference(cfg)).eval()
    samples = _samples(cfg, detector, num_images)
    matched = {}
    for path in sorted(folder.glob("model_[0-9]*.pth")):
        StrictCheckpointer(detector).load(str(path))
        matched[int(path.stem.removeprefix("model_")) + 1] = matched_queries(detector, samples)
    return {
        iteration: float((matched[iteration] != matched[before]).float().mean())
        for before, iteration in pairwise(matched)
    }


@torch.no_grad()
def matched_queries(detector: DETR, samples: Sequence[dict[str, Any]]) -> Tensor:
    """(number of objects) the query that the last layer matches to each object; -1 for none."""
    found = []
    for start in range(0, len(samples), BATCH):
        batch = list(samples[start : start + BATCH])
        predictions = detector.predict(detector.preprocess(batch), detector.train_text)
        targets = detector.targets(batch)
        last = Predictions(predictions.logits[-1:], predictions.boxes[-1:], predictions.valid)
        pairs = detector.criterion.matcher(last, targets)
        query_of = torch.full((len(batch), max(targets.counts)), -1, device=pairs.query.device)
        query_of[pairs.image, pairs.target] = pairs.query
        found += [row[:count] for row, count in zip(query_of, targets.counts)]
    return torch.cat(found).cpu()


def _samples(cfg: CfgNode, detector: Any, num_images: int) -> list[dict[str, Any]]:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.AUGMENTATION, cfg.INPUT.RANDOM_FLIP = "ShortestEdge", "none"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST
    dataset = cfg.DATASETS.TRAIN[0]
    names = [category["name"] for category in categories_of(dataset)]
    labels = labels_among(names, detector.train_vocabulary.names, detector.vocabulary.novel_names, dataset)
    mapper = TrainMapper(cfg, labels)
    return [mapper(record) for record in train_records([dataset])[:num_images]]
