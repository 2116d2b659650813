"""A checkpoint by the names of the release, converted: against a plain transcription of its network, and every tensor
accounted for."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from dk_detr.commands.convert_checkpoint import convert_file
from dk_detr.convert import convert, likely_source
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.language import load_clip
from tests.model_fixtures import random
from tests.projects.regionclip.region_fixtures import KEY, options, proposal_network, tiny
from tests.run_fixtures import World, state_of

WORDS, EPS = 3, 1e-5


@pytest.fixture(scope="module")
def localizer(world: World) -> dict[str, Any]:
    return proposal_network(world, world.root / "localizer")


@pytest.fixture(scope="module")
def release(world: World) -> dict[str, Tensor]:
    """A transferred detector with masks, as the release names its tensors, with random values."""
    detector = tiny(world, "transfer_lvis_RN50", **proposal_network(world, world.root / "other"))
    names = {
        "recognizer.visual.": "backbone.",
        "heads.boxes.bbox_pred.": "roi_heads.box_predictor.bbox_pred.",
        "heads.mask_head.": "roi_heads.mask_head.",
        "localizer.network.backbone.": "offline_backbone.",
        "localizer.network.proposal_generator.": "offline_proposal_generator.",
    }
    state = {}
    for number, (name, tensor) in enumerate(detector.state_dict().items()):
        ours = next(prefix for prefix in names if name.startswith(prefix))
        noise = 0.1 * random(*tensor.shape, seed=number) if tensor.is_floating_point() else 0
        value = tensor + noise
        state[name.replace(ours, names[ours], 1)] = value.abs() + 0.5 if name.endswith("running_var") else value
    width = state["roi_heads.box_predictor.bbox_pred.weight"].shape[1]
    rows = "roi_heads.box_predictor"
    state |= {f"{rows}.cls_score.weight": random(WORDS, width), f"{rows}.cls_bg_score.weight": torch.zeros(1, width)}
    state |= {"offline_proposal_generator.anchor_generator.cell_anchors.0": random(3, 4)}
    return state


class Plain:
    """The release's network, from its formulas."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias, mean, var = (
            self.state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (var + EPS).sqrt() * weight + bias

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def block(self, name: str, x: Tensor, stride: int) -> Tensor:
        out = self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", x)).relu()
        out = self.norm(f"{name}.bn2", self.conv(f"{name}.conv2", out)).relu()
        out = F.avg_pool2d(out, stride) if stride > 1 else out
        out = self.norm(f"{name}.bn3", self.conv(f"{name}.conv3", out))
        if f"{name}.downsample.0.weight" in self.state:
            x = F.avg_pool2d(x, stride) if stride > 1 else x
            x = self.norm(f"{name}.downsample.1", self.conv(f"{name}.downsample.0", x))
        return (out + x).relu()

    def map_of(self, x: Tensor) -> Tensor:
        for number, stride in ((1, 2), (2, 1), (3, 1)):
            x = self.norm(f"backbone.bn{number}", self.conv(f"backbone.conv{number}", x, stride)).relu()
        x = F.avg_pool2d(x, 2)
        for stage, stride in ((1, 1), (2, 2), (3, 2)):
            x = self.block(f"backbone.layer{stage}.0", x, stride)
        return x

    def pooled(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)  # (N, h·w, C)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)
        tokens = tokens + self.state["backbone.attnpool.positional_embedding"]
        q, k, v = (self.linear(f"backbone.attnpool.{letter}_proj", tokens) for letter in "qkv")
        heads, width = tokens.shape[-1] // 64, 64
        q, k, v = (part.unflatten(-1, (heads, width)).transpose(1, 2) for part in (q[:, :1], k, v))
        seen = (q @ k.mT / math.sqrt(width)).softmax(-1) @ v
        return self.linear("backbone.attnpool.c_proj", seen.transpose(1, 2).flatten(2))[:, 0]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def region(self, pixels: Tensor, boxes: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings, box deltas and mask logits of boxes of one image."""
        rois = torch.cat([torch.zeros(len(boxes), 1), boxes], dim=1)
        cut = roi_align(self.map_of(pixels), rois, side, 1 / 16, 0, aligned=True)
        seen = self.block("backbone.layer4.0", cut, 2)
        embeddings = self.pooled(seen)
        head = "roi_heads.mask_head"
        grown = F.conv_transpose2d(seen, self.state[f"{head}.deconv.weight"], self.state[f"{head}.deconv.bias"], 2)
        masks = F.conv2d(grown.relu(), self.state[f"{head}.predictor.weight"], self.state[f"{head}.predictor.bias"])
        return embeddings, self.linear("roi_heads.box_predictor.bbox_pred", embeddings), masks


def test_the_network_is_that_of_the_release(
    release: dict[str, Tensor], world: World, localizer: dict[str, Any], tmp_path: Path
) -> None:
    torch.save(release, tmp_path / "release.pth")
    told = convert_file("regionclip", str(tmp_path / "release.pth"), str(tmp_path / "ours.pth"))
    assert "transfer_lvis" in told and "cls_score" in told and "no localizer" not in told
    detector = tiny(world, "transfer_lvis_RN50", **{**localizer, f"{KEY}WEIGHTS": "''"})
    StrictCheckpointer(detector).load(str(tmp_path / "ours.pth"))
    assert not detector.localizer.missing
    pixels = random(1, 3, 96, 128)
    boxes = torch.tensor([[0.0, 0.0, 128.0, 96.0], [10.0, 20.0, 60.0, 70.0], [40.0, 3.0, 120.0, 50.0]])
    with torch.no_grad():
        seen = detector.recognizer.features_of(detector.recognizer(pixels), [boxes])
        embeddings = detector.recognizer.pool(seen)
        theirs, deltas, masks = Plain(release).region(pixels, boxes, side=4)
        torch.testing.assert_close(embeddings, theirs, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(detector.heads.boxes.bbox_pred(embeddings), deltas, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(detector.heads.mask_head.layers(seen), masks, rtol=1e-3, atol=1e-4)
        rows = F.normalize(random(WORDS, theirs.shape[1]), dim=1)
        logits = F.pad(F.normalize(theirs, dim=1) @ rows.T / 0.01, (0, 1))
        torch.testing.assert_close(detector.heads.naming.words.score(embeddings, rows), logits, rtol=1e-3, atol=1e-2)


def test_every_tensor_is_used_or_listed(release: dict[str, Tensor]) -> None:
    conversion = convert("regionclip", release)
    assert conversion.used.keys() | conversion.listed.keys() == release.keys()
    assert likely_source(release) == "regionclip"
    assert all(
        "embeddings of words" in conversion.listed[name] for name in release if name.endswith("cls_score.weight")
    )
    with pytest.raises(ValueError, match="There is no rule for 1"):
        convert("regionclip", {**release, "odd": torch.zeros(1)})
    short = {name: tensor for name, tensor in release.items() if name != "backbone.layer3.0.conv2.weight"}
    with pytest.raises(ValueError, match="visual.layer3.0.conv2.weight cannot be filled"):
        convert("regionclip", short)
    with pytest.raises(ValueError, match="has shape"):
        convert("regionclip", {**release, "roi_heads.box_predictor.bbox_pred.bias": torch.zeros(8)})


def test_a_localizer_of_another_file_joins_in_and_changes_nothing_else(
    release: dict[str, Tensor], localizer: dict[str, Any], tmp_path: Path
) -> None:
    alone = {name: tensor for name, tensor in release.items() if not name.startswith("offline_")}
    torch.save(alone, tmp_path / "alone.pth")
    rpn = state_of(localizer[f"{KEY}WEIGHTS"])["model"]
    torch.save({"model": {**rpn, "roi_heads.box_head.fc1.weight": torch.zeros(2, 2)}}, tmp_path / "rpn.pth")
    told = convert_file("regionclip", str(tmp_path / "alone.pth"), str(tmp_path / "without.pth"))
    assert "It holds no localizer" in told
    convert_file(
        "regionclip", str(tmp_path / "alone.pth"), str(tmp_path / "with.pth"), localizer=str(tmp_path / "rpn.pth")
    )
    without, both = (state_of(tmp_path / f"{name}.pth")["model"] for name in ("without", "with"))
    assert both.keys() - without.keys() == {f"localizer.network.{name}" for name in rpn}
    assert all(torch.equal(both[name], tensor) for name, tensor in without.items())
    torch.save(release, tmp_path / "whole.pth")
    with pytest.raises(ValueError, match="the release holds a localizer already"):
        convert_file(
            "regionclip", str(tmp_path / "whole.pth"), str(tmp_path / "x.pth"), localizer=str(tmp_path / "rpn.pth")
        )
    with pytest.raises(ValueError, match="there is no proposal network in it"):
        convert_file(
            "regionclip", str(tmp_path / "alone.pth"), str(tmp_path / "x.pth"), localizer=str(tmp_path / "alone.pth")
        )
    with pytest.raises(ValueError, match="--localizer is for the source regionclip, not for dino"):
        convert_file("dino", str(tmp_path / "alone.pth"), str(tmp_path / "x.pth"), localizer=str(tmp_path / "rpn.pth"))


def test_a_pretrained_release_becomes_a_clip(world: World, tmp_path: Path) -> None:
    config = options(world)["MODEL__CLIP__ARCHITECTURE"]
    clip = load_clip("open_clip", config, "")
    state = {}
    for name, tensor in clip.model.state_dict().items():
        if name != "logit_scale":
            state[name.replace("visual.", "backbone.") if name.startswith("visual.") else f"lang_encoder.{name}"] = (
                tensor
            )
    state |= {f"teacher_{name}": tensor for name, tensor in state.items() if name.startswith("backbone.")}
    torch.save({"model": state}, tmp_path / "pretrained.pth")
    convert_file("regionclip", str(tmp_path / "pretrained.pth"), str(tmp_path / "clip.pth"))
    loaded = load_clip("open_clip", config, str(tmp_path / "clip.pth"))
    pixels = random(2, 3, 64, 64)
    torch.testing.assert_close(loaded.model.encode_image(pixels), clip.model.encode_image(pixels))
    with pytest.raises(ValueError, match="the release is pretrained, not a detector: leave --localizer out"):
        rpn = {"proposal_generator.rpn_head.conv.weight": torch.zeros(1)}
        torch.save(rpn, tmp_path / "rpn.pth")
        convert_file(
            "regionclip", str(tmp_path / "pretrained.pth"), str(tmp_path / "x.pth"), localizer=str(tmp_path / "rpn.pth")
        )
    assert torch.equal(loaded.encode_text(["a cat"]), clip.encode_text(["a cat"]))
    assert loaded.model.logit_scale.exp().item() == pytest.approx(100.0)
