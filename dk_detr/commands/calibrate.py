"""What tools/calibrate.py does."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Generator, Tensor
from tqdm import tqdm

from dk_detr.distillation import CLIPCrops
from dk_detr.distillation.calibration import FIELDS, Cosines, fit, like_proposals
from dk_detr.distillation.calibration_file import FORMAT, VERSION
from dk_detr.distillation.teachers import live_teacher
from dk_detr.engine.custom_vocabulary import prepare_custom_data
from dk_detr.engine.setup import one_clear_error, setup_cfg, with_values
from dk_detr.engine.train_streams import build_detection_stream
from dk_detr.language import is_closed, vocabularies_from_config
from dk_detr.layers import to_normalized_cxcywh
from dk_detr.structures import Calibration, Regions, Vocabulary
from dk_detr.utils import as_json, atomic_write
from dk_detr.visualization.calibration import draw_calibration
from dk_detr.visualization.pictures import save_picture

SEED = 0  # of the order of the images, their augmentation, and how boxes are shifted
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Measured:
    """What the teacher's embeddings of base boxes are like: words, for the classifier; crops, for SKD.

    Attributes:
        num_images: that were looked at. clip: which CLIP it was, and what it sees.
    """

    words: Cosines
    crops: Cosines
    num_images: int
    clip: dict[str, Any]


def main(args: argparse.Namespace) -> None:
    """See tools/calibrate.py for the arguments."""
    with one_clear_error():
        cfg = setup_cfg(args.config_file, args.opts)
        name = args.output or cfg.MODEL.CALIBRATION
        if not name:
            raise ValueError("Where to? MODEL.CALIBRATION of the config names no file: say it by --output FILE.json.")
        output = Path(name)
        if output.suffix != ".json" or args.images < 1:
            raise ValueError(f"--output {output} must end in .json, and --images {args.images} be 1 or more.")
        calibrate(cfg, output, args.images)


def calibrate(cfg: CfgNode, output: Path, num_images: int) -> None:
    """Measure, fit, and write the file and its picture.

    Raises: ValueError, FileNotFoundError for what cannot work.
    """
    _refuse_config(cfg)
    prepare_custom_data(cfg, training=True)
    train_words, words = vocabularies_from_config(cfg)
    if len(train_words) < 2:
        raise ValueError(f"MODEL.VOCABULARY has {len(train_words)} base words: with fewer than two, none is wrong.")
    measured = measure(cfg, train_words, words, num_images)
    of_words, of_crops = measured.words, measured.crops
    classifier = _rounded(fit(of_words.own, of_words.close_wrong, "The classifier (CosineText)"))
    semantic = _rounded(fit(of_crops.own, of_crops.close_wrong, 'The term "semantic" (SKD)'))
    panels = {"words, for the classifier": (of_words, classifier), "crops, for SKD": (of_crops, semantic)}
    data = {
        "data_sets": list(cfg.DATASETS.TRAIN),
        "images": measured.num_images,
        "base_words": len(train_words),
        "prompt": train_words.provenance.get("prompt", ""),
    }
    sections = {"classifier": _section(classifier, of_words), "semantic": _section(semantic, of_crops)}
    content = {"format": FORMAT, "version": VERSION, **sections, "teacher": measured.clip, "data": data}
    picture = draw_calibration({title: _drawn(*panel) for title, panel in panels.items()})
    save_picture(picture, output.with_suffix(".png"))
    atomic_write(output, as_json(content, indent=2) + "\n")
    print(f"classifier: {classifier} ({len(of_words.own)} boxes of {measured.num_images} images)")
    print(f"semantic: {semantic} ({len(of_crops.own)} boxes with another object in their image)")
    print(f"Written: {output}, {output.with_suffix('.png')}. Train with it: MODEL.CALIBRATION {output}")


def _refuse_config(cfg: CfgNode) -> None:
    if is_closed(cfg):
        raise ValueError(
            f'MODEL.DETR.CLASSIFIER.NAME "{cfg.MODEL.DETR.CLASSIFIER.NAME}" compares with no embeddings: there is '
            "nothing to calibrate."
        )
    if not cfg.MODEL.CLIP.WEIGHTS and cfg.MODEL.CLIP.LIBRARY == "open_clip":
        raise ValueError('MODEL.CLIP.WEIGHTS is "": random embeddings calibrate nothing. Name a tag or file.')


def measure(cfg: CfgNode, train_words: Vocabulary, words: Vocabulary, num_images: int) -> Measured:
    """Look at base boxes of training images, augmented as in training; the same ones on every call."""
    teacher = live_teacher(cfg, words)
    stream = _samples(cfg, train_words, words)
    wanted = min(num_images, len(stream.samples))
    device, dice = torch.device(cfg.MODEL.DEVICE), torch.Generator().manual_seed(SEED)
    text = train_words.embeddings.float()
    of_words, of_crops = [], []
    samples: Iterator[dict[str, Any]] = islice(chain.from_iterable(stream), wanted)
    for sample in tqdm(samples, total=wanted, unit="image", desc="calibration"):
        labels, exact, shifted = _embeddings(teacher, cfg, sample, device, dice)
        if len(labels):
            of_words.append(Cosines.of(exact @ text.T, labels))
        if len(labels) > 1:
            of_crops.append(Cosines.of(shifted @ exact.T, torch.arange(len(labels))))
    clip = teacher.guest.on(device)
    shown = {"name": type(teacher).__name__, "crop_scales": list(teacher.crop_scales)}
    about = {"probe": clip.probe, "width": teacher.width, **shown, **clip.provenance}
    return Measured(Cosines.joined(of_words), Cosines.joined(of_crops), wanted, about)


def _samples(cfg: CfgNode, train_words: Vocabulary, words: Vocabulary) -> Any:
    """The stream of training, without what is not looked at: masks, and regions of a bank."""
    unused = {"MODEL.TEACHER.NAME": "CLIPCrops", "MODEL.MASK_ON": False}
    model = SimpleNamespace(train_vocabulary=train_words, vocabulary=words)
    return build_detection_stream(with_values(cfg, unused), model, SEED)


def _embeddings(
    teacher: CLIPCrops, cfg: CfgNode, sample: dict[str, Any], device: torch.device, dice: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels (N,) of the base objects of an image, and (N, E) unit rows of what the teacher sees in their boxes, and in
    boxes like proposals of them; on the CPU. Objects below MODEL.KD.MIN_SIDE are left out, as in distillation."""
    objects, size = sample["instances"], sample["image"].shape[-2:]
    corners = objects.gt_boxes.tensor
    large = (corners[:, 2:] - corners[:, :2]).amin(1) >= cfg.MODEL.KD.MIN_SIDE
    boxes = to_normalized_cxcywh(corners[large], size)
    both = torch.cat([boxes, like_proposals(boxes, dice)]).to(device)
    number = torch.arange(len(both), device=device)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    pixels = ((sample["image"][None] - mean) / std).to(device)
    rows = teacher(pixels, [tuple(size)], Regions(torch.zeros_like(number), number, both)).float().cpu()
    exact, shifted = rows.split(len(boxes)) if len(boxes) else (rows, rows)
    return objects.gt_classes[large], exact, shifted


def _rounded(calibration: Calibration) -> Calibration:
    """The last bits of a teacher differ between machines."""
    return Calibration(round(calibration.temperature, 5), round(calibration.offset, 5))


def _section(calibration: Calibration, cosines: Cosines) -> dict[str, Any]:
    right = (cosines.own > cosines.nearest_wrong).double().mean().item()
    return {
        "temperature": calibration.temperature,
        "offset": calibration.offset,
        "samples": len(cosines.own),
        "teacher_is_right": round(right, 5),
        **{name: _quantiles(getattr(cosines, name)) for name in FIELDS},
    }


def _quantiles(values: Tensor) -> dict[str, float]:
    found = np.quantile(values.double().numpy(), QUANTILES)
    return {f"{share:.2f}": round(float(value), 5) for share, value in zip(QUANTILES, found)}


def _drawn(cosines: Cosines, calibration: Calibration) -> tuple[dict[str, np.ndarray], Calibration]:
    named = {"own": cosines.own, "close wrong": cosines.close_wrong, "all wrong": cosines.wrong}
    return {name: values.numpy() for name, values in named.items()}, calibration
