"""Vocabulary: what it refuses by name, and that names, embeddings and novelty stay together."""

import pytest
import torch
from torch.nn import functional as F

from dk_detr.structures import Vocabulary

NAMES = ("cat", "yak", "dog")
ROWS = torch.eye(3, 4)
NOVEL = torch.tensor([False, True, False])


def test_it_says_what_it_is() -> None:
    vocabulary = Vocabulary(NAMES, ROWS, NOVEL, {"file": "words.npz"})
    assert (len(vocabulary), vocabulary.width, vocabulary.novel_names) == (3, 4, ("yak",))
    assert vocabulary.describe() == "3 names, 1 novel, width 4, words.npz"


def test_selection_takes_names_embeddings_and_novelty_in_the_order_asked_for() -> None:
    chosen = Vocabulary(NAMES, ROWS, NOVEL, {"prompt": "single"}).select(["dog", "yak"])
    assert chosen.names == ("dog", "yak")
    assert torch.equal(chosen.embeddings, ROWS[[2, 1]])
    assert chosen.novel.tolist() == [False, True]
    assert chosen.provenance == {"prompt": "single"}


def test_unknown_names_are_named() -> None:
    with pytest.raises(ValueError, match='lacks 2 of 3 names; the first unknown: "emu", "gnu"'):
        Vocabulary(NAMES, ROWS, NOVEL).select(["cat", "emu", "gnu"])


def test_what_to_do_about_unknown_names_is_said_where_they_come_from() -> None:
    for provenance, advice in (({}, "tools/build_vocabulary.py"), ({"remedy": "Ask the cat."}, "Ask the cat.")):
        with pytest.raises(ValueError, match=rf'the first unknown: "emu"\. .*{advice}'):
            Vocabulary(NAMES, ROWS, NOVEL, provenance).select(["emu"])


def test_the_base_words_keep_their_order() -> None:
    base = Vocabulary(NAMES, ROWS, NOVEL).base()
    assert base.names == ("cat", "dog") and not base.novel.any()
    assert torch.equal(base.embeddings, ROWS[[0, 2]])


def test_a_vocabulary_of_novel_words_only_has_no_base() -> None:
    with pytest.raises(ValueError, match="All 3 names of the vocabulary are novel"):
        Vocabulary(NAMES, ROWS, torch.ones(3, dtype=torch.bool)).base()


def test_an_empty_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        Vocabulary((), torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool))
    with pytest.raises(ValueError, match="empty"):
        Vocabulary(NAMES, ROWS, NOVEL).select([])


def test_repeated_names_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match='repeated: "cat"'):
        Vocabulary(("cat", "yak", "cat"), ROWS, NOVEL)


def test_a_wrong_count_of_embeddings_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3 names need embeddings of shape \(3, E\), got \(2, 4\)"):
        Vocabulary(NAMES, ROWS[:2], NOVEL)
    with pytest.raises(ValueError, match=r"got \(12,\)"):
        Vocabulary(NAMES, ROWS.flatten(), NOVEL)


@pytest.mark.parametrize("novel", [torch.zeros(2, dtype=torch.bool), torch.zeros(3)])
def test_a_novelty_mask_of_another_kind_is_refused(novel: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"bool tensor of shape \(3,\)"):
        Vocabulary(NAMES, ROWS, novel)


@pytest.mark.parametrize("value", [0.0, 10.0, float("nan"), float("inf")])
def test_rows_that_are_not_of_unit_length_are_refused_by_name(value: float) -> None:
    rows = ROWS.clone()
    rows[1, 1] = value
    with pytest.raises(ValueError, match='unit rows; 1 are not, among them "yak"'):
        Vocabulary(NAMES, rows, NOVEL)


def test_a_long_list_of_wrong_names_is_cut_short() -> None:
    names = tuple(f"word {i}" for i in range(10))
    with pytest.raises(ValueError, match='"word 0", "word 1", "word 2" and 7 more'):
        Vocabulary(names, torch.zeros(10, 4), torch.zeros(10, dtype=torch.bool))


def test_embeddings_rounded_to_half_floats_still_count_as_unit() -> None:
    rows = F.normalize(torch.randn(50, 512, generator=torch.Generator().manual_seed(0)), dim=1).half().float()
    assert len(Vocabulary(tuple(map(str, range(50))), rows, torch.zeros(50, dtype=torch.bool))) == 50
