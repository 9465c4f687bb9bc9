#!/bin/sh
# Makes .venv from requirements-dev.txt: `make setup`, or `tools/setup.sh python3.12`.
#
# Needs Python 3.11 or newer with venv, and the package index that pip is set up for (its options and
# PIP_* variables hold). Exactly what is locked is installed, hashes checked; nothing is compiled or
# resolved. The wheels stay in the user's cache, so that the next checkout needs no network.
# Run twice, it does nothing; interrupted, it begins anew; two at once wait for each other.
set -eu
cd "$(dirname "$0")/.."
python=${1:-python3}

say() { echo "setup: $1" >&2; }
fail() {
    say "$1"
    exit 1
}

wanted() { echo "$("$python" -VV) $PWD $(cksum <requirements-dev.txt)"; }
locked_is_installed() { [ "$(cat .venv/made-from 2>/dev/null)" = "$(wanted)" ]; }
project_is_installed() { [ -x .venv/bin/relay ] && [ .venv/made-from -nt pyproject.toml ]; }
locked_is_installed && project_is_installed && exit
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "$python is no Python 3.11 or newer; choose another: make setup PYTHON=/path/to/python3.11"

cache=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/outbox-relay
{ mkdir -p "$cache/wheels" && [ -w "$cache/wheels" ]; } 2>/dev/null || cache=$PWD/.build/cache
mkdir -p "$cache/wheels"
if command -v flock >/dev/null 2>&1; then
    exec 9>"$cache/setup.lock"
    flock -n 9 || {
        say "another setup is running; waiting for it"
        flock 9
    }
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_USER=0 PIP_QUIET=1
pip() { .venv/bin/python -m pip "$@"; }
locked="--require-hashes --no-deps --only-binary :all: -r requirements-dev.txt"
install_locked() { pip install --no-index --find-links "$cache/wheels" $locked; }

if ! locked_is_installed; then
    "$python" -m venv --clear .venv ||
        fail "this Python has no working venv; on Debian and Ubuntu: apt-get install python3-venv"
    # Most often every wheel is in the cache already; only when one is not is the index asked.
    if ! install_locked 2>/dev/null; then
        say "fetching the wheels that requirements-dev.txt names (150 MB, once)"
        pip download --dest "$cache/wheels" $locked ||
            fail "pip reached no index that has them; set PIP_INDEX_URL to a mirror if there is one"
        install_locked || fail "pip could not install requirements-dev.txt; its words are above"
    fi
    ln -sfn "$cache/wheels" .venv/wheels
fi
# Hatchling, which builds the project, is among what is locked.
pip install --no-index --no-deps --no-build-isolation --editable . ||
    fail "pip could not install the project itself; its words are above"
wanted >.venv/made-from
say "environment ready in .venv"
