"""The ledger: every tensor of the source is used or listed, and nothing is taken for what it is not."""

import pytest
import torch
from torch import Tensor

from dk_detr.convert.ledger import Ledger
from tests.model_fixtures import random


def ledger(**tensors: Tensor) -> Ledger:
    """Names have "__" for their dots."""
    return Ledger({name.replace("__", "."): tensor for name, tensor in tensors.items()})


def test_what_a_table_names_is_used_under_its_name() -> None:
    books = ledger(fc1__weight=random(2, 3), fc2__weight=random(4, 5), other=random(1))
    books.rename({"fc{n}.weight": "linear{n}.weight"})
    assert set(books.target) == {"linear1.weight", "linear2.weight"}
    assert books.account() == ({"fc1.weight": ["linear1.weight"], "fc2.weight": ["linear2.weight"]}, {})


def test_a_tensor_that_nothing_has_become_of_is_an_error_that_names_it() -> None:
    books = ledger(fc1__weight=random(2, 3), strange=random(7))
    books.rename({"fc{n}.weight": "linear{n}.weight"})
    with pytest.raises(ValueError, match=r"no rule for 1 of the 2 tensors: strange \(7,\)"):
        books.check()


def test_what_is_left_out_is_listed_with_the_reason() -> None:
    books = ledger(bn1__num_batches_tracked=torch.tensor(3))
    books.leave({"{rest}.num_batches_tracked": "a counter"})
    books.check()
    assert books.account() == ({}, {"bn1.num_batches_tracked": "a counter"})


def test_two_tensors_do_not_become_the_same() -> None:
    books = ledger(fc1__weight=random(1), mlp__fc1__weight=random(1))
    with pytest.raises(ValueError, match=r"Both fc1.weight and mlp.fc1.weight would become linear.weight"):
        books.rename({"fc1.weight": "linear.weight", "mlp.fc1.weight": "linear.weight"})


def test_parts_are_split_and_joined_in_order() -> None:
    books = ledger(table=random(3, 4), q=torch.zeros(2), k=torch.ones(2), v=torch.full((2,), 2.0))
    books.split("table", ["first", "second"], dim=1)
    books.join(["q", "k", "v"], "packed")
    assert torch.equal(books.target["first"], books.state["table"][:, :2])
    assert torch.equal(books.target["second"], books.state["table"][:, 2:])
    assert books.target["packed"].tolist() == [0, 0, 1, 1, 2, 2]
    books.check()


def test_a_part_that_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="k is missing among the 1 tensors: the checkpoint is not whole"):
        ledger(q=torch.zeros(2)).join(["q", "k"], "packed")


def test_an_axis_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"table \(3, 5\) does not divide into 2 along axis 1"):
        ledger(table=random(3, 5)).split("table", ["a", "b"], dim=1)


def test_a_copy_is_listed_and_its_original_used() -> None:
    books = ledger(head__0=random(2), decoder__head__0=random(2))
    books.fold("decoder.head.{n}", "head.{n}", "a copy")
    assert books.account()[1] == {"decoder.head.0": "a copy"}


def test_a_copy_without_an_original_is_the_original_by_its_own_name() -> None:
    books = ledger(decoder__head__0=random(2))
    books.fold("decoder.head.{n}", "head.{n}", "a copy")
    books.use("head.0", "ours")
    books.listed["head.0[1:]"] = "not used"
    assert books.account() == ({"decoder.head.0": ["ours"]}, {"decoder.head.0[1:]": "not used"})


def test_a_tensor_of_the_result_takes_nothing_else_along() -> None:
    """A view of a large tensor would be saved with all of it; and the input must not change with the result."""
    large = random(100, 4)
    books = ledger(head=large)
    books.use("head", "ours", large[:1])
    assert books.target["ours"].untyped_storage().nbytes() == 4 * 4
    books.target["ours"].zero_()
    assert large[0].all()


def test_the_name_in_the_source_is_told_backwards() -> None:
    books = ledger()
    books.rename({"fc{n}.{wb}": "linear{n}.{wb}"})
    assert books.name_in_source("linear7.bias") == "fc7.bias"
    assert books.name_in_source("unheard.of") == ""
