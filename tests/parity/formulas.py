"""A deformable DETR as plain formulas over a state dict, to compare detectors with: slow, one image.

Written from the papers and the releases, of nothing that `dk_detr` has. `Names` say which tensor plays which part.
The image may lie on a larger canvas, top left; `shown` are the cells (h, w) of each level that show it.
Q queries, S tokens, C channels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

HEADS, POINTS = 8, 4
Sizes = Sequence[tuple[int, int]]


@dataclass
class Weights:
    """A state dict that remembers which of its tensors were asked for."""

    state: Mapping[str, Tensor]
    asked: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> Tensor:
        self.asked.add(name)
        return self.state[name]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self[f"{name}.weight"], self[f"{name}.bias"])

    def mlp(self, names: Sequence[str], x: Tensor) -> Tensor:
        for name in names[:-1]:
            x = self.linear(name, x).clamp(min=0)
        return self.linear(names[-1], x)

    def resnet18(self, prefix: str, image: Tensor) -> list[Tensor]:
        """The maps of strides 8, 16, 32, by torchvision's own network."""
        network = torchvision.models.resnet18()
        names = [name for name in network.state_dict() if not name.startswith("fc.") and "num_batches" not in name]
        network.load_state_dict({name: self[prefix + name] for name in names}, strict=False)
        network.eval()
        x = network.maxpool(network.relu(network.bn1(network.conv1(image))))
        maps = []
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            maps.append(x := stage(x))
        return maps[1:]


def logit(x: Tensor) -> Tensor:
    x = x.clamp(1e-5, 1 - 1e-5)
    return (x / (1 - x)).log()


def sines(x: Tensor, width: int) -> Tensor:
    """(…) -> (…, width): sin, cos, sin, cos, … of 2π·x at wavelengths from 1 to 10000."""
    code = []
    for index in range(width // 2):
        angle = 2 * math.pi * x / 10000 ** (2 * index / width)
        code += [angle.sin(), angle.cos()]
    return torch.stack(code, dim=-1)


def cells(size: tuple[int, int], shown: tuple[int, int]) -> Tensor:
    """(h·w, 2) centres (x, y) of the cells of a map, 1 where the image ends, row by row."""
    h, w = size
    return torch.tensor([[(x + 0.5) / shown[1], (y + 0.5) / shown[0]] for y in range(h) for x in range(w)])


def position_of_cells(size: tuple[int, int], shown: tuple[int, int], channels: int) -> Tensor:
    """(h·w, C): half for y, half for x."""
    x, y = cells(size, shown).unbind(-1)
    return torch.cat([sines(y, channels // 2), sines(x, channels // 2)], dim=-1)


def position_of_boxes(boxes: Tensor, channels: int) -> Tensor:
    """(Q, 4) -> (Q, 2C)."""
    return torch.cat([sines(boxes[:, i], channels // 2) for i in range(4)], dim=-1)


def sample(values: Tensor, xy: Tensor) -> Tensor:
    """(h, w, c) at (Q, 2) places (x, y) in [0, 1] -> (Q, c), bilinear; outside there is nothing."""
    h, w, _ = values.shape
    x, y = xy[:, 0] * w - 0.5, xy[:, 1] * h - 0.5
    total = torch.zeros(len(xy), values.shape[-1])
    for column in (x.floor(), x.floor() + 1):
        for row in (y.floor(), y.floor() + 1):
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
            inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            at = values[row.clamp(0, h - 1).long(), column.clamp(0, w - 1).long()]
            total += (weight * inside)[:, None] * at
    return total


def deformable_attention(
    weights: Weights, name: str, query: Tensor, reference: Tensor, tokens: Tensor, sizes: Sizes, shown: Sizes
) -> Tensor:
    """(Q, C) queries around (Q, 2) points or (Q, 4) boxes, in shares of the image, look at (S, C) tokens of all levels;
    there is nothing outside of the image."""
    number, levels = len(query), len(sizes)
    value = weights.linear(f"{name}.value_proj", tokens).reshape(len(tokens), HEADS, -1)
    offsets = weights.linear(f"{name}.sampling_offsets", query).reshape(number, HEADS, levels, POINTS, 2)
    share = weights.linear(f"{name}.attention_weights", query).reshape(number, HEADS, -1).softmax(-1)
    share = share.reshape(number, HEADS, levels, POINTS)
    heads = [torch.zeros(number, value.shape[-1]) for _ in range(HEADS)]
    start = 0
    for level, (h, w) in enumerate(sizes):
        values = value[start : start + h * w].reshape(h, w, HEADS, -1).clone()
        start += h * w
        rows, columns = shown[level]
        values[rows:], values[:, columns:] = 0, 0
        share_of_map = torch.tensor([columns / w, rows / h])
        for head in range(HEADS):
            for point in range(POINTS):
                offset = offsets[:, head, level, point]
                if reference.shape[-1] == 2:
                    place = reference * share_of_map + offset / torch.tensor([w, h])
                else:
                    place = (reference[:, :2] + offset / POINTS * reference[:, 2:] * 0.5) * share_of_map
                heads[head] = heads[head] + share[:, head, level, point, None] * sample(values[:, :, head], place)
    return weights.linear(f"{name}.output_proj", torch.cat(heads, dim=-1))


def dense_attention(weights: Weights, name: str, query: Tensor, value: Tensor) -> Tensor:
    """(Q, C) queries, their own keys, read (Q, C) values."""
    wq, wk, wv = weights[f"{name}.in_proj_weight"].chunk(3)
    bq, bk, bv = weights[f"{name}.in_proj_bias"].chunk(3)
    q, k, v = ((x @ w.T + b).reshape(len(x), HEADS, -1) for x, w, b in
               ((query, wq, bq), (query, wk, bk), (value, wv, bv)))  # fmt: skip
    scores = torch.einsum("qhc,khc->hqk", q, k) / q.shape[-1] ** 0.5
    read = torch.einsum("hqk,khc->qhc", scores.softmax(-1), v).flatten(1)
    return weights.linear(f"{name}.out_proj", read)


def anchors(sizes: Sizes, shown: Sizes) -> tuple[Tensor, Tensor]:
    """(S, 4) boxes around the cells, twice as large on each level, and (S) whether they lie well inside the image."""
    boxes = []
    for level, (h, w) in enumerate(sizes):
        boxes.append(torch.cat([cells((h, w), shown[level]), torch.full((h * w, 2), 0.05 * 2**level)], dim=-1))
    anchor = torch.cat(boxes)
    return anchor, ((anchor > 0.01) & (anchor < 0.99)).all(-1)


def shown_cells(cells: tuple[int, int], image: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of a map that show the image: those whose first pixel is of it."""
    rows, columns = (
        sum(index * whole // number < part for index in range(number))
        for number, part, whole in zip(cells, image, canvas)
    )
    return rows, columns


@dataclass(frozen=True)
class Layer:
    """Names of the parts of a layer, "{}" for its number. Dense attention, of a decoder only, is first."""

    deformable_attention: str
    after_deformable: str
    feed_forward: tuple[str, str]
    after_feed_forward: str
    dense_attention: str = ""
    after_dense: str = ""


@dataclass(frozen=True)
class Names:
    """Names of the parts of a detector. neck: convolution and norm of each level. box_head: its three layers, "{}" for
    its number. token, query: linear layer and norm. ranking: the class head of the first stage."""

    backbone: str
    neck: Sequence[tuple[str, str]]
    level_embedding: str
    encoder: Layer
    decoder: Layer
    box_head: tuple[str, str, str]
    token: tuple[str, str] = ("", "")
    ranking: str = ""
    query: tuple[str, str] = ("", "")


@dataclass
class Detector:
    """What all of them do. channels: C. layers: of the encoder; after them the number of the encoder's box head."""

    weights: Weights
    names: Names
    channels: int
    encoder_layers: int
    decoder_layers: int

    def encode(self, canvas: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """(3, H, W), of which (h, w) is the image, or all of it -> (S, C) tokens."""
        levels, whole = self.levels(canvas), (canvas.shape[1], canvas.shape[2])
        self.sizes = [(level.shape[1], level.shape[2]) for level in levels]
        self.shown = [shown_cells(level, size or whole, whole) for level in self.sizes]
        tokens = torch.cat([level.flatten(1).T for level in levels])
        embedding = self.weights[self.names.level_embedding]
        codes = [self.code_of_cells(*both) for both in zip(self.sizes, self.shown)]
        position = torch.cat([code + row for code, row in zip(codes, embedding)])
        reference = torch.cat([cells(*both) for both in zip(self.sizes, self.shown)])
        for number in range(self.encoder_layers):
            tokens = self.look(self.names.encoder, number, tokens, position, reference, tokens)
        return tokens

    def code_of_cells(self, size: tuple[int, int], shown: tuple[int, int]) -> Tensor:
        """(h·w, C)."""
        return position_of_cells(size, shown, self.channels)

    def levels(self, image: Tensor) -> list[Tensor]:
        """The maps of the backbone, and one from the last of them at half its size, all with C channels."""
        maps = self.weights.resnet18(self.names.backbone, image[None])
        inputs = [(x, 1) for x in maps] + [(maps[-1], 2)]
        return [self.mapped(x, stride, *names) for (x, stride), names in zip(inputs, self.names.neck)]

    def mapped(self, x: Tensor, stride: int, conv: str, norm: str) -> Tensor:
        bias = self.weights[f"{conv}.bias"] if f"{conv}.bias" in self.weights.state else None
        x = F.conv2d(x, self.weights[f"{conv}.weight"], bias, stride, padding=stride - 1)
        return F.group_norm(x, 32, self.weights[f"{norm}.weight"], self.weights[f"{norm}.bias"])[0]

    def look(
        self, layer: Layer, number: int, x: Tensor, position: Tensor, reference: Tensor, tokens: Tensor
    ) -> Tensor:
        """Deformable attention and the feed-forward part of a layer, a norm after each."""
        name = layer.deformable_attention.format(number)
        seen = deformable_attention(self.weights, name, x + position, reference, tokens, self.sizes, self.shown)
        x = self.weights.norm(layer.after_deformable.format(number), x + seen)
        thought = self.weights.mlp([name.format(number) for name in layer.feed_forward], x)
        return self.weights.norm(layer.after_feed_forward.format(number), x + thought)

    def decode(self, number: int, content: Tensor, position: Tensor, reference: Tensor, tokens: Tensor) -> Tensor:
        """A layer of the decoder: (Q, C) contents at (Q, C) positions, around (Q, 2) points or (Q, 4) boxes."""
        layer = self.names.decoder
        said = dense_attention(self.weights, layer.dense_attention.format(number), content + position, content)
        content = self.weights.norm(layer.after_dense.format(number), content + said)
        return self.look(layer, number, content, position, reference, tokens)

    def boxes(self, head: int, content: Tensor, reference: Tensor) -> Tensor:
        """(Q, 4) boxes: those of the reference moved, or those around the point."""
        moved = self.weights.mlp([name.format(head) for name in self.names.box_head], content)
        moved[:, : reference.shape[-1]] += logit(reference)
        return moved.sigmoid()

    def ranked(self, tokens: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """(S, C) what tokens say, those that do not lie inside (S) nothing, and (S) how much of an object each is."""
        linear, norm = self.names.token
        tokens = self.weights.norm(norm, self.weights.linear(linear, tokens * inside[:, None]))
        return tokens, self.weights.linear(self.names.ranking, tokens)[:, 0]

    def propose(self, tokens: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Content, position and boxes of the best tokens. The releases may also propose the very edge, where a token
        says nothing."""
        anchor, inside = anchors(self.sizes, self.shown)
        tokens, scores = self.ranked(tokens, inside)
        best = scores.masked_fill(~inside, -torch.inf).topk(number).indices
        boxes = self.boxes(self.decoder_layers, tokens, anchor)[best]
        linear, norm = self.names.query
        queries = self.weights.norm(norm, self.weights.linear(linear, position_of_boxes(boxes, self.channels)))
        position, content = queries.split(self.channels, dim=1)
        return content, position, boxes
