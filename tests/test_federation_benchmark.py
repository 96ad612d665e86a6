"""The federation benchmark runs, and counts what it says."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.slow
def test_our_own_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    threads = torch.get_num_threads()
    out = tmp_path / "found.json"
    command = ["federation.py", "--quick", "--only", "feat-fed", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    try:
        runpy.run_path(str(BENCHMARKS / "federation.py"), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    [row] = json.loads(out.read_text())["results"]
    assert len(row["round_sec"]) == 1 and row["sites"] == 2
    # All weights came up, with headers that are about as large as this model. They may have gone
    # down before anybody saw that the round before was over.
    assert 0 < row["down_over_ideal"] < 4 and 1 < row["up_over_ideal"] < 4
    assert {"superlink", "serverapp", "supernode", "clientapp"} < row["peak_rss_mb"].keys()
    server = row["peak_pss_mb"]["superlink"] + row["peak_pss_mb"]["serverapp"]
    assert 0 < row["peak_pss_mb"]["server"] <= server + 0.001  # sums of floats


def test_payloads_are_of_the_size_that_they_are_named_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from federations.contender import PAYLOADS

    sizes = {"64MB": 64e6, "128MB": 128e6, "632MB": 632e6, "1.4GB": 1.4e9}
    for name, size in sizes.items():
        payload = PAYLOADS[name]
        assert abs(payload.num_bytes / size - 1) < 0.05
        assert len(payload.schema) == 300
