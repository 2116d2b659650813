"""Why a detection is there: where its query looked, how its box moved, which words competed.

D decoder layers, B images, Q queries, K words.
"""

from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from dk_detr.engine.predictor import Picture, Predictor
from dk_detr.explain.attention import Look, attention_of, looks, recorded
from dk_detr.layers import to_absolute_xyxy
from dk_detr.meta_arch import DETR
from dk_detr.modeling import InitialQueries
from dk_detr.structures import Vocabulary

WORDS = 8  # that are shown of a query, the best first


@dataclass(frozen=True)
class Step:
    """Where a box was on its way.

    Attributes:
        name: "proposal", "anchor" or "reference point", where the query started; "layer 1", …
        place: (4,) xyxy, or (2,) of a point, in pixels of the picture, clipped to it.
    """

    name: str
    place: Tensor


@dataclass(frozen=True)
class DetectionExplained:
    """One detection, and its query.

    Attributes:
        query: its number. word: its place in the vocabulary. score: as detections have it.
        box_xyxy_abs: (4,) in pixels of the picture.
        looks: D, what its query looked at in each layer.
        steps: where its box was: the start, if queries have one, then after each layer.
        words: the best of this query by their places in the vocabulary, with the detector's scores, the best first.
    """

    query: int
    word: int
    score: float
    box_xyxy_abs: Tensor
    looks: tuple[Look, ...]
    steps: tuple[Step, ...]
    words: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class ImageExplained:
    """The best detections of a picture, one of each query.

    Attributes:
        size: (h, w) of the picture in pixels. vocabulary: the words that were asked for; `novel` says which the
            detector was not trained for.
        levels: (h, w) in cells of the feature levels that show the image.
        detections: the best first. num_confident: of all detections, those with at least the score asked for.
        fused: whether scores of detections are fused with CLIP's, those of `words` are not.
    """

    size: tuple[int, int]
    vocabulary: Vocabulary
    levels: tuple[tuple[int, int], ...]
    detections: tuple[DetectionExplained, ...]
    num_confident: int
    fused: bool


@torch.no_grad()
def explain_detections(predictor: Predictor, image: Picture, threshold: float, number: int) -> ImageExplained:
    """Detect, and say why.

    Args:
        image: see `Predictor`. threshold: the least score; where no detection has it, the best are explained.
        number: of detections, at most.

    Raises: UnreadableImage; ValueError for a detector that is no DETR, for one whose attention nobody can read, and
        for an image in which it finds nothing at all.
    """
    model = require_detr(predictor.model)
    layers: Any = model.decoder.layers
    attentions = [attention_of(layer) for layer in layers]
    with recorded([model.queries, model.decoder, *attentions]) as calls:
        found = predictor(image)
    if not len(found):
        raise ValueError("The detector finds nothing in this image, not even a box of a low score.")
    (_, memory), trace = calls[model.decoder].arguments, calls[model.decoder].output
    initial: InitialQueries = calls[model.queries].output
    scores = model.word_scores(trace, initial, memory)[0].cpu()
    chosen = best_of_queries(found, threshold)[:number]
    looked = [looks(calls[attention], chosen.query.to(scores.device)) for attention in attentions]
    start = _start(model, initial)
    detections = [
        DetectionExplained(
            query=int(chosen.query[i]),
            word=int(chosen.pred_classes[i]),
            score=float(chosen.scores[i]),
            box_xyxy_abs=chosen.pred_boxes.tensor[i],
            looks=tuple(of_layer[i] for of_layer in looked),
            steps=_steps(start, trace.boxes[:, 0], int(chosen.query[i]), found.image_size),
            words=_best_words(scores[chosen.query[i]], int(chosen.pred_classes[i])),
        )
        for i in range(len(chosen))
    ]
    words = predictor.vocabulary
    words = Vocabulary(words.names, words.embeddings, model.novel.cpu(), words.provenance)
    shown = memory.shapes if memory.valid_size is None else [(h, w) for w, h in memory.valid_size[0].tolist()]
    confident = int((found.scores >= threshold).sum())
    return ImageExplained(found.image_size, words, tuple(shown), tuple(detections), confident, predictor.fuses)


def require_detr(model: Any) -> DETR:
    """The detector itself. Raises ValueError for one without a decoder of queries."""
    if not isinstance(model, DETR):
        raise ValueError(  # noqa: TRY004  a config is at fault
            f'MODEL.META_ARCHITECTURE "{type(model).__name__}" has no decoder of queries to explain: take a config of '
            'a "DETR".'
        )
    return model


def best_of_queries(found: Instances, threshold: float) -> Instances:
    """The best detection of each query, the best first; those of at least the score, or all where none has it."""
    first: dict[int, int] = {}
    for place, query in enumerate(found.query.tolist()):
        first.setdefault(query, place)
    best = found[torch.tensor(list(first.values()))]
    confident = best.scores >= threshold
    return best[confident] if bool(confident.any()) else best


def _start(model: DETR, initial: InitialQueries) -> tuple[str, Tensor] | None:
    """What the references of the first layer are, and (Q, 2 or 4) these in [0, 1]; None where queries have none."""
    reference = initial.group.reference
    if reference is None:
        return None
    if reference.shape[-1] == 2:
        return "reference point", reference[0]
    return "proposal" if model.queries.proposes else "anchor", reference[0]


def _steps(start: tuple[str, Tensor] | None, boxes: Tensor, query: int, size: tuple[int, int]) -> tuple[Step, ...]:
    """`boxes`: (D, Q, 4) cxcywh in [0, 1]. `size`: (h, w) of the picture."""
    steps = [Step(f"layer {number}", _in_pixels(box[query], size)) for number, box in enumerate(boxes, start=1)]
    if start is not None:
        steps.insert(0, Step(start[0], _in_pixels(start[1][query], size)))
    return tuple(steps)


def _in_pixels(place: Tensor, size: tuple[int, int]) -> Tensor:
    if len(place) == 2:
        return place.float().cpu() * torch.tensor([size[1], size[0]])
    box = Boxes(to_absolute_xyxy(place.float().cpu(), size)[None])
    box.clip(size)
    return box.tensor[0]


def _best_words(scores: Tensor, word: int) -> tuple[tuple[int, float], ...]:
    """Of (K,) scores the best, and in any case the word of the detection."""
    best = scores.argsort(descending=True, stable=True)[:WORDS].tolist()
    if word not in best:  # other boxes of better words were better, or CLIP knew better
        best[-1] = word
    return tuple((index, float(scores[index])) for index in best)
