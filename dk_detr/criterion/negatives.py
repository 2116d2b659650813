"""Negatives: which words the queries of an image learn not to be. Sigmoid losses are elementwise and leave the choice.

B images, K words of training, C clusters.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from scipy.cluster.vq import kmeans, vq
from torch import Tensor

from dk_detr.annotations import read_categories
from dk_detr.annotations.records import whole
from dk_detr.structures import Targets, Vocabulary

_KEY = "MODEL.DETR.LOSS"


class Negatives(ABC):
    """A choice of words for each image. It takes no word from the queries that are matched to an object of it."""

    @classmethod
    def refuse_bad_values(cls, loss: CfgNode) -> None:
        """Asked before anything is built. Raises ValueError for values of MODEL.DETR.LOSS that make no choice, naming
        their keys."""

    @classmethod
    @abstractmethod
    def from_config(cls, loss: CfgNode, words: Vocabulary) -> "Negatives":
        """loss: MODEL.DETR.LOSS. words: K of training, in the order of the class axis."""

    @abstractmethod
    def __call__(self, targets: Targets, num_words: int) -> Tensor | None:
        """(B, K) bool, True where a word counts as a negative; None where all do. The same for every call with the same
        targets: detection and denoising queries of a step learn the same words."""


@dataclass(frozen=True)
class All(Negatives):
    """Every word of training, in every image."""

    @classmethod
    def from_config(cls, loss: CfgNode, words: Vocabulary) -> "All":
        """See `Negatives`."""
        return cls()

    def __call__(self, targets: Targets, num_words: int) -> None:
        """See `Negatives`."""


class Federated(Negatives):
    """The words of the batch's objects, and others drawn to a fixed number: rare words then are negatives less often.

    Workers, and the parts of a batch that is accumulated, draw for themselves.

    Args:
        num_words: together; more where the objects of a batch have more.
        weights: (K,) 0 or more, what the probability of a draw is proportional to.

    Source: the federated loss of CenterNet2 (Zhou et al., 2021) and Detic (ECCV 2022).
    """

    def __init__(self, num_words: int, weights: Tensor) -> None:
        self.num_words, self.weights = num_words, weights
        self._drawn: tuple[Targets, Tensor] | None = None

    @classmethod
    def refuse_bad_values(cls, loss: CfgNode) -> None:
        """See `Negatives`."""
        if loss.FEDERATED.NUM_WORDS < 1:
            raise ValueError(f"{_KEY}.FEDERATED.NUM_WORDS must be at least 1, got {loss.FEDERATED.NUM_WORDS}.")
        if not 0 <= loss.FEDERATED.POWER < np.inf:
            raise ValueError(f"{_KEY}.FEDERATED.POWER must be a number from 0, got {loss.FEDERATED.POWER}.")

    @classmethod
    def from_config(cls, loss: CfgNode, words: Vocabulary) -> "Federated":
        """See `Negatives`. Raises what `image_counts` raises."""
        federated = loss.FEDERATED
        if not federated.COUNTS:
            return cls(federated.NUM_WORDS, torch.ones(len(words)))
        counts = torch.tensor(image_counts(federated.COUNTS, words.names), dtype=torch.float32)
        return cls(federated.NUM_WORDS, (counts / counts.max().clamp(min=1)) ** federated.POWER)

    def __call__(self, targets: Targets, num_words: int) -> Tensor:
        """See `Negatives`."""
        if self._drawn is None or self._drawn[0] is not targets:
            self._drawn = targets, self._draw(_present(targets.labels, num_words).any(0))
        return self._drawn[1].expand(len(targets.labels), -1)

    def _draw(self, present: Tensor) -> Tensor:
        """(K,) bool -> (K,) bool, those and as many more as fit. Exponential times of rate w arrive in the order of
        draws without replacement, whose probability is proportional to w: the host need not wait for how many fit."""
        self.weights = self.weights.to(present.device)
        arrival = torch.empty_like(self.weights).exponential_() / self.weights
        arrival = arrival.masked_fill(self.weights == 0, torch.inf).masked_fill(present, -1)
        chosen = torch.zeros_like(present).index_fill(0, arrival.argsort()[: self.num_words], True)
        return chosen & arrival.isfinite() | present


class OtherClusters(Negatives):
    """All but the unlabelled words that resemble a labelled one: they may be names of the same object.

    Args:
        clusters: (K,) the number of each word's cluster, from 0.

    Source: the concept clusters of LaMI-DETR (ECCV 2024), there of embeddings by a language model.
    """

    def __init__(self, clusters: Tensor) -> None:
        self.clusters, self.num_clusters = clusters, int(clusters.max()) + 1

    @classmethod
    def refuse_bad_values(cls, loss: CfgNode) -> None:
        """See `Negatives`."""
        if loss.CLUSTERS.NUMBER < 1:
            raise ValueError(f"{_KEY}.CLUSTERS.NUMBER must be at least 1, got {loss.CLUSTERS.NUMBER}.")

    @classmethod
    def from_config(cls, loss: CfgNode, words: Vocabulary) -> "OtherClusters":
        """See `Negatives`. Raises ValueError for more clusters than words."""
        if loss.CLUSTERS.NUMBER > len(words):
            raise ValueError(
                f"{_KEY}.CLUSTERS.NUMBER is {loss.CLUSTERS.NUMBER}, but there are only {len(words)} words of training "
                "(MODEL.VOCABULARY.TRAIN, or the base words of MODEL.VOCABULARY.TEST): choose fewer clusters, or "
                f'{_KEY}.NEGATIVES "All".'
            )
        return cls(cluster(words.embeddings, loss.CLUSTERS.NUMBER))

    def __call__(self, targets: Targets, num_words: int) -> Tensor:
        """See `Negatives`."""
        self.clusters = self.clusters.to(targets.labels[0].device)
        of_objects = _present([self.clusters[labels] for labels in targets.labels], self.num_clusters)
        return ~of_objects[:, self.clusters] | _present(targets.labels, num_words)


NEGATIVES: dict[str, type[Negatives]] = {"All": All, "Federated": Federated, "OtherClusters": OtherClusters}
"""By their name in MODEL.DETR.LOSS.NEGATIVES."""


def image_counts(path: str, names: Sequence[str]) -> list[int]:
    """The number of training images of each word, of a file that is a list of categories with "name" and "image_count",
    or an annotation file whose categories have these. Names match letter by letter.

    Raises: FileNotFoundError; ValueError naming the file, and the first word without a count or with a bad one.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no {path} ({_KEY}.FEDERATED.COUNTS): name another file, or \"\" for none.")
    given = {category["name"]: category.get("image_count") for category in read_categories(path)}
    return [_count(name, given.get(name), path) for name in names]


def _count(name: str, given: object, path: str) -> int:
    where = f"{path} ({_KEY}.FEDERATED.COUNTS)"
    if given is None:
        raise ValueError(
            f'{where} has no "image_count" of "{name}", a word of training: add it, name another file, or set '
            f'{_KEY}.FEDERATED.COUNTS "" for words that are equally likely.'
        )
    try:
        count = whole(given)
    except ValueError as error:
        raise ValueError(f'{where}: the "image_count" of "{name}" is {error}.') from error
    if count < 0:
        raise ValueError(f'{where}: the "image_count" of "{name}" is {count}; wanted 0 or more.')
    return count


def cluster(rows: Tensor, number: int) -> Tensor:
    """(K, E) -> (K,) the cluster of each row, by k-means: the best of five starts, the same five each time. There are
    fewer than `number` where rows are equal."""
    values = rows.double().cpu().numpy()
    centres, _ = kmeans(values, number, iter=5, seed=0)
    return torch.from_numpy(vq(values, centres)[0].astype(np.int64))


def _present(labels: Iterable[Tensor], number: int) -> Tensor:
    """(B, number) bool, True where an image has the label."""
    return torch.stack([each.new_zeros(number, dtype=torch.bool).index_fill(0, each, True) for each in labels])
