"""Opens the images of a data set, many at once, and compares their sizes with what the records say."""

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from dk_detr.annotations.content import Content
from dk_detr.annotations.defects import Defect, Kind
from dk_detr.data.images import (
    SIDEWAYS,
    MissingImage,
    UnreadableImage,
    open_image,
    orientation,
    orientation_in_header,
    read_pixels,
)

WORKERS = 8  # threads: Pillow lets go of Python's lock where it waits for files and where it decodes
TOGETHER = 16  # images a job
JOBS_AT_ONCE = 16

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
        decode: all pixels, too. Without, files that are cut short pass, and a PNG that has its EXIF orientation behind
            the pixels passes unturned. Else training reads what passes, and refuses what does not.
    """
    try:
        with open_image(path) as image:
            if decode:
                read_pixels(image)
            size = image.size
            # The orientation of a PNG may be behind its pixels: these are decoded only where it may explain something.
            turn = orientation(image) if size != (width, height) else orientation_in_header(image)
    except MissingImage as error:
        return Kind.MISSING_IMAGE, str(error)
    except UnreadableImage as error:
        return Kind.UNREADABLE_IMAGE, str(error)
    if width <= 0 or height <= 0:
        return None
    return _size_fault((width, height), size, turn)


def _size_fault(recorded: tuple[int, int], size: tuple[int, int], turn: int) -> Fault | None:
    """Images are turned by their EXIF orientation when they are read, and must then have the recorded size."""
    seen = size[::-1] if turn in SIDEWAYS else size
    if seen == recorded:
        return None
    message = f"the record says {_shown(recorded)} pixels, the file has {_shown(seen)}"
    if seen != size:
        message += f", once it is turned by its EXIF orientation {turn}"
        if size == recorded:
            message += " (the record is as before turning; swap its width and height, and see whether its boxes fit)"
    return Kind.SIZE_MISMATCH, message


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"

