"""Vocabulary: the words that a detector can be asked for, each with its text embedding."""

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Vocabulary:
    """Names in the order of the class axis, with what the classifier and the evaluators need to know of them.

    Attributes:
        names: K different names.
        embeddings: (K, E) float32, rows of unit length.
        novel: (K,) bool, True where the name never has a box in training.
        provenance: where it comes from (encoder, weights, prompt, file), for messages and for caches; a "remedy" is
            what to do about a word that is not in it.

    Raises:
        ValueError: empty, duplicate or blank names, shapes that do not agree, rows that are zero or not finite, one row
            for two spellings of a name.
    """

    names: tuple[str, ...]
    embeddings: Tensor
    novel: Tensor
    provenance: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("A vocabulary needs at least one name; this one is empty.")
        blank = [index for index, name in enumerate(self.names) if not name.strip()]
        if blank:
            raise ValueError(f'A vocabulary needs names; number {blank[0] + 1} of {len(self.names)} is blank.')
        repeated = sorted({name for name in self.names if self.names.count(name) > 1}) if self._has_repeats() else []
        if repeated:
            raise ValueError(f"Vocabulary names must differ; repeated: {_first(repeated)}.")
        if self.embeddings.ndim != 2 or len(self.embeddings) != len(self.names):
            shape = tuple(self.embeddings.shape)
            raise ValueError(f"{len(self.names)} names need embeddings of shape ({len(self.names)}, E), got {shape}.")
        if self.novel.shape != (len(self.names),) or self.novel.dtype != torch.bool:
            raise ValueError(f"`novel` must be a bool tensor of shape ({len(self.names)},).")
        length = self.embeddings.float().norm(dim=1)
        wrong = (~torch.isfinite(length) | ((length - 1).abs() > 1e-3)).nonzero().flatten().tolist()
        if wrong:
            bad = _first([self.names[i] for i in wrong])
            raise ValueError(f"Vocabulary embeddings must be unit rows; {len(wrong)} are not, among them {bad}.")
        self._refuse_spellings_of_one_row()

    def _refuse_spellings_of_one_row(self) -> None:
        """Nothing could tell them apart, and one of them would never be found."""
        spellings: dict[str, list[int]] = defaultdict(list)
        for index, name in enumerate(self.names):
            spellings["".join(filter(str.isalnum, name.casefold()))].append(index)
        for first, *others in spellings.values():
            for other in others:
                if bool((self.embeddings[first] - self.embeddings[other]).abs().max() < 1e-6):
                    raise ValueError(
                        f'The names "{self.names[first]}" and "{self.names[other]}" have one embedding, so that they '
                        "are one word to a detector: merge or rename them."
                    )

    def _has_repeats(self) -> bool:
        return len(set(self.names)) < len(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def width(self) -> int:
        """E, the width of the text embeddings."""
        return self.embeddings.shape[1]

    @property
    def novel_names(self) -> tuple[str, ...]:
        """The names that never have a box in training."""
        return tuple(name for name, novel in zip(self.names, self.novel.tolist()) if novel)

    def select(self, names: Sequence[str]) -> "Vocabulary":
        """The same words in the order of `names`; ValueError names those that are unknown."""
        index = {name: i for i, name in enumerate(self.names)}
        unknown = [name for name in names if name not in index]
        if unknown:
            remedy = self.provenance.get("remedy", "Build one with these names: tools/build_vocabulary.py.")
            raise ValueError(
                f"The vocabulary ({self.describe()}) lacks {len(unknown)} of {len(names)} names; "
                f"the first unknown: {_first(unknown)}. {remedy}"
            )
        rows = torch.tensor([index[name] for name in names], dtype=torch.long)
        return Vocabulary(tuple(names), self.embeddings[rows], self.novel[rows], self.provenance)

    def base(self) -> "Vocabulary":
        """The words with boxes in training; ValueError where there are none."""
        if bool(self.novel.all()):
            raise ValueError(f"All {len(self)} names of the vocabulary are novel: there is nothing to train on.")
        return self.select([name for name, novel in zip(self.names, self.novel.tolist()) if not novel])

    def describe(self) -> str:
        """One line for logs and errors."""
        source = self.provenance.get("file") or self.provenance.get("encoder") or "built in memory"
        return f"{len(self)} names, {int(self.novel.sum())} novel, width {self.width}, {source}"


def require_words(names: Sequence[str]) -> None:
    """Raises ValueError naming the first of `names` that says nothing to a text encoder: without a letter, a digit or a
    pictograph, or with a control character."""
    for name in names:
        kinds = [unicodedata.category(character) for character in name]
        if any(kind in ("Cc", "Cs") for kind in kinds):
            raise ValueError(f"The name {name!r} holds a control character, a line break perhaps: remove it.")
        if not any(kind[0] in "LN" or kind == "So" for kind in kinds):
            raise ValueError(f'The name "{name}" is no word: it has no letter and no digit.')


def _first(names: Sequence[str], count: int = 3) -> str:
    shown = ", ".join(f'"{name}"' for name in names[:count])
    return shown + (f" and {len(names) - count} more" if len(names) > count else "")
