"""Keys and certificates: ``feat-fed provision`` and ``feat-fed keygen``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from feat_fed.cli.console import say


def provision(
    federation: Annotated[
        Path, typer.Argument(help="The federation's YAML file: address and sites.")
    ] = Path("federation.yaml"),
    host: Annotated[
        list[str] | None,
        typer.Option(help="A further name or IP address of the server, for its certificate."),
    ] = None,
) -> None:
    """Make the CA and the server's certificate beside the federation's file.

    What exists is kept. Says which hospitals' public keys are still missing.
    """
    from feat_fed.config import load_federation
    from feat_fed.errors import ConfigError
    from feat_fed.processes import split_address
    from feat_fed_server.certificates import (
        TlsFiles,
        certified_hosts,
        make_ca,
        make_server_certificate,
    )

    config = load_federation(federation)
    tls, sites = TlsFiles(federation.parent / "tls"), federation.parent / "sites"
    tls.folder.mkdir(exist_ok=True)
    sites.mkdir(exist_ok=True)
    if not tls.ca_certificate.exists():
        make_ca(tls)
        say(f"made the CA: {tls.ca_certificate} (give this to every hospital)")
    hosts = (split_address(config.address)[0], *(host or ()))
    if not tls.certificate.exists():
        make_server_certificate(tls, hosts=hosts)
        say(f"made the server's certificate for {', '.join(hosts)}: {tls.certificate}")
    elif others := set(hosts) - certified_hosts(tls):
        raise ConfigError(
            f"{tls.certificate} is not for {', '.join(sorted(others))}: delete it and server.key "
            "beside it and run `feat-fed provision` again; hospitals keep their ca.crt"
        )
    missing = [name for name in config.sites if not (sites / f"{name}.pub").exists()]
    if missing:
        say(
            f"still missing in {sites}: {', '.join(f'{name}.pub' for name in missing)}\n"
            "each hospital runs `feat-fed keygen` and sends the .pub file"
        )
    else:
        say("all sites' keys are here; start with `feat-fed server`")


def keygen(
    path: Annotated[Path, typer.Argument(help="Where to write the private key.")] = Path(
        "site.key"
    ),
) -> None:
    """Make this hospital's key. The private half stays here; send the .pub file."""
    from feat_fed_client.keys import make_site_key

    public = make_site_key(path)
    say(f"private key: {path} (keep it here)\npublic key:  {public} (send it to the coordinator)")
