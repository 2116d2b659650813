"""What an analysis of errors promises: each error has its name, oracles mend what they say, AP50 is evaluation's."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dk_detr.evaluation import PROTOCOLS, evaluate_file
from dk_detr.evaluation.errors import Analysis, analyse_files, as_record, report, word_table
from dk_detr.evaluation.errors import kinds as kinds_of_errors
from dk_detr.evaluation.errors.kinds import Kind, classify
from dk_detr.evaluation.errors.oracles import ORACLES
from dk_detr.evaluation.evaluate import read_files
from tests.evaluation.random_worlds import random_world, with_masks, write

CAT, DOG, OKAPI = 1, 2, 3  # the okapi is novel
NAMES = {CAT: "cat", DOG: "dog", OKAPI: "okapi"}
BOX, FAR = [0, 0, 40, 40], [100, 100, 40, 40]  # xywh
ON, NEAR = [0, 0, 40, 30], [0, 0, 40, 10]  # IoU .75 and .25 with BOX
CLOSE_TO_NOTHING = [35, 35, 40, 40]  # IoU .008 with BOX
Thing = tuple[int, int, list[int], dict[str, Any]]  # image, category, box, more of the annotation
Found = tuple[int, int, list[int], float]  # image, category, box, score


def write_world(folder: Path, things: Sequence[Thing], found: Sequence[Found], **images: Any) -> tuple[str, str]:
    """Three images with all fields of LVIS, each with the same lists if they are given."""
    annotations = [
        {"id": i, "image_id": image, "category_id": k, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, **more}
        for i, (image, k, box, more) in enumerate(things, start=1)
    ]
    lists = {"neg_category_ids": [CAT, DOG, OKAPI], "not_exhaustive_category_ids": [], **images}
    content = {
        "images": [{"id": i, "height": 200, "width": 200, **lists} for i in (1, 2, 3)],
        "annotations": annotations,
        "categories": [{"id": k, "name": name, "frequency": "r" if k == OKAPI else "f"} for k, name in NAMES.items()],
    }
    rows = [{"image_id": i, "category_id": k, "bbox": box, "score": score} for i, k, box, score in found]
    return write(folder / "a.json", content), write(folder / "r.json", rows)


@pytest.fixture
def analysed(tmp_path):
    """Analyses a world of things and detections."""

    def run(things, found, protocol="coco", groups=None, **images) -> Analysis:
        return analyse_files(*write_world(tmp_path, things, found, **images), protocol, ["okapi"], groups)

    return run


def kinds(folder: Path, things: Sequence[Thing], found: Sequence[Found], protocol: str = "coco", **images: Any) -> list:
    """The kind of each detection that is evaluated, in the order in which they are given, if they are of one word."""
    files = read_files(*write_world(folder, things, found, **images), protocol, ["okapi"], None, "bbox")
    findings = classify(files.protocol, files.ground_truth, files.found, files.groups["novel"])
    order = np.argsort(-findings.detections.score, kind="stable")
    return [Kind(kind) for kind in findings.kind[order]]


# ---- which error it is ----


@pytest.mark.parametrize(
    ("thing", "box", "kind"),
    [
        (CAT, ON, Kind.HIT),
        (DOG, ON, Kind.CONFUSED_WITH_BASE),
        (OKAPI, ON, Kind.CONFUSED_WITH_NOVEL),
        (CAT, NEAR, Kind.LOOSE),
        (DOG, NEAR, Kind.PART),
        (OKAPI, NEAR, Kind.PART),
        (CAT, CLOSE_TO_NOTHING, Kind.BACKGROUND),
        (CAT, FAR, Kind.BACKGROUND),
    ],
)
def test_a_cat_is_what_the_object_under_it_says(tmp_path, thing, box, kind):
    assert kinds(tmp_path, [(1, thing, BOX, {})], [(1, CAT, box, 0.5)]) == [kind]


def test_the_second_detection_of_an_object_is_a_duplicate_and_the_better_score_is_first(tmp_path):
    found = [(1, CAT, BOX, 0.5), (1, CAT, ON, 0.9)]
    assert kinds(tmp_path, [(1, CAT, BOX, {})], found) == [Kind.HIT, Kind.DUPLICATE]


def test_an_object_of_another_image_explains_nothing(tmp_path):
    assert kinds(tmp_path, [(2, CAT, BOX, {}), (2, DOG, BOX, {})], [(1, CAT, BOX, 0.5)]) == [Kind.BACKGROUND]


@pytest.mark.parametrize(
    ("cat", "dog", "kind"),
    [
        ([0, 0, 40, 10], BOX, Kind.CONFUSED_WITH_BASE),  # near the cat, on the dog: TIDE's code calls it loose
        ([0, 0, 40, 10], [0, 0, 40, 18], Kind.LOOSE),  # near both, even if the dog is nearer
        ([0, 0, 40, 30], BOX, Kind.CONFUSED_WITH_BASE),  # on both, of which the cat is found: the nearer one
        (BOX, [0, 0, 40, 30], Kind.DUPLICATE),
        (BOX, BOX, Kind.DUPLICATE),
    ],
)
def test_on_an_object_goes_before_near_one_and_the_nearer_before_the_farther(tmp_path, cat, dog, kind):
    things = [(1, CAT, cat, {}), (1, DOG, dog, {})]
    assert kinds(tmp_path, things, [(1, CAT, cat, 0.9), (1, CAT, BOX, 0.5)])[1] == kind


def test_crowds_are_no_errors_and_explain_none(tmp_path):
    crowd = {"iscrowd": 1}
    assert kinds(tmp_path, [(1, CAT, BOX, crowd)], [(1, CAT, ON, 0.5), (1, CAT, NEAR, 0.4)]) == [Kind.IGNORED] * 2
    assert kinds(tmp_path, [(1, DOG, BOX, crowd)], [(1, CAT, ON, 0.5)]) == [Kind.BACKGROUND]


def test_an_ignored_object_of_lvis_is_no_error(tmp_path):
    assert kinds(tmp_path, [(1, CAT, BOX, {"ignore": 1})], [(1, CAT, ON, 0.5)], "lvis") == [Kind.IGNORED]


def test_a_word_that_was_not_looked_for_in_the_image_is_no_error(tmp_path):
    things, found = [(1, DOG, BOX, {})], [(1, CAT, ON, 0.9), (1, DOG, FAR, 0.5)]
    assert kinds(tmp_path, things, found, "lvis", neg_category_ids=[]) == [Kind.BACKGROUND]  # of the dog alone
    assert kinds(tmp_path, things, found, "lvis", neg_category_ids=[CAT]) == [Kind.CONFUSED_WITH_BASE, Kind.BACKGROUND]


def test_a_word_of_which_not_all_is_annotated_has_hits_and_no_errors(tmp_path, analysed):
    things, found = [(1, DOG, BOX, {}), (1, CAT, FAR, {})], [(1, DOG, FAR, 0.9), (1, DOG, BOX, 0.8), (1, DOG, ON, 0.7)]
    lists = {"not_exhaustive_category_ids": [DOG]}
    assert kinds(tmp_path, things, found, "lvis", **lists) == [Kind.IGNORED, Kind.HIT, Kind.IGNORED]
    analysis = analysed(things, found, "lvis", **lists)
    assert analysis.groups["all"].best["hit"] == pytest.approx(50)  # all of dog, none of cat
    assert analysis.confusions == [] and analysis.groups["all"].seen == pytest.approx(50)


# ---- the n best ----


def test_of_a_word_with_two_objects_the_two_best_detections_count(analysed):
    things = [(1, CAT, BOX, {}), (2, CAT, BOX, {}), (1, DOG, FAR, {})]
    found = [(3, CAT, BOX, 0.9), (1, CAT, BOX, 0.8), (2, CAT, BOX, 0.7), (1, CAT, FAR, 0.6), (2, DOG, BOX, 0.1)]
    analysis = analysed(things, found)
    words = {word.word: word for word in analysis.words}
    expected = {name: 0.0 for name in words["cat"].best}
    assert words["cat"].best == expected | {"hit": 50, "background": 50}
    assert words["dog"].best == expected | {"confused_with_base": 100}
    assert analysis.groups["all"].best == expected | {"hit": 25, "background": 25, "confused_with_base": 50}
    assert [word.word for word in analysis.words] == ["dog", "cat"]  # the lowest AP50 first


def test_what_a_word_lacks_in_detections_is_absent(analysed):
    best = analysed([(i, CAT, BOX, {}) for i in (1, 2, 3)], [(1, CAT, BOX, 0.5)]).groups["base"].best
    assert (best["hit"], best["absent"]) == pytest.approx((100 / 3, 200 / 3))


def test_each_group_has_its_words(analysed):
    things = [(1, CAT, BOX, {}), (1, DOG, FAR, {}), (2, OKAPI, BOX, {})]
    analysis = analysed(things, [(1, CAT, BOX, 0.9), (2, OKAPI, NEAR, 0.8)], "lvis", {"pets": ["dog", "cat"]})
    assert list(analysis.groups) == ["all", "base", "novel", "pets", "rare", "common", "frequent"]
    words = {name: (group.words, group.objects) for name, group in analysis.groups.items()}
    assert words["all"] == (3, 3) and words["base"] == words["pets"] == words["frequent"] == (2, 2)
    assert words["novel"] == words["rare"] == (1, 1) and words["common"] == (0, 0)
    assert analysis.groups["novel"].best["loose"] == 100 and analysis.groups["pets"].best["absent"] == 50
    assert math.isnan(analysis.groups["common"].ap50) and math.isnan(analysis.groups["common"].best["hit"])


# ---- oracles ----


@pytest.mark.parametrize(
    ("found", "oracle"),
    [
        ((1, DOG, ON, 0.9), "class"),
        ((1, CAT, NEAR, 0.9), "location"),
        ((1, DOG, NEAR, 0.9), "missed"),
    ],
)
def test_an_object_that_one_error_hides_is_won_by_mending_it(analysed, found, oracle):
    gains = analysed([(1, CAT, BOX, {})], [found]).groups["all"].gains
    assert gains == pytest.approx({name: 100.0 * (name == oracle) for name in ORACLES})


@pytest.mark.parametrize(
    ("false", "oracle"),
    [
        ((1, CAT, ON, 0.9), "duplicates"),
        ((1, CAT, [100, 100, 40, 10], 0.9), "class_and_location"),
        ((1, CAT, [60, 60, 30, 30], 0.9), "background"),
    ],
)
def test_a_false_alarm_before_a_hit_is_won_by_removing_it(analysed, false, oracle):
    things = [(1, CAT, BOX, {}), (2, CAT, BOX, {}), (1, DOG, FAR, {})]
    found = [(1, CAT, BOX, 0.95), false, (2, CAT, BOX, 0.5), (1, DOG, FAR, 0.5)]
    group = analysed(things, found).groups["all"]
    cat = 100 * (51 + 50 * 2 / 3) / 101  # a hit, a false alarm, a hit: precision 1 up to recall 1/2, then 2/3
    assert group.ap50 == pytest.approx((cat + 100) / 2)
    assert group.gains == pytest.approx({name: (100 - cat) / 2 * (name == oracle) for name in ORACLES})


def test_of_two_detections_that_an_oracle_gives_an_object_the_better_stays(analysed):
    things = [(1, CAT, BOX, {}), (2, CAT, BOX, {})]
    found = [(1, CAT, BOX, 0.3), (2, CAT, FAR, 0.5), (1, DOG, ON, 0.9), (2, CAT, BOX, 0.2)]
    group = analysed(things, found).groups["all"]
    assert group.ap50 == pytest.approx(100 * 2 / 3)  # a false alarm, then both hits: precision 1/2, then 2/3
    mended = (51 + 50 * 2 / 3) / 101  # the dog becomes the first hit, before the false alarm; the old hit goes
    assert group.gains["class"] == pytest.approx(100 * (mended - 2 / 3))


def test_misses_that_words_or_boxes_would_mend_are_not_forgotten(analysed):
    things = [(i, CAT, BOX, {}) for i in (1, 2, 3)]
    found = [(1, CAT, BOX, 0.9), (2, CAT, NEAR, 0.8)]
    group = analysed(things, found).groups["all"]
    assert group.ap50 == pytest.approx(100 * 34 / 101)  # recall 1/3
    assert group.gains["missed"] == pytest.approx(100 * (51 - 34) / 101)  # the third is forgotten: recall 1/2
    assert group.gains["location"] == pytest.approx(100 * (67 - 34) / 101)  # recall 2/3


# ---- the right word, recall ----


def test_the_best_scoring_detection_on_an_object_says_what_it_is_taken_for(analysed):
    things = [(1, CAT, BOX, {}), (2, CAT, BOX, {}), (3, CAT, BOX, {}), (1, OKAPI, FAR, {})]
    found = [
        (1, CAT, BOX, 0.5), (1, DOG, ON, 0.6), (1, DOG, NEAR, 0.9),  # taken for a dog
        (2, CAT, ON, 0.6), (2, DOG, BOX, 0.5),  # right
        (3, DOG, NEAR, 0.9),  # not seen
        (1, CAT, FAR, 0.2),
    ]  # fmt: skip
    analysis = analysed(things, found)
    groups = analysis.groups
    assert (groups["all"].seen, groups["base"].seen) == pytest.approx((75, 200 / 3))
    assert (groups["all"].right_word, groups["base"].right_word) == pytest.approx((100 / 3, 50))
    assert groups["novel"].right_word == 0
    assert [tuple(confusion) for confusion in analysis.confusions] == [
        ("cat", False, "dog", 1, pytest.approx(50)), ("okapi", True, "cat", 1, pytest.approx(100)),
    ]  # fmt: skip


def test_who_finds_another_object_in_the_same_place_is_not_wrong_about_this_one(analysed):
    things = [(1, CAT, BOX, {}), (1, DOG, ON, {})]
    analysis = analysed(things, [(1, CAT, BOX, 0.9), (1, DOG, ON, 0.8)])
    assert analysis.confusions == [] and analysis.groups["all"].right_word == 100


def test_boxes_are_looked_at_whatever_their_word(analysed):
    things = [(1, CAT, BOX, {}), (2, CAT, BOX, {}), (3, OKAPI, BOX, {}), (1, OKAPI, FAR, {})]
    found = [(1, DOG, ON, 0.9), (2, DOG, [0, 0, 40, 22], 0.9), (3, DOG, NEAR, 0.9)]  # IoU .75, .55, .25
    groups = analysed(things, found).groups
    assert groups["all"].recall == {"AR50@100": 50, "AR50@300": 50, "AR75@100": 25, "AR75@300": 25}
    assert groups["novel"].recall["AR50@100"] == 0 and groups["base"].recall["AR75@300"] == 50
    assert groups["all"].best_iou == [25, 0, 25, 0, 0, 25, 0, 25, 0, 0]


# ---- what holds in any world ----

WORLDS = [(protocol, seed) for protocol in PROTOCOLS if protocol != "ov-coco" for seed in range(3)]


@pytest.fixture
def world(request, tmp_path):
    """A protocol, and a random world for it."""
    protocol, seed = request.param
    return protocol, *random_world(tmp_path, seed, crowds=protocol in ("coco", "objects365"))


def first_names(annotations: str, count: int = 2) -> list[str]:
    return [row["name"] for row in json.loads(Path(annotations).read_text())["categories"]][:count]


@pytest.mark.parametrize("world", WORLDS, indirect=True)
def test_ap50_and_recall_are_those_of_evaluation(world):
    protocol, annotations, results = world
    novel, groups = first_names(annotations), {"some": first_names(annotations, 4)}
    metrics = evaluate_file(annotations, results, protocol, novel, groups)["bbox"]
    analysis = analyse_files(annotations, results, protocol, novel, groups)
    for name in ("base", "novel", "some"):
        assert analysis.groups[name].ap50 == pytest.approx(metrics[f"AP50-{name}"], abs=1e-9, nan_ok=True)
    assert analysis.groups["all"].ap50 == pytest.approx(metrics["AP50"], abs=1e-9)
    assert metrics["AP50"] > 5


@pytest.mark.parametrize("world", WORLDS, indirect=True)
def test_shares_sum_to_100_and_no_oracle_costs_anything(world):
    protocol, annotations, results = world
    analysis = analyse_files(annotations, results, protocol, first_names(annotations))
    for group in analysis.groups.values():
        if group.objects:
            assert sum(group.best.values()) == pytest.approx(100) and min(group.best.values()) >= 0
            assert sum(group.best_iou) == pytest.approx(100)
            assert min(group.gains.values()) >= -1e-9
            assert sum(group.best_iou[5:]) >= group.recall["AR50@300"] - 1e-9  # one to one finds no more
    assert max(analysis.groups["all"].gains.values()) > 1
    assert sum(confusion.objects for confusion in analysis.confusions) > 0


def with_scores_apart(results: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = json.loads(Path(results).read_text())
    for row, score in zip(rows, rng.permutation(len(rows))):
        row["score"] = float(score + 1) / (len(rows) + 1)
    return rows


@pytest.mark.parametrize("world", [("coco", 0), ("lvis", 1), ("lvis-fixed", 2)], indirect=True)
def test_the_order_of_detections_changes_nothing(world, tmp_path):
    protocol, annotations, results = world
    rng, novel = np.random.default_rng(0), first_names(annotations)
    rows = with_scores_apart(results, rng)
    answers = [
        analyse_files(annotations, write(tmp_path / "r.json", [rows[i] for i in order]), protocol, novel)
        for order in (range(len(rows)), rng.permutation(len(rows)))
    ]
    np.testing.assert_equal(as_record(answers[0]), as_record(answers[1]))


def perfect(annotations: str, least_area: float) -> list[dict[str, Any]]:
    content = json.loads(Path(annotations).read_text())
    things = [row for row in content["annotations"] if row["area"] >= least_area]
    return [
        {"image_id": row["image_id"], "category_id": row["category_id"], "bbox": row["bbox"], "score": 1 - i / 1000}
        for i, row in enumerate(things)
    ]


@pytest.mark.parametrize("world", [("coco", 0), ("lvis", 1), ("voc", 2)], indirect=True)
def test_a_perfect_detector_has_hits_alone_and_nothing_to_mend(world, tmp_path):
    protocol, annotations, _ = world
    results = write(tmp_path / "r.json", perfect(annotations, 1e-9 if protocol == "lvis" else 0))
    analysis = analyse_files(annotations, results, protocol, first_names(annotations))
    everything = analysis.groups["all"]
    assert everything.ap50 == pytest.approx(100) and everything.gains == pytest.approx(dict.fromkeys(ORACLES, 0.0))
    assert everything.best == {name: 100.0 * (name == "hit") for name in everything.best}
    assert (everything.seen, everything.right_word, everything.best_iou[-1]) == (100, 100, 100)
    assert analysis.confusions == []


def test_a_duplicate_that_is_added_changes_duplicates_alone(analysed):
    things = [(i, k, BOX if k == CAT else FAR, {}) for i in (1, 2, 3) for k in (CAT, OKAPI)]
    found = [(i, k, box, 0.9 - i / 10) for i, k, box, _ in things]
    before = analysed(things, found).groups
    after = analysed(things, [*found, (1, CAT, ON, 0.75)]).groups  # before the second and third hit
    changed = {name: after["base"].best[name] - before["base"].best[name] for name in before["base"].best}
    assert changed == pytest.approx({**dict.fromkeys(changed, 0.0), "hit": -100 / 3, "duplicate": 100 / 3})
    assert after["base"].gains["duplicates"] == pytest.approx(100 - after["base"].ap50) and after["base"].ap50 < 100
    assert {name for name, gain in after["all"].gains.items() if gain > 1e-9} == {"duplicates"}
    assert after["novel"] == before["novel"]
    assert after["base"].recall == before["base"].recall and after["base"].right_word == before["base"].right_word


@pytest.mark.parametrize("world", [("coco", 0), ("lvis", 1)], indirect=True)
def test_images_looked_at_one_by_one_give_the_same(world, monkeypatch):
    protocol, annotations, results = world
    whole = analyse_files(annotations, results, protocol, first_names(annotations))
    monkeypatch.setattr(kinds_of_errors, "PAIRS_OF_IMAGES", 1)
    np.testing.assert_equal(as_record(analyse_files(annotations, results, protocol, first_names(annotations))),
                            as_record(whole))  # fmt: skip


def test_masks_are_analysed_as_masks(tmp_path):
    annotations, results = random_world(tmp_path, 1)
    rows = write(tmp_path / "masks.json", with_masks(json.loads(Path(results).read_text())))
    novel = first_names(annotations)
    metrics = evaluate_file(annotations, rows, "lvis", novel, iou_type="segm")["segm"]
    analysis = analyse_files(annotations, rows, "lvis", novel, iou_type="segm")
    assert analysis.groups["novel"].ap50 == pytest.approx(metrics["AP50-novel"], abs=1e-9)
    assert analysis.groups["all"].ap50 == pytest.approx(metrics["AP50"], abs=1e-9)


def test_no_detections_are_all_absent_and_all_missed(analysed):
    group = analysed([(1, CAT, BOX, {}), (1, OKAPI, FAR, {})], []).groups["all"]
    assert group.best["absent"] == 100 and group.ap50 == group.seen == 0 and math.isnan(group.right_word)
    assert group.gains == {name: 100.0 * (name == "missed") for name in ORACLES}
    assert group.best_iou == [100] + [0] * 9


# ---- words and refusals ----


def test_the_report_says_what_costs_most_and_names_confusions(analysed):
    analysis = analysed([(1, CAT, BOX, {}), (2, OKAPI, BOX, {})], [(1, CAT, BOX, 0.9), (2, DOG, BOX, 0.8)])
    text = report(analysis)
    assert "- base words: AP50 100.0." in text
    assert "- novel words: AP50 0.0; most would be won with right words (+100.0)." in text
    assert "| okapi  |       1 | dog         |         1 |             100.0 |" in text
    assert [line.split("|")[1].strip() for line in word_table(analysis).splitlines()[2:]] == ["okapi", "cat"]


def test_a_group_of_unknown_words_or_with_a_name_that_is_taken_is_refused(analysed, tmp_path):
    with pytest.raises(ValueError, match='Group "unseen": 1 not in .*"unicorn"'):
        analysed([(1, CAT, BOX, {})], [], groups={"unseen": ["unicorn"]})
    with pytest.raises(ValueError, match='The group "rare" is always there; name another than all, base'):
        analysed([(1, CAT, BOX, {})], [], groups={"rare": ["cat"]})


def test_files_without_an_object_to_find_are_refused(analysed):
    with pytest.raises(ValueError, match="a.json has no object that is to be found"):
        analysed([(1, CAT, BOX, {"iscrowd": 1})], [(1, CAT, BOX, 0.5)])
