"""What tools/build_vocabulary.py does."""

import argparse
import json
import os
from contextlib import suppress

from dk_detr.annotations import read_categories
from dk_detr.engine.names import novel_names, split_names
from dk_detr.engine.setup import one_clear_error
from dk_detr.language import (
    WORD_LISTS,
    WrongNumber,
    build_vocabulary,
    is_novel,
    load_clip,
    load_vocabulary,
    novel_mask,
    save_vocabulary,
)
from dk_detr.structures import Vocabulary


def main(args: argparse.Namespace) -> None:
    """Build and write; a finished file of the same request is kept."""
    with one_clear_error():
        print(write_once(args, *_words(args)))


def write_once(args: argparse.Namespace, names: list[str], novel: list[str]) -> str:
    """Write the vocabulary of these words to `args.output`, unless it is there; returns a line that says which."""
    request = _request(args, names, novel)
    if _is_done(args.output, request):
        return f"{args.output} is there already: {load_vocabulary(args.output).describe()}"
    vocabulary = _build(args, names, novel)
    provenance = {**vocabulary.provenance, "request": request}
    save_vocabulary(Vocabulary(vocabulary.names, vocabulary.embeddings, vocabulary.novel, provenance), args.output)
    return f"{args.output}: {vocabulary.describe()}"


def _build(args: argparse.Namespace, names: list[str], novel: list[str]) -> Vocabulary:
    if args.embeddings:
        return _shipped(args.embeddings, names, novel)
    clip = load_clip(args.library, args.architecture, args.weights)
    return build_vocabulary(names, clip, args.prompt, novel)


def _shipped(path: str, names: list[str], novel: list[str]) -> Vocabulary:
    """Embeddings that others ship: a row for each name, or those of a whole benchmark, COCO or LVIS, that has them."""
    for known, _ in WORD_LISTS.values():
        if len(names) < len(known) and set(names) <= set(known):
            with suppress(WrongNumber):  # another number of rows: then they are of these names, or an error says so
                chosen = load_vocabulary(path, known, key="--embeddings").select(names)
                return Vocabulary(chosen.names, chosen.embeddings, novel_mask(names, novel), chosen.provenance)
    return load_vocabulary(path, names, novel, "--embeddings")


def _words(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Names and the novel among them."""
    if args.names is not None:
        names, novel = split_names(args.names), []
    else:
        categories = read_categories(args.annotations)
        names = [category["name"] for category in categories]
        novel = [category["name"] for category in categories if is_novel(category)]
    said = novel_names(args.novel)
    return names, novel if said is None else said


def _request(args: argparse.Namespace, names: list[str], novel: list[str]) -> str:
    weights = args.embeddings or args.weights
    changed = os.path.getmtime(weights) if os.path.isfile(weights) else 0
    return json.dumps([names, novel, args.prompt, args.library, args.architecture, weights, changed])


def _is_done(path: str, request: str) -> bool:
    try:
        return os.path.isfile(path) and load_vocabulary(path).provenance.get("request") == request
    except ValueError:  # not whole; it is built again
        return False
