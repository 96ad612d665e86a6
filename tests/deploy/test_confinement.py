"""What runs in containers runs as nobody, writes where it is told, and is reached at one port."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from charts import VALUES, of_kind, rendered

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHARTS = sorted(VALUES)


def compose(path: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose" / path / "compose.yaml").read_text())


SERVICES = [(folder, name) for folder in ("server", "site") for name in compose(folder)["services"]]


@pytest.mark.parametrize(("folder", "name"), SERVICES)
def test_a_service_is_confined(folder: str, name: str) -> None:
    service = compose(folder)["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"].startswith("${FEAT_FED_UID:?")
    for volume in service["volumes"]:
        where = volume["target"]
        assert volume.get("read_only") or where.startswith(("/runs", "/federation", "/site"))


def test_only_the_proxy_is_reached_from_outside() -> None:
    server, site = compose("server"), compose("site")
    published = {name for name, it in server["services"].items() if "ports" in it}
    assert published == {"proxy"}
    assert server["networks"]["inside"]["internal"] is True
    assert set(server["services"]["server"]["networks"]) == {"inside"}
    assert not any("ports" in it for it in site["services"].values())


def test_the_server_sees_neither_the_key_of_the_ca_nor_tokens() -> None:
    server = compose("server")
    service, secrets = server["services"]["server"], server["secrets"]
    sources = [each["source"] for each in service["volumes"]]
    sources += [secrets[each["source"]]["file"] for each in service["secrets"]]
    assert not any(re.search(r"ca\.key|tokens|federation$|tls$", each) for each in sources)
    claims = of_kind("feat-fed-server", "StatefulSet")["spec"]["template"]["spec"]["volumes"]
    assert "feat-fed-tls" in str(claims)  # a Secret that the coordinator makes without ca.key


def test_a_client_changes_neither_clips_nor_its_own_file() -> None:
    service = compose("site")["services"]["client"]
    writable = [each["target"] for each in service["volumes"] if not each.get("read_only")]
    assert writable == ["/site/store"]


@pytest.mark.parametrize("chart", CHARTS)
def test_a_pod_is_confined(chart: str) -> None:
    spec = of_kind(chart, "StatefulSet")["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_a_server_s_pod_has_one_port_and_calls_nobody() -> None:
    service = of_kind("feat-fed-server", "Service")["spec"]
    assert [each["targetPort"] for each in service["ports"]] == ["door"]
    policy = of_kind("feat-fed-server", "NetworkPolicy")["spec"]
    assert policy["ingress"] == [{"ports": [{"protocol": "TCP", "port": "door"}]}]
    assert policy["egress"] == []
    spec = of_kind("feat-fed-server", "StatefulSet")["spec"]["template"]["spec"]
    [port] = [port for each in spec["containers"] for port in each.get("ports", [])]
    assert port == {"name": "door", "containerPort": 9443}


def test_a_site_s_pod_calls_its_server_and_listens_nowhere() -> None:
    at = {"enabled": True, "serverCIDR": "192.0.2.7/32", "serverPort": 443}
    policy = of_kind("feat-fed-site", "NetworkPolicy", networkPolicy=at)["spec"]
    assert policy["ingress"] == []
    assert policy["egress"][0]["to"] == [{"ipBlock": {"cidr": "192.0.2.7/32"}}]
    assert policy["egress"][0]["ports"] == [{"protocol": "TCP", "port": 443}]
    kinds = {each["kind"] for found in rendered("feat-fed-site").values() for each in found}
    assert kinds == {"ConfigMap", "NetworkPolicy", "StatefulSet"}


def test_gpus_are_asked_for_beside_the_other_limits() -> None:
    spec = of_kind("feat-fed-site", "StatefulSet", gpus=2)["spec"]["template"]["spec"]
    limits = spec["containers"][0]["resources"]["limits"]
    assert limits == {"memory": "32Gi", "nvidia.com/gpu": 2}
    without = of_kind("feat-fed-site", "StatefulSet")["spec"]["template"]["spec"]
    assert "nvidia.com/gpu" not in str(without)


@pytest.mark.parametrize(
    ("chart", "values", "told"),
    [
        ("feat-fed-server", {"federation": ""}, "federation is missing: --set-file"),
        ("feat-fed-server", {"storage": {"runs": {"size": "much"}}}, "size"),
        ("feat-fed-server", {"studdy": "x"}, "studdy"),
        ("feat-fed-site", {"data": {}}, "data is missing: one volume source"),
        ("feat-fed-site", {"gpus": 9}, "gpus"),
    ],
)
def test_wrong_values_are_told(chart: str, values: dict[str, Any], told: str) -> None:
    helm = pytest.importorskip("helm_python")
    with pytest.raises(helm.HelmError, match=told):
        rendered(chart, **values)


def test_versions_are_the_project_s() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for chart in CHARTS:
        about = yaml.safe_load((DEPLOY / "helm" / chart / "Chart.yaml").read_text())
        assert about["appVersion"] == version
    for path in sorted((DEPLOY / "compose").rglob("*.yaml")):
        for tag in re.findall(r"image: feat-fed-\w+:(\S+)", path.read_text()):
            assert tag.removesuffix("-cuda") == version
