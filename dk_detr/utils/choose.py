"""Values of config keys that name one of several things."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

Part = TypeVar("Part")


def require(key: str, name: str, choices: Iterable[str]) -> None:
    """Raises ValueError for a value of the config key that is not among the choices."""
    choices = tuple(choices)
    if name not in choices:
        raise ValueError(f'{key} is "{name}"; choose one of {", ".join(choices)}.')


def choose(parts: Mapping[str, Part], key: str, name: str) -> Part:
    """The part that a config key names. Raises ValueError for an unknown name."""
    require(key, name, parts)
    return parts[name]
