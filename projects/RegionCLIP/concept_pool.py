#!/usr/bin/env python3
"""The concepts of captions: their nouns, with how often each occurs, the most frequent first.

    projects/RegionCLIP/concept_pool.py --captions captions_train2017.json --least 100 --output pool.txt
    projects/RegionCLIP/concept_pool.py --captions captions.json --nouns nouns.txt --output pool.txt
    tools/build_vocabulary.py --names @pool_names.txt --prompt regionclip --architecture RN50-quickgelu \\
        --weights openai --output datasets/vocabulary/concepts_RN50.npz

Nouns are told by spaCy (pip install spacy; python -m spacy download en_core_web_sm), or are those of a list of yours,
one on each line. Two files are written: pool.txt, "name,count" on each line, and pool_names.txt, the names alone.
"""

import argparse
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

import dk_detr  # noqa: F401  first, so that Detectron2 can be imported
from dk_detr.engine.setup import one_clear_error
from dk_detr.utils import atomic_write, read_json

Nouns = Callable[[str], Iterable[str]]


def nouns_of_a_list(names: Iterable[str]) -> Nouns:
    """Finds the names of a list, in one number or the other, the longest first; each in the form of the list. What the
    list has is never taken for another's plural ("glasses", where it has "glass", too)."""
    listed = list(names)
    known = {form: name for name in listed for form in _plurals(name)} | {name: name for name in listed}
    longest = sorted(map(re.escape, known), key=len, reverse=True)
    pattern = re.compile(rf"\b({'|'.join(longest)})\b")
    return lambda caption: [known[found] for found in pattern.findall(caption.lower())]


def _plurals(name: str) -> Iterator[str]:
    yield from (f"{name}s", f"{name}es")
    if name.endswith("y"):
        yield f"{name[:-1]}ies"


def nouns_of_spacy(model: str) -> Nouns:
    """Nouns as spaCy tags and lemmatises them. Raises ImportError, OSError that say what to install."""
    try:
        import spacy
    except ImportError as error:
        raise ImportError(
            "spaCy is not installed: pip install spacy, or give a list of nouns, --nouns FILE."
        ) from error
    try:
        parse = spacy.load(model, disable=["parser", "ner"])
    except OSError as error:
        raise OSError(f"spaCy has no model {model}: python -m spacy download {model}.") from error
    return lambda caption: [token.lemma_.lower() for token in parse(caption) if token.pos_ == "NOUN"]


def count(captions: Iterable[str], nouns: Nouns, least: int) -> list[tuple[str, int]]:
    """(name, number of captions that have it), the most frequent first; those below `least` are left out."""
    counts = Counter(name for caption in captions for name in set(nouns(caption)))
    kept = [(name, number) for name, number in counts.items() if number >= least]
    return sorted(kept, key=lambda pair: (-pair[1], pair[0]))


def _captions(path: str) -> list[str]:
    content = read_json(path, "file of captions")
    if not isinstance(content, dict) or not content.get("annotations"):
        raise ValueError(f'{path} has no "annotations": it is no file of captions.')
    return [str(annotation.get("caption", "")) for annotation in content["annotations"]]


def _listed(path: str) -> list[str]:
    lines = [line.split(",")[0].strip().lower() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    names = list(dict.fromkeys(filter(None, lines)))
    if not names:
        raise ValueError(f"{path} (--nouns) lists nothing.")
    return names


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", required=True, metavar="JSON", help="as COCO's")
    parser.add_argument("--output", required=True, metavar="TXT")
    parser.add_argument("--least", type=int, default=100, help="captions that have a concept, at least")
    parser.add_argument("--nouns", default="", metavar="TXT", help="a list in the place of spaCy")
    parser.add_argument("--model", default="en_core_web_sm", help="of spaCy")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Count, and write both files."""
    with one_clear_error():
        captions = _captions(args.captions)
        nouns = nouns_of_a_list(_listed(args.nouns)) if args.nouns else nouns_of_spacy(args.model)
        pool = count(tqdm(captions, desc="captions", unit="caption", leave=False), nouns, args.least)
        if not pool:
            raise ValueError(f"No concept is in {args.least} of the {len(captions)} captions: lower --least.")
        output = Path(args.output)
        names = output.with_name(f"{output.stem}_names{output.suffix}")
        atomic_write(str(output), "".join(f"{name},{number}\n" for name, number in pool))
        atomic_write(str(names), "".join(f"{name}\n" for name, _ in pool))
        print(f"{len(pool)} concepts: {output}, {names}")


if __name__ == "__main__":
    main(parse())
