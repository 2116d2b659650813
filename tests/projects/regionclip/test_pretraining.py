"""The pretraining: its losses by hand and in NumPy, its pairs, and runs that resume."""

import io
import json
import math
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from PIL import Image
from torch.nn import functional as F

from dk_detr.engine import setup_cfg
from dk_detr.language import load_clip, save_vocabulary
from projects.RegionCLIP.concept_pool import count, nouns_of_a_list
from projects.RegionCLIP.make_captions import captions_of
from projects.RegionCLIP.regionclip.losses import contrastive_loss, distillation_loss, image_text_loss, kept_regions
from projects.RegionCLIP.regionclip.pairs import PairMapper, pairs_of_captions, pairs_of_shards
from tests.model_fixtures import fixed_seed, random
from tests.projects.regionclip.region_fixtures import KEY, config, options, proposal_network
from tests.run_fixtures import World, resume_after_the_first, state_of, words, write_json

OWN = "MODEL__REGIONCLIP__PRETRAINING__"


@pytest.fixture(scope="module")
def given(world: World) -> dict[str, Any]:
    """The keys of a pretraining in the tests' world."""
    content = json.loads((world.root / "mini_lvis/annotations/mini_lvis_train.json").read_text())
    captions = write_json(world.root / "captions.json", captions_of(content))
    save_vocabulary(words(("red", "green", "blue", "grey"), novel=()), str(world.root / "pool.npz"))
    own = {
        f"{OWN}CAPTIONS": captions, f"{OWN}IMAGES": world.root / "mini_lvis", f"{OWN}POOL": world.root / "pool.npz",
        f"{OWN}REGIONS": 10, f"{OWN}SAMPLED": 4, "DATASETS__TRAIN": (), "DATASETS__TEST": (),
    }  # fmt: skip
    return options(world, **{**proposal_network(world, world.root / "localizer"), **own})


def test_a_run_resumes_exactly_and_its_image_tower_becomes_a_clip(
    given: dict[str, Any], world: World, tmp_path: Path
) -> None:
    whole = resume_after_the_first(world, tmp_path, config("mini/pretrain"), **given)
    saved = state_of(whole / "model_final.pth")["model"]
    assert not [name for name in saved if name.startswith("teacher")]
    weights = {"MODEL__CLIP__IMAGE_WEIGHTS": whole / "model_final.pth", "MODEL__REGIONCLIP__REGIONS": "GroundTruth"}
    gt = {**{k: v for k, v in given.items() if not k.startswith(OWN)}, **weights, "MODEL__REGIONCLIP__FUSION": "none"}
    detector = build_model(setup_cfg(config("mini/zero_shot_gt"), world.options(**gt)))
    name = "visual.layer4.0.conv1.weight"
    assert torch.equal(detector.recognizer.state_dict()[name], saved[f"recognizer.{name}"])


@pytest.mark.parametrize("name", ["pretrain_RN50", "pretrain_RN50x4"])
def test_the_published_ones_train(name: str, given: dict[str, Any], world: World, tmp_path: Path) -> None:
    more = {**given, f"{OWN}SHARDS": "''"}
    world.train(tmp_path, config=config(name), **more)
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    losses = {key: value for key, value in json.loads(lines[-1]).items() if key.startswith("loss_")}
    assert losses.keys() == {"loss_region_distillation", "loss_region_contrast", "loss_image_text"}
    assert "No loss reaches" not in (tmp_path / "log.txt").read_text()


def test_teacher_and_text_encoder_are_frozen_guests(given: dict[str, Any], world: World) -> None:
    with fixed_seed():
        model = build_model(setup_cfg(config("mini/pretrain"), world.options(**given))).train()
    clip = model.teacher.guest.on(model.device)
    before = {name: value.clone() for name, value in clip.model.state_dict().items()}
    batch = [{"image": 100 * random(3, 64, 64, seed=n).abs(), "caption": f"number {n}"} for n in range(2)]
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    assert all(p.grad is None for p in clip.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in clip.model.state_dict().items())
    mine = {id(p) for p in model.parameters()}
    assert not mine & {id(p) for p in clip.model.parameters()}
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all(name.startswith("recognizer.visual.") for name in trained)
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def gradients(rank: int | None, opts: list[str]) -> tuple[dict[str, float], torch.Tensor]:
    """Losses and the gradient of one worker's image, averaged over workers; of both images where `rank` is None."""
    with fixed_seed():
        model = build_model(setup_cfg(config("mini/pretrain"), opts)).train()
    batch = [{"image": 100 * random(3, 64, 64, seed=n).abs(), "caption": f"number {n}"} for n in range(2)]
    with EventStorage():
        losses = model(batch if rank is None else batch[rank : rank + 1])
    (losses["loss_image_text"] + losses["loss_region_distillation"]).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    if rank is not None:
        dist.all_reduce(gradient)
        gradient /= 2
    return {name: loss.item() for name, loss in losses.items()}, gradient


def test_two_workers_learn_what_one_does(
    given: dict[str, Any], world: World, in_two_workers: Callable[..., Any]
) -> None:
    """Of images with equally many regions; but for the contrast, whose regions are one worker's, as in the release."""
    opts = world.options(**{**given, f"{OWN}REGIONS": 4, f"{OWN}THRESHOLD": 0.0})
    losses, gradient = gradients(None, opts)
    (first, averaged), (second, same) = in_two_workers(gradients, opts)
    assert torch.equal(averaged, same)
    torch.testing.assert_close(averaged, gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max().item())
    assert first["loss_image_text"] == pytest.approx(losses["loss_image_text"], rel=1e-4)
    mean = (first["loss_region_distillation"] + second["loss_region_distillation"]) / 2
    assert mean == pytest.approx(losses["loss_region_distillation"], rel=1e-4)


def test_a_student_like_its_teacher_has_nothing_to_distil(given: dict[str, Any], world: World, tmp_path: Path) -> None:
    weights = tmp_path / "clip.pt"
    torch.save(load_clip("open_clip", str(given["MODEL__CLIP__ARCHITECTURE"]), "").model.state_dict(), weights)
    cfg = setup_cfg(config("mini/pretrain"), world.options(**{**given, "MODEL__CLIP__WEIGHTS": weights}))
    cfg.defrost()
    model = build_model(cfg).train()
    batch = [{"image": 100 * random(3, 64, 64, seed=n).abs(), "caption": f"number {n}"} for n in range(2)]
    with EventStorage():
        assert abs(model(batch)["loss_region_distillation"].item()) < 1e-5


def test_the_contrast_counts_a_concept_as_often_as_it_occurs() -> None:
    logits, concept = random(5, 4), torch.tensor([0, 2, 2, 3, 2])
    counts = np.bincount(concept, minlength=4)
    wanted = []
    for row, y in zip(logits.numpy(), concept.tolist()):
        wanted.append(-math.log(counts[y] * math.exp(row[y]) / (counts * np.exp(row)).sum()))
    assert contrastive_loss(logits, concept).item() == pytest.approx(np.mean(wanted), rel=1e-5)


def test_the_contrast_of_one_concept_is_zero_and_of_different_ones_infonce() -> None:
    logits = random(3, 4)
    assert contrastive_loss(logits, torch.tensor([1, 1, 1])).abs() < 1e-6
    order = torch.tensor([2, 0, 3])
    torch.testing.assert_close(contrastive_loss(logits, order), F.cross_entropy(logits[:, order], torch.arange(3)))


def test_distillation_is_the_divergence_in_numpy() -> None:
    student, teacher = random(4, 6), random(4, 6, seed=1)
    q, p = (np.exp(x.numpy()) / np.exp(x.numpy()).sum(1, keepdims=True) for x in (teacher, student))
    wanted = (q * np.log(q / p)).sum(1).mean()
    assert distillation_loss(student, teacher).item() == pytest.approx(wanted, rel=1e-4)
    assert distillation_loss(teacher, teacher).abs() < 1e-6


def test_images_and_texts_by_hand() -> None:
    same = torch.ones(3, 8)
    assert image_text_loss(same, same, 0.01).item() == pytest.approx(math.log(3), rel=1e-5)
    a, b = random(3, 8), random(3, 8, seed=1)
    torch.testing.assert_close(image_text_loss(a, b, 0.1), image_text_loss(b, a, 0.1))
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(image_text_loss(a[order], b[order], 0.1), image_text_loss(a, b, 0.1))


def test_regions_that_nothing_is_sure_of_are_left_out_unless_that_is_all() -> None:
    probabilities = torch.tensor([[0.6, 0.4], [0.05, 0.05]])
    assert kept_regions(probabilities, 0.1).tolist() == [True, False]
    assert kept_regions(probabilities, 0.7).tolist() == [True, True]


def shard(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    path = folder / name
    with tarfile.open(path, "w") as archive:
        for member, content in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def picture(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_shards_give_the_pairs_that_are_whole(tmp_path: Path) -> None:
    shard(tmp_path, "0.tar", {"a.png": picture((200, 0, 0)), "a.txt": b"a red one\n", "b.png": picture((0, 0, 0))})
    shard(tmp_path, "1.tar", {"x/c.png": picture((0, 0, 200)), "x/c.json": b'{"caption": "a blue one"}'})
    records = pairs_of_shards(str(tmp_path / "*.tar"))
    mapper = PairMapper(setup_cfg(config("mini/pretrain")))
    samples = [mapper(record) for record in records]
    assert [sample["caption"] for sample in samples] == ["a red one", "a blue one"]
    assert samples[0]["image"].shape == (3, 72, 96) and samples[0]["image"][0].float().mean() > 190
    assert samples[1]["image"][2].float().mean() > 190 and samples[1]["file_name"].endswith("1.tar/x/c.png")


def test_captions_of_an_image_take_turns(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    content = {"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "none.png"}]}
    captions = [{"image_id": 1, "caption": "one"}, {"image_id": 1, "caption": " two "}, {"image_id": 2, "caption": " "}]
    (record,) = pairs_of_captions(write_json(tmp_path / "c.json", {**content, "annotations": captions}), str(tmp_path))
    mapper = PairMapper(setup_cfg(config("mini/pretrain")))
    assert {mapper(record)["caption"] for _ in range(20)} == {"one", "two"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {f"{OWN}CAPTIONS": "''"},
            'CAPTIONS or MODEL.REGIONCLIP.PRETRAINING.SHARDS names the pairs, one of them; got ""',
        ),
        ({f"{OWN}CAPTIONS": "none.json"}, "There are no captions none.json (MODEL.REGIONCLIP.PRETRAINING.CAPTIONS)"),
        ({f"{OWN}IMAGES": "nowhere"}, "is not there"),
        ({f"{OWN}POOL": "''"}, 'PRETRAINING.POOL is "": name the embeddings of concepts'),
        ({f"{OWN}THRESHOLD": 1.0}, "THRESHOLD is a probability below 1, got 1.0"),
        ({f"{OWN}SAMPLED": 0}, "PRETRAINING.SAMPLED must be at least 1, got 0"),
        ({"MODEL__REGIONCLIP__REGIONS": "GroundTruth"}, "captions come without boxes"),
        ({"MODEL__CLIP__IMAGE_WEIGHTS": "none.pth"}, "There is no file none.pth (MODEL.CLIP.IMAGE_WEIGHTS)"),
    ],
)
def test_bad_input_is_refused_before_training(
    changed: dict[str, Any], message: str, given: dict[str, Any], world: World, tmp_path: Path, capsys: Any
) -> None:
    with pytest.raises(SystemExit):
        world.train(tmp_path, config=config("mini/pretrain"), **{**given, **changed})
    assert message in capsys.readouterr().err


def test_other_bad_files_are_refused_by_name(tmp_path: Path, given: dict[str, Any], world: World) -> None:
    with pytest.raises(FileNotFoundError, match="No file is there of"):
        pairs_of_shards(str(tmp_path / "*.tar"))
    shard(tmp_path, "0.tar", {"a.png": picture((0, 0, 0))})
    with pytest.raises(ValueError, match="0.tar .* holds no pair of NAME.jpg and NAME.txt"):
        pairs_of_shards(str(tmp_path / "*.tar"))
    (tmp_path / "1.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ValueError, match="1.tar .* is no tar file, or a damaged one"):
        pairs_of_shards(str(tmp_path / "1.tar"))
    with pytest.raises(ValueError, match="it is no file of captions"):
        pairs_of_captions(write_json(tmp_path / "c.json", {"images": []}), "")
    save_vocabulary(words(("red", "green"), width=8, novel=()), str(tmp_path / "narrow.npz"))
    cfg = setup_cfg(config("mini/pretrain"), world.options(**{**given, f"{OWN}POOL": tmp_path / "narrow.npz"}))
    with pytest.raises(ValueError, match=re.escape("has width 8, and")):
        build_model(cfg)
    other = {**given, "MODEL__CLIP__IMAGE_WEIGHTS": given[f"{KEY}WEIGHTS"]}
    with pytest.raises(ValueError, match="holds no image tower"):
        build_model(setup_cfg(config("mini/pretrain"), world.options(**other)))


def test_concepts_are_counted_by_captions_that_have_them() -> None:
    nouns = nouns_of_a_list(["cat", "hot dog", "dog", "bus"])
    captions = ["A cat and two cats", "hot dogs, a dog", "buses", "the concatenation of doghouses"]
    assert count(captions, nouns, 1) == [("bus", 1), ("cat", 1), ("dog", 1), ("hot dog", 1)]
    assert count([*captions, "cat"], nouns, 2) == [("cat", 2)]
    for listed in (["glass", "glasses", "puppy"], ["puppy", "glasses", "glass"]):
        found = nouns_of_a_list(listed)
        assert found("puppies with glasses beside a glass") == ["puppy", "glasses", "glass"]


def test_captions_name_each_object_once() -> None:
    content = {
        "categories": [{"id": 1, "name": "red_star"}, {"id": 2, "name": "ring"}],
        "images": [{"id": 5, "file_name": "a.jpg", "width": 3}, {"id": 6, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 5, "category_id": c} for c in (2, 1, 2)],
    }
    made = captions_of(content)
    assert made["images"] == [{"id": 5, "file_name": "a.jpg"}]
    assert made["annotations"] == [{"id": 1, "image_id": 5, "caption": "a ring, a red star"}]
