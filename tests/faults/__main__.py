"""``make faults``: run the matrix, print it, write it into the documentation.

Words after the command choose the faults whose lines hold them all; their rows replace those of
before. What does not fit into the time keeps the rows that it has.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from faults.cases import WORKERS, Fault, can, named, small_disk
from faults.matrix import suffer
from faults.page import Line, Results, page, row, table
from faults.reference import bytes_of, digest_of, rounds_undisturbed
from faults.stage import SITES, MissedError, Stage, make_consortium
from feat_fed.errors import FeatFedError
from feat_fed.report import RunStore
from feat_fed.train.run_state import restore
from system.consortium import make_folders

ROOT = Path(__file__).parents[2]
MOST_SEC = 60.0
"""For a study to recover."""

ROUNDS = 1000
"""Of the study: more than there are faults."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("words", nargs="*", help="of the faults to run; all if there is none")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results/faults.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/faults.md")
    parser.add_argument("--minutes", type=float, default=26.0, help="for all but the last fault")
    parser.add_argument("--missing", action="store_true", help="only those without a row")
    arguments = parser.parse_args()
    results = Results.read(arguments.results)
    faults = [each for each in named(arguments.words) if can(each.needs)]
    random.Random(0).shuffle(faults)  # some of each kind, if there is no time for all
    faults.sort(key=lambda each: each.may_change_weights)
    if arguments.missing:
        faults = [each for each in faults if each.key not in results.lines]
    before, same = results.model_copy(), True
    results.machine = f"{os.cpu_count()} cores of {platform.machine()}, {platform.system()}"
    until = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory(prefix="feat-fed-faults-") as folder:
        root = Path(folder)
        made = root / "made"
        made.mkdir()
        make_folders(made)
        if faults:
            same = run(root, made, faults, results, arguments.results, until)
        if not arguments.words and time.monotonic() < until:
            with playing(root / "workers", made, devices=2) as stage:
                for each in WORKERS:
                    note(stage, each, results)
    sys.stdout.write(f"\n{table(results.lines)}\n\n{results.verdict}\n")
    if same and (arguments.words or arguments.missing):  # what is said of all stays
        results = before.model_copy(update={"lines": results.lines})
    results.write(arguments.results)
    arguments.page.write_text(page(results))
    return int(not same or any(map(is_bad, results.lines.values())))


def run(
    root: Path, made: Path, faults: Iterable[Fault], results: Results, file: Path, until: float
) -> bool:
    """Put one study through the faults; start another one where it is not overcome.

    Return whether the weights were those of rounds undisturbed.
    """
    left, number, same = list(faults), 0, True
    while left and time.monotonic() < until:
        number += 1
        scene = root / f"scene-{number}"
        with playing(scene, made) as stage:
            began, done = time.monotonic(), stage.rounds_done()
            stage.wait(lambda: stage.rounds_done() >= done + 3)  # noqa: B023
            results.round_sec = (time.monotonic() - began) / 3
            results.load = f"a load of {os.getloadavg()[0]:.0f}"
            marks = [mark(stage, "the start")]
            while left and time.monotonic() < until:
                fault = left.pop(0)
                if not note(stage, fault, results):
                    break
                results.write(file)
                if not fault.may_change_weights:
                    marks.append(mark(stage, fault.key))
            stage.stop()
            same &= compare(stage, root / f"whole-{number}", made, results, marks)
    return same


@contextlib.contextmanager
def playing(root: Path, made: Path, *, devices: int = 1):
    """Have a consortium at work, on small disks of its own where that can be had."""
    with contextlib.ExitStack() as stack:
        stage = Stage(root, made, devices=devices, rounds=ROUNDS)
        if can("mount"):
            stack.enter_context(small_disk(root / "runs"))
            store = stage.stores[SITES[0]]
            key = (store / "patients.key").read_bytes()
            stack.enter_context(small_disk(store))
            (store / "patients.key").write_bytes(key)
        with stage:
            stage.start()
            stage.wait(lambda: stage.rounds_done() >= 1, 300)
            yield stage


def note(stage: Stage, fault: Fault, results: Results) -> bool:
    """Put a study through one fault; return whether it goes on."""
    try:
        outcome = suffer(stage, fault)
        line = Line(**vars(outcome))
    except MissedError as missed:
        sys.stderr.write(f"{missed}\n")
        return True
    except TimeoutError as error:
        line = Line(error="not overcome")
        sys.stderr.write(f"{fault.key}: {error}\n")
    results.lines[fault.key] = line
    sys.stdout.write(row(fault.key, line) + "\n")
    sys.stdout.flush()
    return not line.error


@dataclass(frozen=True)
class Mark:
    """A study's weights after a fault was overcome."""

    fault: str
    rounds: int
    digest: str


def mark(stage: Stage, fault: str) -> Mark:
    """Note the weights; the study goes on meanwhile and may turn over its files."""
    while True:
        with contextlib.suppress(FeatFedError, OSError):
            state = restore(RunStore(stage.run))
            return Mark(fault, state.rounds_done, digest_of(bytes_of(state.weights)))
        time.sleep(0.1)


def compare(stage: Stage, root: Path, made: Path, results: Results, marks: list[Mark]) -> bool:
    """Return whether the study's weights after each fault are those of rounds undisturbed."""
    rounds = marks[-1].rounds
    whole = rounds_undisturbed(make_consortium(root, made), stage.study, rounds=rounds)
    right = dict(enumerate(map(digest_of, whole), start=1))
    wrong = [each for each in marks if each.digest != right[each.rounds]]
    told = "are, bit by bit, those of the same rounds undisturbed."
    if wrong:
        told = f"**differ** from those of the same rounds undisturbed since {wrong[0].fault}."
    results.verdict = (
        f"After each of {len(marks) - 1} faults in {rounds} rounds of one study, its weights {told}"
    )
    return not wrong


def is_bad(line: Line) -> bool:
    """Whether something was lost, or a minute."""
    return bool(line.error or line.rounds_lost or line.updates_lost) or line.seconds > MOST_SEC


if __name__ == "__main__":
    sys.exit(main())
