"""Which image files are meant by files, folders and patterns."""

import glob
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image

NO_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})  # what Pillow knows and cannot read by itself
SHOWN = 5

logger = logging.getLogger(__name__)


def find_images(inputs: Sequence[str]) -> list[Path]:
    """The image files meant by files, folders (their images, by name) and patterns such as "photos/*.jpg" ("photos/**":
    with all folders below).

    A file that is named is taken as it is. Of folders and patterns what is no image is left out, and so are folders
    below a folder; the log says which. Raises FileNotFoundError for an input without any image.
    """
    found = [image for given in inputs for image in _images_at(given)]
    return list(dict.fromkeys(found))


def _images_at(given: str) -> list[Path]:
    path = Path(given)
    if path.is_file():
        return [path]
    entries = sorted(path.iterdir() if path.is_dir() else map(Path, glob.glob(given, recursive=True)))
    if not entries and not path.is_dir():
        raise FileNotFoundError(f"There is no image or folder {given}.")
    images = [entry for entry in entries if is_image(entry)]
    left_out = _left_out(given, entries, images)
    if not images:
        raise FileNotFoundError(f"{given} holds no images. {left_out}".strip())
    if left_out:
        logger.warning(left_out)
    return images


def is_image(path: Path) -> bool:
    """Whether a file is one by its ending or, where that says nothing, by its content."""
    return path.is_file() and (path.suffix.lower() in _endings() or _opens(path))


@cache
def _endings() -> frozenset[str]:
    """Those of the formats that Pillow reads."""
    formats = Image.registered_extensions()
    return frozenset(ending for ending, name in formats.items() if name in Image.OPEN and name not in NO_PICTURES)


def _opens(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.format not in NO_PICTURES
    except Image.DecompressionBombError:
        return True  # an image: reading it will say what is wrong
    except Exception:  # noqa: BLE001  whatever is wrong, Pillow does not take it for an image
        return False


def _left_out(given: str, entries: Sequence[Path], images: Sequence[Path]) -> str:
    """What of an input is no image; "" for nothing."""
    taken = set(images)
    others = [entry for entry in entries if entry not in taken]
    folders = [] if "**" in given else [entry for entry in others if entry.is_dir()]
    files = [entry for entry in others if not entry.is_dir()]
    parts = []
    if files:
        parts.append(f"{_number(files, 'file')} without an image ({_some(files)})")
    if folders:
        way = f'to look there too: "{_everything(given)}"'
        parts.append(f"{_number(folders, 'folder')} ({_some(folders)}; {way})")
    return f"Left out of {given}: {' and '.join(parts)}." if parts else ""


def _number(paths: Sequence[Path], what: str) -> str:
    return f"{len(paths)} {what}{'s' if len(paths) > 1 else ''}"


def _everything(given: str) -> str:
    return str((Path(given) if Path(given).is_dir() else Path(given).parent) / "**")


def _some(paths: Sequence[Path]) -> str:
    """The names of the first few."""
    names = [path.name for path in paths[:SHOWN]]
    return ", ".join([*names, f"and {len(paths) - SHOWN} more"] if len(paths) > SHOWN else names)
