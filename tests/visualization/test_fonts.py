"""Words of any script can be drawn: with an installed font that has them, else as escapes; never as squares."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from matplotlib.font_manager import fontManager

from dk_detr.visualization import fonts, pictures
from dk_detr.visualization.pictures import LabelledBoxes

WORD = "\u676f\u5b50"  # "cup"
CACHES = (fonts.family_of, fonts._other_fonts, fonts._characters, fonts._say_once)


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine with no fonts but those that come with Matplotlib; gives their folder."""
    own = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    monkeypatch.setattr(fontManager, "ttflist", [font for font in fontManager.ttflist if str(own) in font.fname])
    monkeypatch.setattr(fonts.font_manager, "findSystemFonts", list)
    forget()
    yield own
    forget()


def forget() -> None:
    for cache in CACHES:
        cache.cache_clear()


def install(own: Path, folder: Path, name: str, characters: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A font that draws these characters, each as an A, and nothing else."""
    font = TTFont(own / "DejaVuSansDisplay.ttf")
    font["cmap"].tables = [table for table in font["cmap"].tables if table.isUnicode()]
    for table in font["cmap"].tables:
        table.cmap = {ord(character): next(iter(table.cmap.values())) for character in characters}
    for record in font["name"].names:
        record.string = name
    font.save(folder / f"{name}.ttf")
    monkeypatch.setattr(fonts.font_manager, "findSystemFonts", lambda: [str(folder / f"{name}.ttf")])


def test_letters_of_europe_need_no_other_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_other_fonts", lambda: pytest.fail("Fonts were looked for in vain."))
    for words in ("★ red star 87%", "\u0447\u0430\u0448\u043a\u0430", "\u03ba\u03bf\u03cd\u03c0\u03b1", "Stra\u00dfe"):
        assert fonts.drawable(words) == (words, ["DejaVu Sans"])


def test_characters_without_a_font_become_escapes_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    assert fonts.drawable(f"red {WORD} 5%") == ("red \\u676f\\u5b50 5%", ["DejaVu Sans"])
    assert fonts.drawable("\u0e16\n")[0] == "\\u0e16\\n"
    (message,) = caplog.messages
    assert "No installed font" in message and "Noto Sans CJK" in message


def test_an_installed_font_is_found_even_if_it_is_newer_than_matplotlibs_list(
    nothing_installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(nothing_installed, tmp_path, "Han Sans", WORD[0], monkeypatch)
    assert fonts.drawable(f"red {WORD}") == (f"red {WORD[0]}\\u5b50", ["DejaVu Sans", "Han Sans"])
    assert len(caplog.messages) == 1


def picture(name: str) -> np.ndarray:
    boxes = LabelledBoxes(np.array([[20.0, 60, 200, 200]]), [name], [False])
    return pictures.draw_boxes(np.full((480, 480, 3), 128, np.uint8), boxes)


def test_a_label_is_drawn_with_the_font_that_has_it_and_without_a_warning(
    nothing_installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        escaped = picture(WORD)
        forget()
        install(nothing_installed, tmp_path, "Han Sans", WORD, monkeypatch)
        drawn = picture(WORD)
    assert (escaped != drawn).any()


def test_a_price_is_no_formula() -> None:
    assert (picture("$5$") != picture("5")).any()
    picture("$\\frac{$")  # as a formula, an error
