"""A learned codec from a study to clips: sites, pipelines and runs that use one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_files import moving_frames, write_dicom
from feat_fed.codec import build_codec
from feat_fed.config import (
    ComputeConfig,
    FEATConfig,
    LatentsConfig,
    RulesConfig,
    SamplerConfig,
    SiteConfig,
    SiteDataConfig,
    StudyConfig,
)
from feat_fed.data.frames import square_video
from feat_fed.diffusion import make_scheduler
from feat_fed.errors import CheckpointError, ConfigError
from feat_fed.generate import generate_clips, run_pipeline
from feat_fed.model import FEAT, write_weights
from feat_fed.pipeline import FEATPipeline
from feat_fed.pipeline_folder import ClipSize
from feat_fed.protocol import Assignment
from feat_fed.report import RunStore
from feat_fed.simulate import virtual_sites
from feat_fed_client.session import SiteSession
from learned_weights import monai_codec, monai_file

MODEL = FEATConfig(in_channels=3, hidden_size=8, num_trios=1, num_heads=2, mlp_ratio=1)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return monai_file(tmp_path / "coordinator")


@pytest.fixture
def study(weights: Path) -> StudyConfig:
    return StudyConfig(
        name="learned",
        model=MODEL,
        codec=monai_codec(weights),
        clips={"frames": 4, "size_px": 16, "heldout_fraction": 0.5},
        sampler=SamplerConfig(steps=2, num_clips=2),
    )


@pytest.fixture
def site(tmp_path: Path, weights: Path) -> SiteConfig:
    folder = tmp_path / "clips"
    folder.mkdir()
    for patient in "ab":
        write_dicom(folder / f"{patient}.dcm", moving_frames(20), PatientID=patient)
    own = weights.rename(tmp_path / "the-site-s-own.pt")
    rules = RulesConfig(duplicate_bits=None, review="waived")
    return SiteConfig(
        name="a",
        data=SiteDataConfig(paths=(folder,), rules=rules, workers=1),
        store=tmp_path / "store",
        latents=LatentsConfig(dtype="bfloat16"),
        codec_weights=own,
        compute=ComputeConfig(device="cpu"),
    )


def assignment(study: StudyConfig) -> Assignment:
    return Assignment(study_id="0" * 32, round=1, task="train", first_step=0, study=study)


def test_a_site_trains_on_latents_of_its_own_copy(study: StudyConfig, site: SiteConfig) -> None:
    clips = SiteSession(site).clips(assignment(study))
    codec = build_codec(study.codec, weights=site.codec_weights)
    z = codec.encode(square_video(moving_frames(20), size_px=16)[None]).mean[0]
    assert clips.heldout is not None and clips.train.num_clips == clips.heldout.num_clips == 1
    window = clips.heldout.fixed(1)[0]
    near = torch.stack([(z[n : n + 4] - window).square().mean() for n in range(17)])
    # Samples of the moments: as far away as the network is unsure, and nearest in the middle.
    logvar = codec.encode(square_video(moving_frames(20), size_px=16)[None]).logvar
    assert logvar is not None
    assert near[8] == pytest.approx(float(logvar[0, 8:12].exp().mean()), rel=0.2)
    assert clips.train.batch(0, 0, 6).shape == (6, 4, 3, 8, 8)


def test_a_site_without_the_study_s_weights_is_told(study: StudyConfig, site: SiteConfig) -> None:
    bare = site.model_copy(update={"codec_weights": None})
    with pytest.raises(ConfigError, match="a site sets codec_weights"):
        SiteSession(bare).clips(assignment(study))


def test_a_pipeline_s_folder_holds_the_weights_and_no_path(
    study: StudyConfig, weights: Path, tmp_path: Path
) -> None:
    scheduler = make_scheduler(study.sampler, study.diffusion)
    size = ClipSize(num_frames=2, height=16, width=16)
    made = FEATPipeline(FEAT(MODEL), scheduler, study.codec, size=size)
    made.save_pretrained(tmp_path / "folder")
    config = json.loads((tmp_path / "folder/codec/config.json").read_text())
    assert "weights" not in config and str(tmp_path) not in json.dumps(config)
    weights.unlink()
    again = FEATPipeline.from_pretrained(tmp_path / "folder").to("cpu")
    again.save_pretrained(tmp_path / "folder")  # over itself
    clips = [each(seeds=[1], num_inference_steps=2).frames for each in (made, again)]
    np.testing.assert_allclose(clips[0], clips[1], atol=1e-6)
    copied = tmp_path / "folder/codec/weights/ae.pt"
    copied.write_bytes(copied.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="has the SHA-256"):
        FEATPipeline.from_pretrained(tmp_path / "folder")


def test_a_run_is_sampled_where_its_weights_lie_elsewhere(
    study: StudyConfig, weights: Path, tmp_path: Path
) -> None:
    store = RunStore.create(tmp_path / "run", study)
    for kind, path in (("global", store.checkpoint(0)), ("ema", store.ema(0))):
        write_weights(path, FEAT(MODEL).state_dict(), kind=kind, model=MODEL)
    at_home = generate_clips(store)
    moved = weights.rename(tmp_path / "moved.pt")
    with pytest.raises(ConfigError, match="are not there"):
        run_pipeline(store)
    np.testing.assert_array_equal(generate_clips(store, codec_weights=moved), at_home)


def test_virtual_sites_share_the_coordinator_s_weights(
    study: StudyConfig, weights: Path, tmp_path: Path
) -> None:
    store = RunStore.create(tmp_path / "run", study)
    data = SiteDataConfig(paths=(tmp_path,))
    assert [each.codec_weights for each in virtual_sites(store, {"a": data})] == [weights]
