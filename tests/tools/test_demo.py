"""What tools/demo.py promises: a picture for each image, one JSON, words of one's own, and clear refusals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from dk_detr.engine import demo, setup_cfg
from dk_detr.engine.predictor import Predictor
from dk_detr.language import COCO_NAMES, closed_vocabulary


@pytest.fixture
def run_demo(tiny_run, tmp_path, run_tool):
    """Runs the tool with its command line; returns its exit status. Later arguments override earlier ones."""

    def run(*arguments: object) -> int:
        config, output = tiny_run / "config.yaml", tmp_path / "found"
        common = ["--config-file", config, "--output", output, "--confidence-threshold", 0.2]
        weights = [] if "--opts" in arguments else ["--opts", "MODEL.WEIGHTS", tiny_run / "model_final.pth"]
        return run_tool("demo.py", *common, *arguments, *weights)

    return run


def test_every_image_gets_a_picture_and_its_detections_in_the_json(run_demo, tiny_images, tmp_path):
    assert run_demo("--input", tiny_images) == 0
    records = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert [record["file"] for record in records] == [str(path) for path in sorted(tiny_images.iterdir())]
    for record in records:
        assert (record["width"], record["height"]) == (64, 48)
        assert Image.open(tmp_path / "found" / record["picture"]).width >= 640  # enlarged, so that labels can be read
    detections = [detection for record in records for detection in record["detections"]]
    assert {detection["name"] for detection in detections} <= {"apple", "fishing_boat", "cat"}
    assert detections and all(0.2 <= detection["score"] <= 1 for detection in detections)
    corners = np.array([detection["box"] for detection in detections])
    assert (corners >= 0).all() and (corners[:, :2] <= corners[:, 2:]).all() and (corners <= [64, 48, 64, 48]).all()


def test_a_broken_image_is_named_and_the_others_are_done_all_the_same(run_demo, tiny_images, tmp_path, capsys):
    photos = tmp_path / "photos"
    shutil.copytree(tiny_images, photos)
    whole = (photos / "000002.jpg").read_bytes()
    (photos / "000002.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "000003.jpg").write_text("no image")
    assert run_demo("--input", photos) == 1
    message = capsys.readouterr().err
    assert "2 of 5 images could not be read" in message
    assert "000002.jpg" in message and "000003.jpg" in message
    records = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert [Path(record["file"]).name for record in records] == ["000001.jpg", "000004.jpg", "000005.jpg"]


def test_a_custom_vocabulary_is_encoded_and_detected(run_demo, tiny_images, tmp_path):
    words = ["--vocabulary", "custom", "--custom_vocabulary", "traffic light, Zebra,"]
    assert run_demo("--input", tiny_images / "000001.jpg", *words, "--confidence-threshold", 0) == 0
    (record,) = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert {detection["name"] for detection in record["detections"]} == {"traffic light", "Zebra"}


def test_nothing_above_the_threshold_leaves_pictures_without_boxes(run_demo, tiny_images, tmp_path):
    assert run_demo("--input", tiny_images / "000001.jpg", "--confidence-threshold", 1) == 0
    (record,) = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert record["detections"] == [] and (tmp_path / "found" / "000001.jpg").is_file()


CUSTOM = ("--vocabulary", "custom", "--custom_vocabulary")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*CUSTOM, ""), "holds no names"),
        ((*CUSTOM, " , "), "holds no names"),
        ((*CUSTOM, "traffic light,dog,traffic_light"), '"traffic light" more than once'),
        ((*CUSTOM, "red star,red  star"), '"red star" more than once'),
        ((*CUSTOM, "dog,."), 'The name "." is no word'),
        ((*CUSTOM, '"nut, bolt'), "is no list of names"),
        ((*CUSTOM, "@nowhere.txt"), "no file of names nowhere.txt"),
        (("--vocabulary", "custom"), "--custom_vocabulary"),
        (("--custom_vocabulary", "dog"), "--vocabulary custom only"),
        (("--confidence-threshold", 30), "between 0 and 1"),
        (("--input", "nowhere.jpg"), "no image or folder nowhere.jpg"),
        (("--config-file", "nowhere.yaml"), "no config file nowhere.yaml"),
        (("--opts", "MODEL.WEIGHTS", "nowhere.pth"), "no weights nowhere.pth"),
        (("--opts", "TEST.EVAL_PERIOD", 0), "MODEL.WEIGHTS is empty"),
        (("--opts", "MODEL.WEIGTHS", "a.pth"), "MODEL.WEIGTHS"),
    ],
)
def test_bad_arguments_end_in_one_clear_error(run_demo, tiny_images, capsys, arguments, message):
    assert run_demo("--input", tiny_images, *arguments) == 1
    assert message in capsys.readouterr().err


def test_a_folder_without_images_is_refused(run_demo, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run_demo("--input", tmp_path / "empty") == 1
    assert "holds no images" in capsys.readouterr().err


def test_the_images_themselves_are_never_overwritten(run_demo, tiny_images, capsys):
    before = (tiny_images / "000001.jpg").read_bytes()
    assert run_demo("--input", tiny_images, "--output", tiny_images) == 1
    assert "would overwrite" in capsys.readouterr().err
    assert (tiny_images / "000001.jpg").read_bytes() == before


def test_images_of_the_same_name_get_pictures_of_different_names():
    images = [Path("a/x.jpg"), Path("b/x.jpg"), Path("c/x.png"), Path("c/x.webp")]
    names = [path.name for path in demo.picture_paths(images, Path("found"))]
    assert names == ["x.jpg", "x_2.jpg", "x.png", "x_2.png"]


def test_files_folders_and_patterns_are_found_once_each(tiny_images):
    first, everything = tiny_images / "000001.jpg", sorted(tiny_images.iterdir())
    assert demo.find_images([str(first), str(tiny_images), str(tiny_images / "*.jpg")]) == everything


def test_a_closed_detector_takes_a_choice_of_its_own_words_and_encodes_nothing(tiny_run, monkeypatch):
    closed = ["MODEL.DETR.CLASSIFIER.NAME", "Linear", "MODEL.VOCABULARY.TEST", "coco"]
    cfg = setup_cfg(str(tiny_run / "config.yaml"), closed)
    monkeypatch.setattr(demo, "clip_from_config", lambda cfg: pytest.fail("CLIP was loaded for nothing."))
    own = closed_vocabulary("coco")
    assert demo.choose_vocabulary(cfg, "custom", "dog,cat", own).names == ("dog", "cat")
    assert demo.choose_vocabulary(cfg, "coco", None, own).names == COCO_NAMES
    with pytest.raises(ValueError, match='the first unknown: "unicorn".*"CosineText" takes any words'):
        demo.choose_vocabulary(cfg, "custom", "dog,unicorn", own)


def test_named_vocabularies_come_from_the_detector_where_it_has_them_and_from_clip_where_not(tiny_run):
    cfg = setup_cfg(str(tiny_run / "config.yaml"), ["MODEL.WEIGHTS", str(tiny_run / "model_final.pth")])
    predictor = Predictor(cfg)
    encoded = demo.choose_vocabulary(cfg, "coco", None, predictor.vocabulary)
    assert encoded.names == COCO_NAMES and encoded.width == predictor.vocabulary.width
    more = encoded.select(COCO_NAMES[::-1])
    selected = demo.choose_vocabulary(cfg, "coco", None, more)
    assert selected.names == COCO_NAMES and selected.provenance == more.provenance
    assert demo.choose_vocabulary(cfg, None, None, more) is more


def test_masks_are_in_the_json_as_coco_stores_them():
    masks = torch.zeros(1, 6, 5, dtype=torch.bool)
    masks[0, 2:5, 1:4] = True
    found = Instances((6, 5), pred_boxes=Boxes(torch.tensor([[1.0, 2, 4, 5]])), scores=torch.tensor([0.5]))
    found.pred_classes, found.pred_masks = torch.tensor([0]), masks
    (record,) = json.loads(json.dumps(demo.detection_records(found, closed_vocabulary("coco"))))
    assert np.array_equal(mask_util.decode(record["segmentation"]), masks[0].numpy())
