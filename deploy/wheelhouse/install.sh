#!/bin/sh
# Installs feat-fed from the folder that this file is in, into a new environment, without a network.
#   sh wheelhouse/install.sh /opt/feat-fed        PYTHON=python3.12 names another Python
set -eu
# Another installation's paths and pip's settings have no say here.
unset PYTHONPATH PYTHONHOME

fail() {
    echo "error: $*" >&2
    exit 1
}

[ $# -eq 1 ] || fail "name the folder to install into: sh $0 /opt/feat-fed"
target=$1
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}

[ ! -e "$target/bin/python" ] || fail "$target is an environment already: name another, or remove it"
command -v "$python" >/dev/null || fail "there is no $python: name one by PYTHON=..."
found=$("$python" -c 'import platform, sys
print("Python {}.{}".format(*sys.version_info), platform.system(), platform.machine())')
made_for=$(cat "$here/platform.txt")
[ "$found" = "$made_for" ] ||
    fail "the wheels are for $made_for and this is $found: PYTHON=... names another" \
        "Python, or make the wheelhouse on a machine like this one"
"$python" -c 'import ensurepip' 2>/dev/null ||
    fail "$python cannot make environments: install its venv package (Debian: python3-venv)"

(cd "$here" && sha256sum --check --quiet --strict SHA256SUMS) ||
    fail "nothing was installed: the wheelhouse is not whole; take it along again, or make it anew"

"$python" -m venv "$target"
# pip compares every file with its SHA-256, too, and takes no other.
if ! PIP_CONFIG_FILE=/dev/null "$target/bin/python" -m pip install --isolated --quiet \
    --disable-pip-version-check --no-index --only-binary :all: --require-hashes \
    --find-links "$here" --requirement "$here/requirements.txt"; then
    rm -rf "$target"
    fail "nothing was installed: pip says why above; make the wheelhouse anew"
fi
"$target/bin/feat-fed" version
