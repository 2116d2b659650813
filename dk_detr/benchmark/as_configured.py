"""What the teachers of a config cost: a training step of a new student with them, with the config's own words and the
teachers' weights, and a step without."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from dk_detr.benchmark.distillation import sample
from dk_detr.benchmark.measure import Work, side_by_side, training_step
from dk_detr.benchmark.report import Report
from dk_detr.engine.setup import setup_cfg, with_values
from dk_detr.meta_arch.extensions import TRAINING_EXTENSIONS
from dk_detr.utils.memory import keep_freed_memory

PLAIN, TAUGHT = "plain student", "as configured"


def has_other_teachers(config_file: str) -> bool:
    """Whether a project teaches in the training of this config, too."""
    return bool(config_file and set(_teaching(setup_cfg(config_file))) - {"Distillation"})


def _teaching(cfg: CfgNode) -> list[str]:
    return [name for name in cfg.MODEL.TRAINING_EXTENSIONS if TRAINING_EXTENSIONS[name].has_teacher]


def benchmark_as_configured(device: str, rounds: int, config_file: str, batch: int = 8) -> Report:
    """Forward, backward, AdamW, on generated images."""
    cfg = setup_cfg(config_file)
    teaching, side = _teaching(cfg), cfg.INPUT.MIN_SIZE_TEST
    report = Report(
        device,
        f"Training step of {Path(config_file).stem}, {batch} images of {side}×{side}, with and without "
        f"{', '.join(teaching)}",
        compare="times the time",
    )
    ways = {name: partial(_training_step, name, config_file, device, batch) for name in (PLAIN, TAUGHT)}
    report.add("training step", PLAIN, side_by_side(ways, rounds, device, "training step"))
    return report


def _training_step(name: str, config_file: str, device: str, batch: int) -> Work:
    if device == "cpu":
        keep_freed_memory()  # as our tools do
    cfg = setup_cfg(config_file, ["MODEL.DEVICE", device])
    if name == PLAIN:
        kept = [each for each in cfg.MODEL.TRAINING_EXTENSIONS if each not in _teaching(cfg)]
        cfg = with_values(cfg, {"MODEL.TRAINING_EXTENSIONS": kept, "MODEL.KD.TERMS": []})
    torch.manual_seed(0)
    model: Any = build_model(cfg).train()
    inputs = [sample(cfg.INPUT.MIN_SIZE_TEST, number) for number in range(batch)]
    for given in inputs:
        given["instances"].gt_classes %= len(model.train_vocabulary)
    return training_step(model, lambda: sum(model(inputs).values()))
