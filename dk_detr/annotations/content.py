"""An annotation file as arrays: what the checks need of it, and no more. 96 bytes an annotation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dk_detr.annotations.defects import Defect, Kind

IMAGE = np.dtype([("id", "<i8"), ("width", "<i8"), ("height", "<i8")])
ANNOTATION = np.dtype([
    ("id", "<i8"), ("image", "<i8"), ("category", "<i8"), ("ignored", "<i4"), ("crowd", "<i4"), ("box", "<f8", 4),
    ("area", "<f8"), ("outline", "<f8", 2),
])  # fmt: skip
NO_ID = -(2**63)  # of annotations whose file gives them none


class Ids:
    """Finds the record of an id. Where several records share one, the first of them is meant."""

    def __init__(self, ids: np.ndarray) -> None:
        self.order = np.argsort(ids, kind="stable")
        self.sorted = ids[self.order]

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """For each id the row of its record, -1 where there is none."""
        if not len(self.sorted):
            return np.full(len(ids), -1)
        place = np.searchsorted(self.sorted, ids).clip(max=len(self.sorted) - 1)
        return np.where(self.sorted[place] == ids, self.order[place], -1)

    def have(self, ids: np.ndarray) -> np.ndarray:
        """For each id whether there is a record of it."""
        return self.rows(ids) >= 0

    def repeated(self) -> list[int]:
        """Rows whose id an earlier row has, ascending."""
        again = self.sorted[1:] == self.sorted[:-1]
        return np.sort(self.order[1:][again]).tolist()


@dataclass(frozen=True)
class ImageList:
    """A list that every image has, flattened: neg_category_ids or not_exhaustive_category_ids.

    Attributes:
        name: of the field. images: (n,) rows of the images. categories: (n,) ids, as the file has them.
    """

    name: str
    images: np.ndarray
    categories: np.ndarray


@dataclass(frozen=True)
class Content:
    """The records of an annotation file, row by row in the file's order.

    Attributes:
        path: of the file. images: (I,) `IMAGE`; width and height are 0 where the file does not say them. file_names,
            category_names: None where the file has none. annotations: (N,) `ANNOTATION`: boxes xywh in pixels; ignored
            and crowd are 1 where it is not trained on; area is NaN where the file has none; outline is the lowest and
            the highest number of its polygons, 0 without. categories: (K,) ids.
    """

    path: str
    images: np.ndarray
    file_names: Sequence[str | None]
    annotations: np.ndarray
    categories: np.ndarray
    category_names: Sequence[str | None]
    negatives: ImageList
    not_exhaustive: ImageList

    @cached_property
    def image_ids(self) -> Ids:
        return Ids(self.images["id"])

    @cached_property
    def category_ids(self) -> Ids:
        return Ids(self.categories)

    @cached_property
    def image_rows(self) -> np.ndarray:
        """(N,) the row of each annotation's image, -1 where the file has no such image."""
        return self.image_ids.rows(self.annotations["image"])

    @cached_property
    def category_rows(self) -> np.ndarray:
        """(N,) the row of each annotation's category, -1 where the file has no such category."""
        return self.category_ids.rows(self.annotations["category"])

    def of_image(self, row: int, kind: Kind, message: str, category_id: int | None = None) -> Defect:
        """A defect of the image in a row."""
        where = {"image_id": int(self.images["id"][row]), "file_name": self.file_names[row]}
        return Defect(kind, message, self.path, category_id=category_id, **where)  # type: ignore[arg-type]

    def of_annotation(self, row: int, kind: Kind, message: str, category_id: int | None = None) -> Defect:
        """A defect of the annotation in a row."""
        number, image_id = int(self.annotations["id"][row]), int(self.annotations["image"][row])
        found = int(self.image_rows[row])
        file_name = self.file_names[found] if found >= 0 else None
        if number == NO_ID:
            message = f"number {row + 1} of annotations: {message}"
        return Defect(kind, message, self.path, image_id, file_name, None if number == NO_ID else number, category_id)

    def of_category(self, row: int, kind: Kind, message: str) -> Defect:
        """A defect of the category in a row."""
        return Defect(kind, message, self.path, category_id=int(self.categories[row]))

    def category_name(self, row: int) -> str:
        """For messages: the name of the category in a row, in quotes."""
        name = self.category_names[row]
        return "a category without a name" if name is None else f'"{name}"'

    def file_name_of(self, image_id: int | None) -> str | None:
        """The file name of an image, None where it has none or the file has no such image."""
        row = -1 if image_id is None else int(self.image_ids.rows(np.array([image_id]))[0])
        return self.file_names[row] if row >= 0 else None


def repeated_texts(texts: Sequence[str | None]) -> Iterator[tuple[int, int]]:
    """For each text that an earlier row has: its row, and the first row with it. None repeats nothing."""
    first: dict[Any, int] = {}
    for row, text in enumerate(texts):
        if text is not None and first.setdefault(text, row) != row:
            yield row, first[text]
