# make demo   paint one poster with the small model that ships with the package
# make test   everything CI checks
# make setup  the environment both need, in .venv; does nothing when it is up to date
# make docs   the pages that are read off the code and the measurements
# make bench  measure, and write the results down
# make cluster        PostgreSQL, an S3 server, two gateways and workers on this machine
# make cluster-check  the same, with 100 requests of fal's client while parts of it are killed
# make nano   train the small model from nothing
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

DEMO_PROMPT ?= A poster with the headline 'OPEN DAY' and below it 'Saturday 10 am'
DEMO_FILE ?= out/demo.png
DEMO_OPTIONS ?= --size square --seed 8

.PHONY: setup demo test lint docs cluster cluster-check nano bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints/ci.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/ci.txt -e '.[dev]'
	@touch $@

demo: setup
	@mkdir -p $(dir $(DEMO_FILE))
	$(BIN)/glmimage generate "$(DEMO_PROMPT)" -o $(DEMO_FILE) $(DEMO_OPTIONS)

# three files at a time, in the order of tests/conftest.py; many of their tests wait for a service,
# and each that starts one has a port, a folder and a database of its own
test: lint
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 20 --durations-min 8

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup
	$(BIN)/python scripts/generate_docs.py

cluster: setup
	@$(BIN)/python scripts/cluster.py

cluster-check: setup
	@$(BIN)/python scripts/cluster_check.py

# hours on a CPU; each part goes on where it stopped
nano: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/ci.txt -e '.[dev,nano]'
	cd recipes/nano && for part in vae tokenizer prior decoder refine_vae pack evaluate; do ../../$(BIN)/python $$part.py || exit 1; done

bench: setup
	$(BIN)/python bench/infer.py
	$(BIN)/python scripts/generate_docs.py

clean:
	rm -rf $(VENV) build dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
