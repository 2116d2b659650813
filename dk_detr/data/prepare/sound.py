"""Records of a source file are looked at before they are used: a malformed one is named, not written on or dropped."""

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any

from dk_detr.annotations import Kind
from dk_detr.annotations.records import FAULTS
from dk_detr.annotations.streaming import Change, items_of

OPTIONAL = {"images": ("file_name", "width", "height"), "annotations": ("id", "bbox"), "categories": ("name",)}
"""Fields that a copy can do without."""


def sound_items(path: str, key: str) -> Iterator[Any]:
    """`items_of`, of which each has ids, and in every other field what belongs there or nothing.

    Raises: ValueError naming the first that has something else.
    """
    return map(_checked(path, key), items_of(path, key))


def soundly(path: str, changes: Mapping[str, Change]) -> dict[str, Change]:
    """The same changes, each of a record that was looked at before; of lists without a change as well."""
    return {key: _then(_checked(path, key), changes.get(key)) for key in FAULTS}


def _checked(path: str, key: str) -> Callable[[Any], Any]:
    numbers = count(1)

    def check(record: Any) -> Any:
        number = next(numbers)
        for kind, fault in FAULTS[key](record, OPTIONAL[key]):
            if kind is Kind.MALFORMED_RECORD:
                raise ValueError(f"{path}, number {number} of {key}{_id_of(record)}: {fault}.")
        return record

    return check


def _then(check: Callable[[Any], Any], change: Change | None) -> Change:
    return check if change is None else lambda record: change(check(record))


def _id_of(record: Any) -> str:
    number = record.get("id") if isinstance(record, dict) else None
    return f" (id {number})" if isinstance(number, int) else ""
