"""What secure aggregation costs a site and the server, on FEAT-S's own tensors.

    python benchmarks/secure_aggregation.py --out secure_aggregation.json

Eight sites that are all neighbours of each other, 158 M values. A site puts its update on the
grid and adds eight streams of masks, its own and seven with others; the server puts the secrets
together and takes off what the survivors' sum still holds. The peer is what Flower's SecAgg+
(flwr.common.secure_aggregation) does for the same number of streams, at a size that its int64
copies leave room for. Its generator is numpy's Mersenne Twister under a seed of 32 bits; ours is
AES-256 in counter mode.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from timing import Job, Times, header, parse, parser, take_turns, write_report
from torch import Tensor

from feat_fed.config import FEATConfig
from feat_fed.config.privacy import SecureAggregationConfig
from feat_fed.joining import public_text
from feat_fed.model.state import state_schema
from feat_fed.secagg import Grid, Masks, ServerSecAgg, Session, SiteSecAgg, places

SITES = 8
CONFIG = SecureAggregationConfig(threshold=5)
"""Three of eight may drop out."""
LARGEST = 1.0
RING = 2**32
FLOWERS_RANGE, FLOWERS_LEVELS = 8.0, 2**22
"""Its defaults."""


class Round:
    """A round up to its masked updates, with keys and shares as they are."""

    def __init__(self) -> None:
        self.session = Session(study_id="0" * 32, round=1)
        keys = {
            f"site-{number}": ec.generate_private_key(ec.SECP384R1()) for number in range(SITES)
        }
        self.sites = {name: SiteSecAgg.begin(self.session, name, key) for name, key in keys.items()}
        self.server = ServerSecAgg.begin(self.session, CONFIG)
        for name, key in keys.items():
            identity = public_text(key.public_key())
            self.server.take_keys(self.sites[name].keys(), sender=name, identity=identity)
        roster = self.server.roster()
        known = {each.site: each.fingerprint for each in roster.offers}
        for name, site in self.sites.items():
            self.server.take_shares(site.shares(roster, CONFIG, known=known), sender=name)
        deliveries = self.server.deal()
        self.masks = {
            name: site.masks(deliveries[name], values="0" * 64) for name, site in self.sites.items()
        }

    def without(self, dropped: int) -> ServerSecAgg:
        """Return a server that has all that it needs although so many sites dropped out."""
        server = ServerSecAgg(self.server.state)
        for name in list(self.sites)[dropped:]:
            server.take_masked(name)
        request = server.request()
        for name in request.survivors:
            answer = SiteSecAgg(self.sites[name].state).unmask(request)
            server.take_unmask(answer, sender=name)
        return server


class Streamed:
    """A model's worth of values, a tensor at a time in memory that all share."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        self.values = sum(sizes.values())
        self._starts = places(sizes)
        self._floats = 1e-3 * torch.randn(max(sizes.values()))
        self._ring = np.zeros(max(sizes.values()), dtype=np.uint32)
        self._grid = Grid(LARGEST, SITES)

    def quantise(self) -> None:
        """Put an update on the grid."""
        for size in self.sizes.values():
            self._grid.to_ring(self._floats[:size])

    def mask(self, masks: Masks) -> None:
        """Add masks to integers."""
        for name, start in self._starts.items():
            masks.apply(self._ring[: self.sizes[name]], start)

    def at_site(self, masks: Masks) -> None:
        """Both, as a site does."""
        for name, start in self._starts.items():
            masks.apply(self._grid.to_ring(self._floats[: self.sizes[name]]), start)


def flowers_site(update: Tensor) -> Job:
    """Return what Flower's client does in its stage 2 with as many streams."""
    values = [update.numpy()]

    def job() -> None:
        ring = quantize(values, FLOWERS_RANGE, FLOWERS_LEVELS)
        shapes = [each.shape for each in ring]
        for _ in range(SITES):
            ring = parameters_addition(ring, pseudo_rand_gen(os.urandom(32), RING, shapes))
        parameters_mod(ring, RING)

    return job


def flowers_server(values: int, streams: int) -> Job:
    """Return what Flower's server does to take off so many streams."""
    total = [np.zeros(values, dtype=np.int64)]

    def job() -> None:
        ring = total
        for _ in range(streams):
            ring = parameters_subtraction(ring, pseudo_rand_gen(os.urandom(32), RING, [(values,)]))
        parameters_mod(ring, RING)

    return job


def measure(chosen: argparse.Namespace) -> tuple[dict[str, Times], dict[str, Times], int]:
    """Return times of our jobs on the whole model, of ours and Flower's at its size, and values."""
    round_ = Round()
    small = {"hidden_size": 64, "num_trios": 1, "num_heads": 2} if chosen.quick else {}
    schema = state_schema(FEATConfig.model_validate({"in_channels": 6, **small}))
    model = Streamed({name: math.prod(each.shape) for name, each in schema.items()})
    masks = round_.masks["site-0"]
    servers = {dropped: round_.without(dropped) for dropped in (0, 1, 3)}
    whole: dict[str, Job] = {
        "grid": model.quantise,
        "masks, 7 neighbours": lambda: model.mask(masks),
        "site: grid and masks": lambda: model.at_site(masks),
        **{
            f"server: {dropped} dropped": lambda server=server: model.mask(server.recover())
            for dropped, server in servers.items()
        },
    }
    part = Streamed({"values": 100_000 if chosen.quick else chosen.peer_values})
    removed = servers[1].recover()
    streams = len(removed.added) + len(removed.subtracted)
    beside: dict[str, Job] = {
        "site, ours": lambda: part.at_site(masks),
        "site, Flower's": flowers_site(1e-3 * torch.randn(part.values)),
        "server, ours": lambda: part.mask(removed),
        "server, Flower's": flowers_server(part.values, streams),
    }
    return (
        take_turns(whole, "cpu", chosen.runs),
        take_turns(beside, "cpu", chosen.runs),
        model.values,
    )


def main() -> None:
    """Measure, print a table and write the report."""
    options = parser(__doc__, runs=5)
    options.add_argument("--quick", action="store_true", help="a small model, to see that it runs")
    options.add_argument(
        "--peer-values", type=int, default=8_000_000, help="of the comparison with Flower's"
    )
    chosen = parse(options)
    whole, beside, values = measure(chosen)
    print(f"{SITES} sites, {values / 1e6:.1f} M values")
    for name, times in whole.items():
        print(
            f"{name:<22} {times.median_sec:8.2f} s {1e9 * times.median_sec / values:7.2f} ns/value"
        )
    ratios = {
        role: beside[f"{role}, ours"].over(beside[f"{role}, Flower's"])
        for role in ("site", "server")
    }
    for role, ratio in ratios.items():
        print(f"{role}: {ratio:.4f} of Flower's")
    write_report(
        chosen.out,
        header("cpu")
        | {
            "sites": SITES,
            "values": values,
            "peer_values": chosen.peer_values,
            "quick": chosen.quick,
            "results": {name: times.record() for name, times in (whole | beside).items()},
            "over_flowers": ratios,
        },
    )


if __name__ == "__main__":
    main()
