"""The first stage: the tokens that most look like an object become queries, whatever the object is called."""

import pytest
import torch
from torch import nn

from dk_detr.modeling import Mixed, Proposals
from dk_detr.structures import FeaturePyramid, Memory
from tests.model_fixtures import CHANNELS, fixed_seed, random, stir

SHAPES = ((6, 8), (3, 4))


def memory(shapes=SHAPES, seed: int = 0, images: int = 1) -> Memory:
    return Memory.from_pyramid(pyramid(shapes, seed, images))


def pyramid(shapes=SHAPES, seed: int = 0, images: int = 1) -> FeaturePyramid:
    return FeaturePyramid(tuple(random(images, CHANNELS, h, w, seed=seed + h * w) for h, w in shapes))


def proposals(num_queries: int = 10, anchor_size: float = 0.1) -> Proposals:
    return Proposals(CHANNELS, num_queries, anchor_size).eval()


def test_queries_are_the_tokens_of_highest_objectness_the_best_first() -> None:
    stage = stir(proposals())(memory(images=2))
    logits = stage.predictions.logits[0, ..., 0].masked_fill(~stage.predictions.valid, -torch.inf)
    best = logits.sort(dim=1, descending=True)
    torch.testing.assert_close(stage.objectness, best.values[:, :10])
    boxes = stage.predictions.boxes[0].gather(1, best.indices[:, :10, None].expand(-1, -1, 4))
    torch.testing.assert_close(stage.group.reference, boxes)


def test_a_new_first_stage_proposes_its_anchors_centred_on_cells_and_doubling_by_level() -> None:
    boxes = proposals()(memory()).predictions.boxes[0, 0]
    torch.testing.assert_close(boxes[1 * 8 + 2], torch.tensor([2.5 / 8, 1.5 / 6, 0.1, 0.1]))
    torch.testing.assert_close(boxes[48 + 2 * 4 + 3], torch.tensor([3.5 / 4, 2.5 / 3, 0.2, 0.2]))


def test_a_new_first_stage_expects_one_object_in_a_hundred_tokens() -> None:
    stage = proposals()
    torch.nn.init.zeros_(stage.objectness.weight)
    torch.testing.assert_close(stage(memory()).predictions.logits.sigmoid(), torch.full((1, 1, 60, 1), 0.01))


def test_the_first_stage_has_one_class_and_supervises_every_token() -> None:
    predictions = proposals()(memory(images=2)).predictions
    assert predictions.logits.shape == (1, 2, 60, 1) and predictions.boxes.shape == (1, 2, 60, 4)
    assert predictions.valid.all()


def test_tokens_on_the_very_edge_of_the_image_are_not_proposed() -> None:
    """A cell centre within 1 % of the edge would start from a logit that no step can leave."""
    shapes = ((2, 60), (1, 30))
    stage = proposals(num_queries=60)(memory(shapes))
    edge = torch.zeros(2, 60, dtype=torch.bool)
    edge[:, [0, 59]] = True
    assert torch.equal(stage.predictions.valid[0, :120], ~edge.flatten())
    assert not torch.isin(stage.group.reference[0, :, 0], torch.tensor([0.5 / 60, 59.5 / 60])).any()


def test_content_and_position_of_a_query_come_from_its_box_alone() -> None:
    stage = stir(proposals())
    first = stage(memory())
    shuffled = stage._group(first.group.reference.flip(1), torch.float32)
    torch.testing.assert_close(shuffled.content, first.group.content.flip(1))
    torch.testing.assert_close(shuffled.position, first.group.position.flip(1))
    assert not torch.allclose(first.group.content, first.group.position)
    assert first.group.content.shape == first.group.position.shape == (1, 10, CHANNELS)


def test_mixed_queries_take_their_position_from_the_box_and_learn_their_content() -> None:
    stage = Mixed(CHANNELS, 10, 0.1).eval()
    first, second = stage(memory()).group, stage(memory(seed=5)).group
    assert not first.content.any() and first.content.shape == (1, 10, CHANNELS)
    stir(stage.content)
    first, second = stage(memory(images=2)).group, stage(memory(seed=5)).group
    for image in range(2):
        assert torch.equal(first.content[image], stage.content.weight)
    assert torch.equal(second.content[0], stage.content.weight)
    assert not torch.allclose(first.position[0], second.position[0])
    torch.testing.assert_close(stage._group(first.reference.flip(1), torch.float32).position, first.position.flip(1))


def test_references_and_objectness_carry_no_gradient_and_predictions_do() -> None:
    stage = proposals()(memory())
    assert not stage.group.reference.requires_grad and not stage.objectness.requires_grad
    assert stage.predictions.boxes.requires_grad and stage.predictions.logits.requires_grad


def test_detection_queries_see_and_steer_themselves() -> None:
    group = proposals()(memory()).group
    assert (group.name, group.attends_to, group.reference_from) == ("detection", ("detection",), "detection")


def test_padding_is_never_proposed_and_changes_no_proposal() -> None:
    stage = stir(proposals())
    alone = [pyramid(((4, 5), (2, 3))), pyramid(seed=1)]
    stacked = FeaturePyramid.stack(alone)
    together = Memory.from_pyramid(stacked)
    together.tokens.masked_fill_(together.padding[..., None], 1e3)
    both = stage(together)
    assert not (both.predictions.valid & together.padding).any()
    for image, own in enumerate(alone):
        single = stage(Memory.from_pyramid(own))
        torch.testing.assert_close(both.objectness[image], single.objectness[0])
        torch.testing.assert_close(both.group.reference[image], single.group.reference[0])
        torch.testing.assert_close(both.group.content[image], single.group.content[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [Proposals, Mixed])
def test_an_image_with_fewer_tokens_than_queries_gives_what_it_has(kind: type[Proposals]) -> None:
    group = kind(CHANNELS, 61, 0.1).eval()(memory()).group
    assert len(group) == 60
    assert group.content.shape == group.position.shape == (*group.reference.shape[:2], CHANNELS)


def test_in_a_batch_with_a_larger_one_a_tiny_image_hides_the_queries_that_see_nothing() -> None:
    small, large = pyramid(((2, 2), (1, 1))), pyramid(((8, 10), (4, 5)), seed=1)
    stage = proposals(num_queries=20)(Memory.from_pyramid(FeaturePyramid.stack([small, large])))
    blocked = stage.group.inner_mask()
    number = int((stage.objectness[0] > -1e3).sum())
    assert 0 < number <= 5
    assert stage.group.valid.sum(1).tolist() == [number, 20] and stage.group.valid[0, :number].all()
    assert blocked[0, :, number:].sum() == 20 * (20 - number) - (20 - number), "all but themselves"
    assert not blocked[0, :, :number].any() and not blocked[1].any()


def test_a_first_stage_that_rates_boxes_proposes_what_is_an_object_and_fits() -> None:
    with fixed_seed():
        first_stage = stir(Proposals(CHANNELS, 10, 0.1, rates_boxes=True))
    given = first_stage(memory())
    predictions = given.predictions
    objectness, quality = predictions.logits[0, ..., 0].sigmoid(), predictions.quality[0].sigmoid()
    wanted = (objectness * quality).sqrt().masked_fill(~predictions.valid, 0.0)
    best, token = wanted.topk(10, dim=1)
    torch.testing.assert_close(given.objectness.sigmoid(), best)
    assert torch.equal(given.group.reference, predictions.boxes[0].gather(1, token[..., None].expand(-1, -1, 4)))
    assert not given.objectness.requires_grad and predictions.quality.requires_grad


def test_certainty_is_a_finite_logit() -> None:
    with fixed_seed():
        first_stage = Proposals(CHANNELS, 10, 0.1, rates_boxes=True)
    for layer in (first_stage.objectness, first_stage.quality.heads[0].layers[-1]):
        nn.init.constant_(layer.bias, 100.0)
    assert first_stage(memory()).objectness.isfinite().all()
