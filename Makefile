# Every task of this project; CI calls the same.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: serve test check format lint types docs clean

serve: $(READY)  ## serve on 127.0.0.1:8000
	$(BIN)/rope-service serve

test: $(READY)  ## run the suite
	$(BIN)/python -m pytest -q

check: format-check lint types test  ## everything that CI checks

format: $(READY)  ## write the code as the formatter wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

format-check: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

docs: $(READY)  ## write the generated parts of the documentation
	$(BIN)/python -m docs.settings

# torch comes first, and pinned: any other way of asking for it may bring gigabytes of CUDA
$(READY): pyproject.toml constraints.txt clients/python/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]' --editable clients/python
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
