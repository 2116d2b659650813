"""Benchmarks: ways in turn, each in its own process; and that what is compared is the same thing."""

import json
import re
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from dk_detr.benchmark import attention, detector, distillation
from dk_detr.benchmark.measure import Measurement, Work, peak_memory, side_by_side
from dk_detr.benchmark.report import Report
from dk_detr.modeling import ROIHead

MIB, TASKS = 2**20, ("forward", "forward + backward")


def sleep(seconds: float) -> Work:
    return partial(time.sleep, seconds)


def fill(mib: int) -> Work:
    return lambda: bytearray(mib * MIB).count(1)


def fail() -> Work:
    raise ValueError("no such luck")


def vanish() -> Work:
    raise SystemExit(7)


def test_each_way_is_timed_as_often_as_asked() -> None:
    measured = side_by_side({"short": partial(sleep, 0.001), "long": partial(sleep, 0.05)}, 3, "cpu")
    assert [len(measured[name].seconds) for name in ("short", "long")] == [3, 3]
    assert measured["short"].median < 0.05 <= measured["long"].median < 1


def test_the_peak_is_what_is_held_at_once_beyond_what_was_held_before() -> None:
    held = bytearray(50 * MIB)
    peak = peak_memory(fill(100), "cpu")
    if peak is None:
        pytest.skip("this system does not tell")
    assert 95 * MIB < peak < 130 * MIB and len(held)


@pytest.mark.parametrize(
    ("way", "words"), [(fail, '"bad" failed: ValueError: no such luck'), (vanish, '"bad" ended with 7')]
)
def test_a_way_that_fails_is_named_with_its_words(way: object, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        side_by_side({"bad": way}, 1, "cpu")


def test_a_report_compares_medians_and_says_where_and_when(tmp_path: Path) -> None:
    report = Report("cpu", "two naps", notes=["They slept."])
    report.add("nap", "old", {"old": Measurement((4.0, 6.0, 5.0), 3 * MIB), "new": Measurement((2.0, 2.5, 9.0), None)})
    assert [row["times as fast"] for row in report.rows] == [1.0, 2.0]
    text = report.as_text()
    assert "two naps" in text and "They slept." in text and re.search(r"\d{4}-\d\d-\d\d", text)
    assert f"torch {torch.__version__}" in text and f"{torch.get_num_threads()} threads" in text
    report.write_json(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["rows"][0]["peak MiB"] == 3.0 and written["rows"][1]["peak MiB"] is None
    assert written["machine"] == report.machine and written["notes"] == ["They slept."]


def test_forward_and_backward_of_a_backend_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "available_backends", lambda device: ["reference"])
    report = attention.benchmark_attention("cpu", rounds=1, size=64)
    assert "85 queries" in report.setting
    assert [(row["task"], row["way"]) for row in report.rows] == [(t, "reference") for t in TASKS]


def test_a_backend_that_computes_something_else_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention._attention
    monkeypatch.setattr(attention, "_attention", lambda name: lambda *given: right("reference")(*given) * 1.01)
    with pytest.raises(RuntimeError, match='"reference" differs .* nothing was measured'):
        attention.benchmark_attention("cpu", rounds=1, size=64)


def test_the_two_detectors_are_the_same_network() -> None:
    pytest.importorskip("transformers", reason="the comparison is with Hugging Face's transformers")
    assert detector.difference_of_scores("cpu", size=160) < 1e-5


@pytest.mark.parametrize("way", distillation.WAYS)
def test_every_way_to_distil_is_a_step_that_learns(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, built = str(distillation.CONFIGS["cpu"]), []
    monkeypatch.setattr(distillation, "build_model", lambda cfg: built.append(build_model(cfg)) or built[0])
    run = distillation.step_of_way(way, config, "cpu", str(tmp_path), 2)
    (model,) = built
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("decoder") for name in moved)
    alone = (distillation.PLAIN, distillation.DIRECT, distillation.ROI_HEAD)  # without queries for the teacher
    assert ("extensions.Distillation.queries.content.weight" in moved) == (way not in alone)


@pytest.mark.parametrize("way", distillation.INFERENCE)
def test_an_roi_head_is_asked_in_the_inference_that_has_one(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    whole = ROIHead.forward
    monkeypatch.setattr(ROIHead, "forward", lambda *given: asked.append(1) or whole(*given))
    distillation._inference(way, str(distillation.CONFIGS["cpu"]), "cpu", str(tmp_path))()
    assert bool(asked) == (way == distillation.WITH_ROI_HEAD)


def test_the_price_of_distillation_is_told_in_words() -> None:
    seconds = {distillation.PLAIN: 1.0, distillation.SILENT: 1.1, distillation.ONLINE: 1.25}
    measured = {name: Measurement((value,), None) for name, value in seconds.items()}
    queries, teacher = distillation._in_words(measured)
    assert "10.0%" in queries and "12.0%" in teacher


def test_a_report_may_say_times_the_time() -> None:
    report = Report("cpu", "two naps", compare="times the time")
    report.add("nap", "short", {"short": Measurement((2.0,), None), "long": Measurement((5.0,), None)})
    assert [row["times the time"] for row in report.rows] == [1.0, 2.5]
