"""NVFlare's proof-of-concept environment (mutual TLS), from a virtual environment of its own.

``python -m venv FOLDER && FOLDER/bin/pip install nvflare==2.9.0`` makes one.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from federations.contender import Running, Setting, save_arrays, started

_PORT = 8002
"""Of the environment that ``nvflare poc prepare`` makes."""
_SUBMIT_SEC = 180


class NVFlarePoc:
    """Its programs and scripts as they are.

    Parameters
    ----------
    venv
        Where NVFlare is installed; None if nowhere.
    """

    name = "nvflare"

    def __init__(self, venv: Path | None) -> None:
        self._venv = venv

    def missing(self) -> str | None:
        """Return what has to be made first."""
        if self._venv is None or not (self._venv / "bin" / "nvflare").exists():
            return "not run: give --peer-venv a virtual environment with nvflare==2.9.0"
        return None

    @contextlib.contextmanager
    def running(self, folder: Path, setting: Setting) -> Iterator[Running]:
        """Start a server and its sites, and submit the job."""
        env = self._environment(folder)
        subprocess.run(
            ["nvflare", "poc", "prepare", "-n", str(setting.sites), "--force"],
            env=env,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        kits = folder / "poc" / "example_project" / "prod_00"
        names = [f"site-{number}" for number in range(1, setting.sites + 1)]
        ends = folder / "ends.txt"
        ends.touch()
        job = _job(folder, setting, ends)
        with contextlib.ExitStack() as stack:
            processes = [
                stack.enter_context(
                    started(
                        [kits / name / "startup" / "sub_start.sh", "--once"],
                        folder / f"{name}.log",
                        env,
                    )
                )
                for name in ("server", *names)
            ]
            _submit(job, kits / "admin@nvidia.com", env)
            yield Running(
                processes,
                _role,
                lambda: len(ends.read_text().splitlines()),
                _PORT,
                folder,
            )

    def _environment(self, folder: Path) -> Mapping[str, str]:
        if self._venv is None:
            raise RuntimeError("no virtual environment")
        return {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PATH": f"{(self._venv / 'bin').absolute()}:{os.environ['PATH']}",
            "PYTHONPATH": "",
            "HOME": str(folder),  # where it keeps its configuration
            "NVFLARE_POC_WORKSPACE": str(folder / "poc"),
        }


def _job(folder: Path, setting: Setting, ends: Path) -> Path:
    job = folder / "job"
    custom, config = job / "app" / "custom", job / "app" / "config"
    for each in (custom, config):
        each.mkdir(parents=True)
    arrays = folder / "arrays.npz"
    save_arrays(arrays, setting.payload)
    code = Path(__file__).with_name("nvflare_job.py").read_text()
    (custom / "nvflare_job.py").write_text(code)
    controller = {
        "arrays": str(arrays),
        "ends": str(ends),
        "num_clients": setting.sites,
        "num_rounds": setting.rounds,
        "persistor_id": "",
    }
    workflow = {"id": "fedavg", "path": "nvflare_job.EchoFedAvg", "args": controller}
    executor = {"path": "nvflare_job.EchoExecutor", "args": {}}
    for path, content in (
        (
            job / "meta.json",
            {
                "name": "echo",
                "min_clients": setting.sites,
                "resource_spec": {},
                "deploy_map": {"app": ["@ALL"]},
            },
        ),
        (
            config / "config_fed_server.json",
            {"format_version": 2, "workflows": [workflow], "components": []},
        ),
        (
            config / "config_fed_client.json",
            {"format_version": 2, "executors": [{"tasks": ["train"], "executor": executor}]},
        ),
    ):
        path.write_text(json.dumps(content))
    return job


def _submit(job: Path, kit: Path, env: Mapping[str, str]) -> None:
    deadline = time.monotonic() + _SUBMIT_SEC
    while True:
        done = subprocess.run(
            ["nvflare", "job", "submit", "-j", str(job), "--startup-kit", str(kit)],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"NVFlare took no job: {done.stdout[-500:]} {done.stderr[-500:]}")
        time.sleep(2)


def _role(command: str) -> str | None:
    names = {
        "server.server_train": "superlink",
        "server.runner_process": "serverapp",
        "client.client_train": "supernode",
        "client.worker_process": "clientapp",
    }
    return next((role for name, role in names.items() if name in command), None)
