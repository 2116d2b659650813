"""Checkpoints that survive a kill at any moment, and that refuse weights of another detector."""

import os
import pickle
from typing import Any, cast

import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import _IncompatibleKeys

from dk_detr.engine.ema import averaged
from dk_detr.meta_arch.words import WORDS, OfWords, check_trained_words
from dk_detr.structures import whole_file, write_whole


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer; files appear whole or not at all, and the last one is always readable."""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `<name>.pth` beside its place, move it there, then point `last_checkpoint` to it."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **{k: v.state_dict() for k, v in self.checkpointables.items()}}
        if isinstance(self.model, OfWords):
            data[WORDS] = self.model.words_of_training()
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {path}")
        with whole_file(path) as part:
            torch.save({**data, **kwargs}, part)
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Say which checkpoint is the newest."""
        write_whole(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load; where the file holds a moving average of the weights, that is what is loaded, except to go on with the
        run. Raises FileNotFoundError or ValueError in words that say which file and which key is at fault."""
        if path and "://" not in path and not os.path.isfile(path):
            raise FileNotFoundError(f"There are no weights {path} (MODEL.WEIGHTS).")
        self._path = path
        self._goes_on = "trainer" in (self.checkpointables if checkpointables is None else checkpointables)
        return cast("dict[str, Any]", super().load(path, checkpointables))

    def _load_file(self, filename: str) -> Any:
        try:
            return super()._load_file(filename)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            reason = str(error).split("\n")[0]
            raise ValueError(f"{filename} is no whole checkpoint ({reason}).") from error

    def _load_model(self, checkpoint: Any) -> Any:
        average = None if self._goes_on else averaged(checkpoint)
        if average is not None:
            self.logger.info(f"{self._path} holds a moving average of its weights (SOLVER.EMA_DECAY): loading that.")
            checkpoint["model"] = average
        if getattr(self.model, "branch", None) is None:  # built for inference: distillation is absent, not missed
            checkpoint["model"] = {k: v for k, v in checkpoint["model"].items() if not k.startswith("branch.")}
        incompatible = cast(_IncompatibleKeys, super()._load_model(checkpoint))
        self._refuse_other_architectures(incompatible)
        if isinstance(self.model, OfWords):
            check_trained_words(self.model, checkpoint.get(WORDS), self._path, goes_on=self._goes_on)
        return incompatible

    def _refuse_other_architectures(self, found: _IncompatibleKeys) -> None:
        """A backbone alone may start training; half a detector may not, and none may be evaluated: it would train or
        score as if nothing were wrong."""
        if found.incorrect_shapes:
            key, theirs, ours = found.incorrect_shapes[0]
            raise ValueError(
                f"{self._path} is of another detector: {key} has shape {tuple(theirs)}, this config wants "
                f"{tuple(ours)} ({len(found.incorrect_shapes)} such keys). Use the config it was trained with."
            )
        # The branch exists in training only; weights are as good without it.
        missing = [key for key in found.missing_keys if not key.startswith("branch.")]
        parameters = [key for key, _ in self.model.named_parameters() if not key.startswith("branch.")]
        rest = [key for key in missing if not key.startswith("backbone.")]
        others = [key for key in parameters if not key.startswith("backbone.")]
        only_backbone = self.model.training and len(rest) == len(others)
        nothing_fits = len(missing) >= len(parameters)
        if nothing_fits or (rest and not only_backbone):
            raise ValueError(
                f"{self._path} is of another detector: {len(missing)} of {len(parameters)} parameters of this config "
                f"are not in it, for example {missing[0]}. Use the config it was trained with."
            )
        surplus = [key for key in found.unexpected_keys if not key.startswith(("branch.", "backbone."))]
        if surplus and not only_backbone:
            raise ValueError(
                f"{self._path} is of another detector: it holds {len(surplus)} parameters that this config has no "
                f"place for, for example {surplus[0]}. Use the config it was trained with."
            )
