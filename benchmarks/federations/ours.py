"""feat-fed: ``feat-fed server`` as it is, and clients whose training costs nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from feat_fed.cli.demo import Consortium
from feat_fed.config import SiteDataConfig
from feat_fed.errors import RunError
from feat_fed.processes import split_address
from feat_fed.report.run_store import RunStore
from federations.contender import Running, Setting, started

FORMS = {
    **{form: {"up": form, "down": form} for form in ("fp32", "bf16", "fp16", "int8")},
    "topk": {"up": "topk", "down": "int8"},
}


class FeatFed:
    """The commands of the product over TLS on loopback, with keys and the door."""

    name = "feat-fed"

    def missing(self) -> str | None:
        """Nothing is."""
        return None

    @contextlib.contextmanager
    def running(self, folder: Path, setting: Setting) -> Iterator[Running]:
        """Start a server and its sites."""
        names = [f"site-{number}" for number in range(1, setting.sites + 1)]
        study = folder / "study.yaml"
        study.write_text(yaml.safe_dump(_study(setting)))
        nothing = SiteDataConfig(paths=(folder,))
        consortium = Consortium.make(folder, dict.fromkeys(names, nothing))
        federation = folder / "federation" / "federation.yaml"
        federation.write_text(yaml.safe_dump({"address": consortium.address, "sites": names}))
        run = folder / "runs" / "echo"
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(
                started(
                    [
                        *(sys.executable, "-m", "feat_fed.cli", "server", "--study", study),
                        *("--federation", federation, "--runs", run.parent, "--run", run.name),
                    ],
                    folder / "server.log",
                )
            )
            sites = [
                stack.enter_context(
                    started(
                        [sys.executable, "-m", "federations.echo_site", file],
                        folder / f"{name}.log",
                        {"PYTHONPATH": ":".join(sys.path)},
                    )
                )
                for name, file in consortium.site_files.items()
            ]
            port = split_address(consortium.address)[1]
            yield Running([server, *sites], _role, _RoundsOf(run), port, folder)


def _study(setting: Setting) -> dict[str, object]:
    return {
        "name": "echo",
        "rounds": setting.rounds,
        "model": setting.payload.model.model_dump(),
        "codec": {"detail_channels": 0},
        "clips": {"frames": 1, "size_px": 16},
        "training": {"local_steps": 1, "learning_rate": 0.01},
        "transfer": FORMS[setting.form],
        "sites": {"minimum": setting.sites, "round_sec": 3600},
        "sampler": {"steps": 2, "num_clips": 1},
    }


class _RoundsOf:
    """Tells how many rounds of a run are done; opens the run once, for it is asked often."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._store: RunStore | None = None

    def __call__(self) -> int:
        try:
            self._store = self._store or RunStore(self._run)
            return self._store.summary().rounds_done
        except RunError:  # not there yet
            return 0


def _role(command: str) -> str | None:
    names = {
        "feat_fed_server.superlink": "superlink",
        "feat_fed_server 127": "serverapp",
        "feat_fed_client.bounded_node": "supernode",
        "federations.echo_executor": "clientapp",
        "feat_fed.cli server": "supervisor",
        "federations.echo_site": "supervisor",
    }
    return next((role for name, role in names.items() if name in command), None)
