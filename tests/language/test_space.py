"""Words, CLIPs and checkpoints of one space are told from others by what they say, not by their file names."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dk_detr.distillation.from_config import build_teacher
from dk_detr.engine import setup_cfg
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.language import Clip, build_vocabulary, load_clip, load_vocabulary, require_words_of, save_vocabulary
from dk_detr.language import vocabularies as of_files
from dk_detr.language.from_config import vocabularies_from_config
from dk_detr.language.space import _warn_once, require_one_space
from dk_detr.meta_arch.open_vocabulary import check_trained_words
from dk_detr.structures import Vocabulary
from tests.model_fixtures import closed_vocabulary, tiny_detector, tiny_vocabulary
from tests.run_fixtures import CLIP, MINI, write_json

PETS = ("cat", "dog", "fishing_boat", "gnu", "yak", "emu", "newt", "sheep", "pike", "crow")


class Files:
    """Two CLIPs of one architecture, and words encoded by each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.architecture = folder, write_json(folder / "tiny.json", CLIP)
        for number, name in enumerate(("ours", "theirs")):
            torch.manual_seed(number)
            model = load_clip(architecture=self.architecture, weights="").model
            torch.save(model.state_dict(), folder / f"{name}.pt")
            save_vocabulary(build_vocabulary(PETS, self.clip(name), "single", PETS[-2:]), self.words(name))

    def clip(self, name: str) -> Clip:
        return load_clip(architecture=self.architecture, weights=str(self.folder / f"{name}.pt"))

    def words(self, name: str) -> str:
        return str(self.folder / f"{name}.npz")

    def config(self, clip: str, **words: str) -> Any:
        options = {"MODEL.CLIP.ARCHITECTURE": self.architecture, "MODEL.CLIP.WEIGHTS": self.folder / f"{clip}.pt"}
        options |= {f"MODEL.VOCABULARY.{key}": self.words(name) for key, name in words.items()}
        return setup_cfg(MINI, [str(word) for pair in options.items() for word in pair])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("space"))


@pytest.fixture(autouse=True)
def every_line_is_said() -> None:
    _warn_once.cache_clear()
    of_files._say_once.cache_clear()


def without(words: Vocabulary, *keys: str) -> Vocabulary:
    return replace(words, provenance={key: value for key, value in words.provenance.items() if key not in keys})


# ---- words and the CLIP that teaches or encodes ----


def test_words_of_another_clip_of_the_same_width_are_refused_with_both(files: Files) -> None:
    theirs = load_vocabulary(files.words("theirs"))
    with pytest.raises(ValueError, match=r"theirs\.npz.* and the CLIP .*ours\.pt .*different CLIPs.*MODEL\.CLIP"):
        require_words_of(files.clip("ours"), theirs)
    require_words_of(files.clip("theirs"), theirs)


def test_a_teacher_of_another_clip_is_refused(files: Files) -> None:
    with pytest.raises(ValueError, match=r"ours\.npz.*theirs\.pt"):
        build_teacher(files.config("theirs"), load_vocabulary(files.words("ours")))
    assert build_teacher(files.config("ours"), load_vocabulary(files.words("ours")))


def test_moved_weights_are_the_same_weights(files: Files, tmp_path: Path) -> None:
    moved = str(shutil.copy(files.folder / "ours.pt", tmp_path / "renamed.bin"))
    require_words_of(load_clip(architecture=files.architecture, weights=moved), load_vocabulary(files.words("ours")))


def test_files_that_hold_no_probe_are_compared_by_their_prompt(files: Files) -> None:
    old = without(load_vocabulary(files.words("theirs")), "probe")
    require_words_of(files.clip("theirs"), old)
    with pytest.raises(ValueError, match="come from different text encoders"):
        require_words_of(files.clip("ours"), old)


def test_random_weights_are_nobodys_and_compared_with_nothing(files: Files) -> None:
    clip = load_clip(architecture=files.architecture, weights="")
    require_words_of(clip, load_vocabulary(files.words("ours")))
    assert "probe" not in build_vocabulary(PETS, clip, "name").provenance


def test_a_bare_matrix_that_looks_like_another_clips_is_a_warning(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {name: load_vocabulary(files.words(name)).embeddings for name in ("ours", "theirs")}
    novel = torch.zeros(len(PETS), dtype=torch.bool)
    require_words_of(files.clip("ours"), Vocabulary(PETS, rows["ours"], novel, {"file": "ours.npy"}))
    assert not caplog.records
    turned = F.normalize(rows["ours"] @ torch.linalg.qr(torch.randn(16, 16))[0], dim=1)
    require_words_of(files.clip("ours"), Vocabulary(PETS, turned, novel, {"file": "turned.npy"}))
    assert "turned.npy" in caplog.text and "look as if they came from different text encoders" in caplog.text


# ---- words and words ----


def test_words_to_train_and_to_detect_of_two_clips_are_refused(files: Files) -> None:
    with pytest.raises(ValueError, match=r"ours\.npz.*theirs\.npz.*different CLIPs|different text encoders"):
        vocabularies_from_config(files.config("ours", TRAIN="ours", TEST="theirs"))
    vocabularies_from_config(files.config("ours", TRAIN="ours", TEST="ours"))


def test_a_detector_refuses_words_of_another_clip_and_keeps_its_own(files: Files) -> None:
    ours, theirs = (load_vocabulary(files.words(name)) for name in ("ours", "theirs"))
    detector = tiny_detector(vocabulary=ours)
    with pytest.raises(ValueError, match=r"theirs\.npz.*ours\.npz.*different text encoders.*Build the words with"):
        detector.set_vocabulary(theirs)
    assert detector.vocabulary is ours
    detector.set_vocabulary(build_vocabulary(["a new word"], files.clip("ours"), "vild"))


def test_words_with_nothing_in_common_are_not_refused(files: Files) -> None:
    other = Vocabulary(("unicorn",), F.normalize(torch.randn(1, 16)), torch.tensor([True]))
    require_one_space(load_vocabulary(files.words("ours")), other)


def test_a_matrix_without_provenance_says_so_once(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.save(tmp_path / "bare.npy", np.eye(2, 16, dtype=np.float32))
    for _ in range(2):
        load_vocabulary(str(tmp_path / "bare.npy"), ("cat", "dog"))
        load_vocabulary(files.words("ours"))
    (record,) = caplog.records
    assert f"{tmp_path}/bare.npy does not tell by which CLIP its words were encoded" in record.getMessage()


# ---- weights and the words that they were trained with ----


def saved(folder: Path, detector: Any) -> str:
    StrictCheckpointer(detector, str(folder)).save("model")
    return str(folder / "model.pth")


def test_weights_that_were_trained_with_words_of_another_clip_are_refused(files: Files, tmp_path: Path) -> None:
    ours, theirs = (load_vocabulary(files.words(name)) for name in ("ours", "theirs"))
    path = saved(tmp_path, tiny_detector(vocabulary=ours))
    with pytest.raises(ValueError, match=r"theirs\.npz.*ours\.npz.*Those are what .*model\.pth was trained with"):
        StrictCheckpointer(tiny_detector(vocabulary=theirs)).load(path)
    StrictCheckpointer(tiny_detector(vocabulary=ours)).load(path)


def test_training_may_start_from_them_and_says_so(
    files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = (load_vocabulary(files.words(name)) for name in ("ours", "theirs"))
    path = saved(tmp_path, tiny_detector(vocabulary=ours))
    StrictCheckpointer(tiny_detector(vocabulary=theirs).train()).load(path)
    assert "Training goes on from these weights all the same" in caplog.text


def test_a_run_that_is_taken_up_again_may_not(files: Files) -> None:
    ours, theirs = (tiny_detector(vocabulary=load_vocabulary(files.words(name))) for name in ("ours", "theirs"))
    with pytest.raises(ValueError, match="different text encoders"):
        check_trained_words(ours.train(), theirs.words_of_training(), "model.pth", goes_on=True)


def test_weights_that_do_not_say_what_they_were_trained_with_are_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"model": tiny_detector().state_dict()}, tmp_path / "old.pth")
    with caplog.at_level(logging.INFO):
        StrictCheckpointer(tiny_detector()).load(str(tmp_path / "old.pth"))
    assert "old.pth does not tell by which text encoder" in caplog.text


def test_what_checkpoints_say_of_words_can_be_read_safely_and_is_small(tmp_path: Path) -> None:
    path = saved(tmp_path, tiny_detector())
    words = torch.load(path, weights_only=True)["words"]
    assert words["names"] == list(tiny_vocabulary().base().names) and words["embeddings"].dtype == torch.float16


def test_a_closed_detector_refuses_its_words_in_another_order(tmp_path: Path) -> None:
    words = closed_vocabulary((False,) * 5)
    path = saved(tmp_path, tiny_detector(vocabulary=words, classifier="Linear"))
    names = (words.names[1], words.names[0], *words.names[2:])
    with pytest.raises(ValueError, match=r'"word 0" is class 0 of .*model\.pth, but class 1 of MODEL\.VOCABULARY'):
        StrictCheckpointer(tiny_detector(vocabulary=replace(words, names=names), classifier="Linear")).load(path)


def test_a_renamed_class_of_a_closed_detector_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = closed_vocabulary((False,) * 5)
    path = saved(tmp_path, tiny_detector(vocabulary=words, classifier="Linear"))
    renamed = replace(words, names=("gnu", *words.names[1:]))
    StrictCheckpointer(tiny_detector(vocabulary=renamed, classifier="Linear")).load(path)
    assert 'trained to find "word 0" where MODEL.VOCABULARY says "gnu"' in caplog.text
