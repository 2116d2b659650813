"""Names as they are given on a command line or in a config."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

COMMAS_HELP = "separated by commas, 'a,\"b, c\"' for a name with a comma"
NAMES_HELP = f"{COMMAS_HELP}, or @FILE with a name on each line"
NOVEL_HELP = f'{NAMES_HELP}; "" for none'


def split_names(text: str) -> list[str]:
    """'a, "b, c"' -> ["a", "b, c"]; "@file" -> its lines.

    Raises: FileNotFoundError; ValueError where no name is left, or a quotation mark has no partner.
    """
    names = _filled(_lines_of(text[1:]) if text.startswith("@") else _between_commas(text, NAMES_HELP))
    if not names:
        raise ValueError(f'"{text}" holds no names; give them {NAMES_HELP}.')
    return names


def typed_names(text: str) -> list[str]:
    """The same of a text field: names between commas or on lines of their own. No file is read: anybody may type
    "@file". [] where there is none. Raises ValueError for a quotation mark that has no partner."""
    return _filled(_between_commas(text, COMMAS_HELP))


def novel_names(given: str | Sequence[object] | None) -> list[str] | None:
    """What --novel or DATASETS.CUSTOM.NOVEL says: None where nothing is said, [] for "" and for an empty list: no name
    is novel."""
    if given is None:
        return None
    if not isinstance(given, str):
        return [str(name) for name in given]
    return split_names(given) if given.strip() else []


def _filled(names: Sequence[str]) -> list[str]:
    return [name.strip() for name in names if name.strip()]


def _between_commas(text: str, help_text: str) -> list[str]:
    text = re.sub(r'"[ \t]+(?=,|$)', '"', text)  # csv takes spaces before a quoted name, not behind it
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ValueError(f"{text!r} is no list of names ({error}); give them {help_text}.") from error
    return [name for row in rows for name in row]


def _lines_of(path: str) -> list[str]:
    if not Path(path).is_file():
        raise FileNotFoundError(f'There is no file of names {path}. (A name that begins with "@" stands in quotes.)')
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file in UTF-8 ({error}); it should hold a name on each line.") from error
