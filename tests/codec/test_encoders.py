"""Where clips are encoded."""

from __future__ import annotations

import os

import pytest
import torch

from encoder_jobs import quick, slow
from feat_fed.codec.encoders import encoders


def test_quick_jobs_start_no_process() -> None:
    with encoders(quick, 2, jobs=50) as encode:
        done = [encode(job).result() for job in range(50)]
    assert [each[0] for each in done] == list(range(50))
    assert {each[1] for each in done} == {os.getpid()}


def test_long_work_is_done_by_processes_with_the_same_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("feat_fed.codec.encoders._WORTH_SEC", 0.1)
    before = torch.get_num_threads()
    with encoders(slow, 2, jobs=4) as encode:
        done = [each.result() for each in [encode(job) for job in range(4)]]
    assert [each[0] for each in done] == [0, 1, 2, 3]
    assert done[0][1] == os.getpid() and os.getpid() not in {each[1] for each in done[1:]}
    assert len({each[2] for each in done}) == 1
    assert torch.get_num_threads() == before


def test_one_worker_is_the_caller() -> None:
    with encoders(quick, 8, jobs=1) as encode:
        assert encode(0).result()[1] == os.getpid()
