from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is absent (the extra `gpu` installs it)")

CHECKS = Path(__file__).with_name("wkv_kernel_checks.py")
COMPILER = Path(__file__).with_name("compile_wkv_kernels.py")


def run(*command: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_kernels_in_the_interpreter() -> None:
    # NumPy warns of what lanes beyond the last channel compute; nothing reads them.
    quiet = ("-q", "-W", "ignore::RuntimeWarning", "-p", "no:cacheprovider")
    run("-m", "pytest", *quiet, str(CHECKS), TRITON_INTERPRET="1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernels_on_the_gpu() -> None:
    run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS), TRITON_INTERPRET="0")


@pytest.mark.slow
def test_kernels_compile_without_a_gpu(tmp_path: Path) -> None:
    run(str(COMPILER), "90", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
