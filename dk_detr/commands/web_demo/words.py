"""What a visitor may ask for: words of their own, the detector's words, or a known list."""

from collections.abc import Callable
from functools import lru_cache

from dk_detr.detector import Detector
from dk_detr.detector.words import refuse_repeats
from dk_detr.language import WORD_LISTS
from dk_detr.structures import Vocabulary
from dk_detr.utils.names import typed_names

TYPED, OWN = "typed", "own"
MOST_WORDS = 2000  # that one may type; LVIS has 1203
KEPT = 32  # vocabularies in memory; LVIS's takes 5 MB


def choices(detector: Detector) -> list[tuple[str, str]]:
    """(label, choice) of all that one may choose."""
    lists = [(f"{name.upper()}: {len(words.names)} words", name) for name, words in WORD_LISTS.items()]
    return [("My words", TYPED), (f"The detector's {len(detector.classes)} words", OWN), *lists]


def vocabularies(detector: Detector) -> Callable[[str, str], Vocabulary]:
    """A function of a choice and the typed text that gives the words with their embeddings; those of late are kept.

    It raises ValueError for what is no choice, for words that are empty, repeat, or are too many, and for those that
    the detector cannot know.
    """
    own = detector.vocabulary(detector.classes)

    @lru_cache(maxsize=KEPT)
    def encoded(words: str | tuple[str, ...]) -> Vocabulary:
        return detector.vocabulary(words)

    def vocabulary(choice: str, text: str) -> Vocabulary:
        if choice == OWN:
            return own
        if choice == TYPED:
            return encoded(_typed(text))
        if choice in WORD_LISTS:
            return encoded(choice)
        raise ValueError(f'"{choice}" is no list of words.')

    return vocabulary


def _typed(text: str) -> tuple[str, ...]:
    names = typed_names(text)
    if not names:
        raise ValueError('Type the words to look for, such as "cat, paper cup".')
    if len(names) > MOST_WORDS:
        raise ValueError(f"{len(names)} words are too many; type at most {MOST_WORDS}.")
    refuse_repeats(names)
    return tuple(names)
