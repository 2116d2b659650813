"""Build, read and write vocabularies: from names through a text encoder, or from the matrices that others ship."""

import json
import logging
import os
import pickle
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dk_detr.language.clip import RANDOM, Clip
from dk_detr.language.prompts import prompt_texts
from dk_detr.language.words import refuse_unreadable
from dk_detr.structures import Vocabulary
from dk_detr.utils import atomic_file

logger = logging.getLogger(__name__)

FORMAT = "dk_detr vocabulary 1"
NO_ENCODER = "none"  # of words for closed detectors, which know them by their places


class WrongNumber(ValueError):
    """A matrix with another number of rows than there are names."""

    def __init__(self, path: str, rows: int, names: int) -> None:
        super().__init__(f"Vocabulary {path} has {rows} rows, but there are {names} names for them.")
        self.rows = rows


def build_vocabulary(names: Sequence[str], clip: Clip, prompt: str = "single", novel: Sequence[str] = ()) -> Vocabulary:
    """Encode names (see `encode_names`).

    Raises: ValueError for names that are empty, repeated, no words, or not to be told apart (see `refuse_unreadable`).
    """
    names = tuple(name.strip() for name in names)
    if not names or not all(names):
        raise ValueError("A vocabulary needs names, each with at least one letter; an empty one was given.")
    _check_novel(names, novel)
    if len(set(names)) == len(names):  # else `Vocabulary` says so
        refuse_unreadable(names, clip, prompt)
    provenance = {"encoder": " ".join(clip.provenance.values()), **clip.provenance, "prompt": prompt}
    if clip.probe:
        provenance["probe"] = clip.probe
    return Vocabulary(names, encode_names(names, clip, prompt), novel_mask(names, novel), provenance)


def encode_names(names: Sequence[str], clip: Clip, prompt: str) -> Tensor:
    """K names -> (K, E) on the CPU: the unit mean of the unit embeddings of their prompts (CLIP's and ViLD's
    convention)."""
    texts = [prompt_texts(name, prompt) for name in names]
    rows = clip.encode_text([text for group in texts for text in group])
    means = torch.stack([part.mean(0) for part in rows.split([len(group) for group in texts])]).cpu()
    return F.normalize(means, dim=-1)


def novel_mask(names: Sequence[str], novel: Sequence[str]) -> Tensor:
    """(K,) bool, True where a name is among the novel ones."""
    chosen = set(novel)
    return torch.tensor([name in chosen for name in names], dtype=torch.bool)


def _check_novel(names: Sequence[str], novel: Sequence[str]) -> None:
    unknown = [name for name in novel if name not in set(names)]
    if unknown:
        raise ValueError(f'Novel names must be names of the vocabulary; the first unknown is "{unknown[0]}".')


def save_vocabulary(vocabulary: Vocabulary, path: str) -> None:
    """Write an .npz (names, embeddings as float32, novel, provenance as JSON), whole or not at all."""
    with atomic_file(path) as part, open(part, "wb") as file:
        np.savez(
            file,
            format=FORMAT,
            names=np.array(vocabulary.names),
            embeddings=vocabulary.embeddings.numpy(),
            novel=vocabulary.novel.numpy(),
            provenance=json.dumps(vocabulary.provenance),
        )


def load_vocabulary(
    path: str,
    names: Sequence[str] | None = None,
    novel: Sequence[str] | None = None,
    key: str = "MODEL.VOCABULARY.TEST",
) -> Vocabulary:
    """Read a vocabulary file.

    Args:
        path: .npz of `save_vocabulary`; or a bare matrix (K, E), .npy or .pt, as Detic and opera ship them
            (unnormalised float16 included).
        names: the names of the rows of a bare matrix; an .npz brings its own and ignores them.
        novel: the novel among them; None keeps the mask of the .npz. key: how errors call what named the file.

    Raises:
        FileNotFoundError; ValueError for another format or a count that differs from the names.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no vocabulary {path} ({key}). Make it with tools/build_vocabulary.py.")
    if path.endswith(".npz"):
        vocabulary = _load_npz(path)
    else:
        vocabulary = _load_matrix(path, names)
    _say_what_is_not_known(path, vocabulary)
    if novel is None:
        return vocabulary
    _check_novel(vocabulary.names, novel)
    return Vocabulary(
        vocabulary.names, vocabulary.embeddings, novel_mask(vocabulary.names, novel), vocabulary.provenance
    )


def _say_what_is_not_known(path: str, vocabulary: Vocabulary) -> None:
    encoder = vocabulary.provenance.get("encoder", "")
    if "probe" in vocabulary.provenance or encoder == NO_ENCODER or vocabulary.provenance.get("weights") == RANDOM:
        return
    named = f", only its name ({encoder})" if encoder else ""
    _say_once(
        f"{path} does not tell by which CLIP its words were encoded{named}: make sure that it is that of the detector "
        "and of MODEL.CLIP. Files that tools/build_vocabulary.py makes from names do tell."
    )


@cache
def _say_once(line: str) -> None:
    logger.warning(line)


def _load_npz(path: str) -> Vocabulary:
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["format"]) != FORMAT:
                raise ValueError(f'format "{file["format"]}"')
            provenance = {**json.loads(str(file["provenance"])), "file": path}
            names = tuple(str(name) for name in file["names"])
            return Vocabulary(names, _unit_rows(file["embeddings"], path), torch.from_numpy(file["novel"]), provenance)
    except (KeyError, OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} is no whole vocabulary ({error}); rebuild it: tools/build_vocabulary.py.") from error


def _load_matrix(path: str, names: Sequence[str] | None) -> Vocabulary:
    if names is None:
        raise ValueError(f"{path} holds a bare matrix without names; give them in an .npz: tools/build_vocabulary.py.")
    rows = _unit_rows(_read_matrix(path), path)
    if len(rows) != len(names):
        raise WrongNumber(path, len(rows), len(names))
    return Vocabulary(tuple(names), rows, torch.zeros(len(names), dtype=torch.bool), {"file": path})


def _read_matrix(path: str) -> np.ndarray:
    suffix = Path(path).suffix
    if suffix not in (".npy", ".pt", ".pth"):
        raise ValueError(f"A vocabulary is an .npz, .npy or .pt file, not {path}.")
    try:
        if suffix == ".npy":
            return np.load(path, allow_pickle=False)
        return torch.load(path, map_location="cpu", weights_only=True).float().numpy()
    except (OSError, ValueError, EOFError, RuntimeError, AttributeError, pickle.UnpicklingError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{path} holds no whole matrix of text embeddings ({reason}).") from error


def _unit_rows(matrix: np.ndarray, path: str) -> Tensor:
    if matrix.ndim != 2:
        raise ValueError(f"{path} should hold a (K, E) matrix of text embeddings, not one of shape {matrix.shape}.")
    rows = torch.from_numpy(np.asarray(matrix, dtype=np.float32))
    if not bool(torch.isfinite(rows).all()) or bool((rows.norm(dim=1) == 0).any()):
        raise ValueError(f"{path} holds text embeddings that are zero or not finite.")
    return F.normalize(rows, dim=1)
