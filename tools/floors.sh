#!/bin/bash
# Hop 1 with the oldest libraries that pyproject.toml allows, on every Python that is here: what an order
# service that pins old ones would get. Needs the network.
set -euo pipefail
cd "$(dirname "$0")/.."
for version in 3.11 3.12 3.13 3.14; do
    python=$(.venv/bin/uv python find --no-python-downloads "$version" 2>/dev/null ||
        ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version."*/bin/python 2>/dev/null | tail -1) || true
    [ -n "$python" ] || { echo "python$version: not here"; continue; }
    place=$(mktemp -d)
    .venv/bin/uv venv --quiet --python "$python" "$place/venv"
    .venv/bin/uv pip install --quiet --python "$place/venv/bin/python" --resolution lowest-direct .
    .venv/bin/uv pip install --quiet --python "$place/venv/bin/python" pytest hypothesis
    echo "python$version: $(.venv/bin/uv pip freeze --quiet --python "$place/venv/bin/python" 2>/dev/null |
        grep -E '^(opentelemetry-api|jsonschema-rs)=' | tr '\n' ' ')"
    (cd "$place" && venv/bin/python -m pytest -q -c /dev/null --rootdir "$place" --noconftest \
        -p no:cacheprovider --ignore "$OLDPWD/tests/unit/outbox/test_outbox_imports.py" \
        "$OLDPWD/tests/unit/outbox" | tail -1)
    rm -rf "$place"
done
