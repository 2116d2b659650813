"""OV-COCO end to end on 128 photos of COCO: split, vocabulary, training, evaluation. Skipped without the photos."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dk_detr.annotations.ov_coco import NOVEL
from dk_detr.data import register_all
from dk_detr.engine.run_folder import read_results
from dk_detr.language import load_vocabulary
from tests.run_fixtures import CLIP, MINI, REPOSITORY, SHRUNK, own_log_handlers, write_json

COCO128 = Path(os.environ.get("COCO128", REPOSITORY.parent / "shared" / "data" / "coco128"))
pytestmark = pytest.mark.skipif(not COCO128.is_dir(), reason="no photos of COCO; their folder is COCO128")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DETECTRON2_DATASETS with the photos as train2017 and as val2017."""
    annotations = COCO128 / "annotations" / "instances_train2017.json"
    (tmp_path / "coco/annotations").mkdir(parents=True)
    for part in ("train", "val"):
        (tmp_path / f"coco/annotations/instances_{part}2017.json").symlink_to(annotations)
        (tmp_path / f"coco/{part}2017").symlink_to(COCO128 / "images" / "train2017")
    write_json(tmp_path / "clip.json", CLIP)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    register_all()
    return tmp_path


def test_split_vocabulary_training_and_evaluation(
    root: Path, run_tool: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_tool("prepare_dataset.py", "ov-coco", "--counts", "any") == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["annotations", "666", "665387"] in printed and ["annotations", "815", "33152"] in printed

    clip = ("--architecture", "clip.json", "--weights", "", "--prompt", "name")
    annotations = "coco/zero-shot/instances_val2017_all_2_oriorder.json"
    assert run_tool("build_vocabulary.py", "--annotations", annotations, *clip, "--output", "words.npz") == 0
    words = load_vocabulary("words.npz")
    assert len(words) == 65 and words.novel_names == tuple(NOVEL)

    keys = {
        **SHRUNK, "MODEL.CLIP.ARCHITECTURE": "clip.json", "MODEL.VOCABULARY.TEST": "words.npz", "OUTPUT_DIR": "run",
        "DATASETS.TRAIN": ("coco_2017_ovd_b_train",), "DATASETS.TEST": ("coco_generalized_zeroshot_val",),
        "SOLVER.MAX_ITER": 1, "SOLVER.WARMUP_ITERS": 0,
    }  # fmt: skip
    with own_log_handlers():
        assert run_tool("train_net.py", "--config-file", MINI, *(word for pair in keys.items() for word in pair)) == 0
    results = read_results("run")
    assert results is not None and {"AP50-base", "AP50-novel", "AP50"} <= results["results"]["bbox"].keys()


def test_cocos_80_words_are_refused_for_training_before_it_starts(
    root: Path, run_tool: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    run_tool("prepare_dataset.py", "ov-coco", "--counts", "any")
    source = "coco/annotations/instances_val2017.json"
    clip = ("--architecture", "clip.json", "--weights", "", "--prompt", "name")
    run_tool("build_vocabulary.py", "--annotations", source, *clip, "--output", "words.npz")
    keys = {
        **SHRUNK, "MODEL.CLIP.ARCHITECTURE": "clip.json", "MODEL.VOCABULARY.TEST": "words.npz", "OUTPUT_DIR": "run",
        "DATASETS.TRAIN": ("coco_2017_ovd_b_train",), "DATASETS.TEST": (),
    }  # fmt: skip
    capsys.readouterr()
    with own_log_handlers():
        assert run_tool("train_net.py", "--config-file", MINI, *(word for pair in keys.items() for word in pair)) == 1
    error = capsys.readouterr().err
    assert "hides 17 novel categories" in error and error.count("error:") == 1
