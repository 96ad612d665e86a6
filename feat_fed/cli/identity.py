"""A hospital's key, and how it asks to take part: ``feat-fed keygen`` and ``feat-fed join``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from feat_fed.cli.console import say


def keygen(
    path: Annotated[Path, typer.Argument(help="Where to write the private key.")] = Path(
        "site.key"
    ),
) -> None:
    """Make this hospital's key. The private half stays here; send the .pub file.

    `feat-fed join` does that too, with a token of the coordinator's.
    """
    from feat_fed_client.keys import make_site_key

    public = make_site_key(path)
    say(f"private key: {path} (keep it here)\npublic key:  {public} (send it to the coordinator)")


def join(
    token: Annotated[
        str, typer.Argument(help="The coordinator's token: its text, a file with it, or - (stdin).")
    ],
    site_config: Annotated[
        Path, typer.Option(help="The site's YAML file; written if it does not exist.")
    ] = Path("site.yaml"),
    data: Annotated[
        list[Path] | None,
        typer.Option(help="A folder of clips, for a file that is written; again for more."),
    ] = None,
) -> None:
    """Ask to take part in a federation: make this hospital's key and send its public half.

    Writes site.yaml, ca.crt and site.key; nothing that exists is replaced. Run again, it asks
    again and says whether the coordinator has approved.
    """
    from feat_fed_client.join import deliver, prepare, read_token, save_request

    found = read_token(token)
    prepared = prepare(found, site_config, tuple(data or ()))
    for line in prepared.told:
        say(line)
    say(f"fingerprint of this hospital's key: {prepared.request.fingerprint}")
    answer = deliver(found, prepared.request)
    if answer is None:
        path = save_request(prepared.request, site_config.parent)
        say(
            f"the server at {found.address} is not there: send {path} to the coordinator, or run "
            "this command again when it is"
        )
    elif answer.state == "pending":
        say(
            f"the server at {found.address} has the request. Tell the coordinator the fingerprint "
            "by telephone: it must be the same there before it is approved"
        )
    else:
        say("the coordinator has approved: this hospital can take part")
    for line in prepared.to_do:
        say(f"to do: {line}")
