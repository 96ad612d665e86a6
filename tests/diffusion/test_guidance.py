"""Guidance against its formulas, and samples of networks whose guided answer is known."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest
import torch
from torch import Tensor

from feat_fed.config import DiffusionConfig, FEATConfig, SamplerConfig
from feat_fed.diffusion import (
    Model,
    Network,
    Schedule,
    classifier_free,
    drop_labels,
    guided,
    sample_latents,
)
from feat_fed.errors import ConfigError
from feat_fed.model import FEAT

CONFIG = FEATConfig(
    in_channels=2, hidden_size=16, num_trios=3, num_heads=2, mlp_ratio=1, num_classes=3
)
NOISE = DiffusionConfig()
SHAPE = (3, 2, 4, 4)
KINDS = ["ddpm", "ddim", "dpm-solver++", "unipc"]


class KnowsPoints:
    """The exact network for clips that are ``points[label]`` everywhere; the last: no class.

    Without mixing in a trio it takes them for ``shifted`` by that trio's number plus one.
    """

    points = torch.tensor([0.2, -0.4, 0.7, 0.1])
    shifted = 0.05

    def __init__(self, diffusion: DiffusionConfig) -> None:
        self.config = CONFIG
        self.diffusion = diffusion
        self.schedule = Schedule.linear(diffusion)
        self.rows: list[int] = []

    def __call__(
        self,
        z_BFCHW: Tensor,
        t_B: Tensor,
        labels: Tensor | None = None,
        *,
        identity_trios: Collection[int] = (),
    ) -> Tensor:
        self.rows.append(len(z_BFCHW))
        labels = torch.full_like(t_B, 3) if labels is None else labels
        point = self.points[labels] + self.shifted * sum(trio + 1 for trio in identity_trios)
        z0 = point.view(-1, 1, 1, 1, 1).expand_as(z_BFCHW)
        alpha_bar = self.schedule.alpha_bar[t_B].float().view(-1, 1, 1, 1, 1)
        noise = (z_BFCHW - alpha_bar.sqrt() * z0) / (1 - alpha_bar).sqrt()
        predicted = self.schedule.target(z0, noise, t_B)
        return torch.cat([predicted, torch.full_like(predicted, -1.0)], dim=2)


def drawn(model: Model, diffusion: DiffusionConfig = NOISE, **options: object) -> Tensor:
    return sample_latents(
        model,
        shape_FCHW=SHAPE,
        sampler=SamplerConfig.model_validate({"steps": 10, **options}),
        diffusion=diffusion,
        seeds=[0, 1],
    )


def opened() -> FEAT:
    """Return a network with nothing gated off, near enough to z_t that samples stay in range."""
    torch.manual_seed(0)
    model = FEAT(CONFIG)
    with torch.no_grad():
        model.skip.weight.zero_()[:2].copy_(torch.eye(2))
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.double().eval()


@pytest.fixture(scope="module")
def ask() -> Callable[..., Tensor]:
    """Return a function that asks a network about one batch, with labels and trios or none."""
    network = opened()
    torch.manual_seed(1)
    z, t = torch.randn(2, *SHAPE).double(), torch.tensor([10, 700])

    def asked(label: int | None = None, trios: tuple[int, ...] = (), **options: object) -> Tensor:
        with torch.no_grad():
            if options:
                sampler = SamplerConfig.model_validate({"label": label, **options})
                return guided(network, sampler)(z, t)
            labels = None if label is None else torch.full((2,), label)
            return network(z, t, labels, identity_trios=trios)

    return asked


def test_without_guidance_the_model_itself_is_asked() -> None:
    network = opened()
    assert guided(network, SamplerConfig()) is network
    assert guided(network, SamplerConfig(perturbed_trios=(1,), precision="bf16")) is network


def test_classifier_free_guidance_is_its_formula(ask: Callable[..., Tensor]) -> None:
    (label, logits), (null, _) = ask(1).chunk(2, dim=2), ask(None).chunk(2, dim=2)
    assert torch.equal(ask(1, guidance_scale=1.0), ask(1))
    found, found_logits = ask(1, guidance_scale=0.0).chunk(2, dim=2)
    torch.testing.assert_close(found, null)
    torch.testing.assert_close(found_logits, logits)
    expected = torch.cat([-1.5 * null + 2.5 * label, logits], dim=2)
    torch.testing.assert_close(ask(1, guidance_scale=2.5), expected)
    assert not torch.allclose(label, null)


@pytest.mark.parametrize("trios,chosen", [((), (1,)), ((0, 2), (0, 2))])
@pytest.mark.parametrize("label", [None, 2])
def test_perturbed_guidance_is_its_formula(
    ask: Callable[..., Tensor], label: int | None, trios: tuple[int, ...], chosen: tuple[int, ...]
) -> None:
    plain, logits = ask(label).chunk(2, dim=2)
    worse = ask(label, chosen).chunk(2, dim=2)[0]
    found = ask(label, perturbed_scale=3.0, perturbed_trios=trios)
    torch.testing.assert_close(found, torch.cat([4 * plain - 3 * worse, logits], dim=2))
    assert not torch.allclose(plain, worse)


def test_both_guidances_add_up(ask: Callable[..., Tensor]) -> None:
    label, null, worse = (each.chunk(2, dim=2)[0] for each in (ask(0), ask(), ask(0, (1,))))
    found = ask(0, guidance_scale=4.0, perturbed_scale=2.0).chunk(2, dim=2)[0]
    torch.testing.assert_close(found, null + 4 * (label - null) + 2 * (label - worse))


def test_guiding_v_is_guiding_epsilon() -> None:
    schedule = Schedule.linear(DiffusionConfig(prediction="v"))
    z_t, label, null = torch.randn(3, 1, *SHAPE).double()
    t_B = torch.tensor([400])
    alpha_bar = schedule.alpha_bar[400]

    def epsilon(v: Tensor) -> Tensor:
        return alpha_bar.sqrt() * v + (1 - alpha_bar).sqrt() * z_t

    of_v = epsilon(classifier_free(label, null, scale=3.0))
    torch.testing.assert_close(of_v, classifier_free(epsilon(label), epsilon(null), scale=3.0))
    plain = Schedule.linear(NOISE)
    clean = schedule.clean(z_t, classifier_free(label, null, scale=3.0), t_B)
    torch.testing.assert_close(plain.clean(z_t, of_v, t_B), clean)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_sampler_goes_where_guidance_leads(kind: str, prediction: str) -> None:
    """For clips that are one point, guidance moves the point by its own formula."""
    diffusion = DiffusionConfig.model_validate({"prediction": prediction})
    for options, point in (
        ({"label": 2}, 0.7),
        ({"label": 2, "guidance_scale": 1.5}, 0.1 + 1.5 * 0.6),
        ({"perturbed_scale": 2.0}, 0.1 - 2 * 0.1),
        ({"label": 1, "guidance_scale": 0.5, "perturbed_scale": 1.0}, 0.1 - 0.25 - 0.1),
    ):
        z = drawn(KnowsPoints(diffusion), diffusion, kind=kind, **options)
        torch.testing.assert_close(z, torch.full((2, *SHAPE), point), rtol=0, atol=2e-3)


def test_label_and_null_class_share_a_batch_and_the_perturbed_pass_has_its_own() -> None:
    network = KnowsPoints(NOISE)
    drawn(network, steps=2, label=0, guidance_scale=2.0, perturbed_scale=1.0)
    assert network.rows == [4, 2, 4, 2]


def test_a_guided_clip_keeps_its_seed_whatever_the_batch() -> None:
    network = opened().float()
    sampler = SamplerConfig(kind="ddpm", steps=5, label=1, guidance_scale=2.0, perturbed_scale=1.0)
    together, alone = (
        sample_latents(
            network,
            shape_FCHW=SHAPE,
            sampler=sampler,
            diffusion=NOISE,
            seeds=seeds,
            batch_size=size,
        )
        for seeds, size in (([3, 4, 5], 3), ([5, 3], 1))
    )
    torch.testing.assert_close(together[[2, 0]], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"label": 3}, "sampler.label is 3, but the model's classes are 0 to 2"),
        ({"perturbed_scale": 1.0, "perturbed_trios": [1, 5]}, "holds 5, but .* are 0 to 2"),
    ],
)
def test_what_the_model_does_not_have_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        drawn(KnowsPoints(NOISE), **options)


def test_a_model_without_labels_or_trios_is_not_guided() -> None:
    def plain(z_BFCHW: Tensor, t_B: Tensor) -> Tensor:
        return torch.cat([z_BFCHW, z_BFCHW], dim=2)

    assert isinstance(opened(), Network)
    with pytest.raises(ConfigError, match="knows neither labels nor trios"):
        drawn(plain, perturbed_scale=1.0)


# The training half of classifier-free guidance.


def dropped(probability: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat(2000)
    return drop_labels(labels, probability=probability, null_label=3, generator=generator)


def test_dropped_labels_are_those_of_the_seed() -> None:
    assert torch.equal(dropped(0.1), dropped(0.1))
    assert not torch.equal(dropped(0.1), dropped(0.1, seed=1))


def test_labels_are_dropped_at_the_rate_asked_for_and_else_kept() -> None:
    assert torch.equal(dropped(0.0), torch.arange(3).repeat(2000))
    assert dropped(1.0).eq(3).all()
    labels = dropped(0.1)
    assert float(labels.eq(3).float().mean()) == pytest.approx(0.1, abs=4 * (0.09 / 6000) ** 0.5)
    kept = labels != 3
    assert torch.equal(labels[kept], torch.arange(3).repeat(2000)[kept])


# Precision.


def test_bfloat16_is_around_the_network_alone() -> None:
    inside: list[bool] = []
    outside: list[bool] = []

    class Watched(KnowsPoints):
        def __call__(self, z_BFCHW: Tensor, t_B: Tensor, *rest: object, **more: object) -> Tensor:
            inside.append(torch.is_autocast_enabled("cpu") and z_BFCHW.dtype == torch.float32)
            return super().__call__(z_BFCHW, t_B, *rest, **more)  # type: ignore[arg-type]

    for precision in ("bf16", "fp32"):
        sample_latents(
            Watched(NOISE),
            shape_FCHW=SHAPE,
            sampler=SamplerConfig.model_validate({"steps": 2, "precision": precision, "label": 0}),
            diffusion=NOISE,
            seeds=[0],
            progress=lambda *_: outside.append(torch.is_autocast_enabled("cpu")),
        )
    assert inside == [True, True, False, False]
    assert not any(outside)


def test_bfloat16_samples_stay_close() -> None:
    network = opened().float()
    options = {"kind": "unipc", "steps": 4, "label": 1, "guidance_scale": 1.5}
    z, z_bf16 = drawn(network, **options), drawn(network, **options, precision="bf16")
    assert z_bf16.dtype == torch.float32
    assert 0 < float((z - z_bf16).std()) < 0.05 * float(z.std())
