"""Export: a trained detector as a file that runs without dk_detr."""

from dk_detr.export.formats import DTYPES, FORMATS, ONNX, Request, write
from dk_detr.export.graph import DetectionGraph
from dk_detr.export.refusals import WORDS, refuse_what_cannot_be_exported

__all__ = [
    "DTYPES", "FORMATS", "ONNX", "WORDS", "DetectionGraph", "Request", "refuse_what_cannot_be_exported", "write",
]  # fmt: skip
