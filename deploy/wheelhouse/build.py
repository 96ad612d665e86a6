"""Make a wheelhouse: all that an installation of feat-fed needs, for machines without a network.

::

    wheelhouse/*.whl             feat-fed and everything that it depends on
    wheelhouse/requirements.txt  each by version and SHA-256; feat-fed with the extra
    wheelhouse/SHA256SUMS        of all the others
    wheelhouse/platform.txt      what the wheels are for: Python, system, processor
    wheelhouse/install.sh        installs from this folder alone, into a new environment

Run it by ``make wheelhouse EXTRA=client`` with the Python, on the kind of machine, that it is for.
It needs nothing but Python's own modules and pip.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXTRAS = ("server", "client", "simulation", "all")
OURS = "feat-fed"


def main() -> None:
    """Make the folder anew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("extra", choices=EXTRAS)
    parser.add_argument("folder", type=Path, help="made anew; it must not hold other things")
    chosen = parser.parse_args()
    begin(chosen.folder)
    gather(chosen.folder, extra=chosen.extra)
    finish(chosen.folder, extra=chosen.extra)
    size_bytes = sum(each.stat().st_size for each in chosen.folder.iterdir())
    wheels = len(list(chosen.folder.glob("*.whl")))
    print(f"{chosen.folder}: {wheels} wheels, {size_bytes / 1e6:.0f} MB, for {this_platform()}")
    print(f"take the folder along, and there: sh {chosen.folder.name}/install.sh FOLDER")


def begin(folder: Path) -> None:
    """Make the folder, or empty one that was made by this before."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "platform.txt").exists():
        sys.exit(f"error: {folder} exists and is no wheelhouse; name another folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "platform.txt").write_text(this_platform() + "\n")


def gather(folder: Path, *, extra: str) -> None:
    """Fetch or build the wheels, in the versions of constraints.txt."""
    root = HERE.parent.parent
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([*pip, "--no-deps", str(root)], check=True)
    wheel = next(folder.glob("feat_fed-*.whl"))
    constraints = ["--constraint", str(root / "constraints.txt")]
    subprocess.run(
        [*pip, *constraints, f"{OURS}[{extra}] @ {wheel.resolve().as_uri()}"], check=True
    )


def finish(folder: Path, *, extra: str) -> None:
    """Write what the installation is checked by, and the script that does it."""
    lines = requirements(folder, extra=extra)
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n")
    shutil.copy(HERE / "install.sh", folder)
    files = sorted(each for each in folder.iterdir() if each.name != "SHA256SUMS")
    sums = "".join(f"{sha256(each)}  {each.name}\n" for each in files)
    (folder / "SHA256SUMS").write_text(sums)


def requirements(folder: Path, *, extra: str) -> list[str]:
    """Return a line for each wheel, as ``pip install --require-hashes`` wants it."""
    lines = []
    for wheel in sorted(folder.glob("*.whl")):
        name, version = named(wheel)
        what = f"{name}[{extra}]" if name == OURS else name
        lines.append(f"{what}=={version} --hash=sha256:{sha256(wheel)}")
    return lines


def sha256(path: Path) -> str:
    """Return a file's, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def named(wheel: Path) -> tuple[str, str]:
    """Return a wheel's project and version, by its own metadata."""
    with zipfile.ZipFile(wheel) as file:
        # At the top: some wheels carry others' metadata deeper down.
        (path,) = (it for it in file.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", it))
        about = HeaderParser().parsestr(file.read(path).decode())
    return about["Name"], about["Version"]


def this_platform() -> str:
    """Return what wheels that are made here are for; install.sh asks the same."""
    version = "{}.{}".format(*sys.version_info[:2])
    return f"Python {version} {platform.system()} {platform.machine()}"


if __name__ == "__main__":
    main()
