"""NMS within each word as one operator, which an ONNX file has, too. B images, Q queries, K words."""

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms


@torch.library.custom_op("dk_detr::survivors", mutates_args=())
def survivors(boxes_xyxy: Tensor, scores: Tensor, nms_iou: float, count: int) -> Tensor:
    """(B, Q, 4) corners and (B, Q, K) scores -> (B, Q, K) bool: the pairs above 0 that greedy NMS keeps, at most
    `count` of a word, the best. Of two boxes of a word that overlap more than `nms_iou`, the better stays."""
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for image, word in (scores > 0).any(1).nonzero().tolist():
        rows = (scores[image, :, word] > 0).nonzero()[:, 0]
        best = nms(boxes_xyxy[image, rows], scores[image, rows, word], nms_iou)[:count]
        kept[image, rows[best], word] = True
    return kept


@survivors.register_fake
def _(boxes_xyxy: Tensor, scores: Tensor, nms_iou: float, count: int) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def onnx_survivors(boxes_xyxy: Any, scores: Any, nms_iou: float, count: int) -> Any:
    """The same as nodes of an ONNX graph."""
    import onnxscript

    op: Any = onnxscript.opset18
    of_words = op.Transpose(scores, perm=[0, 2, 1])
    limits = op.Constant(value_ints=[count]), op.Constant(value_floats=[nms_iou]), op.Constant(value_floats=[0.0])
    places = op.NonMaxSuppression(boxes_xyxy, of_words, *limits)  # (N, 3): image, word, query
    nothing = op.Mul(of_words, op.Constant(value_float=0.0))
    ones = op.Expand(op.Constant(value_float=1.0), op.Slice(op.Shape(places), [0], [1]))
    marked = op.ScatterND(nothing, places, ones)
    return op.Cast(op.Transpose(marked, perm=[0, 2, 1]), to=9)  # TensorProto.BOOL
