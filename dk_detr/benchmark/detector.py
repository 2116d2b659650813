"""A whole detector against Hugging Face's of the same weights: two-stage Deformable DETR with refinement, R50; and
beside it others of the series."""

import importlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from dk_detr.benchmark.measure import Work, side_by_side, training_step
from dk_detr.benchmark.report import Report
from dk_detr.convert import convert
from dk_detr.engine.setup import setup_cfg
from dk_detr.layers import to_cxcywh
from dk_detr.utils.memory import keep_freed_memory

CONFIGS = Path(__file__).parents[2] / "configs"
CONFIG = CONFIGS / "deformable_detr_two_stage_R50.yaml"
SERIES = {
    "Deformable DETR": "deformable_detr_two_stage_R50", "DINO": "dino_R50_4scale", "AdaMixer": "adamixer_R50_1x",
    "AdaMixer, 300 queries": "adamixer_R50_3x_300",
}  # fmt: skip
CLASSES, QUERIES, OBJECTS = 91, 300, 10
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
OURS, THEIRS = "dk_detr", "transformers"
TUNED = "transformers, memory kept"  # with the one setting of ours that they could have as well, see engine/memory.py


def benchmark_detector(device: str, rounds: int, size: int = 800, train_size: int = 512) -> Report:
    """Inference on one image of size × size, and a training step on one of train_size × train_size.

    Their inference is the network alone; ours also normalises the pixels and turns predictions into detections.
    Raises: ImportError without `transformers`; RuntimeError where the two do not say the same.
    """
    difference = difference_of_scores(device)
    report = Report(
        device,
        f"Two-stage Deformable DETR with refinement, R50, {QUERIES} queries, {CLASSES} classes, float32, batch 1. "
        f"Inference: {size}×{size}. Training step: {train_size}×{train_size}, losses of all layers, backward, AdamW",
        notes=[f"Weights are the same: the {QUERIES} best scores differ by at most {difference:.1e}."],
    )
    names = [OURS, THEIRS] + ([] if device == "cuda" else [TUNED])
    for task, make, side in (("inference", _inference, size), ("training step", _training_step, train_size)):
        ways = {name: partial(make, name, side, device) for name in names}
        report.add(task, THEIRS, side_by_side(ways, rounds, device, task))
    for task, make_series, side in (("inference", _inference_of, size), ("training step", _step_of, train_size)):
        ways = {name: partial(make_series, config, side, device) for name, config in SERIES.items()}
        report.add(f"{task}, series", next(iter(SERIES)), side_by_side(ways, rounds, device, task))
    return report


def hugging_face(device: str) -> Any:
    """Their detector with random weights."""
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise ImportError("The comparison needs Hugging Face's `transformers`: pip install transformers.") from error
    transformers.logging.set_verbosity_error()
    config = transformers.DeformableDetrConfig(
        backbone_config=transformers.ResNetConfig(out_features=["stage2", "stage3", "stage4"]),
        two_stage=True,
        with_box_refine=True,
        num_queries=QUERIES,
        two_stage_num_proposals=QUERIES,
        num_labels=CLASSES,
        auxiliary_loss=True,
    )
    torch.manual_seed(0)
    return transformers.DeformableDetrForObjectDetection(config).to(device)


def same_detector(theirs: Any, device: str) -> nn.Module:
    """Ours with their weights; of their 91 classes the 80 that COCO has."""
    conversion = convert("hf-deformable-detr", theirs.state_dict())
    settings = {**conversion.settings, "MODEL.DEVICE": device, "TEST.DETECTIONS_PER_IMAGE": QUERIES}
    detector = build_model(setup_cfg(str(CONFIG), [str(word) for pair in settings.items() for word in pair]))
    detector.load_state_dict(conversion.state)
    return detector


def pixels_of(size: int) -> Tensor:
    """(3, size, size) noise, normalised."""
    return torch.randn(3, size, size, generator=torch.Generator().manual_seed(0))


def input_of(size: int) -> dict[str, Any]:
    """What Detectron2 gives a detector: pixels in 0 to 255, and objects."""
    corner = torch.rand(OBJECTS, 2, generator=torch.Generator().manual_seed(1)) * 0.5
    instances = Instances((size, size))
    instances.gt_boxes = Boxes(torch.cat([corner, corner + 0.3], dim=1) * size)
    instances.gt_classes = torch.arange(OBJECTS)
    pixels = pixels_of(size) * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    return {"image": pixels, "height": size, "width": size, "instances": instances}


def detector_of(name: str, device: str) -> Any:
    """Ours or theirs, of the same weights."""
    if device == "cpu" and name != THEIRS:
        keep_freed_memory()  # as our tools do
    theirs = hugging_face(device)
    return same_detector(theirs, device) if name == OURS else theirs


def of_series(config: str, device: str, options: Sequence[str] = ()) -> Any:
    """A detector of COCO's words with random weights, on which its cost does not depend; `options`: KEY VALUE pairs."""
    if device == "cpu":
        keep_freed_memory()
    torch.manual_seed(0)
    keys = [*options, "MODEL.DEVICE", device, "MODEL.WEIGHTS", ""]
    return build_model(setup_cfg(str(CONFIGS / f"{config}.yaml"), keys))


def _inference_of(config: str, size: int, device: str) -> Work:
    detector, given = of_series(config, device).eval(), [input_of(size)]
    return lambda: detector(given)


def _step_of(config: str, size: int, device: str) -> Work:
    detector, given = of_series(config, device).train(), [input_of(size)]
    return training_step(detector, lambda: sum(detector(given).values()))


def _inference(name: str, size: int, device: str) -> Work:
    detector = detector_of(name, device).eval()
    given = [input_of(size)] if name == OURS else pixels_of(size)[None].to(device)
    return torch.no_grad()(partial(detector, given))


def _training_step(name: str, size: int, device: str) -> Work:
    detector, given = detector_of(name, device).train(), input_of(size)
    if name == OURS:
        return training_step(detector, lambda: sum(detector([given]).values()))
    boxes = to_cxcywh(given["instances"].gt_boxes.tensor / size).to(device)
    labels = [{"class_labels": given["instances"].gt_classes.to(device), "boxes": boxes}]
    pixels = pixels_of(size)[None].to(device)
    return training_step(detector, lambda: detector(pixels, labels=labels).loss)


@torch.no_grad()
def difference_of_scores(device: str, size: int = 320) -> float:
    """Of the best ones, on a small image. Raises RuntimeError where the two are not the same network."""
    theirs = hugging_face(device).eval()
    ours = same_detector(theirs, device).eval()
    known = [category["id"] for category in COCO_CATEGORIES if category["isthing"]]
    best = theirs(pixels_of(size)[None].to(device)).logits[0, :, known].sigmoid().flatten().topk(QUERIES).values
    difference = float((ours([input_of(size)])[0]["instances"].scores - best).abs().max())
    if not difference < 1e-4:
        raise RuntimeError(f"The two detectors should be the same, but scores differ by {difference:g}.")
    return difference
