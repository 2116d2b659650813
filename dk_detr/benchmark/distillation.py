"""What distillation costs: a training step of the plain detector, with a live teacher, and with an embedding bank; and
inference with and without an ROI head."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import NoOpTransform
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F

from dk_detr.benchmark.measure import Measurement, Work, side_by_side, training_step
from dk_detr.benchmark.report import Report
from dk_detr.data.bank import BankImage, Shard, StoredRegions, follow, shard_name, write_shard
from dk_detr.distillation import AuxiliaryQueries, CLIPCrops
from dk_detr.engine.setup import setup_cfg
from dk_detr.language import clip_from_config, region_tower, save_vocabulary
from dk_detr.structures import Regions, TeacherInput, Vocabulary
from dk_detr.utils.memory import keep_freed_memory

ROOT = Path(__file__).parents[2]
CONFIGS = {"cpu": ROOT / "configs" / "mini" / "dk_detr.yaml", "cuda": ROOT / "configs" / "dk_detr_R50.yaml"}
LVIS, MINI = (1203, 337), (64, 16)  # words, and the novel among them
OBJECTS = 7

PLAIN, SILENT, ONLINE = "plain detector", "auxiliary queries, no teacher", "auxiliary queries, online (the paper)"
REGIONS = "auxiliary queries, online, one look at the image"
DIRECT, DENOISED = "detection queries, online", "auxiliary queries, online, box denoising"
ROI_HEAD = "ROI head, online"
FAST, EVERY, BANK = "selected queries, online", "selected queries, online, all slots", "selected queries, bank"
QUERIES_ALONE, WITH_ROI_HEAD = "queries alone", "with an ROI head"  # at inference
SELECTED = {"QUERIES": "SelectedAuxiliary", "REFERENCE": "stay"}


def benchmark_distillation(device: str, rounds: int, config_file: str = "", batch: int = 8) -> Report:
    """A training step of each way: forward, backward, AdamW, on generated images; a bank is read in it, too. Then
    inference on one image.

    Weights are random, so is what CLIP says: what it costs is the same.
    """
    path = config_file or str(CONFIGS[device])
    with tempfile.TemporaryDirectory(prefix="dk_detr-") as folder:
        cfg = shared_settings(path, device, folder)
        side, slots = cfg.INPUT.MIN_SIZE_TEST, cfg.MODEL.KD.NUM_SLOTS
        possible = [name for name in WAYS if name != REGIONS or looks_once(cfg)]
        ways = {name: partial(step_of_way, name, path, device, folder, batch) for name in possible}
        measured = side_by_side(ways, rounds, device, "training step")
        answers = {name: partial(_inference, name, path, device, folder) for name in INFERENCE}
        answered = side_by_side(answers, rounds, device, "inference")
    report = Report(
        device,
        f"Training step of {Path(path).stem}, {batch} images of {side}×{side}, {cfg.MODEL.DETR.NUM_QUERIES} queries, "
        f"{slots} distilled slots of an image, teacher {Path(cfg.MODEL.CLIP.ARCHITECTURE).stem}",
        compare="times the time",
    )
    report.add("training step", PLAIN, measured)
    report.add("inference, one image", QUERIES_ALONE, answered)
    report.notes += _in_words(measured)
    return report


def _in_words(measured: dict[str, Measurement]) -> list[str]:
    median = {name: measurement.median for name, measurement in measured.items()}
    teacher = 1 - median[SILENT] / median[ONLINE]
    queries = median[SILENT] / median[PLAIN] - 1
    return [
        f"The second set of queries, with its losses, costs {queries:.1%} of a plain step.",
        f"The teacher is {teacher:.1%} of the paper's step.",
    ]


def looks_once(cfg: CfgNode) -> bool:
    """Whether the CLIP of a config can teach by regions of one map."""
    try:
        region_tower(clip_from_config(cfg))
    except ValueError:
        return False
    return True


def shared_settings(path: str, device: str, folder: str) -> CfgNode:
    """The config, with random weights and generated words of the teacher's width in `folder`."""
    cfg = setup_cfg(path, ["MODEL.DEVICE", device, "MODEL.WEIGHTS", "", "MODEL.CLIP.WEIGHTS", ""])
    cfg.defrost()
    if not Path(cfg.MODEL.CLIP.ARCHITECTURE).is_file() and (ROOT / cfg.MODEL.CLIP.ARCHITECTURE).is_file():
        cfg.MODEL.CLIP.ARCHITECTURE = str(ROOT / cfg.MODEL.CLIP.ARCHITECTURE)
    cfg.MODEL.VOCABULARY.TEST = f"{folder}/words.npz"
    if not Path(cfg.MODEL.VOCABULARY.TEST).is_file():
        clip = clip_from_config(cfg)
        save_vocabulary(_words(cfg, clip.width), cfg.MODEL.VOCABULARY.TEST)
    return cfg


def _words(cfg: CfgNode, width: int) -> Vocabulary:
    number, novel = MINI if cfg.DATASETS.TRAIN[0].startswith("mini") else LVIS
    names = tuple(f"word {i}" for i in range(number))
    return Vocabulary(names, F.normalize(_noise(number, width), dim=1), torch.arange(number) < novel)


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- the ways ----


def _plain(cfg: CfgNode) -> None:
    cfg.MODEL.TRAINING_EXTENSIONS = [name for name in cfg.MODEL.TRAINING_EXTENSIONS if name != "Distillation"]


def _online(cfg: CfgNode) -> None:
    cfg.MODEL.KD.QUERIES = "Auxiliary"


def _regions_of_one_map(cfg: CfgNode) -> None:
    _online(cfg)
    cfg.MODEL.TEACHER.NAME = "CLIPRegions"


def _direct(cfg: CfgNode) -> None:
    cfg.MODEL.KD.QUERIES = "Detection"


def _denoised(cfg: CfgNode) -> None:
    _online(cfg)
    cfg.MODEL.TRAINING_EXTENSIONS = ["BoxDenoising", *cfg.MODEL.TRAINING_EXTENSIONS]


def _roi_head(cfg: CfgNode) -> None:
    _selected(cfg)
    cfg.MODEL.KD.QUERIES, cfg.MODEL.KD.LAYERS = "ROIHead", "last"


def _selected(cfg: CfgNode) -> None:
    kd = cfg.MODEL.KD
    kd.update(SELECTED)
    kd.SLOT_FILTERS = [name for name in kd.SLOT_FILTERS if name != "unmatched"] or ["base_overlap", "duplicates"]


def _every_slot(cfg: CfgNode) -> None:
    _selected(cfg)
    cfg.MODEL.KD.SLOT_FILTERS, cfg.MODEL.KD.NUM_SLOTS = [], cfg.MODEL.DETR.NUM_QUERIES


def _bank(cfg: CfgNode) -> None:
    _selected(cfg)
    cfg.MODEL.TEACHER.NAME = "EmbeddingBank"
    cfg.MODEL.TEACHER.BANK_REGIONS = min(cfg.MODEL.TEACHER.BANK_REGIONS, cfg.MODEL.DETR.NUM_QUERIES)


WAYS: dict[str, Callable[[CfgNode], None]] = {
    PLAIN: _plain, SILENT: _online, ONLINE: _online, REGIONS: _regions_of_one_map, DENOISED: _denoised,
    DIRECT: _direct, FAST: _selected, ROI_HEAD: _roi_head, EVERY: _every_slot, BANK: _bank,
}  # fmt: skip
INFERENCE: dict[str, Callable[[CfgNode], None]] = {QUERIES_ALONE: _online, WITH_ROI_HEAD: _roi_head}


class Silent:
    """A teacher that says anything at once."""

    def __init__(self, teacher: CLIPCrops) -> None:
        self.width, self.candidates = teacher.width, teacher.candidates

    def ask(self, shown: TeacherInput, regions: Regions) -> Callable[[], Tensor]:
        """Rows without meaning."""
        rows = F.normalize(_noise(len(regions), self.width), dim=1).to(shown.pixels.device)
        return lambda: rows


def step_of_way(
    name: str,
    path: str,
    device: str,
    folder: str,
    batch: int,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Work:
    """A training step of one of `WAYS`, with what it needs in `folder`. `precision`: the context of each forward."""
    cfg, model = built(WAYS[name], path, device, folder)
    model.train()
    if name == SILENT:
        queries: AuxiliaryQueries = model.extensions["Distillation"].queries
        queries.teacher = Silent(queries.teacher)  # type: ignore[arg-type]
    inputs = [sample(cfg.INPUT.MIN_SIZE_TEST, number) for number in range(batch)]
    regions = _stored(cfg, folder, inputs, model.train_vocabulary.width) if name == BANK else lambda: [{}] * batch

    def loss() -> Any:
        given = [{**one, **more} for one, more in zip(inputs, regions())]
        with precision():
            return sum(model(given).values())

    return training_step(model, loss)


def _inference(name: str, path: str, device: str, folder: str) -> Work:
    cfg, model = built(INFERENCE[name], path, device, folder)
    model.eval()
    inputs = [sample(cfg.INPUT.MIN_SIZE_TEST, 0)]
    return lambda: model(inputs)


def built(change: Callable[[CfgNode], None], path: str, device: str, folder: str) -> tuple[CfgNode, Any]:
    """The config of the file after a change, and the model that it makes."""
    if device == "cpu":
        keep_freed_memory()  # as our tools do
    cfg = shared_settings(path, device, folder)
    change(cfg)
    torch.manual_seed(0)
    return cfg, build_model(cfg)


def sample(side: int, seed: int, objects: int = OBJECTS) -> dict[str, Any]:
    """What the mapper gives a detector in training."""
    instances = Instances((side, side))
    instances.gt_boxes = Boxes(_boxes(objects, side, seed))
    instances.gt_classes = torch.arange(objects)
    image = torch.randint(256, (3, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return {"image": image, "height": side, "width": side, "instances": instances}


def _stored(
    cfg: CfgNode, folder: str, inputs: Sequence[dict[str, Any]], width: int
) -> Callable[[], list[dict[str, Any]]]:
    """Reads the regions of the images from a shard, as the mapper does for each sample."""
    side, path = inputs[0]["height"], Path(folder) / shard_name(0)
    images = [BankImage(number, f"{number}.jpg", side, side) for number in range(len(inputs))]
    regions = [_stored_regions(cfg.MODEL.DETR.NUM_QUERIES, side, width, number) for number in range(len(inputs))]
    write_shard(path, {}, 0, images, regions)
    shard, count, least = Shard(path), cfg.MODEL.TEACHER.BANK_REGIONS, cfg.MODEL.KD.MIN_SIDE

    def read() -> list[dict[str, Any]]:
        rows = range(len(inputs))
        return [{"regions": follow(shard.regions(n), NoOpTransform(), (side, side), count, least)} for n in rows]

    return read


def _stored_regions(number: int, side: int, width: int, seed: int) -> StoredRegions:
    embeddings = F.normalize(_noise(number, width, seed=seed), dim=1).half()
    return StoredRegions(_boxes(number, side, seed), torch.arange(number, 0, -1.0), embeddings)


def _boxes(number: int, side: int, seed: int) -> Tensor:
    """(N, 4) xyxy in pixels."""
    dice = torch.Generator().manual_seed(seed)
    corner, sides = torch.rand(number, 2, generator=dice) * 0.6, torch.rand(number, 2, generator=dice) * 0.35 + 0.05
    return torch.cat([corner, corner + sides], dim=1) * side
