"""CLIP behind one door: what it gives, and what it refuses to load."""

import importlib.util
from pathlib import Path

import pytest
import torch

from dk_detr.engine import setup_cfg
from dk_detr.language import Clip, clip_from_config, load_clip
from tests.run_fixtures import CLIP, MINI, WIDTH, write_json


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_json(tmp_path_factory.mktemp("clip") / "tiny_clip.json", CLIP)


@pytest.fixture(scope="module")
def clip(architecture: str) -> Clip:
    torch.manual_seed(0)
    return load_clip(architecture=architecture, weights="")


def test_text_and_images_meet_in_one_space_on_the_unit_sphere(clip: Clip) -> None:
    text, image = clip.encode_text(["a cat", "a dog"]), clip.encode_image(torch.rand(3, 3, 32, 32))
    assert text.shape == (2, WIDTH) and image.shape == (3, WIDTH)
    for rows in (text, image):
        assert rows.dtype == torch.float32
        assert torch.allclose(rows.norm(dim=1), torch.ones(len(rows)), atol=1e-5)
    assert (clip.width, clip.image_size) == (WIDTH, 32)


def test_how_texts_are_cut_into_batches_does_not_show(clip: Clip) -> None:
    texts = [f"{number} cats" for number in range(5)]
    assert torch.allclose(clip.encode_text(texts), clip.encode_text(texts, batch_size=2), atol=1e-5)


def test_pixels_are_normalised_as_the_model_wants_them(clip: Clip) -> None:
    """Grey as bright as CLIP's mean is zero to the network."""
    seen = []
    handle = clip.model.visual.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    clip.encode_image(torch.tensor(clip.mean).view(1, 3, 1, 1).expand(1, 3, 32, 32))
    handle.remove()
    assert seen[0].abs().max() < 1e-6


def test_it_is_frozen_and_in_evaluation(clip: Clip) -> None:
    assert not clip.model.training
    assert not any(parameter.requires_grad for parameter in clip.model.parameters())
    assert not clip.encode_image(torch.rand(1, 3, 32, 32, requires_grad=True)).requires_grad


def test_a_checkpoint_file_gives_its_weights(architecture: str, clip: Clip, tmp_path: Path) -> None:
    torch.save(clip.model.state_dict(), tmp_path / "clip.pt")
    loaded = load_clip(architecture=architecture, weights=str(tmp_path / "clip.pt"))
    assert torch.equal(loaded.encode_text(["a cat"]), clip.encode_text(["a cat"]))
    assert loaded.provenance["weights"] == str(tmp_path / "clip.pt")


def test_a_config_names_the_clip(architecture: str) -> None:
    cfg = setup_cfg(MINI, ["MODEL.CLIP.ARCHITECTURE", architecture, "MODEL.CLIP.WEIGHTS", ""])
    assert clip_from_config(cfg).width == WIDTH


# ---- refusals: all without reaching for the network ----


def test_an_unknown_library_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match='MODEL.CLIP.LIBRARY "openclip" is unknown; choose one of open_clip, clip'):
        load_clip(library="openclip")


def test_an_unknown_model_is_refused_by_its_key() -> None:
    with pytest.raises(ValueError, match=r'open_clip knows no model "ViT-B/32" \(MODEL.CLIP.ARCHITECTURE\)'):
        load_clip(architecture="ViT-B/32", weights="")


def test_a_model_config_that_is_not_there_is_missed_by_name() -> None:
    with pytest.raises(FileNotFoundError, match=r"no open_clip model config nowhere.json \(MODEL.CLIP.ARCHITECTURE\)"):
        load_clip(architecture="nowhere.json", weights="")


def test_a_model_config_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("{}")
    with pytest.raises(ValueError, match="none.json"):
        load_clip(architecture=str(tmp_path / "none.json"), weights="")


@pytest.mark.parametrize("weights", ["nowhere.pt", "some/where", "nowhere.safetensors"])
def test_a_checkpoint_that_is_not_there_is_missed_by_name(weights: str, architecture: str) -> None:
    with pytest.raises(FileNotFoundError, match=rf"no CLIP checkpoint {weights} \(MODEL.CLIP.WEIGHTS\)"):
        load_clip(architecture=architecture, weights=weights)


def test_an_unknown_tag_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match='"opanai" is no tag of ViT-B-32-quickgelu; known: .*openai'):
        load_clip(architecture="ViT-B-32-quickgelu", weights="opanai")


@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_a_checkpoint_that_is_none_is_refused_by_name(content: bytes, architecture: str, tmp_path: Path) -> None:
    (tmp_path / "clip.pt").write_bytes(content)
    with pytest.raises(ValueError, match="clip.pt"):
        load_clip(architecture=architecture, weights=str(tmp_path / "clip.pt"))


def test_a_checkpoint_of_another_clip_is_refused_by_name(architecture: str, tmp_path: Path) -> None:
    torch.save({"visual.proj": torch.zeros(3, 3)}, tmp_path / "clip.pt")
    with pytest.raises(ValueError, match="clip.pt"):
        load_clip(architecture=architecture, weights=str(tmp_path / "clip.pt"))


def test_two_model_configs_of_one_name_are_not_mistaken(architecture: str, tmp_path: Path) -> None:
    """open_clip keeps configs by the name of their file."""
    wider = write_json(tmp_path / "other" / Path(architecture).name, {**CLIP, "embed_dim": 2 * WIDTH})
    assert load_clip(architecture=wider, weights="").width == 2 * WIDTH
    assert load_clip(architecture=architecture, weights="").width == WIDTH


def test_openais_package_is_asked_for_by_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "clip" else find(name))
    with pytest.raises(ImportError, match="pip install git.*openai/CLIP.git.*or use \"open_clip\""):
        load_clip(library="clip")
