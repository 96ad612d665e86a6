"""One evaluation: a model's clips against real ones, by a protocol, as a record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from feat_fed.evaluate.clips import ClipSource
from feat_fed.evaluate.metrics import measure
from feat_fed.evaluate.networks import FeatureNetwork
from feat_fed.evaluate.protocol import Protocol
from feat_fed.evaluator.drawing import Progress
from feat_fed.evaluator.subject import Subject
from feat_fed.measured import Evaluation
