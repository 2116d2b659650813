"""What tools/train_net.py does: train, resume, evaluate."""

import argparse
import logging
import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm

from dk_detr.commands.machine_options import machines_of
from dk_detr.engine.agreement import agreed, require_same_run, require_same_start
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.custom_vocabulary import prepare_custom_data, prepare_custom_evaluation
from dk_detr.engine.evaluate import require_test_images
from dk_detr.engine.fit import needs_weights
from dk_detr.engine.keep import refuse_bad_keep
from dk_detr.engine.launch import launch
from dk_detr.engine.run_folder import (
    Changes,
    changes_in_errors,
    changes_since,
    evaluation_folder,
    has_checkpoint,
    log_changes,
    old_run_moved_aside,
    results_of_run,
    write_config,
    write_results,
)
from dk_detr.engine.setup import for_inference, one_clear_error, prepare_output, setup_cfg, with_values
from dk_detr.engine.trainer import Trainer

logger = logging.getLogger(__name__)

GO_ON = "The same command with --resume, on every machine, goes on from the last checkpoint."
AGAIN = "The same command evaluates again."


def main(args: argparse.Namespace) -> None:
    """Start as many processes as asked for; see tools/train_net.py for the arguments."""
    with one_clear_error():
        machines = machines_of(args)
        device = setup_cfg(args.config_file, args.opts).MODEL.DEVICE
        if not args.eval_only:
            refuse_restarts_from_the_start(args.resume)
        work = (args.config_file, args.opts, args.resume, args.eval_only)
        launch(train_or_evaluate, args.num_gpus, work, device, machines, AGAIN if args.eval_only else GO_ON)


def refuse_restarts_from_the_start(resume: bool) -> None:
    """Raises ValueError where torchrun would restart a run that then begins anew."""
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) and not resume:
        raise ValueError(
            "torchrun --max-restarts starts this command again after a failure, and it would begin anew: add --resume, "
            "with which it goes on from the last checkpoint, or starts where there is none."
        )


def train_or_evaluate(
    config_file: str, opts: Sequence[str] = (), resume: bool = False, eval_only: bool = False
) -> None:
    """The work of one process.

    Args:
        opts: KEY VALUE pairs that override the config file. resume: go on from the last checkpoint in OUTPUT_DIR, if
            there is one. eval_only: evaluate on DATASETS.TEST, and leave the run in OUTPUT_DIR as it is.
    """
    with one_clear_error():
        cfg = setup_cfg(config_file, opts)
        require_same_run(cfg, {"--resume": resume, "--eval-only": eval_only})
        if eval_only:
            _evaluate_only(cfg, resume)
        else:
            _train(cfg, resume)


def _evaluate_only(cfg: CfgNode, resume: bool) -> None:
    """Evaluate, without changing what OUTPUT_DIR holds of a run."""
    run, folder = cfg.OUTPUT_DIR, evaluation_folder(cfg.OUTPUT_DIR)
    prepare_output(cfg, folder)
    if not cfg.DATASETS.TEST:
        raise ValueError("--eval-only needs a data set: DATASETS.TEST is empty.")
    cfg = prepare_custom_evaluation(cfg, folder)
    model = build_model(for_inference(cfg)).eval()
    checkpointer = StrictCheckpointer(model, run)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()) and needs_weights(cfg):
        raise ValueError("--eval-only needs weights: add MODEL.WEIGHTS some.pth, or --resume for those of OUTPUT_DIR.")
    loaded = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    require_test_images(cfg)
    results: Any = Trainer.test(with_values(cfg, {"OUTPUT_DIR": folder}), model)
    if comm.is_main_process():
        write_config(cfg, folder)
        weights = checkpointer.get_checkpoint_file() if resume and checkpointer.has_checkpoint() else cfg.MODEL.WEIGHTS
        write_results(folder, loaded.get("iteration", -1) + 1, results, weights=weights)


def _train(cfg: CfgNode, resume: bool) -> None:
    cfg, folder = Trainer.auto_scale_workers(cfg, comm.get_world_size()), cfg.OUTPUT_DIR
    done = agreed(results_of_run(folder) if resume else None)
    finished = done is not None and done["iteration"] >= cfg.SOLVER.MAX_ITER
    goes_on = finished or agreed(resume and has_checkpoint(folder))
    with nullcontext("") if goes_on else old_run_moved_aside(folder, cfg.MODEL.WEIGHTS) as told:
        prepare_output(cfg, folder)
        if done is not None and finished:
            logger.info(f"{folder} holds a finished run of {done['iteration']} iterations; nothing is left to do.")
            return
        refuse_bad_keep(cfg, goes_on)
        prepare_custom_data(cfg, training=True)
        changes = changes_since(folder, cfg)
        trainer = Trainer(cfg)
        with changes_in_errors(changes):
            trainer.resume_or_load(resume=resume)
        require_same_start(trainer.start_iter, folder)
        _note_config(trainer, changes)
    if told:
        logger.warning(told)
    trainer.train()


def _note_config(trainer: Trainer, changes: Changes) -> None:
    """Log the settings that have changed since the run was interrupted, and write the config into its folder."""
    cfg, iteration = trainer.cfg, trainer.start_iter
    if iteration:
        log_changes(changes, iteration)
    if comm.is_main_process():
        write_config(cfg, cfg.OUTPUT_DIR)
