"""``feat-fed release``: hospitals are asked for copies before a sample or a model is given away."""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from feat_fed.cli.completion import run_folders
from feat_fed.cli.console import console, say
from feat_fed.cli.drawing_options import CodecWeights, Seed
from feat_fed.cli.release_clips import Drawn
from feat_fed.cli.release_lines import release_lines
from feat_fed.errors import ConfigError, RunError
from feat_fed.processes import require_free, split_address
from feat_fed.report.live import StudyLive
from feat_fed.report.run_store import RunStore, lock_run

if TYPE_CHECKING:
    from feat_fed.memorisation import Release
    from feat_fed_server.release_folder import ReleaseFolder

_MAX_CLIPS = 256
_NOT_WAITED_FOR = "it has not answered, and was not waited for"


def release(
    run: Annotated[
        Path,
        typer.Argument(help="A run's folder, such as runs/demo.", autocompletion=run_folders),
    ],
    clips: Annotated[
        int, typer.Option("--clips", min=1, max=_MAX_CLIPS, help="Clips to draw and to release.")
    ] = 16,
    seed: Seed = None,
    round_number: Annotated[
        int | None, typer.Option("--round", min=1, help="Of the model; the last if unset.")
    ] = None,
    federation: Annotated[
        Path, typer.Option(help="The federation's YAML file, as for `feat-fed server`.")
    ] = Path("federation.yaml"),
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT to listen on; the federation's address if unset.")
    ] = None,
    wait_sec: Annotated[
        float,
        typer.Option(
            min=0,
            help="Longest that the hospitals are waited for; 0: go by what they have answered.",
        ),
    ] = 1800.0,
    word: Annotated[
        str | None,
        typer.Option(
            "--release-anyway",
            metavar="REASON",
            help="Release the model although the gate is not passed; the reason is logged.",
        ),
    ] = None,
    codec_weights: CodecWeights = None,
) -> None:
    """Release clips and the model of a run, if no hospital finds copies of its own among them.

    The hospitals' clients have to run, as for a study; who answered before is not asked again.
    """
    from feat_fed_server.release_folder import ClipsHeader, ReleaseFolder

    word = None if word is None else _checked(word)
    store = RunStore(run)
    folder, sites = ReleaseFolder(store.root), _sites_of(store)
    number = round_number or store.latest_round() or 0
    if not store.weights_file("ema", number).is_file():
        kept = ", ".join(map(str, store.done_rounds()))
        raise RunError(f"{store.root} has no weights of round {number}; it has those of {kept}")
    options = {"num_clips": clips, "seed": store.study.sampler.seed if seed is None else seed}
    sampler = store.study.sampler.model_copy(update=options)
    header = ClipsHeader.of(store, number, sampler)
    # Found out before anything is drawn, which takes long.
    everybody_answered = {*sites} <= folder.answered(header).keys()
    asks = wait_sec > 0 and not everybody_answered
    serve = _server(store, federation, listen) if asks else None
    with lock_run(store.root):
        drawn = Drawn.of(store, folder, header, codec_weights)
        _ask(folder, drawn, sites, wait_sec=wait_sec, serve=serve)
        decision = _decided(store, folder, drawn, word)
        _write(store, folder, drawn, decision)
    for line in release_lines(folder, decision):
        say(line)
    if decision.model == "kept":
        raise typer.Exit(1)


def _checked(word: str) -> str:
    from feat_fed.audit.events import Word

    try:
        return TypeAdapter(Word).validate_python(word)
    except ValidationError:
        raise ConfigError(
            f"--release-anyway is {word!r}; give the reason in 3 to 500 characters on one line, "
            "for the run's audit log"
        ) from None


def _sites_of(store: RunStore) -> tuple[str, ...]:
    """Return the sites that took part.

    Raises
    ------
    RunError
        If there are none, or none that could be asked.
    """
    sites = {each.site for part in store.rounds() for each in part.sites if each.status == "ok"}
    if not sites:
        raise RunError(
            f"{store.root} has no round that a hospital took part in; there is nothing to release"
        )
    if not store.roster.exists():
        raise RunError(
            f"{store.root} was simulated: its hospitals have no clients that could be asked. "
            "A gate is for a study of `feat-fed server`; `feat-fed export` and `feat-fed sample` "
            "write what a simulation made"
        )
    return tuple(sorted(sites))


Serve = Callable[[], None]
"""Runs the server side until the sites were asked."""


def _server(store: RunStore, federation: Path, listen: str | None) -> Serve:
    """Check what the server side needs, before anything is drawn; return what runs it."""
    from feat_fed.config import load_federation
    from feat_fed_server.certificates import TlsFiles
    from feat_fed_server.launch import StudyLauncher
    from feat_fed_server.membership import Federation
    from feat_fed_server.releasing import ReleaseErrand

    invited = load_federation(federation)
    members, tls = Federation(federation), TlsFiles(federation.parent / "tls")
    keys, address = members.members(), listen or invited.address
    tls.require()

    def serve() -> None:
        require_free(*split_address(address))
        with _watching(store) as watch:
            StudyLauncher(
                store=store,
                listen=address,
                tls=tls,
                sites=keys,
                federation=members,
                tell=say,
                watch=watch,
                errand=ReleaseErrand(store),
            ).run()

    return serve


def _ask(
    folder: ReleaseFolder,
    drawn: Drawn,
    sites: tuple[str, ...],
    *,
    wait_sec: float,
    serve: Serve | None,
) -> None:
    """Ask the sites that have not answered about these very clips."""
    from feat_fed_server.release_folder import AskingState

    state = AskingState(
        clips_sha256=folder.read_latents()[1],
        clips=len(drawn.z_NFChw),
        round=drawn.header.round,
        until=time.time() + wait_sec,
        sites=sites,
        answers=folder.answered(drawn.header),
    )
    folder.write_asking(state)
    open_ = ", ".join(each for each in sites if each not in state.settled())
    if serve is not None:
        say(f"asking {open_} about {state.clips} clips of round {state.round}")
        serve()
    elif not open_:
        say("all hospitals that took part have answered about these clips before")


@contextlib.contextmanager
def _watching(store: RunStore) -> Iterator[Callable[[StudyLive | None], None]]:
    """Say once who is waited for and who has answered."""
    told: set[str] = set()

    def once(line: str) -> None:
        if line not in told:
            told.add(line)
            say(line)

    def watch(live: StudyLive | None) -> None:
        if live is None:
            return
        for site in live.replied:
            once(f"{site} has replied")
        if live.phase == "waiting" and live.missing:
            once(f"waiting for {', '.join(live.missing)}")

    with console.status(f"the hospitals compare the clips with theirs (logs: {store.logs})"):
        yield watch


def _decided(store: RunStore, folder: ReleaseFolder, drawn: Drawn, word: str | None) -> Release:
    from feat_fed.memorisation import Release, SiteAnswer, decide
    from feat_fed_server.releasing import asked_in

    state, summary = asked_in(folder), store.summary()
    silent = {
        each: SiteAnswer(site=each, status="missing", reason=_NOT_WAITED_FOR)
        for each in state.sites
    }
    answers = tuple((silent | state.answers)[each] for each in state.sites)
    gate, model, verdicts = decide(answers, seeds=drawn.seeds, word=word)
    return Release(
        at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        study=store.study.name,
        study_id=summary.study_id,
        round=drawn.header.round,
        sampler=drawn.header.sampler,
        clips_sha256=state.clips_sha256,
        gate=gate,
        model=model,
        word=word if model == "released-anyway" else None,
        sites=answers,
        by_chance={each.site: each.by_chance for each in answers},
        clips=verdicts,
    )


def _write(store: RunStore, folder: ReleaseFolder, drawn: Drawn, decision: Release) -> None:
    """Log the decision, then write what it lets through, and nothing that an earlier one did."""
    from feat_fed_server.run_audit import RunAudit

    try:
        for old in (folder.samples, folder.model):
            if old.exists():
                shutil.rmtree(old)
        folder.decision.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"an earlier release in {folder.root} cannot be removed: {error}") from error
    RunAudit(store).released(decision)
    released = [each.clip - 1 for each in decision.clips if each.released]
    if released:
        drawn.write_samples(folder.samples, released)
    if decision.model != "kept":
        drawn.pipeline.save_pretrained(folder.model)
    folder.write_decision(decision)
