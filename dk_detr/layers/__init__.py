"""Layers: tensors in, tensors out. Nothing here knows of images, classes or training."""

from dk_detr.layers.boxes import (
    generalized_iou,
    inverse_sigmoid,
    iou,
    to_absolute_xyxy,
    to_cxcywh,
    to_normalized_cxcywh,
    to_xyxy,
)
from dk_detr.layers.dropout import Dropout
from dk_detr.layers.dynamic_attention import dynamic_attention
from dk_detr.layers.focal import sigmoid_focal_loss
from dk_detr.layers.grid import Grid, grid_of_cells
from dk_detr.layers.mlp import MLP, box_head
from dk_detr.layers.ms_deform_attn import MSDeformAttn
from dk_detr.layers.position import sine_code, sine_position_of_boxes, sine_position_of_cells
from dk_detr.layers.resize import aligned_upsample, resize

__all__ = [
    "MLP", "Dropout", "Grid", "MSDeformAttn", "aligned_upsample", "box_head", "dynamic_attention", "generalized_iou",
    "grid_of_cells", "inverse_sigmoid", "iou", "resize", "sigmoid_focal_loss", "sine_code", "sine_position_of_boxes",
    "sine_position_of_cells", "to_absolute_xyxy", "to_cxcywh", "to_normalized_cxcywh", "to_xyxy",
]  # fmt: skip
