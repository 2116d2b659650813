"""Whether an exported file detects what the detector detects. N detections."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from torch import nn
from tqdm import tqdm

from dk_detr.export.exported import Exported

BOX_LIMIT, SCORE_LIMIT, MASK_LIMIT = 1e-3, 1e-4, 1e-3
"""Of a coordinate as a share of itself, at least of one pixel; of a score; of the pixels of a mask."""


@dataclass(frozen=True)
class Difference:
    """How far detections of an image are from others.

    Attributes:
        number: of detections. unmatched: those that the others have not. boxes: largest share of a coordinate, see
            `BOX_LIMIT`. pixels: the same in pixels. scores: largest. masks: share of pixels, of all masks together.
    """

    number: int = 0
    unmatched: int = 0
    boxes: float = 0.0
    pixels: float = 0.0
    scores: float = 0.0
    masks: float = 0.0


def difference(expected: Instances, found: Instances) -> Difference:
    """Each expected detection is compared with that of its word, a score within `SCORE_LIMIT` and the nearest box.

    Where the lists end, a rounding decides who is in: what is missing there does not count.
    """
    number = len(expected)
    if not number:
        return Difference(unmatched=len(found))
    pairs, unmatched = _pairs(expected, found)
    if not pairs:
        return Difference(number, unmatched)
    rows, others = (torch.tensor(each) for each in zip(*pairs))
    boxes, theirs = expected.pred_boxes.tensor[rows], found.pred_boxes.tensor[others]
    apart = (boxes - theirs).abs()
    masks = 0.0
    if expected.has("pred_masks"):
        masks = (expected.pred_masks[rows] != found.pred_masks[others]).float().mean().item()
    share, pixels = (apart / boxes.abs().clamp(min=1.0)).max().item(), apart.max().item()
    scores = (expected.scores[rows] - found.scores[others]).abs().max().item()
    return Difference(number, unmatched, share, pixels, scores, masks)


def _pairs(expected: Instances, found: Instances) -> tuple[list[tuple[int, int]], int]:
    """Rows that belong together, and how many of the expected have nobody though they are not the last."""
    scores, theirs = expected.scores.numpy(), found.scores.numpy()
    end = float(scores.min()) + SCORE_LIMIT
    free, pairs, unmatched = np.ones(len(found), dtype=bool), [], 0
    for row, score in enumerate(scores):
        same = free & (found.pred_classes.numpy() == int(expected.pred_classes[row]))
        candidates = np.flatnonzero(same & (np.abs(theirs - score) <= SCORE_LIMIT))
        if not len(candidates):
            unmatched += int(score > end)
            continue
        apart = np.abs(found.pred_boxes.tensor.numpy()[candidates] - expected.pred_boxes.tensor[row].numpy()).max(1)
        best = int(candidates[apart.argmin()])
        free[best] = False
        pairs.append((row, best))
    return pairs, unmatched


@dataclass(frozen=True)
class Comparison:
    """Of several images: the largest differences, and median seconds of an image."""

    images: int
    worst: Difference
    seconds: float
    seconds_exported: float

    @property
    def good(self) -> bool:
        """Whether the file is true to the detector."""
        worst = self.worst
        near = worst.boxes <= BOX_LIMIT and worst.scores <= SCORE_LIMIT and worst.masks <= MASK_LIMIT
        return worst.unmatched == 0 and near

    def describe(self) -> str:
        """A line for people."""
        worst = self.worst
        masks = f", masks by {worst.masks:.1e} of their pixels" if worst.masks else ""
        return (
            f"{self.images} images, {worst.number} detections, {worst.unmatched} unmatched; boxes differ by at most "
            f"{worst.boxes:.1e} of a coordinate ({worst.pixels:.1e} px), scores by {worst.scores:.1e}{masks}"
        )

    def times(self) -> str:
        """A line for people."""
        faster = self.seconds / self.seconds_exported
        return (
            f"exported {self.seconds_exported:.4f} s an image, eager {self.seconds:.4f} s: {faster:.2f} times as fast "
            f"(medians of {self.images}, batch 1, CPU, {torch.get_num_threads()} threads)"
        )


@torch.no_grad()
def compare(model: nn.Module, exported: Exported, samples: Sequence[dict[str, Any]]) -> Comparison:
    """Both on every sample, in turns."""
    found: list[Difference] = []
    seconds: tuple[list[float], list[float]] = ([], [])
    for sample in tqdm(samples, desc="compared", unit="image"):
        outputs = []
        for detector, times in zip((model, exported), seconds):
            start = time.perf_counter()
            (output,) = detector([sample])
            times.append(time.perf_counter() - start)
            outputs.append(output["instances"])
        found.append(difference(*outputs))
    worst = Difference(
        sum(each.number for each in found),
        sum(each.unmatched for each in found),
        *(max(getattr(each, key) for each in found) for key in ("boxes", "pixels", "scores", "masks")),
    )
    return Comparison(len(samples), worst, *map(median, seconds))
