"""Who is novel: what benchmarks say, and whose word counts where several speak."""

import pytest

from dk_detr.annotations import choose_novel, marked_novel, novel_of_benchmark
from dk_detr.annotations.ov_coco import NOVEL

CATEGORIES = [
    {"name": "person", "frequency": "f", "split": "seen"},
    {"name": "yak", "frequency": "r"},
    {"name": "cat", "frequency": "c"},
    {"name": "gnu", "split": "unseen"},
]


def test_the_user_is_believed_before_the_benchmark_the_vocabulary_and_the_marks_in_this_order() -> None:
    claims = {"told": ["a"], "listed": ["b"], "vocabulary": ["c"], "marked": ["d"]}
    while claims:
        first, names = next(iter(claims.items()))
        assert choose_novel(**dict(reversed(claims.items()))) == tuple(names), f"{first} comes first of {[*claims]}"
        del claims[first]
    assert choose_novel() == ()


@pytest.mark.parametrize("who", ["told", "listed", "vocabulary"])
def test_who_says_that_nobody_is_novel_is_believed_and_who_says_nothing_is_passed_over(who: str) -> None:
    assert choose_novel(**{who: [], "marked": ["d"]}) == ()
    assert choose_novel(**{who: None, "marked": ["d"]}) == ("d",)


def test_rare_and_unseen_categories_are_marked() -> None:
    assert marked_novel(CATEGORIES) == ("yak", "gnu")


@pytest.mark.parametrize(
    ("benchmark", "novel"),
    [("lvis", ("yak", "gnu")), ("lvis-fixed", ("yak", "gnu")), ("ov-coco", ("cat",)), ("coco", ()), ("voc", ())],
)
def test_a_benchmark_says_it_by_marks_or_by_a_list_of_names_or_not_at_all(benchmark: str, novel: object) -> None:
    assert novel_of_benchmark(benchmark, CATEGORIES) == novel


def test_a_list_says_nothing_of_categories_that_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="none of the 65 categories of OV-COCO"):
        novel_of_benchmark("ov-coco", [{"name": "yak"}])
    assert novel_of_benchmark("ov-coco", [{"name": "person"}]) == ()
    assert novel_of_benchmark("ov-coco", [{"name": name} for name in NOVEL]) == tuple(NOVEL)
