"""DetectionGraph: from pixels to detections as one graph, for export. B images, Q queries, K words, E text width."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.export.nms import survivors
from dk_detr.layers import to_xyxy
from dk_detr.meta_arch import DETR
from dk_detr.modeling.masks import MaskFrame
from dk_detr.structures import FeaturePyramid, Memory, QuerySet, Trace
from dk_detr.structures.features import valid_cells

NOTHING = -1  # the label of a place that no detection fills


class DetectionGraph(nn.Module):
    """A detector as `DETR.detect` runs it, on tensors alone: pixels are normalised, the best (query, word) pairs are
    chosen, after NMS where the detector has it, and boxes are scaled.

    The images of a batch are of one size, so that none is padded for another. A detector with a padded square pads
    them itself.

    Args:
        model: in evaluation mode. fixed_words: whether the words are those that the model has now; else they are an
            input.

    Attributes:
        inputs: names of what `forward` takes, in its order. outputs: of what it gives.
    """

    def __init__(self, model: DETR, fixed_words: bool) -> None:
        super().__init__()
        self.model, self.fixed_words = model, fixed_words
        tells_novel = model.classifier.tells_novel or model.roi_head is not None
        words = () if fixed_words else ("text_embeddings", "novel") if tells_novel else ("text_embeddings",)
        self.inputs = ("images", "orig_target_sizes", *words)
        self.outputs = ("labels", "boxes", "scores", *(("masks",) if model.mask_head else ()))

    def forward(
        self,
        images: Tensor,
        orig_target_sizes: Tensor,
        text_embeddings: Tensor | None = None,
        novel: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Detect.

        Args:
            images: (B, 3, H, W) float32 in [0, 255], channels in the order of INPUT.FORMAT, resized as in evaluation.
            orig_target_sizes: (B, 2) int64, (h, w) of the pixels that boxes are wanted in.
            text_embeddings: (K, E) float32, unit rows, of the words to detect. novel: (K,) bool, those that were not
                trained. Both are given where `inputs` names them.

        Returns: labels (B, N) int64, rows of the words, -1 where fewer than N were found; boxes (B, N, 4) xyxy in
            pixels of the wanted size; scores (B, N), descending, 0 for what is to be left out; and of a detector with
            masks (B, N, H, W) probabilities in pixels of `images`.
        """
        model = self.model
        text = model.text if text_embeddings is None else text_embeddings
        if novel is None:
            novel = model.novel if self.fixed_words else torch.zeros_like(text[:, 0], dtype=torch.bool)
        memory = self._encode(images)
        initial = model.queries(memory)
        trace = model.decoder(QuerySet((initial.group,)), memory)
        seen = None if model.roi_head is None else model.roi_head.of_queries(trace.boxes[-1], memory)
        scores = model.heads.scores(trace, initial, text, model.train_text, novel, seen)
        pixels = _in_pixels(trace.boxes[-1], orig_target_sizes)
        query, labels, best = self._best(scores, pixels)
        boxes = pixels.gather(1, query[..., None].expand(-1, -1, 4))
        best = torch.where((boxes[..., 2:] > boxes[..., :2]).all(-1), best, 0.0)
        labels = torch.where(best > 0, labels, NOTHING)
        if model.mask_head is None:
            return labels, boxes, best
        return labels, boxes, best, self._masks(trace, query, memory, (images.shape[-2], images.shape[-1]))

    def _encode(self, images: Tensor) -> Memory:
        """All cells show the image, or, on a square, those that `valid_cells` counts."""
        model, size = self.model, (images.shape[-2], images.shape[-1])
        pixels, side, valid_size = (images - model.pixel_mean) / model.pixel_std, model.padded_size, None
        if side:
            pixels = F.pad(pixels, (0, side - size[1], 0, side - size[0]))
        maps = model.backbone(pixels)
        levels = tuple(model.neck(maps))
        if side:
            valid_size = valid_cells(levels, [size], (side, side)).to(images.device).expand(images.shape[0], -1, -1)
        memory: Memory = model.encoder(FeaturePyramid(levels, valid_size, 0, maps, (size,)))
        return memory

    def _best(self, scores: Tensor, boxes_xyxy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, word and score (B, N) of the best pairs. With N nothings behind them there are always N to take."""
        count, num_words = self.model.num_detections, scores.shape[2]
        if self.model.nms_iou is not None:
            scores = torch.where(survivors(boxes_xyxy, scores, self.model.nms_iou, count), scores, 0.0)
        best, pair = F.pad(scores.flatten(1), (0, count)).topk(count, dim=1)
        query = (pair // num_words).clamp(max=scores.shape[1] - 1)
        return query, pair - query * num_words, best

    def _masks(self, trace: Trace, query: Tensor, memory: Memory, size: tuple[int, int]) -> Tensor:
        """(B, N, H, W) probabilities of the chosen queries."""
        head, number = self.model.mask_head, query.shape[1]
        assert head is not None
        of_masks = head.read(memory)
        rows, boxes = (part[-1] for part in (trace.hidden_states, trace.boxes))
        rows = rows.gather(1, query[..., None].expand(-1, -1, rows.shape[-1])).flatten(0, 1)
        boxes = boxes.gather(1, query[..., None].expand(-1, -1, 4)).flatten(0, 1)
        image = torch.arange(query.shape[0], device=query.device)[:, None].expand(-1, number).flatten()
        side = self.model.padded_size
        frame = MaskFrame(of_masks.shapes[0], (side, side) if side else size, size)
        return frame.probabilities(head(rows, boxes, image, of_masks)).unflatten(0, (-1, number))


def _in_pixels(boxes: Tensor, sizes: Tensor) -> Tensor:
    """(B, Q, 4) cxcywh in [0, 1] and (B, 2) sizes (h, w) -> (B, Q, 4) corners in pixels, clipped."""
    return to_xyxy(boxes.float()).clamp(0, 1) * sizes.flip(1).repeat(1, 2)[:, None].float()
