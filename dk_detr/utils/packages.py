"""Packages that only a part of the project needs."""

import importlib
from typing import Any


def optional_package(name: str, who_needs: str) -> Any:
    """The package. Raises ImportError, "<who_needs> the package: pip install <name>.", where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{who_needs} the package: pip install {name}.") from error
