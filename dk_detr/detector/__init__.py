"""A detector in five lines: load it, say the words, detect, use what was found."""

from dk_detr.detector.detections import Detections
from dk_detr.detector.detector import Detector
from dk_detr.detector.load import load

__all__ = ["Detections", "Detector", "load"]
