"""One space: embeddings of two CLIPs cannot be compared, even where they are of the same width. Whether they can is
measured, not read off names: a file may be moved, and a tag and a file may hold the same weights."""

import json
import logging
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from dk_detr.language.clip import RANDOM, Clip
from dk_detr.language.prompts import PROMPTS
from dk_detr.language.vocabularies import encode_names
from dk_detr.structures import Vocabulary

logger = logging.getLogger(__name__)

SAME = 0.999  # least cosine of one text read by one CLIP, on any machine; of two small ones it can come near 0.9
SAME_NAMES = 0.97  # the same for names in one prompt, of which older versions may have had other sentences
DOUBTFUL = 0.2  # of other prompts in one CLIP, after their means are taken off, 0.5 and more; of two CLIPs, about 0
ENOUGH = 8  # names for a mean to be taken off
COMPARED = 16  # names that are looked at


def require_one_space(one: Vocabulary, other: Vocabulary, remedy: str = "") -> None:
    """Raises ValueError, naming both, where two vocabularies are of different text encoders. Where they share neither
    a probe nor a prompt, what looks so is a warning; and where they share no names, nothing is known."""
    found = _cosine_of_same_texts(one, other)
    if found is None:
        _warn_of_other_shapes(one, other)
        return
    cosine, least = found
    if cosine < least:
        raise ValueError(
            f"{origin(one)} and {origin(other)} come from different text encoders: the same text has the cosine "
            f"{cosine:.2f} in both. {remedy or 'Build both with one CLIP: tools/build_vocabulary.py.'}"
        )


def require_words_of(clip: Clip, vocabulary: Vocabulary) -> None:
    """Raises ValueError where words were not encoded by this CLIP; nothing is known of random weights."""
    if clip.provenance.get("weights") == RANDOM:
        return
    encoder = " ".join(clip.provenance.values())
    remedy = "Set MODEL.CLIP to that of the words, or build them with this one: tools/build_vocabulary.py."
    if require_same_probe(vocabulary, clip.probe, f"the CLIP {encoder} (MODEL.CLIP)", remedy):
        return
    said = vocabulary.provenance.get("prompt")
    names, prompt = vocabulary.names[:COMPARED], said if said in PROMPTS else PROMPTS[0]
    rows, novel = encode_names(names, clip, prompt), torch.zeros(len(names), dtype=torch.bool)
    require_one_space(vocabulary, Vocabulary(names, rows, novel, {"encoder": encoder, "prompt": prompt}), remedy)


def require_same_probe(vocabulary: Vocabulary, probe: str, whose: str, remedy: str) -> bool:
    """Whether a probe and words are of one CLIP; False where the words or the others have none. Raises ValueError where
    they are not."""
    own = vocabulary.provenance.get("probe")
    if not own or not probe:
        return False
    cosine = _cosine(own, probe)
    if cosine < SAME:
        raise ValueError(
            f"{origin(vocabulary)} and {whose} come from different CLIPs: the same text has the cosine {cosine:.2f} in "
            f"both. {remedy}"
        )
    return True


def origin(vocabulary: Vocabulary) -> str:
    """Which words these are and who encoded them, for errors."""
    first = f'"{vocabulary.names[0]}"' + (", …" if len(vocabulary) > 1 else "")
    file, encoder = (vocabulary.provenance.get(key, "") for key in ("file", "encoder"))
    source = ", ".join(filter(None, [file, f"encoded by {encoder}" if encoder else ""]))
    return f"the words {first} ({source or 'built in memory'})"


def _cosine_of_same_texts(one: Vocabulary, other: Vocabulary) -> tuple[float, float] | None:
    """And the least that it is of one CLIP; None where they have no text in common."""
    probes = [words.provenance.get("probe") for words in (one, other)]
    if probes[0] and probes[1]:
        return _cosine(probes[0], probes[1]), SAME
    prompts = [words.provenance.get("prompt") for words in (one, other)]
    if RANDOM in (words.provenance.get("weights") for words in (one, other)) or not prompts[0] or len(set(prompts)) > 1:
        return None
    shared = _shared_rows(one, other)
    return None if shared is None else (F.cosine_similarity(*shared).mean().item(), SAME_NAMES)


def _cosine(one: str, other: str) -> float:
    """Of two probes; 0 where even their widths differ."""
    ours, theirs = (torch.tensor(json.loads(probe), dtype=torch.float32) for probe in (one, other))
    return F.cosine_similarity(ours, theirs, dim=0).item() if ours.shape == theirs.shape else 0.0


def _shared_rows(one: Vocabulary, other: Vocabulary, least: int = 1) -> tuple[Tensor, Tensor] | None:
    """The rows of the names that both have; None where they are fewer than `least` or of other width."""
    theirs = set(other.names)
    names = [name for name in one.names if name in theirs][:COMPARED]
    if len(names) < least or one.width != other.width:
        return None
    return one.select(names).embeddings.float().cpu(), other.select(names).embeddings.float().cpu()


def _warn_of_other_shapes(one: Vocabulary, other: Vocabulary) -> None:
    """How names differ from one another is much the same in all prompts of a CLIP, and unlike in two CLIPs."""
    shared = _shared_rows(one, other, ENOUGH)
    if shared is None:
        return
    ours, theirs = (rows - rows.mean(0) for rows in shared)
    cosine = F.cosine_similarity(ours, theirs).mean().item()
    if cosine < DOUBTFUL:
        _warn_once(
            f"{origin(one)} and {origin(other)} look as if they came from different text encoders: the same names have "
            f"the cosine {cosine:.2f} in both, their means taken off. If so, detections mean nothing."
        )


@cache
def _warn_once(line: str) -> None:
    logger.warning(line)

