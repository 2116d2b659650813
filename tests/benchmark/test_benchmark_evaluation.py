"""The benchmark of evaluation: both ways get the same detections and say the same; a difference is no result."""

import importlib.util
import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch

from dk_detr.benchmark import evaluation
from dk_detr.benchmark.measure import Measurement, Work


def test_every_way_gets_the_same_detections_of_a_quarter_a_half_and_all_images_and_they_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The agreement is worth something: all metrics are told, and none is 0 or 100."""
    installed = [evaluation.COMPILED] if importlib.util.find_spec(evaluation.COMPILED) else []
    answers: dict[tuple[str, str], dict[str, float]] = {}

    def measured(way: partial[Work], rounds: int) -> tuple[dict[str, float], Measurement]:
        (file,) = way.args
        answer, _ = evaluation._measure(way, rounds)
        content = Path(file).read_text()
        answers[way.func.__name__, content] = answer
        assert rounds == 1
        return answer, Measurement((float(len(answers)),), len(answers) * 2**20)

    monkeypatch.setattr(evaluation, "in_own_process", measured)
    report = evaluation.benchmark_evaluation(rounds=1, images=40)
    assert [len(json.loads(content)["images"]) for way, content in answers if way == "_ours"] == [10, 20, 40]
    assert len(answers) == 3 * (2 + len(installed)), "in each size all ways read the same file"
    first, *others = [answer for (_, content), answer in answers.items() if len(json.loads(content)["images"]) == 40]
    assert all(0 < first[metric] < 100 for metric in evaluation.METRICS)
    for other in others:
        assert {metric: other[metric] for metric in evaluation.METRICS} == pytest.approx(
            {metric: first[metric] for metric in evaluation.METRICS}, abs=1e-6
        )
    ways = ["lvis", *installed, "dk_detr"]
    assert [(row["task"], row["way"]) for row in report.rows] == [
        (f"{images} images", way) for images in (10, 20, 40) for way in ways
    ]
    costs = range(1, len(report.rows) + 1)
    assert [(row["median s"], row["peak MiB"]) for row in report.rows] == [(cost, cost) for cost in costs]
    assert [row["times as fast"] for row in report.rows] == [
        pytest.approx(costs[number - number % len(ways)] / costs[number]) for number in range(len(costs))
    ]


def test_a_way_that_says_something_else_leaves_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(file: str) -> Work:
        work = evaluation.WAYS["lvis"](file)
        return lambda: {**work(), "APf": 101.0}  # type: ignore[dict-item]

    monkeypatch.setattr(evaluation, "in_own_process", evaluation._measure)
    monkeypatch.setattr(evaluation, "WAYS", {"lvis": evaluation.WAYS["lvis"], "dk_detr": wrong})
    with pytest.raises(RuntimeError, match=r"APf is 101.0 and .*nothing is reported"):
        evaluation.benchmark_evaluation(rounds=1, images=8)


def test_the_work_is_timed_in_every_round_and_its_preparation_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, works = [0.0], []

    def way() -> Work:
        clock[0] += 100
        return work

    def work() -> dict[str, float]:
        works.append(clock[0])
        clock[0] += len(works)
        return {"AP": clock[0]}

    monkeypatch.setattr(evaluation.time, "perf_counter", lambda: clock[0])
    answer, cost = evaluation._measure(way, rounds=3)
    assert cost.seconds == (1, 2, 3) and answer == {"AP": 106}


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


def test_answer_and_cost_come_back_from_a_process_of_its_own_with_one_thread(tmp_path: Path) -> None:
    file = evaluation.write_annotations(tmp_path, 20)
    answer, cost = evaluation.in_own_process(partial(_ours_and_where, file), rounds=2)
    assert answer.pop("process") != os.getpid() and answer.pop("threads") == 1
    assert answer == pytest.approx(evaluation._ours(file)(), abs=1e-9, nan_ok=True) and answer["AP"] > 0
    assert len(cost.seconds) == 2 and min(cost.seconds) > 0
    assert cost.peak_bytes is None or cost.peak_bytes > 0


def _ours_and_where(file: str) -> Work:
    work = evaluation._ours(file)
    where = {"process": os.getpid(), "threads": torch.get_num_threads()}
    return lambda: {**work(), **where}  # type: ignore[dict-item]
