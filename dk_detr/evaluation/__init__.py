"""Scores detections: given `Instances` or a file of results, and an annotation file, nothing else."""

from dk_detr.evaluation.evaluator import OpenVocabularyEvaluator, results_file
from dk_detr.evaluation.protocols import PROTOCOLS
from dk_detr.evaluation.score import IOU_TYPES, score_file

__all__ = ["IOU_TYPES", "PROTOCOLS", "OpenVocabularyEvaluator", "results_file", "score_file"]
