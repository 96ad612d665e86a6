"""``feat-fed provision``: certificates, tokens, and who may take part."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from typer.core import TyperGroup

from feat_fed.cli.completion import sites
from feat_fed.cli.console import output, say
from feat_fed.errors import ConfigError

if TYPE_CHECKING:
    from feat_fed.config import FederationConfig
    from feat_fed.joining import JoinRequest
    from feat_fed_server.admissions import Admissions

_DEFAULT = "make"


class _MakeByDefault(TyperGroup):
    """`provision FILE` is `provision make FILE`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        known = {*self.commands, *ctx.help_option_names}
        # A mistyped command is told as one by the group itself, and is no file.
        mistyped = args and get_close_matches(args[0], self.commands) and not Path(args[0]).exists()
        if not args or (args[0] not in known and not mistyped):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_MakeByDefault,
    help="Make a federation's certificates and tokens; approve, revoke and renew keys.",
)

File = Annotated[Path, typer.Argument(help="The federation's YAML file: address and sites.")]
Site = Annotated[str, typer.Argument(help="A site of the federation's file.", autocompletion=sites)]
Days = Annotated[float, typer.Option(min=0.01, help="Days in which a token can be used.")]


@app.command(_DEFAULT)
def make(
    federation: File = Path("federation.yaml"),
    host: Annotated[
        list[str] | None,
        typer.Option(help="A further name or IP address of the server, for its certificate."),
    ] = None,
    token_days: Days = 14,
) -> None:
    """Make what is missing: CA, server's certificate, a join token for each new hospital.

    `feat-fed provision FILE` is the same. What exists is kept; tokens that have expired unused
    are made anew.
    """
    from feat_fed.config import load_federation
    from feat_fed.processes import split_address
    from feat_fed_server.admissions import Admissions
    from feat_fed_server.certificates import (
        TlsFiles,
        certified_hosts,
        make_ca,
        make_server_certificate,
    )

    config = load_federation(federation)
    tls, admissions = TlsFiles(federation.parent / "tls"), Admissions(federation.parent)
    tls.folder.mkdir(exist_ok=True)
    admissions.keys.mkdir(exist_ok=True)
    if not tls.ca_certificate.exists():
        make_ca(tls)
        say(f"made the CA: {tls.ca_certificate}")
    hosts = (split_address(config.address)[0], *(host or ()))
    if not tls.certificate.exists():
        make_server_certificate(tls, hosts=hosts)
        say(f"made the server's certificate for {', '.join(hosts)}: {tls.certificate}")
    elif others := set(hosts) - set(certified_hosts(tls)):
        raise ConfigError(
            f"{tls.certificate} is not for {', '.join(sorted(others))}: `feat-fed provision renew "
            "--host ...` makes another; hospitals keep their ca.crt"
        )
    for name in config.sites:
        invitation = admissions.invitation(name)
        if admissions.key_file(name).exists() or _is_out(admissions, name):
            continue
        if invitation and not _is_stale(admissions, name):
            continue
        path = admissions.invite(
            name, address=config.address, ca_certificate=tls.ca_certificate, days=token_days
        )
        say(f"made a token: {path} (give it to {name} alone, by a way that you both trust)")
    _tell_absent(config, admissions)


@app.command()
def approve(
    federation: File,
    site: Site,
    request: Annotated[
        Path | None,
        typer.Option(help="The request as a file, where the hospital could not reach the server."),
    ] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="What the hospital reads out; asked about if unset.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of the key that the site has.")
    ] = False,
) -> None:
    """Admit a hospital's key, after its fingerprint was compared by telephone.

    A study that runs takes the site in within seconds.
    """
    _, admissions = _open(federation, site)
    found = _requested(admissions, site, request)
    say(f"{site} asks with a key of fingerprint {found.fingerprint}")
    if fingerprint is None:
        _compare_by_telephone(federation, site)
    elif "".join(fingerprint.split()).lower() != "".join(found.fingerprint.split()):
        raise ConfigError(
            f"the fingerprint of the request is {found.fingerprint} and not {fingerprint}: do not "
            "approve it unless the hospital reads out the same"
        )
    admissions.approve(found, replace=replace)
    say(f"{site} is admitted: {admissions.key_file(site)}")


@app.command()
def revoke(
    federation: File,
    site: Annotated[str, typer.Argument(help="A site.", autocompletion=sites)],
) -> None:
    """Take a hospital's key out for good, and its token and request with it.

    A study that runs turns the site away within seconds. With a new token and a new key the
    hospital can come back.
    """
    from feat_fed_server.admissions import Admissions

    if Admissions(federation.parent).revoke(_valid(federation, site)):
        say(f"{site}: its key was revoked and never comes back")
    else:
        say(f"{site}: it had no key; its token and its request, if any, are worth nothing now")


@app.command()
def rotate(federation: File, site: Site, token_days: Days = 14) -> None:
    """Make a new token for a hospital: a new key, or a token that was lost or has expired.

    The key that the site has stays good until the new one is approved with --replace.
    """
    from feat_fed_server.certificates import TlsFiles

    config, admissions = _open(federation, site)
    tls = TlsFiles(federation.parent / "tls")
    tls.require()
    path = admissions.invite(
        site, address=config.address, ca_certificate=tls.ca_certificate, days=token_days
    )
    say(f"made a token: {path} (give it to {site} alone, by a way that you both trust)")


@app.command()
def renew(
    federation: File = Path("federation.yaml"),
    host: Annotated[
        list[str] | None,
        typer.Option(help="A further name or IP address of the server, for its certificate."),
    ] = None,
) -> None:
    """Make a new certificate for the server, of the same CA: hospitals keep their ca.crt.

    A study that runs uses it within seconds.
    """
    from feat_fed.config import load_federation
    from feat_fed.processes import split_address
    from feat_fed_server.certificates import TlsFiles, certified_hosts, make_server_certificate

    config, tls = load_federation(federation), TlsFiles(federation.parent / "tls")
    before = certified_hosts(tls) if tls.certificate.exists() else ()
    hosts = dict.fromkeys((split_address(config.address)[0], *before, *(host or ())))
    make_server_certificate(tls, hosts=tuple(hosts))
    say(f"made the server's certificate for {', '.join(hosts)}: {tls.certificate}")


@app.command()
def status(federation: File = Path("federation.yaml")) -> None:
    """Say who is admitted, who asks, which tokens are out, and what expires."""
    from feat_fed.config import load_federation
    from feat_fed_server.admissions import Admissions
    from feat_fed_server.certificates import TlsFiles
    from feat_fed_server.membership import Federation

    config, admissions = load_federation(federation), Admissions(federation.parent)
    table = Table("site", "state", "fingerprint of its key", box=None)
    for name in config.sites:
        for state, fingerprint in _states(admissions, name):
            table.add_row(name, state, fingerprint)
    output.print(table)
    for each in admissions.revoked():
        output.print(f"{each.site}: a key was {each.why} on {each.at:%Y-%m-%d}")
    tls = TlsFiles(federation.parent / "tls")
    tls.require()
    for line in (*tls.warnings(), *Federation(federation).warnings()):
        say(f"warning: {line}")


def _open(federation: Path, site: str) -> tuple[FederationConfig, Admissions]:
    from feat_fed.config import load_federation
    from feat_fed_server.admissions import Admissions

    config = load_federation(federation)
    if site not in config.sites:
        raise ConfigError(
            f"{site} is not in {federation} (sites: {', '.join(config.sites)}); add it there first"
        )
    return config, Admissions(federation.parent)


def _valid(federation: Path, site: str) -> str:
    """Return the name of a site, which may have left the federation's file already."""
    from feat_fed.config import load_federation
    from feat_fed_server.admissions import Admissions

    sites = load_federation(federation).sites
    if site in sites:
        return site
    if "/" in site or not Admissions(federation.parent).key_file(site).exists():
        raise ConfigError(
            f"{site} is not in {federation} (sites: {', '.join(sites)}), and there is no key of "
            "that name"
        )
    return site


def _compare_by_telephone(federation: Path, site: str) -> None:
    try:
        same = typer.confirm("Does the hospital read out the same?", err=True)
    except typer.Abort:  # Ctrl-C, or nobody is there to answer
        say(f"\nnothing was changed: {site} still asks (--fingerprint answers without a terminal)")
        raise
    if not same:
        raise ConfigError(
            f"{site} is not admitted, and still asks. If the hospital reads out another "
            "fingerprint, the request is not its own: "
            f"`feat-fed provision revoke {federation} {site}` drops it"
        )


def _requested(admissions: Admissions, site: str, file: Path | None) -> JoinRequest:
    from feat_fed_server.admissions import JoinRefusedError

    if file is not None:
        if not file.is_file():
            raise ConfigError(f"{file} does not exist")
        try:
            found, _ = admissions.receive(file.read_bytes().strip())
        except JoinRefusedError as refusal:
            raise ConfigError(f"{file} is turned away: {refusal}") from None
        if found.site != site:
            raise ConfigError(f"{file} is a request of {found.site}, not of {site}")
        return found
    pending = admissions.pending(site)
    if pending is None and (path := admissions.key_file(site)).exists():
        raise ConfigError(
            f"{site} is admitted already ({path}), and asks for no other key; "
            "`feat-fed provision rotate` makes a token for a new one"
        )
    if pending is None:
        raise ConfigError(
            f"{site} has not asked to join: the hospital runs `feat-fed join` with "
            f"{admissions.token_file(site)}; --request FILE takes a request that came by mail"
        )
    return pending


def _is_stale(admissions: Admissions, site: str) -> bool:
    """Whether the site's token has expired unused, or its file was lost."""
    it = admissions.invitation(site)
    if it is None or it.used_by is not None:
        return it is None
    return it.has_expired or not admissions.token_file(site).exists()


def _is_out(admissions: Admissions, site: str) -> bool:
    """Whether the site was taken out and not asked to come back."""
    last = next((it for it in reversed(admissions.revoked()) if it.site == site), None)
    return last is not None and last.why == "revoked" and admissions.invitation(site) is None


def _states(admissions: Admissions, site: str) -> list[tuple[str, str]]:
    from feat_fed_server.admissions import read_site_key

    states = []
    if (path := admissions.key_file(site)).exists():
        states.append(("admitted", read_site_key(path)[1]))
    if pending := admissions.pending(site):
        states.append(("asks to join: approve or revoke", pending.fingerprint))
    invitation = admissions.invitation(site)
    if invitation is not None and invitation.used_by is None:
        until = f"{invitation.expires_at:%Y-%m-%d}"
        expired = invitation.has_expired
        states.append((f"token expired on {until}" if expired else f"token until {until}", ""))
    if not states and _is_out(admissions, site):
        return [("revoked; `feat-fed provision rotate` makes a token to come back with", "")]
    return states or [("no token: run `feat-fed provision`", "")]


def _tell_absent(config: FederationConfig, admissions: Admissions) -> None:
    absent = [name for name in config.sites if not admissions.key_file(name).exists()]
    if not absent:
        say("all sites are admitted; start with `feat-fed server`")
        return
    say(
        f"not admitted yet: {', '.join(absent)}\n"
        "start `feat-fed server`, each hospital runs `feat-fed join` with its token, and you\n"
        "`feat-fed provision approve`; or, without tokens: each runs `feat-fed keygen` and sends\n"
        f"the .pub file, which you save as {admissions.keys}/NAME.pub"
    )
