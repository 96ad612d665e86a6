"""The Flower application bundle: names of installed modules and no code.

Flower ships a bundle (FAB) from the server to every SuperNode. Ours holds this one
file. Both components resolve to what each place has installed, so no Python crosses
the wire, and its hash is the same wherever the same version of feat-fed is installed.
"""

from __future__ import annotations

from feat_fed import __version__

BUNDLE_NAME = "feat-fed-bundle"


def bundle_files() -> dict[str, bytes]:
    """Return the bundle's files by name."""
    return {"pyproject.toml": _PYPROJECT.format(version=__version__).encode()}


_PYPROJECT = f"""\
[project]
name = "{BUNDLE_NAME}"
version = "{{version}}"
description = "Names of installed modules; holds no code."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "feat-fed"

[tool.flwr.app.components]
serverapp = "feat_fed_server.app:app"
clientapp = "feat_fed_client.app:app"

[tool.flwr.app.config]
"""
