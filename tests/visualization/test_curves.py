"""What the curves promise: what happened last counts, every loss has its panel, minutes add up."""

import json

import pytest
from matplotlib.figure import Figure

from dk_detr.meta_arch.extensions import TRAINING_EXTENSIONS
from dk_detr.visualization import curves


def history_of(tmp_path, *lines):
    path = tmp_path / "metrics.json"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return curves.read_metrics(path)


def test_of_repeated_iterations_the_last_counts_and_what_came_after_them_is_void(tmp_path):
    history = history_of(
        tmp_path,
        {"iteration": 19, "total_loss": 9.0},
        {"iteration": 39, "total_loss": 8.0},
        {"iteration": 59, "total_loss": 7.0},
        {"iteration": 39, "total_loss": 5.0},  # resumed from iteration 20
    )
    assert curves.series(history, "total_loss") == ([19, 39], [9.0, 5.0])


def test_scores_of_the_same_iteration_join_its_losses(tmp_path):
    history = history_of(tmp_path, {"iteration": 19, "total_loss": 9.0}, {"iteration": 19, "bbox/AP": 30.0})
    assert history == {19: {"total_loss": 9.0, "bbox/AP": 30.0}}


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    history = history_of(tmp_path, {"iteration": 19, "total_loss": 9.0}, '{"iteration": 39, "total_lo')
    assert list(history) == [19]


def test_a_metric_that_is_no_number_is_left_out_of_its_curve(tmp_path):
    history = history_of(tmp_path, {"iteration": 0, "bbox/APr": float("nan")}, {"iteration": 1, "bbox/APr": 2.0})
    assert curves.series(history, "bbox/APr") == ([1], [2.0])


def test_minutes_are_seconds_an_iteration_times_iterations(tmp_path):
    lines = {"iteration": 19, "time": 3.0}, {"iteration": 59, "time": 1.5}, {"iteration": 60, "lr": 0.1}
    history = history_of(tmp_path, *lines)
    assert curves.training_minutes(history) == pytest.approx((20 * 3.0 + 40 * 1.5) / 60)
    assert curves.iterations_done(history) == 60  # the last line is of an evaluation
    assert curves.training_minutes({}) == curves.iterations_done({}) == 0


def test_losses_are_grouped_by_what_they_train(tmp_path):
    losses = ["loss_class", "loss_giou", "loss_proposal_class", "loss_kd_semantic", "loss_kd_relational_batch"]
    history = history_of(tmp_path, {"iteration": 19, "total_loss": 1.0, "lr": 0.1, **{name: 1.0 for name in losses}})
    assert curves._loss_panels(history) == {
        "detection": ["loss_class", "loss_giou"],
        "proposal": ["loss_proposal_class"],
        "distillation": ["loss_kd_semantic", "loss_kd_relational_batch"],
    }


def test_scores_get_a_panel_of_their_own(tmp_path):
    losses = {"loss_class": 2.0, "loss_proposal_class": 1.0}
    without = curves.draw_curves(history_of(tmp_path, {"iteration": 19, **losses}))
    scores = {"bbox/AP50-base": 70.0, "bbox/AP50-novel": 50.0}
    with_scores = curves.draw_curves(history_of(tmp_path, {"iteration": 19, **losses, **scores}))
    assert with_scores.shape[1] == pytest.approx(without.shape[1] * 3 / 2, abs=2)
    assert with_scores.shape[2] == 3 and with_scores.std() > 5


def test_the_weight_of_distillation_is_drawn_on_a_scale_of_its_own_and_moves_no_loss(tmp_path):
    lines = [{"iteration": i, "loss_class": 2.0, "loss_kd_semantic": 3.0 / i} for i in (19, 39, 59)]
    plain = history_of(tmp_path, *lines)
    history = history_of(tmp_path, *({**line, "kd_weight": line["iteration"] / 100} for line in lines))
    assert curves._loss_panels(history) == curves._loss_panels(plain)
    of_both = [Figure().subplots() for _ in range(2)]
    for panel, drawn in zip(of_both, (plain, history)):
        curves._draw_losses(panel, drawn, "distillation", ["loss_kd_semantic"])
    first, second = of_both
    assert len(first.lines) == len(second.lines) == 1 and first.get_ylim() == second.get_ylim()
    assert first.get_xlim() == second.get_xlim() and len(first.figure.axes) == 1
    (line,) = second.figure.axes[1].lines
    assert list(line.get_ydata()) == [0.19, 0.39, 0.59]


def test_an_empty_history_gives_an_empty_picture(tmp_path):
    assert curves.draw_curves({}).size > 0


def test_the_losses_of_every_extension_have_a_panel_of_their_own() -> None:
    beginnings = {f"loss_{extension.prefix}" for extension in TRAINING_EXTENSIONS.values()}
    assert beginnings | {"loss_proposal_", "loss_mask_", "loss_"} <= set(curves.LOSS_PANELS.values())
    assert set(curves.LOSS_PANELS) == set(curves.PANEL_ORDER)
