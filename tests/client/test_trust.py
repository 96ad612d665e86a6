"""Which bundles may run: the file's, and what a person decided since."""

from pathlib import Path

import pytest

from feat_fed.audit import lines
from feat_fed.config import SiteConfig, SiteDataConfig
from feat_fed.errors import ConfigError, StorageError
from feat_fed_client.trust import approve, own_bundle, trusted_bundles, withdraw

OTHER, THIRD = "b" * 64, "c" * 64


def site(store: Path, *listed: str) -> SiteConfig:
    data = SiteDataConfig(paths=(Path("clips"),))
    return SiteConfig(name="a", data=data, store=store, trusted_bundles=listed)


def test_by_default_the_installations_own_may_run(tmp_path: Path) -> None:
    assert trusted_bundles(site(tmp_path)) == {own_bundle()[1]}
    assert trusted_bundles(site(tmp_path, OTHER)) == {OTHER}


def test_approving_adds_and_withdrawing_takes_even_from_what_the_file_lists(
    tmp_path: Path,
) -> None:
    approve(site(tmp_path), OTHER)
    assert trusted_bundles(site(tmp_path)) == {own_bundle()[1], OTHER}
    withdraw(site(tmp_path), own_bundle()[1])
    withdraw(site(tmp_path), THIRD)
    assert trusted_bundles(site(tmp_path)) == {OTHER}
    assert trusted_bundles(site(tmp_path, THIRD)) == {OTHER}
    approve(site(tmp_path), THIRD)
    assert trusted_bundles(site(tmp_path, THIRD)) == {OTHER, THIRD}
    kinds = [line.event["kind"] for line in lines(tmp_path / "audit")]
    assert kinds.count("bundle-approved") == 2
    assert kinds.count("bundle-withdrawn") == 2


def test_decisions_that_cannot_be_read_let_nothing_run(tmp_path: Path) -> None:
    approve(site(tmp_path), OTHER)
    (tmp_path / "trusted-bundles.json").write_text("{")
    with pytest.raises(ConfigError, match="no bundle may run"):
        trusted_bundles(site(tmp_path))


def test_an_approval_that_the_log_cannot_take_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("in the way")
    with pytest.raises(StorageError):
        approve(site(tmp_path), OTHER)
    assert OTHER not in trusted_bundles(site(tmp_path))
