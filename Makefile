# Everything a contributor runs. `make help` lists it.
.DEFAULT_GOAL := help
.PHONY: help venv demo test lint types imports package sanity units integration ansible-lint molecule bench bench-quick \
	build clean

VENV := .venv
BIN := $(VENV)/bin
# More than a small machine has cores, since many tests wait for the network or for time to pass
PYTEST_WORKERS ?= 3
# Playbooks are called by their full names from a tree that holds this checkout as the collection.
COLLECTIONS := .cache/collections

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: ## make .venv with everything the tests need
	@tests/venv.sh test

demo: ## the main job on this machine: a tracker, a publisher, five hosts, the real playbooks
	@tests/venv.sh demo
	@$(BIN)/python tests/demo/demo.py

test: ## all of it: lint, types, contracts, unit, package, sanity, integration, demo, molecule
	@tests/run.sh

lint: venv ## ruff and the changelog
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/antsibull-changelog lint

types: venv ## mypy, strict, for the package
	$(BIN)/mypy

imports: venv ## which room may import which
	$(BIN)/lint-imports

package: venv ## the package's tests: real daemons, real transfers, on loopback
	$(BIN)/pytest -n $(PYTEST_WORKERS) --maxschedchunk 1

sanity: venv ## ansible-test sanity
	tests/ansible-test sanity

units: venv ## ansible-test units
	tests/ansible-test units

integration: venv ## the modules against real daemons, in the four-step rhythm
	tests/ansible-test integration

ansible-lint: venv ## ansible-lint, production profile
	mkdir -p $(COLLECTIONS)/ansible_collections/shoal
	ln -sfn $(CURDIR) $(COLLECTIONS)/ansible_collections/shoal/deploy
	ANSIBLE_COLLECTIONS_PATH=$(COLLECTIONS) PATH=$(CURDIR)/$(BIN):$$PATH ansible-lint --offline --profile production

molecule: ## the roles on systemd hosts in containers; needs docker, or root and apt-get to install it
	tests/molecule.sh

bench-quick: venv ## how fast five hosts get an archive, beside aria2, curl and others; needs root; 4 minutes
	$(BIN)/python tests/benchmarks/swarm.py --quick

bench: venv ## the same for every row of docs/benchmarks.md; needs root and hours
	$(BIN)/python tests/benchmarks/swarm.py --runs 3

build: venv ## the collection's tarball, from what is committed
	rm -rf build/collection && mkdir -p build/collection
	git archive HEAD | tar -x -C build/collection
	$(BIN)/ansible-galaxy collection build --force --output-path build build/collection

clean: ## remove environments, caches and what builds left behind
	rm -rf $(VENV) .cache build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache tests/output
