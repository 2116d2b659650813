"""What can be wrong with a data set, and how it is said."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """The sorts of defects, in the order of the report; the last five are notes: worth knowing, not wrong."""

    MALFORMED_RECORD = "malformed record"
    PADDED_NAME = "name with spaces around it"
    DUPLICATE_IMAGE_ID = "duplicate image id"
    DUPLICATE_FILE_NAME = "duplicate file name"
    DUPLICATE_ANNOTATION_ID = "duplicate annotation id"
    DUPLICATE_CATEGORY_ID = "duplicate category id"
    DUPLICATE_CATEGORY_NAME = "duplicate category name"
    SAME_WORDS = "names that are the same words"
    UNKNOWN_IMAGE = "unknown image"
    UNKNOWN_CATEGORY = "unknown category"
    NOT_FINITE = "number that is not finite"
    BOX_WITHOUT_AREA = "box without area"
    BOX_OUT_OF_IMAGE = "box out of image"
    AREA_OF_NOTHING = "area of 0 of a box that has one"
    SHORT_POLYGON = "polygon of fewer than three points"
    ODD_POLYGON = "polygon of odd length"
    FAR_POLYGON = "polygon far out of image"
    UNKNOWN_CATEGORY_IN_LIST = "unknown category in a list of the image"
    CONTRADICTION = "list of the image contradicts it"
    UNKNOWN_NAME = "name that the vocabulary lacks"
    MISSING_IMAGE = "missing image"
    UNREADABLE_IMAGE = "unreadable image"
    SIZE_MISMATCH = "size mismatch"
    IGNORED_BOX = "box without area that is to be ignored"
    NOT_EXHAUSTIVE_WITHOUT_BOX = "not-exhaustive category without annotations in the image"
    EMPTY_IMAGE = "image without annotations"
    EMPTY_CATEGORY = "category without annotations"
    UNTRAINED_CATEGORY = "category of which no annotation is trained on"

    @property
    def is_note(self) -> bool:
        """Whether nothing is wrong."""
        return self in _NOTES


_NOTES = frozenset(list(Kind)[-5:])


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong (or, if its kind is a note, worth knowing), and where.

    Attributes:
        message: what is wrong and what to do. file: the annotation file. image_id, annotation_id, category_id: as the
            file has them; None where the defect is not about such a thing, or the file does not say. file_name: of the
            image, as the file has it.
    """

    kind: Kind
    message: str
    file: str
    image_id: int | None = None
    file_name: str | None = None
    annotation_id: int | None = None
    category_id: int | None = None

    @property
    def where(self) -> str:
        """"a.json, image 7 (train/b.jpg), annotation 3"."""
        parts = [self.file]
        if self.image_id is not None or self.file_name is not None:
            number = "" if self.image_id is None else f" {self.image_id}"
            parts.append(f"image{number}" + (f" ({self.file_name})" if self.file_name is not None else ""))
        if self.annotation_id is not None:
            parts.append(f"annotation {self.annotation_id}")
        if self.category_id is not None:
            parts.append(f"category {self.category_id}")
        return ", ".join(parts)

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}"
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)

    def as_dict(self) -> dict[str, Any]:
        """For programs; `note` says whether it is one."""
        return {"note": self.kind.is_note, **asdict(self)}
