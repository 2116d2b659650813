"""What can be wrong between the records of an annotation file; every check gives its defects one by one.

Each is a few operations on whole arrays. A thing that is wrong is said once: a box without area is not measured
against its image, an annotation of an unknown image neither.
"""

from collections.abc import Callable, Iterator

import numpy as np

from dk_detr.annotations.content import Content, Ids, ImageList, repeated_texts
from dk_detr.annotations.defects import Defect, Kind
from dk_detr.annotations.records import LARGEST_NUMBER
from dk_detr.annotations.segmentation import is_far

ROWS_AT_ONCE = 1 << 20  # bounds the memory of intermediate results


def duplicates(content: Content) -> Iterator[Defect]:
    """Ids and names that two records share; the later one is blamed."""
    yield from _shared_ids(content)
    yield from _shared_names(content)


def _shared_ids(content: Content) -> Iterator[Defect]:
    for row in content.image_ids.repeated():
        first = content.file_name_of(int(content.images["id"][row])) or "an image without a file name"
        yield content.of_image(row, Kind.DUPLICATE_IMAGE_ID, f"its id is already that of {first}")
    for row in Ids(content.annotations["id"]).repeated():
        yield content.of_annotation(row, Kind.DUPLICATE_ANNOTATION_ID, "its id is already that of another annotation")
    for row in content.category_ids.repeated():
        first_row = int(content.category_ids.rows(content.categories[row : row + 1])[0])
        message = f"{content.category_name(row)} has the id of {content.category_name(first_row)}"
        yield content.of_category(row, Kind.DUPLICATE_CATEGORY_ID, message)


def _shared_names(content: Content) -> Iterator[Defect]:
    for row, first_row in repeated_texts(content.file_names):
        other = int(content.images["id"][first_row])
        yield content.of_image(row, Kind.DUPLICATE_FILE_NAME, f"its file is already that of image {other}")
    for row, first_row in repeated_texts(content.category_names):
        message = f"{content.category_name(row)} is already the name of category {content.categories[first_row]}"
        yield content.of_category(row, Kind.DUPLICATE_CATEGORY_NAME, message)
    for row, first_row in repeated_texts([_spoken(name) for name in content.category_names]):
        if content.category_names[row] != content.category_names[first_row]:
            others = f"{content.category_name(first_row)}, category {content.categories[first_row]}"
            shared = f"{content.category_name(row)} and {others}, are the same words to a text encoder; rename one"
            yield content.of_category(row, Kind.SAME_WORDS, shared)


def unknown_references(content: Content) -> Iterator[Defect]:
    """Annotations whose image or category the file does not have."""
    for row in _where(content.image_rows < 0):
        number = content.annotations["image"][row]
        yield content.of_annotation(row, Kind.UNKNOWN_IMAGE, f"its image {number} is not in the file")
    for row in _where(content.category_rows < 0):
        number = int(content.annotations["category"][row])
        message = f"its category {number} is not in the file"
        yield content.of_annotation(row, Kind.UNKNOWN_CATEGORY, message, number)


def boxes(content: Content, tolerance: float) -> Iterator[Defect]:
    """Boxes with numbers that are not finite, without area, or more than `tolerance` pixels out of their image."""
    for start in range(0, len(content.annotations), ROWS_AT_ONCE):
        box = content.annotations["box"][start : start + ROWS_AT_ONCE]
        finite = np.isfinite(box).all(axis=1)
        solid = (box[:, 2:] > 0).all(axis=1)
        beyond = _beyond(content, box, start)
        huge = finite & (np.abs(box).max(axis=1) >= LARGEST_NUMBER)
        out = finite & solid & ~huge & (beyond.max(axis=1) > tolerance)
        for row in _where(~finite):
            message = f"{_shown(box[row])} has numbers that are not finite"
            yield content.of_annotation(start + row, Kind.NOT_FINITE, message)
        for row in _where(huge):
            message = f"{_shown(box[row])} has a number of {LARGEST_NUMBER:g} or more"
            yield content.of_annotation(start + row, Kind.MALFORMED_RECORD, message)
        for row in _where(finite & ~solid & ~huge):
            message = f"{_shown(box[row])} has no {'height' if box[row, 2] > 0 else 'width'}"
            if content.annotations["ignored"][start + row]:
                message += ', and is marked "ignore": it is not trained on'
                yield content.of_annotation(start + row, Kind.IGNORED_BOX, message)
            else:
                remedy = "correct it or drop the annotation"
                yield content.of_annotation(start + row, Kind.BOX_WITHOUT_AREA, f"{message}; {remedy}")
        for row in _where(out):
            message = f"{_shown(box[row])} reaches {_how_far(beyond[row], tolerance)} the image"
            yield content.of_annotation(start + row, Kind.BOX_OUT_OF_IMAGE, message)


def image_lists(content: Content) -> Iterator[Defect]:
    """LVIS's lists: what was verified to be absent from an image, and what is not boxed everywhere in it."""
    yield from _unknown_in(content.negatives, content)
    yield from _unknown_in(content.not_exhaustive, content)
    known = (content.image_rows >= 0) & (content.category_rows >= 0)
    present = Ids(_pairs(content, content.image_rows[known], content.category_rows[known]))
    absent, partly = _known_pairs(content, content.negatives), _known_pairs(content, content.not_exhaustive)
    listed_twice, boxed = Ids(absent).have(partly), present.have(partly)
    for row, category in _unpaired(content, absent[present.have(absent)]):
        message = f"neg_category_ids says that there is no {content.category_name(category)}, yet it has annotations"
        yield content.of_image(row, Kind.CONTRADICTION, message, int(content.categories[category]))
    for row, category in _unpaired(content, partly[listed_twice]):
        message = f"both neg_category_ids and not_exhaustive_category_ids have {content.category_name(category)}"
        yield content.of_image(row, Kind.CONTRADICTION, message, int(content.categories[category]))
    for row, category in _unpaired(content, partly[~listed_twice & ~boxed]):
        message = f"not_exhaustive_category_ids has {content.category_name(category)}, of which it has no annotation"
        yield content.of_image(row, Kind.NOT_EXHAUSTIVE_WITHOUT_BOX, message, int(content.categories[category]))


def areas(content: Content) -> Iterator[Defect]:
    """Areas of 0 that the box contradicts: LVIS does not evaluate such an object."""
    solid = (content.annotations["box"][:, 2:] > 0).all(axis=1)
    for row in _where(solid & (content.annotations["area"] == 0)):
        message = "its area is 0, its box has one: LVIS does not evaluate it; correct the area, or drop the field"
        yield content.of_annotation(row, Kind.AREA_OF_NOTHING, message)


def outlines(content: Content) -> Iterator[Defect]:
    """Polygons that are nowhere near their image."""
    rows = content.image_rows
    if len(content.images):
        lowest, highest = content.annotations["outline"].T
        width, height = content.images["width"][rows], content.images["height"][rows]
        far = (rows >= 0) & (width > 0) & (height > 0) & is_far(lowest, highest, width, height)
        for row in _where(far):
            message = f"its polygons reach from {lowest[row]:.10g} to {highest[row]:.10g}, far out of the image"
            yield content.of_annotation(row, Kind.FAR_POLYGON, message)


def negative_boxes(content: Content) -> Iterator[Defect]:
    """Boxes of negative width or height: corners in the wrong order, or two corners instead of one and a size."""
    sides = content.annotations["box"][:, 2:]
    for row in _where((sides < 0).any(axis=1) & (content.annotations["ignored"] == 0)):
        message = f"{_shown(content.annotations['box'][row])} has no {'height' if sides[row, 0] > 0 else 'width'}"
        yield content.of_annotation(row, Kind.MALFORMED_RECORD, message)


def boxes_elsewhere(content: Content) -> Iterator[Defect]:
    """Boxes that lie wholly outside of their image, and so have nothing to show."""
    x, y, w, h = content.annotations["box"].T
    rows = content.image_rows
    if len(content.images):
        width, height = content.images["width"][rows], content.images["height"][rows]
        outside = (x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0)
        asked = (rows >= 0) & (width > 0) & (height > 0) & (w > 0) & (h > 0) & (content.annotations["ignored"] == 0)
        for row in _where(asked & outside):
            message = f"{_shown(content.annotations['box'][row])} lies wholly outside of the image"
            yield content.of_annotation(row, Kind.BOX_OUT_OF_IMAGE, message)


def empties(content: Content) -> Iterator[Defect]:
    """Notes: what has no annotation, or none to train on."""
    for row in _without(content.image_rows, content.image_ids):
        yield content.of_image(row, Kind.EMPTY_IMAGE, "it has no annotations")
    for row in _without(content.category_rows, content.category_ids):
        yield content.of_category(row, Kind.EMPTY_CATEGORY, f"{content.category_name(row)} has no annotations")
    trained = (content.annotations["crowd"] == 0) & (content.annotations["ignored"] == 0)
    without = set(_without(content.category_rows[trained], content.category_ids))
    for row in sorted(without.difference(_without(content.category_rows, content.category_ids))):
        message = f"{content.category_name(row)} has crowds (iscrowd) and ignored annotations alone: none is trained on"
        yield content.of_category(row, Kind.UNTRAINED_CATEGORY, message)


# ---- how ----


def _spoken(name: str | None) -> str | None:
    """A name as a text encoder reads it: without capitals, underscores and repeated spaces."""
    return None if name is None else " ".join(name.replace("_", " ").lower().split())


def _where(mask: np.ndarray) -> list[int]:
    return np.flatnonzero(mask).tolist()


def _beyond(content: Content, box: np.ndarray, start: int) -> np.ndarray:
    """(n, 4) how many pixels boxes go beyond the left, top, right and bottom edge; 0 where no size is known."""
    rows = content.image_rows[start : start + len(box)]
    x, y, w, h = box.T
    beyond = np.zeros((len(box), 4))
    if len(content.images):
        width, height = content.images["width"][rows], content.images["height"][rows]
        with np.errstate(invalid="ignore", over="ignore"):
            beyond = np.stack([-x, -y, x + w - width, y + h - height], axis=1)
        beyond[(rows < 0) | (width <= 0) | (height <= 0)] = 0
    return beyond


def _shown(box: np.ndarray) -> str:
    x, y, w, h = (f"{number:.10g}" for number in box.tolist())
    return f"box (x {x}, y {y}, w {w}, h {h})"


def _how_far(beyond: np.ndarray, tolerance: float) -> str:
    """"3.5 pixels left of and 20 pixels below"."""
    words = ("left of", "above", "right of", "below")
    return " and ".join(f"{far:.6g} pixels {word}" for far, word in zip(beyond.tolist(), words) if far > tolerance)


def _without(rows: np.ndarray, ids: Ids) -> list[int]:
    """The rows of `ids` that are not among `rows`; those that repeat an id are not asked for."""
    empty = np.bincount(rows[rows >= 0], minlength=len(ids.sorted)) == 0
    empty[ids.repeated()] = False
    return _where(empty)


def _pairs(content: Content, images: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """One number for each pair of rows, an image's and a category's."""
    return images * max(len(content.categories), 1) + categories


def _unpaired(content: Content, pairs: np.ndarray) -> Iterator[tuple[int, int]]:
    """The rows that `_pairs` put together, each pair once."""
    for pair in np.unique(pairs).tolist():
        yield divmod(pair, max(len(content.categories), 1))


def _known_pairs(content: Content, listed: ImageList) -> np.ndarray:
    rows = content.category_ids.rows(listed.categories)
    return _pairs(content, listed.images, rows)[rows >= 0]


def _unknown_in(listed: ImageList, content: Content) -> Iterator[Defect]:
    for place in _where(content.category_ids.rows(listed.categories) < 0):
        number = int(listed.categories[place])
        message = f"its {listed.name} has category {number}, which is not in the file"
        yield content.of_image(int(listed.images[place]), Kind.UNKNOWN_CATEGORY_IN_LIST, message, number)


CHECKS: tuple[Callable[[Content], Iterator[Defect]], ...] = (
    duplicates, unknown_references, areas, outlines, image_lists, empties
)  # fmt: skip
