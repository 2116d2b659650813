"""What masks cost: a training step, and inference on one image, with boxes alone and with masks."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import PolygonMasks

from dk_detr.benchmark.distillation import CONFIGS, built, sample, shared_settings
from dk_detr.benchmark.measure import Work, side_by_side, training_step
from dk_detr.benchmark.report import Report

BOXES, MASKS = "boxes", "boxes and masks"
OBJECTS = 12  # of an image


def benchmark_masks(device: str, rounds: int, config_file: str = "", batch: int = 8) -> Report:
    """Of a detector without distillation: forward, backward, AdamW, on generated images; then inference.

    Weights are random: what masks cost does not depend on what they show.
    """
    path = config_file or str(CONFIGS[device])
    with tempfile.TemporaryDirectory(prefix="dk_detr-") as folder:
        cfg = shared_settings(path, device, folder)
        side = cfg.INPUT.MIN_SIZE_TEST
        report = Report(
            device,
            f"{Path(path).stem} without distillation, {side}×{side}, {cfg.MODEL.DETR.NUM_QUERIES} queries. Training "
            f"step: {batch} images of {OBJECTS} objects. Inference: {cfg.TEST.DETECTIONS_PER_IMAGE} of an image",
            compare="times the time",
        )
        for task, make in (("training step", partial(_training_step, batch)), ("inference", _inference)):
            ways = {name: partial(make, name, path, device, folder) for name in (BOXES, MASKS)}
            report.add(task, BOXES, side_by_side(ways, rounds, device, task))
    return report


def _change(name: str, cfg: CfgNode) -> None:
    cfg.MODEL.TRAINING_EXTENSIONS = []
    cfg.MODEL.MASK_ON, cfg.MODEL.DETR.MASKS = name == MASKS, "Dynamic"


def _training_step(batch: int, name: str, path: str, device: str, folder: str) -> Work:
    cfg, model = built(partial(_change, name), path, device, folder)
    model.train()
    inputs = [_with_masks(sample(cfg.INPUT.MIN_SIZE_TEST, number, OBJECTS)) for number in range(batch)]
    return training_step(model, lambda: sum(model(inputs).values()))


def _with_masks(given: dict[str, Any]) -> dict[str, Any]:
    """Rhombs in the boxes."""
    boxes = given["instances"].gt_boxes.tensor
    (left, top, right, bottom), (x, y) = boxes.T, (boxes[:, :2] + boxes[:, 2:]).T / 2
    outlines = torch.stack([left, y, x, top, right, y, x, bottom], dim=1)
    given["instances"].gt_masks = PolygonMasks([[outline] for outline in outlines.tolist()])
    return given


def _inference(name: str, path: str, device: str, folder: str) -> Work:
    cfg, model = built(partial(_change, name), path, device, folder)
    model.eval()
    inputs = [sample(cfg.INPUT.MIN_SIZE_TEST, 0)]
    return lambda: model(inputs)
