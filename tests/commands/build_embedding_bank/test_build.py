"""The builder: what a bank holds, that the number of processes changes no byte of it, and what is refused."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image
from torch.nn import functional as F
from torchvision.ops import box_iou

from dk_detr.commands.build_embedding_bank.builder import Builder
from dk_detr.commands.build_embedding_bank.encoder import RegionEncoder
from dk_detr.commands.build_embedding_bank.process import Process, chosen_shards
from dk_detr.commands.build_embedding_bank.sources import FirstStageBoxes
from dk_detr.data import categories_of, register
from dk_detr.data.bank import EmbeddingBank
from dk_detr.engine.proposals import WithProposals
from dk_detr.language import load_clip
from tests.commands.build_embedding_bank.building import REGIONS, BankWorld, contents, request
from tests.run_fixtures import NUM_IMAGES, SIDE, write_json

# ---- what a bank holds ----


def test_every_image_has_its_best_boxes_without_duplicates(whole_bank: Path) -> None:
    bank = EmbeddingBank(whole_bank)
    assert len(bank) == NUM_IMAGES
    for number in range(1, NUM_IMAGES + 1):
        regions = bank[number]
        boxes = regions.boxes_xyxy_abs
        assert 1 <= len(regions) <= REGIONS
        assert (regions.objectness.diff() <= 0).all()
        assert boxes.min() >= 0 and boxes.max() <= SIDE and (boxes[:, 2:] - boxes[:, :2]).min() >= 4
        assert (box_iou(boxes, boxes) - torch.eye(len(boxes))).max() <= 0.7


def test_embeddings_are_what_clip_sees_in_both_crops_of_the_original_pixels(
    bank_world: BankWorld, whole_bank: Path
) -> None:
    """A crop of whole pixels, resized by nothing but their mean, is what CLIP must have been shown."""
    root = bank_world.world.root
    clip = load_clip("open_clip", str(root / "clip.json"), str(root / "clip.pt"))
    image = Image.open(root / "mini_lvis/train/000003.png")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    box = torch.tensor([[16.0, 16.0, 48.0, 48.0]])  # 32 pixels, the side of this CLIP's input; at 1.5 times 48
    once = pixels[:, 16:48, 16:48].float() / 255
    wider = F.interpolate(pixels[None, :, 8:56, 8:56].float() / 255, 32, mode="bilinear", antialias=False)
    expected = F.normalize(clip.encode_image(once[None]) + clip.encode_image(wider), dim=-1)
    alone = RegionEncoder(clip, False, [1.0], "cpu", torch.float32)(pixels, box)
    assert torch.allclose(alone.float(), clip.encode_image(once[None]), atol=1e-3)
    both = RegionEncoder(clip, False, [1.0, 1.5], "cpu", torch.float32)(pixels, box)
    assert F.cosine_similarity(both.float(), expected).item() > 0.999
    regions = EmbeddingBank(whole_bank)[3]
    again = RegionEncoder(clip, False, [1.0, 1.5], "cpu", torch.float32)(pixels, regions.boxes_xyxy_abs)
    assert torch.allclose(regions.embeddings.float(), again.float(), atol=2e-3)


def custom_data(bank_world: BankWorld, run: Path) -> dict[str, Any]:
    """Options for annotation files of one's own: the same images."""
    folder = bank_world.world.root / "mini_lvis"
    own = {"TRAIN_JSON": folder / "annotations/mini_lvis_train.json", "TRAIN_IMAGES": folder, "NOVEL": "blue_box"}
    return {"OUTPUT_DIR": run, **{f"DATASETS__CUSTOM__{key}": value for key, value in own.items()}}


def test_a_bank_of_own_data_is_that_of_the_same_images(bank_world: BankWorld, whole_bank: Path, tmp_path: Path) -> None:
    bank = EmbeddingBank(bank_world.build(tmp_path / "bank", custom_data(bank_world, tmp_path / "run")))
    assert bank.manifest.settings["data_sets"]["names"] == ["custom_train"]
    for number in range(1, NUM_IMAGES + 1):
        assert torch.equal(bank[number].embeddings, EmbeddingBank(whole_bank)[number].embeddings)


def test_several_processes_do_not_build_the_words_of_own_data(
    bank_world: BankWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = custom_data(bank_world, tmp_path / "run")
    first = Process(0, 2)
    said = error_of(bank_world, capsys, tmp_path / "bank", options=options, process=first)
    assert "custom_vocabulary.npz yet, and several processes would write it. Run this command once" in said
    bank_world.build(tmp_path / "bank", options, estimate=True)
    bank_world.build(tmp_path / "bank", options, process=first)
    assert (tmp_path / "bank" / "shard-00002.safetensors").is_file()


def test_bgr_is_the_same_picture(bank_world: BankWorld) -> None:
    root = bank_world.world.root
    clip = load_clip("open_clip", str(root / "clip.json"), str(root / "clip.pt"))
    pixels = torch.randint(256, (3, 40, 50), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    box = torch.tensor([[3.0, 4.0, 30.0, 33.0]])
    rgb, bgr = (RegionEncoder(clip, order, [1.0], "cpu", torch.float32) for order in (False, True))
    assert torch.equal(rgb(pixels, box), bgr(pixels.flip(0), box))
    assert not torch.equal(rgb(pixels, box), bgr(pixels, box))


def test_the_manifest_says_what_the_bank_was_made_from(bank_world: BankWorld, whole_bank: Path) -> None:
    settings = EmbeddingBank(whole_bank).manifest.settings
    assert settings["clip"]["library"] == "open_clip" and settings["clip"]["width"] == 16
    assert settings["clip"]["weights"]["name"] == "clip.pt" and len(settings["clip"]["weights"]["sha256"]) == 64
    assert settings["crops"] == {"scales": [1.0, 1.5], "side": 32, "dtype": "float32"}
    assert settings["data_sets"]["names"] == ["mini_lvis_train_norare"]
    assert settings["data_sets"]["images"] == NUM_IMAGES
    assert settings["proposals"]["weights"]["name"] == "detector.pth"
    assert (settings["proposals"]["regions"], settings["proposals"]["nms"]) == (REGIONS, 0.7)
    assert str(bank_world.world.root) not in (whole_bank / "manifest.json").read_text()


def test_boxes_are_those_of_the_first_stage_in_pixels_of_the_image_on_disk(bank_world: BankWorld) -> None:
    """The detector sees the image at twice its size."""
    with bank_world.in_use():
        source = FirstStageBoxes(bank_world.config())
    image = torch.randint(256, (3, 128, 96), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    sample = {"image": image, "height": 64, "width": 48}
    boxes, scores = source(sample)
    best = scores.argsort(descending=True)[:10]
    expected = WithProposals(source.detector)([sample])[0]["proposals"]
    clipped = torch.minimum(boxes[best].clamp(min=0), torch.tensor([48.0, 64, 48, 64]))
    assert torch.allclose(clipped, expected.proposal_boxes.tensor, atol=1e-3)
    assert torch.allclose(scores[best], expected.objectness_logits) and len(scores) > 100


# ---- several processes ----


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (2, 0, 1)])
def test_processes_one_after_the_other_make_the_bank_of_one(
    order: tuple[int, ...], bank_world: BankWorld, whole_bank: Path, tmp_path: Path
) -> None:
    for rank in order:
        assert not (tmp_path / "manifest.json").exists()
        bank_world.build(tmp_path, process=Process(rank, len(order)))
    assert contents(tmp_path) == contents(whole_bank)


def test_a_process_makes_its_own_shards_only(
    bank_world: BankWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank_world.build(tmp_path, process=Process(1, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00001.safetensors"]
    assert "Process 2 of 2 is done. 2 of 3 shards are missing, the first 0" in capsys.readouterr().out


def test_shards_are_shared_out_without_remainder() -> None:
    shares = [shard for rank in range(3) for shard in Process(rank, 3).share_of(range(10))]
    assert sorted(shares) == [*range(10)]


def test_chosen_shards_first_and_the_rest_later_make_the_same_bank(
    bank_world: BankWorld, whole_bank: Path, tmp_path: Path
) -> None:
    bank_world.build(tmp_path, shards="1:2")
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00001.safetensors"]
    bank_world.build(tmp_path, shards=":1")
    bank_world.build(tmp_path, shards="2:")
    assert contents(tmp_path) == contents(whole_bank)


def test_shards_are_chosen_as_python_would() -> None:
    assert [list(chosen_shards(text, 4)) for text in (None, "1:3", ":2", "3:", "2:9")] == [
        [0, 1, 2, 3], [1, 2], [0, 1], [3], [2, 3],
    ]  # fmt: skip
    for text in ("2", "a:b", "-1:2"):
        with pytest.raises(ValueError, match=f'--shards is "{text}"; wanted FIRST:LAST'):
            chosen_shards(text, 4)
    with pytest.raises(ValueError, match="--shards 4:9 names none of the 4 shards"):
        chosen_shards("4:9", 4)


def test_processes_that_read_ahead_change_nothing(bank_world: BankWorld, whole_bank: Path, tmp_path: Path) -> None:
    bank_world.build(tmp_path, {"DATALOADER__NUM_WORKERS": 2})
    assert contents(tmp_path) == contents(whole_bank)


# ---- going on, and mending ----


def test_a_finished_bank_is_left_as_it_is(
    bank_world: BankWorld, whole_bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Builder, "regions_of", lambda *args: pytest.fail("looked at an image"))
    before = contents(whole_bank)
    bank_world.build(whole_bank)
    assert contents(whole_bank) == before


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: os.truncate(path, 500)])
def test_a_missing_or_truncated_shard_is_made_anew(
    damage: Callable[[Path], None], bank_world: BankWorld, whole_bank: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bank"
    shutil.copytree(whole_bank, folder)
    damage(folder / "shard-00001.safetensors")
    bank_world.build(folder)
    assert contents(folder) == contents(whole_bank)


def test_weights_that_were_moved_are_the_same_weights(
    bank_world: BankWorld, whole_bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(bank_world.world.root / "detector.pth", tmp_path / "renamed.pth")
    monkeypatch.setattr(Builder, "regions_of", lambda *args: pytest.fail("looked at an image"))
    folder = tmp_path / "bank"
    shutil.copytree(whole_bank, folder)
    bank_world.build(folder, {"MODEL__WEIGHTS": tmp_path / "renamed.pth"})
    EmbeddingBank(folder).verify()


# ---- before work starts ----


def error_of(bank_world: BankWorld, capsys: pytest.CaptureFixture[str], output: Path, **more: Any) -> str:
    """What the tool says before it gives up; it has written nothing."""
    before = sorted(output.iterdir()) if output.is_dir() else []
    with pytest.raises(SystemExit) as end:
        bank_world.build(output, **more)
    assert end.value.code == 1
    assert (sorted(output.iterdir()) if output.is_dir() else []) == before
    return next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))


def test_an_estimate_says_size_and_time_and_writes_nothing(
    bank_world: BankWorld, whole_bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank_world.build(tmp_path / "bank", estimate=True)
    said = capsys.readouterr().out
    assert not (tmp_path / "bank").exists()
    assert "8 images, at most 6 regions each, in 3 shards: at most" in said
    assert "8 images are left." in said and "about 0." in said and "with 1 process(es)" in said


def test_a_bank_takes_no_more_than_was_said(bank_world: BankWorld, whole_bank: Path) -> None:
    with bank_world.in_use():
        plan = Builder.from_config(bank_world.config(), request(whole_bank), Process()).plan
    assert EmbeddingBank(whole_bank).manifest.bytes <= plan.most_bytes(range(3)) <= 20_000


def test_a_disk_without_room_is_refused(
    bank_world: BankWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("dk_detr.commands.build_embedding_bank.plan.shutil.disk_usage", lambda folder: usage)
    said = error_of(bank_world, capsys, tmp_path / "bank")
    assert "KiB more, but the disk has 1000 bytes free. Name another folder (--output), or store fewer" in said


@pytest.mark.parametrize(
    "more, said",
    [
        ({"regions": 5}, "proposals.regions is 6 there, 5 here"),
        ({"crop_scales": [1.0]}, "crops.scales is [1.0, 1.5] there, [1.0] here"),
        ({"images_per_shard": 2}, "images_per_shard is 3 there, 2 here"),
        ({"options": {"INPUT__MIN_SIZE_TEST": 96}}, "proposals.input is"),
    ],
)
def test_shards_of_other_settings_are_refused_by_name(
    more: dict[str, Any], said: str, bank_world: BankWorld, whole_bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of(bank_world, capsys, whole_bank, **more)
    assert "shard-00000.safetensors is of another bank: " in error and said in error
    assert "Name another folder (--output), or delete this one." in error


@pytest.mark.parametrize(
    "more, said",
    [
        ({"options": {"MODEL__WEIGHTS": "''"}}, "MODEL.WEIGHTS is empty: whose proposals?"),
        ({"options": {"MODEL__CLIP__WEIGHTS": "''"}}, "a bank of random embeddings teaches nothing"),
        ({"options": {"MODEL__DETR__QUERIES": "Learned"}}, 'MODEL.DETR.QUERIES "Learned" proposes nothing'),
        ({"options": {"DATASETS__TRAIN": ()}}, "DATASETS.TRAIN is empty"),
        ({"regions": 0}, "--regions must be at least 1, got 0"),
        ({"nms": 0.0}, "--nms is an IoU above 0 and at most 1, got 0.0"),
        ({"images_per_shard": 0}, "--images-per-shard must be at least 1"),
        ({"crop_scales": [-1.0]}, "needs positive numbers"),
        ({"proposals": "nowhere.json"}, "There is no file of proposals nowhere.json"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    more: dict[str, Any], said: str, bank_world: BankWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in error_of(bank_world, capsys, tmp_path / "bank", **more)


def test_a_file_where_the_folder_should_be_is_refused(
    bank_world: BankWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bank").write_text("")
    assert "is a file; name a folder" in error_of(bank_world, capsys, tmp_path / "bank")


# ---- images ----


@pytest.fixture
def data_set(bank_world: BankWorld, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The content of an annotation file, registered as "odd_train" when the test has written it."""
    content = _annotations(bank_world)
    yield content
    DatasetCatalog.remove("odd_train")


def _annotations(bank_world: BankWorld) -> dict[str, Any]:
    path = bank_world.world.root / "mini_lvis/annotations/mini_lvis_train.json"
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def register_odd(bank_world: BankWorld, tmp_path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Options of a build of these images."""
    register("odd_train", write_json(tmp_path / "odd.json", content), str(bank_world.world.root / "mini_lvis"))
    assert categories_of("odd_train")
    return {"DATASETS__TRAIN": ("odd_train",)}


def test_an_image_that_is_not_there_is_named(
    data_set: dict[str, Any], bank_world: BankWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_set["images"][1]["file_name"] = "train/gone.png"
    options = register_odd(bank_world, tmp_path, data_set)
    error = error_of(bank_world, capsys, tmp_path / "bank", options=options)
    assert "train/gone.png of odd_train is not there" in error


def test_an_image_of_another_size_than_its_record_says_is_named(
    data_set: dict[str, Any], bank_world: BankWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_set["images"][2]["width"] = SIDE + 1
    options = register_odd(bank_world, tmp_path, data_set)
    assert "train/000003.png" in error_of(bank_world, capsys, tmp_path / "bank", options=options)


def test_two_data_sets_that_share_ids_are_refused(
    data_set: dict[str, Any], bank_world: BankWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_set["images"][0]["file_name"], data_set["images"][1]["file_name"] = "train/000002.png", "train/000001.png"
    options = register_odd(bank_world, tmp_path, data_set)
    options["DATASETS__TRAIN"] = ("mini_lvis_train", "odd_train")
    said = error_of(bank_world, capsys, tmp_path / "bank", options=options)
    assert "000001.png" in said and "have the same image id 1" in said
