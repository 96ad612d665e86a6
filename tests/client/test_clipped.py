"""What a site sends in a study with central privacy."""

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from torch import Tensor

from feat_fed.config import SiteConfig, SiteDataConfig, StudyConfig
from feat_fed.config.privacy import SitePrivacyConfig
from feat_fed.errors import ProtocolError
from feat_fed.federate import decode, form_of, pack
from feat_fed.model import FEAT
from feat_fed.model.state import state_schema
from feat_fed.privacy.updates import move_norm
from feat_fed.protocol import Assignment, Report
from feat_fed.wire import from_records, to_records
from feat_fed_client import app as app_module
from feat_fed_client.app import make_app
from feat_fed_client.clipped import clip_own

TREE = {
    "name": "tiny",
    "model": {"in_channels": 6, "hidden_size": 16, "num_trios": 1, "num_heads": 2},
    "clips": {"frames": 2, "size_px": 16},
    "strategy": {"weigh_by": "equal"},
}


def sent_by_a_site(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    shift: float,
    clip_norm: float | None,
    up: str = "fp32",
    **central: Any,
) -> tuple[Report, float]:
    """Return the report and the norm of the update that a site sends after this training."""
    privacy = {"central": {"noise_multiplier": 1.0, **central}} if clip_norm else {}
    study = StudyConfig.model_validate({**TREE, "transfer": {"up": up}, "privacy": privacy})
    received = {name: each.detach() for name, each in FEAT(study.model).state_dict().items()}
    site = SiteConfig(
        name="hospital-a",
        data=SiteDataConfig(paths=(folder,)),
        store=folder / "store",
        privacy=SitePrivacyConfig(patients_only_here=True),
    )
    told = Assignment(
        study_id="a" * 32, round=1, task="train", first_step=0, study=study, clip_norm=clip_norm
    )

    def trained(*_: object) -> tuple[Report, dict[str, Tensor]]:
        report = Report(
            study_id="a" * 32, round=1, task="train", site=site.name, outcome="ok", examples=1
        )
        return report, {name: each + shift for name, each in received.items()}

    monkeypatch.setattr(app_module.SiteSession, "run", trained)
    message = Message(to_records(told, pack(received)), dst_node_id=1, message_type="train")
    message.metadata.__dict__["_message_id"] = "1"
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    reply = make_app(lambda _: site)(message, context)
    report, buckets = from_records(reply.content, Report)
    base = received if study.transfer.up_is_delta else None
    form = form_of(study.transfer, "up")
    weights = decode(buckets, form, state_schema(study.model), base=base)
    return report, move_norm(weights, received)


@pytest.mark.parametrize("up", ["fp32", "bf16", "int8", "topk"])
def test_a_long_update_leaves_the_site_within_the_bound(
    up: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, norm = sent_by_a_site(
        tmp_path, monkeypatch, shift=0.1, clip_norm=0.5, up=up, clipping="adaptive"
    )
    assert 0 < norm < 0.5 * 1.01
    if up != "topk":
        assert norm == pytest.approx(0.5, rel=0.01)
    assert report.within_clip_norm is False
    assert report.patients_only_here


def test_a_short_update_says_that_it_was_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, norm = sent_by_a_site(
        tmp_path, monkeypatch, shift=1e-4, clip_norm=50.0, clipping="adaptive"
    )
    assert report.within_clip_norm
    assert norm == pytest.approx(1e-4 * norm_of_ones(), rel=1e-3)


def test_with_a_fixed_bound_nobody_learns_who_was_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, norm = sent_by_a_site(tmp_path, monkeypatch, shift=0.1, clip_norm=0.5)
    assert norm == pytest.approx(0.5, rel=1e-3)
    assert report.within_clip_norm is None


def test_without_central_privacy_nothing_is_clipped_or_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, norm = sent_by_a_site(tmp_path, monkeypatch, shift=0.1, clip_norm=None)
    assert norm == pytest.approx(0.1 * norm_of_ones(), rel=1e-3)
    assert (report.within_clip_norm, report.patients_only_here) == (None, False)


def test_a_study_that_clips_is_not_asked_without_a_bound(tmp_path: Path) -> None:
    privacy = {"central": {"noise_multiplier": 1.0}}
    study = StudyConfig.model_validate({**TREE, "privacy": privacy})
    about = {"study_id": "a" * 32, "round": 1, "task": "train"}
    told = Assignment(**about, first_step=0, study=study)
    site = SiteConfig(name="a", data=SiteDataConfig(paths=(tmp_path,)), store=tmp_path)
    report = Report(**about, site="a", outcome="ok", examples=1)
    weights = {"w": torch.ones(2)}
    with pytest.raises(ProtocolError, match="says not to which length"):
        clip_own(told, site, report, weights, weights)
    assert clip_own(told, site, report, {}, weights) == (report, {})  # nothing was trained


def norm_of_ones() -> float:
    """The norm of a move of all weights by one."""
    weights = FEAT(StudyConfig.model_validate(TREE).model).state_dict()
    floats = [torch.ones_like(each) for each in weights.values() if each.is_floating_point()]
    return float(torch.cat([each.flatten() for each in floats]).norm())
