"""An NVFlare job: its FedAvg, and an executor whose training adds a number to the arrays.

Numpy alone, no evaluation, and nothing written at the end of a round but the time.
"""

from __future__ import annotations

import time

import numpy as np
from nvflare.apis.dxo import from_shareable
from nvflare.apis.executor import Executor
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.fedavg import FedAvg


class EchoFedAvg(FedAvg):
    """FedAvg over the arrays of a file."""

    def __init__(self, arrays: str, ends: str, **others: object) -> None:
        super().__init__(**others)
        self.arrays, self.ends = arrays, ends

    def load_model(self) -> FLModel:
        """Read the arrays."""
        with np.load(self.arrays) as file:
            return FLModel(params={name: file[name] for name in file.files})

    def save_model(self, model: FLModel) -> None:
        """Write a line."""
        with open(self.ends, "a") as file:  # noqa: PTH123
            file.write(f"{time.time()}\n")


class EchoExecutor(Executor):
    """Change every number."""

    def execute(self, task_name, shareable, fl_ctx, abort_signal):  # noqa: ANN001, ANN201, D102
        content = from_shareable(shareable)
        shift = np.float32(1e-3 * (1 + len(fl_ctx.get_identity_name()) % 7))
        content.data = {
            name: value + shift if value.dtype.kind == "f" else value
            for name, value in content.data.items()
        }
        return content.to_shareable()
