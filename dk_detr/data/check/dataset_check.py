"""The check of a data set: its annotation file, then every image."""

import os
from collections.abc import Collection, Iterator
from dataclasses import replace

from tqdm import tqdm

from dk_detr.annotations.content import Content
from dk_detr.annotations.defects import Defect
from dk_detr.annotations.reader import Reader
from dk_detr.annotations.relations import CHECKS, boxes
from dk_detr.data.check.images import WORKERS, image_faults
from dk_detr.data.check.names import unknown_names

TOLERANCE = 1.0  # pixel


class DatasetCheck:
    """Iterate over it to get the defects and notes of a data set, while they are found.

    Args:
        json_file: annotations in COCO or LVIS format. image_root: the folder that the file names are below.
        vocabulary_names: what the category names must be among; None: anything. decode: all pixels of all images
            (finds files that are cut short). tolerance: in pixels, how far a box may be out of its image. workers:
            threads that open images. progress: show bars on the terminal.

    Attributes:
        how_far: in words, how far it came, for one who interrupts it. counts: of records, of each list of the file.
        not_trained: annotations that are read and not trained on, by reason; empty before they are read.

    Raises: FileNotFoundError; ValueError if the file is not whole or in no such format.
    """

    def __init__(
        self,
        json_file: str,
        image_root: str,
        vocabulary_names: Collection[str] | None = None,
        *,
        decode: bool = False,
        tolerance: float = TOLERANCE,
        workers: int = WORKERS,
        progress: bool = False,
    ) -> None:
        if not os.path.isfile(json_file):
            raise FileNotFoundError(f"There is no annotation file {json_file}.")
        if not os.path.isdir(image_root):
            raise FileNotFoundError(f"There is no image folder {image_root}.")
        self.json_file, self.image_root, self.vocabulary_names = json_file, image_root, vocabulary_names
        self.decode, self.tolerance, self.workers, self.progress = decode, tolerance, workers, progress
        self.how_far = "not all records were read, no image was opened"
        self.not_trained: dict[str, int] = {}
        self._reader = Reader(json_file)

    @property
    def counts(self) -> dict[str, int]:
        """Of images, annotations and categories read."""
        return self._reader.counts

    def __iter__(self) -> Iterator[Defect]:
        self._reader = Reader(self.json_file)
        content = self._reader.read()
        self.not_trained = _not_trained(content)
        self.how_far = "all records were read, no image was opened"
        for defect in self._reader.defects:
            yield replace(defect, file_name=defect.file_name or content.file_name_of(defect.image_id))
        for check in CHECKS:
            yield from check(content)
        yield from boxes(content, self.tolerance)
        if self.vocabulary_names is not None:
            yield from unknown_names(content, self.vocabulary_names)
        yield from self._open_images(content)

    def _open_images(self, content: Content) -> Iterator[Defect]:
        done, total = 0, len(content.images)
        with tqdm(total=total, unit="image", desc="images", disable=not self.progress) as bar:
            for count, defects in image_faults(content, self.image_root, self.decode, self.workers):
                done += count
                bar.update(count)
                self.how_far = f"all records were read, {done} of {total} images opened"
                yield from defects


def _not_trained(content: Content) -> dict[str, int]:
    crowd, ignored = (content.annotations[flag] == 1 for flag in ("crowd", "ignored"))
    counts = {"crowds (iscrowd)": int((crowd & ~ignored).sum()), 'marked "ignore"': int(ignored.sum())}
    return {reason: number for reason, number in counts.items() if number}


def check_annotations(
    json_file: str,
    image_root: str,
    vocabulary_names: Collection[str] | None = None,
    *,
    decode: bool = False,
    tolerance: float = TOLERANCE,
) -> list[Defect]:
    """All defects and notes of a data set in a list; see `DatasetCheck`."""
    return list(DatasetCheck(json_file, image_root, vocabulary_names, decode=decode, tolerance=tolerance))
