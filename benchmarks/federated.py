"""What federating costs in learning: ``python benchmarks/federated.py --data FOLDER``.

The hospitals that FOLDER makes train a study, and then one place that has all their training
clips does (``feat-fed simulate --baseline centralised``), for the same number of rounds and
optimiser steps a round, and as many clips a step as all hospitals take together. After each round
both models are scored by the hospitals, on their own held-out patients, whom neither has seen: the
same clips, timesteps and noise.

The figure shows the losses over the rounds. Whether samples look like the data more than
noise does is told by their power spectra: the mean absolute difference of log-power, over
spatial frequencies of a frame and over temporal ones, between generated clips and the
hospitals' clips, and between noise of the data's mean and spread and the same clips.

Shapes: N clips, F frames, H x W pixels.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray
from timing import header, parse, parser, write_report

from feat_fed.codec import build_codec
from feat_fed.config import SiteConfig, StudyConfig
from feat_fed.data.partition import hospitals_from_folder
from feat_fed.generate import run_pipeline
from feat_fed.protocol import Assignment
from feat_fed.report.baseline_folder import BaselineFolder, mean_loss, read_scores, scores_of
from feat_fed.report.run_store import RunStore
from feat_fed.simulate import virtual_sites
from feat_fed_client.session import SiteSession

STUDY: dict[str, Any] = {
    "name": "learning",
    "seed": 7,
    "model": {
        "in_channels": 6,
        "hidden_size": 128,
        "num_trios": 2,
        "num_heads": 4,
        "patch_size": 4,
    },
    "diffusion": {"prediction": "v"},
    "clips": {"frames": 16, "size_px": 64, "stride_frames": 2, "heldout_fraction": 0.3},
    "training": {
        "local_steps": 60,
        "batch_size": 4,
        "learning_rate": 5e-4,
        "warmup_steps": 60,
        "heldout_clips": 32,
    },
    "sites": {"minimum": 4},
}
QUICK = {"clips": {"frames": 4, "size_px": 32}, "training": {"local_steps": 2, "heldout_clips": 4}}
SAMPLES = 8


def main() -> None:
    """Run both studies, score their rounds, and report."""
    options = parser(__doc__, runs=1)
    options.add_argument("--data", type=Path, required=True, help="folder of clips")
    options.add_argument("--rounds", type=int, default=12)
    options.add_argument("--quick", action="store_true", help="few steps; shows that it runs")
    chosen = parse(options)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rounds = 2 if chosen.quick else chosen.rounds
        study = _study(folder, rounds=rounds, quick=chosen.quick)
        _feat_fed(
            folder,
            *("simulate", "--data", str(chosen.data.resolve()), "--sites", "4"),
            *("--study", str(study), "--rounds", str(rounds), "--run", "federated"),
            *("--baseline", "centralised"),
        )
        federated = RunStore(folder / "runs" / "federated")
        sites = virtual_sites(federated, hospitals_from_folder(chosen.data.resolve()))
        report = _report(
            _scores(federated), _spectra(federated, sites), federated.study, chosen.quick
        )
    write_report(chosen.out, report)
    if chosen.out:
        _plot(report["heldout_loss"], chosen.out.with_suffix(".svg"))


def _study(folder: Path, *, rounds: int, quick: bool) -> Path:
    tree = {**STUDY, "rounds": rounds, "checkpoints": {"keep_every": 1}}  # all are scored
    if quick:
        tree |= {key: {**tree[key], **part} for key, part in QUICK.items()}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def _feat_fed(folder: Path, *arguments: str) -> None:
    entry = "from feat_fed.cli.main import run_main; run_main()"
    subprocess.run(
        [sys.executable, "-c", entry, *arguments, "--runs", str(folder / "runs")],
        check=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _scores(federated: RunStore) -> dict[str, list[float]]:
    """Return the means of the sites' held-out losses by round."""
    folder = BaselineFolder.of_run(federated.root)
    facts = folder.facts()
    files = {"federated": folder.federated, "centralised": scores_of(folder.centralised)}
    return {
        name: [mean for each in read_scores(path).values() if (mean := mean_loss(each, facts))]
        for name, path in files.items()
    }


def _spectra(run: RunStore, sites: Iterable[SiteConfig]) -> dict[str, float]:
    """Return how far the spectra of samples and of noise are from those of the clips."""
    study = run.study
    codec = build_codec(study.codec)
    assignment = Assignment(
        study_id=run.summary().study_id, round=1, task="evaluate", first_step=0, study=study
    )
    latents = [
        SiteSession(site).clips(assignment).train.batch(study.seed, 0, SAMPLES) for site in sites
    ]
    real = codec.decode(torch.cat(latents).float()).numpy() / 2 + 0.5
    pipeline = run_pipeline(run)
    made = pipeline(seeds=range(SAMPLES), output_type="pt").frames
    noise = np.random.default_rng(study.seed).normal(real.mean(), real.std(), real.shape)
    return {
        "samples": _distance(np.asarray(made), real),
        "noise": _distance(noise, real),
    }


def _distance(some: NDArray[Any], others: NDArray[Any]) -> float:
    return float(np.abs(_log_power(some) - _log_power(others)).mean())


def _log_power(video_NFCHW: NDArray[Any]) -> NDArray[np.float64]:
    """Return mean log-power by temporal and by radial spatial frequency."""
    grey_NFHW = video_NFCHW.mean(2)
    power = np.abs(np.fft.fftn(grey_NFHW, axes=(1, 2, 3))) ** 2
    log_FHW = np.log(power + 1e-12).mean(0)
    side = log_FHW.shape[-1]
    frequency = np.fft.fftfreq(side) * side
    radius_HW = np.hypot(frequency[:, None], frequency[None]).astype(int)
    spatial = [log_FHW[0][radius_HW == each].mean() for each in range(1, side // 2)]
    temporal = log_FHW.mean((1, 2))[1 : log_FHW.shape[0] // 2 + 1]
    return np.concatenate([spatial, temporal])


def _report(
    scores: Mapping[str, list[float]], spectra: Mapping[str, float], study: StudyConfig, quick: bool
) -> dict[str, Any]:
    federated, centralised = scores["federated"][-1], scores["centralised"][-1]
    print(f"held-out loss: federated {federated:.4f}, centralised {centralised:.4f}")
    print(f"  federated / centralised {federated / centralised:.3f}, target at most 1.05")
    for name, distance in spectra.items():
        print(f"  log-power of {name} is off by {distance:.2f}")
    return {
        **header("cpu"),
        "quick": quick,
        "study": study.model_dump(mode="json"),
        "heldout_loss": dict(scores),
        "ratio": federated / centralised,
        "log_power_off_by": dict(spectra),
    }


def _plot(scores: Mapping[str, list[float]], path: Path) -> None:
    with rc_context({"font.size": 9, "svg.hashsalt": "feat-fed", "svg.fonttype": "none"}):
        figure = Figure(figsize=(6, 3.2), layout="constrained")
        axes = figure.subplots()
        for name, losses in scores.items():
            axes.plot(range(len(losses)), losses, marker="o", markersize=3, label=name)
        axes.set(xlabel="round", ylabel="held-out loss")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
