"""Mixed query selection of DINO: tokens name words, the surest of any word are chosen, and only these are taught.

B images, S tokens, Q queries, C channels, K words.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dk_detr.criterion import HungarianMatcher, SetCriterion
from dk_detr.modeling import InitialQueries, Mixed, Proposals
from dk_detr.structures import FeaturePyramid, Memory
from tests.model_fixtures import CHANNELS, fixed_seed, random, stir, targets_of

Q, K = 6, 3
SHAPES = ((4, 5), (2, 3))


def pyramid(seed: int = 0, images: int = 2, shapes=SHAPES) -> FeaturePyramid:
    return FeaturePyramid(tuple(random(images, CHANNELS, h, w, seed=seed + h * w) for h, w in shapes))


def memory(seed: int = 0, images: int = 2) -> Memory:
    return Memory.from_pyramid(pyramid(seed, images))


def mixed(gives_position: bool = False) -> Mixed:
    with fixed_seed():
        return stir(Mixed(CHANNELS, Q, 0.1, num_words=K, gives_position=gives_position)).eval()


def by_hand(stage: Proposals, tokens: Memory, image: int) -> tuple[Tensor, Tensor]:
    """(S, K) logits and (S, 4) boxes of the tokens of an image, from its anchors."""
    logits, boxes = [], []
    linear, norm = stage.token
    first_box, second_box, third_box = stage.box_head.layers
    index = 0
    for level, (h, w) in enumerate(SHAPES):
        for row in range(h):
            for column in range(w):
                token = norm(linear(tokens.tokens[image, index]))
                logits.append(stage.objectness(token))
                anchor = torch.tensor([(column + 0.5) / w, (row + 0.5) / h, 0.1 * 2**level, 0.1 * 2**level])
                offset = third_box(second_box(first_box(token).clamp(min=0)).clamp(min=0))
                boxes.append((offset + (anchor / (1 - anchor)).log()).sigmoid())
                index += 1
    return torch.stack(logits), torch.stack(boxes)


def test_the_chosen_are_those_whose_surest_word_is_surest() -> None:
    stage, tokens = mixed(), memory()
    seen = stage(tokens)
    for image in range(2):
        logits, boxes = by_hand(stage, tokens, image)
        surest = [max(words) for words in logits.tolist()]
        order = sorted(range(len(surest)), key=lambda token: -surest[token])[:Q]
        torch.testing.assert_close(seen.objectness[image], torch.tensor([surest[token] for token in order]))
        torch.testing.assert_close(seen.predictions.logits[0, image], logits[order])
        torch.testing.assert_close(seen.predictions.boxes[0, image], boxes[order])
        torch.testing.assert_close(seen.group.reference[image], boxes[order])


def test_the_surest_of_all_words_is_not_the_surest_of_the_first() -> None:
    """Deformable DETR ranks by the first of its logits; DINO by the largest."""
    stage = mixed()
    stage.objectness.weight.data[0] = 0
    stage.objectness.bias.data[0] = -50
    seen = stage(memory())
    assert (seen.objectness > -40).all() and torch.equal(seen.objectness, seen.predictions.logits[0, ..., 1:].amax(-1))


def test_where_a_query_starts_has_no_gradient_and_what_is_said_of_it_has() -> None:
    seen = mixed()(memory())
    assert not seen.group.reference.requires_grad and not seen.objectness.requires_grad
    assert seen.predictions.boxes.requires_grad and seen.predictions.logits.requires_grad


def test_contents_are_learned_and_the_same_whatever_the_image_shows() -> None:
    stage = mixed()
    first, other = stage(memory()).group, stage(memory(seed=7)).group
    assert torch.equal(first.content, stage.content.weight.expand(2, -1, -1)) and torch.equal(
        first.content, other.content
    )
    assert not torch.allclose(first.reference, other.reference)
    assert first.position is None, "the decoder derives it from the boxes"


def test_where_positions_are_given_they_come_from_the_boxes_alone() -> None:
    stage = mixed(gives_position=True)
    group = stage(memory()).group
    torch.testing.assert_close(group.position, stage.position_of(group.reference, torch.float32))
    assert stage.position_of(group.reference[:, :2], torch.float32).shape == (2, 2, CHANNELS)
    assert mixed().position_of(group.reference, torch.float32) is None


def losses_of(seen: InitialQueries) -> Tensor:
    targets = targets_of(([2, 0], [[0.5, 0.5, 0.2, 0.4], [0.3, 0.6, 0.1, 0.2]]), ([1], [[0.4, 0.4, 0.3, 0.3]]))
    assert seen.proposal_targets(targets) is targets, "labels are those of the words"
    criterion = SetCriterion(HungarianMatcher(), {"class": 1.0, "l1": 5.0, "giou": 2.0})
    return sum(criterion(seen.predictions, targets, 3, "proposal_")[0].values())  # type: ignore[return-value]


def test_only_the_chosen_tokens_are_taught_and_all_of_these() -> None:
    stage, tokens = mixed(), memory()
    own = tokens.tokens.clone().requires_grad_()
    seen = stage(replace(tokens, tokens=own))
    losses_of(seen).backward()
    for image in range(2):
        surest = by_hand(stage, tokens, image)[0].amax(-1)
        chosen = set(surest.topk(Q).indices.tolist())
        assert set(own.grad[image].any(-1).nonzero().flatten().tolist()) == chosen


def test_objects_alone_are_all_taught_and_have_no_names() -> None:
    seen = Mixed(CHANNELS, Q, 0.1).eval()(memory())
    targets = targets_of(([2], [[0.5, 0.5, 0.2, 0.4]]), ([1], [[0.4, 0.4, 0.3, 0.3]]))
    assert [labels.tolist() for labels in seen.proposal_targets(targets).labels] == [[0], [0]]
    assert seen.predictions.logits.shape == (1, 2, 26, 1)


@pytest.mark.parametrize("gives_position", [False, True])
def test_all_parameters_learn_that_the_first_stage_or_the_decoder_can_reach(gives_position: bool) -> None:
    stage = mixed(gives_position)
    seen = stage(memory())
    total = losses_of(seen) + seen.group.content.square().sum()
    total = total + (seen.group.position.square().sum() if gives_position else 0)
    total.backward()
    assert not [name for name, parameter in stage.named_parameters() if parameter.grad is None]


def test_what_only_fills_up_a_smaller_image_is_neither_taught_nor_seen() -> None:
    stage = mixed()
    small, large = pyramid(1, 1, ((2, 1), (1, 1))), pyramid(2, 1)
    together = stage(Memory.from_pyramid(FeaturePyramid.stack([small, large])))
    assert together.group.valid.tolist() == [[True] * 3 + [False] * 3, [True] * Q]
    assert torch.equal(together.predictions.valid, together.group.valid)
    alone = stage(Memory.from_pyramid(small))
    torch.testing.assert_close(together.objectness[0, :3], alone.objectness[0])
    torch.testing.assert_close(together.predictions.logits[:, :1, :3], alone.predictions.logits)


def test_a_new_one_expects_each_word_in_one_token_of_a_hundred() -> None:
    stage = Mixed(CHANNELS, Q, 0.1, num_words=K, gives_position=False)
    torch.nn.init.zeros_(stage.objectness.weight)
    torch.testing.assert_close(stage(memory()).predictions.logits.sigmoid(), torch.full((1, 2, Q, K), 0.01))
