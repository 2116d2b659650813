"""Templates of names: what they stand for, and what becomes of names under a table of them."""

import pytest

from dk_detr.convert.names import count, matching, pieces_of, renamed, some


def test_a_template_stands_for_names_with_its_holes_filled() -> None:
    assert pieces_of("layers.12.norm1.bias", "layers.{n}.norm{m}.{wb}") == {"n": "12", "m": "1", "wb": "bias"}
    assert pieces_of("level_embed", "level_embed") == {}


@pytest.mark.parametrize("name", ["layers.x.norm1.bias", "layers.1.norm1.mean", "module.layers.1.norm1.bias", "a"])
def test_a_template_stands_for_no_other_names(name: str) -> None:
    assert pieces_of(name, "layers.{n}.norm{m}.{wb}") is None


def test_a_dot_is_a_dot() -> None:
    assert pieces_of("fc_weight", "fc.{wb}") is None and pieces_of("fcxweight", "fc.weight") is None


def test_a_name_takes_its_pieces_along() -> None:
    table = {"encoder.{n}.fc{m}.{wb}": "layers.{n}.linear{m}.{wb}", "{rest}": "other.{rest}"}
    assert renamed("encoder.3.fc2.weight", table) == "layers.3.linear2.weight"
    assert renamed("decoder.1", table) == "other.decoder.1"
    assert renamed("decoder.1", {"encoder.{n}": "{n}"}) is None


def test_parts_of_deformable_attention_are_known_by_name() -> None:
    assert renamed("a.value_proj.bias", {"a.{msda}.{wb}": "b.{msda}.{wb}"}) == "b.value_proj.bias"
    assert renamed("a.q_proj.bias", {"a.{msda}.{wb}": "b.{msda}.{wb}"}) is None


def test_numbers_are_counted_from_zero_to_the_highest() -> None:
    assert count(["layers.0.a", "layers.10.b", "layers.2.a", "heads.11.a"], "layers.{n}.{rest}") == 11
    assert count(["heads.11.a"], "layers.{n}.{rest}") == 0


def test_matching_names_come_in_their_order() -> None:
    assert list(matching(["b.1", "c", "a.0"], "{rest}.{n}")) == [
        ("b.1", {"rest": "b", "n": "1"}), ("a.0", {"rest": "a", "n": "0"}),
    ]  # fmt: skip


def test_a_long_list_of_names_is_cut_short() -> None:
    assert some(["a", "b"]) == "a, b"
    assert some("abcdef") == "a, b, c and 3 more"
