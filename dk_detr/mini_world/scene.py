"""Scenes of the mini world: what lies where, and how it is painted.

A scene is first laid out (concepts, outlines, colours), then painted; both draw from one random generator, so a scene
is a function of that generator's seed alone. Frames: pixels of the image, (x, y), origin at the upper left corner.
"""

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from dk_detr.mini_world import shapes
from dk_detr.mini_world.concepts import Concept

SIDE = 96
OBJECTS_PER_SCENE = (3, 6)
OBJECT_SIDE = (15.0, 38.0)
MAX_TILT = 0.45
MAX_OVERLAP = 0.12
MARGIN = 1.5
PLACING_ATTEMPTS = 12
SUPERSAMPLING = 4

_HUES = {"red": 0.0, "yellow": 0.145, "green": 0.345, "cyan": 0.5, "blue": 0.625, "purple": 0.79}


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene.

    Attributes:
        concept: what it is.
        polygon: (P, 2) its outline in pixels, inside the image.
        tilt: rotation in radians; its stripes turn with it.
    """

    concept: Concept
    polygon: np.ndarray
    tilt: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The tight box (x1, y1, x2, y2)."""
        (x1, y1), (x2, y2) = self.polygon.min(axis=0), self.polygon.max(axis=0)
        return float(x1), float(y1), float(x2), float(y2)


def lay_out(rng: np.random.Generator, concepts: tuple[Concept, ...], weights: np.ndarray) -> list[SceneObject]:
    """Choose 3 to 6 objects by weight and place those that find room, at least one.

    Args:
        concepts, weights: what may appear, and how probable each is (adds up to 1).
    """
    placed: list[SceneObject] = []
    wanted = rng.integers(OBJECTS_PER_SCENE[0], OBJECTS_PER_SCENE[1] + 1)
    for choice in rng.choice(len(concepts), size=wanted, p=weights):
        for _ in range(PLACING_ATTEMPTS):
            candidate = _draw_object(rng, concepts[choice])
            if all(_overlap(candidate.box, other.box) <= MAX_OVERLAP for other in placed):
                placed.append(candidate)
                break
    return placed


def _draw_object(rng: np.random.Generator, concept: Concept) -> SceneObject:
    """A concept at a random size, aspect, tilt and place inside the image; coordinates to hundredths of a pixel."""
    aspect = np.exp(rng.uniform(-0.15, 0.15))
    points = shapes.outline(concept.shape) * (aspect**0.5, aspect**-0.5)
    tilt = rng.uniform(-MAX_TILT, MAX_TILT)
    cos, sin = np.cos(tilt), np.sin(tilt)
    points = points @ np.array([[cos, sin], [-sin, cos]])
    extent = points.max(axis=0) - points.min(axis=0)
    points = (points - points.min(axis=0)) * (rng.uniform(*OBJECT_SIDE) / extent.max())
    room = SIDE - 2 * MARGIN - points.max(axis=0)
    return SceneObject(concept, np.round(points + MARGIN + rng.uniform(0, 1, size=2) * room, 2), float(tilt))


def _overlap(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Shared area of two boxes (x1, y1, x2, y2) over that of the smaller one."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return max(width, 0) * max(height, 0) / smaller


def paint(rng: np.random.Generator, objects: list[SceneObject]) -> np.ndarray:
    """The picture of a scene, (96, 96, 3) uint8 RGB: colour clouds, scribbles, the objects, and noise over all."""
    canvas = _background(rng)
    for item in objects:
        _paint_object(canvas, item, rng)
    canvas += rng.normal(0, 5, size=canvas.shape).astype(np.float32)
    return canvas.clip(0, 255).astype(np.uint8)


def _background(rng: np.random.Generator) -> np.ndarray:
    """Low-frequency noise in muted colours with 4 to 9 lines and dots, (96, 96, 3) float32."""
    cells = rng.integers(3, 7)
    colours = rng.uniform(30, 225, size=(cells, cells, 3))
    muted = 0.6 * colours + 0.4 * colours.mean(axis=2, keepdims=True)
    picture = Image.fromarray(muted.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(_scribbled(picture, rng), dtype=np.float32).copy()


def _scribbled(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture with thin lines and small dots, the clutter that no category covers, smoothed by supersampling."""
    large = picture.resize((2 * SIDE, 2 * SIDE))
    pen = ImageDraw.Draw(large)
    for _ in range(rng.integers(4, 10)):
        ink = tuple(rng.integers(0, 256, size=3).tolist())
        x, y = rng.uniform(0, 2 * SIDE, size=2)
        if rng.random() < 0.6:
            dx, dy = rng.normal(0, 40, size=2)
            pen.line([(x, y), (x + dx, y + dy)], fill=ink, width=int(rng.integers(2, 5)))
        else:
            radius = rng.uniform(2, 5)
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=ink)
    return large.resize((SIDE, SIDE), Image.Resampling.BOX)


def _paint_object(canvas: np.ndarray, item: SceneObject, rng: np.random.Generator) -> None:
    """Lay one object over the canvas, in place, with smooth edges, light from above, and stripes if it has them."""
    left, top = np.floor(item.polygon.min(axis=0)).astype(int)
    right, bottom = np.ceil(item.polygon.max(axis=0)).astype(int)
    cover = _coverage(item.polygon - (left, top), right - left, bottom - top)[..., None]
    y, x = np.mgrid[0 : bottom - top, 0 : right - left].astype(np.float32) + 0.5
    shade = 1.12 - 0.24 * y / (bottom - top)
    if item.concept.texture == "striped":
        shade = shade * _stripes(x, y, item.tilt, max(right - left, bottom - top), rng)
    paint_colour = _colour(item.concept.colour, rng) * shade[..., None]
    patch = canvas[top:bottom, left:right]
    patch += cover * (paint_colour - patch)


def _coverage(polygon: np.ndarray, width: int, height: int) -> np.ndarray:
    """The share of each pixel that lies inside the polygon, (height, width) in [0, 1]."""
    fine = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    # ImageDraw addresses pixel centres, hence half a fine pixel less.
    ImageDraw.Draw(fine).polygon((polygon * SUPERSAMPLING - 0.5).ravel().tolist(), fill=255)
    return np.asarray(fine.resize((width, height), Image.Resampling.BOX), dtype=np.float32) / 255


def _stripes(x: np.ndarray, y: np.ndarray, tilt: float, side: int, rng: np.random.Generator) -> np.ndarray:
    """Brightness of dark stripes across the object, soft at their edges, 0.25 to 1."""
    period = max(5.0, 0.24 * side)
    along = (np.sin(tilt + 0.6) * x + np.cos(tilt + 0.6) * y) / period + rng.random()
    wave = np.clip(0.5 + period / 2 * np.sin(2 * np.pi * along) / np.pi, 0, 1)
    return 0.25 + 0.75 * wave


def _colour(name: str, rng: np.random.Generator) -> np.ndarray:
    """A shade of the named colour, RGB in [0, 255]."""
    hue = (_HUES[name] + rng.uniform(-0.02, 0.02)) % 1
    return 255 * np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.75, 1), rng.uniform(0.75, 1)), dtype=np.float32)
