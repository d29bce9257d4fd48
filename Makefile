# Everything a person or CI does with this checkout. `make help` lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: help setup demo test lint unit s3 clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(VENV)/ready ## Make the virtual environment and install Java where it is missing

$(VENV)/ready: pyproject.toml scripts/setup
	@scripts/setup $(PYTHON) $(VENV)
	@touch $@

demo: setup ## Draw a few hundred small fruits and run the main job on them
	@$(BIN)/python examples/draw_fruits.py $(DEMO)/images
	$(BIN)/fruitpipe run $(DEMO)/images $(DEMO)/out --set backbone=efficientnet_lite0
	@echo "look at: $$(ls -d $(DEMO)/out/runs/*/report.html | tail -n 1)"

test: setup lint unit ## Check style and types, run all tests

lint: setup ## ruff, mypy, shellcheck
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/shellcheck scripts/* .ci/run

unit: setup ## Run the tests
	@$(BIN)/python -m pytest

s3: setup ## Serve a real S3 bucket on this machine until Ctrl-C
	@$(BIN)/python tests/seaweed.py

clean: ## Remove what make has made
	rm -rf $(VENV) $(DEMO)
