"""A detector without an encoder: the neck's maps are the memory, and nothing is left over that no loss would reach."""

import pytest
import torch

from tests.model_fixtures import configured_detector, stir, tiny_input, training_losses

NAMES = ("detr_R50", "conditional_detr_R50", "deformable_detr_R50", "deformable_detr_two_stage_R50", "dino_R50_4scale")


@pytest.mark.parametrize("name", NAMES)
def test_without_encoder_layers_every_parameter_is_reached(name: str) -> None:
    """DDP waits for the gradient of each."""
    detector = configured_detector(name, ENCODER_LAYERS=0)
    sum(training_losses(detector, [tiny_input(), tiny_input(seed=1)]).values()).backward()
    assert not [name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("name", NAMES)
def test_without_encoder_layers_the_memory_is_what_the_neck_gives(name: str) -> None:
    detector = stir(configured_detector(name, ENCODER_LAYERS=0))
    with torch.no_grad():
        images = detector.preprocess([tiny_input(), tiny_input(seed=1)])
        pyramid = detector.extract_features(images)
        memory = detector.encoder(pyramid)
    tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in pyramid.levels], dim=1)
    assert torch.equal(memory.tokens, tokens)
    assert len(detector([tiny_input()])[0]["instances"])
