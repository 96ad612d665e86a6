"""Who comes in at a SuperLink that runs: joined, approved, revoked, and what else is reachable."""

import contextlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import PullTaskInputRequest, PushTaskOutputRequest
from flwr.supercore.constant import TaskType

from feat_fed.cli.main import run_app
from feat_fed.config import ServerLinkConfig
from feat_fed.errors import RefusedError
from feat_fed.joining import JoinRequest, Token
from feat_fed.processes import free_port
from feat_fed.protocol import PENDING_KEY, REVOKED_KEY, UNKNOWN_KEY
from feat_fed.tasks import taken_tasks, task_client
from feat_fed.wire import flower_environment
from feat_fed_client.join import deliver, prepare
from feat_fed_client.probe import Answered, Prober
from feat_fed_server.certificates import TlsFiles
from feat_fed_server.membership import Federation, Membership
from feat_fed_server.superlink_client import RunEnd, SuperLinkClient
from waiting import wait_until


@dataclass
class Study:
    root: Path
    port: int
    control_port: int
    log: Path
    link: SuperLinkClient
    members: Membership
    told: list[str]

    @property
    def federation(self) -> Path:
        return self.root / "federation.yaml"

    def token(self, site: str) -> Token:
        return Token.parse((self.root / "tokens" / f"{site}.token").read_text())

    def join(self, site: str, token: Token | None = None) -> JoinRequest:
        folder = self.root / f"at-{site}"
        folder.mkdir(exist_ok=True)
        token = token or self.token(site)
        request = prepare(token, folder / "site.yaml", (self.root,)).request
        answer = deliver(token, request)
        assert answer is not None and answer.fingerprint == request.fingerprint
        return request

    def probe(self, site: str, key: str = "site.key") -> Answered:
        folder = self.root / f"at-{site}"
        link = ServerLinkConfig(
            address=f"127.0.0.1:{self.port}",
            ca_certificate=folder / "ca.crt",
            private_key=folder / key,
        )
        with Prober(link) as prober:
            return prober.ask()

    def approve(self, site: str, request: JoinRequest, *options: str) -> None:
        command = ["provision", "approve", str(self.federation), site]
        assert run_app([*command, "--fingerprint", request.fingerprint, *options]) == 0

    def follow(self) -> None:
        """Let the study look after its members, later than its last look."""
        self.members._look_at = 0.0
        self.members.follow(self.link)

    def raw(self, head: str) -> bytes:
        context = ssl.create_default_context(cafile=str(self.root / "tls" / "ca.crt"))
        with (
            socket.create_connection(("127.0.0.1", self.port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            secure.sendall(head.encode() + b"\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
            return secure.recv(4096).split(b"\r\n")[0]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    root = tmp_path_factory.mktemp("federation")
    port, control_port = free_port(), free_port()
    federation = root / "federation.yaml"
    federation.write_text(f"address: 127.0.0.1:{port}\nsites: [a, b, c]\n")
    assert run_app(["provision", str(federation)]) == 0
    (root / "secret").write_bytes(b"x" * 32)
    told: list[str] = []
    beside = Federation(federation)
    members = Membership({}, roster=root / "roster.json", federation=beside, tell=told.append)
    tls = TlsFiles(root / "tls")
    log = root / "superlink.log"
    command = [
        *(sys.executable, "-m", "feat_fed_server.superlink", "--host", "127.0.0.1"),
        *("--port", port, "--certificate", tls.certificate, "--key", tls.key),
        *("--control-port", control_port, "--secret", root / "secret", "--sites", 0),
        *("--roster", root / "roster.json", "--links", root / "links.json"),
        *("--checkpoints", root),
        *("--federation", federation),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=output,
            stderr=output,
            env={**os.environ, **flower_environment(root / "flower")},
        )

    def is_there() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    try:
        wait_until(is_there)
        link = SuperLinkClient(control_port)
        yield Study(root, port, control_port, log, link, members, told)
        link.close()
    finally:
        process.terminate()
        process.wait(20)


def test_a_hospital_joins_is_approved_replaces_its_key_and_is_revoked(study: Study) -> None:
    token = study.token("a")
    first = study.join("a")
    assert study.join("a", token) == first or study.probe("a").code == PENDING_KEY
    assert study.probe("a").code == PENDING_KEY
    study.approve("a", first)
    assert study.probe("a").code == PENDING_KEY  # for the moment until the study knows
    study.follow()
    answer = study.probe("a").answer
    assert answer is not None and answer.site == "a"
    answered = deliver(token, first)
    assert answered is not None and answered.state == "admitted"

    assert run_app(["provision", "rotate", str(study.federation), "a"]) == 0
    second = study.join("a")
    assert (study.root / "at-a" / "site-2.key").exists()
    assert study.probe("a").answer is not None  # until the new one is approved
    study.approve("a", second, "--replace")
    study.follow()
    assert study.probe("a").code == REVOKED_KEY
    assert study.probe("a", "site-2.key").answer is not None

    assert run_app(["provision", "revoke", str(study.federation), "a"]) == 0
    study.follow()
    assert study.probe("a", "site-2.key").code == REVOKED_KEY
    assert study.told[-1] == "a: its key was taken out; it is turned away from now on"
    assert "Traceback" not in study.log.read_text()


def test_who_is_revoked_is_out_whatever_else_is_broken(study: Study) -> None:
    request = study.join("c")
    study.approve("c", request)
    study.follow()
    assert study.probe("c").answer is not None
    broken = study.root / "sites" / "b.pub"
    broken.write_text("nonsense")
    assert run_app(["provision", "revoke", str(study.federation), "c"]) == 0
    study.follow()
    assert study.told[-1] == "c: its key was taken out; it is turned away from now on"
    assert "b.pub" in study.told[-2]
    # What waits and what was revoked cannot be told apart before the file is mended.
    assert study.probe("c").code == UNKNOWN_KEY
    broken.unlink()
    study.follow()
    assert study.probe("c").code == REVOKED_KEY


def test_a_token_of_another_server_and_one_that_was_used_are_refused(
    study: Study, tmp_path: Path
) -> None:
    token = study.token("b")
    study.join("b")
    (tmp_path / "thief").mkdir()
    stolen = prepare(token, tmp_path / "thief" / "site.yaml", ())
    with pytest.raises(RefusedError, match="used already"):
        deliver(token, stolen.request)
    wrong = token.model_copy(update={"seed": "1" * 64})
    with pytest.raises(RefusedError, match="no such token"):
        deliver(wrong, prepare(wrong, tmp_path / "thief" / "site.yaml", ()).request)
    other = tmp_path / "federation.yaml"
    other.write_text(f"address: 127.0.0.1:{study.port}\nsites: [b]\n")
    assert run_app(["provision", str(other)]) == 0
    foreign = Token.parse((tmp_path / "tokens" / "b.token").read_text())
    (tmp_path / "b").mkdir()
    with pytest.raises(RefusedError, match="not the one that the token was made for"):
        deliver(foreign, prepare(foreign, tmp_path / "b" / "site.yaml", ()).request)
    nobody = token.model_copy(update={"address": f"127.0.0.1:{free_port()}"})
    assert deliver(nobody, stolen.request) is None


def test_a_task_is_taken_with_the_secret_alone_and_begun_at_once(study: Study) -> None:
    address, secret = f"127.0.0.1:{study.control_port}", (study.root / "secret").read_bytes()
    run = study.link.start_run()
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        next(taken_tasks(address, b"y" * 32, [TaskType.SERVER_APP]))
    with contextlib.closing(taken_tasks(address, secret, TaskType)) as tasks:
        task = next(tasks)
    assert task.kind == TaskType.SERVER_APP
    client = task_client(address, task.token)
    assert client.PullTaskInput(PullTaskInputRequest()).run.run_id == run
    client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.COMPLETED))
    client.close()
    assert study.link.end_of(run) == RunEnd(completed=True, details="")


@pytest.mark.parametrize(
    "line",
    [
        "POST /v1/fleet/../control/start-run HTTP/1.1",
        "POST /v1/fleet/..%2fcontrol/start-run HTTP/1.1",
        "POST //v1/fleet/pull-messages HTTP/1.1",
        "POST /v1/./fleet/pull-messages HTTP/1.1",
        "POST /v1/fleet/pull%2dmessages HTTP/1.1",
        "POST /V1/FLEET/PULL-MESSAGES HTTP/1.1",
        "POST /v1/control/start-run HTTP/1.1",
        "POST http://127.0.0.1/v1/control/list-runs HTTP/1.1",
        "GET /docs HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "CONNECT 127.0.0.1:80 HTTP/1.1",
        "nonsense",
    ],
)
def test_nothing_but_the_ten_calls_is_reachable(study: Study, line: str) -> None:
    # 503: the strangers' budget of this address is spent for the moment.
    assert study.raw(line).split()[1:2] in ([b"404"], [b"400"], [b"503"], [])
