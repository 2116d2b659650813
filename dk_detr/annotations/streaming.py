"""Annotation files larger than memory, read and written item by item.

Objects365's training file has several gigabytes; `json.load` would need a multiple of that.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TextIO

from tqdm import tqdm

from dk_detr.utils import atomic_file

CHUNK = 1 << 20  # characters read at once
LARGEST_ITEM = 1 << 26  # characters; what does not end within that is broken
CUT = 2  # characters after a number, as in "12." and "12e-", that belong to it if more follow
LISTS = ("images", "annotations", "categories")  # what a file in COCO format must have

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


class Item(NamedTuple):
    """One element of a list at the top of a JSON object, or a value there that is no list, or an empty one."""

    key: str
    value: Any
    in_list: bool


def read_items(path: str, chunk: int = CHUNK) -> Iterator[Item]:
    """The items of a JSON object in the order of the file.

    Raises: FileNotFoundError; ValueError for a file that is cut short or no JSON object.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no annotation file {path}; `python tools/doctor.py` says where to get it.")
    with open(path, encoding="utf-8-sig") as file:
        text = _Text(file, path, chunk)
        try:
            yield from _object(text)
        except UnicodeDecodeError as error:
            raise text.broken(str(error)) from error
        finally:
            text.progress.close()


def items_of(path: str, key: str) -> Iterator[Any]:
    """The elements of one list of a JSON object."""
    return (item.value for item in read_items(path) if item.key == key and item.in_list)


def _object(text: "_Text") -> Iterator[Item]:
    for _ in _between(text, "{", "}"):
        key = text.value()
        if not isinstance(key, str):
            raise text.broken("a key is no text")
        text.expect(":")
        yield from _list(text, key) if text.peek() == "[" else [Item(key, text.value(), in_list=False)]
    if text.peek():
        raise text.broken("there is more after its end")


def _list(text: "_Text", key: str) -> Iterator[Item]:
    empty = True
    for _ in _between(text, "[", "]"):
        empty = False
        yield Item(key, text.value(), in_list=True)
    if empty:
        yield Item(key, [], in_list=False)


def _between(text: "_Text", first: str, last: str) -> Iterator[None]:
    """Stops before each thing between two brackets, for the caller to take it; takes brackets and commas itself."""
    text.expect(first)
    if text.peek() != last:
        yield
        while text.peek() != last:
            text.expect(",")
            yield
    text.expect(last)


class _Text:
    """A file of which only the part that is being decoded is in memory."""

    def __init__(self, file: TextIO, path: str, chunk: int) -> None:
        self.file, self.path, self.chunk = file, path, chunk
        self.buffer, self.at = "", 0
        size = os.path.getsize(path)
        # On a terminal only, and not for what is read in a moment.
        hidden = None if size > 1 << 26 else True
        self.progress = tqdm(
            total=size, unit="B", unit_scale=True, desc=os.path.basename(path), disable=hidden, leave=False
        )

    def peek(self) -> str:
        """The next character that is no space, or "" at the end of the file."""
        while True:
            space = _SPACE.match(self.buffer, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self._more():
                return ""

    def expect(self, character: str) -> None:
        """Step over this character."""
        found = self.peek()
        if found != character:
            raise self.broken(f'"{character}" expected, got "{found}"' if found else "it ends too early")
        self.at += 1

    def value(self) -> Any:
        """Decode the next value, however long."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.buffer, self.at)
            except json.JSONDecodeError as error:
                if len(self.buffer) - self.at > LARGEST_ITEM or not self._more():
                    raise self.broken(error.msg) from error
                continue
            except (ValueError, RecursionError) as error:  # thousands of digits, thousands of brackets
                raise self.broken(str(error)) from error
            if end + CUT < len(self.buffer) or not self._more():
                self.at = end
                return value

    def broken(self, reason: str) -> ValueError:
        """The error for what is wrong here."""
        return ValueError(f"{self.path} is no whole JSON file: {reason}, near byte {self.file.buffer.tell()}.")

    def _more(self) -> bool:
        """Read on; False at the end. As much again as is waiting, so that a long value is not decoded over and over."""
        waiting = self.buffer[self.at :]
        read = self.file.read(max(self.chunk, len(waiting)))
        if read:
            self.buffer, self.at = waiting + read, 0
        self.progress.update(self.file.buffer.tell() - self.progress.n)
        return bool(read)


class ItemWriter:
    """Writes a JSON object item by item; `counts` says how many elements each list has.

    The elements of a list must come one after the other.
    """

    def __init__(self, file: TextIO) -> None:
        self._file, self._open, self._seen = file, "", set[str]()
        self.counts: Counter[str] = Counter()

    def add(self, item: Item) -> None:
        """Write one item."""
        text = json.dumps(item.value)
        if item.in_list and item.key == self._open:
            self._file.write(",\n" + text)
        else:
            self._begin(item.key)
            self._file.write("[" + text if item.in_list else text)
            self._open = item.key if item.in_list else ""
        self.counts[item.key] += item.in_list

    def close(self) -> None:
        """End the object; lists of COCO's format that had no element are written empty."""
        for key in LISTS:
            if key not in self._seen:
                self._begin(key)
                self._file.write("[]")
        self._file.write(f"{self._end_of_list()}}}\n")

    def _begin(self, key: str) -> None:
        if key in self._seen:
            raise ValueError(f'The list "{key}" comes twice.')
        start = ",\n" if self._seen else "{"
        self._file.write(f"{self._end_of_list()}{start}{json.dumps(key)}: ")
        self._seen.add(key)

    def _end_of_list(self) -> str:
        end, self._open = ("]" if self._open else ""), ""
        return end


Change = Callable[[Any], Any]
"""An element of a list -> what stands in its place, or None to leave it out."""
Accept = Callable[[Counter[str]], None]
"""Raises if a file must not have these numbers of elements."""


def accept_all(counts: Counter[str]) -> None:
    """Whatever the numbers are."""


def rewrite(
    source: str,
    target: str,
    changes: Mapping[str, Change],
    accept: Accept = accept_all,
    read: Counter[str] | None = None,
) -> Counter[str]:
    """Copy an annotation file with changed elements, whole or not at all.

    Args:
        source, target: may be the same file. changes: by the key of the list. accept: raises if these numbers of
            elements must not be; then nothing is written. read: counts the elements of the lists of `source`.

    Returns: how many elements the lists of `target` have.
    """
    read = Counter() if read is None else read
    with _writer(target) as writer:
        for item in read_items(source):
            read[item.key] += item.in_list
            if item.in_list and item.key in changes:
                changed = changes[item.key](item.value)
                if changed is not None:
                    writer.add(item._replace(value=changed))
            else:
                writer.add(item)
        accept(_all_lists(writer.counts))
    return _all_lists(writer.counts)


def write_items(target: str, content: Mapping[str, Any], accept: Accept = accept_all) -> Counter[str]:
    """Write an annotation file that is in memory, under the same conditions as `rewrite`."""
    with _writer(target) as writer:
        for key, value in content.items():
            elements = value if isinstance(value, list) and value else None
            for element in elements or [value]:
                writer.add(Item(key, element, in_list=elements is not None))
        accept(_all_lists(writer.counts))
    return _all_lists(writer.counts)


def _all_lists(counts: Counter[str]) -> Counter[str]:
    return Counter({key: counts[key] for key in LISTS})


@contextmanager
def _writer(target: str) -> Iterator[ItemWriter]:
    with atomic_file(target) as part:
        try:
            with open(part, "w", encoding="utf-8") as file:
                writer = ItemWriter(file)
                yield writer
                writer.close()
        except BaseException:
            part.unlink(missing_ok=True)  # gigabytes of no use
            raise
