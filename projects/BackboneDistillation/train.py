#!/usr/bin/env python3
"""Train a backbone on crops of labelled boxes, and before that the teachers that its config names.

    python projects/BackboneDistillation/train.py --config-file projects/BackboneDistillation/configs/mini/logits.yaml
    python projects/BackboneDistillation/train.py --config-file … --resume          goes on, with a teacher, too
    python projects/BackboneDistillation/train.py --config-file … MODEL.BACKBONE_KD.TEACHER.WEIGHTS teacher.pth

The teacher's run is in OUTPUT_DIR/teacher; one that is finished is not trained again. OUTPUT_DIR/backbone.pth is for
MODEL.WEIGHTS of a detector with the same backbone.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[2]))

import torch

import dk_detr  # noqa: F401  first, so that Detectron2 can be imported
from dk_detr.commands.custom_data_options import parse_with_custom_data
from dk_detr.commands.train import main as train
from dk_detr.engine.ema import averaged
from dk_detr.engine.run_folder import FINAL
from dk_detr.engine.setup import one_clear_error, setup_cfg
from dk_detr.utils import atomic_file

TEACHER = "MODEL.BACKBONE_KD.TEACHER"
SHARED = ("SEED", "MODEL.DEVICE", "MODEL.VOCABULARY.", "MODEL.CLIP.", "DATASETS.", "DATALOADER.", "SOLVER.AMP.")
"""How keys begin that are a teacher's, too, where the command line gives them."""

Run = tuple[str, list[str]]  # config file, KEY VALUE pairs


def runs_of(config_file: str, opts: Sequence[str]) -> list[Run]:
    """What is to be trained, teachers first."""
    cfg, opts = setup_cfg(config_file, opts), list(opts)
    if "BACKBONE_KD" not in cfg.MODEL:
        raise ValueError(f"{config_file} trains no backbone: PROJECTS does not name projects.BackboneDistillation.")
    named = cfg.MODEL.BACKBONE_KD.TEACHER
    if not cfg.MODEL.BACKBONE_KD.TERMS or named.CONFIG in ("", "CLIP") or named.WEIGHTS:
        return [(config_file, opts)]
    folder = os.path.join(cfg.OUTPUT_DIR, "teacher")
    pairs = zip(opts[::2], opts[1::2])
    shared = [word for key, value in pairs if key.startswith(SHARED) for word in (key, value)]
    before = runs_of(named.CONFIG, [*shared, *map(str, named.OPTS), "OUTPUT_DIR", folder])
    return [*before, (config_file, [*opts, f"{TEACHER}.WEIGHTS", os.path.join(folder, FINAL)])]


def write_backbone(folder: str) -> str:
    """From the run of a folder its backbone, in a file whose names any of Detectron2's and this project's detectors
    take, with a pyramid (bottom_up) or without; returns the path."""
    content = torch.load(os.path.join(folder, FINAL), map_location="cpu", weights_only=True)
    weights = averaged(content) or content["model"]
    part = {name.removeprefix("backbone."): w for name, w in weights.items() if name.startswith("backbone.")}
    path = os.path.join(folder, "backbone.pth")
    with atomic_file(path) as file:
        torch.save({"model": part, "matching_heuristics": True, "__author__": "dk_detr"}, file)
    return path


def main(args: argparse.Namespace) -> None:
    """Train all that is to be trained, then write the backbone."""
    with one_clear_error():
        runs = runs_of(args.config_file, args.opts)
        folder = setup_cfg(*runs[-1]).OUTPUT_DIR
    for number, (config_file, opts) in enumerate(runs):
        last = number == len(runs) - 1
        print(f"Run {number + 1} of {len(runs)}: {config_file}", flush=True)
        given = {"config_file": config_file, "opts": opts, "resume": args.resume or not last}
        train(argparse.Namespace(**given, num_gpus=args.num_gpus, eval_only=False))
    with one_clear_error():
        print(f"The backbone is in {write_backbone(folder)}: MODEL.WEIGHTS of a detector.")


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes; on a machine without GPU, CPU processes")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    return parse_with_custom_data(parser)


if __name__ == "__main__":
    main(parse())
