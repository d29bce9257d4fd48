# Everything a person or CI does with this checkout. `make help` lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo
IMAGE ?= localhost/fruitpipe:dev
TESTS := not slow and not cluster
NAMESPACES ?= spark-jobs
ROUNDS ?= 200
ACTIONLINT := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

# Where it is set, each of the hundreds of processes of the tests would compile TensorFlow, Spark and us anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-all slow lint unit e2e kind-up kind-demo kind-down s3 chaos image wheel lock audit clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(VENV)/ready ## Make the virtual environment and install Java where it is missing

$(VENV)/ready: pyproject.toml scripts/setup fruitpipe/vision/compile.py fruitpipe/vision/resample.c
	@scripts/setup $(PYTHON) $(VENV)
	@touch $@

demo: setup ## Draw a few hundred small fruits and run the main job on them
	@echo "demo: drawing fruits, then the main job on them; the first time it converts the network: half a minute in all"
	@$(BIN)/python examples/draw_fruits.py $(DEMO)/images
	$(BIN)/fruitpipe run $(DEMO)/images $(DEMO)/out --backbone efficientnet_lite0
	@echo "look at: $$(ls -d $(DEMO)/out/runs/*/report.html | tail -n 1)"

test: lint unit ## Check style and types, run the tests in minutes

test-all: TESTS := not cluster
test-all: lint unit ## The same with the slow tests: large networks, emulators, the image

slow: TESTS := slow and not cluster
slow: unit ## The slow tests alone

lint: setup ## ruff, mypy, import-linter, shellcheck, hadolint, zizmor, actionlint, helm lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/shellcheck scripts/* docker/entrypoint docker/*.sh .ci/run k8s/kind/needs k8s/kind/create k8s/kind/prepare k8s/kind/demo
	@$(BIN)/hadolint docker/Dockerfile examples/Dockerfile
	@$(BIN)/zizmor --offline --no-progress --quiet --persona pedantic .github/workflows
	@if command -v go >/dev/null; then PATH="$(abspath $(BIN)):$$PATH" go run $(ACTIONLINT); \
		else echo "lint: without Go, actionlint does not look at the workflows"; [ "$$CI" != true ]; fi
	@PATH="$(abspath $(BIN)):$$PATH"; for values in kind eks; do \
		helm lint --quiet --strict --values helm/fruitpipe/values-$$values.yaml helm/fruitpipe || exit; done

unit: setup ## Run the tests, two files at once
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "$(TESTS)"

e2e: setup ## Run the tests on the cluster that kubectl reaches, in NAMESPACES side by side; IMAGE is its name there
	@HELM=$${HELM:-helm} FRUITPIPE_CLUSTER_IMAGE=$(IMAGE) FRUITPIPE_NAMESPACES="$(NAMESPACES)" \
		$(BIN)/python -m pytest -m cluster -n $(words $(NAMESPACES)) --dist loadfile --no-loadscope-reorder

# Not in the kubeconfig of whoever types it, whose current cluster may be another.
kind-up kind-demo kind-down: export KUBECONFIG := $(abspath $(DEMO))/kubeconfig

kind-up: ## Make a cluster on this machine by kind, with the operator, the image, and an S3 server with drawn images
	@k8s/kind/needs docker kind helm kubectl openssl
	@mkdir -p $(DEMO)
	@scripts/image $(IMAGE)
	@k8s/kind/create $(IMAGE)
	@k8s/kind/prepare $(IMAGE)
	@echo "the cluster is up: make kind-demo, or export KUBECONFIG=$$KUBECONFIG"

kind-demo: ## Run the main job on that cluster, show some vectors, and copy the report here
	@k8s/kind/demo $(IMAGE) $(DEMO)

kind-down: ## Remove that cluster and all that is in it
	@k8s/kind/needs kind
	@kind delete cluster --name fruitpipe

s3: setup ## Serve a real S3 bucket on this machine until Ctrl-C
	@$(BIN)/python tests/seaweed.py

chaos: setup ## Campaigns of crashes, lying stores, interleavings, long use and loss; IMAGES is a folder of photographs, ROUNDS 200
	@$(BIN)/python benchmarks/chaos.py all "$(IMAGES)" --rounds $(ROUNDS)

image: ## Build the container image; weights in KERAS_HOME go into it, and EXTRAS such as openvino,onnx
	@scripts/image $(IMAGE)

wheel: setup ## Build the wheel of the last commit into dist, the same to the bit wherever it is built
	@PATH="$(abspath $(BIN)):$$PATH" scripts/wheel dist

lock: setup ## Lock the image's requirements anew
	@scripts/lock

audit: setup ## Look for known vulnerabilities in the image's requirements; asks PyPI
	@$(BIN)/pip-audit --strict --disable-pip --progress-spinner off \
		$(patsubst %,--requirement %,$(wildcard docker/*.lock docker/extras/*.lock)) || \
		{ echo "error: what is locked is not known to be safe: lock fixed versions (make lock), or run again where PyPI" \
		"answers; some mirrors have no advisories" >&2; exit 1; }

clean: ## Remove what make has made
	rm -rf $(VENV) $(DEMO) dist fruitpipe/vision/resample-*.so
