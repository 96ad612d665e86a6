"""A consortium by hand: folders of a coordinator and hospitals, and the commands on them."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
from pathlib import Path
from unittest.mock import patch

import yaml

from feat_fed.cli.main import run_app
from feat_fed.data.synthetic import write_demo_hospitals
from feat_fed.processes import free_port
from system.study_runs import TINY, Command, started

NAMES = ("hospital-1", "hospital-2", "hospital-3")


def feat_fed(*arguments: object) -> str:
    """Run a command that soon ends in this process, and return what it prints."""
    printed = io.StringIO()
    umask = os.umask(0o022)
    try:
        with (
            patch.dict(os.environ, COLUMNS="200"),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            run_app([str(each) for each in arguments])
    finally:
        os.umask(umask)
    return printed.getvalue()


def make_folders(root: Path) -> None:
    """Make those of a coordinator and three hospitals by the README's commands.

    The server does not run meanwhile, so the requests to join are sent as files; the third
    hospital sends its key without a token.
    """
    federation = root / "coordinator" / "federation.yaml"
    federation.parent.mkdir()
    federation.write_text(yaml.safe_dump({"address": "127.0.0.1:1", "sites": list(NAMES)}))
    told = feat_fed("provision", federation)
    assert "not admitted yet: hospital-1, hospital-2, hospital-3" in told
    for name in NAMES:
        folder = root / name
        folder.mkdir()
        if name == NAMES[-1]:
            feat_fed("keygen", folder / "site.key")
            shutil.copy(folder / "site.pub", federation.parent / "sites" / f"{name}.pub")
            shutil.copy(federation.parent / "tls" / "ca.crt", folder)
            continue
        token, site = federation.parent / "tokens" / f"{name}.token", folder / "site.yaml"
        told = feat_fed("join", token, "--site-config", site)
        [fingerprint] = re.findall(r"fingerprint of this hospital's key: (.+)", told)
        told = feat_fed(
            *("provision", "approve", federation, name),
            *("--request", folder / f"{name}.join", "--fingerprint", fingerprint),
        )
        assert f"{name} is admitted" in told
    write_demo_hospitals(root / "data", hospitals=3, clips_per_patient=1, seed=1)


class Consortium:
    """A copy of those folders with an address of its own."""

    def __init__(self, root: Path, made: Path, names: tuple[str, ...] = NAMES) -> None:
        self.root = root
        shutil.copytree(made, root)
        self.address = f"127.0.0.1:{free_port()}"
        self.federation = root / "coordinator" / "federation.yaml"
        tree = {"address": self.address, "sites": list(names)}
        self.federation.write_text(yaml.safe_dump(tree))
        for name in names:
            self.write(name, paths=[str(root / "data" / name)])

    def site(self, name: str) -> Path:
        return self.root / name / "site.yaml"

    def write(self, name: str, *, paths: list[str], **others: object) -> None:
        link = {
            "address": self.address,
            "ca_certificate": "ca.crt",
            "private_key": "site.key",
        }
        tree = {"name": name, "server": link, "data": {"paths": paths}, "store": "store"}
        self.site(name).write_text(yaml.safe_dump({**tree, "compute": {"threads": 1}, **others}))

    def client(self, name: str) -> contextlib.AbstractContextManager[Command]:
        return started(self.root / f"{name}.out", "client", "--site-config", self.site(name))

    def server(self, *arguments: object) -> contextlib.AbstractContextManager[Command]:
        return started(
            *(self.root / "server.out", "server", "--study", TINY),
            *("--federation", self.federation, "--runs", self.root / "runs", *arguments),
        )
