"""Flower as it comes: ``flower-superlink``, ``flower-supernode`` and an app of ``FedAvg.start``.

TLS and node authentication are on, all else is default. The application adds a number to the
arrays with numpy alone, which spares it the import of torch in each message.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from feat_fed.processes import free_port
from feat_fed.wire import flower_environment
from feat_fed_client.keys import make_site_key
from feat_fed_server.admissions import read_site_key
from feat_fed_server.certificates import TlsFiles, make_ca, make_server_certificate
from federations.contender import Running, Setting, save_arrays, started

_PYPROJECT = """\
[project]
name = "echo"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr==1.41.0"]

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "echo_app:server"
clientapp = "echo_app:client"

[tool.flwr.app.config]
arrays = ""
ends = ""
sites = 2
rounds = 3
"""
_START_SEC = 60


class FlowerStock:
    """Flower's own programs."""

    name = "flower"

    def missing(self) -> str | None:
        """Nothing is: it is what we stand on."""
        return None

    @contextlib.contextmanager
    def running(self, folder: Path, setting: Setting) -> Iterator[Running]:
        """Start a SuperLink, the SuperNodes and a run."""
        tls = TlsFiles(folder)
        make_ca(tls)
        make_server_certificate(tls, hosts=("127.0.0.1",))
        names = [f"site-{number}" for number in range(1, setting.sites + 1)]
        for name in names:
            make_site_key(folder / f"{name}.key")
        arrays, ends = folder / "arrays.npz", folder / "ends.txt"
        save_arrays(arrays, setting.payload)
        ends.touch()
        port = free_port()
        bin_folder = Path(sys.executable).parent
        with contextlib.ExitStack() as stack:
            superlink = stack.enter_context(
                started(
                    [
                        bin_folder / "flower-superlink",
                        *("--host", "127.0.0.1", "--port", port),
                        *("--ssl-certfile", tls.certificate, "--ssl-keyfile", tls.key),
                        *("--ssl-ca-certfile", tls.ca_certificate),
                        "--enable-supernode-auth",
                        "--disable-runtime-dependency-installation",
                    ],
                    folder / "superlink.log",
                    flower_environment(folder / "superlink"),
                )
            )
            client = _control(port, tls)
            _register(client, folder, names)
            nodes = [
                stack.enter_context(
                    started(
                        [
                            bin_folder / "flower-supernode",
                            *("--superlink", f"127.0.0.1:{port}", "--port", free_port()),
                            *("--root-certificates", tls.ca_certificate),
                            *("--auth-supernode-private-key", folder / f"{name}.key"),
                        ],
                        folder / f"{name}.log",
                        flower_environment(folder / name),
                    )
                )
                for name in names
            ]
            _start_run(client, setting, arrays=arrays, ends=ends)
            yield Running(
                [superlink, *nodes],
                _role,
                lambda: len(ends.read_text().splitlines()),
                port,
                folder,
            )


def _control(port: int, tls: TlsFiles):  # noqa: ANN202
    import time

    import httpx
    from flwr.proto.control_pb2 import ListRunsRequest
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

    client = ControlHttpClient.from_server_address(
        server_address=f"127.0.0.1:{port}",
        insecure=False,
        root_certificates=tls.ca_certificate.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-cli")],
    )
    deadline = time.monotonic() + _START_SEC
    while True:
        try:
            client.ListRuns(ListRunsRequest())
            return client
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _register(client, folder: Path, names: list[str]) -> None:  # noqa: ANN001
    from flwr.proto.control_pb2 import RegisterNodeRequest

    for name in names:
        key, _ = read_site_key(folder / f"{name}.pub")
        client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))


def _start_run(client, setting: Setting, *, arrays: Path, ends: Path) -> None:  # noqa: ANN001
    import hashlib

    from flwr.cli.build import build_fab_from_files
    from flwr.common.serde import user_config_to_proto
    from flwr.proto.control_pb2 import StartRunRequest
    from flwr.proto.fab_pb2 import Fab

    code = Path(__file__).with_name("echo_app.py").read_bytes()
    content, _ = build_fab_from_files({"pyproject.toml": _PYPROJECT.encode(), "echo_app.py": code})
    config = {
        "arrays": str(arrays),
        "ends": str(ends),
        "sites": setting.sites,
        "rounds": setting.rounds,
    }
    answer = client.StartRun(
        StartRunRequest(
            fab=Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content),
            override_config=user_config_to_proto(config),
        )
    )
    if not answer.HasField("run_id"):
        raise RuntimeError("Flower did not start the run; see superlink.log")


def _role(command: str) -> str | None:
    names = {
        "flower-superlink": "superlink",
        "flwr-serverapp": "serverapp",
        "flower-supernode": "supernode",
        "flwr-clientapp": "clientapp",
        "flower-superexec": "superexec",
    }
    return next((role for name, role in names.items() if name in command), None)
