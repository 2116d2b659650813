"""Benchmarks: our own against what people use today, side by side in one run. See tools/benchmark.py."""

from dk_detr.engine.benchmark.attention import benchmark_attention
from dk_detr.engine.benchmark.detector import benchmark_detector
from dk_detr.engine.benchmark.evaluation import benchmark_evaluation
from dk_detr.engine.benchmark.run import DTYPES, main

__all__ = ["DTYPES", "benchmark_attention", "benchmark_detector", "benchmark_evaluation", "main"]
