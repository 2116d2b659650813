"""Names as a text encoder reads them: whole, and as different words, or refused by name."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from dk_detr.language.clip import Clip
from dk_detr.language.prompts import prompt_texts, readable
from dk_detr.structures import require_words

logger = logging.getLogger(__name__)


def refuse_unreadable(names: Sequence[str], clip: Clip, prompt: str) -> None:
    """What an embedding could not tell is refused before it is made.

    Raises: ValueError naming what is no word (see `require_words`), a name that is longer than what the text encoder
        reads, or two names that are the same tokens to it.
    """
    require_words(names)
    short = _tokens("a", clip)
    for name in names:
        _refuse_cut(name, clip, prompt, short)
    _refuse_same_tokens(names, clip)


def _refuse_same_tokens(names: Sequence[str], clip: Clip) -> None:
    first_of: dict[tuple[int, ...], str] = {}
    for name, tokens in zip(names, clip.tokenize([readable(name) for name in names]).tolist()):
        first = first_of.setdefault(tuple(tokens), name)
        if first is not name:
            raise ValueError(
                f'The names "{first}" and "{name}" are the same to the text encoder: they would have one embedding, '
                "and one of them would never be found. Merge or rename them."
            )


def _refuse_cut(name: str, clip: Clip, prompt: str, short: Tensor) -> None:
    """Raises ValueError for a name whose end is not read; that of a sentence about it is worth a warning only.

    Args:
        short: the tokens of a text that does not take all places.
    """
    texts = prompt_texts(name, prompt)
    shorter = prompt_texts(readable(name)[:-1], prompt)  # the last letter changes nothing where it is not read
    full = [(text, other) for text, other in zip(texts, shorter) if _is_full(text, clip, short)]
    if not full:
        return
    if any(_same_tokens(text, other, clip) for text, other in full):
        raise ValueError(
            f'The name "{name}" is too long: the text encoder reads {short.numel()} tokens and would not '
            f'see its end in the prompt "{prompt}". Shorten it.'
        )
    cut = [text for text, _ in full if _same_tokens(text, text[:-1], clip)]
    if cut:
        logger.warning(
            f'"{name}" is so long that the text encoder does not see the end of {len(cut)} of {len(texts)} sentences '
            f'about it, such as "{cut[0]}"; it sees the name.'
        )


def _is_full(text: str, clip: Clip, short: Tensor) -> bool:
    """Whether the tokens of a text take all places, so that it may have more. A token is a byte at least, and two stand
    for beginning and end: most texts are short enough by that."""
    return len(text.encode()) > short.numel() - 2 and bool(_tokens(text, clip)[-1] != short[-1])


def _same_tokens(text: str, other: str, clip: Clip) -> bool:
    return torch.equal(_tokens(text, clip), _tokens(other, clip))


def _tokens(text: str, clip: Clip) -> Tensor:
    return clip.tokenize([text])[0]
