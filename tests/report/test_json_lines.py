"""Evaluations on the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evaluator_records import evaluation
from feat_fed.errors import RunError
from feat_fed.report.evaluation_folder import EvaluationFolder
from feat_fed.report.json_lines import append_record


def test_a_record_is_added_after_a_torn_line_was_cut_off(tmp_path: Path) -> None:
    folder = EvaluationFolder.of_run(tmp_path)
    append_record(folder.metrics, evaluation())
    with folder.metrics.open("ab") as file:
        file.write(b'{"at": "2026-')
    assert folder.evaluations() == (evaluation(),)
    append_record(folder.metrics, evaluation(round=2))
    assert [each.round for each in folder.evaluations()] == [1, 2]
    assert folder.metrics.read_bytes().count(b"\n") == 2


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "metrics.jsonl").mkdir()
    else:
        tmp_path.chmod(0o500)
    with pytest.raises(RunError, match=r"metrics\.jsonl cannot be written"):
        append_record(tmp_path / "metrics.jsonl", evaluation())
    tmp_path.chmod(0o700)
