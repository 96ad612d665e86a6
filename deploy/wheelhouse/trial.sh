#!/bin/sh
# Installs a wheelhouse and runs the demonstration where there is no network but loopback.
#   sh deploy/wheelhouse/trial.sh wheelhouse [arguments of `feat-fed demo`]
set -eu

wheelhouse=$(cd "$1" && pwd)
shift
if [ -z "${FEAT_FED_NO_NETWORK:-}" ]; then
    # As root of a user namespace of our own, with a network namespace that has nothing in it.
    exec env FEAT_FED_NO_NETWORK=1 unshare --map-root-user --net sh "$0" "$wheelhouse" "$@"
fi
ip link set lo up
[ -z "$(ip route show table main; ip -6 route show default)" ] || { echo "error: there is a route" >&2; exit 1; }
if getent hosts pypi.org >/dev/null; then
    echo "error: a name of the outside world is resolved" >&2
    exit 1
fi
echo "no route leads from here: $(ip -brief address | tr -s ' ' | tr '\n' ';')"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# Nothing of the caller's environment can lead to another index, cache or installation.
clean() {
    env -i PATH="$PATH" HOME="$folder" TMPDIR="$folder" PYTHON="${PYTHON:-python3}" LANG=C.UTF-8 "$@"
}
clean sh "$wheelhouse/install.sh" "$folder/feat-fed"
cd "$folder"
clean "$folder/feat-fed/bin/feat-fed" demo --runs "$folder/runs" --run trial "$@"
test -s "$folder/runs/trial/report.html"
echo "the demonstration ran without a network"
