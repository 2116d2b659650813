"""The work of one process: it takes the next images that nobody has taken, until none are left."""

import argparse
import os
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import numpy as np
from detectron2.utils import comm
from tqdm import tqdm

from dk_detr.commands.build_embedding_bank.process import deterministic
from dk_detr.commands.label.coco import annotations_of, info_of, write_annotations
from dk_detr.commands.label.formats import refuse_repeated_names, require_supervision
from dk_detr.commands.label.journal import Journal, Record
from dk_detr.commands.label.request import Request, request_of
from dk_detr.data.images import UnreadableImage, read_image
from dk_detr.detector import Detections, Detector, load
from dk_detr.detector.detector import GPU_BATCH
from dk_detr.detector.thresholds import Thresholds
from dk_detr.detector.words import VOCABULARY_ENDINGS
from dk_detr.engine.launch import shared_numbers
from dk_detr.engine.setup import one_clear_error
from dk_detr.language import WORD_LISTS
from dk_detr.utils.batches import batches_of
from dk_detr.utils.names import split_names
from dk_detr.visualization.pictures import best_of_each_box


def label(args: argparse.Namespace, images: Sequence[Path]) -> None:
    """Label, together with the other processes; the first writes the annotations."""
    with one_clear_error():
        thresholds = Thresholds.parse(args.threshold, args.thresholds)
        root = image_root(images)
        names = [path.relative_to(root).as_posix() for path in images]
        if set(args.format) - {"coco"}:
            require_supervision()
            refuse_repeated_names(names)
        detector = load(args.detector, args.weights, args.device, dict(zip(args.opts[::2], args.opts[1::2])))
        with deterministic(detector.device.type):
            if args.classes is not None:
                detector.set_classes(words_of(args.classes))
            thresholds.require_known(detector.classes)
            worker = Worker(detector, thresholds, args.words_per_box, root, names)
            vocabulary = args.classes if (args.classes or "").endswith(VOCABULARY_ENDINGS) else ""
            request = request_of(detector, thresholds, args.words_per_box, names, root, vocabulary)
            _label_into(Path(args.output), worker, request)


def _label_into(output: Path, worker: "Worker", request: Request) -> None:
    """Go on with the file, unless it is finished. Raises ValueError for that of another request."""
    journal = Journal(output)
    if output.is_file():
        info_of(output, request)
    journal.check(request)
    if output.is_file() and not journal.folder.is_dir():
        return
    if not comm.is_main_process():
        worker.work(journal)
        return
    with journal.locked():
        journal.begin(request)
        worker.work(journal)
        if not write_annotations(output, journal, request)["result"]["failed"]:
            journal.remove()


class Worker:
    """Looks at images and notes what it found.

    Args:
        root: the folder that the names of images are below.
    """

    def __init__(
        self, detector: Detector, thresholds: Thresholds, words_per_box: str, root: Path, names: Sequence[str]
    ) -> None:
        self.detector, self.thresholds, self.words_per_box = detector, thresholds, words_per_box
        self.root, self.names = root, names

    def work(self, journal: Journal) -> None:
        """Until every image is done, here or by another process. The journal has begun where the first calls this."""
        comm.synchronize()
        done = journal.places()
        comm.synchronize()  # from here on the journal grows
        batches = self._batches_without(done)
        rank = comm.get_rank()
        bar = tqdm(total=len(self.names), initial=len(done), unit="image", desc="labelled", disable=rank > 0)
        with bar, journal.writer(rank) as write:
            for number in shared_numbers("batches"):
                taken = sum(map(len, batches[:number]))  # by all processes
                bar.update(len(done) + taken - bar.n)
                if number >= len(batches):
                    break
                write(list(self._records(batches[number])))
        comm.synchronize()

    def _batches_without(self, done: Container[int]) -> list[list[int]]:
        size = 1 if self.detector.device.type == "cpu" else GPU_BATCH
        batches = batches_of(range(len(self.names)), size)
        return [rest for batch in batches if (rest := [image for image in batch if image not in done])]

    def _records(self, batch: Sequence[int]) -> Iterator[Record]:
        """Of each image, what was found or why it could not be done."""
        read: dict[int, np.ndarray] = {}
        for image in batch:
            try:
                read[image] = read_image(self.root / self.names[image])
            except UnreadableImage as error:
                yield self._failed(image, error)
        try:
            found = self.detector.predict(list(read.values()), self.thresholds.least)
            yield from (self._record(image, each) for image, each in zip(read, found))
        except Exception as error:  # the other images may be sound
            if os.getenv("DK_DETR_TRACEBACK"):
                raise
            for image in read:
                yield from self._records([image]) if len(read) > 1 else [self._failed(image, error)]

    def _record(self, image: int, found: Detections) -> Record:
        found = self.thresholds.keep(found)
        if self.words_per_box == "best":
            found = found[best_of_each_box(found.boxes_xyxy_abs, found.scores)]
        annotations, (height, width) = annotations_of(found), found.size
        size = {"width": width, "height": height}
        empty = len(found) - len(annotations)
        return {"image": image, "file_name": self.names[image], **size, "annotations": annotations, "empty": empty}

    def _failed(self, image: int, error: Exception) -> Record:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not isinstance(error, UnreadableImage):
            reason = f"Image {self.root / self.names[image]}: {reason}"
        return {"image": image, "file_name": self.names[image], "error": reason}


def words_of(text: str) -> list[str] | str:
    """A file with a name on each line, the file of a vocabulary, the name of a list ("lvis"), or "a,b"."""
    if text in WORD_LISTS or text.endswith(VOCABULARY_ENDINGS):
        return text
    return split_names(f"@{text}" if Path(text).is_file() or text.endswith(".txt") else text)


def image_root(images: Sequence[Path]) -> Path:
    """The innermost folder that holds all the images, of which `absolute` gives the paths."""
    return Path(os.path.commonpath([path.parent for path in images]))


def absolute(images: Sequence[Path]) -> list[Path]:
    """Where files are, however they were named. Links stay: a file is called as the link is."""
    return [Path(os.path.abspath(path)) for path in images]
