"""Resizing that leaves something of every image, however long and narrow."""

import detectron2.data.transforms as T
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import detection_utils as utils


class NeverEmpty(T.Augmentation):
    """A resize of Detectron2's; where it rounds the short side of a strip to 0 pixels, this leaves 1."""

    def __init__(self, resize: T.Augmentation) -> None:
        super().__init__()
        self.resize = resize

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """What to do with this image."""
        transform = self.resize.get_transform(image)
        if isinstance(transform, T.ResizeTransform):
            transform.new_h, transform.new_w = max(transform.new_h, 1), max(transform.new_w, 1)
        return transform


def shortest_edge(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Detectron2's resize by INPUT.MIN_SIZE_* and MAX_SIZE_*, and in training its flip."""
    resize, *flip = utils.build_augmentation(cfg, is_train)
    return [NeverEmpty(resize), *flip]


def evaluation_resize(cfg: CfgNode) -> T.Augmentation:
    """How images are resized for evaluation, embedding banks and single pictures."""
    (resize,) = shortest_edge(cfg, is_train=False)
    return resize
