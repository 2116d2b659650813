"""CLIP, converted: a teacher that says the same as the model that it comes from, and of a ResNet a backbone besides."""

from typing import Any

import open_clip
import pytest
import torch
from torch import nn

from dk_detr.convert import convert, likely_source
from dk_detr.convert.clip_models import architectures
from dk_detr.convert.open_clip import known_settings
from tests.model_fixtures import fixed_seed, random

TEXT = {"context_length": 12, "vocab_size": 50, "width": 64, "heads": 1, "layers": 2}
VISIONS: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2},
    "resnet": {"image_size": 64, "patch_size": None, "width": 16, "layers": [1, 2, 1, 1], "head_width": 16},
}
WIDTH, END = 24, 49
TOKENS = torch.tensor([[1, 2, 3, END, 0, 0, 0, 0, 0, 0, 0, 0], [7, END, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
each_vision = pytest.mark.parametrize("vision", VISIONS)


def clip(vision: str, quick_gelu: bool = False) -> nn.Module:
    text, image = open_clip.model.CLIPTextCfg(**TEXT), open_clip.model.CLIPVisionCfg(**VISIONS[vision])
    with fixed_seed():
        return open_clip.model.CLIP(WIDTH, image, text, quick_gelu=quick_gelu).eval()


@each_vision
def test_open_clips_own_weights_stay_as_they_are(vision: str) -> None:
    state = clip(vision).state_dict()
    found = convert("open-clip", state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.clip.items())
    assert set(found.used) | set(found.listed) == set(state)
    assert not [name for name in found.listed if "num_batches_tracked" not in name]


@each_vision
def test_the_tower_of_a_vit_gives_no_backbone_and_that_of_a_resnet_does(vision: str) -> None:
    assert bool(convert("open-clip", clip(vision).state_dict()).state) == (vision == "resnet")


def test_the_numbers_in_openais_archives_are_listed() -> None:
    numbers = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(12), "vocab_size": torch.tensor(50)}
    found = convert("open-clip", {**clip("vit").state_dict(), **numbers})
    assert set(found.listed) == set(numbers)


@each_vision
def test_a_text_tower_that_is_missing_is_missed(vision: str) -> None:
    state = {name: tensor for name, tensor in clip(vision).state_dict().items() if not name.startswith("ln_final")}
    with pytest.raises(ValueError, match=r"ln_final.weight cannot be filled.*both towers"):
        convert("open-clip", state)


def test_a_missing_tensor_of_the_image_tower_is_named() -> None:
    state = clip("resnet").state_dict()
    del state["visual.layer2.1.bn2.running_var"]
    with pytest.raises(ValueError, match="visual.layer2.1.bn2.running_var cannot be filled"):
        convert("open-clip", state)


def test_another_kind_of_tower_is_refused_by_name() -> None:
    state = clip("vit").state_dict() | {"visual.trunk.norm.weight": random(3)}
    with pytest.raises(ValueError, match="visual.trunk.norm.weight has no place in the model"):
        convert("open-clip", state)


# ---- Hugging Face's names ----


def hugging_face() -> Any:
    transformers = pytest.importorskip("transformers", reason="its names are compared with its model")
    tower = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 1}
    words = {"vocab_size": 50, "max_position_embeddings": 12, "eos_token_id": END, "bos_token_id": 1, "pad_token_id": 0}
    config = transformers.CLIPConfig(
        text_config={**tower, **words},
        vision_config={**tower, "image_size": 32, "patch_size": 16},
        projection_dim=WIDTH,
    )
    with fixed_seed():
        model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter += 0.1 * random(parameter.numel(), seed=number).reshape(parameter.shape)
    return model


def test_a_model_of_hugging_face_says_the_same_in_open_clip() -> None:
    theirs = hugging_face()
    found = convert("open-clip", theirs.state_dict(), known_settings(theirs.config.to_dict()))
    ours = clip("vit", quick_gelu=True)
    ours.load_state_dict(found.clip)
    pixels = random(2, 3, 32, 32)
    with torch.no_grad():
        texts, images = theirs.get_text_features(TOKENS), theirs.get_image_features(pixels)
        torch.testing.assert_close(ours.encode_text(TOKENS), texts.pooler_output, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours.encode_image(pixels), images.pooler_output, atol=1e-5, rtol=1e-4)
    assert set(found.used) == set(theirs.state_dict())


def test_position_ids_of_older_versions_are_listed() -> None:
    state = {**hugging_face().state_dict(), "text_model.embeddings.position_ids": torch.arange(12)[None]}
    assert likely_source(state) == "open-clip"
    assert set(convert("open-clip", state).listed) == {"text_model.embeddings.position_ids"}


# ---- which model it is ----


def test_the_models_of_these_sizes_are_named() -> None:
    config = {key: open_clip.get_model_config("ViT-B-32")[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}
    assert architectures(config) == ["ViT-B-32", "ViT-B-32-quickgelu"]


@pytest.mark.parametrize("openai", [False, True])
def test_openais_own_files_are_taken_for_models_with_quickgelu(openai: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dk_detr.convert.open_clip.architectures", lambda config: ["tiny", "tiny-quickgelu"])
    signs = {"input_resolution": torch.tensor(32)} if openai else {}
    found = convert("open-clip", {**clip("vit").state_dict(), **signs})
    assert found.settings == {"MODEL.CLIP.ARCHITECTURE": "tiny-quickgelu" if openai else "tiny"}
    assert "QuickGELU" in found.notes[0]


def test_hugging_face_says_itself_whether_it_is_quickgelu() -> None:
    assert known_settings({"vision_config": {"hidden_act": "quick_gelu"}}) == {"quick_gelu": True}
    assert known_settings({"vision_config": {"hidden_act": "gelu"}}) == {"quick_gelu": False}


def test_a_model_that_open_clip_does_not_list_needs_a_config() -> None:
    found = convert("open-clip", clip("vit").state_dict())
    assert not found.settings and "MODEL.CLIP.ARCHITECTURE" in found.notes[0]
