"""Projects: code outside of this package, which a config calls for by name."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode

ROOT = Path(__file__).resolve().parents[2]  # where projects/ stands beside dk_detr/: a checkout, or what pip installed


def add_projects(cfg: CfgNode, names: Sequence[str]) -> None:
    """Import the packages that a config file names in PROJECTS, and add their keys to the config.

    Importing one registers its parts with Detectron2; its function `add_config(cfg)`, if it has one, adds its keys.
    They must be there before the file is merged, so the names are read ahead.

    Raises: ValueError for a package that is not there.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f'PROJECTS is a list of packages, such as ["projects.ViLD.vild"], not {names!r}.')
    cfg.PROJECTS = list(names)
    for name in cfg.PROJECTS:
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
