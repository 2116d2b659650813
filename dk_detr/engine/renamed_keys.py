"""Config keys and values of earlier versions. A config that has one is refused, with what it is called now."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode

_TERMS = ("CLASS", "L1", "GIOU")
_LOSS = "MODEL.DETR.LOSS"

KEYS: dict[str, tuple[str, str]] = {
    "DATASETS.OWN": ("DATASETS.CUSTOM", ""),
    "MODEL.DETR.COMPANIONS": ("MODEL.TRAINING_EXTENSIONS", 'add "Distillation" where MODEL.KD.TERMS are learnt'),
    "MODEL.KD.COMPANIONS": ("MODEL.KD.QUERIES", '"All" is "Auxiliary", "Chosen" is "SelectedAuxiliary"'),
    "MODEL.KD.GROUP": ("MODEL.KD.QUERIES", '"detect" is "Detection"; else "Auxiliary" or "SelectedAuxiliary"'),
    "MODEL.KD.READS": ("MODEL.KD.ATTENDS_TO", '"distil" is "auxiliary", "detect" is "detection"'),
    **{
        f"{_LOSS}.{term}_WEIGHT": (f"{_LOSS}.WEIGHTS.{term}", f"of the first stage {_LOSS}.FIRST_STAGE_WEIGHTS.{term}")
        for term in _TERMS
    },
    **{f"MODEL.DETR.MATCHER.{term}_COST": (f"MODEL.DETR.MATCHER.{term}", "") for term in _TERMS},
}
"""Key, or group of keys, of an earlier version -> the key now, and what else to know ("" for nothing)."""

VALUES: dict[str, dict[str, str]] = {
    "MODEL.DETR.FIRST_STAGE": {"Objects": "ClassAgnostic", "Words": "ClassAware"},
}
"""Key -> value of an earlier version -> the value now."""


def by_dotted_key(node: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested groups: {"MODEL": {"MASK_ON": True}} -> {"MODEL.MASK_ON": True}."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        inner = by_dotted_key(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        found.update(inner)
    return found


def refuse_renamed_keys(cfg: CfgNode, content: Mapping[str, Any], opts: Sequence[str] = ()) -> None:
    """Raises ValueError that lists every renamed key and value which a config file or KEY VALUE pairs still have.

    Args:
        cfg: the defaults. A name that they still have is in use, whatever it meant in an earlier version.
        content: of a config file and its bases. opts: KEY VALUE pairs of the command line.
    """
    given = {**by_dotted_key(content), **dict(zip(opts[::2], opts[1::2]))}
    told = [*_renamed_keys(by_dotted_key(cfg), given), *_renamed_values(by_dotted_key(cfg), given)]
    if told:
        raise ValueError(" ".join(told))


def _renamed_keys(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    for old, (new, hint) in KEYS.items():
        if _has(given, old) and not _has(defaults, old):
            yield f"{old} is called {new} now{f' ({hint})' if hint else ''}."


def _has(values: Mapping[str, Any], key: str) -> bool:
    """Whether there is such a key or group of keys."""
    return any(f"{name}.".startswith(f"{key}.") for name in values)


def _renamed_values(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    for key, names in VALUES.items():
        value = str(given.get(key)).strip("'\"")  # on a command line it may stand in quotes
        if value in names and defaults.get(key) not in names:
            yield f'{key} "{value}" is called "{names[value]}" now.'
