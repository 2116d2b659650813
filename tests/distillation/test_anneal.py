"""The weight of distillation over training: its curves, which moment it is of, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from detectron2.utils.events import EventStorage

from dk_detr.distillation import Anneal
from dk_detr.distillation.anneal import CURVES
from tests.run_fixtures import World

CHANGING = sorted(set(CURVES) - {"Constant"})


@pytest.mark.parametrize("curve", CHANGING)
@pytest.mark.parametrize(("start", "end"), [(1.0, 0.2), (0.0, 0.7)])
def test_a_curve_leads_from_its_start_to_its_end_and_never_turns(curve: str, start: float, end: float) -> None:
    anneal = Anneal(curve, start, end)
    assert anneal.at(0.0) == start and anneal.at(1.0) == end
    factors = [anneal.at(i / 20) for i in range(21)]
    assert factors == sorted(factors, reverse=end < start)


def test_half_way_of_a_cosine_is_the_middle_and_a_quarter_of_the_way_is_closer_to_the_start() -> None:
    cosine = Anneal("Cosine", 1.0, 0.2)
    assert cosine.at(0.5) == pytest.approx(0.6)
    assert cosine.at(0.25) == pytest.approx(0.6 + 0.4 * math.sqrt(0.5))  # 0.88; a line is at 0.8
    assert Anneal("Linear", 1.0, 0.2).at(0.25) == pytest.approx(0.8)


def test_the_factor_is_that_of_the_iteration_and_recorded() -> None:
    anneal = Anneal("Linear", 1.0, 0.0, num_iterations=8)
    for iteration, factor in ((0, 1.0), (2, 0.75), (8, 0.0), (9, 0.0)):
        with EventStorage(iteration) as storage:
            assert anneal.factor() == factor
        assert storage.latest() == {"kd_weight": (factor, iteration)}


def test_a_constant_factor_is_one_and_not_recorded() -> None:
    with EventStorage(5) as storage:
        assert Anneal(num_iterations=8).factor() == 1.0
    assert not storage.latest()


def test_outside_of_a_loop_the_factor_is_that_of_the_start() -> None:
    assert Anneal("Cosine", 0.3, 1.0, num_iterations=8).factor() == 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("Steps", 1.0, 0.0), 'MODEL.KD.ANNEAL.CURVE is "Steps"; choose one of Constant, Linear, Cosine'),
        (("Linear", -0.5, 1.0), "MODEL.KD.ANNEAL.FROM is -0.5; .* at least 0"),
        (("Cosine", 1.0, math.nan), "MODEL.KD.ANNEAL.TO is nan; .* finite"),
        (("Cosine", math.inf, 1.0), "MODEL.KD.ANNEAL.FROM is inf; .* finite"),
        (("Constant", 0.5, 1.0), '"Constant" does not read MODEL.KD.ANNEAL.FROM 0.5 and TO 1.0'),
        (("Constant", 0.5, 0.5), '"Constant" does not read MODEL.KD.ANNEAL.FROM 0.5 and TO 0.5'),
        (("Cosine", 1.0, 1.0), '"Cosine" has nowhere to go with MODEL.KD.ANNEAL.FROM 1.0 and TO 1.0'),
    ],
    ids=lambda value: str(value),
)
def test_what_cannot_be_meant_is_refused_by_its_key(settings: tuple[str, float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Anneal(*settings)


# ---- in training ----

RUN: dict[str, Any] = {
    "MODEL__KD__ANNEAL__CURVE": "Linear",
    "MODEL__KD__ANNEAL__TO": 0.0,
    "SOLVER__MAX_ITER": 4,
    "SOLVER__ACCUMULATE": 2,
    "SOLVER__CHECKPOINT_PERIOD": 2,
    "DATASETS__TEST": (),
}


def test_both_parts_of_a_step_have_one_factor_and_a_resumed_run_goes_on_with_that_of_its_iteration(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noted(anneal: Anneal) -> float:
        used.append(factor(anneal))
        return used[-1]

    used: list[float] = []
    factor = Anneal.factor
    monkeypatch.setattr(Anneal, "factor", noted)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    world.train(whole, **RUN)
    assert used == [1.0, 1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]
    resumed.mkdir()
    (whole / "model_0000001.pth").rename(resumed / "model_0000001.pth")
    (resumed / "last_checkpoint").write_text("model_0000001.pth")
    used.clear()
    world.train(resumed, resume=True, **RUN)
    assert used == [0.5, 0.5, 0.25, 0.25]
    for run in (whole, resumed):
        last = json.loads((run / "metrics.json").read_text().splitlines()[-1])
        assert (last["iteration"], last["kd_weight"]) == (3, 0.25)
