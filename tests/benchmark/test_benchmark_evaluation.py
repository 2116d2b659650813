"""The benchmark of evaluation: both ways get the same detections and say the same; a difference is no result."""

import importlib.util
import json
from functools import partial
from pathlib import Path

import pytest

from dk_detr.benchmark import evaluation


def test_every_way_is_measured_at_three_sizes_and_they_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = [evaluation.COMPILED] if importlib.util.find_spec(evaluation.COMPILED) else []
    monkeypatch.setattr(evaluation, "in_own_process", evaluation._measure)
    report = evaluation.benchmark_evaluation(rounds=1, images=8)
    assert [(row["task"], row["way"]) for row in report.rows] == [
        (f"{images} images", way) for images in (2, 4, 8) for way in ("lvis", *installed, "dk_detr")
    ]
    assert all(row["median s"] > 0 for row in report.rows)


def test_generated_categories_are_few_that_are_everywhere_and_many_that_are_rare(tmp_path: Path) -> None:
    content = json.loads(Path(evaluation.write_annotations(tmp_path, 200)).read_text())
    frequencies = [row["frequency"] for row in content["categories"]]
    assert [frequencies.count(f) for f in "rcf"] == [337, 461, 405]
    found = [row["category_id"] for row in content["annotations"]]
    times = sorted((found.count(k) for k in set(found)), reverse=True)
    assert times[0] > 20 * times[len(times) // 2] and 8 < len(found) / 200 < 16
    assert all(row["neg_category_ids"] for row in content["images"])
    assert any(row["not_exhaustive_category_ids"] for row in content["images"])


def test_a_difference_between_the_two_is_no_result(tmp_path: Path) -> None:
    metrics = evaluation._ours(evaluation.write_annotations(tmp_path, 2))()
    with pytest.raises(RuntimeError, match="AP50 is .*nothing is reported"):
        evaluation._check_that_they_agree(metrics, metrics | {"AP50": metrics["AP50"] + 1e-3})


def test_answer_and_cost_come_back_from_another_process(tmp_path: Path) -> None:
    file = evaluation.write_annotations(tmp_path, 2)
    answer, cost = evaluation.in_own_process(partial(evaluation._ours, file), rounds=2)
    assert 0 <= answer["AP"] <= 100 and len(cost.seconds) == 2
