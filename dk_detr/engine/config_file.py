"""Config files, read as data. Detectron2 would run the Python that a file asks for by YAML tags; here it is refused."""

from typing import Any

import yaml
from detectron2.config import CfgNode

VERSION = 2  # of Detectron2's keys; the first is of 2019


def read_config(path: str) -> dict[str, Any]:
    """The keys of a config file and of its `_BASE_`.

    Raises: ValueError in one line that names the file, the line and what is wrong; FileNotFoundError for a base.
    """
    try:
        content = CfgNode.load_yaml_with_base(path, allow_unsafe=False)
    except yaml.MarkedYAMLError as error:
        raise ValueError(_in_one_line(error, path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file: {' '.join(str(error).split())}.") from error
    except AssertionError as error:  # a node here, and a value there
        raise ValueError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is its own _BASE_, or that of one of its bases.") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{path}, or a _BASE_ of it, is no config: wanted keys with values.") from error
    if not (isinstance(content, dict) and content.get("VERSION", VERSION) == VERSION):
        raise ValueError(f"{path} is no config: wanted keys with values, in VERSION {VERSION} of Detectron2's.")
    return content


def merge_config(cfg: CfgNode, content: dict[str, Any]) -> None:
    """Take the keys of a config file over. Raises KeyError and ValueError as Detectron2 does, in one line."""
    try:
        cfg.merge_from_other_cfg(CfgNode(content))
    except ValueError as error:
        if "\n" not in str(error):
            raise
        key = str(error).rsplit(":", 1)[-1].strip()
        raise ValueError(f"{key} is a group of keys, not a single value.") from error


def _in_one_line(error: yaml.MarkedYAMLError, path: str) -> str:
    mark, problem = error.problem_mark, error.problem or "it cannot be read"
    place = f"{mark.name}, line {mark.line + 1}" if mark else path
    if "constructor for the tag" not in problem:
        return f"{place}: no YAML: {error.context + ', ' if error.context else ''}{problem}."
    tag = problem.split("'")[1].replace("tag:yaml.org,2002:", "!!")
    return f"{place}: {tag} is more than data, and nothing in a config is run. Write the value itself."
