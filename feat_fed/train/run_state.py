"""The model of a run between two rounds, in the run's folder: written, read back, moved on.

A round's files are written first and its manifest last, each whole or not there; the manifest
holds their SHA-256. So a process may be killed at any moment: a round without a manifest is
done again, and one whose files do not match it is set aside and done again.

There is no state of a random generator to keep: whatever is drawn is seeded by the study's seed,
the site's name and the round's number (:func:`~feat_fed.train.seeds.derive_seed`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from feat_fed.atomic import remove_parts, sync_folder, write_bytes_atomically
from feat_fed.config.base import StrictModel
from feat_fed.errors import CheckpointError, StorageError
from feat_fed.model import FEAT, read_weights, write_weights
from feat_fed.report.records import CentralSpending
from feat_fed.report.round_manifest import RoundManifest, Standing, read_manifest
from feat_fed.report.run_store import RunStore
from feat_fed.tensor_file import read_digest, read_tensor_file, write_tensor_file
from feat_fed.train.ema import ema_update

log = logging.getLogger(__name__)

DAMAGED = ".damaged"
"""What is added to the name of a file that is set aside."""

_AT_ONCE = 2
"""Files that are written together: one is hashed while the other waits for the disk."""


class _OptimiserHeader(StrictModel):
    """What a file of the server optimiser's state says of itself."""

    schema_version: Literal[1] = 1
    kind: Literal["server-optimiser"] = "server-optimiser"


@dataclass(frozen=True)
class GlobalState:
    """What a round starts from."""

    rounds_done: int
    weights: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimiser: dict[str, Tensor] = field(default_factory=dict)
    """The server optimiser's, where the strategy has one."""
    standing: Standing = field(default_factory=dict)
    """What the rounds so far have taught of the sites, as the round loop writes it."""
    clip_norm: float | None = None
    """Of the next round's updates, where the study has central privacy; None before the first."""

    def after_round(
        self,
        weights: Mapping[str, Tensor],
        *,
        ema_decay: float,
        optimiser: Mapping[str, Tensor] | None = None,
        standing: Standing | None = None,
        clip_norm: float | None = None,
    ) -> GlobalState:
        """Return the state that the next round starts from; ``standing`` None keeps it."""
        number = self.rounds_done + 1
        # The untrained weights get no part: a plain mean of the rounds until there are enough.
        decay = min(ema_decay, (number - 1) / number)
        return GlobalState(
            number,
            dict(weights),
            ema_update(self.ema, weights, decay=decay),
            dict(optimiser or {}),
            self.standing if standing is None else standing,
            clip_norm,
        )


def restore(store: RunStore) -> GlobalState:
    """Return the last whole state in the run's folder, or that of a new run.

    A damaged newest one is passed over: its files are set aside under names that end in
    ``.damaged``, and the run's summary warns of it.
    """
    remove_parts(store.root)
    remove_parts(store.checkpoint(0).parent)
    for number in reversed(store.done_rounds()):
        try:
            state = _read(store, number)
        except CheckpointError as error:
            log.warning("round %d cannot be restored: %s", number, error)
            _set_aside(store, number)
            continue
        if not store.manifest(number).exists():  # killed at round 0, or a run of before manifests
            save(store, state)
        return state
    torch.manual_seed(store.study.seed)
    weights = {name: each.detach() for name, each in FEAT(store.study.model).state_dict().items()}
    state = GlobalState(0, weights, dict(weights))
    save(store, state)
    return state


def save(store: RunStore, state: GlobalState) -> None:
    """Write a round's files and then its manifest, with which it is done.

    Raises
    ------
    StorageError
        If the disk is full, among others; the rounds before are still there.
    """
    number, model = state.rounds_done, store.study.model
    weights, ema, optimiser = store.checkpoint(number), store.ema(number), store.optimiser(number)
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        writing = {
            weights.name: pool.submit(
                write_weights, weights, state.weights, kind="global", model=model
            ),
            ema.name: pool.submit(write_weights, ema, state.ema, kind="ema", model=model),
        }
        if state.optimiser:
            writing[optimiser.name] = pool.submit(
                write_tensor_file, optimiser, state.optimiser, _OptimiserHeader()
            )
    files = {name: each.result() for name, each in writing.items()}
    manifest = RoundManifest(
        round=number, files=files, standing=dict(state.standing), clip_norm=state.clip_norm
    )
    path = store.manifest(number)
    try:
        write_bytes_atomically(path, manifest.model_dump_json(indent=1).encode())
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}") from error


def summarise(
    store: RunStore,
    state: GlobalState,
    to: Literal["running", "complete"],
    *,
    final_heldout_loss: float | None = None,
    central: CentralSpending | None = None,
) -> None:
    """Write into the run's summary how far it is."""
    now = {
        "state": to,
        "rounds_done": state.rounds_done,
        "rounds_wanted": store.study.rounds,
        "final_heldout_loss": final_heldout_loss,
        "message": "",
        "central": central,
    }
    store.write_summary(store.summary().model_copy(update=now))


def _read(store: RunStore, number: int) -> GlobalState:
    """Read a round's files, each against its own digest and the manifest's."""
    model, optimiser = store.study.model, store.optimiser(number)
    manifest = read_manifest(store.manifest(number)) if store.manifest(number).exists() else None
    state = GlobalState(
        number,
        read_weights(store.checkpoint(number), kind="global", model=model).tensors,
        read_weights(store.ema(number), kind="ema", model=model).tensors,
    )
    if manifest is None:
        return state
    folder = store.manifest(number).parent
    for name, digest in manifest.files.items():
        if read_digest(folder / Path(name).name) != digest:
            raise CheckpointError(
                f"{folder / name} is not the file that the round's manifest names"
            )
    has_state = optimiser.name in manifest.files
    return GlobalState(
        number,
        state.weights,
        state.ema,
        read_tensor_file(optimiser, _OptimiserHeader)[1] if has_state else {},
        manifest.standing,
        manifest.clip_norm,
    )


def _set_aside(store: RunStore, number: int) -> None:
    """Rename a damaged round's files, the manifest first, and say so where it is seen."""
    for path in store.files_of(number):
        if path.exists():
            path.replace(path.with_name(path.name + DAMAGED))
    sync_folder(store.manifest(number).parent)
    warning = f"files of round {number} were damaged and are set aside; the round is done again"
    summary = store.summary()
    store.write_summary(summary.model_copy(update={"warnings": (*summary.warnings, warning)}))
