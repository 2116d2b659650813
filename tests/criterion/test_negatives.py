"""Negatives: which words an image's queries learn not to be, and that the words of its objects are always learned."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from torch import Tensor
from torch.nn import functional as F

from dk_detr import add_dk_detr_config
from dk_detr.criterion import (
    NEGATIVES,
    All,
    Federated,
    Focal,
    HungarianMatcher,
    Negatives,
    OtherClusters,
    SetCriterion,
)
from dk_detr.criterion.negatives import cluster
from dk_detr.structures import Assignment, Predictions, Targets, Vocabulary
from tests.model_fixtures import fixed_seed, random, targets_of, tiny_vocabulary

WORDS = 6
BOX, OTHER_BOX = [0.3, 0.3, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2]
TARGETS = targets_of(([4, 1], [BOX, OTHER_BOX]), ([4], [BOX]), ([], []))
PAIRS = Assignment(*torch.tensor([[0, 0, 0, 1], [0, 0, 1, 0], [2, 0, 1, 3], [0, 1, 0, 1]]))
MATES = torch.tensor([0, 1, 1, 2, 2, 2])  # {0}, {1, 2}, {3, 4, 5}


def settings(**options: Any) -> CfgNode:
    """MODEL.DETR.LOSS; "__" for the dots of keys."""
    cfg = get_cfg()
    add_dk_detr_config(cfg)
    pairs = {f"MODEL.DETR.LOSS.{key.replace('__', '.')}": value for key, value in options.items()}
    cfg.merge_from_list([word for pair in pairs.items() for word in pair])
    return cfg.MODEL.DETR.LOSS


def gradients(negatives: Negatives, targets: Targets = TARGETS, pairs: Assignment = PAIRS) -> Tensor:
    """(2 layers, 3 images, 5 queries, K) of the class loss."""
    logits = random(2, len(targets.labels), 5, WORDS).requires_grad_()
    predictions = Predictions(logits, random(2, len(targets.labels), 5, 4, seed=1).sigmoid())
    Focal(negatives).loss(predictions, targets, pairs).sum().backward()
    assert logits.grad is not None
    return logits.grad


def labelled(pairs: Assignment = PAIRS) -> Tensor:
    """True where a query is matched to an object of the word, of the shape of `gradients`."""
    found = torch.zeros(2, 3, 5, WORDS, dtype=torch.bool)
    words = TARGETS.padded[0][pairs.image, pairs.target]
    found[pairs.layer, pairs.image, pairs.query, words] = True
    return found


# ---- what a choice does to the loss ----


class These(Negatives):
    """Chosen by hand: (B, K)."""

    def __init__(self, chosen: Tensor) -> None:
        self.chosen = chosen

    @classmethod
    def from_config(cls, loss: CfgNode, words: Vocabulary) -> "These":
        """See `Negatives`."""
        raise NotImplementedError

    def __call__(self, targets: Targets, num_words: int) -> Tensor:
        """See `Negatives`."""
        return self.chosen


def test_what_is_chosen_has_the_gradient_of_all_words_and_nothing_else_has_any_but_matched_words() -> None:
    chosen = random(3, WORDS, seed=3) > 0
    assert chosen.any() and not chosen.all()
    learned = chosen[None, :, None] | labelled()
    torch.testing.assert_close(gradients(These(chosen)), gradients(All()) * learned, rtol=0, atol=0)
    assert (gradients(All()) != 0).all()


def test_without_a_negative_the_words_of_matched_queries_alone_are_learned() -> None:
    found = gradients(These(torch.zeros(3, WORDS, dtype=torch.bool)))
    assert torch.equal(found != 0, labelled()) and (found[labelled()] < 0).all()


def test_all_words_are_negatives_by_default_and_bit_for_bit_as_with_a_choice_of_all() -> None:
    assert Focal() == Focal(All())
    assert torch.equal(gradients(All()), gradients(These(torch.ones(3, WORDS, dtype=torch.bool))))


@pytest.mark.parametrize("name", NEGATIVES)
def test_matching_knows_no_choice(name: str) -> None:
    negatives = NEGATIVES[name].from_config(settings(FEDERATED__NUM_WORDS=1, CLUSTERS__NUMBER=2), tiny_vocabulary())
    predictions = Predictions(random(1, 3, 5, 5), random(1, 3, 5, 4, seed=1).sigmoid())
    assert torch.equal(Focal(negatives).cost(predictions, TARGETS), Focal().cost(predictions, TARGETS))


# ---- Federated ----


def federated(num_words: int, weights: list[float] | None = None) -> Federated:
    return Federated(num_words, torch.tensor(weights or [1.0] * WORDS))


def drawn(negatives: Federated, targets: Targets = TARGETS) -> set[int]:
    """The words of one draw, which are those of every image."""
    fresh = Targets(targets.labels, targets.boxes)
    chosen = negatives(fresh, WORDS)
    assert chosen.shape == (len(targets.labels), WORDS) and (chosen == chosen[0]).all()
    return set(chosen[0].nonzero().flatten().tolist())


@pytest.mark.parametrize("num_words", range(1, WORDS + 3))
def test_the_words_of_the_batch_and_others_up_to_the_number_are_negatives(num_words: int) -> None:
    with fixed_seed():
        draws = [drawn(federated(num_words)) for _ in range(20)]
    assert all({1, 4} <= words and len(words) == min(max(num_words, 2), WORDS) for words in draws)
    assert len(set(map(frozenset, draws))) > 1 or num_words in (1, 2, 6, 7, 8)


def test_a_word_outside_the_drawn_set_has_exactly_no_gradient_in_any_image() -> None:
    negatives = federated(3)
    with fixed_seed():
        found = gradients(negatives)
    (more,) = set(negatives(TARGETS, WORDS)[0].nonzero().flatten().tolist()) - {1, 4}
    assert (found[..., [1, 4, more]] != 0).all()
    assert not found[..., [word for word in range(WORDS) if word not in (1, 4, more)]].any()


def test_draws_follow_the_weights_without_replacement() -> None:
    """Two of four words beside those of the batch: by hand, the chance that a word is the first or the second."""
    weights, times = {0: 1.0, 2: 2.0, 3: 3.0, 5: 4.0}, 4000
    negatives = federated(4, [weights.get(word, 100.0) for word in range(WORDS)])
    with fixed_seed():
        draws = [drawn(negatives) for _ in range(times)]
    for word, weight in weights.items():
        second = sum(w / 10 * weight / (10 - w) for other, w in weights.items() if other != word)
        share = sum(word in words for words in draws) / times
        assert share == pytest.approx(weight / 10 + second, abs=0.03), word  # four standard deviations


def test_a_word_of_no_weight_is_a_negative_only_where_it_is_labelled() -> None:
    negatives = federated(6, [0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    assert drawn(negatives) == {1, 2, 3, 4}
    assert drawn(negatives, targets_of(([], []))) == {2, 3}


def test_a_draw_follows_the_seed_and_differs_from_step_to_step() -> None:
    negatives, steps = federated(3), []
    for _ in range(2):
        with fixed_seed(5):
            steps.append([drawn(negatives) for _ in range(10)])
    assert steps[0] == steps[1] and len(set(map(frozenset, steps[0]))) > 1


def test_all_losses_of_a_step_have_one_draw() -> None:
    """Those of detection queries and of denoising queries: one criterion, one batch of targets."""
    criterion = SetCriterion(HungarianMatcher(class_loss=Focal(federated(3))), {"class": 1.0})
    for step in range(5):
        targets, seen = Targets(TARGETS.labels, TARGETS.boxes), []
        for seed in (0, 1):
            logits = random(2, 3, 5, WORDS, seed=seed).requires_grad_()
            predictions = Predictions(logits, random(2, 3, 5, 4, seed=2).sigmoid())
            with fixed_seed(10 * step + seed):
                sum(criterion.losses(predictions, targets, PAIRS, 3.0, "dn_").values()).backward()
            assert logits.grad is not None
            seen.append((logits.grad != 0).flatten(0, 2).any(0))
        assert torch.equal(*seen) and seen[0].sum() == 3


# ---- the file of counts ----


def counts_file(folder: Path, counts: dict[str, Any], as_annotations: bool = False) -> str:
    categories = [{"id": i, "name": name, "image_count": count} for i, (name, count) in enumerate(counts.items())]
    path = folder / "counts.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}
                               if as_annotations else categories))  # fmt: skip
    return str(path)


@pytest.mark.parametrize("as_annotations", [False, True], ids=["list", "annotations"])
def test_counts_are_found_by_name_and_weigh_by_their_root(tmp_path: Path, as_annotations: bool) -> None:
    counts = {"unknown": 7, "word 2": 400, "word 0": 100, "word 1": 0, "word 3": 25, "word 4": 1600}
    path = counts_file(tmp_path, counts, as_annotations)
    loss = settings(FEDERATED__COUNTS=path, FEDERATED__NUM_WORDS=7)
    made = Federated.from_config(loss, tiny_vocabulary())
    torch.testing.assert_close(made.weights / made.weights[3], torch.tensor([2.0, 0.0, 4.0, 1.0, 8.0]))
    assert made.num_words == 7
    loss.FEDERATED.POWER = 1.0
    made = Federated.from_config(loss, tiny_vocabulary())
    torch.testing.assert_close(made.weights / made.weights[3], torch.tensor([4.0, 0.0, 16.0, 1.0, 64.0]))
    loss.FEDERATED.POWER = 0.0
    assert (Federated.from_config(loss, tiny_vocabulary()).weights == 1).all()


def test_without_a_file_words_are_equally_likely() -> None:
    made = Federated.from_config(settings(), tiny_vocabulary())
    assert made.num_words == 50 and torch.equal(made.weights, torch.ones(5))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"word 0": 1, "word_1": 2, "word 2": 1}, r'has no "image_count" of "word 1", a word of training: add it'),
        ({"word 0": 1, "word 1": None}, r'has no "image_count" of "word 1"'),
        ({"word 0": 1, "word 1": "many"}, r'the "image_count" of "word 1" is \'many\'; wanted a whole number'),
        ({"word 0": 1, "word 1": -2}, r'the "image_count" of "word 1" is -2; wanted 0 or more'),
    ],
)
def test_a_word_without_a_count_is_named_with_the_file_and_the_key(
    tmp_path: Path, counts: dict[str, Any], message: str
) -> None:
    loss = settings(FEDERATED__COUNTS=counts_file(tmp_path, counts))
    with pytest.raises(ValueError, match=rf"counts.json \(MODEL.DETR.LOSS.FEDERATED.COUNTS\):? {message}"):
        Federated.from_config(loss, tiny_vocabulary())


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"gone.json \(MODEL.DETR.LOSS.FEDERATED.COUNTS\)"):
        Federated.from_config(settings(FEDERATED__COUNTS="gone.json"), tiny_vocabulary())


# ---- OtherClusters ----


def test_a_cluster_mate_of_an_object_is_no_negative_in_its_image_and_is_one_in_others() -> None:
    """Image 0 has words 4 and 1: 3, 5 and 2 go. Image 1 has 4: 3 and 5 go. Image 2 has none."""
    chosen = OtherClusters(MATES)(TARGETS, WORDS)
    assert [row.nonzero().flatten().tolist() for row in chosen] == [[0, 1, 4], [0, 1, 2, 4], [0, 1, 2, 3, 4, 5]]
    found = gradients(OtherClusters(MATES))
    assert not found[:, 0][..., [2, 3, 5]].any() and not found[:, 1][..., [3, 5]].any()
    assert (found[:, 1, :, 2] != 0).all() and (found[:, 2] != 0).all()


def test_labelled_words_of_one_cluster_are_negatives_of_one_another() -> None:
    chosen = OtherClusters(MATES)(targets_of(([3, 5], [BOX, OTHER_BOX])), WORDS)
    assert chosen.tolist() == [[True, True, True, True, False, True]]


def test_clusters_are_of_the_text_embeddings_and_the_same_every_time() -> None:
    """Three directions with noise; the random numbers of training stay as they are."""
    group = torch.tensor([0, 1, 2, 1, 1, 0, 2, 2, 0, 2])
    rows = F.normalize(torch.eye(16)[group] + 0.05 * random(10, 16), dim=1)
    before = torch.get_rng_state()
    words = Vocabulary(tuple("abcdefghij"), rows, torch.zeros(10, dtype=torch.bool))
    made = OtherClusters.from_config(settings(CLUSTERS__NUMBER=3), words)
    assert torch.equal(before, torch.get_rng_state()) and made.num_clusters == 3
    assert torch.equal(made.clusters[:, None] == made.clusters, group[:, None] == group)
    assert torch.equal(cluster(rows, 3), made.clusters)


def test_as_many_clusters_as_words_are_all_words() -> None:
    made = OtherClusters.from_config(settings(CLUSTERS__NUMBER=5), tiny_vocabulary())
    assert made(TARGETS, 5).all()


def test_more_clusters_than_words_are_refused_with_both_numbers_and_keys() -> None:
    message = r"CLUSTERS.NUMBER is 6, but there are only 5 words of training \(MODEL.VOCABULARY.TRAIN.*MODEL.VOCAB"
    with pytest.raises(ValueError, match=message):
        OtherClusters.from_config(settings(CLUSTERS__NUMBER=6), tiny_vocabulary())


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("Federated", "FEDERATED.NUM_WORDS", 0), ("Federated", "FEDERATED.POWER", -0.5),
        ("Federated", "FEDERATED.POWER", float("nan")), ("OtherClusters", "CLUSTERS.NUMBER", 0),
    ],
)  # fmt: skip
def test_values_that_make_no_choice_are_refused_by_key(name: str, key: str, value: float) -> None:
    NEGATIVES[name].refuse_bad_values(settings())
    with pytest.raises(ValueError, match=f"MODEL.DETR.LOSS.{key} must be .*, got {value}"):
        NEGATIVES[name].refuse_bad_values(settings(**{key.replace(".", "__"): value}))
