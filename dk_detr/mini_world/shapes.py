"""Outlines of the mini world's shapes.

Every outline is a simple polygon (P, 2) of (x, y), y pointing down, whose bounding box is centred on the origin with
its longer side 1. Polygons have no holes, so they are exact LVIS segmentations.
"""

import functools

import numpy as np

_CURVE_POINTS = 32


def _arc(centre: tuple[float, float], radius: float, start: float, end: float) -> np.ndarray:
    """Points on a circle from angle `start` to `end`, in degrees, clockwise on the screen, 0 to the right."""
    angles = np.radians(np.linspace(start, end, _CURVE_POINTS))
    return np.stack([centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)], axis=1)


def _circle() -> np.ndarray:
    return _arc((0, 0), 1, 0, 360)[:-1]


def _heart() -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 2 * _CURVE_POINTS, endpoint=False)
    x = 16 * np.sin(angles) ** 3
    y = -(13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles) - np.cos(4 * angles))
    return np.stack([x, y], axis=1)


def _star() -> np.ndarray:
    angles = np.radians(-90 + 36 * np.arange(10))
    radius = np.where(np.arange(10) % 2 == 0, 1, 0.42)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _crescent() -> np.ndarray:
    """The unit circle less a circle that bites into it from the right, with the same two tips."""
    outer = _arc((0, 0), 1, 50, 310)
    tip_x, tip_y = outer[0]
    centre_x = tip_x + 0.12
    inner_start = np.degrees(np.arctan2(-tip_y, tip_x - centre_x))
    inner = _arc((centre_x, 0), np.hypot(tip_x - centre_x, tip_y), inner_start, -360 - inner_start)
    return np.concatenate([outer, inner[1:-1]])


def _corners(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, dtype=float)


def _cross() -> np.ndarray:
    arm, tip = 0.32, 1.0
    quarter = [(arm, -tip), (arm, -arm), (tip, -arm)]
    turned = [quarter, [(-y, x) for x, y in quarter], [(-x, -y) for x, y in quarter], [(y, -x) for x, y in quarter]]
    return _corners(*[point for points in turned for point in points])


@functools.cache
def outline(shape: str) -> np.ndarray:
    """The outline of a shape by name, (P, 2), centred, longer side of its box 1; KeyError for an unknown name."""
    points = {
        "circle": _circle,
        "square": lambda: _corners((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "triangle": lambda: _corners((0, -0.9), (1, 0.9), (-1, 0.9)),
        "cross": _cross,
        "heart": _heart,
        "arrow": lambda: _corners((0, -1), (0.85, 0), (0.32, 0), (0.32, 1), (-0.32, 1), (-0.32, 0), (-0.85, 0)),
        "bolt": lambda: _corners((0.3, -1), (-0.65, 0.15), (-0.1, 0.15), (-0.35, 1), (0.65, -0.3), (0.1, -0.3)),
        "crown": lambda: _corners((-1, 0.75), (-1, -0.75), (-0.5, 0), (0, -0.75), (0.5, 0), (1, -0.75), (1, 0.75)),
        "star": _star,
        "crescent": _crescent,
        "hourglass": lambda: _corners((-0.8, -1), (0.8, -1), (0.14, 0), (0.8, 1), (-0.8, 1), (-0.14, 0)),
    }[shape]()
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - (low + high) / 2) / (high - low).max()


def area(polygon: np.ndarray) -> float:
    """Area inside a simple polygon (P, 2), by the shoelace formula."""
    x, y = polygon.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
