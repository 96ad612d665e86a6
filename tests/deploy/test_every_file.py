"""Every file of the images, the compose files, the charts and nginx is looked at by a tool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from kubernetes_validate import validate
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from charts import CHARTS, lint_messages, rendered

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
FOLDERS = ("docker", "compose", "helm", "nginx")
FILES = sorted(
    path.relative_to(DEPLOY).as_posix()
    for folder in FOLDERS
    for path in (DEPLOY / folder).rglob("*")
    if path.is_file() and path.name != ".env" and "__pycache__" not in path.parts
)
OLDEST, NEWEST = "1.25", "1.37"
"""Kubernetes' versions whose schemas the manifests must fit."""


def run(tool: str, *arguments: object) -> None:
    """Run a tool of the development environment; its complaints are the failure's text."""
    command = [str(Path(sys.executable).with_name(tool)), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def a_dockerfile(path: Path) -> None:
    run("hadolint", "--failure-threshold", "style", path)


def a_module(path: Path) -> None:
    run("ruff", "check", path)


def a_lock(path: Path) -> None:
    """Each package at the version of constraints.txt and with hashes, and none is missing."""
    pinned = dict(re.findall(r"^(\S+)==([^\s;]+)", (ROOT / "constraints.txt").read_text(), re.M))
    pinned = {canonicalize_name(name): version for name, version in pinned.items()}
    blocks = re.split(r"\n(?=\w)", re.sub(r"(?m)^#.*\n", "", path.read_text()).strip())
    locked = {}
    for block in blocks:
        name, version = re.match(r"([\w.-]+)==([^\s;\\]+)", block).groups()
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), name
        locked[canonicalize_name(name)] = version
    for name, version in locked.items():
        assert version.partition("+")[0] == pinned.get(name, version), name
    torch, cuda = locked["torch"], path.stem.endswith("-cuda")
    assert torch.endswith("+cpu") is not cuda
    assert any(name.startswith("nvidia-") for name in locked) is cuda
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"][path.stem.partition("-")[0]]
    asked = {Requirement(each).name for each in (*project["dependencies"], *extra)}
    assert {canonicalize_name(name) for name in asked} <= set(locked)


def a_compose_file(path: Path) -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)
    some_yaml(path)


def an_environment(path: Path) -> None:
    """It names just what the compose files beside it ask for."""
    asked = {
        name
        for file in path.parent.glob("*.yaml")
        for name in re.findall(r"\$\{(\w+)", file.read_text())
    }
    assert set(re.findall(r"^(\w+)=\S", path.read_text(), re.M)) == asked


def a_proxy(path: Path) -> None:
    # HSTS is for browsers, of which none comes here.
    run("gixy", "--skips", "hsts_header", path)


def a_chart(path: Path) -> None:
    some_yaml(path)
    assert lint_messages(path.parent.name) == ()


def some_yaml(path: Path) -> None:
    rules = "{extends: default, rules: {line-length: {max: 130}, document-start: disable, "
    rules += "braces: {max-spaces-inside: 0}, comments: {min-spaces-from-content: 1}}}"
    run("yamllint", "--strict", "-d", rules, path)


def a_schema(path: Path) -> None:
    run("check-jsonschema", "--check-metaschema", path)
    values = yaml.safe_load((path.parent / "values.yaml").read_text())
    assert set(json.loads(path.read_text())["properties"]) == {*values, "global"}


def a_template(path: Path) -> None:
    chart = path.relative_to(CHARTS).parts[0]
    manifests = rendered(chart)[f"templates/{path.name}"]
    assert manifests
    for manifest in manifests:
        for version in (OLDEST, NEWEST):
            validate(manifest, version, strict=True)


def a_part_of_a_chart(path: Path) -> None:
    """`helm lint` renders it with the rest."""
    assert lint_messages(path.relative_to(CHARTS).parts[0]) == ()


CHECKS: dict[str, Callable[[Path], None]] = {
    "docker/Dockerfile": a_dockerfile,
    "docker/*.py": a_module,
    "docker/*.lock": a_lock,
    "compose/*/*.yaml": a_compose_file,
    "compose/*/.env.example": an_environment,
    "nginx/*.conf": a_proxy,
    "helm/*/Chart.yaml": a_chart,
    "helm/*/values.yaml": some_yaml,
    "helm/*/values.schema.json": a_schema,
    "helm/*/templates/*.yaml": a_template,
    "helm/*/templates/*.tpl": a_part_of_a_chart,
    "helm/*/templates/NOTES.txt": a_part_of_a_chart,
}


@pytest.mark.parametrize("file", FILES)
def test_the_file_passes_its_check(file: str) -> None:
    found = [check for pattern, check in CHECKS.items() if Path(file).match(pattern)]
    assert found, f"nothing checks deploy/{file}"
    for check in found:
        check(DEPLOY / file)


def test_docker_compose_takes_the_files(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not installed")
    for folder in ("server", "site"):
        files = sorted((DEPLOY / "compose" / folder).glob("*.yaml"), key=lambda it: len(it.name))
        named = [part for file in reversed(files) for part in ("-f", str(file))]
        environment = DEPLOY / "compose" / folder / ".env.example"
        command = [docker, "compose", "--env-file", str(environment), *named, "config", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
