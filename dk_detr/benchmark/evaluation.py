"""LVIS scoring: ours against the `lvis` package, and against compiled code of others where it is installed, from what
a detector gives to the metrics."""

from __future__ import annotations

import importlib.util
import json
import logging
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from lvis import LVIS, LVISEval, LVISResults

from dk_detr.benchmark.measure import Measurement, Way, Work, peak_memory
from dk_detr.benchmark.report import Report
from dk_detr.evaluation import OpenVocabularyEvaluator

OURS, THEIRS, COMPILED = "dk_detr", "lvis", "faster_coco_eval"
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
COMPILED_NAMES = ("AP_all", "AP_50", "AP_75", "AP_small", "AP_medium", "AP_large", "APr", "APc", "APf")
CATEGORIES, DETECTIONS, SIDE = 1203, 300, 640
SEARCHED, NEGATIVE = 0.1, 12  # share of an image's categories that are not exhaustive; negatives of an image
STEPS = (4, 2, 1)  # the number of images is divided by these, to show how the cost grows


def benchmark_evaluation(rounds: int, images: int = 5000) -> Report:
    """LVIS AP of a quarter, a half and all of the images; each way in a process of its own. `faster-coco-eval` takes
    part where it is installed.

    A way works for minutes, so it is not warmed up, and its peak memory is taken in the last round.
    Raises: RuntimeError where they do not say the same.
    """
    report = Report(
        "cpu",
        f"LVIS box AP, {images} generated images, {DETECTIONS} detections of each, {CATEGORIES} categories, from "
        "Instances to metrics. Ours also gives base and novel AP, class-agnostic recall, and scores of each category",
    )
    for count in [max(images // step, 1) for step in STEPS]:
        with tempfile.TemporaryDirectory(prefix="dk_detr-") as folder:
            file = write_annotations(Path(folder), count)
            ways = {name: way for name, way in WAYS.items() if name != COMPILED or importlib.util.find_spec(name)}
            answers = {name: in_own_process(partial(way, file), rounds) for name, way in ways.items()}
        for metrics, _ in answers.values():
            _check_that_they_agree(metrics, answers[THEIRS][0])
        report.add(f"{count} images", THEIRS, {name: cost for name, (_, cost) in answers.items()})
    report.notes.append(f"The {len(METRICS)} metrics of all agree to 1e-6.")
    return report


def in_own_process(way: Way, rounds: int) -> tuple[dict[str, float], Measurement]:
    """What a way answers and what it costs."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context, initializer=_be_alone_and_silent) as executor:
        return executor.submit(_measure, way, rounds).result()


def _be_alone_and_silent() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)


def _measure(way: Way, rounds: int) -> tuple[dict[str, float], Measurement]:
    work, seconds, answers = way(), [], []

    def timed() -> None:
        start = time.perf_counter()
        answers.append(work())
        seconds.append(time.perf_counter() - start)

    for _ in range(rounds - 1):
        timed()
    peak = peak_memory(timed, "cpu")
    return answers[-1], Measurement(tuple(seconds), peak)  # type: ignore[return-value]


def _check_that_they_agree(one: dict[str, float], other: dict[str, float]) -> None:
    for name in METRICS:
        if not np.isclose(one[name], other[name], rtol=0, atol=1e-6, equal_nan=True):
            raise RuntimeError(f"{name} is {one[name]} and {other[name]}: one is wrong, nothing is reported.")


# ---- what is scored ----


def write_annotations(folder: Path, count: int) -> str:
    """An annotation file as LVIS's are: few categories are everywhere, most are rare."""
    dice = np.random.default_rng(0)
    popularity = 1 / np.arange(1, CATEGORIES + 1)
    popularity = dice.permutation(popularity / popularity.sum())
    frequency = np.array(["r", "c", "f"])[np.digitize(popularity.argsort().argsort(), [337, 337 + 461])]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in range(1, count + 1):
        kinds = dice.choice(CATEGORIES, 4, replace=False, p=popularity) + 1
        for kind in np.repeat(kinds, dice.geometric(0.35, 4)).tolist():
            x, y, w, h = _box(dice)
            box = {"bbox": [x, y, w, h], "area": 0.7 * w * h}
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": kind, **box})
        negative = np.setdiff1d(dice.choice(CATEGORIES, NEGATIVE, p=popularity) + 1, kinds).tolist()
        lists = {"neg_category_ids": negative, "not_exhaustive_category_ids": kinds[dice.random(4) < SEARCHED].tolist()}
        images.append({"id": image, "height": SIDE, "width": SIDE, **lists})
    categories = [{"id": k + 1, "name": f"thing {k}", "frequency": str(f)} for k, f in enumerate(frequency)]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return str(path)


def _box(dice: np.random.Generator) -> list[float]:
    size = np.exp(dice.uniform(np.log(8), np.log(SIDE / 2), 2))
    return [round(float(number), 2) for number in (*dice.uniform(0, SIDE - size), *size)]


def predictions(annotation_file: str) -> list[tuple[int, Instances]]:
    """What a detector might say: objects, shifted and mistaken, and things that are not there."""
    content = json.loads(Path(annotation_file).read_text())
    objects: dict[int, list[list[float]]] = {}
    for row in content["annotations"]:
        x, y, w, h = row["bbox"]
        objects.setdefault(row["image_id"], []).append([row["category_id"] - 1, x, y, x + w, y + h])
    return [(row["id"], _guess(row["id"], np.array(objects[row["id"]]))) for row in content["images"]]


def _guess(image: int, objects: np.ndarray) -> Instances:
    dice = np.random.default_rng(image)
    near = objects[dice.integers(len(objects), size=DETECTIONS)]
    corner = dice.uniform(0, SIDE - 32, (DETECTIONS, 2))
    boxes = np.concatenate([corner, corner + dice.uniform(8, SIDE / 3, (DETECTIONS, 2))], axis=1)
    seen = dice.random(DETECTIONS) < 0.3
    boxes[seen] = near[seen, 1:] + dice.normal(0, 4, (seen.sum(), 4))
    known = seen & (dice.random(DETECTIONS) < 0.6)
    classes = np.where(known, near[:, 0], dice.integers(CATEGORIES, size=DETECTIONS)).astype(np.int64)
    scores = dice.random(DETECTIONS) * np.where(known, 1.0, 0.5)
    return Instances(
        (SIDE, SIDE),
        pred_boxes=Boxes(torch.from_numpy(boxes).float()),
        scores=torch.from_numpy(scores).float(),
        pred_classes=torch.from_numpy(classes),
    )


# ---- the ways ----


def _ours(annotation_file: str) -> Work:
    given = predictions(annotation_file)
    categories = json.loads(Path(annotation_file).read_text())["categories"]
    names, rare = [c["name"] for c in categories], [c["name"] for c in categories if c["frequency"] == "r"]

    def run() -> dict[str, float]:
        evaluator = OpenVocabularyEvaluator("lvis", annotation_file, names, novel=rare, max_detections=DETECTIONS)
        for image_id, instances in given:
            evaluator.process([{"image_id": image_id}], [{"instances": instances}])
        metrics = evaluator.evaluate()
        assert metrics is not None  # as in all but the main one of many processes
        return metrics["bbox"]

    return run


def _theirs(annotation_file: str) -> Work:
    def score(rows: list[dict[str, Any]]) -> dict[str, float]:
        truth = LVIS(annotation_file)
        evaluation = LVISEval(truth, LVISResults(truth, rows, max_dets=DETECTIONS), "bbox")
        evaluation.run()
        return {name: _points(evaluation.results[name]) for name in METRICS}

    return _of_rows(annotation_file, score)


def _compiled(annotation_file: str) -> Work:
    from faster_coco_eval import COCO, COCOeval_faster

    def score(rows: list[dict[str, Any]]) -> dict[str, float]:
        truth = COCO(annotation_file)
        evaluation = COCOeval_faster(truth, truth.loadRes(rows), "bbox", lvis_style=True)
        evaluation.params.maxDets = [DETECTIONS]
        evaluation.run()
        return {name: _points(evaluation.stats_as_dict[theirs]) for name, theirs in zip(METRICS, COMPILED_NAMES)}

    return _of_rows(annotation_file, score)


def _of_rows(annotation_file: str, score: Callable[[list[dict[str, Any]]], dict[str, float]]) -> Work:
    given = predictions(annotation_file)
    return lambda: score([row for image_id, instances in given for row in _rows(image_id, instances)])


def _points(share: float) -> float:
    """Theirs is -1 where there is nothing to find."""
    return 100.0 * float(share) if share >= 0 else float("nan")


def _rows(image_id: int, instances: Instances) -> Iterator[dict[str, Any]]:
    """As Detectron2 makes results of instances."""
    boxes = instances.pred_boxes.tensor.double().numpy().copy()
    boxes[:, 2:] -= boxes[:, :2]
    columns: Sequence[Sequence[Any]] = [
        boxes.tolist(), instances.scores.tolist(), instances.pred_classes.tolist()
    ]  # fmt: skip
    for box, score, label in zip(*columns):
        yield {"image_id": image_id, "category_id": label + 1, "bbox": box, "score": score}


WAYS = {THEIRS: _theirs, COMPILED: _compiled, OURS: _ours}
