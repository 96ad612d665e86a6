"""Jobs that spawned processes can import: they tell who did them, and with how many threads."""

from __future__ import annotations

import os
import time

import torch


def quick(job: int) -> tuple[int, int, int]:
    return job, os.getpid(), torch.get_num_threads()


def slow(job: int) -> tuple[int, int, int]:
    time.sleep(0.05)
    return quick(job)
