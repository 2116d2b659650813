"""What a part finds out: a figure or a reason why there is none, told as soon as it is known."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """What every part is told.

    Attributes:
        device: "cuda", or "cpu" for a dry run at tiny sizes. output: a folder for what parts write.
        photos: a folder of photos with LVIS's words, or "". mini: a folder with the CLIP and words of the mini world,
            or "", and they are made.
        seconds: of a part, for those that fill what they are given.
    """

    device: str
    output: str
    photos: str = ""
    mini: str = ""
    seconds: float = 600.0

    @property
    def dry(self) -> bool:
        """Whether sizes are tiny, and figures say nothing."""
        return self.device == "cpu"


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        what: was looked at. figure: None where there is none, and `note` says why. aim: for example "≥ 2"; "" for a
            figure that is only told. met: None without an aim. series: findings of one series that meet their aim
            share a line of the table.
    """

    what: str
    figure: float | None = None
    unit: str = ""
    aim: str = ""
    met: bool | None = None
    note: str = ""
    series: str = ""


Tell = Callable[[Finding], None]


def at_least(bound: float, what: str, figure: float, unit: str = "", note: str = "") -> Finding:
    """A figure that should not be lower."""
    return Finding(what, figure, unit, f"≥ {bound:g}", figure >= bound, note)


def at_most(bound: float, what: str, figure: float, unit: str = "", note: str = "", series: str = "") -> Finding:
    """A figure that should not be higher; NaN is."""
    return Finding(what, figure, unit, f"≤ {bound:g}", figure <= bound, note, series)


def failed(what: str, error: BaseException | str, series: str = "") -> Finding:
    """Something that should work and does not."""
    said = error if isinstance(error, str) else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return Finding(what, met=False, note=said, series=series)


def missing(what: str, why: str) -> Finding:
    """Something that could not be looked at here."""
    return Finding(what, note=why)


def attempt(tell: Tell, what: str, work: Callable[[], object], series: str = "") -> None:
    """Do it; where it fails, tell that and go on."""
    try:
        work()
    except (Exception, SystemExit) as error:  # noqa: BLE001  each is a finding
        tell(failed(what, error, series))


class Notebook:
    """A file of findings, a JSON object a line, which a process that dies leaves as it is."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __call__(self, finding: Finding) -> None:
        """Write one more."""
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(finding)) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """What whole lines hold so far."""
        if not self.path.is_file():
            return []
        lines = self.path.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]
