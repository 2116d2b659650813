"""Thresholds: the least score that counts, for all words or for each its own."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dk_detr.detector.detections import Detections
from dk_detr.detector.detector import THRESHOLD
from dk_detr.utils.names import split_names

FORM = '"cat=0.5,dog=0.4", or a .json file {"cat": 0.5, "dog": 0.4}'


@dataclass(frozen=True)
class Thresholds:
    """The least score of a detection.

    Attributes:
        default: in [0, 1], of words that have none of their own. of_words: word -> its own.
    """

    default: float = THRESHOLD
    of_words: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, default: float, text: str | None = None) -> "Thresholds":
        """As a command line gives them; `text` as FORM says, or None.

        Raises: ValueError for what is no number in [0, 1], and for a word that stands twice; FileNotFoundError.
        """
        pairs = [] if text is None else _from_file(text) if text.endswith(".json") else _from_text(text)
        of_words = {word: _checked(value, f'"{word}"') for word, value in pairs}
        if len(of_words) < len(pairs):
            raise ValueError(f"--thresholds {text} gives a word two thresholds.")
        return cls(_checked(default, "all words"), of_words)

    @property
    def least(self) -> float:
        """Below it no detection of any word counts."""
        return min([self.default, *self.of_words.values()])

    def require_known(self, words: Sequence[str]) -> None:
        """Raises ValueError for a threshold of a word that is not looked for."""
        unknown = [word for word in self.of_words if word not in set(words)]
        if unknown:
            raise ValueError(f'--thresholds has "{unknown[0]}", which is none of the {len(words)} words looked for.')

    def keep(self, detections: Detections) -> Detections:
        """Those that count."""
        least = np.array([self.of_words.get(name, self.default) for name in detections.names])
        return detections[detections.scores >= least]


def _from_file(path: str) -> list[tuple[str, Any]]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file of thresholds {path}.")
    try:
        return list(json.loads(Path(path).read_text(encoding="utf-8")).items())
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} holds no thresholds ({error}); wanted {FORM}.") from error


def _from_text(text: str) -> list[tuple[str, Any]]:
    pairs = [pair.rpartition("=") for pair in split_names(text)]
    return [(word.strip(), value) for word, _, value in pairs]


def _checked(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The threshold of {what} is {value!r}; give them as {FORM}.") from error
    if not 0 <= number <= 1:
        raise ValueError(f"The threshold of {what} is {number}; it must be between 0 and 1.")
    return number
