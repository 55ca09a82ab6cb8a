# Everything for working on this repository, from a fresh Debian machine on. `make` alone lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-for-tests

# The first interpreter that is new enough; evaluated only where it is used.
INTERPRETER = $(shell for name in python3 python3.11 python3.12 python3.13 python3.14; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$name"; break; }; done)
WHO := import sys; print(sys.base_prefix, sys.version)
SUDO = $(shell [ "$$(id -u)" = 0 ] || echo sudo)
APT = $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0
# The compat mode puts this folder on the path; a finder would be asked at every import.
INSTALL := $(PYTHON) -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat
CONF ?= etc/workers.ini
PYTEST_ARGS ?=
# The tests wait more than they compute. Each process has servers of its own.
PROCESSES ?= $(shell n=$$(nproc); echo $$((n < 4 ? n + 1 : 4)))

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do \
		printf '  make %-12s %s\n' "$$name" "$$text"; done

.PHONY: run
run: $(STAMP) ## install into .venv and run the example in the foreground (CONF=FILE for another one)
	exec $(VENV)/bin/supervisor start --conf $(CONF)

.PHONY: test
test: $(TEST_STAMP) systemd network redis postgresql kafka ## run all tests (PYTEST_ARGS="-k name" for some)
	$(PYTHON) -m pytest --processes=$(PROCESSES) $(PYTEST_ARGS)

.PHONY: check
check: $(TEST_STAMP) ## format, lint, types and the rules of the architecture
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest tests/test_architecture.py

.PHONY: format
format: $(TEST_STAMP) ## format the code, mend what can be mended
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

.PHONY: bench
bench: $(TEST_STAMP) ## measure: ours beside a bare fork and other supervisors
	$(PYTHON) -m bench

.PHONY: bench-queues
bench-queues: $(TEST_STAMP) redis postgresql kafka ## measure: our queues beside bare loops and other queues
	$(PYTHON) -m bench.queues

.PHONY: clean
clean: ## remove what was built here
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): setup.cfg setup.py pyproject.toml
	@[ -n "$(INTERPRETER)" ] || { echo "no Python 3.11 or newer found: apt-get install python3" >&2; exit 1; }
	@# Debian's python3 has venv but not ensurepip, which python3-venv brings (python3.12-venv for a python3.12).
	@$(INTERPRETER) -c 'import ensurepip, venv' 2>/dev/null || { \
		$(APT) update && $(APT) install -y $(INTERPRETER)-venv; }
	@# An environment of another interpreter cannot be mended, only made anew.
	@cmp -s <($(INTERPRETER) -c '$(WHO)') <($(PYTHON) -c '$(WHO)' 2>/dev/null) || { \
		echo "$(INTERPRETER) -m venv --clear $(VENV)"; $(INTERPRETER) -m venv --clear $(VENV); }
	$(INSTALL) --editable .
	@# Compiled once, as an ordinary install is; PYTHONDONTWRITEBYTECODE would have every command compile anew.
	$(PYTHON) -m compileall -q supervisor workers
	@touch $@

$(TEST_STAMP): $(STAMP)
	$(INSTALL) --editable '.[test]'
	@touch $@

# Integration tests boot a real systemd in namespaces of its own; without root they are skipped.
.PHONY: systemd
systemd:
	@[ "$$(id -u)" != 0 ] || { [ -x /lib/systemd/systemd ] && command -v unshare nsenter >/dev/null; } \
		|| { $(APT) update && $(APT) install -y --no-install-recommends systemd util-linux; } \
		|| echo "systemd cannot be installed here: its tests are skipped" >&2

# Tests of two hosts make networks of their own, in namespaces.
.PHONY: network
network:
	@[ "$$(id -u)" != 0 ] || command -v ip >/dev/null \
		|| { $(APT) update && $(APT) install -y --no-install-recommends iproute2; } \
		|| echo "iproute2 cannot be installed here: the tests of two hosts are skipped" >&2

.PHONY: redis
redis:
	@command -v redis-server >/dev/null \
		|| { $(APT) update && $(APT) install -y --no-install-recommends redis-server; } \
		|| echo "redis-server cannot be installed here: its tests are skipped" >&2

# The tests run a server of their own; that of Debian is not touched.
.PHONY: postgresql
postgresql:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null \
		|| { $(APT) update && $(APT) install -y --no-install-recommends postgresql; } \
		|| echo "PostgreSQL cannot be installed here: its tests are skipped" >&2

# The jars of a broker, with a stamp that follows their list; Java 17 or newer runs them.
KAFKA := .cache/kafka
.PHONY: kafka
kafka:
	@[ $(KAFKA)/pom.xml -nt tests/data/kafka/pom.xml ] && command -v java >/dev/null || { \
		command -v mvn >/dev/null || { $(APT) update && $(APT) install -y --no-install-recommends default-jre-headless maven; }; \
		rm -rf $(KAFKA) && mkdir -p $(KAFKA) && mvn -q -B -f tests/data/kafka/pom.xml dependency:copy-dependencies \
			-DincludeScope=runtime -DoutputDirectory=$(CURDIR)/$(KAFKA)/lib && cp tests/data/kafka/pom.xml $(KAFKA)/; } \
		|| echo "Kafka cannot be installed here: its tests are skipped" >&2
