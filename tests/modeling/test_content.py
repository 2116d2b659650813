"""Content and anchors: what detection queries know, and where they start, before they have seen anything."""

import pytest
import torch

from dk_detr.modeling import Anchors, Learned
from dk_detr.modeling.queries import CONTENTS, Content
from dk_detr.structures import FeaturePyramid, Memory
from tests.model_fixtures import CHANNELS, fixed_seed, random

LIKE = torch.zeros(2, 7, 3)


def memory(images: int = 2, seed: int = 0) -> Memory:
    return Memory.from_pyramid(FeaturePyramid((random(images, CHANNELS, 3, 4, seed=seed),)))


def content(kind: str) -> Content:
    with fixed_seed():
        return Content(kind, 5, 8)


def test_learned_content_is_a_vector_for_each_query() -> None:
    made = content("Learned")
    assert made.weight.shape == (5, 8) and torch.equal(made(LIKE), made.weight.expand(2, -1, -1))


def test_common_content_is_one_vector_for_all_queries() -> None:
    """The label "unknown" of DN-DETR."""
    made = content("Common")
    assert made.weight.shape == (1, 8) and torch.equal(made(LIKE), made.weight.expand(2, 5, -1))


def test_zero_content_is_nothing_and_learns_nothing() -> None:
    made = content("Zero")
    assert not list(made.parameters()) and not made.state_dict()
    assert made(LIKE).shape == (2, 5, 8) and not made(LIKE).any()


@pytest.mark.parametrize("kind", CONTENTS)
def test_content_comes_in_the_precision_of_the_tokens(kind: str) -> None:
    assert content(kind)(LIKE.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_smaller_number_of_queries_gets_the_first(kind: str) -> None:
    """Where an image has fewer places than there are queries; one vector stays one for all of these."""
    made = content(kind)
    assert torch.equal(made(LIKE, 3), made(LIKE)[:, :3])


def test_unknown_content_is_refused_with_what_is_known() -> None:
    with pytest.raises(ValueError, match='MODEL.DETR.CONTENT is "Random"; choose one of Learned, Common, Zero'):
        Content("Random", 5, 8)


def test_learned_content_starts_from_normal_numbers() -> None:
    with fixed_seed():
        weight = Content("Learned", 1000, 64).weight.detach()
    assert abs(float(weight.mean())) < 0.01 and abs(float(weight.std()) - 1) < 0.01


# ---- anchors, and learned queries with and without points ----


def test_anchors_are_learned_boxes_the_same_for_every_image() -> None:
    with fixed_seed():
        queries = Anchors(CHANNELS, 6)
    stage, other = queries(memory()), queries(memory(images=1, seed=5))
    logits = queries.anchors.weight
    torch.testing.assert_close(stage.group.reference, (1 / (1 + (-logits).exp())).expand(2, -1, -1))
    assert torch.equal(other.group.reference[0], stage.group.reference[0])
    assert stage.group.reference.requires_grad and stage.group.position is None
    assert not stage.group.content.any() and stage.group.content.shape == (2, 6, CHANNELS)
    assert (stage.predictions, stage.objectness, stage.group.valid) == (None, None, None)
    group = stage.group
    assert group.name == group.reference_from == "detection" and group.attends_to == ("detection",)


def test_new_anchors_are_boxes_of_normal_logits() -> None:
    with fixed_seed():
        logits = Anchors(CHANNELS, 3000).anchors.weight.detach()
    assert logits.shape == (3000, 4)
    assert (logits.mean(0).abs() < 0.06).all() and ((logits.std(0) - 1).abs() < 0.05).all()


def test_anchors_stay_in_full_precision() -> None:
    half = memory()
    half.tokens.data = half.tokens.bfloat16()
    group = Anchors(CHANNELS, 6)(half).group
    assert group.reference.dtype == torch.float32 and group.content.dtype == torch.bfloat16


def test_without_point_layers_learned_queries_have_no_reference() -> None:
    queries = Learned(CHANNELS, 6, "Zero", point_layers=0)
    assert queries.points_of(queries.position.weight) is None and queries(memory()).group.reference is None
    assert queries.reference_width == 0
    assert [name for name, _ in queries.named_parameters()] == ["position.weight"]


def test_conditional_detr_reads_its_points_off_positions_by_two_layers() -> None:
    with fixed_seed():
        queries = Learned(CHANNELS, 6, "Zero", point_layers=2)
    first, second = queries.reference.layers
    hidden = (queries.position.weight @ first.weight.T + first.bias).clamp(min=0)
    wanted = (hidden @ second.weight.T + second.bias).sigmoid()
    torch.testing.assert_close(queries(memory()).group.reference, wanted.expand(2, -1, -1))
