"""The masks of SOIT and DK-DETR as plain formulas over their released names: one query after the other.

Written from the paper and the release, of nothing that `dk_detr` has. Q queries, C channels; a map has h × w cells, of
which `shown` (rows, columns) show the image.
"""

import math

import torch
from torch import Tensor

from tests.parity.formulas import Detector, Weights, sample
from tests.parity.opera import HEAD

Size = tuple[int, int]
LAYER = f"{HEAD}seg_encoder.layers.0"


def of_queries(detector: Detector, tokens: Tensor, content: Tensor, boxes: Tensor) -> Tensor:
    """(S, C) encoded tokens of all levels, (Q, C) contents, (Q, 4) boxes -> (Q, h, w) logits on the finest level."""
    weights, (h, w), shown = detector.weights, detector.sizes[0], detector.shown[0]
    place = detector.code_of_cells((h, w), shown) + weights[detector.names.level_embedding][0]
    seen = own_layer(weights, tokens[: h * w], place, (h, w), shown)
    small = weights.norm(f"{HEAD}mask_trans_norm", weights.linear(f"{HEAD}mask_trans", seen)).reshape(h, w, 8)
    branch = [f"bbox_head.seg_branches.0.{index}" for index in (0, 2, 4)]
    return torch.stack([drawn(small, theta, box, shown) for theta, box in zip(weights.mlp(branch, content), boxes)])


def own_layer(weights: Weights, x: Tensor, place: Tensor, size: Size, shown: Size) -> Tensor:
    """(h·w, C): an encoder layer of one head and four points on one level."""
    h, w = size
    name, query = f"{LAYER}.attentions.0", x + place
    value = weights.linear(f"{name}.value_proj", x).reshape(h, w, -1).clone()
    value[shown[0] :], value[:, shown[1] :] = 0, 0
    offsets = weights.linear(f"{name}.sampling_offsets", query).reshape(h * w, 4, 2)
    share = weights.linear(f"{name}.attention_weights", query).softmax(-1)
    centers = torch.tensor([[(column + 0.5) / w, (row + 0.5) / h] for row in range(h) for column in range(w)])
    places = [centers + offsets[:, point] / torch.tensor([w, h]) for point in range(4)]
    seen = torch.stack([share[:, point, None] * sample(value, at) for point, at in enumerate(places)]).sum(0)
    x = weights.norm(f"{LAYER}.norms.0", x + weights.linear(f"{name}.output_proj", seen))
    thought = weights.mlp([f"{LAYER}.ffns.0.layers.0.0", f"{LAYER}.ffns.0.layers.1"], x)
    return weights.norm(f"{LAYER}.norms.1", x + thought)


def drawn(small: Tensor, theta: Tensor, box: Tensor, shown: Size) -> Tensor:
    """(h, w, 8) map, 441 numbers and the box of a query -> (h, w) logits."""
    h, w, _ = small.shape
    offset_weight, offset_bias = theta[:256].reshape(4, 4, 2, 8), theta[256:288].reshape(4, 4, 2)
    share_weight, share_bias = theta[288:416].reshape(4, 4, 8), theta[416:432].reshape(4, 4)
    out_weight, out_bias = theta[432:440], theta[440]
    code = torch.stack([seen_from(box, row, column, shown) for row in range(h) for column in range(w)])
    asked = small.reshape(h * w, 8) + code
    value = small.clone()
    value[shown[0] :], value[:, shown[1] :] = 0, 0
    cells = torch.tensor([[column, row] for row in range(h) for column in range(w)])
    found = []
    for head in range(4):
        share = (asked @ share_weight[head].T + share_bias[head]).softmax(-1)
        total = torch.zeros(h * w, 2)
        for point in range(4):
            at = cells + asked @ offset_weight[head, point].T + offset_bias[head, point]
            total += share[:, point, None] * sample(value[..., 2 * head :][..., :2], (at + 0.5) / torch.tensor([w, h]))
        found.append(total)
    return (torch.cat(found, dim=-1).clamp(min=0) @ out_weight + out_bias).reshape(h, w)


def seen_from(box: Tensor, row: int, column: int, shown: Size) -> Tensor:
    """Eight numbers for where a cell lies, seen from the centre of a box: y first."""
    rows, columns = shown
    y = (min(row, rows - 1) + 1) / (rows + 1e-6) if column < columns else 0.0
    x = (min(column, columns - 1) + 1) / (columns + 1e-6) if row < rows else 0.0
    code = []
    for distance in ((y - box[1].item()) * 2 * math.pi, (x - box[0].item()) * 2 * math.pi):
        code += [f(distance / period) for period in (1, 100) for f in (math.sin, math.cos)]
    return torch.tensor(code)


def four_times(mask: Tensor) -> Tensor:
    """(h, w) -> (4h, 4w), cell i at pixel 4i + 2."""
    for _ in range(2):
        at = [max(index - 2, 0) / 4 for index in range(4 * len(mask))]
        mask = between(mask, at).T
    return mask


def stretched(mask: Tensor, size: Size) -> Tensor:
    """(h, w) -> size; the corners stay the corners."""
    for side in size:
        at = [index * (len(mask) - 1) / (side - 1) for index in range(side)]
        mask = between(mask, at).T
    return mask


def between(mask: Tensor, at: list[float]) -> Tensor:
    """Rows of (h, w) at these places, between two rows a mixture, beyond the last one the last."""
    rows = []
    for place in at:
        low = min(int(place), len(mask) - 1)
        high = min(low + 1, len(mask) - 1)
        rows.append(mask[low] * (1 - (place - int(place))) + mask[high] * (place - int(place)))
    return torch.stack(rows)
