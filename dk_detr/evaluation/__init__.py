"""Scores detections: given `Instances` and an annotation file, nothing else."""

from dk_detr.evaluation.lvis import OpenVocabularyLVISEvaluator

__all__ = ["OpenVocabularyLVISEvaluator"]
