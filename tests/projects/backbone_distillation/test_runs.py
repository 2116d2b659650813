"""Runs: every config trains, goes on and is evaluated; its backbone starts a detector; what is refused."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from PIL import Image

from dk_detr.engine import setup_cfg
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.ema import averaged
from dk_detr.engine.run_folder import read_results
from dk_detr.language import save_vocabulary
from projects.BackboneDistillation import train
from projects.BackboneDistillation.backbone_distillation.crops import build_crop_stream, cut
from projects.BackboneDistillation.image_folder import annotations_of
from projects.BackboneDistillation.train import runs_of, write_backbone
from tests.model_fixtures import fixed_seed, random
from tests.run_fixtures import (
    MINI,
    REPOSITORY,
    SIDE,
    World,
    resume_after_the_first,
    state_of,
    words,
    world_with_masks,
)

CONFIGS = REPOSITORY / "projects" / "BackboneDistillation" / "configs"
OWN = "MODEL__BACKBONE_KD__"
ALL = sorted(path for path in CONFIGS.rglob("*.yaml") if not path.name.startswith("Base-"))
SMALL: dict[str, Any] = {
    f"{OWN}CROP_SIDE": 32, f"{OWN}EMBEDDING": 8, "SOLVER__IMS_PER_BATCH": 4, "SOLVER__MAX_ITER": 2,
    "SOLVER__CHECKPOINT_PERIOD": 1, "SOLVER__WARMUP_ITERS": 0, "INPUT__MIN_SIZE_TEST": SIDE,
    "DATASETS__TRAIN": ("lvis_v1_train_norare",), "DATASETS__TEST": ("lvis_v1_val",),
    "MODEL__RESNETS__NORM": "BN",
}  # fmt: skip
TINY = {"MODEL__RESNETS__DEPTH": 50, "MODEL__RESNETS__RES2_OUT_CHANNELS": 16}


def config(name: str) -> str:
    return str(CONFIGS / f"{name}.yaml")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_with_masks(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def teacher(world: World) -> Path:
    """The folder of a trained teacher, whose config is the file `config.yaml` in it."""
    return world.train(world.root / "teacher", config=config("mini/teacher"), **SMALL)


def taught(teacher: Path, **more: Any) -> dict[str, Any]:
    keys = {f"{OWN}TEACHER__CONFIG": teacher / "config.yaml", f"{OWN}TEACHER__WEIGHTS": teacher / "model_final.pth"}
    return {**SMALL, **keys, **more}


def asks_a_classifier(path: Path) -> bool:
    own = setup_cfg(str(path), []).MODEL.BACKBONE_KD
    return bool(own.TERMS) and own.TEACHER.CONFIG != "CLIP"


@pytest.mark.parametrize("path", ALL, ids=[str(path.relative_to(CONFIGS)) for path in ALL])
def test_every_config_trains_and_names_boxes(path: Path, world: World, teacher: Path, tmp_path: Path) -> None:
    given = taught(teacher) if asks_a_classifier(path) else SMALL
    run = world.train(tmp_path / "run", config=str(path), **given)
    assert "No loss reaches" not in (run / "log.txt").read_text()
    found = read_results(str(run))
    assert found is not None and {"top1", "top1-base", "top1-novel"} <= found["results"]["naming"].keys()
    losses = {key for line in (run / "metrics.json").read_text().splitlines() for key in json.loads(line)}
    assert ("loss_labels" in losses) == (path.name not in ("refo.yaml", "R18_refo.yaml"))
    world.train(tmp_path / "again", config=str(path), eval_only=True, **SMALL, MODEL__WEIGHTS=run / "model_final.pth")
    again = read_results(str(tmp_path / "again"))
    assert again is not None and again["results"]["naming"] == pytest.approx(found["results"]["naming"], nan_ok=True)


def test_a_run_goes_on_as_if_it_had_not_been_interrupted(world: World, teacher: Path, tmp_path: Path) -> None:
    resume_after_the_first(world, tmp_path, config("mini/global_local"), **taught(teacher, DATASETS__TEST=()))


def test_of_averaged_weights_the_backbone_is_the_average(world: World, teacher: Path, tmp_path: Path) -> None:
    half = {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": "bfloat16", "SOLVER__EMA_DECAY": 0.5}
    run = world.train(tmp_path, config=config("mini/logits"), **taught(teacher, DATASETS__TEST=(), **half))
    backbone = state_of(Path(write_backbone(str(run))))["model"]
    saved = state_of(run / "model_final.pth")
    average, last = averaged(saved), saved["model"]
    assert average is not None
    name = "res3.0.conv1.weight"
    assert torch.equal(backbone[name], average["backbone." + name])
    assert not torch.equal(backbone[name], last["backbone." + name])


def test_without_labels_the_classifier_is_the_teachers_and_stays(world: World, teacher: Path, tmp_path: Path) -> None:
    run = world.train(tmp_path, config=config("mini/refo"), **taught(teacher, DATASETS__TEST=()))
    ours, theirs = (state_of(folder / "model_final.pth")["model"] for folder in (run, teacher))
    names = [name for name in ours if name.startswith("head.classifier.")]
    assert names and all(torch.equal(ours[name], theirs[name]) for name in names)
    assert not torch.equal(ours["head.embedding.weight"], theirs["head.embedding.weight"])
    assert not [name for name in ours if "teacher" in name]


def test_a_classifier_that_was_handed_over_stays_whatever_weights_say(world: World, teacher: Path) -> None:
    with fixed_seed(7):
        student = build_model(setup_cfg(config("mini/refo"), world.options(**taught(teacher)))).train()
    other = {name: weight + 1 for name, weight in student.state_dict().items()}
    torch.save({"model": other}, world.root / "other.pth")
    StrictCheckpointer(student).load(str(world.root / "other.pth"))
    theirs = state_of(teacher / "model_final.pth")["model"]
    now, names = student.state_dict(), [name for name in other if name.startswith("head.classifier.")]
    assert names and all(torch.equal(now[name], theirs[name]) for name in names)
    assert torch.equal(now["head.embedding.weight"], other["head.embedding.weight"])


def test_the_backbone_starts_detectors_with_and_without_a_pyramid(world: World, teacher: Path) -> None:
    path = write_backbone(str(teacher))
    theirs = state_of(teacher / "model_final.pth")["model"]
    plain = {"MODEL__RESNETS__NORM": "BN", "MODEL__TRAINING_EXTENSIONS": [], "MODEL__KD__TERMS": []}
    vild = str(REPOSITORY / "projects" / "ViLD" / "configs" / "mini" / "ViLD.yaml")
    for file, prefix, keys in ((MINI, "backbone.", plain), (vild, "backbone.bottom_up.", plain)):
        with fixed_seed(5):
            detector = build_model(setup_cfg(file, world.options(**keys))).train()
        StrictCheckpointer(detector).load(path)
        name = "res3.0.conv1.weight"
        assert torch.equal(detector.state_dict()[prefix + name], theirs["backbone." + name])


def test_one_command_trains_teachers_first_and_takes_finished_ones(world: World, tmp_path: Path) -> None:
    opts = world.options(**{**SMALL, **TINY, f"{OWN}EMBEDDING": 128}, OUTPUT_DIR=tmp_path)
    runs = runs_of(config("mini/refo"), opts)
    assert [Path(file).stem for file, _ in runs] == ["student", "refo_teacher", "refo"]
    folders = [given[given.index("OUTPUT_DIR") + 1] if "OUTPUT_DIR" in given else "" for _, given in runs]
    assert folders == [str(tmp_path / "teacher" / "teacher"), str(tmp_path / "teacher"), str(tmp_path)]
    shared = dict(zip(runs[0][1][::2], runs[0][1][1::2]))
    assert shared["MODEL.DEVICE"] == "cpu" and "SOLVER.IMS_PER_BATCH" not in shared
    weights = dict(zip(runs[2][1][::2], runs[2][1][1::2]))["MODEL.BACKBONE_KD.TEACHER.WEIGHTS"]
    assert weights == str(tmp_path / "teacher" / "model_final.pth")
    with pytest.raises(ValueError, match="16 wide here and 128 wide of the teacher"):
        runs_of(config("mini/refo"), [*opts, "MODEL.BACKBONE_KD.EMBEDDING", "16"])
    named = [*opts, "MODEL.BACKBONE_KD.TEACHER.WEIGHTS", "some.pth"]
    assert len(runs_of(config("mini/refo"), named)) == 1


def test_crops_are_the_box_and_its_surroundings() -> None:
    image = random(3, 40, 60).abs()
    whole = torch.tensor([10.0, 5.0, 30.0, 25.0])
    torch.testing.assert_close(cut(image, whole, 20, 1.0), image[:, 5:25, 10:30])
    torch.testing.assert_close(cut(image, whole, 24, 1.2), image[:, 3:27, 8:32])
    assert cut(image, torch.tensor([59.9, 39.9, 60.0, 40.0]), 8, 1.0).shape == (3, 8, 8)
    assert cut(image, torch.tensor([-5.0, -5.0, 90.0, 90.0]), 8, 1.2).shape == (3, 8, 8)


def test_boxes_are_named_one_by_one_and_in_order(world: World) -> None:
    with fixed_seed():
        model = build_model(setup_cfg(config("mini/student"), world.options(**SMALL))).eval()
    boxes = Boxes(torch.tensor([[4.0, 6.0, 30.0, 40.0], [20.0, 8.0, 50.0, 60.0]]))
    given = {"image": 200 * random(3, SIDE, SIDE).abs(), "objects": boxes, "height": 2 * SIDE, "width": 2 * SIDE}
    (both,) = model([given])
    (second,) = model([{**given, "objects": boxes[1]}])
    assert both["named"][1] == second["named"][0]
    torch.testing.assert_close(both["instances"].pred_boxes.tensor, 2 * boxes.tensor)
    assert boxes.tensor[1, 3] == 60  # what was given is not scaled
    assert len(model([{**given, "objects": boxes[:0]}])[0]["named"]) == 0
    with pytest.raises(ValueError, match="names boxes that are given, and image a.jpg comes without"):
        model([{"image": given["image"], "file_name": "a.jpg"}])


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("logits", {f"{OWN}TEACHER__WEIGHTS": "''"}, "let projects/BackboneDistillation/train.py train"),
    ("logits", {f"{OWN}TEACHER__WEIGHTS": "none.pth"}, "The teacher (MODEL.BACKBONE_KD.TEACHER): There are no weights"),
    ("logits", {f"{OWN}TEACHER__CONFIG": "''"}, "TERMS asks a teacher: name its config"),
    ("logits", {f"{OWN}TEACHER__CONFIG": MINI}, 'a teacher here is an "ImageClassifier", or "CLIP"'),
    ("logits", {f"{OWN}TERMS": ["logit"]}, 'MODEL.BACKBONE_KD.TERMS is "logit"; choose one of'),
    ("logits", {f"{OWN}ACTIVATION": "sigmoid", f"{OWN}TEACHER__CONFIG": "CLIP"}, "says of none that it is not there"),
    ("logits", {f"{OWN}ACTIVATION": "relu"}, 'MODEL.BACKBONE_KD.ACTIVATION is "relu"; choose one of'),
    ("logits", {f"{OWN}LOGITS__TEMPERATURE": 0.0}, "MODEL.BACKBONE_KD.LOGITS.TEMPERATURE must be above 0, got 0.0"),
    ("logits", {f"{OWN}FEATURE": "res9"}, 'MODEL.BACKBONE_KD.FEATURE is "res9"; choose one of'),
    ("student", {f"{OWN}LABEL_WEIGHT": 0.0}, "there is nothing to learn from"),
    ("student", {f"{OWN}CROP_JITTER": 1.0}, "MODEL.BACKBONE_KD.CROP_JITTER must be in [0, 1), got 1.0"),
    ("refo", {f"{OWN}EMBEDDING": 16}, "16 wide here and 8 wide of the teacher: they must be equal"),
    ("global_local", {f"{OWN}TEACHER__CONFIG": "CLIP"}, 'TERMS that look at cells need a map, and'),
    ("refo", {f"{OWN}TEACHER__CONFIG": "CLIP", f"{OWN}EMBEDDING": 16}, "takes over the teacher's classifier"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changed", "message"), REFUSED, ids=[message[:30] for *_, message in REFUSED])
def test_what_cannot_be_is_refused_when_built(
    name: str, changed: dict[str, Any], message: str, world: World, teacher: Path
) -> None:
    cfg = setup_cfg(config(f"mini/{name}"), world.options(**taught(teacher, **changed)))
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        build_model(cfg)


def test_a_teacher_of_other_words_is_refused(world: World, teacher: Path, tmp_path: Path) -> None:
    save_vocabulary(words(("red_box", "odd_box"), novel=()), str(tmp_path / "words.npz"))
    given = taught(teacher, MODEL__VOCABULARY__TEST=tmp_path / "words.npz")
    with pytest.raises(ValueError, match='it was not trained for "odd_box"'):
        build_model(setup_cfg(config("mini/logits"), world.options(**given)))


def test_a_word_of_one_box_is_refused(world: World, tmp_path: Path) -> None:
    content = json.loads((world.root / "lvis/lvis_v1_train_norare.json").read_text())
    rare = [each["id"] for each in content["annotations"] if each["category_id"] == 1][1:]
    content["annotations"] = [each for each in content["annotations"] if each["id"] not in rare]
    (tmp_path / "one").mkdir()
    folder = world_with_masks(tmp_path / "one" / "world")
    (folder.root / "lvis/lvis_v1_train_norare.json").write_text(json.dumps(content))
    cfg = setup_cfg(config("mini/student"), folder.options(**SMALL))
    with folder.in_use(), pytest.raises(ValueError, match='has one box of "red_box"'):
        build_crop_stream(cfg, build_model(cfg), seed=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, number in (("cat", 3), ("dog", 3)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(number):
            Image.fromarray(np.full((8 + k, 12, 3), 40 * k, np.uint8)).save(tmp_path / "photos" / name / f"{k}.png")
    return tmp_path / "photos"


def test_a_folder_of_images_becomes_annotations(folder: Path) -> None:
    train, val = annotations_of(folder, val_share=0.4)
    assert [each["name"] for each in train["categories"]] == ["cat", "dog"]
    assert len(train["images"]) == 4 and len(val["images"]) == 2
    assert {each["category_id"] for each in val["annotations"]} == {1, 2}
    for content in (train, val):
        for image, box in zip(content["images"], content["annotations"]):
            assert box["bbox"] == [0, 0, image["width"], image["height"]] and image["width"] == 12
    assert annotations_of(folder, val_share=0.4) == (train, val)


def test_folders_without_images_or_with_one_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        annotations_of(tmp_path / "none")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="has no image in a sub-folder"):
        annotations_of(tmp_path / "empty")
    (folder / "dog" / "1.png").unlink()
    with pytest.raises(ValueError, match=r'class "dog" has 2 image\(s\) .* one to evaluate with'):
        annotations_of(folder, val_share=0.1)
    assert len(annotations_of(folder)[0]["images"]) == 5


def test_every_run_is_on_all_machines_and_the_first_one_writes_the_backbone(monkeypatch):
    commands: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(train, "write_backbone", lambda folder: pytest.fail("The second machine writes it, too."))
    machines = ["--num-gpus", "4", "--num-machines", "2", "--machine-rank", "1", "--dist-url", "tcp://10.0.0.1:29500"]
    monkeypatch.setattr(sys, "argv", ["train.py", "--config-file", config("mini/logits"), *machines])
    train.main(train.parse())
    assert [Path(part(command, "--config-file")).stem for command in commands] == ["teacher", "logits"]
    for command in commands:
        assert all(part(command, name) == value for name, value in zip(machines[::2], machines[1::2]))


def part(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]
