"""Image-caption pairs of the mini world: crops around objects of every concept, and of the clutter between them.

What a CLIP learns from. Boxes are jittered, because the crops that a detector proposes are never exact.
"""

import numpy as np
from PIL import Image

from dk_detr.mini_world.scene import SIDE, SceneObject

CROP_SIDE = 40
BACKGROUND = "background"
SCALES = (0.86, 1.7)
SHIFT = 0.1
CLUTTER_SIDE = (14.0, 50.0)
MAX_CLUTTER_COVER = 0.15

Box = tuple[float, float, float, float]


def captioned_crops(
    rng: np.random.Generator, objects: list[SceneObject], picture: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """One crop for each object, and where a place for it is found, one of clutter.

    Args:
        picture: (96, 96, 3) uint8 RGB.

    Returns:
        crops (N, 40, 40, 3) uint8 and N captions: the name of the concept in words, or "background".
    """
    boxes = [_jittered(rng, item.box) for item in objects]
    captions = [item.concept.name.replace("_", " ") for item in objects]
    clutter = _clutter_box(rng, objects)
    if clutter is not None:
        boxes.append(clutter)
        captions.append(BACKGROUND)
    padded = Image.fromarray(np.pad(picture, ((SIDE, SIDE), (SIDE, SIDE), (0, 0)), mode="edge"))
    return np.stack([_crop(padded, box) for box in boxes]), captions


def _jittered(rng: np.random.Generator, box: Box) -> Box:
    """The box moved by up to a tenth, each side scaled by 0.86 to 1.7, both mostly by the same factor."""
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    scale = np.exp(rng.uniform(*np.log(SCALES)) + rng.uniform(-0.08, 0.08, size=2))
    x = (x1 + x2) / 2 + rng.uniform(-SHIFT, SHIFT) * width
    y = (y1 + y2) / 2 + rng.uniform(-SHIFT, SHIFT) * height
    half_width, half_height = width * scale[0] / 2, height * scale[1] / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def _clutter_box(rng: np.random.Generator, objects: list[SceneObject], attempts: int = 4) -> Box | None:
    """A box that covers next to nothing of any object, or None if a few attempts find none."""
    for _ in range(attempts):
        width, height = rng.uniform(*CLUTTER_SIDE, size=2)
        x, y = rng.uniform(0, (SIDE - width, SIDE - height))
        box = (x, y, x + width, y + height)
        if all(_covered(item.box, box) <= MAX_CLUTTER_COVER for item in objects):
            return box
    return None


def _covered(box: Box, by: Box) -> float:
    """The share of a box that another one covers, or takes of the other, whichever is larger."""
    width = max(min(box[2], by[2]) - max(box[0], by[0]), 0)
    height = max(min(box[3], by[3]) - max(box[1], by[1]), 0)
    smaller = min((b[2] - b[0]) * (b[3] - b[1]) for b in (box, by))
    return width * height / smaller


def _crop(padded: Image.Image, box: Box) -> np.ndarray:
    """The content of a box, warped to a square, (40, 40, 3) uint8; `padded` has one image side of border all round."""
    x1, y1, x2, y2 = box
    window = (x1 + SIDE, y1 + SIDE, x2 + SIDE, y2 + SIDE)
    return np.asarray(padded.resize((CROP_SIDE, CROP_SIDE), Image.Resampling.BILINEAR, box=window))
