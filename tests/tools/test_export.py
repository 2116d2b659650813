"""tools/export.py and tools/run_onnx.py from their command lines."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dk_detr.data.images import read_image
from dk_detr.structures import Vocabulary
from tests.export_fixtures import exported_file, metadata, write_words
from tests.model_fixtures import random, tiny_vocabulary
from tests.run_fixtures import REPOSITORY

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
CONFIGS = REPOSITORY / "configs"
run_onnx = runpy.run_path(str(REPOSITORY / "tools" / "run_onnx.py"))


def refused(run_tool: Any, capsys: Any, config: Path, *options: object, **named: object) -> str:
    """The one line that a bad export ends with."""
    arguments = {"--config-file": config, "--format": "onnx", "--output": "detector.onnx", **named}
    assert run_tool("export.py", *(word for pair in arguments.items() for word in pair), *options) == 1
    said: str = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and "\n" not in said
    return said


@pytest.mark.parametrize(
    ("config", "options", "named", "said"),
    [
        ("detr_R50.yaml", [], {"--words": "input"}, 'CLASSIFIER.NAME "LinearBackground" knows no embeddings'),
        ("dk_detr_R50.yaml", [], {"--output": "detector.pt"}, "must end in .onnx"),
        ("dk_detr_R50.yaml", [], {"--format": "torch_export", "--output": "x.pt2", "--dtype": "float16"}, "--dtype"),
        ("dk_detr_plus_R50.yaml", [], {"--format": "torchscript", "--output": "x.ts"}, "MODEL.DETR.NMS_IOU 0.5"),
        ("dk_detr_R50.yaml", ["--opts", "MODEL.TEST_FUSION.NOVEL", "0.5"], {}, "MODEL.TEST_FUSION asks CLIP"),
        ("dk_detr_R50.yaml", ["--images", "photos"], {}, "add --check"),
        (
            "dk_detr_R50.yaml", ["--check", "--images", "photos", "--opts", "DATASETS.TEST", "()"],
            {"--dtype": "float16"}, "DATASETS.TEST is empty",
        ),
        ("../projects/ViLD/configs/ViLD_R50.yaml", [], {}, "cannot be exported"),
        ("../projects/RegionCLIP/configs/transfer_lvis_RN50.yaml", [], {}, "cannot be exported"),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(config, options, named, said, run_tool, capsys) -> None:
    assert said in refused(run_tool, capsys, CONFIGS / config, *options, **named)


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_file(tmp_path_factory.getbasetemp())[1]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = (torch.arange(70 * 90 * 3) * 7919 % 251).reshape(70, 90, 3).numpy().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_other_words_than_at_the_export_are_detected(detector, photo, tmp_path, run_tool) -> None:
    rows = torch.nn.functional.normalize(random(2, tiny_vocabulary().width, seed=9), dim=1)
    words = write_words(tmp_path / "other.npz", Vocabulary(("sofa", "lamp"), rows, torch.tensor([False, True])))
    target = tmp_path / "found.json"
    options = ["--vocabulary", words, "--output", target, "--confidence-threshold", 0]
    assert run_tool("run_onnx.py", detector, photo, *options) == 0
    (found,) = json.loads(target.read_text())
    assert (found["width"], found["height"]) == (90, 70) and len(found["detections"]) > 10
    assert {one["name"] for one in found["detections"]} == {"sofa", "lamp"}
    boxes = np.array([one["box"] for one in found["detections"]])
    assert (boxes >= 0).all() and (boxes[:, 2] <= 90).all() and (boxes[:, 3] <= 70).all() and boxes[:, 2].max() > 40


@pytest.mark.parametrize(
    ("width", "provenance", "said"),
    [(7, {}, "of width 7"), (16, {"probe": "[0.0, 1.0]"}, "another text encoder"), (0, {}, "--vocabulary words.npz")],
)
def test_words_that_are_not_for_the_file_are_refused(
    width, provenance, said, detector, photo, tmp_path, run_tool, capsys
) -> None:
    options: list[object] = []
    if width:
        words = Vocabulary(("sofa", "lamp"), torch.eye(width)[:2], torch.tensor([False, True]), provenance)
        options = ["--vocabulary", write_words(tmp_path / "w.npz", words)]
    assert run_tool("run_onnx.py", detector, photo, *options) == 1
    assert said in capsys.readouterr().err


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_done(
    detector, photo, tmp_path, run_tool, capsys
) -> None:
    (tmp_path / "broken.jpg").write_text("no image")
    target, words = tmp_path / "found.json", write_words(tmp_path / "w.npz", tiny_vocabulary())
    options = ["--vocabulary", words, "--output", target]
    assert run_tool("run_onnx.py", detector, tmp_path / "broken.jpg", photo, *options) == 1
    assert "broken.jpg" in capsys.readouterr().err
    assert [one["file"] for one in json.loads(target.read_text())] == [str(photo)]


@pytest.mark.parametrize("mode", ["RGB", "LA", "P", "I;16", "L", "RGBA"])
def test_pictures_of_all_kinds_are_seen_as_by_the_detector(mode: str, tmp_path: Path) -> None:
    grey = np.linspace(0, 255, 40 * 30).reshape(30, 40)
    if mode == "I;16":
        image = Image.fromarray((grey * 257).astype(np.uint16))
    else:
        image = Image.fromarray(np.stack([grey, grey.T.reshape(30, 40), grey[::-1], grey], -1).astype(np.uint8))
        image = image.convert(mode)
    exif = Image.Exif()
    exif[274] = 6  # turned
    image.save(tmp_path / "x.png", exif=exif, **({"transparency": 3} if mode == "P" else {}))
    with Image.open(tmp_path / "x.png") as file:
        seen = np.asarray(run_onnx["upright"](file))
    assert np.array_equal(seen, read_image(tmp_path / "x.png"))


def test_damaged_words_and_huge_pictures_are_named(
    detector, photo, tmp_path, run_tool, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = write_words(tmp_path / "w.npz", tiny_vocabulary())
    (tmp_path / "cut.npz").write_bytes(Path(words).read_bytes()[:-40])
    assert run_tool("run_onnx.py", detector, photo, "--vocabulary", tmp_path / "cut.npz") == 1
    assert "cut.npz is no vocabulary" in capsys.readouterr().err
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    target = tmp_path / "found.json"
    assert run_tool("run_onnx.py", detector, photo, "--vocabulary", words, "--output", target) == 1
    assert "photo.png" in capsys.readouterr().err and json.loads(target.read_text()) == []


def test_a_file_whose_words_are_fixed_takes_no_others(photo, tmp_path, run_tool, capsys) -> None:
    tensor = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["images"], ["labels"])
    out = onnx.helper.make_tensor_value_info("labels", onnx.TensorProto.FLOAT, [1])
    opset = [onnx.helper.make_opsetid("", 18)]
    graph = onnx.helper.make_graph([node], "x", [tensor], [out])
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.save(model, tmp_path / "foreign.onnx")
    assert run_tool("run_onnx.py", tmp_path / "foreign.onnx", photo) == 1
    assert "was not written by tools/export.py" in capsys.readouterr().err
    onnx.helper.set_model_props(model, metadata())
    onnx.save(model, tmp_path / "closed.onnx")
    words = write_words(tmp_path / "w.npz", tiny_vocabulary())
    assert run_tool("run_onnx.py", tmp_path / "closed.onnx", photo, "--vocabulary", words) == 1
    assert "takes no others: leave --vocabulary out" in capsys.readouterr().err
