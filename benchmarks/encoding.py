"""What each form of weights costs in time and saves in bytes, on FEAT-S's own tensors.

    python benchmarks/encoding.py --out encoding.json

An update of FEAT-S (444 tensors, 158 M parameters) is made up: weights of the initialisation's
size, and a difference of 1e-4 in each. Encoding takes the difference, adds a residual and makes
buckets; decoding checks them and adds what they say. Bytes a second are of the float32 weights.
"""

from __future__ import annotations

import math

import torch
from timing import header, parse, parser, take_turns, write_report
from torch import Tensor

from feat_fed.config import FEATConfig, TransferConfig
from feat_fed.federate import decode, encode, form_of
from feat_fed.model.state import state_schema

FORMS: dict[str, dict[str, object]] = {
    "fp32": {"up": "fp32"},
    "bf16": {"up": "bf16"},
    "fp16": {"up": "fp16"},
    "int8": {"up": "int8"},
    "topk 10 %": {"up": "topk", "topk_share": 0.1},
    "topk 1 %": {"up": "topk", "topk_share": 0.01},
}


def made_up(config: FEATConfig) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return weights and what a site made of them."""
    generator = torch.Generator().manual_seed(0)
    schema = state_schema(config)
    base = {n: 0.02 * torch.randn(each.shape, generator=generator) for n, each in schema.items()}
    site = {n: w + 1e-4 * torch.randn(w.shape, generator=generator) for n, w in base.items()}
    return base, site


def error(site: dict[str, Tensor], base: dict[str, Tensor], got: dict[str, Tensor]) -> float:
    """Return the norm of what one sending leaves out in units of the update's."""
    left = sum(float((got[name] - site[name]).square().sum()) for name in site)
    moved = sum(float((base[name] - site[name]).square().sum()) for name in site)
    return math.sqrt(left / moved)


def main() -> None:
    """Measure, print a table and write the report."""
    options = parser(__doc__, runs=5)
    options.add_argument("--quick", action="store_true", help="a small model, to see that it runs")
    chosen = parse(options)
    small = {"hidden_size": 64, "num_trios": 1, "num_heads": 2} if chosen.quick else {}
    config = FEATConfig.model_validate({"in_channels": 6, **small})
    base, site = made_up(config)
    schema = state_schema(config)
    whole_bytes = sum(each.nbytes for each in site.values())
    residual = {name: torch.zeros_like(each) for name, each in site.items()}
    forms = {
        name: form_of(TransferConfig.model_validate(fields), "up") for name, fields in FORMS.items()
    }
    rows = {}
    print(f"{'form':<10} {'share':>7} {'encode MB/s':>12} {'decode MB/s':>12} {'left out':>9}")
    encoded = {
        name: encode(site, form, base=base, residual=residual).buckets
        for name, form in forms.items()
    }
    jobs = {
        **{
            f"encode {name}": lambda form=form: encode(site, form, base=base, residual=residual)
            for name, form in forms.items()
        },
        **{
            f"decode {name}": lambda form=form, name=name: decode(
                encoded[name], form, schema, base=base
            )
            for name, form in forms.items()
        },
    }
    times = take_turns(jobs, "cpu", chosen.runs)
    for name, form in forms.items():
        sent_bytes = sum(map(len, encoded[name]))
        speeds = {
            way: whole_bytes / 1e6 / times[f"{way} {name}"].median_sec
            for way in ("encode", "decode")
        }
        left = error(site, base, decode(encoded[name], form, schema, base=base)) if form else 0.0
        rows[name] = {
            "share": sent_bytes / whole_bytes,
            "bytes": sent_bytes,
            "buckets": len(encoded[name]),
            "encode_mb_per_sec": speeds["encode"],
            "decode_mb_per_sec": speeds["decode"],
            "left_out": left,
            "encode": times[f"encode {name}"].record(),
            "decode": times[f"decode {name}"].record(),
        }
        print(
            f"{name:<10} {rows[name]['share']:7.4f} {speeds['encode']:12.0f} "
            f"{speeds['decode']:12.0f} {left:9.2g}"
        )
    write_report(
        chosen.out,
        header("cpu")
        | {
            "tensors": len(site),
            "whole_bytes": whole_bytes,
            "quick": chosen.quick,
            "results": rows,
        },
    )


if __name__ == "__main__":
    main()
