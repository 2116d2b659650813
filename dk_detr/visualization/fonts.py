"""Fonts for words in any script: the installed ones that have their characters, and escapes where none has."""

import json
import logging
import os
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.font_manager import FontEntry, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

logger = logging.getLogger(__name__)

FIRST = "DejaVu Sans"  # comes with Matplotlib: whatever the machine has installed, it has the letters of Europe


def make_drawable(text: Text) -> None:
    """Gives a text of Matplotlib's the fonts that its characters need; those that no font has become escapes."""
    words, families = drawable(text.get_text())
    if families != [FIRST]:
        text.set_fontfamily(families)
    if words != text.get_text():
        text.set_text(words)


def drawable(words: str) -> tuple[str, list[str]]:
    """What to draw for some words, and the font families to draw it with, the first choice first.

    Characters without a font are written as in JSON ("\\u676f"), where they can be looked up; the log says so once.
    """
    fonts = {character: family_of(character) for character in words}
    if None in fonts.values():
        _say_once()
    drawn = "".join(character if fonts[character] else escaped(character) for character in words)
    return drawn, list(dict.fromkeys([FIRST, *filter(None, fonts.values())]))


@cache
def family_of(character: str) -> str | None:
    """The first font family that has a character."""
    if ord(character) in _characters(font_manager.findfont(FIRST)):
        return FIRST
    return next((font.name for font in _other_fonts() if _has(font.fname, character)), None)


def escaped(character: str) -> str:
    """As `detections.json` has it."""
    return json.dumps(character)[1:-1]


@cache
def _say_once() -> None:
    logger.warning(
        "No installed font has all characters of the words: those without are drawn as escapes (\\u676f), as JSON has "
        "them. Install a font of their script, for example Noto Sans CJK, to see them."
    )


@cache
def _other_fonts() -> tuple[FontEntry, ...]:
    """What is installed, upright fonts of ordinary weight first, and of these the ones without serifs.

    Those that come with Matplotlib are left out: for formulas, and one that has a box for every character there is.
    """
    known = {os.path.realpath(font.fname) for font in fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if os.path.realpath(path) not in known:  # Matplotlib's list is older than the font
            _add(path)
    own = Path(matplotlib.get_data_path()).resolve()
    fonts = (font for font in fontManager.ttflist if own not in Path(font.fname).resolve().parents)
    return tuple(sorted(fonts, key=_rank))


def _rank(font: FontEntry) -> tuple[bool, bool, str]:
    regular = font.style == "normal" and font.weight in (400, "normal", "regular", "book")
    return not regular, "sans" not in font.name.lower(), font.name


def _add(path: str) -> None:
    try:
        fontManager.addfont(path)
    except Exception as error:  # noqa: BLE001  a font that FreeType cannot open is one less
        logger.debug(f"Font {path} was left out: {error}")


def _has(path: str, character: str) -> bool:
    """Whether a font can draw a character; emoji of pixels cannot be drawn at any size."""
    return ord(character) in _characters(path) and FT2Font(path).scalable


@cache
def _characters(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except RuntimeError:
        return frozenset()
