"""Pretraining of the mini CLIP: its batches, its cone, its checkpoints, and how it is measured."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional as F

from dk_detr.language import load_clip, prompt_texts
from dk_detr.mini_world import MiniWorld, all_concepts, make_mini_world
from dk_detr.mini_world.contrastive import Pairs, Recipe, measure, pretrain, set_cone
from dk_detr.mini_world.contrastive.pairs import READ_IN, look_at, shorten

REPOSITORY = Path(__file__).parents[2]
CONFIG = str(REPOSITORY / "configs/mini/mini_clip.json")
NAMES = [concept.name.replace("_", " ") for concept in all_concepts()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    make_mini_world(root, MiniWorld(seed=1, train_images=2, val_images=4, test_images=1, captions_images=10))
    return root


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("clip")
    pretrain(world, CONFIG, output, Recipe(iterations=4))
    return output


# What it sees


def test_a_batch_has_one_crop_and_one_different_phrase_for_each_name(world: Path):
    pairs = Pairs(world / "captions")
    pixels, sentences = pairs.draw(seed=0, iteration=5, side=32)
    assert pixels.shape == (len(pairs.by_name), 3, 32, 32)
    assert 0 <= pixels.min() and pixels.max() <= 1
    assert len(sentences) == len(set(sentences)) == len(pairs.by_name)


def test_a_batch_depends_on_seed_and_iteration_alone(world: Path):
    def draw(seed: int, iteration: int) -> torch.Tensor:
        return Pairs(world / "captions").draw(seed, iteration, 32)[0]

    assert torch.equal(draw(0, 5), draw(0, 5))
    assert not torch.equal(draw(0, 5), draw(0, 6)) and not torch.equal(draw(0, 5), draw(1, 5))


def test_shortened_names_keep_their_noun_and_stay_different():
    seen = set()
    for seed in range(20):
        phrases = shorten(NAMES, np.random.default_rng(seed))
        assert len(set(phrases)) == len(NAMES)
        assert [phrase.split()[-1] for phrase in phrases] == [name.split()[-1] for name in NAMES]
        seen.update(phrases)
    assert {"star", "red star", "striped star"} <= seen


def test_every_prompt_of_every_name_fits_into_the_text_encoder():
    clip = load_clip("open_clip", CONFIG, weights="")
    texts = [text for name in NAMES for prompt in READ_IN for text in prompt_texts(name, prompt)]
    tokens = clip.tokenize(texts)
    assert tokens.shape[1] == clip.model.context_length
    assert (tokens[:, -1] == 0).all(), "a sentence fills the whole context: its end may be cut off"


def test_a_window_shows_the_part_that_it_names_and_a_negative_extent_mirrors():
    picture = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    whole = look_at(picture, torch.zeros(1, 2), torch.ones(1, 2), 4)
    assert torch.allclose(whole, picture, atol=1e-5)
    mirrored = look_at(picture, torch.zeros(1, 2), torch.tensor([[-1.0, 1.0]]), 4)
    assert torch.allclose(mirrored, picture.flip(-1), atol=1e-5)
    upper_right = look_at(picture, torch.tensor([[0.5, -0.5]]), torch.full((1, 2), 0.5), 2)
    assert torch.allclose(upper_right, picture[:, :, :2, 2:], atol=1e-5)


# How it learns


def test_both_towers_share_a_cone_that_training_leaves_alone(trained: Path):
    model = load_clip("open_clip", CONFIG, str(trained / "mini_clip.pt")).model
    image, text = model.visual.head.proj.bias, model.text_projection.bias
    assert torch.equal(image, text)
    assert image.norm().item() == pytest.approx(Recipe.cone, rel=1e-5)


def test_a_tower_without_a_bias_to_hold_the_cone_is_refused(tmp_path: Path):
    config = json.loads(Path(CONFIG).read_text())
    config["text_cfg"]["proj_bias"] = False
    path = tmp_path / "no_text_bias.json"
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="text_cfg must end in a linear projection with a bias"):
        set_cone(load_clip("open_clip", str(path), weights="").model, 1.0)


def test_the_checkpoint_loads_by_open_clips_own_loader(trained: Path):
    open_clip.add_model_config(CONFIG)
    model = open_clip.create_model("mini_clip", pretrained=str(trained / "mini_clip.pt"))
    tokens = open_clip.get_tokenizer("mini_clip")(["a red star"])
    ours = load_clip("open_clip", CONFIG, str(trained / "mini_clip.pt")).encode_text(["a red star"])
    assert torch.allclose(F.normalize(model.eval().encode_text(tokens), dim=-1), ours, atol=1e-6)


def test_an_interrupted_run_ends_with_the_same_weights(world: Path, trained: Path, tmp_path: Path, monkeypatch):
    recipe = Recipe(iterations=4, checkpoint_period=2)
    draw = Pairs.draw

    def interrupted(self: Pairs, seed: int, iteration: int, side: int):
        if iteration == 3:
            raise KeyboardInterrupt
        return draw(self, seed, iteration, side)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Pairs, "draw", interrupted)
        pretrain(world, CONFIG, tmp_path, recipe)
    assert torch.load(tmp_path / "training.pt", weights_only=True)["iterations_done"] == 2
    pretrain(world, CONFIG, tmp_path, recipe)
    resumed, straight = (torch.load(folder / "mini_clip.pt", weights_only=True) for folder in (tmp_path, trained))
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    assert not (tmp_path / "training.pt").exists()


def test_the_tool_prints_the_metrics_of_a_finished_run_and_trains_no_more(
    world: Path, trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    before = (trained / "mini_clip.pt").stat().st_mtime_ns
    arguments = ["--data", str(world), "--config", CONFIG, "--output", str(trained), "--iterations", "4"]
    monkeypatch.setattr(sys, "argv", ["train_clip.py", *arguments])
    runpy.run_path(str(REPOSITORY / "tools/train_clip.py"), run_name="__main__")
    assert "1x + 1.5x" in capsys.readouterr().out
    assert (trained / "mini_clip.pt").stat().st_mtime_ns == before


def test_other_settings_in_the_same_folder_are_refused(world: Path, trained: Path):
    with pytest.raises(ValueError, match="another recipe"):
        pretrain(world, CONFIG, trained, Recipe(iterations=5))


def test_an_incomplete_world_is_refused_with_the_command_that_makes_it(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="tools/make_mini_lvis.py --output"):
        pretrain(tmp_path, CONFIG, tmp_path / "clip", Recipe())


# How it is measured


class ClipThatSeesOneName:
    """Texts are one-hot by the name that they contain; every picture looks like one and the same name."""

    image_size, provenance = 32, {"library": "none"}

    def __init__(self, names: list[str], seen: str) -> None:
        self.names, self.seen = [name.replace("_", " ") for name in names], seen.replace("_", " ")

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[float(name in text) for name in self.names] for text in texts])

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.encode_text([self.seen]).expand(len(pixels), -1)


def test_zero_shot_accuracy_is_the_share_of_boxes_named_rightly(world: Path):
    data = json.loads((world / "annotations/mini_lvis_val.json").read_text())
    names = {category["id"]: category["name"] for category in data["categories"]}
    base = {category["id"] for category in data["categories"] if category["frequency"] != "r"}
    boxes = [annotation["category_id"] for annotation in data["annotations"] if annotation["category_id"] in base]
    metrics = measure(ClipThatSeesOneName(list(names.values()), names[boxes[0]]), world)  # type: ignore[arg-type]
    assert metrics["accuracy"]["1x"]["base"] == pytest.approx(boxes.count(boxes[0]) / len(boxes))
    assert metrics["cosine"]["text-text"] == 0
