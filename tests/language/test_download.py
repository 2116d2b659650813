"""Weights of a tag where there is no network: one line, soon; and what is cached is taken without asking."""

import urllib.error
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from dk_detr.language import download, load_clip
from dk_detr.language.download import Source, require_server, source_of, with_weights_of_tag

OPENAI = {"url": "https://server/clip/ViT-B-32.pt", "hf_hub": "timm/vit_base_patch32_clip_224.openai/"}
SOURCE = Source("weights.pt", "https://server/weights.pt", "/cache", cached=False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Addresses that were asked for, in a place without a network and with empty caches."""
    addresses: list[str] = []

    def unreachable(request: Any, timeout: float) -> None:
        assert timeout <= 10
        addresses.append(request.full_url)
        raise urllib.error.URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(download.urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(download, "OPENAI_CACHE", tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return addresses


def test_without_a_network_one_line_names_key_file_cache_address_and_the_way_out(
    asked: list[str], tmp_path: Path
) -> None:
    with pytest.raises(OSError, match=r'WEIGHTS "openai": open_clip_model\.safetensors can be had neither') as error:
        load_clip()
    (address,) = asked
    message = str(error.value)
    assert str(tmp_path) in message and address in message and "Name or service not known" in message
    assert "MODEL.CLIP.WEIGHTS path/to/open_clip_model.safetensors" in message and "\n" not in message


def test_openais_own_package_says_the_same(asked: list[str]) -> None:
    pytest.importorskip("clip")
    with pytest.raises(OSError, match=r'WEIGHTS "openai": ViT-B-16\.pt can be had neither .*path/to/ViT-B-16\.pt'):
        load_clip("clip", "ViT-B/16", "openai")
    assert len(asked) == 1


def test_what_is_cached_is_loaded_offline(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, name: f"/cache/{name}")
    before = constants.HF_HUB_OFFLINE
    assert with_weights_of_tag(lambda: constants.HF_HUB_OFFLINE, "ViT-B-32-quickgelu", "openai") is True
    assert constants.HF_HUB_OFFLINE == before and not asked


def test_what_is_cached_in_part_is_completed_from_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, name: f"/cache/{name}")
    monkeypatch.setattr(download, "require_server", lambda source, tag: None)
    tries = []

    def create() -> str:
        tries.append(constants.HF_HUB_OFFLINE)
        if constants.HF_HUB_OFFLINE:
            raise OSError("no tokenizer")
        return "model"

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert with_weights_of_tag(create, "ViT-B-32-quickgelu", "openai") == "model" and tries == [True, False]


def test_a_server_that_answers_anything_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(request: Any, timeout: float) -> None:
        raise urllib.error.HTTPError(request.full_url, 403, "Forbidden", Message(), None)

    monkeypatch.setattr(download.urllib.request, "urlopen", forbidden)
    require_server(SOURCE, "openai")


def test_a_download_that_fails_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "require_server", lambda source, tag: None)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, name: None)

    def create() -> None:
        raise RuntimeError("first\nsecond")

    with pytest.raises(OSError, match=r"nor from .*\(first second\)") as error:
        with_weights_of_tag(create, "ViT-B-32-quickgelu", "openai")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("entry", "file"),
    [
        (OPENAI, "open_clip_model.safetensors"),
        ({"hf_hub": "timm/eva/eva.bin"}, "eva.safetensors"),
        ({"hf_hub": "timm/eva/eva.pt"}, "eva.pt"),
        ({"url": "https://server/clip/RN50.pt", "hf_hub": ""}, "RN50.pt"),
    ],
)
def test_the_file_of_an_entry_is_that_which_open_clip_looks_for_first(
    entry: dict[str, str], file: str, asked: Callable[[], None]
) -> None:
    source = source_of(entry)
    assert source.file == file and source.url.endswith(file) and not source.cached
