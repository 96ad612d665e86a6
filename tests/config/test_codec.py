"""The study's codec: fields by kind, fit to the model, and a path that stays where it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from feat_fed.config import CodecConfig, StudyConfig, dump_yaml, load_site, load_study
from feat_fed.errors import ConfigError
from feat_fed.protocol import Assignment, parse_header
from feat_fed.report import RunStore, write_report

SHA = "0" * 64
SD = f"codec: {{kind: autoencoder-kl, weights: vae, weights_sha256: '{SHA}'}}"


def study(folder: Path, *lines: str) -> Path:
    path = folder / "study.yaml"
    path.write_text("\n".join(["name: s", *lines]))
    return path


@pytest.mark.parametrize(
    ("fields", "channels", "step_px"),
    [
        ({}, 6, 4),
        ({"levels": 3, "detail_channels": 1}, 4, 8),
        ({"kind": "autoencoder-kl", "weights_sha256": SHA}, 4, 8),
        ({"kind": "tiny", "weights_sha256": SHA}, 32, 8),
        ({"kind": "tiny", "weights_sha256": SHA, "latent_channels": 16, "downscale": 4}, 16, 4),
        ({"kind": "monai-kl", "weights_sha256": SHA, "monai": {"channels": [8, 8]}}, 3, 2),
    ],
)
def test_the_latent_s_shape_is_known_without_weights(
    fields: dict[str, object], channels: int, step_px: int, tmp_path: Path
) -> None:
    codec = CodecConfig.model_validate(fields)
    assert (codec.channels, codec.step_px) == (channels, step_px)
    size_px = 16 * step_px
    whole = StudyConfig.model_validate(
        {
            "name": "s",
            "codec": fields,
            "model": {"in_channels": channels},
            "clips": {"size_px": size_px},
        }
    )
    path = tmp_path / "study.yaml"
    path.write_text(dump_yaml(whole))
    assert load_study(path) == whole


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        ("kind: tiny", "codec: weights_sha256 is unset, and kind tiny needs it"),
        (f"kind: monai-kl, weights_sha256: '{SHA}'", "monai is unset, and kind monai-kl needs it"),
        (f"kind: tiny, levels: 3, weights_sha256: '{SHA}'", "levels is no field of kind tiny"),
        ("weights: vae", "weights is no field of kind wavelet .which has levels, detail_channels"),
        (f"kind: tiny, scale: [1, 2], weights_sha256: '{SHA}'", "scale has 2 numbers, .* 32"),
        (f"kind: tiny, scale: [0], weights_sha256: '{SHA}'", "scale"),
        ("kind: tiny, weights_sha256: abc", "weights_sha256"),
        ("kind: vae", "kind"),
    ],
)
def test_a_codec_that_cannot_be_is_told(codec: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study(study(tmp_path, f"codec: {{{codec}}}"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["model: {in_channels: 6}", SD], "autoencoder-kl codec makes 4; set model.in_channels: 4"),
        (["clips: {size_px: 72}", SD], r"72 is not a multiple of 16 \(the codec's 8 px"),
    ],
)
def test_a_model_that_does_not_fit_is_told(lines: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study(study(tmp_path, *lines))


def test_weights_are_counted_from_the_file_that_names_them(tmp_path: Path) -> None:
    assert load_study(study(tmp_path, SD)).codec.weights == tmp_path / "vae"
    site = tmp_path / "site.yaml"
    site.write_text("{name: a, store: store, data: {paths: [clips]}, codec_weights: vae}")
    assert load_site(site).codec_weights == tmp_path / "vae"


def test_the_path_of_the_weights_neither_travels_nor_arrives(tmp_path: Path) -> None:
    loaded = load_study(study(tmp_path, SD))
    assignment = Assignment(study_id="0" * 32, round=1, task="train", first_step=0, study=loaded)
    text = assignment.model_dump_json()
    assert str(tmp_path) not in text and SHA in text
    sent = json.loads(text)
    sent["study"]["codec"]["weights"] = "/etc/shadow"
    assert parse_header(Assignment, json.dumps(sent)) == assignment


def test_a_run_goes_on_with_weights_that_were_moved_and_its_report_shows_no_path(
    tmp_path: Path,
) -> None:
    loaded = load_study(study(tmp_path, SD))
    run = RunStore.create(tmp_path / "run", loaded)
    assert str(tmp_path) not in write_report(run).read_text()
    moved = loaded.codec.model_copy(update={"weights": Path("/elsewhere")})
    again = RunStore.resume(run.root, loaded.model_copy(update={"codec": moved}))
    assert RunStore(run.root).study.codec.weights == again.study.codec.weights == moved.weights
