"""Category names that a vocabulary does not have, each with the nearest that it has."""

import difflib
import re
from collections.abc import Collection, Iterator

from dk_detr.annotations.content import Content
from dk_detr.annotations.defects import Defect, Kind


def unknown_names(content: Content, vocabulary_names: Collection[str]) -> Iterator[Defect]:
    """Names must match letter by letter: "fishing boat" is not "fishing_boat"."""
    known = set(vocabulary_names)
    folded = {_fold(name): name for name in vocabulary_names}
    for row, name in enumerate(content.category_names):
        if name is not None and name not in known:
            nearest = _nearest(name, folded)
            hint = f'; the nearest that it has is "{nearest}"' if nearest else ", nor any that is near"
            yield content.of_category(row, Kind.UNKNOWN_NAME, f'the vocabulary has no "{name}"{hint}')


def _nearest(name: str, folded: dict[str, str]) -> str | None:
    similar = difflib.get_close_matches(_fold(name), folded, n=1)
    return folded[similar[0]] if similar else None


def _fold(name: str) -> str:
    """Without what people write now so, now so: capitals, underscores, brackets."""
    return re.sub(r"[\W_]+", " ", name.lower()).strip()
