"""Sine codes: their frequencies and order, and that they count from the edge of the image, not of the padding."""

import math

import torch

from dk_detr.layers import sine_position_of_boxes, sine_position_of_cells
from dk_detr.layers.position import sine_code


def codes(shape: tuple[int, int], valid: torch.Tensor | None, width: int) -> torch.Tensor:
    """Codes of the cells without an offset."""
    return sine_position_of_cells(shape, valid, torch.zeros(width))


def test_an_offset_is_added_to_the_codes_of_all_cells() -> None:
    offset = torch.arange(8.0)
    torch.testing.assert_close(sine_position_of_cells((3, 5), None, offset), codes((3, 5), None, 8) + offset)


def test_a_code_is_sine_and_cosine_at_falling_frequencies() -> None:
    angle = 2 * math.pi * 0.3
    wanted = [math.sin(angle), math.cos(angle), math.sin(angle / 100), math.cos(angle / 100)]
    torch.testing.assert_close(sine_code(torch.tensor(0.3), 4), torch.tensor(wanted))


def test_the_middle_of_a_map_is_half_a_turn() -> None:
    code = codes((1, 1), None, 4)[0, 0]
    torch.testing.assert_close(code, torch.tensor([0.0, -1.0, 0.0, -1.0]), atol=1e-6, rtol=0)


def test_the_first_half_codes_y_and_the_second_x() -> None:
    code = codes((3, 5), None, 8).view(3, 5, 8)
    assert (code[:, :1, :4] == code[:, :, :4]).all() and (code[:1, :, 4:] == code[:, :, 4:]).all()
    assert not torch.allclose(code[0, :, :4], code[1, :, :4]) and not torch.allclose(code[:, 0, 4:], code[:, 1, 4:])


def test_mirrored_cells_have_mirrored_codes() -> None:
    """At the base frequency sin(2π(1 - x)) = -sin(2πx) and the cosines are equal: centres lie at half indices."""
    row = codes((1, 5), None, 4)[0, :, 2:]
    torch.testing.assert_close(row[:, 0], -row.flip(0)[:, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(row[:, 1], row.flip(0)[:, 1], atol=1e-6, rtol=0)


def test_a_square_map_has_the_same_code_along_both_axes() -> None:
    code = codes((4, 4), None, 8).view(4, 4, 8)
    torch.testing.assert_close(code[..., :4], code.transpose(0, 1)[..., 4:])


def test_padding_does_not_shift_the_image() -> None:
    padded = codes((4, 7), torch.tensor([[5, 3], [7, 4]]), 8).view(2, 4, 7, 8)
    torch.testing.assert_close(padded[0, :3, :5].flatten(0, 1), codes((3, 5), None, 8)[0])
    torch.testing.assert_close(padded[1].flatten(0, 1), codes((4, 7), None, 8)[0])


def test_boxes_are_coded_number_by_number_in_the_order_cx_cy_w_h() -> None:
    boxes = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]])
    code = sine_position_of_boxes(boxes, 6)
    assert code.shape == (2, 24)
    for number in range(4):
        torch.testing.assert_close(code[:, 6 * number : 6 * number + 6], sine_code(boxes[:, number], 6))


def test_codes_of_half_floats_are_computed_in_full_precision() -> None:
    boxes = torch.tensor([[0.25, 0.5, 0.125, 1.0]])
    torch.testing.assert_close(sine_position_of_boxes(boxes.half(), 8), sine_position_of_boxes(boxes, 8))
