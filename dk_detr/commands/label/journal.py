"""What is labelled so far: a folder beside the annotations, with a line for each image, written when it is done.

A process that is killed loses the images it was looking at, and no other. Each process writes a file of its own.
"""

import fcntl
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dk_detr.commands.label.request import Request, refuse_another
from dk_detr.utils import atomic_file, atomic_write

Record = dict[str, Any]
"""Of one image: "image", its place among the images, "file_name", and "width", "height", "annotations", "empty", the
number of detections without an area; or "error"."""
ENDING = ".unfinished"
REQUEST, LOCK, DONE = "request.json", "lock", "done.jsonl"


class Journal:
    """The folder.

    Args:
        output: the annotation file that it will become.
    """

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(output.name + ENDING)

    def check(self, request: Request) -> None:
        """Raises ValueError where the folder is that of another request."""
        file = self.folder / REQUEST
        if file.is_file():
            refuse_another(json.loads(file.read_text(encoding="utf-8")), request, self.folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Raises ValueError while another run writes into the folder. A killed run leaves no lock."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / LOCK, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"Another run is writing into {self.folder}: wait for it, or end it.") from error
            yield

    def begin(self, request: Request) -> None:
        """Gather what processes of earlier runs have done into one file; images that failed are looked at again."""
        atomic_write(self.folder / REQUEST, json.dumps(request))
        places = self.places()
        with atomic_file(self.folder / DONE) as part, open(part, "wb") as file:
            for image in sorted(places):
                line = _line_at(*places[image])
                if "error" not in json.loads(line):
                    file.write(line)
        for path in self._files():
            if path.name != DONE:
                path.unlink()

    @contextmanager
    def writer(self, rank: int) -> Iterator[Callable[[Sequence[Record]], None]]:
        """Gives a function that notes images as done."""
        with open(self.folder / f"process_{rank}.jsonl", "ab", buffering=0) as file:
            yield lambda records: _write(file, b"".join(json.dumps(record).encode() + b"\n" for record in records))

    def places(self) -> dict[int, tuple[Path, int]]:
        """Image -> file and offset of its line. Of a process that was killed the last line may be cut: none."""
        found = {}
        for path in self._files():
            offset = 0
            with open(path, "rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        found[json.loads(line)["image"]] = path, offset
                    offset += len(line)
        return found

    def records(self) -> Iterator[Record]:
        """In the order of the images."""
        for _, place in sorted(self.places().items()):
            yield json.loads(_line_at(*place))

    def remove(self) -> None:
        """When the annotations are written."""
        for path in (*self._files(), self.folder / REQUEST, self.folder / LOCK):
            path.unlink(missing_ok=True)
        self.folder.rmdir()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.jsonl"))


def _write(file: Any, content: bytes) -> None:
    while content:
        content = content[file.write(content) :]


def _line_at(path: Path, offset: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.readline()
