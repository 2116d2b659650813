"""Evaluates an open-vocabulary detector on a data set, in Detectron2's evaluator protocol."""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from dk_detr.evaluation.evaluate import categories_file, evaluate_and_report
from dk_detr.evaluation.ground_truth import GroundTruth, index_of, read_ground_truth
from dk_detr.evaluation.instances import detections_of, masks_of, proposals_of
from dk_detr.evaluation.metrics import base_and_novel, match_names, recall_metrics
from dk_detr.evaluation.protocols import choose_protocol
from dk_detr.evaluation.results import ImageDetections, gather, write_results

logger = logging.getLogger(__name__)

PROPOSALS = "proposals"


def results_file(kind: str) -> str:
    """The name of the file that holds every detection, in the format of COCO's and LVIS's results."""
    return f"{kind}_results.json"


class OpenVocabularyEvaluator(DatasetEvaluator):
    """The metrics of a benchmark for a vocabulary with base and novel names; see `protocols.py` for the rules.

    Images of the annotation file that were never predicted count as images without detections. Novel is what the
    caller's set of names says; that rare = novel is only the convention of OV-LVIS.

    Args:
        kind: of PROTOCOLS. annotation_file: COCO or LVIS v1 JSON.
        names: the categories in the order in which `pred_classes` counts; the same set as in the annotation file.
        novel: the names that training never saw; all others are base.
        groups: further named sets of names; each adds `AP-<group>`, `AP50-<group>`, `AR@100-<group>`.
        output_dir: where `<kind>_results.json`, `<kind>_categories.csv` and `.md` (of masks `…_categories_masks`) go;
            empty writes nothing.
        max_detections: of an image over all categories, for LVIS; other benchmarks have limits of their own.

    Raises: ValueError if names and annotation file disagree, a group holds an unknown name, or the file is not one for
        this benchmark.
    """

    def __init__(
        self,
        kind: str,
        annotation_file: str,
        names: Sequence[str],
        novel: Collection[str] = (),
        groups: Mapping[str, Collection[str]] | None = None,
        output_dir: str = "",
        max_detections: int = 300,
    ) -> None:
        self._kind, self._protocol = kind, choose_protocol(kind, max_detections)
        self._ground_truth = self._protocol.accept(read_ground_truth(annotation_file))
        self._category_of_class = np.array(match_names(names, self._ground_truth), dtype=np.int64)
        self._groups = base_and_novel(self._ground_truth, novel, groups)
        self._output_dir = output_dir
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._predictions: list[ImageDetections] = []
        self._proposals: list[ImageDetections] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Instances]]) -> None:
        """Take one batch: `inputs` carry "image_id", `outputs` carry "instances" in the frame of the original image,
        and, where the recall of the first stage is wanted, "proposals" (proposal_boxes, objectness_logits).

        Masks, if there are any: pred_masks, bool (N, height, width) or N run-length encodings. They are evaluated where
        the annotation file has masks of all objects.

        Raises: ValueError for an unknown image id, a class without a name, a box or score that is not finite, masks of
            another size than the image.
        """
        for image, output in zip(inputs, outputs):
            detections = detections_of(int(image["image_id"]), output["instances"])
            self._check(detections)
            self._predictions.append(self._with_masks(detections, output["instances"]))
            if PROPOSALS in output:
                proposals = proposals_of(detections.image_id, output[PROPOSALS])
                self._check(proposals)
                self._proposals.append(proposals)

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Gather the predictions of all processes and evaluate them on the main one.

        Returns: {"bbox": {metric: points}}, nan for groups without ground truth, the same under "segm" where there are
            masks, and the recall of the first stage under "proposals" where there are any; None on all but the main
            process.
        """
        comm.synchronize()
        gathered = comm.gather((self._predictions, self._proposals), dst=0)
        if not comm.is_main_process():
            return None
        predictions = self._one_per_image(itertools.chain(*(found for found, _ in gathered)))
        proposals = list(_first_of_each(itertools.chain(*(found for _, found in gathered))).values())
        if self._output_dir:  # before the evaluation, so that no failure there costs the detections
            ids = self._ground_truth.category_ids[self._category_of_class].tolist()
            write_results(Path(self._output_dir) / results_file(self._kind), predictions, ids)
        result = OrderedDict(bbox=self._evaluate_type(self._ground_truth, predictions, "bbox"))
        if any(image.masks is not None for image in predictions):
            result["segm"] = self._evaluate_type(self._ground_truth_of_masks, predictions, "segm")
        if proposals:
            boxes = gather(self._ground_truth, proposals, self._category_of_class)
            result[PROPOSALS] = recall_metrics(self._protocol, self._ground_truth, boxes, self._groups)
            logger.info("Class-agnostic recall of the first stage: %s", _in_line(result[PROPOSALS]))
        return result

    def _evaluate_type(self, truth: GroundTruth, predictions: list[ImageDetections], iou_type: str) -> dict[str, float]:
        found = gather(truth, predictions, self._category_of_class, iou_type)
        table = categories_file(self._output_dir, self._kind, iou_type)
        return evaluate_and_report(self._protocol, truth, found, self._groups, iou_type, table)

    @cached_property
    def _ground_truth_of_masks(self) -> GroundTruth:
        """Read when masks are seen first: most detectors have none, and polygons are most of the file."""
        return self._protocol.accept(read_ground_truth(self._ground_truth.file, "segm"))

    def _with_masks(self, detections: ImageDetections, instances: Instances) -> ImageDetections:
        if not instances.has("pred_masks"):
            return detections
        if not self._ground_truth.has_masks:
            if not self._predictions:
                logger.warning("%s lacks masks of objects: only boxes are evaluated.", self._ground_truth.file)
            return detections
        # On the main process a broken polygon is found now, not after the last image.
        truth = self._ground_truth_of_masks if comm.is_main_process() else self._ground_truth
        height, width = truth.sizes[index_of(truth.image_ids, np.array([detections.image_id]))[0]].tolist()
        try:
            return detections._replace(masks=masks_of(instances, height, width))
        except ValueError as error:
            raise ValueError(f"Image {detections.image_id} has {error}.") from error

    def _check(self, detections: ImageDetections) -> None:
        where, num_names = f"Image {detections.image_id}", len(self._category_of_class)
        if detections.image_id not in self._ground_truth.images:
            raise ValueError(f"{where} was predicted, but {self._ground_truth.file} has no such image id.")
        strange = detections.classes[(detections.classes < 0) | (detections.classes >= num_names)]
        if len(strange):
            raise ValueError(f"{where}: pred_classes has {strange[0]}, but there are {num_names} names.")
        if not (np.isfinite(detections.boxes_xyxy_abs).all() and np.isfinite(detections.scores).all()):
            raise ValueError(f"{where}: a predicted box or score is not finite; the weights are probably broken.")

    def _one_per_image(self, predictions: Iterable[ImageDetections]) -> list[ImageDetections]:
        """Drop repetitions (samplers may pad with images already seen) and say what is missing."""
        predictions = list(predictions)
        first = _first_of_each(predictions)
        if len(first) < len(predictions):
            logger.warning("%d images were predicted more than once; the first counts.", len(predictions) - len(first))
        total = len(self._ground_truth.image_ids)
        if len(first) < total:
            logger.warning("%d of %d images in %s were never predicted: their objects count as missed.",
                           total - len(first), total, self._ground_truth.file)  # fmt: skip
        return [first[image_id] for image_id in sorted(first)]


def _first_of_each(predictions: Iterable[ImageDetections]) -> dict[int, ImageDetections]:
    first: dict[int, ImageDetections] = {}
    for image in predictions:
        first.setdefault(image.image_id, image)
    return first


def _in_line(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {points:.2f}" for name, points in metrics.items())
