"""Detectors of the DETR series as plain formulas over the state dicts of their releases: slow, one image, no padding.

Written from the papers and the releases, of nothing that `dk_detr` has. Q queries, S tokens, C channels, D layers.
"""

import math
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.formulas import HEADS, Detector, Weights, anchors, cells, logit

ENCODER, DECODER = "transformer.encoder.layers.{}.", "transformer.decoder.layers.{}."
Answer = tuple[Tensor, Tensor]


def waves(x: Tensor, width: int, temperature: float = 10000.0) -> Tensor:
    """(…) -> (…, width): sin, cos, sin, cos, …"""
    rates = torch.tensor([temperature ** (-2 * index / width) for index in range(width // 2)])
    angles = 2 * math.pi * x[..., None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def code(places: Tensor, channels: int) -> Tensor:
    """(Q, 2) points or (Q, 4) boxes -> (Q, C or 2C): of y, x, w, h."""
    order = [1, 0, 2, 3][: places.shape[1]]
    return torch.cat([waves(places[:, index], channels // 2) for index in order], dim=1)


def cell_code(h: int, w: int, channels: int, temperature: float) -> Tensor:
    """(h·w, C): of the far end of each cell, y before x."""
    x, y = (cells((h, w), (h, w)) + 0.5 / torch.tensor([w, h])).unbind(-1)
    return torch.cat([waves(value, channels // 2, temperature) for value in (y, x)], dim=1)


def layers_of(weights: Weights, name: str) -> list[str]:
    """Names of the layers of an MLP."""
    names = (f"{name}.layers.{number}" for number in count())
    return [next(names) for _ in range(sum(n.startswith(f"{name}.layers.") for n in weights.state) // 2)]


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(Q, H, …), (S, H, …), (S, H, c) -> (Q, H·c)."""
    share = (torch.einsum("qhc,khc->hqk", query, key) / query.shape[-1] ** 0.5).softmax(-1)
    return torch.einsum("hqk,khc->qhc", share, value).flatten(1)


def split(x: Tensor) -> Tensor:
    return x.unflatten(1, (HEADS, -1))


@dataclass
class OneLevel:
    """Those that attend to one level. temperature: of the codes of cells."""

    weights: Weights
    channels: int
    encoder_layers: int
    decoder_layers: int
    temperature: float = 10000.0

    def mlp(self, name: str, x: Tensor) -> Tensor:
        return self.weights.mlp(layers_of(self.weights, name), x)

    def attention(self, name: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """PyTorch's, with its packed projections."""
        parts = zip((query, key, value), self.weights[f"{name}.in_proj_weight"].chunk(3),
                    self.weights[f"{name}.in_proj_bias"].chunk(3))  # fmt: skip
        q, k, v = (split(x @ w.T + b) for x, w, b in parts)
        return self.weights.linear(f"{name}.out_proj", attend(q, k, v))

    def think(self, layer: str, x: Tensor) -> Tensor:
        hidden = self.weights.linear(f"{layer}linear1", x)
        slope = f"{layer}activation.weight"
        below = self.weights[slope] if slope in self.weights.state else 0.0
        hidden = hidden.clamp(min=0) + below * hidden.clamp(max=0)
        return self.weights.linear(f"{layer}linear2", hidden)

    def encode(self, image: Tensor) -> Tensor:
        """(3, h, w) -> (S, C) tokens; `position` (S, C) is kept."""
        feature = self.weights.resnet18("backbone.0.body.", image[None])[-1]
        grid = F.conv2d(feature, self.weights["input_proj.weight"], self.weights["input_proj.bias"])[0]
        tokens = grid.flatten(1).T
        self.position = cell_code(*grid.shape[1:], self.channels, self.temperature)
        for number in range(self.encoder_layers):
            layer = ENCODER.format(number)
            scaled = "transformer.encoder.query_scale.layers.0.weight" in self.weights.state
            at = tokens + self.position * (self.mlp("transformer.encoder.query_scale", tokens) if scaled else 1)
            tokens = self.weights.norm(f"{layer}norm1", tokens + self.attention(f"{layer}self_attn", at, at, tokens))
            tokens = self.weights.norm(f"{layer}norm2", tokens + self.think(layer, tokens))
        return tokens

    def said(self, content: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, and what the box head says, of a layer; and what it says of what is not normalised."""
        hidden = self.weights.norm("transformer.decoder.norm", content)
        return (
            self.weights.linear("class_embed", hidden),
            self.mlp("bbox_embed", hidden),
            self.mlp("bbox_embed", content),
        )

    def detr(self, image: Tensor) -> Answer:
        tokens, position = self.encode(image), self.weights["query_embed.weight"]
        content, answers = torch.zeros_like(position), []
        for number in range(self.decoder_layers):
            layer = DECODER.format(number)
            at = content + position
            seen = self.attention(f"{layer}self_attn", at, at, content)
            content = self.weights.norm(f"{layer}norm1", content + seen)
            keys = tokens + self.position
            seen = self.attention(f"{layer}multihead_attn", content + position, keys, tokens)
            content = self.weights.norm(f"{layer}norm2", content + seen)
            content = self.weights.norm(f"{layer}norm3", content + self.think(layer, content))
            logits, box, _ = self.said(content)
            answers.append((logits, box.sigmoid()))
        return stacked(answers)

    def conditional(self, image: Tensor) -> Answer:
        tokens, position = self.encode(image), self.weights["query_embed.weight"]
        point = self.mlp("transformer.decoder.ref_point_head", position).sigmoid()
        content, answers = torch.zeros_like(position), []
        for number in range(self.decoder_layers):
            sought = code(point, self.channels)
            sought = sought * self.mlp("transformer.decoder.query_scale", content) if number else sought
            content = self.look(number, content, position, sought, tokens)
            logits, box, _ = self.said(content)
            answers.append((logits, (box + F.pad(logit(point), (0, 2))).sigmoid()))
        return stacked(answers)

    def dab(self, image: Tensor, content: Tensor, box: Tensor) -> Answer:
        """From (Q, C) contents and (Q, 4) boxes."""
        tokens, answers = self.encode(image), []
        for number in range(self.decoder_layers):
            codes = code(box, self.channels)
            position = self.mlp("transformer.decoder.ref_point_head", codes)
            sought = codes[:, : self.channels]
            sought = sought * self.mlp("transformer.decoder.query_scale", content) if number else sought
            width, height = (self.mlp("transformer.decoder.ref_anchor_head", content).sigmoid() / box[:, 2:]).unbind(1)
            of_y, of_x = sought.chunk(2, dim=1)
            sought = torch.cat([of_y * height[:, None], of_x * width[:, None]], dim=1)
            content = self.look(number, content, position, sought, tokens)
            logits, delta, raw = self.said(content)
            answers.append((logits, (delta + logit(box)).sigmoid()))
            box = (raw + logit(box)).sigmoid()
        return stacked(answers)

    def look(self, number: int, content: Tensor, position: Tensor, sought: Tensor, tokens: Tensor) -> Tensor:
        """A layer with conditional attention."""
        layer = DECODER.format(number)

        def project(name: str, x: Tensor) -> Tensor:
            return self.weights.linear(f"{layer}{name}_proj", x)

        query = project("sa_qcontent", content) + project("sa_qpos", position)
        key = project("sa_kcontent", content) + project("sa_kpos", position)
        seen = attend(split(query), split(key), split(project("sa_v", content)))
        content = self.weights.norm(f"{layer}norm1", content + self.weights.linear(f"{layer}self_attn.out_proj", seen))
        query, key = project("ca_qcontent", content), project("ca_kcontent", tokens)
        place = project("ca_kpos", self.position)
        if number == 0:
            query, key = query + project("ca_qpos", position), key + place
        query = torch.cat([split(query), split(project("ca_qpos_sine", sought))], dim=-1)
        seen = attend(query, torch.cat([split(key), split(place)], dim=-1), split(project("ca_v", tokens)))
        content = self.weights.norm(f"{layer}norm2", content + self.weights.linear(f"{layer}cross_attn.out_proj", seen))
        return self.weights.norm(f"{layer}norm3", content + self.think(layer, content))


def stacked(answers: list[Answer]) -> Answer:
    logits, boxes = zip(*answers)
    return torch.stack(logits), torch.stack(boxes)


class Anchored(Detector):
    """DAB-Deformable-DETR, and DINO from its proposals."""

    def position_of(self, content: Tensor, box: Tensor, number: int) -> Tensor:
        weights, name = self.weights, "transformer.decoder.{}"
        position = weights.mlp(layers_of(weights, name.format("ref_point_head")), code(box, self.channels))
        scale = name.format("query_scale")
        if number == 0 or f"{scale}.layers.0.weight" not in weights.state:
            return position
        return position * weights.mlp(layers_of(weights, scale), content)

    def dab(self, image: Tensor, content: Tensor, box: Tensor) -> Answer:
        tokens, answers = self.encode(image), []
        for number in range(self.decoder_layers):
            content = self.decode(number, content, self.position_of(content, box, number), box, tokens)
            box = self.boxes(number, content, box)
            answers.append((self.weights.linear(f"class_embed.{number}", content), box))
        return stacked(answers)


class Dino(Anchored):
    """With one head for all layers; cells are coded as DAB-DETR's, at temperature 20."""

    def code_of_cells(self, size: tuple[int, int], shown: tuple[int, int]) -> Tensor:
        assert size == shown
        return cell_code(*size, self.channels, 20.0)

    def dino(self, image: Tensor, classes: list[int]) -> Answer:
        """`classes` are the outputs by which proposals are ranked."""
        weights, tokens = self.weights, self.encode(image)
        anchor, inside = anchors(self.sizes, self.shown)
        seen = weights.linear("transformer.enc_output", tokens * inside[:, None])
        seen = weights.norm("transformer.enc_output_norm", seen)
        scores = weights.linear("transformer.enc_out_class_embed", seen)[:, classes].amax(1)
        content = weights["transformer.tgt_embed.weight"]
        best = scores.masked_fill(~inside, -torch.inf).topk(len(content)).indices
        delta = weights.mlp(layers_of(weights, "transformer.enc_out_bbox_embed"), seen)
        box, answers = (delta + logit(anchor)).sigmoid()[best], []
        for number in range(self.decoder_layers):
            content = self.decode(number, content, self.position_of(content, box, number), box, tokens)
            hidden = weights.norm("transformer.decoder.norm", content)
            answers.append((weights.linear("class_embed.0", hidden), self.boxes(0, hidden, box)))
            box = self.boxes(0, content, box)
        return stacked(answers)
