"""What the teachers of a config cost: a training step as the config has it, with its own words and weights, and without
what teaches."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model

from dk_detr.benchmark.distillation import sample
from dk_detr.benchmark.measure import Work, side_by_side, training_step
from dk_detr.benchmark.report import Report
from dk_detr.engine.setup import setup_cfg, with_values
from dk_detr.utils.memory import keep_freed_memory

ALONE = ("Denoising", "ContrastiveDenoising", "BoxDenoising", "OneToMany")  # training extensions without a teacher
HOUSE = (*ALONE, "Distillation")
PLAIN, TAUGHT = "plain student", "as configured"


def has_other_teachers(config_file: str) -> bool:
    """Whether a project teaches in the training of this config, too."""
    return bool(config_file and set(setup_cfg(config_file).MODEL.TRAINING_EXTENSIONS) - set(HOUSE))


def benchmark_as_configured(device: str, rounds: int, config_file: str, batch: int = 8) -> Report:
    """Forward, backward, AdamW, on generated images."""
    cfg = setup_cfg(config_file)
    teaching = [name for name in cfg.MODEL.TRAINING_EXTENSIONS if name not in ALONE]
    side = cfg.INPUT.MIN_SIZE_TEST
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
        kept = [each for each in cfg.MODEL.TRAINING_EXTENSIONS if each in ALONE]
        cfg = with_values(cfg, {"MODEL.TRAINING_EXTENSIONS": kept, "MODEL.KD.TERMS": []})
    torch.manual_seed(0)
    model: Any = build_model(cfg).train()
    inputs = [sample(cfg.INPUT.MIN_SIZE_TEST, number) for number in range(batch)]
    for given in inputs:
        given["instances"].gt_classes %= len(model.train_vocabulary)
    return training_step(model, lambda: sum(model(inputs).values()))
