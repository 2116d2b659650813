"""Checkpoints that survive a kill at any moment, and that refuse weights of another detector."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import _IncompatibleKeys
from torch import Tensor, nn

from dk_detr.convert.reading import Checkpoint, read_content, refuse_what_is_not_finite, weights_in
from dk_detr.engine.calibrated_weights import agree_on_calibration
from dk_detr.engine.ema import EMA_KEY
from dk_detr.engine.evaluated import instead_of_the_last
from dk_detr.engine.fit import (
    no_weights,
    refuse_other_architectures,
    refuse_parts_of_a_detector,
    start_new,
    under_our_names,
)
from dk_detr.engine.keep.interpolation import KEY as INTERPOLATION
from dk_detr.engine.old_names import under_current_names
from dk_detr.language import WORDS
from dk_detr.meta_arch.open_vocabulary import OpenVocabularyDetector, check_trained_words
from dk_detr.utils import atomic_file, atomic_write

# Entries at the top of a checkpoint that are read, or known and not needed; others are named in the log.
CONFIG = "config"  # the config of the training, as YAML
KNOWN_ENTRIES = {
    "model", "trainer", "iteration", EMA_KEY, INTERPOLATION, WORDS, CONFIG, "conversion", "provenance", "__author__",
    "matching_heuristics",
}  # fmt: skip


class StrictCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with three differences. It refuses weights that do not fit the model, where Detectron2
    warns. A file appears whole or not at all, so the last one can always be read. No code in a file is run.

    Args:
        model, save_dir, others: see Detectron2.
        new_parts: MODEL.NEW_PARTS. Weights of these parts that the file does not have, or has in another shape, start
            new when a training starts from the file. They are refused when a run goes on, and in evaluation.
        config: of the training, as YAML, which each file then says, too.
        keeps: whether a training that starts from the file is to keep what it knows: it must be a whole detector then,
            and its words count as trained (see `OpenVocabularyDetector.trained_before`).
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        new_parts: Sequence[str] = (),
        config: str = "",
        keeps: bool = False,
        **others: Any,
    ) -> None:
        super().__init__(model, save_dir, **others)
        self._new_parts, self._config, self._keeps = [str(part) for part in new_parts], config, keeps

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `<name>.pth` under another name, rename it when it is complete, then point `last_checkpoint` to it."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **{k: v.state_dict() for k, v in self.checkpointables.items()}}
        if isinstance(self.model, OpenVocabularyDetector):
            data[WORDS] = self.model.words_of_training()
        if self._config:
            data[CONFIG] = self._config
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        with atomic_file(path) as part:
            torch.save({**data, **kwargs}, part)
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Say which checkpoint is the newest."""
        atomic_write(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load; where the file holds a moving average of the weights, that is what is loaded, except to go on with the
        run. Raises FileNotFoundError or ValueError in words that say which file and which key is at fault."""
        if "://" in path:
            self._download(path)
        elif path and not os.path.isfile(path):
            raise no_weights(path)
        self._path = path
        self._goes_on = "trainer" in (self.checkpointables if checkpointables is None else checkpointables)
        return cast("dict[str, Any]", super().load(path, checkpointables))

    def _download(self, path: str) -> None:
        try:
            self.path_manager.get_local_path(path)
        except OSError as error:
            raise OSError(
                f"{path} (MODEL.WEIGHTS) cannot be downloaded: {error}. Where there is no network, fetch the file "
                'elsewhere and name it, or set MODEL.WEIGHTS "" to start without.'
            ) from error

    def _load_file(self, filename: str) -> Any:
        file = Path(filename)
        content = read_content(file)
        found = weights_in(content, file)
        unread = [name for name in found.beside if name not in KNOWN_ENTRIES]
        if unread:
            place = f'below "{found.inside}"' if found.inside else "at the top"
            self.logger.info(f"{self._path}: the weights {place} are read; not read are {', '.join(unread)}.")
        return under_current_names(_as_detectron2_has_it(content, found, file), self.model)

    def _load_model(self, checkpoint: Any) -> Any:
        weights = self._weights_to_load(checkpoint)
        theirs = dict(weights)
        weights = under_our_names(weights, self.model.state_dict())
        checkpoint["model"] = agree_on_calibration(self.model, weights, self._path, self._goes_on)
        found = cast(_IncompatibleKeys, super()._load_model(checkpoint))
        starts = self.model.training and not self._goes_on
        if starts and self._keeps:
            refuse_parts_of_a_detector(found, self._path)
        if starts:
            found = start_new(found, self.model, self._new_parts, self._path)
        refuse_other_architectures(found, self.model, self._path, theirs, self._new_parts if starts else None)
        if isinstance(self.model, OpenVocabularyDetector):
            saved = checkpoint.get(WORDS)
            check_trained_words(self.model, saved, self._path, goes_on=self._goes_on)
            if self._keeps or not starts:
                self.model.remember_trained(saved, anew=starts)
        return found

    def _weights_to_load(self, checkpoint: Any) -> dict[str, Tensor]:
        found = None if self._goes_on else instead_of_the_last(checkpoint)
        weights: dict[str, Tensor] = checkpoint["model"]
        if found is not None:
            weights, what = found
            self.logger.info(f"{self._path} holds {what}: loading these in place of the last.")
        here = self.model.state_dict()  # what training adds is absent where it is not asked for, not missed
        weights = {name: w for name, w in weights.items() if name in here or not name.startswith("extensions.")}
        weights = self._without_parts(weights)
        refuse_what_is_not_finite(weights, self._path)
        if self._goes_on and EMA_KEY in checkpoint:
            refuse_what_is_not_finite(checkpoint[EMA_KEY]["weights"], self._path)
        return weights

    def _without_parts(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a detector takes of one that has more parts."""
        if not isinstance(self.model, OpenVocabularyDetector):
            return weights
        for prefix, keys in self.model.parts_left_out.items():
            kept = {name: weight for name, weight in weights.items() if not name.startswith(prefix)}
            if len(kept) < len(weights):
                self.logger.info(f"{self._path} holds a {prefix.rstrip('.')}, which {keys} leaves out.")
            weights = kept
        return weights


def _as_detectron2_has_it(content: Mapping[str, Any], found: Checkpoint, file: Path) -> dict[str, Any]:
    """Weights below "model", all else beside them; of Caffe2 and pycls with a note that their names are to be guessed.

    Source: `DetectionCheckpointer._load_file` of Detectron2 0.6.
    """
    if found.inside.split(".")[0] == "model":
        return {**content, "model": found.state}
    author = {".pkl": "Caffe2", ".pyth": "pycls"}.get(file.suffix)
    if author is None:
        return {"model": found.state}
    leave = ("_momentum", "num_batches_tracked")
    weights = {name: tensor for name, tensor in found.state.items() if not name.endswith(leave)}
    return {"model": weights, "__author__": author, "matching_heuristics": True}
