"""The numbers of an explanation, for JSON. Places are in pixels of the picture, rounded to a hundredth."""

from typing import Any

import torch
from torch import Tensor

from dk_detr.explain.attention import HeatMap, Look
from dk_detr.explain.detections import DetectionExplained, ImageExplained
from dk_detr.explain.teaching import WORDS, Teaching
from dk_detr.structures import Vocabulary

PLACE, SHARE = 2, 6  # digits behind the point


def numbers_of_detections(explained: ImageExplained) -> list[dict[str, Any]]:
    """One record for each detection, the best first."""
    return [_detection(explained, detection) for detection in explained.detections]


def numbers_of_teaching(teaching: Teaching) -> dict[str, Any]:
    """The regions with their words, and the relations."""
    shares = teaching.word_shares()
    teacher, student = teaching.relations()
    rows = zip(teaching.queries.tolist(), _rounded(teaching.boxes_xyxy_abs, PLACE), *shares)
    return {
        "regions": [
            {
                "query": query,
                "box": box,
                "teacher": _words(teaching.vocabulary, of_teacher, WORDS),
                "student": _words(teaching.vocabulary, of_student, WORDS),
            }
            for query, box, of_teacher, of_student in rows
        ],
        "word_temperature": teaching.word_temperature,
        "relations": {
            "temperature": teaching.temperature,
            "direction": teaching.direction,
            "teacher": _rounded(teacher, SHARE),
            "student": _rounded(student, SHARE),
            "divergence": _rounded(teaching.divergences(), SHARE),
        },
    }


def _detection(explained: ImageExplained, detection: DetectionExplained) -> dict[str, Any]:
    words = explained.vocabulary
    return {
        "name": words.names[detection.word],
        "novel": bool(words.novel[detection.word]),
        "score": round(detection.score, SHARE),
        "query": detection.query,
        "box": _rounded(detection.box_xyxy_abs, PLACE),
        "steps": [{"at": step.name, "place": _rounded(step.place, PLACE)} for step in detection.steps],
        "words": [_word(words, word, score) for word, score in detection.words],
        "attention": [_look(look, explained.size) for look in detection.looks],
    }


def _look(look: Look, size: tuple[int, int]) -> dict[str, Any]:
    """Of a layer: points by head, level and point, or a map by row and column; the shares sum to 1."""
    if isinstance(look, HeatMap):
        return {"kind": "map", "share": _rounded(look.shares(), SHARE)}
    places = look.xy.cpu() * torch.tensor([size[1], size[0]])
    return {"kind": "points", "place": _rounded(places, PLACE), "share": _rounded(look.shares(), SHARE)}


def _words(vocabulary: Vocabulary, shares: Tensor, number: int) -> list[dict[str, Any]]:
    best = shares.argsort(descending=True, stable=True)[:number].tolist()
    return [_word(vocabulary, word, float(shares[word])) for word in best]


def _word(vocabulary: Vocabulary, word: int, score: float) -> dict[str, Any]:
    return {"name": vocabulary.names[word], "novel": bool(vocabulary.novel[word]), "score": round(score, SHARE)}


def _rounded(values: Tensor, digits: int) -> Any:
    """Nested lists; rounded as Python's numbers, for a float32 would show its rest."""

    def rounded(value: Any) -> Any:
        return [rounded(each) for each in value] if isinstance(value, list) else round(value, digits)

    return rounded(values.cpu().double().tolist())
