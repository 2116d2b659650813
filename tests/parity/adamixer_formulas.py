"""AdaMixer as plain formulas over its released names, one query after the other; and a release at small sizes.

Written from the paper and the release, of nothing that `dk_detr` has.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from tests.parity.formulas import Weights, sample
from tests.parity.published import Shapes, filled, linear, norm, resnet

CHANNELS, HEADS, GROUPS, POINTS, OUT, FFN, STAGES, QUERIES, CLASSES = 32, 8, 4, 6, 10, 48, 6, 9, 7
WIDTHS = (64, 128, 256, 512)  # of the maps of a ResNet-18
STRIDES = (4, 8, 16, 32)
WIDTH = CHANNELS // GROUPS


@cache
def released() -> dict[str, Tensor]:
    shapes: Shapes = {**resnet("backbone.", frozen=False), **norm("neck.gn_out", CHANNELS)}
    for level, width in enumerate(WIDTHS):
        name = f"neck.lateral_convs.{level}.conv"
        shapes |= {f"{name}.weight": (CHANNELS, width, 1, 1), f"{name}.bias": (CHANNELS,)}
    shapes |= {"rpn_head.init_proposal_bboxes.weight": (QUERIES, 4)}
    shapes |= {"rpn_head.init_content_features.weight": (QUERIES, CHANNELS)}
    for stage in range(STAGES):
        shapes |= stage_shapes(f"roi_head.bbox_head.{stage}.")
    state = filled(shapes)
    state["rpn_head.init_proposal_bboxes.weight"] = torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(QUERIES, 4).clone()
    for stage in range(STAGES):
        name = f"roi_head.bbox_head.{stage}."
        state[f"{name}iof_tau"] = 4 * state[f"{name}iof_tau"].sigmoid()
        state[f"{name}fc_reg.weight"] = state[f"{name}fc_reg.weight"] / 2  # as of boxes that are not thrown about
    return state


def stage_shapes(name: str) -> Shapes:
    mixing = f"{name}sampling_n_mixing."
    shapes: Shapes = {
        f"{name}attention.attn.in_proj_weight": (3 * CHANNELS, CHANNELS),
        f"{name}attention.attn.in_proj_bias": (3 * CHANNELS,),
        f"{name}iof_tau": (HEADS,),
        **linear(f"{name}attention.attn.out_proj", CHANNELS, CHANNELS),
        **linear(f"{mixing}sampling_offset_generator.0", GROUPS * POINTS * 3, CHANNELS),
        **linear(f"{mixing}adaptive_mixing.parameter_generator.0", GROUPS * (WIDTH**2 + POINTS * OUT), CHANNELS),
        **linear(f"{mixing}adaptive_mixing.out_proj", CHANNELS, GROUPS * OUT * WIDTH),
        **linear(f"{name}ffn.layers.0.0", FFN, CHANNELS),
        **linear(f"{name}ffn.layers.1", CHANNELS, FFN),
        **linear(f"{name}fc_cls", CLASSES, CHANNELS),
        **linear(f"{name}fc_reg", 4, CHANNELS),
    }
    for branch in ("cls_fcs", "reg_fcs"):
        shapes |= {**linear(f"{name}{branch}.0", CHANNELS, CHANNELS), **norm(f"{name}{branch}.1", CHANNELS)}
    for part in ("attention_norm", "sampling_n_mixing.norm", "ffn_norm"):
        shapes |= norm(f"{name}{part}", CHANNELS)
    return shapes


@dataclass
class Detector:
    """All of it, for one image (3, h, w), top left on a canvas whose padding is seen as nothing."""

    weights: Weights
    size: tuple[int, int]

    def answer(self, canvas: Tensor) -> tuple[Tensor, Tensor]:
        """(D, Q, K) logits and (D, Q, 4) boxes xyxy in pixels."""
        maps = self.maps(canvas)
        h, w = self.size
        content = F.layer_norm(self.weights["rpn_head.init_content_features.weight"], (CHANNELS,))
        whole = torch.tensor([w / 2, h / 2, 0.5 * math.log2(w * h), math.log2(h / w)])
        boxes, logits, found = whole.expand(len(content), 4), [], []
        for stage in range(STAGES):
            content, said, boxes = self.stage(f"roi_head.bbox_head.{stage}.", content, boxes, maps)
            logits.append(said)
            found.append(corners(boxes))
        return torch.stack(logits), torch.stack(found)

    def maps(self, canvas: Tensor) -> list[Tensor]:
        """(h, w, C) of each level."""
        levels = []
        for level, features in enumerate(self.backbone(canvas[None])):
            name = f"neck.lateral_convs.{level}.conv"
            mapped = F.conv2d(features, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])
            mapped = F.group_norm(mapped, 32, self.weights["neck.gn_out.weight"], self.weights["neck.gn_out.bias"])
            levels.append(mapped[0].permute(1, 2, 0).clone())
        for level, stride in zip(levels, STRIDES):
            level[-(-self.size[0] // stride) :], level[:, -(-self.size[1] // stride) :] = 0, 0
        return levels

    def backbone(self, image: Tensor) -> list[Tensor]:
        network = torchvision.models.resnet18()
        names = [name for name in network.state_dict() if not name.startswith("fc.") and "num_batches" not in name]
        network.load_state_dict({name: self.weights["backbone." + name] for name in names}, strict=False)
        network.eval()
        x = network.maxpool(network.relu(network.bn1(network.conv1(image))))
        maps = []
        for part in (network.layer1, network.layer2, network.layer3, network.layer4):
            maps.append(x := part(x))
        return maps

    def stage(self, name: str, q: Tensor, boxes: Tensor, maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        weights = self.weights
        u = q + place_code(boxes)
        q = weights.norm(f"{name}attention_norm", u + self.attention(name, u, boxes))
        mixed = torch.stack([self.mixed(name, each, box, maps) for each, box in zip(q, boxes)])
        q = weights.norm(f"{name}sampling_n_mixing.norm", q + mixed)
        q = weights.norm(f"{name}ffn_norm", q + weights.mlp([f"{name}ffn.layers.0.0", f"{name}ffn.layers.1"], q))
        said, moves = (
            weights.norm(f"{name}{branch}.1", weights.linear(f"{name}{branch}.0", q)).clamp(min=0)
            for branch in ("cls_fcs", "reg_fcs")
        )
        step = weights.linear(f"{name}fc_reg", moves)
        scale = 2 ** boxes[:, 2:3]
        boxes = torch.cat([boxes[:, :2] + step[:, :2] * scale, boxes[:, 2:] + step[:, 2:]], dim=1)
        return q, weights.linear(f"{name}fc_cls", said), boxes

    def attention(self, name: str, u: Tensor, boxes: Tensor) -> Tensor:
        attention = f"{name}attention.attn"
        wq, wk, wv = self.weights[f"{attention}.in_proj_weight"].chunk(3)
        bq, bk, bv = self.weights[f"{attention}.in_proj_bias"].chunk(3)
        q, k, v = ((u @ w.T + b).reshape(len(u), HEADS, -1) for w, b in ((wq, bq), (wk, bk), (wv, bv)))
        bias = torch.tensor([[math.log(inside(a, b) + 1e-7) for b in corners(boxes)] for a in corners(boxes)])
        scores = torch.einsum("qhc,khc->hqk", q, k) / q.shape[-1] ** 0.5
        scores = scores + self.weights[f"{name}iof_tau"][:, None, None] * bias
        read = torch.einsum("hqk,khc->qhc", scores.softmax(-1), v).flatten(1)
        return self.weights.linear(f"{attention}.out_proj", read)

    def mixed(self, name: str, q: Tensor, box: Tensor, maps: list[Tensor]) -> Tensor:
        mixing = f"{name}sampling_n_mixing.adaptive_mixing"
        offsets = self.weights.linear(f"{name}sampling_n_mixing.sampling_offset_generator.0", q)
        generated = self.weights.linear(f"{mixing}.parameter_generator.0", q).reshape(GROUPS, -1)
        out = []
        for group, of_group in enumerate(offsets.reshape(GROUPS, POINTS, 3)):
            x = torch.stack([self.sampled(group, offset, box, maps) for offset in of_group])
            channels = generated[group, : WIDTH**2].reshape(WIDTH, WIDTH)
            points = generated[group, WIDTH**2 :].reshape(OUT, POINTS)
            y = F.layer_norm(x @ channels, (POINTS, WIDTH)).clamp(min=0)
            out.append(F.layer_norm(points @ y, (OUT, WIDTH)).clamp(min=0))
        return self.weights.linear(f"{mixing}.out_proj", torch.stack(out).flatten())

    def sampled(self, group: int, offset: Tensor, box: Tensor, maps: list[Tensor]) -> Tensor:
        x0, y0, x1, y1 = corners(box[None])[0]
        at = torch.stack([box[0] + offset[0] * (x1 - x0), box[1] + offset[1] * (y1 - y0)])
        scale = box[2] + offset[2]
        share = torch.stack([-((scale - math.log2(stride)) ** 2) / 2 for stride in STRIDES]).softmax(0)
        total = torch.zeros(WIDTH)
        for level, (values, stride) in enumerate(zip(maps, STRIDES)):
            h, w, _ = values.shape
            place = at / torch.tensor([w * stride, h * stride])
            total += share[level] * sample(values[..., group * WIDTH :][..., :WIDTH], place[None])[0]
        return total


def corners(boxes: Tensor) -> Tensor:
    """(Q, 4) x, y, z, r -> (Q, 4) xyxy."""
    width, height = 2 ** (boxes[:, 2] - boxes[:, 3] / 2), 2 ** (boxes[:, 2] + boxes[:, 3] / 2)
    half = torch.stack([width, height], dim=1) / 2
    return torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], dim=1)


def inside(a: Tensor, b: Tensor) -> float:
    """The share of a box that lies in another."""
    low, high = torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])
    shared = (high - low).clamp(min=0).prod()
    return float(shared / (a[2:] - a[:2]).prod().clamp(min=1e-6))


def place_code(boxes: Tensor) -> Tensor:
    """(Q, 4) -> (Q, C): a quarter of the numbers for each of x, y, z, r."""
    width, code = CHANNELS // 4, []
    for column, unit in zip(boxes.unbind(1), (1000, 1000, 1, 1)):
        for k in range(width):
            angle = column / unit / 10000 ** (2 * (k // 2) / width)
            code.append(angle.sin() if k % 2 == 0 else angle.cos())
    return torch.stack(code, dim=1)
