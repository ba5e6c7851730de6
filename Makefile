# `make` alone lists what there is. ARGS is handed on: make test ARGS="-k mount"

VENV := .venv
BIN := $(VENV)/bin
BASE := $(VENV)/.ready-base
UNIT := $(VENV)/.ready-unit
READY := $(VENV)/.ready
ARGS ?=
# Processes that run tests; 0: none but pytest's own, as a debugger needs it. Four keep two cores busy, as they wait for
# half of their time.
WORKERS ?= 3
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(wildcard constraints.txt),-c constraints.txt)

.PHONY: help demo play test lint unit bench clean system

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(BASE) ## see a run from start to end, on this machine
	@$(BIN)/python examples/demo.py $(ARGS)

play: system $(READY) ## a box and a cloud on this machine, to play with by hand
	@$(BIN)/python -m tests.play

test: system lint ## lint, then every test; as root on Debian or Ubuntu it installs what they need
	@$(BIN)/pytest -n $(WORKERS) --no-loadscope-reorder $(ARGS)

# pytest removes at its end what sessions before the last three left, and those of `test` leave a hundred thousand files:
# the unit tests have a folder of their own.
UNIT_TMP := $(or $(TMPDIR),/tmp)/unit-$(shell id -u)

unit: WORKERS := 2
unit: $(UNIT) ## the tests that need nothing but Python
	@mkdir -p $(UNIT_TMP)
	@PYTEST_DEBUG_TEMPROOT=$(UNIT_TMP) $(BIN)/pytest tests/unit -n $(WORKERS) $(ARGS)

# The product only, as the tests' hosts are Linux. A cache of its own: mypy keeps the results for one platform.
MACOS := --platform darwin --cache-dir .mypy_cache/darwin remoterun trainer

lint: $(READY) ## ruff, mypy (also for macOS), who may import whom, and the agent's Python 3.8
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy $(MACOS)
	@$(BIN)/lint-imports
	@$(BIN)/vermin -t=3.8- --no-tips --violations remoterun/agent

bench: $(READY) ## figures beside ssh, docker, rsync and rclone; ARGS="control --quick" for some
	@$(BIN)/python -m tests.bench $(ARGS)

clean: ## remove what make made here
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The newest Python for which there is a TensorFlow, and that can make a virtual environment. A Debian python3 can't without the package python3-venv.
$(BASE): pyproject.toml $(wildcard constraints.txt)
	@find_python() { \
	    for each in python3.13 python3.12 python3.11 python3 python3.14; do \
	        if $$each -c 'import sys; sys.exit(sys.version_info < (3, 11)); ' 2>/dev/null && \
	            $$each -c 'import ensurepip, venv' 2>/dev/null; then command -v $$each; return; fi; \
	    done; return 1; }; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    if ! python=$$(find_python) && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        $(MAKE) --no-print-directory system; \
	    fi; \
	    if ! python=$$(find_python); then \
	        echo "make: no Python >= 3.11 with venv is installed" >&2; \
	        echo "hint: on Debian and Ubuntu: sudo apt-get install python3 python3-venv" >&2; \
	        exit 1; \
	    fi; \
	    "$$python" -m venv --clear $(VENV); \
	fi
	@echo "make: installing remoterun into $(VENV)"
	@$(PIP) -e .
	@touch $@

$(UNIT): $(BASE)
	@echo "make: installing what the unit tests need"
	@$(PIP) -e '.[unit]'
	@touch $@

$(READY): $(BASE)
	@echo "make: installing what the tests need; with TensorFlow that takes a minute"
	@$(PIP) -e '.[dev]'
	@touch $(UNIT) $@

# program:package, for what the tests call. Elsewhere than on Debian and Ubuntu, and without root, the tests that need
# an absent program are skipped.
NEEDED := dockerd:docker.io docker:docker-cli iptables:iptables ip:iproute2 debootstrap:debootstrap \
    /usr/sbin/sshd:openssh-server ssh:openssh-client rsync:rsync tmux:tmux git:git mkfs.ext4:e2fsprogs pkill:procps \
    fusermount3:fuse3 /usr/lib/systemd/systemd:systemd shutdown:systemd-sysv sudo:sudo chromium:chromium npm:npm zsh:zsh fish:fish slurmctld:slurm-wlm \
    /usr/libexec/docker/cli-plugins/docker-buildx:docker-buildx
APT := DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300

system:
	@if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then exit 0; fi; \
	packages=; \
	for each in $(NEEDED); do \
	    if ! command -v "$${each%%:*}" >/dev/null; then packages="$$packages $${each#*:}"; fi; \
	done; \
	if ! /usr/bin/python3 -c 'import ensurepip' 2>/dev/null; then packages="$$packages python3-venv"; fi; \
	if [ -z "$$packages" ]; then exit 0; fi; \
	echo "make: installing$$packages"; \
	$(APT) update; \
	known=; \
	for each in $$packages; do \
	    if apt-cache show "$$each" >/dev/null 2>&1; then known="$$known $$each"; fi; \
	done; \
	$(APT) install -y --no-install-recommends $$known </dev/null >/dev/null
