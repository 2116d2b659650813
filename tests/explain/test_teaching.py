"""What is said of the distillation is what its losses are made of."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from dk_detr.distillation import SlotSelection, TermSettings, relational_kd_loss
from dk_detr.explain import Teaching
from dk_detr.explain.numbers import numbers_of_teaching
from dk_detr.explain.teaching import heard_by_terms, refuse_without_teacher, side_by_side, without_labels
from tests.model_fixtures import config_of, random, tiny_detector, tiny_distillation, tiny_input, tiny_vocabulary

SCOPES = ("image",)


def teaching(number: int = 6, width: int = 16, direction: str = "teacher_student") -> Teaching:
    rows = [F.normalize(random(number, width, seed=seed), dim=1) for seed in (1, 2)]
    boxes = torch.tensor([10.0, 10.0, 40.0, 50.0]).repeat(number, 1) + torch.arange(number)[:, None]
    return Teaching(tiny_vocabulary(), torch.arange(number), boxes, *rows, 0.1, direction, 0.05)


@pytest.mark.parametrize("queries", ["Auxiliary", "SelectedAuxiliary", "Detection"])
@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher"])
def test_the_mean_divergence_of_the_relations_is_the_loss_of_a_step(queries: str, direction: str) -> None:
    settings = TermSettings(relational_temperature=0.2, relational_direction=direction, relational_scopes=SCOPES)
    more: dict[str, Any] = {"filters": ()} if queries == "SelectedAuxiliary" else {}
    slots = SlotSelection(num_slots=5, min_side=0.0, **more)
    distillation = tiny_distillation(["relational"], queries, slots=slots, settings=settings)
    model = tiny_detector(distillation)
    sample = tiny_input()
    with torch.no_grad():
        loss = model.losses([without_labels(sample)])["loss_kd_relational_image"]
    student, knowledge = heard_by_terms(model, sample)
    told = Teaching(
        tiny_vocabulary(), knowledge.regions.query, knowledge.regions.boxes, F.normalize(knowledge.embeddings, dim=1),
        F.normalize(student, dim=1), 0.2, direction, 0.05,
    )  # fmt: skip
    assert len(told) == 5
    assert float(loss) > 0
    assert_close(told.divergences().mean(), loss)
    assert_close(side_by_side(told).divergences().mean(), loss)  # whatever the order
    assert_close(told.relations()[0].sum(1), torch.ones(5))


def test_of_several_taught_layers_the_last_is_heard() -> None:
    one, all_of_them = (tiny_detector(tiny_distillation(["relational"], layers=layers)) for layers in ("last", "all"))
    assert torch.equal(heard_by_terms(one, tiny_input())[0], heard_by_terms(all_of_them, tiny_input())[0])


def test_the_terms_are_those_of_before_even_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_detector(tiny_distillation(["relational", "semantic"]))
    terms = model.extensions["Distillation"].terms
    heard_by_terms(model, tiny_input())
    assert model.extensions["Distillation"].terms is terms
    monkeypatch.setattr(model, "losses", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        heard_by_terms(model, tiny_input())
    assert model.extensions["Distillation"].terms is terms


@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher"])
def test_relations_of_rows_are_those_of_the_loss(direction: str) -> None:
    told = teaching(direction=direction)
    loss = relational_kd_loss(told.student, told.teacher, told.temperature, direction)
    assert_close(told.divergences().mean(), loss)
    assert (told.divergences() >= 0).all()


def test_regions_that_the_teacher_finds_alike_stand_side_by_side_and_keep_their_rows() -> None:
    told = teaching(4)
    told = replace(told, teacher=F.normalize(told.teacher[[0, 1, 0, 1]] + 0.01 * random(4, 16, seed=5), dim=1))
    ordered = side_by_side(told)
    assert sorted(ordered.queries.tolist()) == [0, 1, 2, 3]
    assert {frozenset(ordered.queries[:2].tolist()), frozenset(ordered.queries[2:].tolist())} == {
        frozenset({0, 2}), frozenset({1, 3}),
    }  # fmt: skip
    for name in ("boxes_xyxy_abs", "teacher", "student"):
        assert torch.equal(getattr(ordered, name), getattr(told, name)[ordered.queries])


def test_a_region_that_is_a_word_has_this_word() -> None:
    words = tiny_vocabulary()
    told = replace(teaching(len(words)), teacher=words.embeddings)
    shares, _ = told.word_shares()
    assert shares.argmax(1).tolist() == list(range(len(words)))
    regions = numbers_of_teaching(told)["regions"]
    assert [region["teacher"][0]["name"] for region in regions] == list(words.names)
    assert [region["teacher"][0]["novel"] for region in regions] == words.novel.tolist()


def test_a_config_that_was_not_taught_by_clip_is_refused() -> None:
    with pytest.raises(ValueError, match=r'\[\] has no "Distillation": this detector was not taught by CLIP'):
        refuse_without_teacher(config_of("deformable_detr_R50"))
    random_clip = config_of("dk_detr_R50").clone()
    random_clip.defrost()
    random_clip.MODEL.CLIP.WEIGHTS = ""
    with pytest.raises(ValueError, match="random weights"):
        refuse_without_teacher(random_clip)
