"""What tools/benchmark.py does."""

import argparse
import logging

import torch
from detectron2.utils.logger import setup_logger

from dk_detr.benchmark.as_configured import benchmark_as_configured, has_other_teachers
from dk_detr.benchmark.attention import benchmark_attention
from dk_detr.benchmark.detector import benchmark_detector
from dk_detr.benchmark.distillation import benchmark_distillation
from dk_detr.benchmark.evaluation import benchmark_evaluation
from dk_detr.benchmark.masks import benchmark_masks
from dk_detr.engine.setup import one_clear_error

ROUNDS = {"evaluation": 1}  # where a round takes minutes
DTYPES = ("float32", "float16", "bfloat16")


def main(args: argparse.Namespace) -> None:
    """See tools/benchmark.py for the arguments."""
    setup_logger(name="dk_detr").setLevel(logging.WARNING)
    with one_clear_error():
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        _check(args, device)
        rounds = args.rounds or ROUNDS.get(args.what, 10)
        if args.what == "evaluation":
            report = benchmark_evaluation(rounds, args.images)
        elif args.what == "distillation" and has_other_teachers(args.config_file):
            report = benchmark_as_configured(device, rounds, args.config_file, args.batch)
        elif args.what == "distillation":
            report = benchmark_distillation(device, rounds, args.config_file, args.batch)
        elif args.what == "masks":
            report = benchmark_masks(device, rounds, args.config_file, args.batch)
        elif args.what == "attention":
            report = benchmark_attention(device, rounds, args.size, getattr(torch, args.dtype))
        else:
            report = benchmark_detector(device, rounds, args.size, args.train_size)
        print(report.as_text())
        if args.json:
            report.write_json(args.json)


def _check(args: argparse.Namespace, device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device is {device}; choose cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but torch finds no GPU here.")
    rounds = 1 if args.rounds is None else args.rounds
    smallest = min(rounds, args.size // 64, args.train_size // 64, args.images, args.batch)
    if smallest < 1:
        raise ValueError("--rounds, --images and --batch must be at least 1, --size and --train-size at least 64.")
