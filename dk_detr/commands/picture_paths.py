"""Where the pictures of images go."""

import itertools
from collections.abc import Sequence
from pathlib import Path

DETECTIONS_FILE = "detections.json"
WRITTEN_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})  # pictures of other images are written as .png


def picture_paths(images: Sequence[Path], output: Path) -> list[Path]:
    """Where the pictures of images go: their own names, numbered where two are the same (in whatever case).

    Raises: ValueError if an output would overwrite one of the images, or another picture beside them.
    """
    paths: dict[str, Path] = {}
    for image in images:
        suffix = image.suffix if image.suffix.lower() in WRITTEN_SUFFIXES else ".png"
        endings = itertools.chain([suffix], (f"_{number}{suffix}" for number in itertools.count(2)))
        free = next(name for name in (image.stem + ending for ending in endings) if name.casefold() not in paths)
        paths[free.casefold()] = output / free
    originals = {image.resolve() for image in images}
    beside = output.resolve() in {original.parent for original in originals}
    written = [*paths.values(), output / DETECTIONS_FILE]
    overwritten = [path for path in written if path.resolve() in originals or (beside and path.exists())]
    if overwritten:
        raise ValueError(f"--output {output} would overwrite the image {overwritten[0]}; choose another folder.")
    return list(paths.values())
