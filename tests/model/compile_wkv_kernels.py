"""Compile both WKV kernels for an NVIDIA GPU of the given compute capability; none is needed.

The interpreter accepts what the compiler refuses. Chunks are small, so that this is quick.
"""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from feat_fed.model.wkv_kernels import backward_kernel, forward_kernel

INTEGERS = ("T", "columns", "between", "C")
HALF = ("k", "v", "y", "gy", "gk", "gv")


def compile_for(kernel: Any, target: GPUTarget, **constants: int) -> int:
    def type_of(name: str) -> str | tuple[str, ...]:
        if name in constants:
            return "constexpr"
        if name.endswith("strides"):
            return ("i32",) * 5
        return "i32" if name in INTEGERS else "*bf16" if name in HALF else "*fp32"

    signature = {name: type_of(name) for name in kernel.arg_names}
    source = ASTSource(kernel, signature, constants)
    options = {"num_warps": 4, "enable_fp_fusion": True}
    return len(triton.compile(source, target=target, options=options).asm["cubin"])


if __name__ == "__main__":
    gpu = GPUTarget("cuda", int(sys.argv[1]), 32)
    for each in (forward_kernel, backward_kernel):
        # Triton makes a constant of each size that is 1.
        assert compile_for(each, gpu, T=1, columns=1, between=1, CHUNKS=1, U=1, R=1, BLOCK_C=64) > 0
        assert compile_for(each, gpu, columns=1, CHUNKS=1, U=2, R=2, BLOCK_C=64) > 0
        assert compile_for(each, gpu, CHUNKS=3, U=2, R=2, BLOCK_C=64) > 0
