#!/bin/sh
# What Prometheus's own tool says of our rules, of their tests, and of the metrics' names and help.
set -eu
cd "$(dirname "$0")/.."
tools=$(tools/build_prometheus.sh)
rules=deploy/prometheus
"$tools/promtool" check rules --lint=all --lint-fatal $rules/alerts.yaml $rules/recording.yaml
"$tools/promtool" check config --lint=all --lint-fatal $rules/prometheus.yaml
"$tools/promtool" test rules $rules/tests.yaml
.venv/bin/python -m tests.every_metric | "$tools/promtool" check metrics
