"""Explain: why a detector finds what it finds, and what its teacher tells it. Read from outside, by module hooks."""

from dk_detr.explain.attention import READERS, HeatMap, Look, Points
from dk_detr.explain.detections import DetectionExplained, ImageExplained, Step, explain_detections
from dk_detr.explain.teaching import Teaching, explain_teaching

__all__ = [
    "READERS", "DetectionExplained", "HeatMap", "ImageExplained", "Look", "Points", "Step", "Teaching",
    "explain_detections", "explain_teaching",
]  # fmt: skip
