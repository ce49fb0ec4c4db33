# Langwright: `make demo` shows it, `make test` proves it. Both set themselves up; only Python and make are needed.
# Plain enough for the make of macOS (3.81).

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ROOM := objectives sampling files training
MINUTES := 10

.DEFAULT_GOAL := help
.PHONY: help demo test slow bench bench-training mutants docs format clean

help: ## what can be made
	@echo "make demo      raw text to a model that writes, with a report (about 10 minutes on two cores)"
	@echo "make test      style, types, the import contract and every test"
	@echo "make slow      the tests that take minutes of real processes"
	@echo "make bench     the benchmarks, one after the other"
	@echo "make bench-training  training speed beside transformers and litgpt (half an hour or more)"
	@echo "make mutants   break the code on purpose and list what no test notices (ROOM='objectives sampling', MINUTES=10)"
	@echo "make docs      run the long commands of the documentation too"
	@echo "make format    mend style and layout"
	@echo "make clean     remove the virtual environment and caches"
	@echo
	@echo "PYTHON=... chooses the interpreter for the virtual environment (3.11 or newer)."

demo: $(READY)
	$(BIN)/langwright demo

test: $(READY)
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

slow: $(READY)
	$(BIN)/python -m pytest -q -m slow

bench: $(READY)
	@for file in benchmarks/[a-z]*.py; do \
	    echo "== $$file"; $(BIN)/python "$$file" || exit 1; \
	done

bench-training: $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --requirement benchmarks/peers.txt
	$(BIN)/python benchmarks/training_speed.py

mutants: $(READY)
	$(BIN)/python tools/mutants.py --minutes $(MINUTES) $(ROOM)

docs: $(READY)
	LANGWRIGHT_DOCS=long $(BIN)/python -m pytest -q --timeout=0 tests/test_docs.py

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) .mutants .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

# The virtual environment: made once, filled again only when the dependencies change.
$(READY): pyproject.toml constraints.txt tools/install.sh
	@sh tools/install.sh $(VENV) "$(PYTHON)"
	@touch $@
