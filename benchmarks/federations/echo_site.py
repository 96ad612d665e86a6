"""``feat-fed client`` for a benchmark: nobody's clips are looked at, and the executor echoes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from feat_fed.config import load_site
from feat_fed.processes import Child, ChildGroup
from feat_fed_client import supernode


class _Children(ChildGroup):
    """Children as they are, but for the executor's main module."""

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        log_file: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Child:
        names = {"feat_fed_client": "federations.echo_executor"}
        command = [names.get(part, part) for part in command]
        return super().start(name, command, log_file=log_file, env=env, cwd=cwd, pass_fds=pass_fds)


def main() -> None:
    """Run the site of a file."""
    supernode.ChildGroup = _Children  # type: ignore[misc]
    file = Path(sys.argv[1])
    launcher = supernode.SiteLauncher(file, load_site(file), tell=print)
    launcher.logs.mkdir(parents=True, exist_ok=True)
    launcher.run()


if __name__ == "__main__":
    main()
