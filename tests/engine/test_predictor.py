"""What `Predictor` promises: what evaluation would detect, in the pixels of the picture, with any words."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from dk_detr.data import test_mapper as mapper_of_evaluation
from dk_detr.data.images import UnreadableImage, read_image
from dk_detr.engine import setup_cfg
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.predictor import Predictor, with_words_of_training


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


@pytest.fixture
def lone_weights(config, tmp_path):
    """Weights that say the words of their training; the vocabulary file that they were trained with is gone."""
    model = build_model(config()).eval()
    StrictCheckpointer(model).load(config().MODEL.WEIGHTS)
    StrictCheckpointer(model, str(tmp_path)).save("alone")
    return config(**{"MODEL.WEIGHTS": tmp_path / "alone.pth", "MODEL.VOCABULARY.TEST": "gone.npz"}), model


def test_weights_and_words_need_no_vocabulary_file(config, lone_weights, tiny_images):
    cfg, model = lone_weights
    words, picture = model.vocabulary.select(["cat", "apple"]), tiny_images / "000001.jpg"
    assert_same(Predictor(cfg, words)(picture), Predictor(config(), words)(picture))
    predictor = Predictor(cfg, words)
    assert predictor.vocabulary.names == ("cat", "apple") and predictor.model.novel.tolist() == [True, False]
    assert predictor.model.train_vocabulary.names == model.train_vocabulary.names
    trained, before = predictor.model.train_vocabulary.embeddings, model.train_vocabulary.embeddings
    assert torch.allclose(trained, before, atol=1e-3)  # weights have them in half floats


def test_where_no_vocabulary_is_named_the_words_are_those_of_training(config, lone_weights):
    cfg, _ = lone_weights
    empty = config(**{"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS, "MODEL.VOCABULARY.TEST": "''"})
    assert Predictor(empty).vocabulary.names == ("apple", "fishing_boat")
    with pytest.raises(FileNotFoundError, match=r"no vocabulary gone.npz \(MODEL.VOCABULARY.TEST\)"):
        Predictor(cfg)  # a file that is named, and nothing else to look for


def test_the_words_of_training_may_have_had_a_file_of_their_own_that_is_gone_too(config, lone_weights):
    cfg, model = lone_weights
    files = {"MODEL.VOCABULARY.TEST": "gone.npz", "MODEL.VOCABULARY.TRAIN": "gone_too.npz"}
    predictor = Predictor(config(**{"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS, **files}), model.vocabulary)
    assert predictor.model.train_vocabulary.names == model.train_vocabulary.names


def test_a_closed_detector_keeps_the_list_that_its_config_names(config, lone_weights):
    cfg, _ = lone_weights
    lists = {"MODEL.DETR.CLASSIFIER.NAME": "Linear", "MODEL.VOCABULARY.TEST": "coco"}
    closed = config(**{"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS, **lists})
    assert with_words_of_training(closed) is closed
    of_any_words = config(**{"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS, "MODEL.VOCABULARY.TEST": "coco"})
    assert with_words_of_training(of_any_words).MODEL.VOCABULARY.TEST == cfg.MODEL.WEIGHTS, "for others it is a file"


def test_a_vocabulary_file_that_is_there_is_used(config, lone_weights):
    cfg, model = lone_weights
    named = config(**{"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS})
    assert with_words_of_training(named) is named
    assert Predictor(named, model.vocabulary.select(["cat"])).model.train_vocabulary.provenance["file"].endswith(".npz")


def test_words_of_another_text_encoder_than_that_of_training_are_refused(config, lone_weights):
    cfg, model = lone_weights
    probes = [json.dumps(row.tolist()) for row in torch.eye(2, model.text.shape[1])]
    content = torch.load(cfg.MODEL.WEIGHTS)
    content["words"]["provenance"]["probe"] = probes[0]
    torch.save(content, cfg.MODEL.WEIGHTS)
    for probe in probes:
        words = dataclasses.replace(model.vocabulary, provenance={"probe": probe})
        if probe == probes[0]:
            assert len(Predictor(cfg, words).vocabulary) == 3
        else:
            with pytest.raises(ValueError, match="come from different text encoders"):
                Predictor(cfg, words)


def test_weights_that_say_no_words_are_refused_by_name(config):
    cfg = config(**{"MODEL.VOCABULARY.TEST": "gone.npz"})
    words = Predictor(config()).vocabulary
    with pytest.raises(ValueError, match=r"final.pth \(MODEL.WEIGHTS\) does not say which words.*no vocabulary gone"):
        Predictor(cfg, words)
    with pytest.raises(ValueError, match=r"does not say which words it was trained with, and no vocabulary is named"):
        Predictor(config(**{"MODEL.VOCABULARY.TEST": "''"}))
    with pytest.raises(FileNotFoundError, match=r"no weights nowhere.pth \(MODEL.WEIGHTS\)"):
        Predictor(config(**{"MODEL.VOCABULARY.TEST": "''", "MODEL.WEIGHTS": "nowhere.pth"}))


def test_weights_that_are_cut_short_are_refused_by_name(config, lone_weights):
    cfg, model = lone_weights
    whole = Path(cfg.MODEL.WEIGHTS).read_bytes()
    Path(cfg.MODEL.WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"alone.pth holds no whole checkpoint"):
        Predictor(cfg, model.vocabulary)


def test_a_detector_that_was_taught_predicts_without_its_teacher(config, tiny_images):
    distillation = {"MODEL.TRAINING_EXTENSIONS": "('Distillation',)", "MODEL.KD.TERMS": "('semantic',)"}
    taught = config(**distillation, **{"MODEL.CLIP.ARCHITECTURE": "gone.json"})
    with pytest.raises(FileNotFoundError, match="gone.json"):
        build_model(taught)
    assert_same(Predictor(taught)(tiny_images / "000001.jpg"), Predictor(config())(tiny_images / "000001.jpg"))


def test_a_truncated_image_is_refused_by_name(tiny_images, tmp_path):
    whole = (tiny_images / "000001.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableImage, match="half.jpg cannot be read"):
        read_image(tmp_path / "half.jpg")
    with pytest.raises(UnreadableImage, match="gone.jpg is not there"):
        read_image(tmp_path / "gone.jpg")


def test_an_image_of_pillows_gets_the_detections_of_its_file(config, tiny_images, tmp_path):
    predictor = Predictor(config())
    turned = Image.Exif()
    turned[0x0112] = 6
    picture = Image.open(tiny_images / "000001.jpg")
    picture.save(tmp_path / "turned.png", exif=turned)
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    picture.convert("LA").save(tmp_path / "alpha.png")
    for path in (tiny_images / "000001.jpg", *tmp_path.glob("*.png")):
        assert_same(predictor(Image.open(path)), predictor(path))
    assert predictor(Image.open(tmp_path / "turned.png")).image_size == (64, 48)
    assert_same(predictor(picture.convert("RGB")), predictor(np.array(picture)[:, :, ::-1]))


def test_a_strip_gets_boxes_within_it(config):
    predictor = Predictor(config())
    for height, width in ((1, 4000), (4000, 1), (1, 1)):
        found = predictor(np.full((height, width, 3), 90, np.uint8))
        assert found.image_size == (height, width)
        corners = found.pred_boxes.tensor
        assert len(corners) and bool((corners >= 0).all() and (corners <= torch.tensor([width, height] * 2)).all())


@pytest.mark.parametrize("wrong", [torch.zeros(3, 48, 64, dtype=torch.uint8), b"a.jpg", None, [np.zeros((4, 4, 3))], 5])
def test_what_is_no_picture_is_refused_by_its_type(config, wrong):
    message = rf"file name, an image of Pillow's or a uint8 array \(H, W, 3\) in BGR, not .*{type(wrong).__name__}"
    with pytest.raises(TypeError, match=message):
        Predictor(config())(wrong)


def test_an_image_of_pillows_without_a_known_white_is_refused(config):
    with pytest.raises(UnreadableImage, match="in memory .F, 8 x 6."):
        Predictor(config())(Image.new("F", (8, 6)))


def test_arrays_that_are_no_images_are_refused(config):
    predictor = Predictor(config())
    for wrong in (np.zeros((3, 48, 64), np.uint8), np.zeros((48, 64, 3), np.float32), np.zeros((0, 64, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8 array"):
            predictor(wrong)
