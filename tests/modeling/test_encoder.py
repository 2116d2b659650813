"""The encoder: places counted from the image, padding without influence, padded images as if alone."""

import pytest
import torch
from torch import nn

from dk_detr.modeling import Encoder
from dk_detr.structures import FeaturePyramid, Memory
from tests.model_fixtures import CHANNELS, random, stir, tiny_encoder

SHAPES = ((5, 6), (3, 3))


def pyramid(shapes=SHAPES, seed: int = 0) -> FeaturePyramid:
    return FeaturePyramid(tuple(random(1, CHANNELS, h, w, seed=seed + h * w) for h, w in shapes))


def test_cell_centres_lie_half_a_cell_from_the_edge_of_the_image() -> None:
    memory = Memory.from_pyramid(FeaturePyramid((torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 1, 1))))
    centers = memory.centers
    assert centers.shape == (1, 9, 2)
    torch.testing.assert_close(centers[0, 4 * 1 + 2], torch.tensor([2.5 / 4, 1.5 / 2]))
    torch.testing.assert_close(centers[0, 8], torch.tensor([0.5, 0.5]))


def test_cell_centres_of_a_padded_image_are_those_of_the_image_alone() -> None:
    alone = [pyramid(((5, 3), (3, 2))), pyramid()]
    memory = Memory.from_pyramid(FeaturePyramid.stack(alone))
    for image, own in enumerate(alone):
        torch.testing.assert_close(
            memory.centers[image][~memory.padding[image]], Memory.from_pyramid(own).centers[0]
        )


def test_an_encoder_without_layers_passes_the_tokens_on() -> None:
    images = pyramid()
    memory = tiny_encoder(num_layers=0)(images)
    assert torch.equal(memory.tokens, Memory.from_pyramid(images).tokens)


def test_an_encoder_that_tells_nobody_its_levels_takes_weights_that_once_did() -> None:
    """Strictly: any other name that it does not have is an error."""
    detector = nn.ModuleDict({"encoder": Encoder([], 0, CHANNELS)})
    detector.load_state_dict({"encoder.level_embed": torch.zeros(2, CHANNELS)})
    with pytest.raises(RuntimeError, match="another"):
        detector.load_state_dict({"encoder.another": torch.zeros(2, CHANNELS)})


def test_tokens_of_all_levels_and_places_take_part() -> None:
    """A change of one cell of the coarse level reaches tokens of the fine one."""
    encoder, images = stir(tiny_encoder(2)), pyramid()
    before = encoder(images).tokens
    images.levels[1][:, :, 1, 1] += 1
    assert (encoder(images).tokens - before)[0, :30].abs().max() > 1e-4


def test_the_same_place_on_two_levels_differs_by_the_embeddings_of_the_levels() -> None:
    encoder = stir(tiny_encoder(num_layers=0))
    fine, coarse = encoder(pyramid(((3, 3), (3, 3)))).position.chunk(2, dim=1)
    torch.testing.assert_close(coarse - fine, (encoder.level_embed[1] - encoder.level_embed[0]).expand_as(fine))


def test_a_batch_of_two_equals_two_batches_of_one() -> None:
    encoder = stir(tiny_encoder(2)).eval()
    alone = [pyramid(((5, 3), (3, 2))), pyramid(seed=1)]
    together = encoder(FeaturePyramid.stack(alone))
    for image, own in enumerate(alone):
        torch.testing.assert_close(
            together.tokens[image][~together.padding[image]], encoder(own).tokens[0], atol=1e-5, rtol=1e-4
        )


def test_what_padding_holds_changes_no_token_of_the_image() -> None:
    encoder = stir(tiny_encoder(2)).eval()
    stacked = FeaturePyramid.stack([pyramid(((5, 3), (3, 2))), pyramid(seed=1)])
    before = encoder(stacked)
    padding = Memory.from_pyramid(stacked).padding
    for level, at in zip(stacked.levels, padding.split([h * w for h, w in SHAPES], dim=1)):
        level.masked_fill_(at.view(len(level), 1, *level.shape[-2:]), 1e3)
    after = encoder(stacked)
    assert torch.equal(after.tokens[~padding], before.tokens[~padding])
    assert not torch.equal(after.tokens[padding], before.tokens[padding])
