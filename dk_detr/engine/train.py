"""What tools/train_net.py does: train, resume, evaluate."""

import argparse
import logging
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm

from dk_detr.engine.checkpoint import SafeCheckpointer
from dk_detr.engine.launch import launch
from dk_detr.engine.own_words import prepare_own_data
from dk_detr.engine.setup import one_clear_error, prepare_output, setup_cfg, without_distillation
from dk_detr.engine.trainer import Trainer, read_results, write_results


def train_or_evaluate(args: argparse.Namespace) -> None:
    """The work of one process; see tools/train_net.py for the arguments."""
    with one_clear_error():
        cfg = setup_cfg(args.config_file, args.opts)
        prepare_output(cfg)
        prepare_own_data(cfg, training=not args.eval_only)
        if args.eval_only:
            _evaluate_only(cfg, args.resume)
        else:
            _train(cfg, args.resume)


def _evaluate_only(cfg: CfgNode, resume: bool) -> None:
    if not cfg.DATASETS.TEST:
        raise ValueError("--eval-only needs a data set: DATASETS.TEST is empty.")
    model = build_model(without_distillation(cfg)).eval()
    checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        raise ValueError("--eval-only needs weights: add MODEL.WEIGHTS some.pth, or --resume for those of OUTPUT_DIR.")
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    results: Any = Trainer.test(cfg, model)
    if comm.is_main_process():
        done = read_results(cfg.OUTPUT_DIR)
        write_results(cfg.OUTPUT_DIR, done["iteration"] if done else 0, results)


def _train(cfg: CfgNode, resume: bool) -> None:
    done = read_results(cfg.OUTPUT_DIR) if resume else None
    if done and done["iteration"] >= cfg.SOLVER.MAX_ITER:
        logging.getLogger(__name__).info(
            f"{cfg.OUTPUT_DIR} holds a finished run of {done['iteration']} iterations; nothing is left to do."
        )
        return
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()


def main(args: argparse.Namespace) -> None:
    """Start as many processes as asked for."""
    with one_clear_error():
        cfg = setup_cfg(args.config_file, args.opts)
        launch(train_or_evaluate, args.num_gpus, (args,), cfg.MODEL.DEVICE)
