"""A batch, or a patient's part in a private step, as losses of micro-batches that sum to its mean.

Shapes: B clips of a batch, F frames, C channels, H x W latent pixels; W windows of a patient, of
which each is drawn D times, K = W D.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from feat_fed.diffusion import Schedule, drop_labels, training_losses, with_labels
from feat_fed.train.engine import LossFunction
from feat_fed.train.jobs import RoundJob
from feat_fed.train.peers import ALONE, Peers
from feat_fed.train.seeds import derive_seed


def losses_of_batch(
    z_BFCHW: Tensor,
    schedule: Schedule,
    job: RoundJob,
    *,
    step: int,
    micro_batch: int,
    peers: Peers = ALONE,
    begun: Callable[[], None] = lambda: None,
) -> list[LossFunction]:
    """Draw timesteps (uniform, one a clip), noise and which clips lose their class.

    They are drawn on the CPU and for the whole batch, so that they are the same for every
    device, process and micro-batch. Each loss is its clips' sum over B: also where B is no
    multiple of ``micro_batch``, every clip weighs the same.

    A process among ``peers`` gets the losses of its share, filled up to the number that every
    one gets with losses that weigh nothing, since what they exchange they must exchange alike.
    ``begun`` is called as each loss begins.
    """
    generator = torch.Generator().manual_seed(derive_seed("diffusion", job.seed, step))
    t_B = torch.randint(len(schedule), (len(z_BFCHW),), generator=generator)
    return _losses(z_BFCHW, t_B, generator, schedule, job, micro_batch, peers, begun)


def losses_of_patient(
    z_WFCHW: Tensor,
    schedule: Schedule,
    job: RoundJob,
    *,
    draws: int,
    seed: int,
    micro_batch: int,
    begun: Callable[[], None] = lambda: None,
) -> list[LossFunction]:
    """Draw ``draws`` timesteps and noises for each window, a function of ``seed`` alone.

    The timesteps of all K rows are one uniform number and its K equal shifts: each is uniform, and
    together they cover the process (Kingma et al., arXiv 2107.00630, appendix I.1), those of one
    window too.
    """
    W, K = len(z_WFCHW), len(z_WFCHW) * draws
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand((), generator=generator, dtype=torch.float64)
    shift_K = torch.arange(K, dtype=torch.float64).view(draws, W).T.flatten() / K
    t_K = ((start + shift_K) % 1.0 * len(schedule)).long()
    z_KFCHW = z_WFCHW.repeat_interleave(draws, dim=0)
    return _losses(z_KFCHW, t_K, generator, schedule, job, micro_batch, ALONE, begun)


def _losses(
    z_BFCHW: Tensor,
    t_B: Tensor,
    generator: torch.Generator,
    schedule: Schedule,
    job: RoundJob,
    micro_batch: int,
    peers: Peers,
    begun: Callable[[], None],
) -> list[LossFunction]:
    noise_BFCHW = torch.randn(z_BFCHW.shape, generator=generator)
    t_B, noise_BFCHW = t_B.to(z_BFCHW.device), noise_BFCHW.to(z_BFCHW.device)
    labels_B = None
    if job.label is not None:
        labels_B = drop_labels(
            torch.full_like(t_B, job.label),
            probability=job.training.label_dropout,
            null_label=job.model.num_classes,
            generator=generator,
        )

    share = peers.share(len(z_BFCHW))

    def loss_of(first: int) -> LossFunction:
        idle = first >= share.stop
        part = slice(0, 1) if idle else slice(first, min(first + micro_batch, share.stop))

        def loss(model: nn.Module) -> Tensor:
            begun()
            network = with_labels(model, None if labels_B is None else labels_B[part])
            terms = training_losses(network, z_BFCHW[part], t_B[part], noise_BFCHW[part], schedule)
            total = terms.total_B.sum() / len(z_BFCHW)
            return 0.0 * total if idle else total

        return loss

    firsts = range(share.start, share.start + peers.largest_share(len(z_BFCHW)), micro_batch)
    return [loss_of(first) for first in firsts]
