"""Whether the weights of a file belong to a model; what does not fit is refused, or starts new where asked for."""

import logging
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from fvcore.common.checkpoint import _IncompatibleKeys
from torch import Tensor, nn

from dk_detr.convert import likely_source
from dk_detr.convert.names import some
from dk_detr.convert.reading import read_checkpoint
from dk_detr.meta_arch.open_vocabulary import OpenVocabularyDetector

logger = logging.getLogger(__name__)
STAGE = re.compile(r"backbone\.(?:.+?[._])??(?:res|stages?_?|layers?_?)\d")
"""How the name of a parameter of a stage begins, of Detectron2's and timm's backbones."""


def needs_weights(cfg: CfgNode) -> bool:
    """Whether a detector of this config detects nothing without MODEL.WEIGHTS."""
    kind = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    return not (issubclass(kind, OpenVocabularyDetector) and kind.detects_untrained(cfg))


def no_weights(path: str) -> OSError | ValueError:
    """The error for a path that is no file."""
    if os.path.isdir(path):
        return ValueError(f"{path} (MODEL.WEIGHTS) is a folder. {_way_into(path)}")
    base = "" if os.path.isabs(path) else f" Its path starts from {os.getcwd()}."
    return FileNotFoundError(f"There are no weights {path} (MODEL.WEIGHTS).{base}")


def _way_into(folder: str) -> str:
    try:
        source = likely_source(read_checkpoint(folder).state)
    except (FileNotFoundError, ValueError):
        source = ""
    return _conversion(source, folder) if source else "Name the file in it."


def under_our_names(weights: dict[str, Tensor], ours: Mapping[str, Any]) -> dict[str, Tensor]:
    """Without a word before all names, "teacher.", with which none of them is known and without which some are."""
    bare = weights
    while bare and not bare.keys() & ours.keys():
        first = {name.partition(".")[0] for name in bare}
        if len(first) > 1 or not all("." in name for name in bare):
            return weights
        bare = {name.partition(".")[2]: tensor for name, tensor in bare.items()}
    return bare


def start_new(found: _IncompatibleKeys, model: nn.Module, parts: Sequence[str], path: str) -> _IncompatibleKeys:
    """What does not fit, without what is of the parts of MODEL.NEW_PARTS, which is listed in the log.

    Raises: ValueError for a part that neither model nor file has.
    """
    here = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for part in parts:
        if not any(_is_of(name, [part]) for name in (*here, *found.unexpected_keys)):
            raise ValueError(f'MODEL.NEW_PARTS names "{part}", which is no part; there are {", ".join(_parts(here))}.')
    reshaped = {name for name, *_ in found.incorrect_shapes}  # PyTorch misses them, too
    lines = [
        *(f"{name}: {tuple(there)} in the file, {tuple(ours)} here" for name, there, ours in found.incorrect_shapes),
        *(f"{name}: not in the file, {here[name]} here" for name in found.missing_keys if name not in reshaped),
        *(f"{name}: in the file, has no place here" for name in found.unexpected_keys),
    ]
    listed = [line for line in lines if _is_of(line.partition(":")[0], parts)]
    if listed:
        logger.info(f"{path}: these start new (MODEL.NEW_PARTS):\n  " + "\n  ".join(listed))
    return _IncompatibleKeys(*([key for key in kind if not _is_of(_name(key), parts)] for kind in found))


def refuse_other_architectures(
    found: _IncompatibleKeys, model: nn.Module, path: str, theirs: Mapping[str, Tensor], new_parts: Sequence[str] | None
) -> None:
    """A backbone alone may start training; half a detector may not, and none may be evaluated: it would train or
    score as if nothing were wrong.

    Args:
        found: what does not fit. theirs: what the file holds. new_parts: those that may start new already; None where
            nothing may.

    Raises: ValueError that says what the file holds, and the way out.
    """
    what = _misfit(found, model, new_parts or ())
    if what is None:
        return
    source = likely_source(theirs)
    if source:
        raise ValueError(f"{path} holds weights of another library or release. {_conversion(source, path)}")
    known = found.incorrect_shapes or len(found.unexpected_keys) < len(theirs)
    way = _way_out(found, new_parts) if known else f"It holds {some(sorted(theirs), 2)}."
    raise ValueError(f"{path} is of another detector: {what} {way}")


def refuse_parts_of_a_detector(found: _IncompatibleKeys, path: str) -> None:
    """Raises ValueError where weights that are to be kept are not all there: a backbone alone, or parts of another
    shape, know no words."""
    missing, _ = _counted(found)
    lacking = [*(_name(key) for key in found.incorrect_shapes), *missing]
    if lacking:
        raise ValueError(
            f"{path} (MODEL.WEIGHTS) is no whole detector: {lacking[0]} starts new ({len(lacking)} such). "
            "DATASETS.KEEP and SOLVER.KEEP are for weights that detect already: name such, or take them out."
        )


def _misfit(found: _IncompatibleKeys, model: nn.Module, new_parts: Sequence[str]) -> str | None:
    """What is wrong, in a sentence; None where nothing is."""
    missing, surplus = _counted(found)
    parameters = [key for key, _ in model.named_parameters() if not _is_of(key, ["extensions", *new_parts])]
    rest = [key for key in missing if not key.startswith("backbone.")]
    others = {key for key in parameters if not key.startswith("backbone.")}
    only_backbone = model.training and others <= set(rest) and len(missing) < len(parameters)
    if found.incorrect_shapes:
        key, there, here = found.incorrect_shapes[0]
        number = f"({len(found.incorrect_shapes)} such keys)"
        return f"{key} has shape {tuple(there)}, this config wants {tuple(here)} {number}."
    if only_backbone:
        return _half_a_stage(missing, parameters)
    if rest or len(missing) >= len(parameters) > 0:
        return f"{len(missing)} of {len(parameters)} parameters of this config are not in it, for example {missing[0]}."
    if surplus:
        return f"it holds {len(surplus)} parameters that this config has no place for, for example {surplus[0]}."
    return None


def _half_a_stage(missing: Sequence[str], parameters: Sequence[str]) -> str | None:
    """A backbone of another depth has some blocks of a stage; a pyramid on top of it starts new."""
    absent = set(missing)
    there = {stage[0] for name in parameters if name not in absent and (stage := STAGE.match(name))}
    broken = [name for name in parameters if name in absent and (stage := STAGE.match(name)) and stage[0] in there]
    if not broken:
        return None
    return f"{len(broken)} parameters of its backbone's stages are missing, for example {broken[0]}: is it as deep?"


def _counted(found: _IncompatibleKeys) -> tuple[list[str], list[str]]:
    """Names that are missed, and names too many. Extensions exist in training only, weights are as good without them;
    a backbone may bring its classifier."""
    missing = [key for key in found.missing_keys if not key.startswith("extensions.")]
    return missing, [key for key in found.unexpected_keys if not key.startswith(("extensions.", "backbone."))]


def _way_out(found: _IncompatibleKeys, new_parts: Sequence[str] | None) -> str:
    if new_parts is None:
        return "Use the config it was trained with."
    missing, surplus = _counted(found)
    keys = [_name(key) for key in (*found.incorrect_shapes, *missing, *surplus)]
    parts = sorted({*new_parts, *(key.split(".")[0] for key in keys)})
    return f'Use the config it was trained with, or start what does not fit anew: MODEL.NEW_PARTS "{parts}".'


def _conversion(source: str, path: str) -> str:
    new = f"{Path(path).stem}_converted.pth"
    command = shlex.join(["python", "tools/convert_checkpoint.py", source, path, new])
    return f"They look like {source}: convert them, {command}, and name {new}."


def _parts(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.split(".")[0] for name in names))


def _is_of(name: str, parts: Iterable[str]) -> bool:
    return any(f"{name}.".startswith(f"{part}.") for part in parts)


def _name(key: Any) -> str:
    """Of what does not fit: a name, or a name with two shapes."""
    return key if isinstance(key, str) else str(key[0])
