"""tools/convert_checkpoint.py: from other people's files to files that train_net, demo and load_clip take."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from safetensors.torch import save_file
from torch import nn

from dk_detr.engine import setup_cfg
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.language import load_clip
from tests.model_fixtures import fixed_seed, random
from tests.parity import official, official_series, opera
from tests.parity.published import filled, resnet
from tests.run_fixtures import REPOSITORY

SHRUNK = {
    "MODEL.DETR.CHANNELS": 32, "MODEL.DETR.FFN_CHANNELS": 32,
    "MODEL.DETR.ENCODER_LAYERS": 1, "MODEL.DETR.DECODER_LAYERS": 1,
}  # fmt: skip
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [3, 4, 6, 3], "width": 8, "patch_size": None, "head_width": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


class Tool:
    """The tool, in this process."""

    def __init__(self, folder: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.run, self.capsys, self.output = folder, run, capsys, folder / "below" / "ours.pth"

    def __call__(self, *arguments: Any) -> str:
        """What it prints."""
        assert self.run("convert_checkpoint.py", *arguments) == 0
        return self.capsys.readouterr().out

    def error(self, *arguments: Any) -> str:
        """What it says before it ends with exit status 1; nothing is written."""
        assert self.run("convert_checkpoint.py", *arguments) == 1
        said = self.capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
        return said

    def convert(self, source: str, content: Any) -> str:
        """The summary of a conversion of this content."""
        torch.save(content, self.folder / "theirs.pth")
        return self(source, self.folder / "theirs.pth", self.output)

    def written(self) -> dict[str, Any]:
        return torch.load(self.output, weights_only=True)


@pytest.fixture
def tool(tmp_path: Path, run_tool: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Tool:
    return Tool(tmp_path, run_tool, capsys)


def official_file(variant: str) -> dict[str, Any]:
    args = argparse.Namespace(nheads=8, num_queries=official.QUERIES, dilation=False)
    return {"model": official.released(variant), "optimizer": {"state": {}}, "epoch": 49, "args": args}


def used_with(summary: str, config: str = "") -> CfgNode:
    """The config that the summary says to use; or another, shrunk, with the settings that the summary says."""
    (line,) = [line for line in summary.splitlines() if line.startswith("  detector: --config-file ")]
    theirs, *settings = line.removeprefix("  detector: --config-file ").replace('"', "").replace(", ", ",").split()
    shrunk = [str(word) for pair in SHRUNK.items() for word in pair] if config else []
    return setup_cfg(str(REPOSITORY / (config or theirs)), [*shrunk, *settings, "MODEL.DEVICE", "cpu"])


def same(model: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    mine = model.state_dict()
    return mine.keys() == state.keys() and all(torch.equal(mine[name], tensor) for name, tensor in state.items())


# ---- what comes out ----


@pytest.mark.parametrize(
    "variant, checkpointer",
    [*((variant, StrictCheckpointer) for variant in official.VARIANTS), ("refined", DetectionCheckpointer)],
)
def test_a_detector_is_built_and_loaded_as_the_summary_says(
    variant: str, checkpointer: type[DetectionCheckpointer], tool: Tool
) -> None:
    cfg = used_with(tool.convert("deformable-detr", official_file(variant)))
    model = build_model(cfg).eval()
    assert not same(model, tool.written()["model"])
    checkpointer(model).load(cfg.MODEL.WEIGHTS)
    assert same(model, tool.written()["model"])


@pytest.mark.parametrize("variant, source", official_series.VARIANTS.items())
def test_a_detector_of_the_series_is_built_and_loaded_as_the_summary_says(
    variant: str, source: str, tool: Tool
) -> None:
    args = argparse.Namespace(nheads=8, dilation=False, pe_temperatureH=20, pe_temperatureW=20)
    summary = tool.convert(source, {"model": official_series.released(variant), "args": args})
    assert "POSITION" not in summary and "SINE" not in summary  # the config says the same
    cfg = used_with(summary)
    model = build_model(cfg).eval()
    StrictCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    assert same(model, tool.written()["model"])


def test_the_summary_of_a_detector_says_what_became_of_all_of_it(tool: Tool) -> None:
    first, *lines, last = tool.convert("deformable-detr", official_file("two_stage")).splitlines()
    state, written = official.released("two_stage"), tool.written()
    assert first.startswith(f"{tool.output}: {len(written['model'])} tensors for MODEL.WEIGHTS, from {len(state)} of ")
    assert f"  used    {len(written['conversion']['used']):5}" in lines
    assert "  not loaded: optimizer, epoch, args" in lines
    (copies,) = [line for line in lines if "a copy of a head that is used" in line]
    assert copies.split()[:2] == ["listed", "32"] and "and 30 more" in copies
    assert "--config-file configs/deformable_detr_two_stage_R50.yaml MODEL.RESNETS.DEPTH 18 " in last
    assert f"MODEL.DETR.NUM_QUERIES {official.QUERIES} " in last
    assert "MODEL.DETR.NUM_HEADS" not in last  # the config says the same


def test_the_file_keeps_the_account(tool: Tool) -> None:
    tool.convert("deformable-detr", official_file("one_stage"))
    written = tool.written()
    assert written["__author__"] == "dk_detr convert_checkpoint" and "matching_heuristics" not in written
    account = written["conversion"]
    assert account["source"] == "deformable-detr" and account["beside"] == ["optimizer", "epoch", "args"]
    listed = {name.partition("[")[0] for names in account["listed"].values() for name in names}
    assert set(account["used"]) | listed == set(official.released("one_stage"))


def test_the_published_dk_detr_is_converted(tool: Tool) -> None:
    summary = tool.convert("opera-dk-detr", {"state_dict": opera.released(), "meta": {"epoch": 70}})
    assert "--config-file configs/dk_detr_mask_R50.yaml" in summary
    assert "the same mask branch again" in summary and "not loaded: meta" in summary


def test_training_may_start_from_a_backbone(tool: Tool) -> None:
    summary = tool.convert("torchvision-resnet", filled(resnet("", frozen=False)))
    model = build_model(used_with(summary, "configs/deformable_detr_R50.yaml")).train()
    StrictCheckpointer(model).load(str(tool.output))
    assert same(model.backbone, {k.removeprefix("backbone."): v for k, v in tool.written()["model"].items()})


@pytest.fixture
def clip_config(tmp_path: Path) -> str:
    (tmp_path / "tiny_clip_resnet.json").write_text(json.dumps(CLIP))
    return str(tmp_path / "tiny_clip_resnet.json")


def test_one_file_of_a_clip_resnet_serves_as_teacher_and_as_backbone(clip_config: str, tool: Tool) -> None:
    with fixed_seed():
        theirs = load_clip(architecture=clip_config, weights="")
    wrapped = {f"module.{name}": tensor for name, tensor in theirs.model.state_dict().items()}
    summary = tool.convert("open-clip", {"state_dict": wrapped})
    assert f"  teacher: MODEL.CLIP.WEIGHTS {tool.output}" in summary
    teacher, pixels = load_clip(architecture=clip_config, weights=str(tool.output)), random(2, 3, 32, 32)
    assert torch.equal(teacher.encode_image(pixels), theirs.encode_image(pixels))
    model = build_model(used_with(summary, "configs/deformable_detr_R50.yaml")).train()
    StrictCheckpointer(model).load(str(tool.output))
    assert torch.equal(model.backbone.stem.conv3.weight, theirs.model.visual.conv3.weight)
    assert torch.equal(model.backbone.res5[2].conv3.weight, theirs.model.visual.layer4[2].conv3.weight)


def test_a_tensor_of_both_uses_is_in_the_file_once(clip_config: str, tool: Tool) -> None:
    tool.convert("open-clip", load_clip(architecture=clip_config, weights="").model.state_dict())
    written = tool.written()
    stored = sum(tensor.numel() * tensor.element_size() for tensor in written["state_dict"].values())
    assert written["model"] and tool.output.stat().st_size < 1.2 * stored


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_openais_archives_become_files_that_load_clip_takes(tool: Tool) -> None:
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1}
    config = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    (tool.folder / "tiny_openai.json").write_text(json.dumps(config))
    with fixed_seed():
        theirs = load_clip(architecture=str(tool.folder / "tiny_openai.json"), weights="")
    theirs.model.register_buffer("input_resolution", torch.tensor(32))
    pixels, tokens = random(2, 3, 32, 32), torch.zeros(1, 77, dtype=torch.long)
    torch.jit.trace_module(theirs.model, {"encode_image": pixels, "encode_text": tokens}).save(tool.folder / "ViT.pt")
    tool("open-clip", tool.folder / "ViT.pt", tool.output)
    assert "model" not in tool.written() and "attn_mask" not in tool.written()["state_dict"]
    teacher = load_clip(architecture=str(tool.folder / "tiny_openai.json"), weights=str(tool.output))
    assert torch.equal(teacher.encode_image(pixels), theirs.encode_image(pixels))
    assert torch.equal(teacher.encode_text(["a cat"]), theirs.encode_text(["a cat"]))


def test_a_folder_of_hugging_face_is_converted_with_what_its_config_tells(tool: Tool) -> None:
    transformers = pytest.importorskip("transformers", reason="the folder is made by its model")
    backbone = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[16, 32, 64, 128], depths=[3, 4, 6, 3])
    backbone.out_features = ["stage2", "stage3", "stage4"]
    sizes = {"d_model": 64, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_labels": 80}
    queries = {"two_stage": True, "with_box_refine": True, "two_stage_num_proposals": 7}
    config = transformers.DeformableDetrConfig(backbone_config=backbone, **sizes, **heads, **queries)
    theirs = transformers.DeformableDetrForObjectDetection(config)
    theirs.save_pretrained(tool.folder / "theirs", max_shard_size="300KB")
    assert len(list((tool.folder / "theirs").glob("*.safetensors"))) > 1
    cfg = used_with(tool("hf-deformable-detr", tool.folder / "theirs", tool.output))
    assert (cfg.MODEL.DETR.NUM_HEADS, cfg.MODEL.DETR.NUM_POINTS, cfg.MODEL.DETR.NUM_QUERIES) == (4, 4, 7)
    model = build_model(cfg).eval()
    StrictCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    norm = theirs.model.decoder.layers[1].encoder_attn_layer_norm
    assert torch.equal(model.decoder.layers[1].norm2.weight, norm.weight)


def test_safetensors_are_converted(tool: Tool) -> None:
    save_file(filled(resnet("", frozen=False)), tool.folder / "theirs.safetensors")
    tool("torchvision-resnet", tool.folder / "theirs.safetensors", tool.output)
    assert "backbone.stem.conv1.weight" in tool.written()["model"]


# ---- what is there already ----


def test_a_second_run_keeps_the_file(tool: Tool) -> None:
    tool.convert("deformable-detr", official_file("one_stage"))
    before = tool.output.stat().st_mtime_ns
    assert "is there already, of the same input" in tool("deformable-detr", tool.folder / "theirs.pth", tool.output)
    assert tool.output.stat().st_mtime_ns == before


@pytest.mark.parametrize("content", [b"precious", b""])
def test_another_file_is_not_overwritten(content: bytes, tool: Tool) -> None:
    torch.save({}, tool.folder / "theirs.pth")
    (tool.folder / "mine.pth").write_bytes(content)
    message = tool.error("deformable-detr", tool.folder / "theirs.pth", tool.folder / "mine.pth")
    assert "mine.pth is there already, and is not of this input: remove it" in message
    assert (tool.folder / "mine.pth").read_bytes() == content


def test_the_result_of_another_input_is_not_overwritten(tool: Tool) -> None:
    tool.convert("deformable-detr", official_file("one_stage"))
    torch.save(official_file("refined"), tool.folder / "theirs.pth")
    assert "is not of this input" in tool.error("deformable-detr", tool.folder / "theirs.pth", tool.output)


def test_the_input_is_not_overwritten(tool: Tool) -> None:
    torch.save({}, tool.folder / "theirs.pth")
    assert "is there already" in tool.error("deformable-detr", tool.folder / "theirs.pth", tool.folder / "theirs.pth")


def test_a_write_that_fails_leaves_nothing(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(official_file("one_stage"), tool.folder / "theirs.pth")

    def disk_full(content: Any, path: Path) -> None:
        Path(path).write_bytes(b"half of")
        raise OSError("No space left on device")

    monkeypatch.setattr("dk_detr.commands.convert_checkpoint.torch.save", disk_full)
    assert "No space left" in tool.error("deformable-detr", tool.folder / "theirs.pth", tool.output)
    assert not tool.output.exists()


# ---- refusals ----


def test_a_file_that_is_not_there_is_named(tool: Tool) -> None:
    assert "There is no checkpoint nowhere.pth" in tool.error("deformable-detr", "nowhere.pth", tool.output)


def test_a_wrong_source_is_told(tool: Tool) -> None:
    torch.save(official_file("one_stage"), tool.folder / "theirs.pth")
    message = tool.error("opera-dk-detr", tool.folder / "theirs.pth", tool.output)
    assert "theirs.pth: These are not the names of opera-dk-detr: they look like deformable-detr" in message
    assert not tool.output.exists()


def test_an_unknown_tensor_is_named_with_the_way_out(tool: Tool) -> None:
    state = {**official.released("one_stage"), "kd.content.weight": random(3, 2)}
    torch.save({"model": state}, tool.folder / "theirs.pth")
    message = tool.error("deformable-detr", tool.folder / "theirs.pth", tool.output)
    assert "kd.content.weight (3, 2)" in message and "--leave" in message
    summary = tool("deformable-detr", tool.folder / "theirs.pth", tool.output, "--leave", "kd.")
    assert "left out on request: kd.content.weight" in summary


def test_weights_that_are_no_numbers_are_not_converted(tool: Tool) -> None:
    state = dict(official.released("one_stage"))
    state["class_embed.0.bias"] = state["class_embed.0.bias"] * float("nan")
    torch.save({"model": state}, tool.folder / "theirs.pth")
    message = tool.error("deformable-detr", tool.folder / "theirs.pth", tool.output)
    assert "theirs.pth: class_embed.0.bias holds NaN or infinity" in message and not tool.output.exists()


@pytest.mark.parametrize("suffix", ["pkl", "pyth", "npz", "safetensors"])
def test_an_output_that_would_be_taken_for_another_format_is_refused(suffix: str, tool: Tool) -> None:
    torch.save({}, tool.folder / "theirs.pth")
    message = tool.error("deformable-detr", tool.folder / "theirs.pth", tool.folder / f"a.{suffix}")
    assert "let it end in .pth" in message


def test_an_output_that_is_a_folder_is_refused(tool: Tool) -> None:
    torch.save({}, tool.folder / "theirs.pth")
    assert "is there already" in tool.error("deformable-detr", tool.folder / "theirs.pth", tool.folder)
