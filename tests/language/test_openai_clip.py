"""OpenAI's `clip` and open_clip: the same weights say the same, and each is a CLIP of this project."""

from pathlib import Path

import pytest
import torch

from dk_detr.distillation import CLIPCrops
from dk_detr.language import Clip, build_vocabulary, load_clip, prompt_texts, require_words_of
from dk_detr.structures import Regions
from tests.run_fixtures import write_json

clip_package = pytest.importorskip("clip", reason="OpenAI's package is not installed (pip install clip-anytorch)")

WIDTH, SIDE = 32, 64
CONFIG = {
    "embed_dim": WIDTH,
    "quick_gelu": True,
    "vision_cfg": {"image_size": SIDE, "patch_size": 16, "width": 64, "head_width": 64, "layers": 2},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
NAMES = ["cat", "fishing_boat", "speaker_(stero_equipment)", "Ö", "cup/mug"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, Clip]:
    """(of open_clip, of clip), from one file. Random weights such as half floats can hold: `clip` keeps them so."""
    folder = tmp_path_factory.mktemp("clip")
    architecture = write_json(folder / "tiny_openai.json", CONFIG)
    torch.manual_seed(0)
    state = load_clip("open_clip", architecture, "").model.state_dict()
    state = {name: (tensor + 0.02 * torch.randn_like(tensor)).half().float() for name, tensor in state.items()}
    state.pop("attn_mask", None)
    torch.save(state, folder / "weights.pt")
    return load_clip("open_clip", architecture, str(folder / "weights.pt")), load_clip(
        "clip", "ViT-B/32", str(folder / "weights.pt")
    )


def test_texts_become_the_same_tokens(both: tuple[Clip, Clip]) -> None:
    texts = [text for name in NAMES for text in prompt_texts(name, "vild")] + ["long " * 100, "&amp; ümläut  ☃"]
    ours, theirs = (clip.tokenize(texts) for clip in both)
    assert torch.equal(ours, theirs)


def test_texts_have_the_same_embeddings(both: tuple[Clip, Clip]) -> None:
    ours, theirs = (clip.encode_text(prompt_texts("fishing_boat", "vild")) for clip in both)
    assert ours.shape == (63, WIDTH) and ours.std(0).max() > 1e-3
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_pictures_have_the_same_embeddings(both: tuple[Clip, Clip]) -> None:
    pixels = torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    ours, theirs = (clip.encode_image(pixels) for clip in both)
    assert both[0].image_size == both[1].image_size == SIDE
    assert (both[0].mean, both[0].std) == (both[1].mean, both[1].std)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_vocabularies_are_the_same_and_of_one_space(both: tuple[Clip, Clip]) -> None:
    ours, theirs = (build_vocabulary(NAMES, clip, "vild") for clip in both)
    assert torch.allclose(ours.embeddings, theirs.embeddings, atol=1e-5)
    assert theirs.provenance["library"] == "clip"
    require_words_of(both[0], theirs)
    require_words_of(both[1], ours)


def test_teachers_see_the_same_in_crops(both: tuple[Clip, Clip]) -> None:
    pixels = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(2)) * 255
    boxes = torch.tensor([[0.5, 0.5, 0.6, 0.4], [0.2, 0.3, 0.3, 0.5]])
    regions = Regions(torch.zeros(2, dtype=torch.long), torch.arange(2), boxes)
    ours, theirs = (CLIPCrops(clip, (0.0,) * 3, (1.0,) * 3, bgr=True)(pixels, [(96, 128)], regions) for clip in both)
    assert torch.allclose(ours, theirs, atol=1e-5) and not torch.allclose(ours[0], ours[1], atol=1e-3)


def test_a_file_that_is_no_clip_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pt")
    (tmp_path / "none.pt").write_bytes(b"no weights")
    for name in ("other.pt", "none.pt"):
        with pytest.raises(ValueError, match=rf"{name} \(MODEL\.CLIP\.WEIGHTS\) holds no weights"):
            load_clip("clip", "ViT-B/32", str(tmp_path / name))


def test_a_file_that_is_not_there_is_missed_and_nothing_else_is_loaded() -> None:
    with pytest.raises(FileNotFoundError, match=r"no CLIP checkpoint nowhere\.pt \(MODEL\.CLIP\.WEIGHTS\)"):
        load_clip("clip", "ViT-B/32", "nowhere.pt")


def test_a_model_that_openai_has_not_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(ValueError, match=r'no model "ViT-B-32" \(MODEL\.CLIP\.ARCHITECTURE\); there are: .*ViT-B/32'):
        load_clip("clip", "ViT-B-32", "openai")


def test_a_context_shorter_than_openais_is_kept(tmp_path: Path) -> None:
    short = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "context_length": 16}}  # type: ignore[dict-item]
    model = load_clip("open_clip", write_json(tmp_path / "short.json", short), "").model
    torch.save({k: v for k, v in model.state_dict().items() if k != "attn_mask"}, tmp_path / "short.pt")
    loaded = load_clip("clip", "ViT-B/32", str(tmp_path / "short.pt"))
    assert loaded.tokenize(["long " * 50]).shape == (1, 16) and loaded.encode_text(["a cat"]).shape == (1, WIDTH)
