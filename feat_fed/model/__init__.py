"""FEAT, its released checkpoints, and the files that hold its weights."""

from feat_fed.config import FEATConfig
from feat_fed.model.checkpoint import Weights, read_weights, write_weights
from feat_fed.model.feat import FEAT
from feat_fed.model.published import load_published, published_heads, to_published
from feat_fed.model.published_file import PublishedWeights, read_published, write_published
from feat_fed.model.state import TensorSpec, fingerprint, mismatches, state_schema

__all__ = [
    "FEAT",
    "FEATConfig",
    "PublishedWeights",
    "TensorSpec",
    "Weights",
    "fingerprint",
    "load_published",
    "mismatches",
    "published_heads",
    "read_published",
    "read_weights",
    "state_schema",
    "to_published",
    "write_published",
    "write_weights",
]
