"""What tools/show_run.py does: pictures and a short table of a finished run, from what the run left in its folder."""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from tabulate import tabulate

from dk_detr.annotations.encodings import encode_mask
from dk_detr.data import categories_of
from dk_detr.data.images import read_image
from dk_detr.engine.evaluate import words_of
from dk_detr.engine.predictor import Predictor
from dk_detr.engine.run_folder import read_results, results_folder
from dk_detr.engine.setup import one_clear_error, setup_cfg
from dk_detr.evaluation import results_file
from dk_detr.language import vocabularies_from_config
from dk_detr.structures import Vocabulary
from dk_detr.visualization.curves import History, draw_curves, iterations_done, read_metrics, training_minutes
from dk_detr.visualization.pictures import Comparison, LabelledBoxes, comparison_grid, confident_boxes, save_picture

Record = dict[str, Any]

SHOWN_METRICS = ("AP", "APr", "APc", "APf", "AP50", "AP50-base", "AP50-novel", "AP50-novel-unseen")


def main(args: argparse.Namespace) -> None:
    """See tools/show_run.py for the arguments."""
    with one_clear_error():
        run = Path(args.output_dir)
        cfg = config_of(run)
        print(summary(run, cfg.DATASETS.TEST))
        files = draw_pictures(cfg, run, args.images, args.seed, args.confidence_threshold)
        print("\npictures:", *files, sep="\n  ")


def draw_pictures(cfg: CfgNode, run: Path, num_images: int, seed: int, threshold: float) -> list[Path]:
    """Draw detections beside ground truth, and training curves where training left its metrics; returns the files.

    Args:
        num_images: that are shown. seed: chooses among the images. threshold: least score of what is drawn.
    """
    dataset = cfg.DATASETS.TEST[0]
    words = words_of(cfg, dataset, vocabularies_from_config(cfg)[1])
    novel = set(words.novel.nonzero().flatten().tolist())
    images = choose_images(DatasetCatalog.get(dataset), novel, num_images, seed)
    comparisons = list(_compare(cfg, run, images, words, threshold))
    files = [run / "pictures" / "detections.png"]
    save_picture(comparison_grid(comparisons), files[0])
    history = _history_of(run)
    if history:
        files.append(run / "pictures" / "curves.png")
        save_picture(draw_curves(history), files[1])
    return files


def choose_images(records: Sequence[Record], novel: set[int], count: int, seed: int) -> list[Record]:
    """Images to show, chosen by a seed: first those with novel classes not shown yet, then any.

    Args:
        records: Detectron2's, with annotations. novel: class indices. count: how many, at most.
    """
    if count < 1:
        raise ValueError(f"--images must be 1 or more, got {count}.")
    order = np.random.default_rng(seed).permutation(len(records))
    remaining = [records[i] for i in order]
    times_shown: Counter[int] = Counter()
    chosen: list[Record] = []

    def interest(record: Record) -> float:
        return sum(1 / (1 + times_shown[c]) ** 2 for c in {a["category_id"] for a in record["annotations"]} & novel)

    while remaining and len(chosen) < count:
        best = max(range(len(remaining)), key=lambda i: interest(remaining[i]))
        chosen.append(remaining.pop(best))
        times_shown.update(annotation["category_id"] for annotation in chosen[-1]["annotations"])
    return chosen


def summary(run: Path, datasets: Sequence[str]) -> str:
    """A table of one line for a data set: the scores of the last evaluation, the iterations and minutes of training."""
    history = _history_of(run)
    trained = {"iterations": str(iterations_done(history)), "minutes": f"{training_minutes(history):.1f}"}
    metrics = [(name, kind, found) for name in datasets for kind, found in _metrics_of(run, name).items()]
    kinds = {kind for _, kind, _ in metrics}
    rows = [
        ({"data set": dataset} if len(datasets) > 1 else {})
        | ({"of": kind} if len(kinds) > 1 else {})
        | {name: f"{found[name]:.1f}" for name in SHOWN_METRICS if name in found}
        | (trained if history else {})
        for dataset, kind, found in metrics
    ]
    table = tabulate(rows, headers="keys", disable_numparse=True, stralign="right")
    if any(found for _, _, found in metrics):
        return table
    command = f"tools/train_net.py --config-file {run / 'config.yaml'} --eval-only --resume"
    return f"{run} was not evaluated yet; to do so: {command}\n{table}"


def _history_of(run: Path) -> History:
    """What training recorded; {} where it left nothing."""
    return read_metrics(run / "metrics.json") if (run / "metrics.json").is_file() else {}


def config_of(run: Path) -> CfgNode:
    """The config of a run, with its last weights. Raises FileNotFoundError, or ValueError without DATASETS.TEST."""
    if not (run / "config.yaml").is_file():
        raise FileNotFoundError(f"{run} holds no run: there is no config.yaml. Name the OUTPUT_DIR of a training run.")
    cfg = setup_cfg(str(run / "config.yaml"), ["MODEL.WEIGHTS", _weights_of(run)])
    if not cfg.DATASETS.TEST:
        raise ValueError(f"DATASETS.TEST of {run / 'config.yaml'} is empty: there are no test images.")
    return cfg


def _weights_of(run: Path) -> str:
    """The final weights, or the last checkpoint of an unfinished run, or "" where there are none."""
    if (run / "model_final.pth").is_file():
        return str(run / "model_final.pth")
    last = run / "last_checkpoint"
    return str(run / last.read_text().strip()) if last.is_file() else ""


def _metrics_of(run: Path, dataset: str) -> dict[str, dict[str, float]]:
    """The metrics of one data set among the saved results: of boxes, {} where there are none, and of masks, if any."""
    results = (read_results(results_folder(str(run))) or {}).get("results") or {}
    found = results if "bbox" in results else results.get(dataset, {})
    return {"boxes": found.get("bbox") or {}} | ({"masks": found["segm"]} if "segm" in found else {})


def _compare(
    cfg: CfgNode, run: Path, images: Sequence[Record], words: Vocabulary, threshold: float
) -> Iterator[Comparison]:
    """Ground truth and detections: those that the evaluation saved, or, where there are none, predicted now."""
    dataset = cfg.DATASETS.TEST[0]
    saved = saved_detections_file(run, dataset)
    find = _saved_detections(saved, dataset) if saved.is_file() else _new_detections(cfg, words)
    for record in images:
        detections = confident_boxes(find(record), words, threshold)
        truth = _ground_truth(record, words, with_masks=detections.masks is not None)
        yield Comparison(read_image(record["file_name"]), truth, detections)


def saved_detections_file(run: Path, dataset: str) -> Path:
    """Where the last evaluation of a run saved the detections of a data set, if there was one."""
    inference = Path(results_folder(str(run))) / "inference"
    return inference / dataset / results_file(MetadataCatalog.get(dataset).evaluator_type)


def _ground_truth(record: Record, words: Vocabulary, with_masks: bool = False) -> LabelledBoxes:
    objects = record["annotations"]
    classes = [thing["category_id"] for thing in objects]
    boxes_xyxy_abs = [BoxMode.convert(thing["bbox"], thing["bbox_mode"], BoxMode.XYXY_ABS) for thing in objects]
    names, novel = [words.names[c] for c in classes], words.novel[classes].tolist()
    outlines = [thing.get("segmentation") for thing in objects]
    masks = _drawn(outlines, record).numpy() if with_masks and all(outlines) else None
    return LabelledBoxes(np.array(boxes_xyxy_abs, dtype=float).reshape(-1, 4), names, novel, masks=masks)


def _drawn(segmentations: Sequence[Any], record: Record) -> torch.Tensor:
    """(N, height, width) bool."""
    size = record["height"], record["width"]
    try:
        masks = [torch.from_numpy(mask_util.decode(encode_mask(one, *size))).bool() for one in segmentations]
    except ValueError as error:
        raise ValueError(f"Image {record.get('file_name', record['image_id'])} has {error}.") from error
    return torch.stack(masks) if masks else torch.zeros(0, *size, dtype=torch.bool)


def _saved_detections(path: Path, dataset: str) -> Callable[[Record], Instances]:
    """Looks up the detections of an image in a file of LVIS results."""
    index = {category["id"]: i for i, category in enumerate(categories_of(dataset))}
    rows: dict[int, list[Record]] = defaultdict(list)
    for row in json.loads(path.read_text()):
        rows[row["image_id"]].append(row)
    with_masks = any("segmentation" in row for of_image in rows.values() for row in of_image)

    def find(record: Record) -> Instances:
        found = rows[record["image_id"]]
        boxes_xywh_abs = torch.tensor([row["bbox"] for row in found]).reshape(-1, 4)
        instances = Instances(
            (record["height"], record["width"]),
            pred_boxes=Boxes(BoxMode.convert(boxes_xywh_abs, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)),
            scores=torch.tensor([row["score"] for row in found]),
            pred_classes=torch.tensor([index[row["category_id"]] for row in found], dtype=torch.long),
        )
        if with_masks:
            instances.pred_masks = _drawn([row["segmentation"] for row in found], record)
        return instances

    return find


def _new_detections(cfg: CfgNode, words: Vocabulary) -> Callable[[Record], Instances]:
    """Detects in an image with the weights of the run."""
    predictor = Predictor(cfg, words)
    return lambda record: predictor(record["file_name"])
