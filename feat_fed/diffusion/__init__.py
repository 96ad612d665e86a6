"""The diffusion process: schedule, loss and samplers."""

from feat_fed.diffusion.guidance import Network, classifier_free, drop_labels, guided, with_labels
from feat_fed.diffusion.loss import LossTerms, Model, diffusion_loss, training_losses
from feat_fed.diffusion.sampling import sample_latents
from feat_fed.diffusion.schedule import Schedule
from feat_fed.diffusion.schedulers import make_scheduler, read_scheduler, scheduler_diffusion

__all__ = [
    "LossTerms",
    "Model",
    "Network",
    "Schedule",
    "classifier_free",
    "diffusion_loss",
    "drop_labels",
    "guided",
    "make_scheduler",
    "read_scheduler",
    "sample_latents",
    "scheduler_diffusion",
    "training_losses",
    "with_labels",
]
