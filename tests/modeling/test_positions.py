"""Positions: what a query is told about its place, by the formulas written out one number at a time.

B images, Q queries, C channels.
"""

import math

import pytest
import torch
from torch import Tensor

from dk_detr.layers import MLP, sine_position_of_cells
from dk_detr.modeling import POSITIONS, Encoder
from dk_detr.modeling.positions import Positions, code_of
from dk_detr.structures import FeaturePyramid, Memory
from tests.model_fixtures import fixed_seed, random, stir

C = 8
QUERIES = (2, 3)


def sines(value: float, width: int, temperature: float = 10000.0) -> list[float]:
    """sin, cos, sin, cos, … of 2π · value at falling frequencies."""
    code = []
    for pair in range(width // 2):
        angle = 2 * math.pi * value / temperature ** (2 * pair / width)
        code += [math.sin(angle), math.cos(angle)]
    return code


def code_by_hand(box: list[float]) -> list[float]:
    """Of (x, y) or (x, y, w, h), as the releases have it: y, x, w, h, each C / 2 numbers."""
    x, y, *sides = box
    return [number for value in (y, x, *sides) for number in sines(value, C // 2)]


def mlp(module: torch.nn.Module, x: Tensor) -> Tensor:
    """Two linear layers, ReLU between."""
    first, second = module.layers
    return (x @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias


def part(name: str) -> Positions:
    with fixed_seed():
        return stir(POSITIONS[name](C))


def given() -> Tensor:
    return random(*QUERIES, C, seed=1)


def content() -> Tensor:
    return random(*QUERIES, C, seed=2)


def boxes() -> Tensor:
    return random(*QUERIES, 4, seed=3).sigmoid() * 0.6 + 0.2


def codes(of: Tensor) -> Tensor:
    return torch.tensor([[code_by_hand(box) for box in image] for image in of.tolist()])


@pytest.mark.parametrize("width", [2, 4])
def test_codes_are_of_y_x_w_h_in_this_order(width: int) -> None:
    torch.testing.assert_close(code_of(boxes()[..., :width], content()), codes(boxes()[..., :width]))


def test_codes_come_in_the_precision_of_the_content_but_are_computed_in_full() -> None:
    code = code_of(boxes(), content().bfloat16())
    assert code.dtype == torch.bfloat16
    assert torch.equal(code, codes(boxes()).bfloat16())


@pytest.mark.parametrize("layer", [0, 1, 5])
def test_given_positions_are_what_the_queries_brought(layer: int) -> None:
    position = part("Given")(given(), content(), None, layer)
    assert torch.equal(position.self_attention, given()) and torch.equal(position.cross_attention, given())


@pytest.mark.parametrize("width", [2, 4], ids=["points", "boxes"])
def test_conditional_detr_seeks_the_code_of_its_point_scaled_by_the_content_from_the_second_layer_on(
    width: int,
) -> None:
    positions, code = part("ConditionalSine"), codes(boxes()[..., :2])
    for layer in range(3):
        position = positions(given(), content(), boxes()[..., :width], layer)
        scale = 1 if layer == 0 else mlp(positions.scale, content())
        torch.testing.assert_close(position.cross_attention, code * scale)
        assert torch.equal(position.self_attention, given())


@pytest.mark.parametrize("layer", [0, 2])
def test_dino_reads_its_position_off_the_code_of_the_box(layer: int) -> None:
    positions = part("SineAnchors")
    position = positions(None, content(), boxes(), layer)
    torch.testing.assert_close(position.self_attention, mlp(positions.of_box, codes(boxes())))
    assert torch.equal(position.cross_attention, position.self_attention)
    other = positions(None, 3 * content(), boxes(), layer)
    assert torch.equal(other.self_attention, position.self_attention), "the content has no say"


def test_dab_deformable_detr_scales_that_by_the_content_from_the_second_layer_on() -> None:
    positions = part("ScaledSineAnchors")
    for layer in range(3):
        position = positions(None, content(), boxes(), layer)
        scale = 1 if layer == 0 else mlp(positions.scale, content())
        torch.testing.assert_close(position.self_attention, mlp(positions.of_box, codes(boxes())) * scale)
        assert torch.equal(position.cross_attention, position.self_attention)


def test_dab_detr_fits_the_code_of_the_centre_to_the_shape_of_the_box() -> None:
    """The half of y is multiplied by what the content sees of the height, over the height; that of x by the width's."""
    positions = part("ModulatedSineAnchors")
    for layer in range(3):
        position = positions(None, content(), boxes(), layer)
        scale = torch.ones(*QUERIES, C) if layer == 0 else mlp(positions.scale, content())
        seen_size = 1 / (1 + (-mlp(positions.size, content())).exp())
        for image in range(2):
            for query in range(3):
                x, y, w, h = boxes()[image, query].tolist()
                seen_w, seen_h = seen_size[image, query].tolist()
                halves = [number * seen_h / h for number in sines(y, C // 2)]
                halves += [number * seen_w / w for number in sines(x, C // 2)]
                wanted = torch.tensor(halves) * scale[image, query]
                torch.testing.assert_close(position.cross_attention[image, query], wanted)
        torch.testing.assert_close(position.self_attention, mlp(positions.of_box, codes(boxes())))


def test_a_box_as_large_as_it_is_seen_is_not_modulated() -> None:
    positions = part("ModulatedSineAnchors")
    size = mlp(positions.size, content()).sigmoid()
    fitting = torch.cat([boxes()[..., :2], size], dim=-1)
    torch.testing.assert_close(positions(None, content(), fitting, 0).cross_attention, codes(fitting[..., :2]))


@pytest.mark.parametrize("name", POSITIONS)
def test_each_learns_through_all_that_it_reads(name: str) -> None:
    """Anchors are learned by where they look, too."""
    positions = part(name)
    brings = given().requires_grad_() if positions.given else None
    reference = boxes()[..., : positions.width].requires_grad_() if positions.width else None
    position = positions(brings, content(), reference, 1)
    (position.self_attention.square().sum() + position.cross_attention.square().sum()).backward()
    for read in (brings, reference, *positions.parameters()):
        assert read is None or read.grad.any()


@pytest.mark.parametrize("name", POSITIONS)
def test_what_is_missing_is_named(name: str) -> None:
    positions = part(name)
    with pytest.raises(ValueError, match="needs queries with a (position|reference)"):
        positions(None, content(), boxes()[..., : positions.width] if positions.given and positions.width else None, 0)


# ---- of the cells of feature maps ----


def image_code_of_detr(seen: list[list[bool]], channels: int, temperature: float) -> Tensor:
    """(h·w, C) as DETR's release computes it: count the cells that show the image, over their last number."""
    h, w = len(seen), len(seen[0])
    code = []
    for row in range(h):
        for column in range(w):
            y = sum(seen[i][column] for i in range(row + 1)) / (sum(seen[i][column] for i in range(h)) + 1e-6)
            x = sum(seen[row][j] for j in range(column + 1)) / (sum(seen[row][j] for j in range(w)) + 1e-6)
            code.append(sines(y, channels // 2, temperature) + sines(x, channels // 2, temperature))
    return torch.tensor(code)


@pytest.mark.parametrize("temperature", [20.0, 10000.0])
def test_cells_are_coded_as_in_detr_on_padded_maps_too(temperature: float) -> None:
    h, w, extents = 4, 6, ((6, 4), (3, 4), (5, 2))
    made = sine_position_of_cells((h, w), torch.tensor(extents), torch.zeros(C), temperature, first=1.0)
    for image, (wide, high) in enumerate(extents):
        seen = [[column < wide and row < high for column in range(w)] for row in range(h)]
        wanted = image_code_of_detr(seen, C, temperature)
        shown = torch.tensor(seen).flatten()
        torch.testing.assert_close(made[image][shown], wanted[shown], atol=1e-4, rtol=0)
    whole = sine_position_of_cells((h, w), None, torch.zeros(C), temperature, first=1.0)
    torch.testing.assert_close(whole[0], made[0])


class Spy(torch.nn.Module):
    """A layer of an encoder that tells the positions that it is given, and doubles its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.positions: list[Tensor] = []

    def forward(self, tokens: Tensor, position: Tensor, memory: Memory) -> Tensor:
        self.positions.append(position)
        return 2 * tokens


def encoder_of_spies(scale: torch.nn.Module | None) -> tuple[Encoder, list[Spy]]:
    spies = [Spy(), Spy()]
    return Encoder(spies, 0, C, temperature=20.0, first=1.0, scale=scale), spies


def test_dab_detrs_encoder_scales_the_codes_by_what_the_tokens_know_in_each_layer() -> None:
    scale = stir(MLP(C, C, C, 2))
    encoder, spies = encoder_of_spies(scale)
    image = random(2, C, 2, 3)
    memory = encoder(FeaturePyramid((image,)))
    code = image_code_of_detr([[True] * 3] * 2, C, 20.0)
    tokens = image.flatten(2).transpose(1, 2)
    torch.testing.assert_close(spies[0].positions[0], code * mlp(scale, tokens), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(spies[1].positions[0], code * mlp(scale, 2 * tokens), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(memory.position[0], code, atol=1e-4, rtol=0)


def test_without_a_scale_all_layers_are_told_the_same_and_so_is_the_decoder() -> None:
    encoder, spies = encoder_of_spies(None)
    memory = encoder(FeaturePyramid((random(2, C, 2, 3),)))
    assert encoder.level_embed is None
    assert torch.equal(spies[0].positions[0], memory.position) and torch.equal(spies[1].positions[0], memory.position)
