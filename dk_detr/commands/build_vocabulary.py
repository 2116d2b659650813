"""What tools/build_vocabulary.py does."""

import argparse

from dk_detr.annotations import read_categories
from dk_detr.engine.setup import one_clear_error
from dk_detr.language import VocabularyRequest, is_novel, write_vocabulary_once
from dk_detr.utils.names import novel_names, split_names


def main(args: argparse.Namespace) -> None:
    """See tools/build_vocabulary.py for the arguments. A file that the same request has written is kept."""
    with one_clear_error():
        names, novel = _words(args)
        encoder = (args.prompt, args.library, args.architecture, args.weights)
        request = VocabularyRequest(tuple(names), tuple(novel), *encoder, args.embeddings or "")
        print(write_vocabulary_once(request, args.output))


def _words(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """All names, and those of them that are novel."""
    if args.names is not None:
        names, novel = split_names(args.names), []
    else:
        categories = read_categories(args.annotations)
        names = [category["name"] for category in categories]
        novel = [category["name"] for category in categories if is_novel(category)]
    said = novel_names(args.novel)
    return names, novel if said is None else said
