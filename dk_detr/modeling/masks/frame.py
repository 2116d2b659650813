"""From the map that masks are drawn on to the pixels of an image, and back. N masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dk_detr.layers import aligned_upsample, resize
from dk_detr.structures import Memory

FACTOR = 4  # from a cell of stride 8 to a pixel of stride 2
PIXELS_AT_ONCE = 2**26  # 256 MB in float32
LEARNED_AT_ONCE = 2**24  # pixels that backward keeps a dozen numbers of


@dataclass(frozen=True)
class MaskFrame:
    """How the map of an image lies in its pixels.

    Attributes:
        cells: (h, w) of the map, from the top left, that are read.
        canvas: (H, W) pixels that these cells show: the padded square, or the image alone.
        size: (h, w) of the network's input, the top left of the canvas.
    """

    cells: tuple[int, int]
    canvas: tuple[int, int]
    size: tuple[int, int]

    def to_pixels(self, logits: Tensor, output: tuple[int, int]) -> Tensor:
        """(N, h, w) logits on the padded map -> (N, *output) bool, of the size that is asked for."""
        return resize(self.probabilities(logits), output) > 0.5

    def probabilities(self, logits: Tensor) -> Tensor:
        """(N, h, w) logits on the padded map -> (N, *size) in [0, 1], of the size that the network saw."""
        h, w = self.cells
        fine = aligned_upsample(logits[:, :h, :w], FACTOR).sigmoid()
        return resize(fine, self.canvas)[:, : self.size[0], : self.size[1]]

    def at_once(self, output: tuple[int, int]) -> int:
        """How many masks can be drawn at once, so that memory does not grow with their number."""
        return max(1, PIXELS_AT_ONCE // max(h * w for h, w in (self.canvas, output)))


def frames_of(memory: Memory, sizes: Sequence[tuple[int, int]], padded_side: int) -> list[MaskFrame]:
    """Of each image of a batch.

    Args:
        memory: of the masks. sizes: (h, w) of the images as the network saw them. padded_side: of the square that
            they were padded to before; 0 where no image saw padding.
    """
    if padded_side:
        return [MaskFrame(memory.shapes[0], (padded_side, padded_side), (h, w)) for h, w in sizes]
    if memory.valid_size is None:
        return [MaskFrame(memory.shapes[0], (h, w), (h, w)) for h, w in sizes]
    cells = [(h, w) for w, h in memory.valid_size[:, 0].tolist()]
    return [MaskFrame(each, (h, w), (h, w)) for each, (h, w) in zip(cells, sizes)]


def pairs_at_once(memory: Memory) -> int:
    """How many masks are learned from at once."""
    h, w = memory.shapes[0]
    return max(1, LEARNED_AT_ONCE // (FACTOR**2 * h * w))


def soft_targets(masks: Tensor, canvas: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """(N, h, w) bool in pixels of the network's input -> (N, 4·cells) in [0, 1], what logits of `FACTOR` learn.

    Args: canvas: (H, W) of the padded batch. cells: (h, w) of the padded map.
    """
    height, width = masks.shape[-2:]
    fine = (FACTOR * cells[0], FACTOR * cells[1])
    margin = (0, canvas[1] - width, 0, canvas[0] - height)
    portions = masks.split(max(1, PIXELS_AT_ONCE // (canvas[0] * canvas[1])))
    return torch.cat([resize(F.pad(some.float(), margin), fine) for some in portions])


def valid_pixels(memory: Memory) -> Tensor:
    """(B,) pixels of the finer map that show the image: those that are interpolated from its cells alone."""
    h, w = memory.shapes[0]
    if memory.valid_size is None:
        return memory.tokens.new_full((len(memory.tokens),), FACTOR**2 * h * w)
    across, down = memory.valid_size[:, 0].unbind(1)
    return (_valid(across, w) * _valid(down, h)).float()


def _valid(count: Tensor, side: int) -> Tensor:
    """(B,) valid cells of a side -> (B,) valid pixels of it."""
    padding = torch.arange(side, device=count.device) >= count[:, None]
    fine = F.interpolate(padding[:, None].float(), size=FACTOR * side, mode="linear", align_corners=True)
    return (fine[:, 0] == 0).sum(1)
