"""What `dk_detr.load` promises: weights alone are enough, in any folder; any words; many images, threads."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

import dk_detr
from dk_detr.data.images import UnreadableImage
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.setup import checkpoint_cfg
from tests.run_fixtures import NAMES, World, state_of


@pytest.fixture
def weights(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file as training writes it, alone in a folder below the CLIP that it names by a relative path."""
    root = tmp_path / "project"
    (root / "runs/mine").mkdir(parents=True)
    cfg = checkpoint_cfg(str(tiny_run / "model_final.pth"))
    shutil.copy(cfg.MODEL.CLIP.ARCHITECTURE, root / "runs" / "clip.json")
    model = build_model(cfg).eval()
    StrictCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    cfg.defrost()
    cfg.MODEL.CLIP.ARCHITECTURE, cfg.MODEL.VOCABULARY.TEST = "runs/clip.json", "runs/gone.npz"
    StrictCheckpointer(model, str(root / "runs/mine"), config=cfg.dump()).save("alone")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return root / "runs/mine/alone.pth"


@pytest.fixture
def detector(weights: Path) -> dk_detr.Detector:
    return dk_detr.load(weights)


@pytest.fixture
def photo(tiny_images: Path) -> Path:
    return tiny_images / "000001.jpg"


def same(one: dk_detr.Detections, other: dk_detr.Detections) -> bool:
    return (
        one.names == other.names
        and np.allclose(one.boxes_xyxy_abs, other.boxes_xyxy_abs, atol=1e-3)
        and np.allclose(one.scores, other.scores, atol=1e-5)
    )


def test_weights_alone_are_enough_in_any_folder(detector: dk_detr.Detector, photo: Path) -> None:
    assert detector.classes == ("apple", "fishing_boat"), "the words of training"
    found = detector.predict(photo, threshold=0.0)
    assert isinstance(found, dk_detr.Detections) and len(found) > 0
    assert set(found.names) <= set(detector.classes) and not found.novel.any()
    assert found.file == str(photo) and found.size == (48, 64)


def test_new_words_are_encoded_by_the_clip_above_the_weights(detector: dk_detr.Detector, photo: Path) -> None:
    before = detector.predict(photo, threshold=0.0)
    assert detector.set_classes(["paper cup", " apple "]) is detector
    assert detector.classes == ("paper cup", "apple")
    found = detector.predict(photo, threshold=0.0)
    assert isinstance(found, dk_detr.Detections)
    assert {name for name, novel in zip(found.names, found.novel) if novel} == {"paper cup"}
    detector.set_classes(["apple", "fishing_boat"])
    again = detector.predict(photo, threshold=0.0)
    assert isinstance(again, dk_detr.Detections) and isinstance(before, dk_detr.Detections) and same(again, before)


def test_words_of_training_need_no_clip(detector: dk_detr.Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("dk_detr.detector.detector.clip_from_config")
    assert detector.set_classes(["fishing_boat"]).classes == ("fishing_boat",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "No word is named"),
        (["cup", "?"], '"\\?" is no word'),
        (["red cup", "red_cup"], '"red cup" is named more than once'),
        ("cup", r'Words come as a list, \["cup"\], or as one of lvis, coco, voc'),
        ("words.npz", "no vocabulary words.npz"),
    ],
)
def test_words_that_cannot_be_looked_for_are_refused_and_the_old_ones_stay(
    detector: dk_detr.Detector, words: Any, message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        detector.set_classes(words)
    assert detector.classes == ("apple", "fishing_boat")


def test_images_come_as_files_pixels_lists_folders_and_batches(
    detector: dk_detr.Detector, photo: Path, tiny_images: Path
) -> None:
    image = Image.open(photo)
    alone = detector.predict(photo, threshold=0.0)
    forms: list[Any] = [str(photo), image, np.array(image)]
    assert isinstance(alone, dk_detr.Detections)
    for form, one in zip(forms, detector.predict(forms, threshold=0.0, batch_size=2)):
        assert same(one, alone), form
    folder = detector.predict(tiny_images, threshold=0.0, batch_size=3)
    assert [Path(one.file).name for one in folder] == [f"00000{number}.jpg" for number in range(1, 6)]
    assert same(folder[0], alone)
    assert len(list(detector.predict(f"{tiny_images}/*1.jpg"))) == 1


def test_in_a_folder_what_cannot_be_read_is_left_out_and_named(
    detector: dk_detr.Detector, photo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(photo, folder / "b.jpg")
    (folder / "a.jpg").write_text("no image")
    assert [one.file for one in detector.predict(folder)] == [str(folder / "b.jpg")]
    assert "Left out: " in caplog.text and "a.jpg" in caplog.text
    with pytest.raises(UnreadableImage, match="a.jpg"):
        detector.predict(folder / "a.jpg")


def test_what_was_found_before_an_error_is_not_lost(detector: dk_detr.Detector, photo: Path) -> None:
    found = detector.stream([photo, "gone.jpg"], batch_size=1)
    assert next(found).file == str(photo)
    with pytest.raises(UnreadableImage, match="gone.jpg"):
        next(found)


def test_a_threshold_keeps_what_has_at_least_that_score(detector: dk_detr.Detector, photo: Path) -> None:
    everything = detector.predict(photo, threshold=0.0)
    assert isinstance(everything, dk_detr.Detections)
    middle = float(np.median(everything.scores))
    some = detector.predict(photo, threshold=middle)
    assert isinstance(some, dk_detr.Detections)
    assert 0 < len(some) < len(everything) and len(some) == (everything.scores >= middle).sum()
    with pytest.raises(ValueError, match="threshold 30 must be between 0 and 1"):
        detector.predict(photo, threshold=30)


@pytest.mark.parametrize("wrong", [7, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_what_is_no_image_is_refused(detector: dk_detr.Detector, wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"uint8 array \(H, W, 3\)"):
        detector.predict([wrong])


def test_threads_take_turns(detector: dk_detr.Detector, tiny_images: Path) -> None:
    files = sorted(tiny_images.iterdir()) * 2
    alone = [detector.predict(file, threshold=0.0) for file in files]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda file: detector.predict(file, threshold=0.0), files))
    for one, other in zip(alone, together):
        assert isinstance(one, dk_detr.Detections) and isinstance(other, dk_detr.Detections) and same(one, other)


# ---- loading ----


def test_a_training_writes_its_config_into_its_weights(world: World, tmp_path: Path) -> None:
    file = world.train(tmp_path / "run", SOLVER__MAX_ITER=1, DATASETS__TEST="()") / "model_final.pth"
    lone = shutil.copy(file, tmp_path / "lone.pth")
    detector = dk_detr.load(lone, options={"TEST.DETECTIONS_PER_IMAGE": 3})
    assert detector.classes == NAMES and detector.cfg.MODEL.DETR.CHANNELS == 64
    found = detector.predict(np.zeros((40, 50, 3), np.uint8), threshold=0.0)
    assert len(found) == 3


def test_a_config_and_weights_do_as_well(tiny_run: Path, photo: Path) -> None:
    file = tiny_run / "model_final.pth"
    of_config = dk_detr.load(tiny_run / "config.yaml", file, device="cpu")
    beside = dk_detr.load(file)  # an older file, which does not say its config: that lies beside it
    one, other = (each.predict(photo, threshold=0.0) for each in (of_config, beside))
    assert isinstance(one, dk_detr.Detections) and isinstance(other, dk_detr.Detections) and same(one, other)
    assert of_config.classes == ("apple", "fishing_boat", "cat")


def test_what_cannot_be_loaded_is_refused_with_the_way_out(tiny_run: Path, weights: Path, tmp_path: Path) -> None:
    lone = shutil.copy(tiny_run / "model_final.pth", tmp_path / "lone.pth")
    with pytest.raises(ValueError, match="lone.pth does not say the config of its training: name the config, too"):
        dk_detr.load(lone)
    with pytest.raises(FileNotFoundError, match="no weights gone.pth"):
        dk_detr.load("gone.pth")
    with pytest.raises(FileNotFoundError, match="no config file dk_dter_R50.*Did you mean configs/dk_detr_R50.yaml"):
        dk_detr.load("dk_dter_R50")
    with pytest.raises(ValueError, match="alone.pth are weights, and so are x.pth: name one"):
        dk_detr.load(weights, "x.pth")
    with pytest.raises(ValueError, match=r"no config key TEST.DETECTIONS\. Did you mean"):
        dk_detr.load(weights, options={"TEST.DETECTIONS": 3})
    with pytest.raises(ValueError, match="dk_detr_R50 is a config: name weights, too"):
        dk_detr.load("dk_detr_R50")


def test_a_checkpoint_holds_its_config_beside_its_words(weights: Path) -> None:
    """The config in a checkpoint says how it came about; a run that goes on has a config of its own."""
    assert state_of(weights)["config"].startswith("CUDNN_BENCHMARK") and torch.load(weights)["words"]


def test_one_file_that_cannot_be_read_is_an_error_in_a_stream_too(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no image")
    with pytest.raises(UnreadableImage, match="bad.jpg"):
        list(dk_detr.load(weights).stream(tmp_path / "bad.jpg"))
