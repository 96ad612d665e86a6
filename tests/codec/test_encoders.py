"""Where clips are encoded."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from encoder_jobs import CLOCK, quick, slow, slow_from_three
from feat_fed.codec.encoders import encoders


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time goes by as the jobs say."""
    told = SimpleNamespace(perf_counter=lambda: CLOCK[0])
    monkeypatch.setattr("feat_fed.codec.encoders.time", told)


def test_quick_jobs_start_no_process() -> None:
    with encoders(quick, 2, jobs=50) as encode:
        done = [encode(job).result() for job in range(50)]
    assert [each[0] for each in done] == list(range(50))
    assert {each[1] for each in done} == {os.getpid()}


def test_long_work_is_done_by_processes_with_the_same_threads() -> None:
    before = torch.get_num_threads()
    with encoders(slow, 2, jobs=4) as encode:
        done = [each.result() for each in [encode(job) for job in range(4)]]
    assert [each[0] for each in done] == [0, 1, 2, 3]
    assert done[0][1] == os.getpid() and os.getpid() not in {each[1] for each in done[1:]}
    assert len({each[2] for each in done}) == 1
    assert torch.get_num_threads() == before


def test_a_long_job_after_quick_ones_brings_processes_in() -> None:
    with encoders(slow_from_three, 2, jobs=9) as encode:
        done = [each.result() for each in [encode(job) for job in range(9)]]
    assert [each[0] for each in done] == list(range(9))
    assert [each[1] == os.getpid() for each in done] == [True] * 4 + [False] * 5


def test_one_worker_is_the_caller() -> None:
    with encoders(slow, 8, jobs=1) as encode:
        assert encode(0).result()[1] == os.getpid()
