"""The diffusion process: schedule, loss and samplers."""

from feat_fed.diffusion.loss import LossTerms, Model, diffusion_loss, training_losses
from feat_fed.diffusion.sampling import make_scheduler, sample_latents
from feat_fed.diffusion.schedule import Schedule

__all__ = [
    "LossTerms",
    "Model",
    "Schedule",
    "diffusion_loss",
    "make_scheduler",
    "sample_latents",
    "training_losses",
]
