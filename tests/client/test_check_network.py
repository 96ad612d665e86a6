"""The checks of the network, against a real door with TLS on loopback."""

import contextlib
import datetime as dt
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cryptography.hazmat.primitives import serialization
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from starlette.types import ASGIApp, Receive, Scope, Send

from client.check_site import make_site, small_study
from feat_fed.config import ServerLinkConfig, SiteConfig
from feat_fed.processes import free_port
from feat_fed_client import probe
from feat_fed_client.check import CHECKS, Subject, environment, network, run_checks, way
from feat_fed_client.keys import make_site_key
from feat_fed_server import certificates
from feat_fed_server.certificates import TlsFiles, make_ca, make_server_certificate
from feat_fed_server.door import FleetDoor


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand in for a server of another kind: 404 to everything."""
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def make_tls(folder: Path, days: float) -> TlsFiles:
    folder.mkdir()
    files = TlsFiles(folder)
    with pytest.MonkeyPatch.context() as patch:
        make_ca(files)
        patch.setattr(certificates, "VALID_DAYS", days)
        make_server_certificate(files, hosts=("127.0.0.1", "localhost"))
    return files


@contextlib.contextmanager
def served(app: ASGIApp, tls: TlsFiles) -> Iterator[str]:
    """Serve with TLS for the block; lend the address."""
    port = free_port()
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        ssl_certfile=tls.certificate,
        ssl_keyfile=tls.key,
        lifespan="off",
        log_config=None,
        ws="none",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_tls(tmp_path_factory.mktemp("tls") / "good", 825)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "site.key"
    make_site_key(path)
    return path


def pem(key: Path) -> bytes:
    private = serialization.load_ssh_private_key(key.read_bytes(), None)
    return public_key_to_bytes(private.public_key())  # type: ignore[arg-type]


@pytest.fixture
def door(tls: TlsFiles, key: Path) -> Iterator[str]:
    with served(FleetDoor(nothing, site_of={pem(key): "hospital-a"}.get), tls) as address:
        yield address


def site_at(address: str, tls: TlsFiles, key: Path, folder: Path) -> SiteConfig:
    link = ServerLinkConfig(address=address, ca_certificate=tls.ca_certificate, private_key=key)
    return make_site(folder / "site", patients="", server=link)


def statuses(subject: Subject) -> dict[str, str]:
    checks = (network.server, network.key, network.clock, network.bandwidth)
    return {each.__name__: each(subject).status for each in checks}


def test_a_registered_site_finds_all_green(
    door: str, tls: TlsFiles, key: Path, tmp_path: Path
) -> None:
    subject = Subject(site_at(door, tls, key, tmp_path), study=small_study())
    assert statuses(subject) == dict.fromkeys(("server", "key", "clock", "bandwidth"), "green")
    assert environment.versions(subject).status == "green"
    measured = network.bandwidth(subject).numbers
    rates = [measured["down_bytes_per_sec"], measured["up_bytes_per_sec"]]
    assert all(isinstance(each, int) and each > 10_000 for each in rates)
    transfer_sec = measured["transfer_sec"]
    assert isinstance(transfer_sec, float) and transfer_sec < 60
    assert network.server(subject).numbers["certificate_days"] == 824


def test_a_slow_way_is_told_against_the_deadline(
    door: str, tls: TlsFiles, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_at(door, tls, key, tmp_path)

    def status(bytes_per_sec: float) -> str:
        monkeypatch.setattr(probe, "_measured", lambda rate: bytes_per_sec)
        return network.bandwidth(Subject(site, study=small_study(sites={"round_sec": 100}))).status

    weights_bytes = Subject(site, study=small_study()).weights_bytes
    assert status(weights_bytes / 1) == "green"  # 2 s of 100
    assert status(weights_bytes / 20) == "amber"
    assert status(weights_bytes / 60) == "red"


def test_an_unregistered_key_is_red(door: str, tls: TlsFiles, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    make_site_key(other)
    subject = Subject(site_at(door, tls, other, tmp_path), study=small_study())
    assert statuses(subject) == {
        "server": "green",
        "key": "red",
        "clock": "green",
        "bandwidth": "amber",
    }
    assert "sites/hospital-a.pub" in network.key(subject).mend
    assert environment.versions(subject).status == "amber"


def test_another_sites_key_is_red(door: str, tls: TlsFiles, key: Path, tmp_path: Path) -> None:
    site = site_at(door, tls, key, tmp_path).model_copy(update={"name": "hospital-b"})
    found = network.key(Subject(site, quick=True))
    assert (found.status, "registered as hospital-a" in found.found) == ("red", True)


@pytest.mark.parametrize(("ahead_sec", "status"), [(60, "red"), (-400, "red"), (-120, "amber")])
def test_a_wrong_clock_is_told(
    ahead_sec: float,
    status: str,
    door: str,
    tls: TlsFiles,
    key: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        probe, "_now", lambda: dt.datetime.now(dt.UTC) + dt.timedelta(seconds=ahead_sec)
    )
    subject = Subject(site_at(door, tls, key, tmp_path), quick=True)
    found = network.clock(subject)
    assert found.status == status
    assert found.numbers["ahead_sec"] == pytest.approx(ahead_sec, abs=5)
    assert network.key(subject).status == ("amber" if status == "red" else "green")


def served_with(app: Any, tls: TlsFiles, key: Path, folder: Path) -> dict[str, str]:
    with served(app, tls) as address:
        return statuses(Subject(site_at(address, tls, key, folder), study=small_study()))


def test_a_server_without_a_probe_is_amber(tls: TlsFiles, key: Path, tmp_path: Path) -> None:
    found = served_with(nothing, tls, key, tmp_path)
    assert found == {"server": "green", "key": "amber", "clock": "green", "bandwidth": "amber"}


def test_certificates_that_end(key: Path, tmp_path: Path) -> None:
    soon, ended = make_tls(tmp_path / "soon", 10), make_tls(tmp_path / "ended", -0.01)
    assert served_with(nothing, soon, key, tmp_path / "a")["server"] == "amber"
    with served(nothing, ended) as address:
        subject = Subject(site_at(address, ended, key, tmp_path / "b"))
        found = network.server(subject)
    assert (found.status, "has expired" in found.found) == ("red", True)
    assert network.key(subject).status == "amber"


def test_another_coordinators_server_is_red(
    door: str, tls: TlsFiles, key: Path, tmp_path: Path
) -> None:
    other = make_tls(tmp_path / "other", 825)
    found = network.server(Subject(site_at(door, other, key, tmp_path)))
    assert found.status == "red"
    assert "is not the one that <server.ca_certificate> vouches for" in found.found


def test_no_server_no_name_and_no_tls(tls: TlsFiles, key: Path, tmp_path: Path) -> None:
    def server(address: str) -> tuple[str, str]:
        found = network.server(Subject(site_at(address, tls, key, tmp_path / address[:3])))
        return found.status, found.found

    status, told = server(f"127.0.0.1:{free_port()}")
    assert status == "amber" and "nobody answers" in told
    status, told = server("no-such-host.invalid:1")
    assert status == "red" and "name in server.address" in told
    with socket.create_server(("127.0.0.1", 0)) as plain:
        answer = threading.Thread(target=lambda: _say_hello(plain))
        answer.start()
        found = network.server(
            Subject(site_at(f"localhost:{plain.getsockname()[1]}", tls, key, tmp_path))
        )
        answer.join()
    assert (found.status, "does not speak TLS" in found.found) == ("red", True)


def _say_hello(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(b"220 hello\r\n")
        connection.recv(1000)


def test_a_missing_key_is_red_and_the_server_is_asked_all_the_same(
    door: str, tls: TlsFiles, tmp_path: Path
) -> None:
    site = site_at(door, tls, tmp_path / "no.key", tmp_path)
    wanted = [each for each in CHECKS if each.id in ("server", "key", "clock")]
    report = run_checks(Subject(site), study_from=None, checks=wanted)
    found = {each.id: each for each in report.results}
    assert found["key"].status == "red"
    assert "feat-fed keygen" in found["key"].mend
    assert "<server.private_key> does not exist" in found["key"].found
    assert found["server"].status == "green"


def test_a_site_of_a_simulation_has_no_network(tmp_path: Path) -> None:
    subject = Subject(make_site(tmp_path, patients=""))
    assert set(statuses(subject).values()) == {"amber"}


def test_a_missing_ca_certificate_is_red(door: str, key: Path, tmp_path: Path) -> None:
    absent = TlsFiles(tmp_path / "absent")
    wanted = [each for each in CHECKS if each.id == "server"]
    (found,) = run_checks(
        Subject(site_at(door, absent, key, tmp_path)), study_from=None, checks=wanted
    ).results
    assert (found.status, found.mend) == ("red", "ask the coordinator for ca.crt")


def test_a_server_that_drips_does_not_hold_the_check(
    door: str, tls: TlsFiles, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(way, "DEADLINE_SEC", 0.2)
    monkeypatch.setattr(way, "_probe", lambda *args, **kwargs: released.wait())
    subject = Subject(site_at(door, tls, key, tmp_path), study=small_study())
    found = network.server(subject)
    released.set()
    assert (found.status, "no whole answer within" in found.found) == ("red", True)
