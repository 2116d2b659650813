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

from dk_detr.commands import demo
from dk_detr.commands.demo_records import detection_records
from dk_detr.detector import Detections, Detector
from dk_detr.detector.thresholds import Thresholds
from dk_detr.engine import Trainer, setup_cfg
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.predictor import Predictor
from dk_detr.language import COCO_NAMES, build_vocabulary, clip_from_config, closed_vocabulary, save_vocabulary
from tests.data.test_images import bomb

CUSTOM = ("--vocabulary", "custom", "--custom_vocabulary")


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


def test_what_cannot_be_detected_in_is_named_and_loses_no_other_image(run_demo, tiny_images, tmp_path, capsys):
    """Strips and deep grey are done; numbers without a known white and pictures without end are not."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, size in (("long.png", (4000, 1)), ("high.png", (1, 4000)), ("dot.png", (1, 1))):
        Image.new("RGB", size).save(photos / name)
    Image.fromarray(np.full((48, 64), 30000, np.uint16)).save(photos / "deep.png")
    Image.fromarray(np.zeros((48, 64), np.float32)).save(photos / "floats.tif")
    bomb(photos / "bomb.png")
    assert run_demo("--input", photos) == 1
    message = capsys.readouterr().err
    assert "2 of 6 images could not be read or drawn" in message
    assert "bomb.png has more than 178,956,970 pixels" in message and "floats.tif has grey of" in message
    records = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert [Path(record["file"]).name for record in records] == ["deep.png", "dot.png", "high.png", "long.png"]
    for record in records:
        assert max(Image.open(tmp_path / "found" / record["picture"]).size) <= 8192


class Broken:
    """Fails on the second picture."""

    def __init__(self, error: BaseException, look: demo.Look) -> None:
        self.error, self.look, self.calls = error, look, 0

    def __call__(self, rgb: np.ndarray) -> Detections:
        self.calls += 1
        if self.calls == 2:
            raise self.error
        return self.look(rgb)


@pytest.fixture
def detect(tiny_run, tiny_images, tmp_path):
    """Runs the demo with a detector that fails once; returns what it says. `files()` then gives what was done."""
    cfg = setup_cfg(str(tiny_run / "config.yaml"), ["MODEL.WEIGHTS", str(tiny_run / "model_final.pth")])

    def run(error: BaseException) -> list[str]:
        images = sorted(tiny_images.iterdir())[:3]
        targets = demo.picture_paths(images, tmp_path / "found")
        look = demo.look_of(Detector(cfg), Thresholds(0.5), None)
        return demo.detect_in_images(Broken(error, look), images, targets, tmp_path / "found")

    return run


def done(folder: Path) -> list[str]:
    return [Path(record["file"]).name for record in json.loads((folder / "found" / "detections.json").read_text())]


def test_a_detector_that_fails_on_one_picture_does_the_others(detect, tmp_path, tiny_images):
    assert detect(RuntimeError("out of memory\nof the GPU")) == [f"Image {tiny_images}/000002.jpg: out of memory"]
    assert done(tmp_path) == ["000001.jpg", "000003.jpg"]


def test_an_interrupted_demo_leaves_the_detections_of_the_pictures_that_were_done(detect, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        detect(KeyboardInterrupt())
    assert done(tmp_path) == ["000001.jpg"]
    assert not list((tmp_path / "found").glob("*.part"))


def test_a_list_without_records_is_json(tmp_path):
    with demo.growing_list(tmp_path / "list.json"):
        pass
    assert json.loads((tmp_path / "list.json").read_text()) == []


def test_the_first_of_several_frames_is_looked_at_and_the_log_says_so(run_demo, tmp_path, caplog):
    first, second = Image.new("RGB", (64, 48), "red"), Image.new("RGB", (64, 48), "blue")
    first.save(tmp_path / "two.gif", save_all=True, append_images=[second])
    first.save(tmp_path / "one.gif")
    assert run_demo("--input", tmp_path / "two.gif", tmp_path / "one.gif") == 0
    assert [message for message in caplog.messages if "frames" in message] == [
        f"{tmp_path}/two.gif has 2 frames; the first is looked at."
    ]
    assert tuple(np.asarray(Image.open(tmp_path / "found" / "two.png"))[-1, -1]) == (255, 0, 0)


def test_a_custom_vocabulary_is_encoded_and_detected(run_demo, tiny_images, tmp_path):
    words = ["--vocabulary", "custom", "--custom_vocabulary", "traffic light, Zebra,"]
    assert run_demo("--input", tiny_images / "000001.jpg", *words, "--confidence-threshold", 0) == 0
    (record,) = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert {detection["name"] for detection in record["detections"]} == {"traffic light", "Zebra"}


@pytest.fixture
def lone_weights(tiny_run, tmp_path):
    """A CLIP, and options for weights that were trained with its words; there is no vocabulary file."""
    config, clips = str(tiny_run / "config.yaml"), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        clips.append(str(tmp_path / f"clip_{seed}.pt"))
        torch.save(clip_from_config(setup_cfg(config)).model.state_dict(), clips[-1])
    with_clip = ["MODEL.CLIP.WEIGHTS", clips[0]]
    words = build_vocabulary(["apple", "cat"], clip_from_config(setup_cfg(config, with_clip)), "name")
    save_vocabulary(words, str(tmp_path / "words.npz"))
    model = Trainer.build_model(setup_cfg(config, ["MODEL.VOCABULARY.TEST", str(tmp_path / "words.npz")]))
    StrictCheckpointer(model, str(tmp_path)).save("alone")
    (tmp_path / "words.npz").unlink()

    def options(clip: int, vocabulary: str) -> list[str]:
        keys = {"MODEL.WEIGHTS": tmp_path / "alone.pth", "MODEL.CLIP.WEIGHTS": clips[clip]}
        return ["--opts", *(str(w) for pair in {**keys, "MODEL.VOCABULARY.TEST": vocabulary}.items() for w in pair)]

    return options


@pytest.mark.parametrize("vocabulary", ["''", "gone.npz"])
@pytest.mark.parametrize(("choice", "names"), [((*CUSTOM, "cat,zebra"), 2), (("--vocabulary", "coco"), 80)])
def test_weights_and_words_are_enough(run_demo, lone_weights, tiny_images, capsys, vocabulary, choice, names):
    arguments = ("--input", tiny_images / "000001.jpg", *choice, *lone_weights(0, vocabulary))
    assert run_demo(*arguments) == 0
    assert f"Looking for {names} names" in capsys.readouterr().out


def test_with_weights_alone_their_own_words_are_looked_for(run_demo, lone_weights, tiny_images, capsys):
    assert run_demo("--input", tiny_images / "000001.jpg", *lone_weights(0, "''")) == 0
    assert "Looking for 2 names" in capsys.readouterr().out


def test_a_clip_that_is_not_that_of_training_is_refused(run_demo, lone_weights, tiny_images, capsys):
    arguments = ("--input", tiny_images / "000001.jpg", *CUSTOM, "zebra", *lone_weights(1, "gone.npz"))
    assert run_demo(*arguments) == 1
    assert "come from different CLIPs" in capsys.readouterr().err


def test_nothing_above_the_threshold_leaves_pictures_without_boxes(run_demo, tiny_images, tmp_path):
    assert run_demo("--input", tiny_images / "000001.jpg", "--confidence-threshold", 1) == 0
    (record,) = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert record["detections"] == [] and (tmp_path / "found" / "000001.jpg").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*CUSTOM, ""), "holds no names"),
        ((*CUSTOM, " , "), "holds no names"),
        ((*CUSTOM, "traffic light,dog,traffic_light"), '"traffic light" is named more than once'),
        ((*CUSTOM, "red star,red  star"), '"red star" is named more than once'),
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
    detections = Detections.of(found, closed_vocabulary("coco"))
    (record,) = json.loads(json.dumps(detection_records(detections)))
    assert np.array_equal(mask_util.decode(record["segmentation"]), masks[0].numpy())
