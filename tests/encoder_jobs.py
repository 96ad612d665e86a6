"""Jobs that spawned processes can import: they tell who did them, and with how many threads."""

from __future__ import annotations

import os

import torch

CLOCK = [0.0]
"""Seconds, as jobs that are done in this process move it on."""


def quick(job: int) -> tuple[int, int, int]:
    return job, os.getpid(), torch.get_num_threads()


def slow(job: int) -> tuple[int, int, int]:
    CLOCK[0] += 60
    return quick(job)


def slow_from_three(job: int) -> tuple[int, int, int]:
    return slow(job) if job > 2 else quick(job)
