"""What tools/convert_checkpoint.py does."""

import argparse
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from dk_detr.convert import SOURCES, Conversion, convert
from dk_detr.convert.names import some
from dk_detr.convert.reading import Checkpoint, files_of, fingerprint, read_checkpoint, refuse_what_is_not_finite
from dk_detr.convert.regionclip import with_localizer
from dk_detr.engine.setup import one_clear_error, setup_cfg
from dk_detr.utils import atomic_file

AUTHOR = "dk_detr convert_checkpoint"
VERSION = 1  # raise it when the same input is converted to something else
REPOSITORY = Path(__file__).resolve().parents[2]
OTHER_FORMATS = (".pkl", ".pyth", ".npz", ".safetensors")  # suffixes under which Detectron2 or open_clip expect others


def main(args: argparse.Namespace) -> None:
    """See tools/convert_checkpoint.py for the arguments."""
    with one_clear_error():
        print(convert_file(args.source, args.input, args.output, args.leave, args.localizer))


def convert_file(source: str, path: str, output: str, leave: Sequence[str] = (), localizer: str = "") -> str:
    """Convert a checkpoint and write it; what is there already of the same request is kept.

    Args:
        source: whose names the input uses, of `SOURCES`. path: a file, or a folder of Hugging Face's. output: a .pth
            file. leave: how the names begin of what is not to be used.
        localizer: of "regionclip", a detector whose proposal network is merged in.

    Returns: what became of the input, and how to use the output, for the terminal.
    Raises: FileNotFoundError; ValueError for what is no such checkpoint, and for an output of something else.
    """
    request = _request(source, path, leave, localizer)
    if _is_done(output, request):
        return f"{output} is there already, of the same input."
    checkpoint = read_checkpoint(path)
    if localizer:
        checkpoint = replace(checkpoint, state=_merged(checkpoint.state, localizer))
    conversion = _converted(source, path, checkpoint, leave)
    _write(output, conversion, checkpoint, request)
    files = ", ".join(file.name for file in files_of(path))
    return summary(f"{len(checkpoint.state)} of {source} ({files})", output, conversion, checkpoint.beside)


def _converted(source: str, path: str, checkpoint: Checkpoint, leave: Sequence[str]) -> Conversion:
    used = {name: tensor for name, tensor in checkpoint.state.items() if not name.startswith(tuple(leave))}
    # CLIP's masks are infinite where nothing is to be seen.
    refuse_what_is_not_finite({k: v for k, v in used.items() if not k.endswith("attn_mask")}, path)
    told = getattr(SOURCES[source], "known_settings", None)
    try:
        known = told(checkpoint.config) if told and checkpoint.config else {}
        return convert(source, checkpoint.state, known, leave)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _merged(state: Mapping[str, Tensor], localizer: str) -> dict[str, Tensor]:
    try:
        return with_localizer(state, read_checkpoint(localizer).state)
    except ValueError as error:
        raise ValueError(f"--localizer {localizer}: {error}") from error


def _request(source: str, path: str, leave: Sequence[str], localizer: str) -> dict[str, Any]:
    if localizer and source != "regionclip":
        raise ValueError(f"--localizer is for the source regionclip, not for {source}.")
    for file in filter(None, (path, localizer)):
        if not Path(file).exists():
            raise FileNotFoundError(f"There is no checkpoint {file}.")
    request = {"source": source, "leave": list(leave), "contents": fingerprint(path), "version": VERSION}
    return {**request, "localizer": fingerprint(localizer)} if localizer else request


def _is_done(path: str, request: Mapping[str, Any]) -> bool:
    """Whether the output is there. Raises ValueError where something else is, or for a name of another format."""
    if Path(path).suffix in OTHER_FORMATS:
        raise ValueError(f"{path} would be taken for a file of another format by its name; let it end in .pth.")
    if not Path(path).exists():
        return False
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, pickle.UnpicklingError):
        found = None
    account = found.get("conversion") if isinstance(found, dict) else None
    if isinstance(account, dict) and account.get("request") == request:
        return True
    raise ValueError(f"{path} is there already, and is not of this input: remove it, or choose another name.")


def _write(path: str, conversion: Conversion, checkpoint: Checkpoint, request: Mapping[str, Any]) -> None:
    account = {**conversion.report, "beside": list(checkpoint.beside), "request": dict(request)}
    content: dict[str, Any] = {"__author__": AUTHOR, "conversion": account}
    if conversion.state:
        content["model"] = conversion.state
    if conversion.clip:
        content["state_dict"] = conversion.clip
    with atomic_file(path) as part:
        torch.save(content, part)


def summary(origin: str, output: str, conversion: Conversion, not_loaded: Sequence[str]) -> str:
    """What became of the input, and what to do with the output.

    Args:
        origin: how many tensors, and of what. not_loaded: what the input holds beside its weights.
    """
    lines = [f"{output}: {_contents(conversion)}, from {origin}"]
    lines.append(f"  used    {len(conversion.used):5}")
    for reason, names in conversion.by_reason().items():
        lines.append(f"  listed  {len(names):5}  {reason}: {some(names, 2)}")
    if not_loaded:
        lines.append(f"  not loaded: {', '.join(not_loaded)}")
    lines += [f"  note: {note}" for note in conversion.notes]
    return "\n".join([*lines, *_usage(output, conversion)])


def _contents(conversion: Conversion) -> str:
    parts = {"for MODEL.WEIGHTS": conversion.state, "for MODEL.CLIP.WEIGHTS": conversion.clip}
    return " and ".join(f"{len(state)} tensors {use}" for use, state in parts.items() if state)


def _usage(output: str, conversion: Conversion) -> list[str]:
    teacher = {key: value for key, value in conversion.settings.items() if key.startswith("MODEL.CLIP.")}
    rest = {key: value for key, value in conversion.settings.items() if key not in teacher}
    lines = []
    if conversion.clip:
        lines.append(f"  teacher: {_words(teacher | {'MODEL.CLIP.WEIGHTS': output})}")
    if conversion.state:
        file = REPOSITORY / conversion.config
        rest = _differing(rest, setup_cfg(str(file))) if file.is_file() else rest
        lines.append(f"  detector: --config-file {conversion.config} {_words(rest | {'MODEL.WEIGHTS': output})}")
    return lines


def _differing(settings: Mapping[str, Any], cfg: CfgNode) -> dict[str, Any]:
    """The settings that the config does not have anyway."""
    differing = {}
    for key, value in settings.items():
        node: Any = cfg
        for part in key.split("."):
            node = node[part]
        if node != value:
            differing[key] = value
    return differing


def _words(settings: Mapping[str, Any]) -> str:
    return " ".join(f'{key} "{value}"' if " " in str(value) else f"{key} {value}" for key, value in settings.items())
