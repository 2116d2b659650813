"""What `Predictor` promises: what evaluation would detect, in the pixels of the picture, with any words."""

import numpy as np
import pytest
import torch
from PIL import Image

from dk_detr.data import test_mapper as mapper_of_evaluation
from dk_detr.engine import setup_cfg
from dk_detr.engine.predictor import Predictor, UnreadableImage, read_image


@pytest.fixture
def config(tiny_run):
    def read(**overrides):
        keys = {"MODEL.WEIGHTS": tiny_run / "model_final.pth", **overrides}
        return setup_cfg(str(tiny_run / "config.yaml"), [str(word) for pair in keys.items() for word in pair])

    return read


def assert_same(first, second):
    assert torch.equal(first.pred_boxes.tensor, second.pred_boxes.tensor)
    assert torch.equal(first.scores, second.scores) and torch.equal(first.pred_classes, second.pred_classes)


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_a_picture_gets_the_detections_of_evaluation(config, tiny_images, channels):
    cfg = config(**{"INPUT.FORMAT": channels, "INPUT.MIN_SIZE_TEST": 96})
    path = str(tiny_images / "000001.jpg")
    predictor = Predictor(cfg)
    sample = mapper_of_evaluation(cfg)({"file_name": path, "height": 48, "width": 64})
    with torch.no_grad():
        expected = predictor.model([sample])[0]["instances"]
    found = predictor(path)
    assert len(found) > 0 and found.image_size == (48, 64)
    assert_same(found, expected)


def test_arrays_are_bgr_whatever_the_detector_eats(config, tiny_images):
    path = tiny_images / "000001.jpg"
    for channels in ("RGB", "BGR"):
        predictor = Predictor(config(**{"INPUT.FORMAT": channels}))
        assert_same(predictor(np.array(Image.open(path))[:, :, ::-1]), predictor(path))


def test_new_words_replace_the_old_ones(config, tiny_images):
    predictor = Predictor(config())
    cat = predictor.vocabulary.select(["cat"])
    everything = predictor(tiny_images / "000001.jpg")
    predictor.set_vocabulary(cat)
    assert set(predictor(tiny_images / "000001.jpg").pred_classes.tolist()) == {0}
    assert_same(Predictor(config(), cat)(tiny_images / "000001.jpg"), predictor(tiny_images / "000001.jpg"))
    assert set(everything.pred_classes.tolist()) > {0}


def test_a_detector_that_was_taught_predicts_without_its_teacher(config, tiny_images):
    taught = config(**{"MODEL.KD.TERMS": "('semantic',)", "MODEL.CLIP.ARCHITECTURE": "gone.json"})
    assert_same(Predictor(taught)(tiny_images / "000001.jpg"), Predictor(config())(tiny_images / "000001.jpg"))


def test_a_truncated_image_is_refused_by_name(tiny_images, tmp_path):
    whole = (tiny_images / "000001.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableImage, match="half.jpg cannot be read"):
        read_image(tmp_path / "half.jpg")
    with pytest.raises(UnreadableImage, match="gone.jpg is not there"):
        read_image(tmp_path / "gone.jpg")


def test_arrays_that_are_no_images_are_refused(config):
    predictor = Predictor(config())
    for wrong in (np.zeros((3, 48, 64), np.uint8), np.zeros((48, 64, 3), np.float32), np.zeros((0, 64, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8 array"):
            predictor(wrong)
