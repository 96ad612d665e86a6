from pathlib import Path

import pytest

from client.check_site import make_site
from feat_fed.protocol import Versions
from feat_fed_client.check import Subject, environment


def test_what_this_environment_has_fits(tmp_path: Path) -> None:
    assert environment.packages(Subject(make_site(tmp_path, patients=""))).status == "green"


@pytest.mark.parametrize(
    ("needed", "told"),
    [
        ("flwr==1.40.0; extra == 'client'", "flwr is 1.41.0, and ==1.40.0 is needed"),
        ("no-such-package>=3", "no-such-package is missing"),
    ],
)
def test_what_does_not_fit_is_red(
    needed: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = ["numpy>=1", "no-such-other>=1; extra == 'dev'"]
    monkeypatch.setattr("feat_fed.versions.requires", lambda name: [*others, needed])
    found = environment.packages(Subject(make_site(tmp_path, patients="")))
    assert (found.status, found.found) == ("red", told)


def versions(tmp_path: Path, *, trusted: tuple[str, ...] = (), **theirs: str) -> tuple[str, str]:
    site = make_site(tmp_path, patients="", trusted_bundles=trusted)
    server = Versions.installed().model_copy(update=theirs) if theirs else None
    found = environment.versions(Subject(site, last_versions=server, offline=True))
    return found.status, found.found + found.mend


def test_versions_against_the_servers(tmp_path: Path) -> None:
    here = Versions.installed()
    assert versions(tmp_path / "a")[0] == "amber"
    assert versions(tmp_path / "b", python=here.python)[0] == "green"
    assert versions(tmp_path / "c", torch=f"{(here.torch or '').split('+')[0]}+cu999")[0] == "green"
    status, told = versions(tmp_path / "d", torch="2.1.0")
    assert status == "amber" and "'torch==2.1.0'" in told
    status, told = versions(tmp_path / "e", feat_fed="9.0")
    assert status == "red" and "refuses another version's bundle" in told
    assert versions(tmp_path / "f", feat_fed="9.0", trusted=("a" * 64,))[0] == "amber"
    assert versions(tmp_path / "g", flwr="1.40.0")[0] == "red"
    status, told = versions(tmp_path / "h", torch="abc")
    assert status == "amber" and "abc there" in told
