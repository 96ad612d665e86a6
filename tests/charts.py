"""The Helm charts below deploy/, rendered as `helm template` would."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

CHARTS = Path(__file__).resolve().parents[1] / "deploy" / "helm"

SERVER = {"federation": "address: a.example.org:9443\nsites: [a, b]\n", "study": "name: echo\n"}
SITE = {"site": "name: a\nstore: store\n", "data": {"hostPath": {"path": "/data/echo"}}}
VALUES: dict[str, dict[str, Any]] = {"feat-fed-server": SERVER, "feat-fed-site": SITE}
"""The least that each chart asks for."""


def rendered(chart: str, **values: Any) -> dict[str, list[dict[str, Any]]]:
    """Return the manifests of each template of a chart, with these values besides the least."""
    helm = _helm()
    given = VALUES[chart] | values
    with helm.Chart.load(CHARTS / chart) as loaded:
        loaded.validate_schema(given)
        texts = loaded.render(given, name="study", namespace="feat-fed")
    return {
        template.partition("/")[2]: [each for each in yaml.safe_load_all(text) if each]
        for template, text in texts.items()
        if template.endswith(".yaml")
    }


@cache
def lint_messages(chart: str) -> tuple[str, ...]:
    """Return what `helm lint --strict` complains of, but for a missing icon."""
    report = _helm().lint(CHARTS / chart, VALUES[chart], strict=True)
    told = [each["error"] for each in report["messages"] if each["severity"] > 1]
    return (*told, *report["errors"])


def of_kind(chart: str, kind: str, **values: Any) -> dict[str, Any]:
    """Return the one manifest of a kind."""
    manifests = [each for found in rendered(chart, **values).values() for each in found]
    [found] = [each for each in manifests if each["kind"] == kind]
    return found


def _helm() -> Any:
    return pytest.importorskip(
        "helm_python", reason="helm-python-sdk has no wheel for this machine"
    )
