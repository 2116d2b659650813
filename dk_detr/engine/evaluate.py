"""Evaluation of a detector on data sets, each with its own words."""

import logging
from collections import OrderedDict
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from torch import nn

from dk_detr.data import categories_of, test_mapper
from dk_detr.evaluation import OpenVocabularyLVISEvaluator
from dk_detr.structures import Vocabulary


def evaluate(cfg: CfgNode, model: nn.Module) -> "OrderedDict[str, Any]":
    """Results of DATASETS.TEST by data set. The model's words are put back afterwards."""
    detector: Any = model.module if hasattr(model, "module") else model
    vocabulary: Vocabulary = detector.vocabulary
    results: OrderedDict[str, Any] = OrderedDict()
    try:
        for name in cfg.DATASETS.TEST:
            words = vocabulary.select([category["name"] for category in categories_of(name)])
            detector.set_vocabulary(words)
            logging.getLogger(__name__).info(f"Evaluating on {name}: {words.describe()}")
            records = DatasetCatalog.get(name)
            loader = build_detection_test_loader(
                records, mapper=test_mapper(cfg), num_workers=cfg.DATALOADER.NUM_WORKERS
            )
            results[name] = inference_on_dataset(model, loader, build_evaluator(cfg, name, words))
    finally:
        detector.set_vocabulary(vocabulary)
    return results


def build_evaluator(cfg: CfgNode, name: str, words: Vocabulary) -> OpenVocabularyLVISEvaluator:
    """The evaluator of a data set; novel is what the vocabulary says."""
    unseen = [category["name"] for category in categories_of(name) if category.get("unseen_concept")]
    return OpenVocabularyLVISEvaluator(
        MetadataCatalog.get(name).json_file,
        words.names,
        novel=set(words.novel_names),
        groups={"novel-unseen": unseen} if unseen else {},
        output_dir=f"{cfg.OUTPUT_DIR}/inference/{name}",
        max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
    )
