"""Training with a bank: samples carry its regions; a bank that does not fit is refused before the first step."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from dk_detr.data import TrainMapper, build_train_stream, register, train_records
from dk_detr.data.bank import EmbeddingBank
from dk_detr.engine import Trainer, setup_cfg
from dk_detr.engine.embedding_bank import bank_of_training
from tests.commands.build_embedding_bank.building import BankWorld, contents
from tests.run_fixtures import MINI, WIDTH, assert_same_training, words, write_json

SHORT = {"SOLVER__MAX_ITER": 2, "DATASETS__TEST": ()}


@pytest.fixture
def bank(whole_bank: Path, tmp_path: Path) -> Path:
    """A finished bank that may be damaged."""
    return Path(shutil.copytree(whole_bank, tmp_path / "bank"))


def error_of(bank_world: BankWorld, bank: Path, capsys: pytest.CaptureFixture[str], **more: Any) -> str:
    """What training says before it gives up, without a step."""
    with pytest.raises(SystemExit) as end:
        bank_world.train(bank.parent / "run", bank, **{**SHORT, **more})
    assert end.value.code == 1 and not (bank.parent / "run" / "metrics.json").exists()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    return said[0]


# ---- a bank that fits ----


def test_a_run_with_a_bank_is_taught_by_it(bank_world: BankWorld, bank: Path, tmp_path: Path) -> None:
    run = bank_world.train(tmp_path / "run", bank, **SHORT)
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    assert lines[-1]["loss_kd_semantic"] > 0 and lines[-1]["kd_regions"] > 0


def test_loader_processes_change_nothing(bank_world: BankWorld, bank: Path, tmp_path: Path) -> None:
    one = bank_world.train(tmp_path / "one", bank, **SHORT)
    two = bank_world.train(tmp_path / "two", bank, DATALOADER__NUM_WORKERS=2, **SHORT)
    assert_same_training(one / "model_final.pth", two / "model_final.pth")


def test_training_leaves_a_bank_as_it_was(bank_world: BankWorld, bank: Path, whole_bank: Path, tmp_path: Path) -> None:
    bank_world.train(tmp_path / "run", bank, **SHORT)
    assert contents(bank) == contents(whole_bank)


def config(bank_world: BankWorld, bank: Path | str, **more: Any) -> Any:
    teacher = {"MODEL__TEACHER__NAME": "EmbeddingBank", "MODEL__TEACHER__BANK": bank or "''"}
    return setup_cfg(MINI, bank_world.options(**{**teacher, **more}))


def test_every_sample_of_the_stream_has_regions(bank_world: BankWorld, bank: Path) -> None:
    with bank_world.in_use():
        cfg = config(bank_world, bank)
        records = train_records(cfg.DATASETS.TRAIN)
        opened = bank_of_training(cfg, records, words())
        stream = build_train_stream(cfg, records, TrainMapper(cfg, [0, 1, -1], opened), seed=0)
        samples = [sample for batch in islice(stream, 4) for sample in batch]
    for sample in samples:
        regions = sample["regions"]
        assert len(regions) > 0 and regions.image_size == tuple(sample["image"].shape[-2:])
        assert regions.embeddings.dtype == torch.float16 and regions.embeddings.shape[1] == WIDTH


@pytest.mark.parametrize("off", [{"MODEL__TRAINING_EXTENSIONS": []}, {"MODEL__TEACHER__NAME": "CLIPCrops"}])
def test_a_run_that_no_bank_teaches_opens_none(bank_world: BankWorld, off: dict[str, Any]) -> None:
    cfg = config(bank_world, "nowhere", **off)
    assert bank_of_training(cfg, [], words()) is None


def test_a_run_on_some_of_the_images_may_use_the_bank_of_all(bank_world: BankWorld, bank: Path) -> None:
    with bank_world.in_use():
        cfg = config(bank_world, bank)
        records = train_records(cfg.DATASETS.TRAIN)
        assert bank_of_training(cfg, records[2:4], words()) is not None


def test_a_data_set_that_was_moved_is_the_same(bank_world: BankWorld, bank: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(bank_world.world.root / "mini_lvis", moved)
    register("moved_train", str(moved / "annotations/mini_lvis_train.json"), str(moved))
    bank_world.train(tmp_path / "run", bank, DATASETS__TRAIN=("moved_train",), **SHORT)


# ---- banks that do not ----


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda bank: shutil.rmtree(bank), "There is no embedding bank {bank} (MODEL.TEACHER.BANK). Build it"),
        (lambda bank: (bank / "manifest.json").unlink(), "{bank} is unfinished: it has 3 shards"),
        (lambda bank: (bank / "shard-00001.safetensors").unlink(), "{bank} lacks the shard shard-00001.safetensors"),
        (lambda bank: truncate(bank / "shard-00002.safetensors"), "{bank}/shard-00002.safetensors is damaged: it has"),
        (lambda bank: flip_a_bit(bank / "shard-00002.safetensors"), "{bank}/shard-00002.safetensors is damaged: its"),
    ],
    ids=["none", "unfinished", "missing shard", "truncated shard", "flipped bit"],
)
def test_a_damaged_bank_is_refused_by_name(
    damage: Callable[[Path], None], said: str, bank_world: BankWorld, bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(bank)
    error = error_of(bank_world, bank, capsys)
    assert said.format(bank=bank) in error and "tools/build_embedding_bank.py" in error


def test_another_version_is_refused(bank_world: BankWorld, bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((bank / "manifest.json").read_text())
    (bank / "manifest.json").write_text(json.dumps({**manifest, "version": 9}))
    assert "version 9; this code reads" in error_of(bank_world, bank, capsys)


def test_another_teacher_is_refused(
    bank_world: BankWorld, bank: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    weights = torch.load(bank_world.world.root / "clip.pt", weights_only=True)
    torch.save({name: tensor + 1 for name, tensor in weights.items()}, tmp_path / "other.pt")
    error = error_of(bank_world, bank, capsys, MODEL__CLIP__WEIGHTS=tmp_path / "other.pt")
    assert f"{bank} does not fit this config: clip.weights is clip.pt (sha256 " in error and "other.pt (sha256" in error
    assert "or build a bank for this config" in error


def test_words_of_another_width_are_refused(bank_world: BankWorld, bank: Path) -> None:
    with bank_world.in_use(), pytest.raises(ValueError, match="clip.width is 16 there, 512 here"):
        cfg = config(bank_world, bank)
        bank_of_training(cfg, train_records(cfg.DATASETS.TRAIN), words(width=512))


def test_words_of_another_clip_than_the_banks_are_refused_and_those_of_its_own_are_not(
    bank_world: BankWorld, bank: Path
) -> None:
    with bank_world.in_use():
        cfg = config(bank_world, bank)
        records, probe = train_records(cfg.DATASETS.TRAIN), EmbeddingBank(bank).manifest.information["probe"]
        other = json.dumps([-number for number in json.loads(probe)])
        assert bank_of_training(cfg, records, replace(words(), provenance={"probe": probe})) is not None
        with pytest.raises(ValueError, match=rf"mine.* and embedding bank {bank}.* different CLIPs.*or build a bank"):
            bank_of_training(cfg, records, replace(words(), provenance={"probe": other, "encoder": "mine"}))


def test_a_bank_must_be_named(bank_world: BankWorld) -> None:
    with pytest.raises(ValueError, match='"EmbeddingBank" needs MODEL.TEACHER.BANK'):
        bank_of_training(config(bank_world, ""), [], words())


def test_a_bank_of_which_nothing_is_read_is_refused(bank_world: BankWorld, bank: Path) -> None:
    with pytest.raises(ValueError, match="MODEL.TEACHER.BANK_REGIONS must be at least 1, got 0"):
        bank_of_training(config(bank_world, bank, MODEL__TEACHER__BANK_REGIONS=0), [], words())


def changed(bank_world: BankWorld, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Options of a run on the same data set with one image changed."""
    root = bank_world.world.root / "mini_lvis"
    content = json.loads((root / "annotations/mini_lvis_train.json").read_text())
    change(content)
    register("changed_train", write_json(tmp_path / "changed.json", content), str(root))
    return {"DATASETS__TRAIN": ("changed_train",)}


def another_image(content: dict[str, Any]) -> None:
    """Image 1 is called 77."""
    content["images"][0]["id"] = 77
    for box in content["annotations"]:
        box["image_id"] = 77 if box["image_id"] == 1 else box["image_id"]


@pytest.mark.parametrize(
    "change, said",
    [
        (another_image, "lacks 1 of 8 images, the first 000001.png (id 77)"),
        (
            lambda content: content["images"][4].update(file_name="train/000001.png"),
            "is of another data set: its image 000005.png (id 5) is 000001.png here",
        ),
        (
            lambda content: content["images"][4].update(height=65),
            "image 000005.png (id 5) is 64×64 pixels there, 64×65 here",
        ),
    ],
    ids=["missing image", "another data set", "another size"],
)
def test_a_bank_of_other_images_is_refused_naming_one(
    change: Callable[[dict[str, Any]], None], said: str, bank_world: BankWorld, bank: Path,
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    error = error_of(bank_world, bank, capsys, **changed(bank_world, tmp_path, change))
    assert f"Embedding bank {bank} (of mini_lvis_train_norare, 8 images)" in error and said in error


def test_train_sets_that_share_ids_are_refused(
    bank_world: BankWorld, bank: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = changed(bank_world, tmp_path, lambda content: content["images"][4].update(file_name="train/000001.png"))
    other["DATASETS__TRAIN"] = ("mini_lvis_train", *other["DATASETS__TRAIN"])
    assert "have the same image id 5" in error_of(bank_world, bank, capsys, **other)


def test_the_trainer_asks_before_it_makes_anything(
    bank_world: BankWorld, bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "build_hooks", lambda self: pytest.fail("started"))
    flip_a_bit(bank / "shard-00000.safetensors")
    with pytest.raises(SystemExit):
        bank_world.train(bank.parent / "run", bank, **SHORT)
