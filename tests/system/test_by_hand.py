"""A consortium by hand: the commands of the README, in any order, and what goes wrong."""

import shutil
import socket
from pathlib import Path

import pytest
import yaml

from feat_fed.report import RunStore
from system.consortium import NAMES, Consortium, feat_fed, make_folders
from system.study_runs import TINY, started

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    make_folders(root)
    return root


@pytest.fixture
def consortium(tmp_path: Path, made: Path) -> Consortium:
    return Consortium(tmp_path / "consortium", made)


def test_strangers_are_refused_on_both_sides(consortium: Consortium, tmp_path: Path) -> None:
    first, second, third = NAMES
    wrong = tmp_path / "elsewhere"
    wrong.mkdir()
    feat_fed("keygen", wrong / "site.key")
    shutil.copy(wrong / "site.key", consortium.site(first).parent / "site.key")
    other = tmp_path / "other" / "federation.yaml"
    other.parent.mkdir()
    other.write_text(yaml.safe_dump({"address": "127.0.0.1:1", "sites": ["x"]}))
    feat_fed("provision", other)
    shutil.copy(other.parent / "tls" / "ca.crt", consortium.site(second).parent / "ca.crt")
    with consortium.server() as server:
        server.wait_for("listening on")
        with consortium.client(first) as wrong_key, consortium.client(second) as wrong_ca:
            assert wrong_key.end(60) == 1
            assert f"does not know the key of {first}" in wrong_key.text()
            assert wrong_ca.end(60) == 1
            assert "is not the one that" in wrong_ca.text()
        host, port = consortium.address.split(":")
        with socket.create_connection((host, int(port))) as plain:
            plain.sendall(b"POST /v1/fleet/activate-node HTTP/1.1\r\nHost: x\r\n\r\n")
            plain.recv(100)
        server.wait_for("its key is not registered", 10)
        server.wait_for("another CA", 10)
        server.wait_for("plain HTTP", 10)
        assert "Traceback" not in wrong_key.text() + wrong_ca.text()
        with consortium.client(third) as good:
            good.wait_for("connected to", 60)
            server.wait_for("waiting for hospital-1, hospital-2", 10)


def test_a_server_without_tls_is_not_trusted(consortium: Consortium) -> None:
    with socket.create_server(("127.0.0.1", int(consortium.address.split(":")[1]))) as plain:
        plain.settimeout(60)
        with consortium.client("hospital-1") as client:
            connection, _ = plain.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                assert client.end(60) == 1
            assert "does not speak TLS" in client.text()


def test_too_few_sites_end_the_study_by_name(consortium: Consortium, tmp_path: Path) -> None:
    study = yaml.safe_load(TINY.read_text()) | {
        "sites": {"minimum": 2, "wait_sec": 20, "round_sec": 60}
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    with consortium.client("hospital-1") as client:
        client.wait_for("usable clips")
        with consortium.server("--study", path) as server:
            client.wait_for("connected to", 60)
            assert server.end(90) == 1
            assert "1 of the 2 sites" in server.text()
            assert "missing: hospital-2, hospital-3" in server.text()
    assert RunStore(consortium.root / "runs" / "tiny").summary().state == "failed"


def test_a_study_for_more_sites_than_the_federation_has_is_refused_at_once(
    consortium: Consortium, tmp_path: Path
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(TINY.read_text()) | {"sites": {"minimum": 9}}))
    with consortium.server("--study", path) as server:
        assert server.end(30) == 1
        assert "needs 9 sites" in server.text()


def test_a_port_in_use_is_refused_at_once(consortium: Consortium) -> None:
    with (
        socket.create_server(("127.0.0.1", int(consortium.address.split(":")[1]))),
        consortium.server() as server,
    ):
        assert server.end(30) == 1
        assert f"cannot listen on {consortium.address}" in server.text()


def test_one_bad_file_among_good_ones_costs_itself_only(consortium: Consortium) -> None:
    site = consortium.site("hospital-1")
    folder = Path(yaml.safe_load(site.read_text())["data"]["paths"][0])
    good = next(folder.rglob("*.dcm")).read_bytes()
    (folder / "broken.dcm").write_bytes(good[: len(good) // 2])
    with started(
        *(consortium.root / "out", "client", "--site-config", site, "--dry-run")
    ) as client:
        assert client.end(60) == 0
        assert "1 left out: file is cut off" in client.text()
        assert "broken.dcm" not in client.text()  # paths are for `data scan --show-paths`


@pytest.mark.parametrize(
    ("name", "told"), [("absent", "does not exist"), ("empty", "no usable clip below data.paths")]
)
def test_a_missing_or_empty_data_folder_is_refused_before_connecting(
    name: str, told: str, consortium: Consortium, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    consortium.write("hospital-1", paths=[str(tmp_path / name)])
    with consortium.client("hospital-1") as client:
        assert client.end(60) == 1
        assert told in client.text()
        assert "Traceback" not in client.text()


def test_a_second_client_with_one_key_or_one_store_does_not_disturb_the_first(
    consortium: Consortium,
) -> None:
    site, copy = consortium.site("hospital-1"), consortium.root / "copy"
    shutil.copytree(site.parent, copy)
    with consortium.server() as server, consortium.client("hospital-1") as first:
        server.wait_for("listening on")
        first.wait_for("connected to", 60)
        with started(
            consortium.root / "copy.out", "client", "--site-config", copy / "site.yaml"
        ) as second:
            second.wait_for("a client that is running elsewhere", 60)
            server.wait_for("hospital-1: its key is in use", 10)
        with started(consortium.root / "second.out", "client", "--site-config", site) as third:
            assert third.end(60) == 1
            assert "another client is running" in third.text()
        assert first.process.poll() is None


def test_the_coordinators_mistakes_are_named(tmp_path: Path) -> None:
    federation = tmp_path / "federation.yaml"
    federation.write_text("address: 127.0.0.1:1\nsites: [a, a]\n")
    told = feat_fed("provision", federation)
    assert "two sites are named 'a'" in told
    federation.write_text("address: 127.0.0.1:1\nsites: [a, b]\nport: 3\n")
    assert "port: unknown field" in feat_fed("provision", federation)
