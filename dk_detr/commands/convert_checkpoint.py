"""What tools/convert_checkpoint.py does."""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from dk_detr.convert import SOURCES, Conversion, convert
from dk_detr.convert.names import some
from dk_detr.convert.reading import Checkpoint, files_of, fingerprint, read_checkpoint, refuse_what_is_not_finite
from dk_detr.engine.setup import one_clear_error, setup_cfg
from dk_detr.utils import atomic_file

AUTHOR = "dk_detr convert_checkpoint"
VERSION = 1  # of what this module makes of the same input
REPOSITORY = Path(__file__).resolve().parents[2]
OTHER_FORMATS = (".pkl", ".pyth", ".npz", ".safetensors")  # suffixes under which Detectron2 or open_clip expect others


def main(args: argparse.Namespace) -> None:
    """Convert and write; what is there already of the same request is kept."""
    with one_clear_error():
        request = _request(args)
        if _is_done(args.output, request):
            print(f"{args.output} is there already, of the same input.")
            return
        checkpoint = read_checkpoint(args.input)
        conversion = _converted(args, checkpoint)
        _write(args.output, conversion, checkpoint, request)
        print(summary(args, conversion, checkpoint))


def _converted(args: argparse.Namespace, checkpoint: Checkpoint) -> Conversion:
    used = {name: tensor for name, tensor in checkpoint.state.items() if not name.startswith(tuple(args.leave))}
    # CLIP's masks are infinite where nothing is to be seen.
    refuse_what_is_not_finite({k: v for k, v in used.items() if not k.endswith("attn_mask")}, args.input)
    told = getattr(SOURCES[args.source], "known_settings", None)
    try:
        known = told(checkpoint.config) if told and checkpoint.config else {}
        return convert(args.source, checkpoint.state, known, args.leave)
    except ValueError as error:
        raise ValueError(f"{args.input}: {error}") from error


def _request(args: argparse.Namespace) -> dict[str, Any]:
    if not Path(args.input).exists():
        raise FileNotFoundError(f"There is no checkpoint {args.input}.")
    contents = fingerprint(args.input)
    return {"source": args.source, "leave": list(args.leave), "contents": contents, "version": VERSION}


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


def summary(args: argparse.Namespace, conversion: Conversion, checkpoint: Checkpoint) -> str:
    """What became of the input, and what to do with the output."""
    files = ", ".join(file.name for file in files_of(args.input))
    lines = [f"{args.output}: {_contents(conversion)}, from {len(checkpoint.state)} of {args.source} ({files})"]
    lines.append(f"  used    {len(conversion.used):5}")
    for reason, names in conversion.by_reason().items():
        lines.append(f"  listed  {len(names):5}  {reason}: {some(names, 2)}")
    if checkpoint.beside:
        lines.append(f"  not loaded: {', '.join(checkpoint.beside)}")
    lines += [f"  note: {note}" for note in conversion.notes]
    return "\n".join([*lines, *_usage(args.output, conversion)])


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
