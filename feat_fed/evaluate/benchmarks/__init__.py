"""Sets of real videos that models are measured against, each described as data.

A copy is opened only where it is what its description says: counts, sizes, names, lists.
"""

from feat_fed.evaluate.benchmarks.description import (
    Benchmark,
    VideoList,
    built_in_benchmarks,
    load_benchmark,
)
from feat_fed.evaluate.benchmarks.opening import open_benchmark

__all__ = [
    "Benchmark",
    "VideoList",
    "built_in_benchmarks",
    "load_benchmark",
    "open_benchmark",
]
