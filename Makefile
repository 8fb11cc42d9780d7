# Everything is installed into .venv, and nowhere else.
PYTHON ?= python3
BIN := .venv/bin
# Most tests wait for a process or a socket, so four workers keep two cores busy.
WORKERS ?= 4
PYTEST := $(BIN)/pytest -q -n $(WORKERS)

.PHONY: help demo check test coverage lint unit generate lock dist deb package-trial soak trials exec-trial api-trials discovery-trial group-trial simulation simulation-load simulation-mutations bench bench-many idle clean
.NOTPARALLEL:

help:
	@echo "make demo      try it without an account: simulated JumpCloud -> plugin -> receiver"
	@echo "               OPTIONS='--members 3': three processes on PostgreSQL, one of which is killed"
	@echo
	@echo "For contributors:"
	@echo "make check     lint, types, import contracts, spelling and unit tests; about a minute"
	@echo "make test      lint and every test that this machine can run"
	@echo "make coverage  every test, with coverage"
	@echo "make generate  write the generated files: conf/fields.md, conf/*.schema.json, conf/index-templates/*.json"
	@echo "make lock      pin the requirements of the image and the Debian package: conf/requirements.txt"
	@echo "make dist      build the sdist and the wheel, in dist/"
	@echo "make deb       build the Debian packages, in dist/"
	@echo "make package-trial  install, upgrade, remove and purge the package in a clean SUITE=bookworm; needs root, debootstrap"
	@echo "make soak      a million events through faults and kills; options: OPTIONS='--events 50000'"
	@echo "make trials    kill a receiver during delivery; OPTIONS=full; with Fluent Bit: kills, pauses or freezes"
	@echo "make exec-trial  kill a Fluent Bit that starts the plugin, and the plugin: OPTIONS='--events 150000 --rounds 2'"
	@echo "make api-trials  late events, short pages, a wrong clock: OPTIONS=late, short-pages, clock or outage"
	@echo "make discovery-trial  10,000 organizations join, 300 leave, the list is empty, then refused"
	@echo "make group-trial  processes that share a state on PostgreSQL: kills, freezes, cuts; OPTIONS='--streams 60 kills'"
	@echo "make simulation  whole lives in simulated time, decided by seeds: SEEDS=1000, FIRST=0; SEED=7 replays one"
	@echo "make simulation-load  how many organizations one process polls in time"
	@echo "make simulation-mutations  undo each mend in a copy, and name the seeds that find it"
	@echo "make bench     compare with a plain script; see tests/bench/README.md"
	@echo "make bench-many  10,000 organizations in one process: start, memory, /metrics, what is said of the interval"
	@echo "make idle      wake-ups, CPU and writes of an idle process, for two hours; OPTIONS='--streams 1 --seconds 600'"
	@echo "make clean     remove the virtual environment and the caches"

demo: .venv/runtime $(if $(findstring --members,$(OPTIONS)),.venv/postgresql)
	@$(BIN)/in-jumpcloud demo $(OPTIONS)

check: lint unit

lint: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell

unit: .venv/dev
	$(PYTEST) tests/unit

# Tests that measure ratios of time run first, while nothing else runs.
test: lint
	$(BIN)/pytest -q -m alone
	$(PYTEST) -m "not alone"

coverage: .venv/dev
	$(PYTEST) -m "not alone" --timeout 300 --cov --cov-report=term

generate: .venv/dev
	$(BIN)/in-jumpcloud fields --format markdown > conf/fields.md
	$(BIN)/in-jumpcloud config schema > conf/jumpcloud.schema.json
	$(BIN)/in-jumpcloud template elasticsearch > conf/index-templates/elasticsearch.json
	$(BIN)/in-jumpcloud template opensearch > conf/index-templates/opensearch.json

lock: .venv/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra postgresql --generate-hashes --no-annotate \
		--custom-compile-command "make lock" --output-file conf/requirements.txt pyproject.toml

dist: .venv/dev
	$(BIN)/python -m build

deb: .venv/dev
	$(BIN)/python conf/debian/build.py $(ARCHITECTURES)

package-trial: deb
	tests/tools/package_trial.sh $(or $(SUITE),bookworm) dist/in-jumpcloud_*_$(shell dpkg --print-architecture).deb

soak: .venv/dev
	PYTHONPATH=tests $(BIN)/python -m tools.soak $(OPTIONS)

trials: .venv/dev
	PYTHONPATH=tests $(BIN)/python -m tools.receiver_trials $(or $(OPTIONS),failover)

exec-trial: .venv/dev
	PYTHONPATH=tests $(BIN)/python -m tools.exec_trial $(OPTIONS)

api-trials: .venv/dev
	PYTHONPATH=tests $(BIN)/python -m tools.api_trials $(or $(OPTIONS),short-pages)

discovery-trial: .venv/dev
	PYTHONPATH=tests $(BIN)/python -m tools.discovery_trial $(OPTIONS)

group-trial: .venv/dev
	PYTHONPATH=tests $(BIN)/python -m tools.group_trial $(OPTIONS)

simulation-load: .venv/dev
	cd tests && ../$(BIN)/python -m simulation.load

simulation: .venv/dev
	cd tests && ../$(BIN)/python -m simulation $(if $(SEED),--replay $(SEED),$(or $(SEEDS),1000) $(or $(FIRST),0))

simulation-mutations: .venv/dev
	cd tests && ../$(BIN)/python -m simulation.mutations $(or $(SEEDS),1000) $(OPTIONS)

bench-many: .venv/dev
	PYTHONPATH=tests $(BIN)/python -m bench.many $(OPTIONS)

bench: .venv/dev
	PYTHONPATH=tests $(BIN)/python -m bench $(OPTIONS)

idle: .venv/dev
	PYTHONPATH=tests $(BIN)/python -m bench.idle $(OPTIONS)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage .coverage.*

.venv/runtime: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is required; try: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/postgresql: .venv/runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group postgresql
	@touch $@

.venv/dev: .venv/runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@
