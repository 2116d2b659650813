"""The trainer: Detectron2's loop, with training that resumes exactly and says what takes the time."""

import logging
import os
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.engine.train_loop import TrainerBase
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, JSONWriter, TensorboardXWriter, get_event_storage
from torch import nn

from dk_detr.distillation import refuse_terms_without_distillation
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.ema import EMA_KEY, average_from_config
from dk_detr.engine.evaluate import evaluate, prepare_evaluation, require_test_images
from dk_detr.engine.keep import (
    changes_of,
    evaluated_before,
    freeze_what_is_kept,
    interpolation_from_config,
    keep_evaluation_before,
)
from dk_detr.engine.keep.interpolation import KEY as INTERPOLATION
from dk_detr.engine.optimizer import build_optimizer
from dk_detr.engine.precision import precision_from_config
from dk_detr.engine.run_folder import fall_back, numbered_checkpoints, write_results
from dk_detr.engine.step import NotFinite, Step, parts_from_config
from dk_detr.engine.train_streams import TRAIN_STREAMS, Stream
from dk_detr.utils import choose

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Detectron2's `DefaultTrainer` for the detectors of this project, and for what else a project of yours trains.

    A run is a function of its config: samples, augmentation and dropout of an iteration follow from SEED and the
    iteration alone. So 10 + 10 iterations, the second ten resumed, are 20 iterations.
    """

    def __init__(self, cfg: CfgNode) -> None:
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg, self.start_iter, self.max_iter = cfg, 0, cfg.SOLVER.MAX_ITER
        self.seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        num_parts, precision = parts_from_config(cfg), precision_from_config(cfg)
        refuse_terms_without_distillation(cfg)
        torch.manual_seed(self.seed)  # all workers start from the same weights
        model = self.build_model(cfg)
        if cfg.DATASETS.TEST:
            prepare_evaluation(cfg, model)  # what cannot be evaluated is not trained
            require_test_images(cfg)
        self._stream = self.build_train_stream(cfg, model, self.seed)
        freeze_what_is_kept(cfg, model)
        optimizer = build_optimizer(cfg, model)
        # The device of the weights, not the number of the worker: two workers may share a GPU (gloo).
        devices = [next(model.parameters()).device] if cfg.MODEL.DEVICE != "cpu" else None
        ddp = create_ddp_model(model, broadcast_buffers=False, device_ids=devices)
        self.average = average_from_config(cfg, model)
        self._trainer = Step(ddp, self._stream, optimizer, num_parts, precision, self.average)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.interpolation = interpolation_from_config(cfg, model)
        beside = {EMA_KEY: self.average, INTERPOLATION: self.interpolation}
        self.checkpointer = StrictCheckpointer(
            ddp,
            cfg.OUTPUT_DIR,
            cfg.MODEL.NEW_PARTS,
            cfg.dump(),
            keeps=bool(cfg.DATASETS.KEEP or cfg.SOLVER.KEEP),
            trainer=weakref.proxy(self),
            **{key: kept for key, kept in beside.items() if kept is not None},
        )
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model of the config, described in one line, with its words if it has any."""
        model = build_model(cfg)
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        words = f", {model.vocabulary.describe()}" if hasattr(model, "vocabulary") else ""
        logger.info(f"{cfg.MODEL.META_ARCHITECTURE}: {millions:.1f} M parameters{words}")
        return model

    @classmethod
    def build_train_stream(cls, cfg: CfgNode, model: Any, seed: int) -> Stream:
        """What DATALOADER.TRAIN_STREAM names."""
        build = choose(TRAIN_STREAMS, "DATALOADER.TRAIN_STREAM", cfg.DATALOADER.TRAIN_STREAM)
        return build(cfg, model, seed)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> Any:
        """Results of DATASETS.TEST, {} where it is empty; of one data set without its name."""
        results = evaluate(cfg, model) if cfg.DATASETS.TEST else {}
        return next(iter(results.values())) if len(results) == 1 else results

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint in OUTPUT_DIR if asked and there is one, else start from MODEL.WEIGHTS."""
        super().resume_or_load(resume)
        self._stream.start_iteration = self.start_iter
        if self.interpolation is None:
            return
        if self.start_iter == 0:
            self.interpolation.begin()
        elif not self.interpolation.start:
            raise ValueError(
                'SOLVER.KEEP names "interpolation", and the run was begun without it, so that its checkpoint does not '
                "have the start: take it out, and use tools/interpolate_weights.py after training."
            )

    def run_step(self) -> None:
        """One iteration. Weights that are to be saved after it are checked first.

        Raises: FloatingPointError where a loss or gradient is not finite; it names the checkpoint to go on from.
        """
        with self._falling_back(self.iter):
            super().run_step()
        if (self.iter + 1) % self.cfg.SOLVER.CHECKPOINT_PERIOD == 0 or self.iter + 1 >= self.max_iter:
            with self._falling_back(self.iter + 1):
                self._trainer.require_sound()

    @contextmanager
    def _falling_back(self, iteration: int) -> Iterator[None]:
        """Turns NotFinite into an error that names the checkpoint to go on from.

        Args:
            iteration: the first whose losses the block may find not finite.
        """
        try:
            yield
        except NotFinite as error:
            told = fall_back(self.cfg.OUTPUT_DIR, iteration) if comm.is_main_process() else ""
            raise FloatingPointError(f"{error} {comm.all_gather(told)[0]}") from error

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the run; the `DefaultTrainer` of Detectron2 0.6 forgets the optimizer."""
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was made, with the learning rates and the schedule of this config. Raises ValueError
        where the run has done more iterations than SOLVER.MAX_ITER, or the optimizer cannot go on."""
        done, rates = state_dict["iteration"] + 1, self.scheduler.base_lrs
        if done > self.max_iter:
            raise ValueError(f"SOLVER.MAX_ITER is {self.max_iter}, but the run has done {done} iterations already.")
        TrainerBase.load_state_dict(self, state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])
        self.scheduler.base_lrs = rates
        for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_lr()):
            group["lr"] = rate

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's hooks, with seeds for each iteration and few checkpoints."""
        cfg = self.cfg
        before: list[HookBase] = [_EvaluateBefore()] if cfg.DATASETS.KEEP else []
        made = [*before, _SeedIteration(self.seed), hooks.IterationTimer(), hooks.LRScheduler()]
        if comm.is_main_process():
            keep = cfg.SOLVER.CHECKPOINTS_TO_KEEP
            made.append(_KeepNewest(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, keep))
        made.append(_EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate))
        if comm.is_main_process():
            made.append(_Writer(self.build_writers(), cfg.TEST.EVAL_PERIOD))
        return made

    def build_writers(self) -> list[Any]:
        """Terminal, metrics.json, TensorBoard."""
        folder = self.cfg.OUTPUT_DIR
        return [
            _TimesPrinter(self.max_iter, self._trainer.num_parts),
            JSONWriter(os.path.join(folder, "metrics.json")),
            TensorboardXWriter(folder),
        ]

    def _evaluate(self) -> Any:
        self._last_eval_results = self._test_what_counts()
        if comm.is_main_process():
            # After the last iteration Detectron2 has counted one on already.
            write_results(self.cfg.OUTPUT_DIR, min(self.iter + 1, self.max_iter), self._last_eval_results)
            self._report_what_is_kept(self._last_eval_results)
        return self._last_eval_results

    def _test_what_counts(self) -> Any:
        _take_buffers_of_the_first_worker(self.model)
        with self._weights_to_evaluate():
            return self.test(self.cfg, self.model)

    def evaluate_before(self) -> None:
        """What is reached before the first iteration, for comparison with what is kept (DATASETS.KEEP)."""
        logger.info("Evaluating what MODEL.WEIGHTS reach, before the first iteration (DATASETS.KEEP).")
        results = self._test_what_counts()
        if comm.is_main_process():
            keep_evaluation_before(self.cfg.OUTPUT_DIR, self._by_data_set(results))

    def _report_what_is_kept(self, results: Any) -> None:
        before = evaluated_before(self.cfg.OUTPUT_DIR) if self.cfg.DATASETS.KEEP else None
        for line in changes_of(before, self._by_data_set(results)) if before else ():
            logger.info(f"Before training -> now, {line}")

    def _by_data_set(self, results: Any) -> Any:
        """See `test`."""
        names = self.cfg.DATASETS.TEST
        return {names[0]: results} if len(names) == 1 else results

    def _weights_to_evaluate(self) -> AbstractContextManager[None]:
        """The moving average of the weights where there is one, or those between start and now."""
        if self.interpolation is not None:
            logger.info(f"Evaluating weights between start and now (SOLVER.KEEP_ALPHA {self.interpolation.alpha}).")
            return self.interpolation.in_the_model()
        if self.average is None:
            return nullcontext()
        logger.info(f"Evaluating the moving average of the weights (SOLVER.EMA_DECAY {self.cfg.SOLVER.EMA_DECAY}).")
        return self.average.in_the_model()


def _take_buffers_of_the_first_worker(model: nn.Module) -> None:
    """BatchNorm keeps statistics on each worker; what is evaluated is what the checkpoint holds, the first one's."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


class _EvaluateBefore(HookBase):
    """Evaluates before the first iteration of a new run."""

    def before_train(self) -> None:
        if self.trainer.start_iter == 0:
            self.trainer.evaluate_before()


class _SeedIteration(HookBase):
    """Random numbers of an iteration follow from seed, iteration and worker."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_step(self) -> None:
        sequence = np.random.SeedSequence([self.seed, self.trainer.iter, comm.get_rank()])
        torch.manual_seed(int(sequence.generate_state(1)[0]))


class _EvalHook(hooks.EvalHook):
    """Detectron2's also evaluates a run that fails in its very last iteration, which would then pass for finished."""

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class _Writer(hooks.PeriodicWriter):
    """Detectron2's writer, which also writes right after an evaluation. Otherwise the next evaluation could replace
    results that were never written, or they would be written below a line of a later iteration, and readers of
    metrics.json would take that for a restart."""

    def __init__(self, writers: list[Any], eval_period: int) -> None:
        super().__init__(writers, period=20)
        self.eval_period = eval_period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.eval_period > 0 and done % self.eval_period == 0 and done % 20 and done < self.trainer.max_iter:
            for writer in self._writers:
                writer.write()
        super().after_step()


class _KeepNewest(hooks.PeriodicCheckpointer):
    """Detectron2's with two differences. An old checkpoint is removed only after the iteration that follows a new one,
    whose losses tell whether the new one is sound. And checkpoints from before an interruption count, too.

    Args:
        checkpointer, period: of Detectron2's. keep: how many stay, of those with a number.
    """

    def __init__(self, checkpointer: StrictCheckpointer, period: int, keep: int) -> None:
        super().__init__(checkpointer, period)
        if keep < 1:
            raise ValueError(f"SOLVER.CHECKPOINTS_TO_KEEP must be at least 1, got {keep}.")
        self.keep = keep

    def after_step(self) -> None:
        if self.trainer.iter % self.period == 0:
            self._make_room(self.trainer.iter)
        super().after_step()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._make_room(self.trainer.iter)

    def _make_room(self, iteration: int) -> None:
        folder = self.checkpointer.save_dir
        saved = [name for number, name in numbered_checkpoints(folder).items() if number < iteration]
        for name in saved[: -self.keep]:
            os.remove(os.path.join(folder, name))


class _TimesPrinter(CommonMetricPrinter):
    """Detectron2's line, and below it which share of an iteration goes where.

    Args:
        num_parts: into which a batch is cut; what the detector reports is of one.
    """

    def __init__(self, max_iter: int, num_parts: int) -> None:
        super().__init__(max_iter)
        self.num_parts = num_parts

    def write(self) -> None:
        """Print both lines for the iterations since the last time."""
        super().write()
        storage = get_event_storage()
        medians = {key: history.median(20) for key, history in storage.histories().items()}
        if "time" not in medians:
            return
        shares = []
        in_parts = [(name, f"time_{name}", self.num_parts) for name in ("matching", "teacher")]
        for text, start, times in [("data", "data_time", 1), *in_parts]:
            seconds = times * sum(value for key, value in medians.items() if key.startswith(start))
            if seconds:
                shares.append(f"{text} {seconds / medians['time']:.1%}")
        if "kd_regions" in medians:
            shares.append(f"{self.num_parts * medians['kd_regions']:.0f} regions taught")
        self.logger.info(f"    of an iteration of {medians['time']:.3f} s: {', '.join(shares)}")
