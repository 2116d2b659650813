"""Evaluates detections: given `Instances` or a file of results, and an annotation file, nothing else."""

from dk_detr.evaluation.evaluate import IOU_TYPES, evaluate_file
from dk_detr.evaluation.evaluator import OpenVocabularyEvaluator, results_file
from dk_detr.evaluation.naming import CLASSES, NAMED, NamingEvaluator
from dk_detr.evaluation.protocols import PROTOCOLS

__all__ = [
    "CLASSES", "IOU_TYPES", "NAMED", "PROTOCOLS", "NamingEvaluator", "OpenVocabularyEvaluator", "evaluate_file",
    "results_file",
]  # fmt: skip
