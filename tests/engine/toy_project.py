"""A project that trains something else than a detector: pairs of an image and a caption, and a model without words."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.samplers import TrainingSampler
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from dk_detr.data import TrainStream, batch_size_per_worker
from dk_detr.engine import TRAIN_STREAMS

NUM_PAIRS = 8
SEEN: list[str] = []
"""Captions in the order in which models have learnt from them."""


@META_ARCH_REGISTRY.register()
class ToyPairs(nn.Module):
    """Learns how bright a picture is that its caption calls bright."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.bright = nn.Linear(3, 1)

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        SEEN.extend(sample["caption"] for sample in batch)
        colours = torch.stack([sample["image"].mean((1, 2)) for sample in batch])
        wanted = torch.tensor([[float("bright" in sample["caption"])] for sample in batch])
        return {"loss_pairs": nn.functional.binary_cross_entropy_with_logits(self.bright(colours), wanted)}


def build_pair_stream(cfg: CfgNode, model: nn.Module, seed: int) -> TrainStream:
    """Pairs of which nothing is read from DATASETS.TRAIN."""
    assert isinstance(model, ToyPairs)
    records = [{"caption": f"{number}, {'bright' if number % 2 else 'dark'}"} for number in range(NUM_PAIRS)]
    sampler = TrainingSampler(NUM_PAIRS, seed=seed)
    return TrainStream(records, _with_image, sampler, batch_size_per_worker(cfg), seed)


def _with_image(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "image": torch.full((3, 4, 4), float("bright" in record["caption"]))}


TRAIN_STREAMS["ToyPairs"] = build_pair_stream
