"""What dk_detr.compat promises: today's stack runs Detectron2 0.6, and what is already in order is left alone."""

import importlib
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dk_detr import compat


@pytest.mark.parametrize("part", ["engine", "data", "evaluation", "modeling", "utils.visualizer", "model_zoo"])
def test_detectron2_can_be_imported(part: str) -> None:
    assert importlib.import_module(f"detectron2.{part}").__name__ == f"detectron2.{part}"


def test_a_second_call_changes_nothing() -> None:
    compat.make_importable()
    extension, filters = sys.modules.get(compat.EXTENSION), list(warnings.filters)
    compat.make_importable()
    assert sys.modules.get(compat.EXTENSION) is extension
    assert warnings.filters == filters


@pytest.mark.parametrize("package", ["torch", "torchvision", "detectron2"])
def test_a_missing_package_is_named_with_its_remedy(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(ImportError, match=rf"needs `{package}`.*make venv.*install.*{package}"):
        compat.make_importable()


def test_a_torchvision_of_another_torch_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError, match="torchvision was built for another torch.*nms.*pip install"):
        compat.require_matching_torchvision()


def test_numpy_names_come_back_and_present_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(np, "int")
    monkeypatch.setattr(np, "float", "somebody's own", raising=False)
    compat.restore_numpy_aliases()
    assert np.int is int
    assert np.float == "somebody's own"


def test_the_pillow_filter_comes_back_and_a_present_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Image, "LINEAR")
    compat.restore_pillow_filter()
    assert Image.LINEAR == Image.BILINEAR
    monkeypatch.setattr(Image, "LINEAR", "somebody's own")
    compat.restore_pillow_filter()
    assert Image.LINEAR == "somebody's own"


@pytest.fixture
def without_extension(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As before `make_importable`: nobody has put anything in the place of `detectron2._C`. Undone after the test."""
    import detectron2

    for name in (compat.EXTENSION, compat.FAST_COCO):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr(detectron2, "_C", raising=False)
    return monkeypatch


def test_a_compiled_extension_is_left_alone(without_extension: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import detectron2

    (tmp_path / "_C.py").write_text("def nms_rotated(): return 'the real one'")
    without_extension.setattr(detectron2, "__path__", [str(tmp_path), *detectron2.__path__])
    importlib.invalidate_caches()
    compat.stand_in_for_extension()
    compat.stand_in_for_fast_coco()
    assert compat.EXTENSION not in sys.modules and compat.FAST_COCO not in sys.modules
    assert compat.detectron2_build() == "source"
    assert importlib.import_module(compat.EXTENSION).nms_rotated() == "the real one"
    assert compat.detectron2_build() == "source"


def test_a_missing_extension_says_so_when_it_is_used(without_extension: pytest.MonkeyPatch) -> None:
    without_extension.setattr(importlib.util, "find_spec", lambda name: None)
    compat.stand_in_for_extension()
    from detectron2 import _C

    assert compat.detectron2_build() == "pure Python"
    with pytest.raises(AttributeError, match=r"detectron2\._C\.nms_rotated .* pure Python.*from source"):
        _C.nms_rotated()


def test_coco_evaluation_needs_no_extension() -> None:
    from detectron2.evaluation.coco_evaluation import COCOeval_opt
    from pycocotools.coco import COCO

    truth = COCO()
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10.0, 10.0, 50.0, 50.0], "area": 2500.0, "iscrowd": 0}
    truth.dataset = {"info": {}, "images": [{"id": 1}], "categories": [{"id": 1}], "annotations": [box]}
    truth.createIndex()
    evaluation = COCOeval_opt(truth, truth.loadRes([{**box, "score": 0.9}]), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_only_known_noise_is_silenced() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compat.silence_known_noise()
        warnings.warn("`torch.cuda.amp.GradScaler(args...)` is deprecated.", FutureWarning, stacklevel=1)
        warnings.warn("torch.meshgrid: in an upcoming release, it will be required", UserWarning, stacklevel=1)
        Image._decompression_bomb_check((10_000, 10_000))
        with pytest.raises(UserWarning, match="boxes have no area"):
            warnings.warn("boxes have no area", UserWarning, stacklevel=1)
