"""A wheelhouse installs on the machine that it is for, whole or not at all."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

BUILD = Path(__file__).resolve().parents[2] / "deploy" / "wheelhouse" / "build.py"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wheelhouse_build", BUILD)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_wheel(
    folder: Path, name: str, version: str, *, needs: str = "", script: str = ""
) -> Path:
    """A wheel of one module, which prints its own name."""
    module, about = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += (
        ["Provides-Extra: client", f'Requires-Dist: {needs}; extra == "client"'] if needs else []
    )
    tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {
        f"{module}.py": f"def main():\n    print('{name} {version}')\n",
        f"{about}/METADATA": "\n".join(lines) + "\n",
        f"{about}/WHEEL": tag,
        f"{module}/_vendor/other-1.dist-info/METADATA": "Name: other\n",
    }
    if script:
        files[f"{about}/entry_points.txt"] = f"[console_scripts]\n{script} = {module}:main\n"
    record = "".join(f"{each},,\n" for each in (*files, f"{about}/RECORD"))
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in {**files, f"{about}/RECORD": record}.items():
            wheel.writestr(file, text)


@pytest.fixture
def wheelhouse(tmp_path: Path, build: ModuleType) -> Path:
    folder = tmp_path / "wheelhouse"
    build.begin(folder)
    write_wheel(folder, "feat-fed", "0.1.0", needs="dependency", script="feat-fed")
    write_wheel(folder, "dependency", "2.0+cpu")
    build.finish(folder, extra="client")
    return folder


def install(wheelhouse: Path, into: Path) -> subprocess.CompletedProcess[str]:
    # Neither of these leads to what is installed.
    elsewhere = {"PYTHONPATH": str(BUILD.parents[2]), "PIP_NO_DEPS": "1"}
    environment = {**os.environ, **elsewhere, "PYTHON": sys.executable}
    return subprocess.run(
        ["sh", str(wheelhouse / "install.sh"), str(into)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )


def test_it_installs_with_its_extra_and_every_other_is_refused(
    wheelhouse: Path, tmp_path: Path
) -> None:
    into = tmp_path / "installed"
    done = install(wheelhouse, into)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "feat-fed 0.1.0\n"
    assert list(into.glob("lib/python3*/site-packages/dependency.py"))
    again = install(wheelhouse, into)
    assert again.returncode == 1 and "is an environment already" in again.stderr


@pytest.mark.parametrize("damage", ["altered", "lost"])
def test_a_wheel_that_is_altered_or_lost_leaves_nothing_installed(
    wheelhouse: Path, tmp_path: Path, damage: str
) -> None:
    (wheelhouse / "dependency-2.0+cpu-py3-none-any.whl").unlink()
    if damage == "altered":  # as somebody would who wants other code to be installed
        write_wheel(wheelhouse, "dependency", "2.0+cpu", script="evil")
    done = install(wheelhouse, tmp_path / "installed")
    assert done.returncode == 1 and "nothing was installed" in done.stderr
    assert not (tmp_path / "installed").exists()


def test_a_wheelhouse_of_another_platform_is_refused_before_anything_is_made(
    wheelhouse: Path, tmp_path: Path
) -> None:
    (wheelhouse / "platform.txt").write_text("Python 3.99 Linux riscv64\n")
    done = install(wheelhouse, tmp_path / "installed")
    assert done.returncode == 1 and "the wheels are for Python 3.99 Linux riscv64" in done.stderr
    assert not (tmp_path / "installed").exists()


def test_a_folder_of_something_else_is_not_emptied(tmp_path: Path, build: ModuleType) -> None:
    (tmp_path / "thesis.txt").write_text("the only copy")
    with pytest.raises(SystemExit, match="is no wheelhouse"):
        build.begin(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_it_is_made_anew_in_place_of_an_older_one(wheelhouse: Path, build: ModuleType) -> None:
    shutil.copy(wheelhouse / "requirements.txt", wheelhouse / "old-1.0-py3-none-any.whl")
    build.begin(wheelhouse)
    assert [each.name for each in wheelhouse.iterdir()] == ["platform.txt"]
