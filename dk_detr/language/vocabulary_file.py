"""A vocabulary file that is built once for what was asked: a finished one of the same request is kept."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass, replace

from dk_detr.language.clip import load_clip
from dk_detr.language.from_config import WORD_LISTS
from dk_detr.language.vocabularies import (
    WrongNumber,
    build_vocabulary,
    load_vocabulary,
    novel_mask,
    save_vocabulary,
)
from dk_detr.structures import Vocabulary


@dataclass(frozen=True)
class VocabularyRequest:
    """What a vocabulary is made of.

    Attributes:
        names: of the words, in their order. novel: those that never have a box in training.
        prompt: see MODEL.VOCABULARY.PROMPT. library, architecture, weights: of the text encoder, see MODEL.CLIP.
        embeddings: a matrix that others ship, instead of a text encoder: a row for each name, or those of all of COCO
            or LVIS; "" for none.
    """

    names: tuple[str, ...]
    novel: tuple[str, ...]
    prompt: str
    library: str
    architecture: str
    weights: str
    embeddings: str = ""

    def build(self) -> Vocabulary:
        """Encode the words, or look up their embeddings. Raises: ValueError, FileNotFoundError."""
        if self.embeddings:
            return self._shipped()
        return build_vocabulary(
            self.names, load_clip(self.library, self.architecture, self.weights), self.prompt, self.novel
        )

    def _shipped(self) -> Vocabulary:
        for known, _ in WORD_LISTS.values():
            if len(self.names) < len(known) and set(self.names) <= set(known):
                with suppress(WrongNumber):  # another number of rows: then they are of these names, or an error says so
                    chosen = load_vocabulary(self.embeddings, known, key="--embeddings").select(self.names)
                    return replace(chosen, novel=novel_mask(self.names, self.novel))
        return load_vocabulary(self.embeddings, self.names, self.novel, "--embeddings")

    def as_text(self) -> str:
        """What a file keeps of it, to be recognised by."""
        weights = self.embeddings or self.weights
        changed = os.path.getmtime(weights) if os.path.isfile(weights) else 0
        names, novel = list(self.names), list(self.novel)
        return json.dumps([names, novel, self.prompt, self.library, self.architecture, weights, changed])


def write_vocabulary_once(request: VocabularyRequest, path: str) -> str:
    """Build and write the vocabulary, unless `path` holds it already; returns a line that says which."""
    if _holds(path, request):
        return f"{path} is there already: {load_vocabulary(path).describe()}"
    vocabulary = request.build()
    save_vocabulary(replace(vocabulary, provenance={**vocabulary.provenance, "request": request.as_text()}), path)
    return f"{path}: {vocabulary.describe()}"


def _holds(path: str, request: VocabularyRequest) -> bool:
    try:
        return os.path.isfile(path) and load_vocabulary(path).provenance.get("request") == request.as_text()
    except ValueError:  # not whole; it is built again
        return False
