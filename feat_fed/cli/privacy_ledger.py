"""``feat-fed privacy status`` and ``verify``: a site's privacy ledger, for a person to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from feat_fed.cli.console import output, say
from feat_fed.config import SiteConfig, load_site

if TYPE_CHECKING:
    from feat_fed.audit import Verdict
    from feat_fed.privacy.anchors import Books

SiteFile = Annotated[Path, typer.Argument(help="The site's YAML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object for machines.")]

_NO_LEDGER = "no study with DP-SGD has trained here: there is no privacy ledger, nothing is spent"


def status(site_config: SiteFile, as_json: AsJson = False) -> None:
    """Show what all studies have spent of a patient here, and what is left.

    The bound by RDP is what the site enforces; that by PRV is closer.
    """
    site = load_site(site_config)
    books = _books(site)
    tree = spent_tree(site, books)
    if as_json:
        typer.echo(json.dumps(tree, indent=1))
    elif books.spent.head is None and not books.problems:
        say(_NO_LEDGER)
    else:
        _show(tree)
    _tell_problems(books, quiet=as_json)


def verify(
    site_config: SiteFile,
    head: Annotated[
        str | None,
        typer.Option(help="A head that was noted before: the ledger must still hold that line."),
    ] = None,
    accept_audit: Annotated[
        bool,
        typer.Option(
            "--accept-audit",
            help="Let pass what is wrong with the audit log; both logs say so from then on.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the privacy ledger and the audit log, line by line and against each other.

    Prints the ledger's head: note it somewhere else.
    """
    site = load_site(site_config)
    if accept_audit:
        _accept(site)
    books = _books(site, head)
    if as_json:
        logs = {"ledger": books.ledger, "audit": books.audit}
        typer.echo(json.dumps({name: _verdict_tree(each) for name, each in logs.items()}, indent=1))
    elif books.spent.head is None and not books.problems:
        say(_NO_LEDGER)
    else:
        for name, verdict in (("privacy ledger", books.ledger), ("audit log", books.audit)):
            if verdict is not None:
                say(f"{name}: {verdict.lines} lines, {verdict.began_at} to {verdict.ended_at}")
                for note in verdict.notes:
                    say(f"note: {note}")
        if books.spent.head:
            say(f"head of the privacy ledger: line {books.spent.head.sequence}")
            output.print(books.spent.head.hash)
    _tell_problems(books, quiet=as_json)


def _accept(site: SiteConfig) -> None:
    from feat_fed.privacy.anchors import accept_audit

    for each in accept_audit(site.store, site.name) or ("nothing",):
        say(f"accepted of the audit log: {each}")


def spent_tree(site: SiteConfig, books: Books) -> dict[str, Any]:
    """Return what a site has spent, as JSON."""
    from feat_fed.privacy.accounting import prv_epsilon

    spent, privacy = books.spent, site.privacy
    epsilon = spent.epsilon(delta=privacy.delta)
    left = None
    if privacy.max_epsilon is not None and not books.ledger.problems:  # else nobody knows
        left = max(0.0, privacy.max_epsilon - epsilon)
    return {
        "site": site.name,
        "delta": privacy.delta,
        "max_epsilon": privacy.max_epsilon,
        "epsilon": epsilon,
        "epsilon_prv": prv_epsilon(spent.history(), delta=privacy.delta),
        "left": left,
        "head": spent.head and spent.head.model_dump(),
        "studies": [
            {
                "study": each.name,
                "study_id": each.study_id,
                "rounds": each.rounds,
                "steps": each.steps,
                "unsettled": each.unsettled,
                "epsilon": each.epsilon(delta=privacy.delta),
                "epsilon_prv": each.closer_epsilon(delta=privacy.delta),
            }
            for each in spent.by_study()
        ],
        "problems": books.problems,
    }


def _books(site: SiteConfig, noted_hash: str | None = None) -> Books:
    from feat_fed.privacy.anchors import read_books

    return read_books(site.store, site.name, noted_hash=noted_hash)


def _show(tree: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("study", "rounds", "steps", "epsilon (RDP)", "(PRV)", "not settled")
    for each in tree["studies"]:
        shown = (_number(each["epsilon"]), _number(each["epsilon_prv"]))
        counts = (str(each[name]) for name in ("rounds", "steps"))
        table.add_row(each["study"], *counts, *shown, str(each["unsettled"] or ""))
    output.print(table)
    if open_rounds := sum(each["unsettled"] for each in tree["studies"]):
        told = f"rounds that are not settled (under way, or ended by a kill): {open_rounds}; they"
        output.print(f"{told} count with all their steps", highlight=False, soft_wrap=True)
    limit, left = tree["max_epsilon"], tree["left"]
    told = f"spent of a patient, all studies together: {_number(tree['epsilon'])}"
    told += f" by RDP, {_number(tree['epsilon_prv'])} by PRV, at delta {tree['delta']:g}"
    if tree["problems"]:
        told += " in the lines that can be read; it may be more"
    output.print(told, highlight=False, soft_wrap=True)
    allowed = "privacy.max_epsilon is not set: no limit"
    if limit is not None:
        known = "unknown" if left is None else _number(left)
        allowed = f"left of privacy.max_epsilon {limit:g}: {known}"
    output.print(allowed, highlight=False, soft_wrap=True)


def _tell_problems(books: Books, *, quiet: bool) -> None:
    """Say what is wrong, and end with status 1 if anything is."""
    if not books.problems:
        return
    if not quiet:
        for each in books.problems:
            say(f"PROBLEM: {each}")
        say("no round with DP-SGD is trained until it is mended: docs/privacy.md says how")
    raise typer.Exit(1)


def _verdict_tree(verdict: Verdict | None) -> dict[str, Any] | None:
    from dataclasses import asdict

    if verdict is None:
        return None
    return asdict(verdict) | {"head": verdict.head and verdict.head.model_dump()}


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"
