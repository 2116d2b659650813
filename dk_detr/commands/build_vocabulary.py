"""What tools/build_vocabulary.py does."""

import argparse

from dk_detr.annotations import choose_novel, marked_novel, read_categories
from dk_detr.engine.setup import one_clear_error
from dk_detr.language import VocabularyRequest, write_vocabulary_once
from dk_detr.utils.names import novel_names, split_names


def main(args: argparse.Namespace) -> None:
    """See tools/build_vocabulary.py for the arguments. A file that the same request has written is kept."""
    with one_clear_error():
        names, novel = _words(args)
        encoder = (args.prompt, args.library, args.architecture, args.weights)
        request = VocabularyRequest(tuple(names), novel, *encoder, args.embeddings or "")
        print(write_vocabulary_once(request, args.output))


def _words(args: argparse.Namespace) -> tuple[list[str], tuple[str, ...]]:
    """All names, and those of them that are novel."""
    if args.names is not None:
        names, marked = split_names(args.names), None
    else:
        categories = read_categories(args.annotations)
        names, marked = [category["name"] for category in categories], marked_novel(categories)
    return names, choose_novel(novel_names(args.novel), marked=marked)
