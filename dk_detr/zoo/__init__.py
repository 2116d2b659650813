"""The configs that come with the package, by their names, from any folder."""

import difflib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
ROOT = CHECKOUT if (CHECKOUT / "configs").is_dir() else HERE
"""Where configs/ and projects/*/configs/ stand side by side: a checkout, or this folder, where pip puts them."""


@cache
def config_files() -> tuple[Path, ...]:
    """Every config, relative to ROOT."""
    patterns = ("configs/**/*.yaml", "projects/*/configs/**/*.yaml")
    return tuple(sorted(path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern)))


def config_path(name: str, key: str = "") -> Path:
    """The file of a config.

    Args:
        name: a path; else the end of one of `config_files`, with or without ".yaml": "dk_detr_R50", "mini/dk_detr",
            "ViLD/configs/mini/ViLD.yaml".
        key: that names it, for errors.

    Raises: FileNotFoundError, with names that are like it; ValueError for a name of several configs.
    """
    if Path(name).is_file():
        return Path(name)
    found = list(_of_name(Path(name)))
    if len(found) == 1:
        return ROOT / found[0]
    if found:
        raise ValueError(f'"{name}" is the name of several configs: {", ".join(map(str, found))}.')
    stems = {path.stem: path for path in config_files()}
    near = difflib.get_close_matches(Path(name).stem, stems, n=3)
    hint = f" Did you mean {' or '.join(str(stems[stem]) for stem in near)}?" if near else ""
    raise FileNotFoundError(f"There is no config file {name}{f' ({key})' if key else ''}.{hint}")


def _of_name(name: Path) -> Iterator[Path]:
    """Those whose path ends so; of a lone name, the config in the outermost folder."""
    wanted = name if name.suffix == ".yaml" else name.with_name(f"{name.name}.yaml")
    found = [path for path in config_files() if path.parts[-len(wanted.parts) :] == wanted.parts]
    fewest = min((len(path.parts) for path in found), default=0)
    yield from (path for path in found if len(path.parts) == fewest)
