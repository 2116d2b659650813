"""The words of a detector: those that it was trained for, and those that it detects. K words."""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.language import readable, require_one_space
from dk_detr.modeling import Linear
from dk_detr.structures import Vocabulary

logger = logging.getLogger(__name__)

REMEDY = "Build the words with the CLIP of the detector: tools/build_vocabulary.py, or MODEL.CLIP."


class OpenVocabularyDetector(nn.Module):
    """What detectors of any words share. `forward` takes Detectron2's samples, and in training, where a batch goes
    through in parts, `num_objects` (see `mean_num_objects`).

    Words are not learnt: weights are free of them, and any vocabulary of the same encoder fits. Checkpoints say beside
    the weights which words were trained, so that those of another encoder are noticed.

    Attributes:
        train_vocabulary: base words. vocabulary: the words to detect. train_text, text: their embeddings, on the
            device. novel: (K,) bool, of the words to detect. any_novel: whether there are such.
        trained_before: names that the weights were trained for before this training, which keeps them.
        least_score: what scores less need not be detected; a detector may ignore it.
    """

    train_vocabulary: Vocabulary
    vocabulary: Vocabulary
    train_text: Tensor
    text: Tensor
    novel: Tensor
    any_novel: bool
    trained_before: frozenset[str] = frozenset()
    least_score: float = 0.0

    @property
    def proposes(self) -> bool:
        """Whether boxes are proposed before they are named: then there are the two methods below."""
        return False

    @classmethod
    def detects_untrained(cls, cfg: CfgNode) -> bool:
        """Whether a detector of this config needs no MODEL.WEIGHTS, as it is made of trained parts."""
        return False

    @classmethod
    def only_in_training(cls, cfg: CfgNode) -> dict[str, Any]:
        """Keys of this kind of detector, with the values that leave out what only training needs."""
        return {}

    @property
    def parts_left_out(self) -> dict[str, str]:
        """How the names of weights begin that other detectors of this kind have and this one does without -> the keys
        that say so."""
        return {}

    @property
    def looks_at_objects(self) -> bool:
        """Whether it is shown the boxes of the ground truth in evaluation, "objects": to know how well it names what is
        there. Its outputs then have "named" beside "instances": the likeliest word of each, in their order."""
        return False

    def propose(self, batched_inputs: list[dict[str, Any]], limit: int | None = None) -> list[Instances]:
        """What the first stage takes for objects, at most `limit` of an image, None for all: Instances with
        proposal_boxes (xyxy in pixels of the output, clipped) and objectness_logits, the best first."""
        raise NotImplementedError(f"{type(self).__name__} proposes nothing.")

    def detect_with_proposals(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Detections, and beside "instances" the "proposals" that they were made from."""
        raise NotImplementedError(f"{type(self).__name__} proposes nothing.")

    @property
    def words_classifier(self) -> Any:
        """What says whether words are for this detector: `check(vocabulary)`."""
        return self.classifier

    def register_words(self, train_vocabulary: Vocabulary, vocabulary: Vocabulary) -> None:
        """To be called once, when the classifier is there."""
        self.train_vocabulary = train_vocabulary
        self.register_buffer("train_text", train_vocabulary.embeddings, persistent=False)
        self.register_buffer("text", vocabulary.embeddings, persistent=False)
        self.register_buffer("novel", vocabulary.novel, persistent=False)
        self.set_vocabulary(vocabulary)

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Detect these words from now on: known or new ones, in any order. Raises ValueError if they are not for the
        classifier, or of another text encoder than those of training."""
        self.words_classifier.check(vocabulary)
        require_one_space(vocabulary, self.train_vocabulary, REMEDY)
        self.vocabulary = vocabulary
        self.text = vocabulary.embeddings.to(self.text.device)
        novel = self.is_novel(vocabulary)
        self.novel, self.any_novel = novel.to(self.text.device), bool(novel.any())

    def words_of_training(self) -> dict[str, Any]:
        """What checkpoints say of the words of training: names, embeddings in half floats, and where they are from."""
        words = self.train_vocabulary
        provenance = {key: value for key, value in words.provenance.items() if key not in ("request", "remedy")}
        before = {"before": sorted(self.trained_before)} if self.trained_before else {}
        rows = words.embeddings.half().cpu()
        return {"names": list(words.names), "embeddings": rows, "provenance": provenance, **before}

    def remember_trained(self, saved: dict[str, Any] | None, anew: bool) -> None:
        """Count words as trained that earlier trainings of the weights knew.

        Args:
            saved: what `words_of_training` gave then; None of files that do not say. anew: whether another training
                begins with the weights, so that the words of theirs are of an earlier one.
        """
        names = [*saved.get("before", ()), *(saved["names"] if anew else ())] if saved else []
        if names:
            self.trained_before = frozenset(names)
            self.set_vocabulary(self.vocabulary)

    def is_novel(self, vocabulary: Vocabulary) -> Tensor:
        """(K,) bool: what was not trained, whatever the vocabulary says."""
        return untrained(vocabulary, [*self.train_vocabulary.names, *self.trained_before])


def refuse_unknown_classes(labels: Tensor, number: int, file_name: str) -> None:
    """Raises ValueError for a class of a sample that is not among the `number` words of training."""
    unknown = labels[(labels < 0) | (labels >= number)].tolist()
    if unknown:
        raise ValueError(
            f"Image {file_name}: class {unknown[0]} is not among the {number} words of training; use dk_detr's mapper "
            "(dk_detr.data)."
        )


def untrained(vocabulary: Vocabulary, names: Iterable[str]) -> Tensor:
    """(K,) bool, words that are not among the `names` of training, however they are spelt.

    Words of one's own come without a word on novelty, and other data sets call other words novel.
    """
    trained = set(map(readable, names))
    return torch.tensor([readable(name) not in trained for name in vocabulary.names])


def check_trained_words(model: OpenVocabularyDetector, saved: dict[str, Any] | None, path: str, goes_on: bool) -> None:
    """Whether weights were trained with words like those that the detector has for its training.

    Args:
        saved: what `words_of_training` gave then; None of files that are older or not ours. path: of the weights, for
            messages. goes_on: whether a run is taken up again.

    Raises: ValueError for words of another text encoder, or in another order where a closed detector knows them by
        their places. Weights that other training only starts from may be of any: then it is a warning.
    """
    if saved is None:
        logger.info(f"{path} does not tell by which text encoder the words of its training were encoded.")
        return
    rows = F.normalize(saved["embeddings"].float(), dim=1)
    trained = Vocabulary(tuple(saved["names"]), rows, torch.zeros(len(rows), dtype=torch.bool), saved["provenance"])
    try:
        if isinstance(model.words_classifier, Linear):
            _require_places(trained, model.train_vocabulary, path)
        else:
            require_one_space(model.train_vocabulary, trained, f"Those are what {path} was trained with. {REMEDY}")
    except ValueError as error:
        if goes_on or not model.training:
            raise
        logger.warning(f"{error} Training goes on from these weights all the same.")


def _require_places(trained: Vocabulary, here: Vocabulary, path: str) -> None:
    """The words of closed detectors are axes, and a class is what stands at its place."""
    if trained.width != here.width:
        return  # a detector of other shape, which is not loaded
    before, now = ({name: int(row.argmax()) for name, row in zip(v.names, v.embeddings)} for v in (trained, here))
    moved = [name for name in before.keys() & now.keys() if before[name] != now[name]]
    if moved:
        name = min(moved, key=before.__getitem__)
        raise ValueError(
            f'"{name}" is class {before[name]} of {path}, but class {now[name]} of MODEL.VOCABULARY '
            f"({here.describe()}): a closed detector knows words by their places. Name the vocabulary of its training."
        )
    names = {place: name for name, place in now.items()}
    renamed = [(name, names[place]) for name, place in before.items() if names.get(place, name) != name]
    if renamed:
        old, new = renamed[0]
        logger.warning(f'{path} was trained to find "{old}" where MODEL.VOCABULARY says "{new}" ({len(renamed)} such).')
