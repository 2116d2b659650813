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
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.append(str(ROOT))

import torch
from detectron2.config import CfgNode

import dk_detr  # noqa: F401  first, so that Detectron2 can be imported
from dk_detr.commands.custom_data_options import parse_with_custom_data
from dk_detr.commands.machine_options import add_machine_options, machine_arguments
from dk_detr.convert.reading import read_content
from dk_detr.engine.evaluated import evaluated_weights
from dk_detr.engine.run_folder import FINAL, changes_since
from dk_detr.engine.setup import one_clear_error, setup_cfg
from dk_detr.utils import atomic_file
from projects.BackboneDistillation.backbone_distillation.classifier import refuse_bad_values, terms_from_config
from projects.BackboneDistillation.backbone_distillation.teacher import CLIP, refuse_mismatch

TEACHER = "MODEL.BACKBONE_KD.TEACHER"
TRAIN_NET = str(ROOT / "tools" / "train_net.py")
FREE = ("OUTPUT_DIR", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD")
"""Keys that make no other teacher."""
SHARED = ("SEED", "MODEL.DEVICE", "MODEL.VOCABULARY.", "MODEL.CLIP.", "DATASETS.", "DATALOADER.", "SOLVER.AMP.")
"""How keys begin that are a teacher's, too, where the command line gives them."""

Run = tuple[str, list[str]]  # config file, KEY VALUE pairs


def runs_of(config_file: str, opts: Sequence[str]) -> list[Run]:
    """What is to be trained, teachers first.

    Raises: ValueError for what the configs alone tell to be wrong, and for a teacher that was trained with others.
    """
    return _runs_of(config_file, list(opts), ())


def _runs_of(config_file: str, opts: list[str], above: tuple[str, ...]) -> list[Run]:
    cfg = setup_cfg(config_file, opts)
    if "BACKBONE_KD" not in cfg.MODEL:
        raise ValueError(f"{config_file} trains no backbone: PROJECTS does not name projects.BackboneDistillation.")
    if config_file in above:
        raise ValueError(f"{config_file} is its own teacher ({TEACHER}.CONFIG).")
    refuse_bad_values(cfg)
    terms = terms_from_config(cfg)
    named = cfg.MODEL.BACKBONE_KD.TEACHER
    if not terms or named.CONFIG == CLIP or named.WEIGHTS:
        return [(config_file, opts)]
    folder = os.path.join(cfg.OUTPUT_DIR, "teacher")
    shared = [word for key, value in zip(opts[::2], opts[1::2]) if key.startswith(SHARED) for word in (key, value)]
    theirs = [*shared, *map(str, named.OPTS), "OUTPUT_DIR", folder]
    before = _runs_of(named.CONFIG, theirs, (*above, config_file))
    teacher = setup_cfg(*before[-1])
    refuse_mismatch(cfg, teacher, terms)
    _refuse_other_run(folder, teacher)
    own = [f"{TEACHER}.CONFIG", os.path.join(folder, "config.yaml"), f"{TEACHER}.WEIGHTS", os.path.join(folder, FINAL)]
    return [*before, (config_file, [*opts, *own])]


def _refuse_other_run(folder: str, cfg: CfgNode) -> None:
    """A teacher that is there already is taken, or gone on with, if it is this one."""
    changes = [f"{key} {old} -> {new}" for key, (old, new) in changes_since(folder, cfg).items() if key not in FREE]
    if changes:
        raise ValueError(
            f"{folder} holds a teacher that was trained with other settings: {', '.join(changes[:5])}. Name another "
            f"OUTPUT_DIR, or remove it; or take it as it is, {TEACHER}.CONFIG {folder}/config.yaml {TEACHER}.WEIGHTS "
            f"{folder}/{FINAL}."
        )


def write_backbone(folder: str) -> str:
    """From the run of a folder its backbone, in a file whose names any of Detectron2's and this project's detectors
    take, with a pyramid (bottom_up) or without; returns the path."""
    trained = Path(folder) / FINAL
    weights = evaluated_weights(read_content(trained), trained)
    part = {name.removeprefix("backbone."): w for name, w in weights.items() if name.startswith("backbone.")}
    path = os.path.join(folder, "backbone.pth")
    with atomic_file(path) as file:
        torch.save({"model": part, "matching_heuristics": True, "__author__": "dk_detr"}, file)
    return path


def main(args: argparse.Namespace) -> None:
    """Train all that is to be trained, each in a process of its own; then write the backbone, on the first machine."""
    with one_clear_error():
        machines = machine_arguments(args)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            raise ValueError("train.py starts its processes itself: call it without torchrun, with --num-gpus N.")
        runs = runs_of(args.config_file, args.opts)
        folder = setup_cfg(*runs[-1]).OUTPUT_DIR
    for number, (config_file, opts) in enumerate(runs, start=1):
        print(f"Run {number} of {len(runs)}: {config_file}", flush=True)
        resume = ["--resume"] if args.resume or number < len(runs) else []
        command = [sys.executable, TRAIN_NET, "--config-file", config_file, *machines, *resume]
        done = subprocess.run([*command, *opts], check=False)
        if done.returncode:
            sys.exit(done.returncode)
    if args.machine_rank:
        return
    with one_clear_error():
        print(f"The backbone is in {write_backbone(folder)}: MODEL.WEIGHTS of a detector.")


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    add_machine_options(parser)
    return parse_with_custom_data(parser)


if __name__ == "__main__":
    main(parse())
