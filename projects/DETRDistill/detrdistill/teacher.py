"""TeacherDetector: a trained detector that says what it makes of the student's images. M queries, E text width."""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from torch import Tensor

from dk_detr.distillation.beside import beside
from dk_detr.distillation.guest import Guest
from dk_detr.distillation.teacher_words import rows_of_student
from dk_detr.distillation.teachers import teacher_dtype
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.predictor import with_words_of_training
from dk_detr.engine.setup import for_inference, guest_cfg, with_values
from dk_detr.extensions import TrainingInputs
from dk_detr.language import require_one_space, words_of_checkpoint
from dk_detr.meta_arch import DETR
from dk_detr.modeling import Classifier, CosineText
from dk_detr.structures import DETECTION, Predictions, QuerySet, Vocabulary
from dk_detr.utils import errors_of, timed
from projects.DETRDistill.detrdistill.points import GENERAL, random_queries
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.step import TeacherOutputs
from projects.DETRDistill.detrdistill.terms import Term

logger = logging.getLogger(__name__)

SELF = "self"  # in MODEL.TEACHER_DETECTOR.CONFIG: the config of the student


@dataclass(frozen=True)
class Sight:
    """How a teacher sees the student's images.

    Attributes:
        same_input: whether its images are normalised as the student's are; else it normalises its own. flipped: whether
            their channels are in the other order then. dtype: what it computes in, by autocast.
    """

    same_input: bool = True
    flipped: bool = False
    dtype: torch.dtype = torch.float32


class TeacherDetector:
    """Frozen, a guest of the student: not in its weights, optimizer or gradient.

    Args:
        model: the detector. side: what terms know of it. words: (K, E) of the student's training, as its classifier
            takes them. sight: how it sees images.
    """

    def __init__(self, model: DETR, side: Side, words: Tensor, sight: Sight | None = None) -> None:
        self.guest, self.side = Guest(model.eval().requires_grad_(False)), side
        self.sight, self._words = sight or Sight(), words

    def ask(self, inputs: TrainingInputs, groups: Sequence[str]) -> Callable[[], TeacherOutputs]:
        """Start to look at a batch, once for all terms; on a GPU beside the student. Returns a function that waits.

        Args:
            groups: names of query groups that terms need.
        """
        with timed("teacher_detector"):
            return beside(lambda: self._look(inputs, groups), [inputs.images.tensor], "detector")

    def _look(self, inputs: TrainingInputs, groups: Sequence[str]) -> TeacherOutputs:
        device, dtype = inputs.images.tensor.device, self.sight.dtype
        model, half = self.guest.on(device), dtype != torch.float32
        self._words = self._words.to(device)
        with torch.autocast(device.type, dtype if half else None, enabled=half):
            pyramid = model.extract_features(self._images(model, inputs))
            initial = model.queries(memory := model.encoder(pyramid))
            more = (random_queries(initial.group, model.queries),) if GENERAL in groups else ()
            trace = model.decoder(QuerySet((initial.group, *more)), memory)
            predicted = model.heads(trace, self._words)
            hidden_states = {group.name: trace.of(group.name)[0] for group in trace.queries.groups}
            return TeacherOutputs(
                replace(pyramid, backbone={}),
                memory,
                initial.objectness,
                trace.queries.groups,
                hidden_states,
                {name: _plain(predicted[name]) for name in hidden_states},
                _embeddings(model.classifier, hidden_states[DETECTION]),
            )

    def _images(self, model: DETR, inputs: TrainingInputs) -> ImageList:
        """The student's images, padded as they are."""
        if self.sight.same_input:
            return inputs.images
        batch = torch.zeros_like(inputs.images.tensor)
        for place, given, (h, w) in zip(batch, inputs.batched_inputs, inputs.images.image_sizes):
            image = given["image"].to(batch.device)
            place[:, :h, :w] = ((image.flip(0) if self.sight.flipped else image) - model.pixel_mean) / model.pixel_std
        return ImageList(batch, inputs.images.image_sizes)


def _plain(predictions: Predictions) -> Predictions:
    return Predictions(predictions.logits, predictions.boxes, predictions.valid)


def _embeddings(classifier: Classifier, hidden_states: Tensor) -> Tensor | None:
    """(D, B, M, E) in the space of the text; None of a closed detector."""
    if not isinstance(classifier, CosineText):
        return None
    return torch.stack([classifier.project_image(rows, layer) for layer, rows in enumerate(hidden_states)])


def load_teacher(cfg: CfgNode) -> tuple[Any, Sight, str]:
    """The detector of MODEL.TEACHER_DETECTOR with its weights, how it sees the images of this config, and its name for
    errors.

    Raises: ValueError for one that is no DETR of this project, and for weights that are not its own; FileNotFoundError.
    """
    named = cfg.MODEL.TEACHER_DETECTOR
    theirs = _config_of_teacher(cfg)
    if theirs.MODEL.META_ARCHITECTURE != "DETR":
        raise ValueError(
            f"MODEL.TEACHER_DETECTOR.CONFIG {named.CONFIG} is of MODEL.META_ARCHITECTURE "
            f'"{theirs.MODEL.META_ARCHITECTURE}"; a teacher here is a "DETR".'
        )
    ours, padded = cfg.MODEL.DETR.PADDED_SIZE, theirs.MODEL.DETR.PADDED_SIZE
    if ours != padded:
        logger.warning(
            f"The teacher sees images padded as the student's, to MODEL.DETR.PADDED_SIZE {ours}; it was trained with "
            f"{padded} ({named.CONFIG})."
        )
    with errors_of("The teacher (MODEL.TEACHER_DETECTOR)"), torch.random.fork_rng(devices=[]):
        # Its first weights are not kept.
        model: Any = build_model(for_inference(with_words_of_training(theirs)))
        StrictCheckpointer(model.eval()).load(named.WEIGHTS)
    inputs = [(c.MODEL.PIXEL_MEAN, c.MODEL.PIXEL_STD, c.INPUT.FORMAT) for c in (cfg, theirs)]
    flipped = {cfg.INPUT.FORMAT, theirs.INPUT.FORMAT} == {"RGB", "BGR"}
    return model, Sight(inputs[0] == inputs[1], flipped, teacher_dtype(cfg, "TEACHER_DETECTOR")), named.CONFIG


def _config_of_teacher(cfg: CfgNode) -> CfgNode:
    named = cfg.MODEL.TEACHER_DETECTOR
    if named.CONFIG != SELF:
        opts = ["MODEL.WEIGHTS", named.WEIGHTS, "MODEL.DEVICE", cfg.MODEL.DEVICE]
        return guest_cfg(named.CONFIG, opts, "MODEL.TEACHER_DETECTOR.CONFIG")
    if not os.path.isfile(named.WEIGHTS):
        raise FileNotFoundError(f"There are no weights {named.WEIGHTS} (MODEL.TEACHER_DETECTOR.WEIGHTS).")
    of_weights = {"MODEL.VOCABULARY.TEST": named.WEIGHTS, "MODEL.VOCABULARY.TRAIN": ""}
    words = of_weights if words_of_checkpoint(named.WEIGHTS) else {}
    return with_values(cfg, {"MODEL.WEIGHTS": named.WEIGHTS, **words})


def words_for(
    teacher: DETR, student: Side, side: Side, words: Vocabulary, terms: Iterable[Term], name: str = ""
) -> Tensor:
    """(K, E) by which the teacher classifies the words of the student's training, in their order; its own words where
    no term asks.

    Args:
        side: of the teacher. words: of the student's training. name: of the teacher, for errors.

    Raises: ValueError where classes are compared and one judges words by a sigmoid and the other does not; where the
        teacher was not trained for a word and knows no others; and for text embeddings of different encoders.
    """
    terms = list(terms)
    if any(term.compares_classes for term in terms):
        _require_same_judgement(student, side, name)
    known = teacher.train_vocabulary
    if not any(term.asks_words for term in terms):
        return known.embeddings
    if side.compares_text and student.compares_text:
        teacher.classifier.check(words)
        require_one_space(words, known, "Choose a teacher of the student's MODEL.VOCABULARY.")
        return words.embeddings
    return rows_of_student(known, words, f"The teacher ({name})")


def _require_same_judgement(student: Side, teacher: Side, name: str) -> None:
    kinds = {"sigmoid": "by a sigmoid", "softmax": "by a softmax", "none": "without labels"}
    if student.activation != teacher.activation or student.activation == "none":
        raise ValueError(
            f'The teacher ({name}) judges words {kinds[teacher.activation]} ("{teacher.classifier}"), the student '
            f'{kinds[student.activation]} ("{student.classifier}", MODEL.DETR.CLASSIFIER.NAME): terms that compare '
            "classes need both to do it by a sigmoid, or by a softmax."
        )
