"""``feat-fed demo``: a whole consortium on one machine, every part real."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from feat_fed.cli.completion import studies
from feat_fed.cli.console import say
from feat_fed.cli.progress import StudyScreen
from feat_fed.cli.runs import run_to_report
from feat_fed.cli.study import require_enough, resolve_study
from feat_fed.config import SiteDataConfig, load_site
from feat_fed.processes import ChildGroup, free_port
from feat_fed.report.live import StudyLive
from feat_fed.report.run_store import RunStore

if TYPE_CHECKING:
    from feat_fed_server.certificates import TlsFiles


def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of your own clips, a sub-folder a hospital (or one flat folder, dealt "
            "out by patient). Unset: real files are generated."
        ),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds; the study's own number if unset.")
    ] = None,
    study: Annotated[
        str,
        typer.Option(help="A YAML file or the name of a built-in study.", autocompletion=studies),
    ] = "demo",
    run: Annotated[
        str | None, typer.Option("--run", help="Name of the run; demo-DATE-TIME if unset.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("runs"),
) -> None:
    """Train one model over several hospitals on this machine, start to report.

    A real server and one real client a hospital, each its own process with its own keys,
    over TLS on loopback. Takes some minutes on two CPU cores.
    """
    for module in ("flwr", "cryptography", "deepspeed", "monai", "pydicom"):
        if find_spec(module) is None:
            raise ModuleNotFoundError(name=module)
    config = resolve_study(study, rounds)
    if data is not None:
        from feat_fed.data import hospitals_from_folder

        hospitals_from_folder(data)  # before a run is made, if it holds none

    def train(store: RunStore) -> None:
        hospitals = demo_data(store, data)
        require_enough(config, len(hospitals))
        # All of them are here, so no round starts without one.
        everyone = config.sites.model_copy(update={"minimum": len(hospitals)})
        store = RunStore.resume(store.root, config.model_copy(update={"sites": everyone}))
        consortium = Consortium.make(store.root, hospitals, config.codec.weights)
        if data is None:
            fix_pseudonyms(consortium, store.study.seed)
        say(f"{len(hospitals)} hospitals: {', '.join(hospitals)}; everything is in {store.root}")
        _run(store, consortium)

    run_to_report(runs / (run or time.strftime("demo-%Y%m%d-%H%M%S")), config, train)


def _run(store: RunStore, consortium: Consortium) -> None:
    from feat_fed_server.admissions import Admissions
    from feat_fed_server.launch import StudyLauncher

    names = tuple(consortium.site_files)
    stores = {name: load_site(file).store for name, file in consortium.site_files.items()}
    with ChildGroup() as clients, StudyScreen(store, stores) as screen:
        for name, file in consortium.site_files.items():
            clients.start(
                f"the client of {name}",
                [*(sys.executable, "-m", "feat_fed.cli"), "client", "--site-config", str(file)],
                log_file=store.logs / f"{name}.log",
            )

        def watch(live: StudyLive | None) -> None:
            clients.check()
            screen.update(live)

        launcher = StudyLauncher(
            store=store,
            listen=consortium.address,
            tls=consortium.tls,
            sites=Admissions(consortium.keys.parent).members(names),
            tell=say,
            watch=watch,
        )
        launcher.run()


@dataclass(frozen=True)
class Consortium:
    """The files of a server and its hospitals, as ``provision`` and ``keygen`` make them."""

    address: str
    tls: TlsFiles
    keys: Path
    site_files: Mapping[str, Path]

    @classmethod
    def make(
        cls, root: Path, hospitals: Mapping[str, SiteDataConfig], codec_weights: Path | None = None
    ) -> Consortium:
        """Make what is not there yet; the port is chosen anew."""
        from feat_fed_client.keys import make_site_key
        from feat_fed_server.certificates import TlsFiles, make_ca, make_server_certificate

        address = f"127.0.0.1:{free_port()}"
        tls, keys = TlsFiles(root / "federation" / "tls"), root / "federation" / "sites"
        tls.folder.mkdir(parents=True, exist_ok=True)
        keys.mkdir(exist_ok=True)
        if not tls.certificate.exists():
            make_ca(tls)
            make_server_certificate(tls, hosts=("127.0.0.1", "localhost"))
        files = {}
        threads = max(1, (os.cpu_count() or 1) // len(hospitals))
        for name, data in hospitals.items():
            folder = root / "sites" / name
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "site.key").exists():
                (folder / "site.pub").unlink(missing_ok=True)
                make_site_key(folder / "site.key")
            (keys / f"{name}.pub").write_bytes((folder / "site.pub").read_bytes())
            files[name] = folder / "site.yaml"
            files[name].write_text(_site_yaml(name, address, tls, data, threads, codec_weights))
        return cls(address, tls, keys, files)


def fix_pseudonyms(consortium: Consortium, seed: int) -> None:
    """Give the sites keys that follow from the seed, since nobody is on generated clips.

    The key decides which patients are held out, so the demonstration repeats its numbers on
    one machine; with these keys both kinds of examination are on both sides of the whole.
    A site with real clips makes a random key for itself.
    """
    from feat_fed.data.inventory.identity import fix_site_key

    for name, file in consortium.site_files.items():
        fix_site_key(load_site(file).store, f"demonstration site {seed} {name}")


def demo_data(store: RunStore, folder: Path | None) -> dict[str, SiteDataConfig]:
    """Return the hospitals of the user's folder, or generate two below the run's folder.

    Raises
    ------
    DataError
        If the user's folder makes fewer hospitals than two.
    """
    if folder is None:
        from feat_fed.data.synthetic import write_demo_hospitals

        return write_demo_hospitals(store.root / "data", hospitals=2, seed=store.study.seed)
    from feat_fed.data import hospitals_from_folder

    return hospitals_from_folder(folder)


def _site_yaml(
    name: str,
    address: str,
    tls: TlsFiles,
    data: SiteDataConfig,
    threads: int,
    codec_weights: Path | None,
) -> str:
    tree = {
        "name": name,
        "server": {
            "address": address,
            "ca_certificate": str(tls.ca_certificate.resolve()),
            "private_key": "site.key",
        },
        "data": {
            "paths": [str(path.resolve()) for path in data.paths],
            "patient_pattern": data.patient_pattern,
            "rules": data.rules.model_dump(mode="json"),
        },
        "store": "store",
        "codec_weights": codec_weights and str(codec_weights),
        "compute": {"threads": threads},
    }
    return yaml.safe_dump(tree, sort_keys=False)
