"""The words that a detector is asked for, from names."""

from collections import Counter
from collections.abc import Callable, Sequence

from detectron2.config import CfgNode

from dk_detr.language import WORD_LISTS, Clip, build_vocabulary, is_closed, readable, require_words_of
from dk_detr.structures import Vocabulary, require_words

VOCABULARY_ENDINGS = (".npz", ".npy", ".pth")  # of files of words with their embeddings


def words_for(words: Sequence[str] | str, cfg: CfgNode, own: Vocabulary, clip: Callable[[], Clip]) -> Vocabulary:
    """A vocabulary of these words. Where the detector has them all they are its own, as always of a closed detector;
    others are encoded by its CLIP.

    Args:
        words: names, or one of WORD_LISTS. own: the detector's words. clip: loads its CLIP, for where it is needed.

    Raises: ValueError for names that are none, or the same to the text encoder, for words that a closed detector does
        not know, and for a CLIP (MODEL.CLIP) that did not encode the detector's words.
    """
    names, novel = WORD_LISTS[words] if isinstance(words, str) else (words, ())
    refuse_repeats(names)
    if is_closed(cfg) or set(names) <= set(own.names):
        return own.select(names)
    encoder = clip()
    require_words_of(encoder, own)
    return build_vocabulary(names, encoder, cfg.MODEL.VOCABULARY.PROMPT, novel)


def refuse_repeats(names: Sequence[str]) -> None:
    """Raises ValueError for no names, for what is no word, and for two that a text encoder would read as the same."""
    if not names:
        raise ValueError("No word is named.")
    require_words(names)
    repeated = [words for words, times in Counter(map(readable, names)).items() if times > 1]
    if repeated:
        raise ValueError(f'"{repeated[0]}" is named more than once.')
