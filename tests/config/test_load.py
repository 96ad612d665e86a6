from pathlib import Path

import pytest

from feat_fed.config import (
    StudyConfig,
    built_in_studies,
    dump_yaml,
    load_federation,
    load_site,
    load_study,
)
from feat_fed.config.load import parse_yaml
from feat_fed.errors import ConfigError
from feat_fed.privacy.claims import patient_claim
from feat_fed.privacy.resolve import resolved

EXAMPLES = Path(__file__).parents[2] / "configs" / "studies"


@pytest.mark.parametrize("name", built_in_studies())
def test_a_built_in_study_loads_and_its_dump_loads_back_equal(name: str, tmp_path: Path) -> None:
    study = load_study(name)
    (tmp_path / "s.yaml").write_text(dump_yaml(study))
    assert load_study(tmp_path / "s.yaml") == study


def test_a_flag_replaces_a_field() -> None:
    assert load_study("demo", rounds=100).rounds == 100


def test_an_unknown_key_is_named_with_the_one_that_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: x\nmodel: {hiden_size: 64}\n")
    with pytest.raises(ConfigError, match=r"model\.hiden_size.*did you mean hidden_size"):
        load_study(path)


@pytest.mark.parametrize("section", ["transfer:", "transfer: int8", "transfer: [int8]"])
def test_a_section_that_is_none_is_told_its_fields(section: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"name: x\n{section}\n")
    with pytest.raises(ConfigError, match=r"transfer is .*below it, indented \(up, down, topk"):
        load_study(path)


def test_a_federation_that_is_not_there_is_told_with_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"does not exist; `feat-fed init server`.*provision",
    ):
        load_federation(tmp_path / "federation.yaml")


def test_every_wrong_field_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: X!\nrounds: 0\ntraining: {batch_size: many}\n")
    with pytest.raises(ConfigError) as told:
        load_study(path)
    assert all(each in str(told.value) for each in ("name", "rounds", "training.batch_size"))


@pytest.mark.parametrize(
    ("change", "mend"),
    [
        ("model: {hidden_size: 90, num_heads: 4, in_channels: 6}", "choose heads"),
        ("model: {in_channels: 4}", "set model.in_channels: 6"),
        ("model: {in_channels: 6}\nclips: {size_px: 60}", "multiple of 8"),
        ("model: {in_channels: 6}\ndiffusion: {beta_start: 0.5}", "below beta_start"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_the_mend(
    change: str, mend: str, tmp_path: Path
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"name: x\n{change}\n")
    with pytest.raises(ConfigError, match=mend):
        load_study(path)


def test_a_study_that_does_not_exist_names_the_built_in_ones() -> None:
    with pytest.raises(ConfigError, match="demo"):
        load_study("no-such-study")


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "", "1: x"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"f\.yaml"):
        parse_yaml(text, "f.yaml")


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "a:\n  {b: 1,\n   c: 2, b: 1}\n"])
def test_a_key_that_stands_twice_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"f\.yaml, line 3: [ab] is there twice \(line [12]\)"):
        parse_yaml(text, "f.yaml")


def test_a_key_may_be_put_over_a_merged_one() -> None:
    merged = parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n", "f.yaml")
    assert merged["b"] == {"x": 3, "y": 2}


SITE = """
name: hospital-a
server: {address: "localhost:9443", ca_certificate: ca.crt, private_key: keys/site.key}
data: {paths: [clips, /elsewhere]}
store: store
"""


def test_a_sites_paths_count_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE)
    site = load_site(tmp_path / "site.yaml")
    assert site.data.paths == (tmp_path.resolve() / "clips", Path("/elsewhere"))
    assert site.server is not None
    assert site.server.private_key == tmp_path.resolve() / "keys/site.key"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("store: store", "stor: store", "did you mean store"),
        ("localhost:9443", "https://localhost", "server.address"),
        ("localhost:9443", "localhost:99999", "server.address: .*port from 1 to 65535"),
        ("paths: [clips, /elsewhere]", "paths: []", "data.paths"),
        ("paths: [clips, /elsewhere]", "paths: [a], patient_pattern: 'x('", "regular expression"),
        ("paths: [clips, /elsewhere]", "paths: [a], patient_pattern: 'x'", "exactly one"),
        ("store: store", "store: store\ntrusted_bundles: [abc]", "SHA-256"),
    ],
)
def test_a_wrong_site_says_what_and_where(
    before: str, after: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "site.yaml").write_text(SITE.replace(before, after))
    with pytest.raises(ConfigError, match=told):
        load_site(tmp_path / "site.yaml")


def test_two_sites_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "federation.yaml"
    path.write_text("address: localhost:1\nsites: [a, b, a]\n")
    with pytest.raises(ConfigError, match="two sites are named 'a'"):
        load_federation(path)


def test_configurations_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_study("demo").rounds = 5  # type: ignore[misc]
    assert isinstance(load_study("demo"), StudyConfig)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("compute: {devices: two}", r"compute\.devices: 'two' is no number; write one, such as 2"),
        ("compute: {devices: yes}", r"compute\.devices: True is no number"),
        ("compute: {devices: [0, 0]}", r"compute\.devices: \[0, 0\] are no different GPUs"),
        ("compute: {devices: 9}", "9 devices; 1 to 8 can train together"),
        ("compute: {zero_stage: yes}", r"compute\.zero_stage: True is no number"),
        ("limits: {hours: 22:00}", r'limits\.hours: 1320 is no list; write \["22:00-06:00"\]'),
        ("limits: {hours: '22:00-06:00'}", r"limits\.hours: '22:00-06:00' is no list"),
        ("limits: {hours: ['22-6']}", "'22-6' is no part of a day; write 22:00-06:00"),
        ("checkpoint_minutes: 0", "checkpoint_minutes"),
    ],
)
def test_wrong_compute_and_limits_are_told_with_the_mend(
    text: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(f"name: a\ndata: {{paths: [x]}}\nstore: s\n{text}\n")
    with pytest.raises(ConfigError, match=told):
        load_site(path)


def test_devices_and_hours_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    lines = 'compute: {devices: [0, 2]}\nlimits: {hours: ["22:00-06:00"]}'
    path.write_text(f"name: a\ndata: {{paths: [x]}}\nstore: s\n{lines}\n")
    site = load_site(path)
    assert (site.compute.devices, site.compute.num_devices) == ((0, 2), 2)
    assert site.limits.model_dump()["hours"] == ("22:00-06:00",)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_study_to_copy_loads(path: Path) -> None:
    assert load_study(path).name


def test_the_private_study_to_copy_keeps_its_epsilon() -> None:
    private = resolved(load_study(EXAMPLES / "private.yaml"))
    assert private.privacy.protections == {"patient", "secure-aggregation"}
    claim = patient_claim(private)
    assert claim is not None
    assert 7.9 < claim.epsilon <= 8


def test_what_the_private_study_leaves_out_can_be_put_in(tmp_path: Path) -> None:
    text = (EXAMPLES / "private.yaml").read_text()
    assert "  # central:" in text
    head, _, tail = text.partition("  # central:")
    (tmp_path / "study.yaml").write_text(head + ("  # central:" + tail).replace("  # ", "  "))
    assert "central" in load_study(tmp_path / "study.yaml").privacy.protections


def test_a_share_for_a_form_that_sends_all_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("name: s\nmodel: {in_channels: 6}\ntransfer: {up: int8, topk_share: 0.1}\n")
    with pytest.raises(ConfigError, match="goes with `up: topk` alone, and up is int8"):
        load_study(file)
    file.write_text("name: s\nmodel: {in_channels: 6}\ntransfer: {up: topk, topk_share: 0.1}\n")
    study = load_study(file)
    assert study.transfer == type(study).model_validate_json(study.model_dump_json()).transfer
