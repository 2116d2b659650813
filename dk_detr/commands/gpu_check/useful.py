"""Is it useful? Two minutes of training on photos, and the mini world at a size where it is no toy."""

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from dk_detr.annotations import marked_novel, read_categories
from dk_detr.commands.calibrate import calibrate
from dk_detr.commands.compare_runs import main as compare_runs
from dk_detr.commands.gpu_check.finding import Finding, Settings, Tell, at_least, attempt, missing
from dk_detr.commands.gpu_check.tiny_world import CLIP, ROOT, write_json
from dk_detr.data import datasets_below, register
from dk_detr.engine.run_folder import read_results
from dk_detr.engine.setup import prepare_output, setup_cfg
from dk_detr.engine.trainer import Trainer
from dk_detr.language import LVIS_NAMES, WORD_LISTS, VocabularyRequest, save_vocabulary, write_vocabulary_once
from dk_detr.mini_world import MiniWorld, make_mini_world
from dk_detr.mini_world.contrastive import Recipe, pretrain
from dk_detr.structures import Vocabulary

# ---- photos ----

R50 = str(ROOT / "configs" / "dk_detr_R50.yaml")
ANNOTATIONS, IMAGES = Path("annotations") / "lvis_v1_style_train2017.json", Path("images") / "train2017"
AP50_OF_PHOTOS = 50.0
TRAINING_SECONDS = 120.0
WIDTH = 512  # of the words, as ViT-B/32 has them
TRIAL = 30  # iterations that tell how many fit
STEADY = 10  # the last of them, which are timed


def photos(settings: Settings, tell: Tell) -> None:
    """DK-DETR learns 100 photos by heart from random weights: AP50 on the same photos, before and after."""
    file, images = Path(settings.photos) / ANNOTATIONS, Path(settings.photos) / IMAGES
    if not settings.photos or not file.is_file():
        tell(missing("photos", f"--photos FOLDER with {ANNOTATIONS} and {IMAGES} was not given"))
        return
    folder = Path(settings.output) / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    register("gpu_check_photos", str(_first(file, 4, folder) if settings.dry else file), str(images))
    options = _photo_options(settings, folder)
    start = time.monotonic()
    number = 6 if settings.dry else _iterations(options, min(TRAINING_SECONDS, settings.seconds - 45))
    cfg = setup_cfg(R50, [*options, *_schedule(number), "OUTPUT_DIR", str(folder / "run")])
    prepare_output(cfg, cfg.OUTPUT_DIR)
    trainer = Trainer(cfg)
    before = Trainer.test(cfg, trainer.model)["bbox"]["AP50"]
    tell(Finding("AP50 on the photos, random weights", before))
    trainer.train()
    after = trainer._last_eval_results["bbox"]["AP50"]
    told = f"{number} iterations of {cfg.SOLVER.IMS_PER_BATCH} photos, {_median(trainer):.3f} s each; "
    told += f"all in all {time.monotonic() - start:.0f} s"
    tell(at_least(AP50_OF_PHOTOS, "AP50 on the photos, trained on them", after, note=told))


def _first(file: Path, number: int, folder: Path) -> Path:
    """The same annotations of the first few images."""
    content = json.loads(file.read_text())
    images = content["images"][:number]
    kept = {image["id"] for image in images}
    annotations = [annotation for annotation in content["annotations"] if annotation["image_id"] in kept]
    return Path(write_json(folder / "photos.json", {**content, "images": images, "annotations": annotations}))


def _photo_options(settings: Settings, folder: Path) -> list[str]:
    """Random words, a small CLIP of random weights, BatchNorm that learns, no jitter."""
    rows = F.normalize(torch.randn(len(LVIS_NAMES), WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)
    novel = torch.tensor([name in set(WORD_LISTS["lvis"].novel) for name in LVIS_NAMES])
    save_vocabulary(Vocabulary(LVIS_NAMES, rows, novel), str(folder / "words.npz"))
    side, batch = (128, 2) if settings.dry else (512, 16)
    keys = {
        "MODEL.DEVICE": settings.device, "MODEL.WEIGHTS": "''", "MODEL.RESNETS.NORM": "BN",
        "MODEL.BACKBONE.FREEZE_AT": 0, "MODEL.DETR.PADDED_SIZE": side, "MODEL.DETR.DROPOUT": 0.0,
        "MODEL.DETR.NUM_QUERIES": 60 if settings.dry else 300,
        "MODEL.VOCABULARY.TEST": folder / "words.npz",
        "MODEL.CLIP.ARCHITECTURE": write_json(folder / "clip.json", {**CLIP, "embed_dim": WIDTH}),
        "MODEL.CLIP.WEIGHTS": "''",
        "DATASETS.TRAIN": ("gpu_check_photos",), "DATASETS.TEST": ("gpu_check_photos",),
        "DATALOADER.SAMPLER_TRAIN": "TrainingSampler", "DATALOADER.NUM_WORKERS": _loaders(settings, 1),
        "INPUT.JITTER_SIZE": side, "INPUT.JITTER_SCALE": [1.0, 1.0],
        "INPUT.MIN_SIZE_TEST": side, "INPUT.MAX_SIZE_TEST": side,
        "SOLVER.IMS_PER_BATCH": batch, "SOLVER.BASE_LR": 0.0004, "SOLVER.BACKBONE_MULTIPLIER": 1.0,
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 1.0, "SOLVER.WEIGHT_DECAY": 0.0001,
        "SOLVER.AMP.ENABLED": True, "SOLVER.AMP.DTYPE": "bfloat16",
    }  # fmt: skip
    return [str(word) for pair in keys.items() for word in pair]


def _schedule(iterations: int) -> list[str]:
    """Warm-up, one step down, and an evaluation at the end."""
    keys = {
        "SOLVER.MAX_ITER": iterations, "SOLVER.STEPS": f"({max(iterations * 4 // 5, 1)},)",
        "SOLVER.WARMUP_ITERS": min(100, iterations // 4), "SOLVER.CHECKPOINT_PERIOD": 100_000,
        "TEST.EVAL_PERIOD": 100_000,
    }  # fmt: skip
    return [str(word) for pair in keys.items() for word in pair]


def _iterations(options: list[str], seconds: float) -> int:
    """How many fit into the time, after a trial."""
    folder = options[options.index("MODEL.VOCABULARY.TEST") + 1].replace("words.npz", "trial")
    cfg = setup_cfg(R50, [*options, *_schedule(TRIAL), "DATASETS.TEST", "()", "OUTPUT_DIR", folder])
    prepare_output(cfg, folder)
    trainer = Trainer(cfg)
    trainer.train()
    return max(int(seconds / _median(trainer)), TRIAL)


def _median(trainer: Any) -> float:
    """Seconds of an iteration, waiting for data included."""
    times = [seconds for seconds, _ in trainer.storage.history("time").values()][-STEADY:]
    return float(torch.tensor(times).median())


def _loaders(settings: Settings, runs: int) -> int:
    """Processes that load images, of each run."""
    return 0 if settings.dry else max(1, min(12, (os.cpu_count() or 1) // runs - 1))


# ---- the mini world ----

ROWS = {  # name: config, and what is its own
    "no_distillation": ("configs/mini/no_distillation.yaml", True),
    "dk_detr": ("configs/mini/dk_detr.yaml", True),
    "dk_detr_plus": ("configs/mini/dk_detr_plus.yaml", True),
    "ViLD": ("projects/ViLD/configs/mini/ViLD_ensemble.yaml", False),
}
WORLD = MiniWorld()
DRY_WORLD = MiniWorld(train_images=30, val_images=8, test_images=8, captions_images=40)
METRICS = ("AP50-base", "AP50-novel", "AP50-novel-unseen")
EVALUATION_SECONDS = 40.0


def mini_world(settings: Settings, tell: Tell) -> None:
    """192 pixels, stride 4, 100 queries, 64 images, bfloat16; the rows train beside one another, one seed each."""
    start = time.monotonic()
    with _made(settings) as files:
        ready = time.monotonic() - start
        tell(Finding("world, CLIP and words", ready, "s", note="CLIP of --mini" if settings.mini else ""))
        number = 4 if settings.dry else _iterations_together(settings, files, settings.seconds - ready)
        tell(Finding("iterations of each row", number))
        folder = Path(settings.output) / "mini_world"
        attempt(tell, "training", partial(_compare, settings, files, folder, number, evaluated=True))
        _tell_results(folder, tell)


@contextmanager
def _made(settings: Settings) -> Iterator[Mapping[str, str]]:
    """World, CLIP, vocabulary and calibration, made where `--mini` has them not; yields the values of their keys."""
    folder = Path(settings.output) / "mini"
    given = Path(settings.mini or folder)
    make_mini_world(folder / "datasets" / "mini_lvis", DRY_WORLD if settings.dry else WORLD, os.cpu_count() or 1)
    config = str(ROOT / "configs" / "mini" / "mini_clip.json")
    weights = given / "clip" / "mini_clip.pt"
    if not weights.is_file():
        recipe = Recipe(iterations=2 if settings.dry else Recipe.iterations)
        pretrain(folder / "datasets" / "mini_lvis", config, weights.parent, recipe)
    words = given / "vocabulary.npz"
    if not words.is_file():
        categories = read_categories(str(folder / "datasets/mini_lvis/annotations/mini_lvis_test.json"))
        names = tuple(category["name"] for category in categories)
        novel = tuple(marked_novel(categories) or ())
        request = VocabularyRequest(names, novel, "vild", "open_clip", config, str(weights), "")
        write_vocabulary_once(request, str(words))
    files = {
        "MODEL.DEVICE": settings.device, "MODEL.VOCABULARY.TEST": str(words),
        "MODEL.CLIP.ARCHITECTURE": config, "MODEL.CLIP.WEIGHTS": str(weights),
    }  # fmt: skip
    with datasets_below(str(folder / "datasets")):
        calibration = given / "calibration.json"
        if not calibration.is_file():
            cfg = setup_cfg(str(ROOT / ROWS["dk_detr_plus"][0]), _words({**files, "MODEL.CALIBRATION": "''"}))
            calibrate(cfg, calibration, 8 if settings.dry else 500)
        yield {**files, "calibration": str(calibration)}


def _iterations_together(settings: Settings, files: Mapping[str, str], seconds: float) -> int:
    """How many of all rows fit into the time, after a trial of all rows."""
    start, folder = time.monotonic(), Path(settings.output) / "mini_world_trial"
    _compare(settings, files, folder, TRIAL, evaluated=False)
    trial = time.monotonic() - start
    slowest = 0.0
    for name in ROWS:
        lines = (folder / name / "metrics.json").read_text().splitlines()
        slowest = max([slowest, *(json.loads(line)["time"] for line in lines[-1:])])
    beginning = max(trial - TRIAL * slowest, 0.0)
    return max(int(0.9 * (seconds - trial - beginning - EVALUATION_SECONDS) / slowest), 4)


def _compare(settings: Settings, files: Mapping[str, str], folder: Path, iterations: int, evaluated: bool) -> None:
    """All rows at once, by tools/compare_runs.py."""
    side, batch = (96, 4) if settings.dry else (192, 64)
    shared = {
        **{key: value for key, value in files.items() if key != "calibration"},
        "INPUT.MIN_SIZE_TRAIN": f"({side},)", "INPUT.MAX_SIZE_TRAIN": side,
        "INPUT.MIN_SIZE_TEST": side, "INPUT.MAX_SIZE_TEST": side,
        "DATALOADER.NUM_WORKERS": _loaders(settings, len(ROWS)),
        "SOLVER.IMS_PER_BATCH": batch, "SOLVER.BASE_LR": 0.0012, "SOLVER.MAX_ITER": iterations,
        "SOLVER.STEPS": f"({iterations * 7 // 10}, {iterations * 9 // 10})",
        "SOLVER.WARMUP_ITERS": iterations // 10, "SOLVER.CHECKPOINT_PERIOD": 100_000,
        "SOLVER.AMP.ENABLED": True, "SOLVER.AMP.DTYPE": "bfloat16",
        **({} if evaluated else {"DATASETS.TEST": "()"}),
    }  # fmt: skip
    stages = "['res2', 'res3', 'res4']"
    of_queries = {
        "MODEL.RESNETS.OUT_FEATURES": stages, "MODEL.DETR.IN_FEATURES": stages,
        "MODEL.DETR.NUM_QUERIES": 40 if settings.dry else 100, "MODEL.DETR.ANCHOR_SIZE": 0.1,
    }  # fmt: skip
    of_anchors = {"MODEL.ANCHOR_GENERATOR.SIZES": str([[side * size // 96] for size in (16, 24, 32, 48)])}
    calibration = {"dk_detr_plus": {"MODEL.CALIBRATION": files["calibration"]}}
    rows = []
    for name, (path, queries) in ROWS.items():
        own = {**(of_queries if queries else of_anchors), **calibration.get(name, {})}
        rows.append([name, str(ROOT / path), *_words(own)])
    given = {"config_file": [], "row": rows, "output": str(folder), "opts": _words(shared), "seeds": [], "baseline": ""}
    more = {"metric": ["AP50-base"], "also_test": [], "period": 100_000, "matching_images": 8}
    parallel = 1 if settings.dry else len(ROWS)
    compare_runs(argparse.Namespace(**given, **more, parallel=parallel), ROOT / "tools" / "train_net.py")


def _tell_results(folder: Path, tell: Tell) -> None:
    """AP50 of each row; each should know more novel words than the first."""
    found: dict[str, dict[str, float]] = {}
    for name in ROWS:
        results = read_results(str(folder / name))
        if results is None:
            tell(Finding(name, met=False, note=f"no results; see {folder / name / 'log.txt'}"))
            continue
        found[name] = {metric: results["results"]["bbox"][metric] for metric in METRICS}
        base, novel, unseen = found[name].values()
        what, note = f"{name}, AP50 of novel words", f"base {base:.1f}, unseen shapes {unseen:.1f}"
        least = found.get("no_distillation")
        if least is None or name == "no_distillation":
            tell(Finding(what, novel, note=note))
        else:
            tell(at_least(least["AP50-novel"], what, novel, note=note))


def _words(keys: Mapping[str, Any]) -> list[str]:
    return [str(word) for pair in keys.items() for word in pair]
