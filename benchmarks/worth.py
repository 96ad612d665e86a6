"""What federating is worth where hospitals differ: ``python benchmarks/worth.py``.

Generated patients of two kinds, a beating heart in an ultrasound sector and a walk through an
endoscope's tube, are dealt out to four hospitals by a Dirichlet distribution over the kind (alpha
0.1: most hospitals see mainly one of the two). ``feat-fed sweep`` trains a small study with them
and both its baselines, once for each seed; a seed decides who goes where, who is held out, the
first weights and every batch. None is left out.

The figure shows for each seed the mean held-out loss over the rounds, of the federated model, of
the one that was trained on all clips in one place, and of hospitals alone on everybody's held-out
patients, with the best and the worst of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib import rc_context
from matplotlib.figure import Figure
from timing import header, parse, parser, write_report

from feat_fed.data.phantoms import Shape, echo_clip, endoscopy_clip
from feat_fed.data.synthetic import write_mp4
from feat_fed.report.baseline_folder import (
    BaselineFolder,
    HospitalFacts,
    mean_loss,
    read_scores,
    scores_of,
)
from feat_fed.report.run_store import RunStore
from feat_fed.report.worth import worth

STUDY: dict[str, Any] = {
    "name": "worth",
    "model": {"in_channels": 6, "hidden_size": 32, "num_trios": 1, "num_heads": 2},
    "diffusion": {"prediction": "v"},
    "clips": {"frames": 4, "size_px": 32, "heldout_fraction": 0.4},
    "training": {
        "engine": "torch",
        "local_steps": 30,
        "batch_size": 4,
        "learning_rate": 2e-3,
        "warmup_steps": 20,
        "heldout_clips": 16,
    },
    "sites": {"minimum": 4},
    "sampler": {"steps": 10, "num_clips": 4},
}
QUICK = {"clips": {"frames": 2}, "training": {"local_steps": 2, "heldout_clips": 2}}
SIMULATION: dict[str, Any] = {
    "hospitals": 4,
    "partition": {"kind": "dirichlet", "alpha": 0.1, "by": "label"},
    "sites": {"default": {"data": {"workers": 1}}},
}
PATIENTS, CLIPS = 16, 2
"""Patients of both kinds together, and clips of each."""


def main() -> None:
    """Run the study and its baselines for each seed, and report."""
    options = parser(__doc__, runs=1)
    options.add_argument("--data", type=Path, help="folder KIND/PATIENT/clip; else generated")
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--rounds", type=int, default=6)
    options.add_argument("--quick", action="store_true", help="few steps; shows that it runs")
    options.add_argument("--keep", type=Path, help="folder for the runs, gone on with if there")
    chosen = parse(options)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (chosen.keep or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        data = chosen.data or _patients(folder / "clips")
        _sweep(folder, data.resolve(), chosen.seeds, chosen.rounds, quick=chosen.quick)
        found = [_found(folder / "runs" / "worth" / f"seed-{seed}") for seed in chosen.seeds]
    report = {"quick": chosen.quick, "study": STUDY, "simulation": SIMULATION, "results": found}
    write_report(chosen.out, {**header("cpu"), **report})
    if chosen.out:
        _plot(found, chosen.out.with_suffix(".svg"))


def _patients(folder: Path) -> Path:
    """Write clips below a folder a kind and a folder a patient, if they are not there."""
    rng = np.random.default_rng(0)
    for number in range(PATIENTS):
        kind, draw = (("echo", echo_clip), ("endoscopy", endoscopy_clip))[number % 2]
        patient = folder / kind / f"patient-{number + 1}"
        patient.mkdir(parents=True, exist_ok=True)
        for clip in range(CLIPS):
            gain = float(rng.uniform(0.8, 1.1))
            video = draw(Shape(frames=40, size_px=64, fps=25), gain=gain, rng=rng)
            write_mp4(patient / f"clip-{clip + 1}.mp4", video, 25, "")
    return folder


def _sweep(folder: Path, data: Path, seeds: Sequence[int], rounds: int, *, quick: bool) -> None:
    study = {**STUDY, "rounds": 1 if quick else rounds}
    if quick:
        study |= {key: {**study[key], **part} for key, part in QUICK.items()}
    sweep = {
        "name": "worth",
        "study": "study.yaml",
        "simulation": {**SIMULATION, "data": str(data)},
        "baselines": ["centralised", "local-only"],
        "variations": {f"seed-{seed}": {"seed": seed} for seed in seeds},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
    command = ("sweep", str(folder / "sweep.yaml"), "--runs", str(folder / "runs"))
    subprocess.run(
        [sys.executable, "-m", "feat_fed.cli", *command],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _found(run: Path) -> dict[str, Any]:
    """Return what a seed's run has come to."""
    folder = BaselineFolder.of_run(run)
    facts = folder.facts()
    compared = worth(RunStore(run))
    assert compared is not None and compared.alone is not None
    alone = [_means(scores_of(folder.alone(name)), facts) for name in facts]
    return {
        "run": run.name,
        "training_clips": {name: each.train_clips for name, each in facts.items()},
        "federated": _means(folder.federated, facts),
        "centralised": _means(scores_of(folder.centralised), facts),
        "alone": [list(models) for models in zip(*alone, strict=True)],
        "alone_at_home": compared.alone_at_home,
        "share_of_the_way": compared.share,
    }


def _means(path: Path, facts: Mapping[str, HospitalFacts]) -> list[float]:
    means = (mean_loss(losses, facts) for losses in read_scores(path).values())
    return [each for each in means if each is not None]


def _plot(found: Sequence[dict[str, Any]], path: Path) -> None:
    with rc_context({"font.size": 9, "svg.hashsalt": "feat-fed", "svg.fonttype": "none"}):
        figure = Figure(figsize=(3 * len(found), 3), layout="constrained")
        panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for axes, one in zip(panels, found, strict=True):
            alone = np.array(one["alone"])[1:]  # the untrained model is off the scale
            rounds = range(1, len(alone) + 1)
            axes.fill_between(rounds, alone.min(1), alone.max(1), color="#D55E00", alpha=0.18)
            axes.plot(rounds, alone.mean(1), color="#D55E00", label="a hospital alone")
            looks = (("federated", "#1b2026", 2.4), ("centralised", "#0072B2", 1.5))
            for name, colour, width in looks:
                axes.plot(rounds, one[name][1:], color=colour, linewidth=width, label=name)
            axes.set(title=one["run"], xlabel="rounds finished")
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("held-out loss")
        panels[0].legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
