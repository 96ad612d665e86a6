"""Pages of what crosses the wire, of all codes, and of what an audit log can say."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import get_args

from pydantic import BaseModel

from feat_fed import errors, joining, protocol
from feat_fed.audit import events
from feat_fed.memorisation import messages as memorisation
from feat_fed.secagg import messages as secagg
from from_models import cell, message_section, prose

_DOOR = range(9400, 9500)


def protocol_page() -> str:
    """Return the page of headers, by who sends them."""
    parts = [
        f"# Messages\n\nProtocol version {protocol.PROTOCOL_VERSION}.",
        prose(protocol.__doc__ or ""),
        f"A header has at most {protocol.MAX_HEADER_BYTES // 1024} KiB, and a key that is not "
        "listed here is an error. What of this a hospital's policy holds back is in "
        "[privacy.md](../privacy.md#the-last-door).",
        "## Rounds",
        *_sections(protocol),
        "## Joining",
        prose(joining.__doc__ or ""),
        *_sections(joining),
        "## Secure aggregation",
        "Enclosed in the headers above, in base64. " + prose(secagg.__doc__ or ""),
        *_sections(secagg),
        "## Before a release",
        "Enclosed likewise. " + prose(memorisation.__doc__ or ""),
        *_sections(memorisation),
    ]
    return "\n\n".join(parts) + "\n"


def codes_page() -> str:
    """Return the page of codes: all that one side learns of what went wrong at the other."""
    told = (
        ("Failures", "Why a site could not do its part of a round.", protocol.FAILURES),
        ("Declined rounds", "Which of the site's own limits a round met.", protocol.DECLINES),
        ("Shortened rounds", "Why a round has fewer steps.", protocol.SHORTENED),
        ("Refused updates", "Why the server does not take an update.", protocol.REFUSALS),
    )
    parts = [
        "# Codes and errors",
        "Codes are all that travels of a failure; the text stays in the log of the machine where "
        "it happened.",
    ]
    for title, said, codes in told:
        parts += [f"## {title}", said, _two_columns("code", "said of it", codes)]
    door = {
        str(value): name.lower().replace("_", " ")
        for name, value in vars(protocol).items()
        if isinstance(value, int) and value in _DOOR
    }
    parts += [
        "## The server's door",
        "`code` in the JSON body of a refusal, in the form of Flower's errors.",
        _two_columns("code", "what is refused", door),
        "## Errors",
        "In Python, each is a class of `feat_fed.errors`; the command line prints its message, "
        "without a traceback.",
        "\n".join(_tree(errors.FeatFedError)),
    ]
    return "\n\n".join(parts) + "\n"


def audit_page() -> str:
    """Return the page of the audit log's events."""
    parts = ["# Audit events", prose(events.__doc__ or "")]
    for event in get_args(events.AuditEvent):
        kinds = get_args(event.model_fields["kind"].annotation)
        section = message_section(event, level=2)
        title = ", ".join(f"`{each}`" for each in kinds)
        parts.append(section.replace(f"## {event.__name__}", f"## {title}", 1))
    return "\n\n".join(parts) + "\n"


def _sections(module: ModuleType) -> Iterator[str]:
    for model in vars(module).values():
        is_message = inspect.isclass(model) and issubclass(model, BaseModel)
        if is_message and model.__module__ == module.__name__ and model.model_fields:
            yield message_section(model)


def _two_columns(left: str, right: str, told: Mapping[str, str]) -> str:
    rows = (f"| `{code}` | {cell(said)} |" for code, said in told.items())
    return "\n".join((f"| {left} | {right} |", "| --- | --- |", *rows))


def _tree(kind: type[errors.FeatFedError], depth: int = 0) -> Iterable[str]:
    said = prose(kind.__doc__ or "").partition("\n")[0]
    yield f"{'    ' * depth}- `{kind.__name__}` (`{kind.code}`): {said}"
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from _tree(below, depth + 1)
