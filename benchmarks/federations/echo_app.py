"""A Flower application as its guide writes one, whose training adds a number to the arrays."""

from __future__ import annotations

import time

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run FedAvg without evaluation; a line is written as each round ends."""
    config = context.run_config
    with np.load(str(config["arrays"])) as file:
        arrays = ArrayRecord({name: Array(file[name]) for name in file.files})
    sites = int(config["sites"])

    def ended(server_round: int, _: ArrayRecord) -> None:
        if server_round:
            with open(str(config["ends"]), "a") as file:  # noqa: PTH123
                file.write(f"{time.time()}\n")

    FedAvg(
        fraction_evaluate=0.0,
        min_train_nodes=sites,
        min_evaluate_nodes=sites,
        min_available_nodes=sites,
    ).start(
        grid=grid,
        initial_arrays=arrays,
        num_rounds=int(config["rounds"]),
        timeout=3600,
        evaluate_fn=ended,
    )


@client.train()
def train(message: Message, context: Context) -> Message:
    """Change every number."""
    arrays = message.content["arrays"]
    shift = np.float32(1e-3 * (1 + context.node_id % 7))
    changed = {
        name: Array(value + shift if value.dtype.kind == "f" else value)
        for name, value in ((name, each.numpy()) for name, each in arrays.items())
    }
    content = RecordDict(
        {"arrays": ArrayRecord(changed), "metrics": MetricRecord({"num-examples": 1})}
    )
    return Message(content, reply_to=message)
