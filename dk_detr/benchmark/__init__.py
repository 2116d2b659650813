"""Benchmarks: our own against what people use today, side by side in one run. See tools/benchmark.py."""

from dk_detr.benchmark.attention import benchmark_attention
from dk_detr.benchmark.detector import benchmark_detector
from dk_detr.benchmark.distillation import benchmark_distillation
from dk_detr.benchmark.evaluation import benchmark_evaluation

__all__ = ["benchmark_attention", "benchmark_detector", "benchmark_distillation", "benchmark_evaluation"]
