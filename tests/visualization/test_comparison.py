"""The table and the picture of a comparison say what the runs say."""

from collections.abc import Sequence

import pytest

from dk_detr.visualization.comparison import (
    Compared,
    aligned,
    curve_of,
    difference,
    differences,
    draw,
    mean_and_spread,
    scores,
    table,
    with_values,
)
from dk_detr.visualization.curves import History

HISTORY = {number: {"time": 0.5, "bbox/AP50-base": 10.0 * number, "bbox/AP50-base-unseen": 1.0} for number in (1, 3, 5)}


def histories(*ends: float, seconds: float = 0.5) -> list[History]:
    """Runs of 120 iterations that end with these AP50."""
    return [{59: {"time": seconds, "bbox/AP50": 1.0}, 119: {"time": seconds, "bbox/AP50": end}} for end in ends]


def cells(markdown: str) -> list[dict[str, str]]:
    """The rows below the header: column -> cell."""
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines()]
    return [dict(zip(header, row)) for row in rows]


def test_of_a_single_run_the_table_shows_metrics_halfway_and_at_the_end() -> None:
    config = Compared([HISTORY], 1.25, changes=[([3, 5], [40.0, 20.0])])
    assert cells(table({"one": config}, ["AP50-base"])) == [
        {
            "": "one",
            "AP50-base, halfway": "30.0",
            "AP50-base, end": "50.0",
            "matched anew, mean": "30.0 %",
            "matched anew, end": "20.0 %",
            "M parameters": "1.25",
            "s an iteration": "0.500",
            "min of training": "0.1",
        }
    ]


def test_of_three_seeds_the_table_shows_mean_half_the_range_and_each() -> None:
    runs = [*histories(63.1, 65.2), *histories(65.5, seconds=0.8)]
    changes = [([120], [value]) for value in (10.0, 20.0, 60.0)]
    assert cells(table({"one": Compared(runs, 3.0, changes=changes)}, ["AP50"])) == [
        {
            "": "one",
            "AP50, end": "64.6 ± 1.2 (63.1, 65.2, 65.5)",
            "matched anew, mean": "30.0 ± 25.0 (10.0, 20.0, 60.0) %",
            "matched anew, end": "30.0 ± 25.0 (10.0, 20.0, 60.0) %",
            "M parameters": "3.00",
            "s an iteration": "0.600 ± 0.150",
            "min of training": "1.2 ± 0.3",
        }
    ]


def test_further_data_sets_stand_beside_the_end_of_training() -> None:
    also = {"val": [{"AP50": 70.0}, {"AP50": 72.0}], "test@other": [{"AP50": 60.0}, {"AP50": 50.0}]}
    (row,) = cells(table({"one": Compared(histories(64.0, 66.0), 3.0, also)}, ["AP50"]))
    assert list(row)[:4] == ["", "AP50, end", "AP50, val", "AP50, test@other"]
    assert (row["AP50, val"], row["AP50, test@other"]) == ("71.0 ± 1.0 (70.0, 72.0)", "55.0 ± 5.0 (60.0, 50.0)")


def test_a_group_without_objects_has_no_cell() -> None:
    config = Compared(histories(64.0), 3.0, {"val": [{"AP50": float("nan")}]})
    assert "AP50, val" not in cells(table({"one": config}, ["AP50"]))[0]
    assert "AP50" not in table({"one": Compared([{0: {"time": 1.0}}], 3.0)}, ["AP50"])


def test_differences_are_of_the_means_and_of_every_column() -> None:
    configs = {
        "base": Compared(histories(50.0, 52.0), 3.0, {"val": [{"AP50": 40.0}, {"AP50": 44.0}]}),
        "new": Compared(histories(65.0, 65.0), 3.0, {"val": [{"AP50": 43.0}, {"AP50": 43.0}]}),
    }
    assert cells(differences(configs, ["AP50"], "base")) == [
        {"": "new", "AP50, end": "+14.0", "AP50, val": "+1.0 (ranges overlap)"}
    ]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((55.0, 56.0), "+4.5"),
        ((46.0, 47.0), "-4.5"),
        ((49.0, 55.0), "+1.0 (ranges overlap)"),
        ((52.0, 60.0), "+5.0 (ranges overlap)"),
        ((40.0, 50.0), "-6.0 (ranges overlap)"),
    ],
)
def test_a_difference_is_larger_than_the_spread_if_the_ranges_do_not_touch(values: Sequence[float], said: str) -> None:
    assert difference(values, (50.0, 52.0)) == said


def test_a_single_value_has_no_spread() -> None:
    assert (mean_and_spread([0.25], 3), with_values([64.0])) == ("0.250", "64.0")


def test_a_curve_counts_iterations_from_one_and_takes_the_very_metric() -> None:
    assert curve_of(HISTORY, "AP50-base") == ([2, 4, 6], [10.0, 30.0, 50.0])


def test_a_metric_of_masks_has_their_name_before_it() -> None:
    history = {1: {"mini_lvis_test/segm/AP50": 7.0, "mini_lvis_test/bbox/AP50": 9.0}}
    assert (curve_of(history, "AP50")[1], curve_of(history, "segm/AP50")[1]) == ([9.0], [7.0])
    with pytest.raises(ValueError, match="these were: AP50, segm/AP50"):
        curve_of(history, "segm/AP75")


def test_curves_are_averaged_where_all_have_a_value() -> None:
    shared, values = aligned([([2, 4, 6], [1.0, 2.0, 3.0]), ([4, 6, 8], [4.0, 5.0, 6.0])])
    assert shared == [4, 6]
    assert values.tolist() == [[2.0, 3.0], [4.0, 5.0]]


def test_the_picture_has_a_band_from_the_lowest_to_the_highest_run() -> None:
    flat = [([1, 100], [value, value]) for value in (20.0, 80.0)]
    plain, band = (draw({"AP50": {"one": curves}}) for curves in ([([1, 100], [50.0, 50.0])] * 2, flat))
    differs = (plain != band).any(2)
    rows = differs.any(1).nonzero()[0]
    assert 0.4 < (rows[-1] - rows[0]) / len(band) < 0.6  # 60 of 100 points, in a panel with titles


def test_runs_that_were_never_evaluated_are_drawn_as_an_empty_panel() -> None:
    assert draw({"AP50": {"one": [([], []), ([], [])]}}).shape[2] == 3


def test_a_metric_that_was_not_recorded_is_refused_with_those_that_were() -> None:
    said = '--metric "AP50_base" was not recorded; these were: AP50-base, AP50-base-unseen'
    with pytest.raises(ValueError, match=said):
        curve_of(HISTORY, "AP50_base")
    with pytest.raises(ValueError, match='"AP50-rare" was not recorded; these were: AP50-base, AP50'):
        table({"one": Compared([], 1.0, {"val": [{"AP50-base": 1.0, "AP50": 1.0}]})}, ["AP50-rare"])


def test_of_several_data_sets_a_metric_may_name_its_own() -> None:
    history = {1: {"new/bbox/AP50": 7.0, "old/bbox/AP50": 9.0}}
    assert (curve_of(history, "AP50")[1], curve_of(history, "old/bbox/AP50")[1]) == ([7.0], [9.0])


def test_what_was_reached_before_training_is_neither_the_end_nor_halfway() -> None:
    history = {i: {"bbox/AP50": value} for i, value in ((-1, 90.0), (19, 60.0))}
    found = scores(Compared([history], 1.0), ["AP50"])
    assert found == {"AP50, halfway": [60.0], "AP50, before": [90.0], "AP50, end": [60.0]}
    assert "before" not in table({"one": Compared([{9: {"bbox/AP50": 40.0, "time": 1.0}}], 1.0)}, ["AP50"])
