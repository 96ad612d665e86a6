"""How a study's rounds are measured on held-out benchmarks while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from feat_fed.config.base import StrictModel


class NetworkFileConfig(StrictModel):
    """A file of weights that the coordinator has fetched; nothing is downloaded."""

    path: Path | None = Field(None, description="on the evaluator's machine; it never travels")
    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="of the file; TorchScript is not run without"
    )


class EvaluationConfig(StrictModel):
    """What the evaluator, a process beside the server, does with a run's rounds."""

    benchmark: str = Field(
        "folder", description="real videos that no site trained on: a built-in one, or its YAML"
    )
    folder: Path | None = Field(
        None, description="where these lie on the evaluator's machine; it never travels"
    )
    split: str | None = Field(None, description="of the benchmark; null: its usual one")
    partial: bool = Field(
        False, description="take a copy that lacks videos; the numbers will say so"
    )
    trained_on: tuple[Path, ...] = Field(
        (),
        description="what the evaluator can read of what was trained on, and will not measure by: "
        "lists of SHA-256, folders of videos, sites' stores. They never travel",
    )
    even_trained_on: bool = Field(
        False, description="measure by videos that were trained on; the numbers will say so"
    )
    protocol: str = Field("plain", description="a built-in one, or its YAML file")
    networks: dict[str, NetworkFileConfig] = Field(
        {}, description="files of feature networks, by the name that protocols give them"
    )
    every_rounds: int = Field(
        1, ge=1, description="every n-th round is measured, and the first and the last"
    )
    num_clips: int | None = Field(
        None, ge=4, le=4096, description="generated ones a round; null: the protocol's number"
    )
    batch_clips: int = Field(8, ge=1, description="that are generated together")
    best_by: str | None = Field(
        None,
        description="metric whose best round is kept from the server's rotation; null: the "
        "protocol's first that knows better from worse",
    )
    with_server: bool = Field(
        True,
        description="whether the server starts the evaluator beside itself; if not, `feat-fed "
        "evaluate --watch` does, on any machine that sees the run's folder",
    )
    finish_minutes: float = Field(
        10,
        ge=0,
        description="that the server waits at a study's end for rounds not measured yet; the rest "
        "can be caught up with later",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "cpu",
        description="auto: the first GPU where there is one; a GPU that trains is slowed down",
    )
    threads: int = Field(1, ge=1, le=1024, description="of the CPU")
    niceness: int = Field(
        19, ge=0, le=19, description="19: what it computes hardly slows down what else runs there"
    )

    def without_paths(self) -> EvaluationConfig:
        """Return it as it may leave the machine."""
        networks = {
            name: each.model_copy(update={"path": None}) for name, each in self.networks.items()
        }
        names = {field: Path(getattr(self, field)).name for field in ("benchmark", "protocol")}
        paths = {"folder": None, "trained_on": (), "networks": networks}
        return self.model_copy(update={**paths, **names})

    def absolute(self, base: Path) -> EvaluationConfig:
        """Return it with paths counted from a folder made absolute."""

        def whole(path: Path | None) -> Path | None:
            return path and (base / path.expanduser()).resolve()

        def named(name: str) -> str:
            return str(whole(Path(name))) if name.endswith((".yaml", ".yml")) else name

        networks = {
            name: each.model_copy(update={"path": whole(each.path)})
            for name, each in self.networks.items()
        }
        return self.model_copy(
            update={
                "folder": whole(self.folder),
                "trained_on": tuple(whole(each) for each in self.trained_on),
                "networks": networks,
                "benchmark": named(self.benchmark),
                "protocol": named(self.protocol),
            }
        )
