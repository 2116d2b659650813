"""What the picture of errors promises: a bar for each group, as long as its numbers say, and the same colours."""

import numpy as np
from matplotlib.colors import to_rgb

from dk_detr.visualization.errors import GAIN_COLOURS, SHARE_COLOURS, draw_errors

SHARES = ("hit", "confused with base", "confused with novel", "duplicate", "loose", "part", "background", "none")
GAINS = ("class", "location", "both", "duplicates", "background", "missed")


def pixels_of(picture: np.ndarray, colour: str) -> int:
    wanted = np.round(np.array(to_rgb(colour)) * 255)
    return int((np.abs(picture.astype(float) - wanted).max(axis=2) < 2).sum())


def drawn(*groups: dict[str, float]) -> np.ndarray:
    shares = {f"group {i}": {name: group.get(name, 0.0) for name in SHARES} for i, group in enumerate(groups)}
    gains = {f"group {i}": dict.fromkeys(GAINS, 1.0) for i in range(len(groups))}
    return draw_errors(shares, gains, "errors")


def test_a_part_of_a_bar_is_as_long_as_its_share():
    little, much = (pixels_of(drawn({"hit": hits, "loose": 100 - hits}), SHARE_COLOURS[0]) for hits in (20, 80))
    assert 3.5 < much / little < 4.2  # the mark of the legend is in both


def bars_in(picture: np.ndarray, colour: str) -> int:
    """How many bars of a colour lie one above the other."""
    wanted = np.round(np.array(to_rgb(colour)) * 255)
    same = np.abs(picture.astype(float) - wanted).max(axis=2) < 2
    column = same[:, same.sum(axis=0).argmax()].astype(int)
    return int((np.diff(column, prepend=0) == 1).sum())


def test_every_group_has_a_bar():
    for count in (1, 2, 7):
        assert bars_in(drawn(*[{"loose": 30, "hit": 70}] * count), SHARE_COLOURS[0]) == count


def test_a_number_that_is_nan_is_left_out():
    assert pixels_of(drawn({"hit": 100, "loose": float("nan")}), SHARE_COLOURS[0]) > 1000


def test_an_error_has_one_colour_in_both_panels():
    pairs = {"class": "confused with base", "location": "loose", "both": "part", "duplicates": "duplicate",
             "background": "background"}  # fmt: skip
    for gain, share in pairs.items():
        assert GAIN_COLOURS[GAINS.index(gain)] == SHARE_COLOURS[SHARES.index(share)]
