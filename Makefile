# Tacit. `make` prints the targets.
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { command -v $$p; break; }; done)
VENV := .venv
RUN := $(VENV)/bin/python
# Of two makes that build the environment at once one waits, and then finds it built (where there is flock: Linux).
LOCKED := $(shell command -v flock >/dev/null 2>&1 && echo flock $(VENV).lock)
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
# Everything runs from the committed weights: no hub is asked, and warnings meant for us stay out of notebooks.
export TOKENIZERS_PARALLELISM := false
export TRANSFORMERS_VERBOSITY := error
# Let glibc keep the memory of a training step for the next one: about 15% less time for small models (LOG.md).
export MALLOC_MMAP_THRESHOLD_ := 33554432
export MALLOC_TRIM_THRESHOLD_ := 1000000000
# and use huge pages for it, where Linux offers them on request: 3 to 12% less.
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1

# Where Python is told to write no bytecode, every process compiles the library anew: three seconds each.
unexport PYTHONDONTWRITEBYTECODE

# Variables of one command are set by `env`, not by a shell: make starts it directly, and SIGTERM to make reaches it.
.PHONY: help findings evidence test test-fast verify pretrain posttrain readiness lab bench gpu table site format lint clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

findings: $(VENV)/stamp ## execute every notebook at the micro scale and print the table of findings
	env HF_HUB_OFFLINE=1 $(RUN) -m tacit run --profile micro --jobs $(JOBS)

evidence: $(VENV)/stamp ## the same at the sizes that decide: hours on 2 cores; what was tuned is kept when killed
	env HF_HUB_OFFLINE=1 $(RUN) -m tacit run --profile full --jobs $(JOBS)

test-fast: $(VENV)/stamp ## run the unit tests (at most two minutes on 2 cores)
	env HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal tests/unit

test: $(VENV)/stamp ## run all tests but those of speed
	env HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal

verify: $(VENV)/stamp ## check the committed outputs against the commits that they name
	$(RUN) -m tacit verify --profile micro
	$(RUN) -m tacit verify --profile full
	$(RUN) -m tacit verify --profile smollm2-135m

pretrain: $(VENV)/stamp ## pretrain the micro models anew (up to 90 minutes each on 2 cores; resumes when killed)
	env HF_HUB_OFFLINE=1 $(RUN) -m tacit pretrain

posttrain: $(VENV)/stamp ## post-train the micro teacher anew from micro-base (about five minutes on 2 cores)
	env HF_HUB_OFFLINE=1 $(RUN) -m tacit posttrain

readiness: $(VENV)/stamp ## pretrain finding 6's base models and measure each into outputs/readiness (18 of them: about six hours on 2 cores; resumes when killed)
	env HF_HUB_OFFLINE=1 $(RUN) -m tacit readiness

lab: $(VENV)/stamp ## open the notebooks in JupyterLab (LAB="--no-browser --port 8890": its own options)
	$(VENV)/bin/jupyter lab notebooks $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

bench: $(VENV)/stamp ## measure speed ratios into outputs/bench (about five minutes on 2 idle cores)
	env HF_HUB_OFFLINE=1 $(RUN) tests/speed/bench.py

gpu: $(VENV)/stamp ## test and measure on the CUDA device that is here into outputs/bench/gpu-<device>.json (GPU=--dry-run: any machine)
	env HF_HUB_OFFLINE=1 $(RUN) tests/speed/gpubench.py --part tests $(GPU)
	env HF_HUB_OFFLINE=1 $(RUN) tests/speed/gpubench.py --part decoding --pair llama3.1-8b $(GPU)
	env HF_HUB_OFFLINE=1 $(RUN) tests/speed/gpubench.py --part decoding --pair llama2-7b $(GPU)
	env HF_HUB_OFFLINE=1 $(RUN) tests/speed/gpubench.py --part training $(GPU)

table: $(VENV)/stamp ## write the tables of findings and of speed into README.md and docs/speed.md from outputs/
	$(RUN) -m tacit table --profile full --write README.md
	$(RUN) -m tacit table --profile smollm2-135m --write README.md
	$(RUN) tests/speed/tables.py --write docs/speed.md

site: $(VENV)/stamp ## render the notebooks, cards, parameters, speed and API into site/, executing nothing (opens from disk)
	env HF_HUB_OFFLINE=1 $(RUN) -m tacit site --profile full

format: $(VENV)/stamp ## format code and notebooks
	$(VENV)/bin/ruff check --fix lib tests notebooks
	$(VENV)/bin/ruff format lib tests notebooks

lint: $(VENV)/stamp ## check code, notebooks, types and spelling, changing nothing
	$(VENV)/bin/ruff check lib tests notebooks
	$(VENV)/bin/ruff format --check lib tests notebooks
	$(VENV)/bin/mypy
	$(VENV)/bin/codespell

clean: ## empty the cache of trained models and generations (checkpoints of a pretraining stay); not during a run
	rm -rf .cache/entries .cache/failed .cache/locks outputs/*/.staging-* outputs/*/*/.staging-* outputs/.*.lock outputs/*/.*.lock

$(VENV)/stamp: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Tacit needs Python 3.11 or newer; none was found (set PYTHON=...)"; exit 1; }
	@echo "Building $(VENV) with $(PYTHON): it is missing, or requirements.lock or pyproject.toml changed."
	@$(LOCKED) sh -ec 'if [ $@ -nt requirements.lock ] && [ $@ -nt pyproject.toml ]; then exit; fi; \
		$(PYTHON) -m venv $(VENV); \
		$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.lock; \
		$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; \
		touch $@'
