"""Opens the images of a data set, many at once, and compares their sizes with what the records say."""

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError

from dk_detr.annotations.content import Content
from dk_detr.annotations.defects import Defect, Kind

WORKERS = 8  # threads: Pillow lets go of Python's lock where it waits for files and where it decodes
TOGETHER = 16  # images a job
JOBS_AT_ONCE = 16
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height

Fault = tuple[Kind, str]


def image_faults(content: Content, image_root: str, decode: bool, workers: int) -> Iterator[tuple[int, list[Defect]]]:
    """Opens every image that has a file name.

    Args:
        decode: all pixels too; finds files that are cut short, in about fifty times the time.

    Yields: after each handful of images how many they were, and their defects.
    """
    rows = range(len(content.images))
    jobs = [rows[start : start + TOGETHER] for start in rows[::TOGETHER]]
    pool = ThreadPoolExecutor(workers)
    try:
        for start in range(0, len(jobs), JOBS_AT_ONCE):
            some = jobs[start : start + JOBS_AT_ONCE]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module="PIL")  # of EXIF data that nobody can read, and the like
                found = list(pool.map(lambda rows: _look_at(content, rows, image_root, decode), some))
            yield sum(map(len, some)), [defect for defects in found for defect in defects]
    finally:
        pool.shutdown(cancel_futures=True)


def _look_at(content: Content, rows: range, image_root: str, decode: bool) -> list[Defect]:
    found = []
    for row in rows:
        name, image = content.file_names[row], content.images[row]
        if name is not None:
            fault = image_fault(os.path.join(image_root, name), int(image["width"]), int(image["height"]), decode)
            if fault is not None:
                found.append(content.of_image(row, *fault))
    return found


def image_fault(path: str, width: int, height: int, decode: bool = False) -> Fault | None:
    """What is wrong with an image file whose record says width × height pixels (0: it does not say).

    Args:
        decode: all pixels, too. Without, a PNG that has its EXIF orientation behind the pixels passes unturned.
    """
    try:
        with Image.open(path) as image:
            if decode:
                image.load()
            size = image.size
            # The method of PNGs decodes them, to look for EXIF data behind the pixels: only where that may explain.
            exif = image.getexif() if size != (width, height) else Image.Image.getexif(image)
            orientation = exif.get(ExifTags.Base.Orientation, 1)
    except FileNotFoundError:
        return Kind.MISSING_IMAGE, f"there is no file {path}"
    except UnidentifiedImageError:
        return Kind.UNREADABLE_IMAGE, f"{path} is no image that Pillow can read; fetch it again"
    except Exception as error:  # noqa: BLE001  a broken file makes the decoders raise whatever they like
        return Kind.UNREADABLE_IMAGE, f"{path} cannot be read ({_reason(error)}); fetch it again"
    if width <= 0 or height <= 0:
        return None
    return _size_fault((width, height), size, orientation)


def _size_fault(recorded: tuple[int, int], size: tuple[int, int], orientation: Any) -> Fault | None:
    """Detectron2 turns images by their EXIF orientation when it reads them, and then wants the recorded size."""
    seen = size[::-1] if orientation in SIDEWAYS else size
    if seen == recorded:
        return None
    message = f"the record says {_shown(recorded)} pixels, the file has {_shown(seen)}"
    if seen != size:
        message += f", once Detectron2 has turned it by its EXIF orientation {orientation}"
        if size == recorded:
            message += " (the record is as before turning; swap its width and height, and see whether its boxes fit)"
    return Kind.SIZE_MISMATCH, message


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _reason(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]
