"""TeacherDetector: a trained detector that says what it makes of the student's images. M queries, E text width."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from torch import Tensor

from dk_detr.distillation.beside import beside
from dk_detr.distillation.guest import Guest
from dk_detr.distillation.teachers import teacher_dtype
from dk_detr.engine import setup_cfg
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.predictor import with_words_of_training
from dk_detr.engine.setup import for_inference
from dk_detr.extensions import TrainingInputs
from dk_detr.language import require_one_space
from dk_detr.meta_arch import DETR
from dk_detr.modeling import Classifier, CosineText
from dk_detr.structures import DETECTION, Predictions, QuerySet, Vocabulary
from dk_detr.utils import timed
from projects.DETRDistill.detrdistill.points import GENERAL, random_queries
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.step import Said


class TeacherDetector:
    """Frozen, a guest of the student: not in its weights, optimizer or gradient.

    Args:
        model: a detector, in evaluation mode. words: (K, E) of the student's training, as the teacher's classifier
            takes them.
        same_input: whether its images are normalised as the student's are; else it normalises its own, of which
            `flipped` says whether their channels are in the other order.
        dtype: what it computes in, by autocast.
    """

    def __init__(
        self,
        model: DETR,
        words: Tensor,
        same_input: bool = True,
        flipped: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        model.eval().requires_grad_(False)
        self.guest, self.words = Guest(model), words
        self.same_input, self.flipped, self.dtype = same_input, flipped, dtype
        network = {name: getattr(model, name) for name in ("neck", "queries", "decoder", "classifier")}
        self.side = Side.of("teacher", channels_of(model), network)

    def ask(self, inputs: TrainingInputs, groups: Sequence[str]) -> Callable[[], Said]:
        """Start to look at a batch, once for all terms; on a GPU beside the student. Returns a function that waits.

        Args:
            groups: names of query groups that terms need.
        """
        with timed("teacher_detector"):
            return beside(lambda: self._look(inputs, groups), [inputs.images.tensor])

    def _look(self, inputs: TrainingInputs, groups: Sequence[str]) -> Said:
        device = inputs.images.tensor.device
        model, half = self.guest.on(device), self.dtype != torch.float32
        with torch.autocast(device.type, self.dtype if half else None, enabled=half):
            pyramid = model.extract_features(self._images(model, inputs))
            initial = model.queries(memory := model.encoder(pyramid))
            more = (random_queries(initial.group, model.queries),) if GENERAL in groups else ()
            trace = model.decoder(QuerySet((initial.group, *more)), memory)
            predicted = model.heads(trace, self.words.to(device))
            hidden_states = {group.name: trace.of(group.name)[0] for group in trace.queries.groups}
            return Said(
                pyramid,
                memory,
                initial.objectness,
                trace.queries.groups,
                hidden_states,
                {name: _plain(predicted[name]) for name in hidden_states},
                _embeddings(model.classifier, hidden_states[DETECTION]),
            )

    def _images(self, model: DETR, inputs: TrainingInputs) -> ImageList:
        """The student's images, padded as they are."""
        if self.same_input:
            return inputs.images
        batch = torch.zeros_like(inputs.images.tensor)
        for place, given, (h, w) in zip(batch, inputs.batched_inputs, inputs.images.image_sizes):
            image = given["image"].to(batch.device)
            place[:, :h, :w] = ((image.flip(0) if self.flipped else image) - model.pixel_mean) / model.pixel_std
        return ImageList(batch, inputs.images.image_sizes)


def channels_of(model: Any) -> int:
    """C of a detector's queries."""
    return int(model.classifier.projections[0].in_features)


def _plain(predictions: Predictions) -> Predictions:
    return Predictions(predictions.logits, predictions.boxes, predictions.valid)


def _embeddings(classifier: Classifier, hidden_states: Tensor) -> Tensor | None:
    """(D, B, M, E) in the space of the text; None of a closed detector."""
    if not isinstance(classifier, CosineText):
        return None
    return torch.stack([classifier.project_image(rows, layer) for layer, rows in enumerate(hidden_states)])


def teacher_from_config(cfg: CfgNode, student: Classifier, words: Vocabulary) -> TeacherDetector:
    """The detector of MODEL.TEACHER_DETECTOR.

    Args:
        student: its classifier. words: of its training.

    Raises: ValueError for one that is no DETR of this project, or that does not know the student's words.
    """
    named = cfg.MODEL.TEACHER_DETECTOR
    theirs = setup_cfg(named.CONFIG, ["MODEL.WEIGHTS", named.WEIGHTS, "MODEL.DEVICE", cfg.MODEL.DEVICE])
    if theirs.MODEL.META_ARCHITECTURE != "DETR":
        raise ValueError(
            f"MODEL.TEACHER_DETECTOR.CONFIG {named.CONFIG} is of MODEL.META_ARCHITECTURE "
            f'"{theirs.MODEL.META_ARCHITECTURE}"; a teacher here is a "DETR".'
        )
    theirs = for_inference(with_words_of_training(theirs))
    with torch.random.fork_rng(devices=[]):  # its first weights are not kept
        model: Any = build_model(theirs)
    StrictCheckpointer(model.eval()).load(named.WEIGHTS)
    rows = words_for(model, student, words, named.CONFIG)
    inputs = [(c.MODEL.PIXEL_MEAN, c.MODEL.PIXEL_STD, c.INPUT.FORMAT) for c in (cfg, theirs)]
    flipped = {cfg.INPUT.FORMAT, theirs.INPUT.FORMAT} == {"RGB", "BGR"}
    return TeacherDetector(model, rows, inputs[0] == inputs[1], flipped, teacher_dtype(cfg, "TEACHER_DETECTOR"))


def words_for(teacher: DETR, student: Classifier, words: Vocabulary, config: str = "") -> Tensor:
    """(K, E) by which the teacher classifies the words of the student's training, in their order.

    Raises: ValueError where one judges words by a sigmoid and the other does not, where the teacher was not trained for
        a word and knows no others, or where both know words by text embeddings of different encoders.
    """
    theirs = teacher.classifier
    if theirs.activation != student.activation or student.activation == "none":
        raise ValueError(
            f"The teacher ({config}) and the student must judge words alike: the classifier "
            f'"{type(theirs).__name__}" is for a {theirs.activation}, "{type(student).__name__}" for a '
            f"{student.activation} (MODEL.DETR.CLASSIFIER.NAME)."
        )
    if isinstance(theirs, CosineText) and isinstance(student, CosineText):
        require_one_space(words, teacher.train_vocabulary, "Choose a teacher of the student's MODEL.VOCABULARY.")
        return words.embeddings
    known = teacher.train_vocabulary
    unknown = [name for name in words.names if name not in known.names]
    if unknown:
        raise ValueError(
            f'The teacher ({config}) was not trained for "{unknown[0]}" ({len(unknown)} of the {len(words)} words of '
            "the student's training, MODEL.VOCABULARY): choose a teacher of the same words."
        )
    return known.select(words.names).embeddings
