"""Projects: code outside of this package, which a config calls for by name."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

ROOT = Path(__file__).resolve().parents[2]  # where projects/ stands beside dk_detr/: a checkout, or what pip installed
OF_KEEPERS = {"distillation": "projects.DETRDistill.detrdistill"}  # name in SOLVER.KEEP -> the package that adds it


def projects_of(content: Mapping[str, Any], opts: Sequence[str]) -> list[str]:
    """The packages that a config calls for: by PROJECTS, or by the name of something that is theirs.

    Args:
        content: of the file. opts: KEY, VALUE, KEY, VALUE, …, which count more.

    Raises: ValueError for PROJECTS that is no list of names.
    """
    given = {key: CfgNode._decode_cfg_value(value) for key, value in zip(opts[::2], opts[1::2])}
    names = given.get("PROJECTS", content.get("PROJECTS") or [])
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f'PROJECTS is a list of packages, such as ["projects.ViLD.vild"], not {names!r}.')
    solver = content.get("SOLVER")
    keepers = given.get("SOLVER.KEEP", solver.get("KEEP") if isinstance(solver, dict) else None)
    theirs = [OF_KEEPERS[name] for name in keepers if name in OF_KEEPERS] if isinstance(keepers, list | tuple) else []
    return list(dict.fromkeys([*names, *theirs]))


def add_projects(cfg: CfgNode, names: Sequence[str]) -> None:
    """Import packages, and add their keys to the config.

    Importing one registers its parts with Detectron2; its function `add_config(cfg)`, if it has one, adds its keys.
    They must be there before the file is merged, so the names are read ahead.

    Raises: ValueError for a package that is not there.
    """
    for name in names:
        project = _import(name)
        if hasattr(project, "add_config"):
            project.add_config(cfg)


def _import(name: str) -> object:
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f'PROJECTS names "{name}", but there is no package {error.name}. Write it as Python would import it from '
            'the root of the repository, such as "projects.ViLD.vild".'
        ) from error
