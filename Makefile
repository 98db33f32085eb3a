# `make help` lists the targets. Everything is installed into .venv; nothing else is touched.

VENV ?= .venv
BIN := $(VENV)/bin
DEMO := examples/handbook/handbook.json
QUESTION ?= How do I read a CSV file?
PYTEST_ARGS ?=
BUILT_FROM := pyproject.toml hatch_build.py .ci/install nvisy_connectors/object/formats/jsonl_rows.c nvisy_connectors/object/formats/jsonl_columns.h nvisy_connectors/object/formats/jsonl_lexing.h nvisy_connectors/object/formats/jsonl_rescue.h

.DEFAULT_GOAL := help
.PHONY: help demo install test lint style imports types docs docs-check soak bench check clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

# Stamps inside the environment: removing it removes them.
$(VENV)/.installed-demo: $(BUILT_FROM)
	@.ci/install $(VENV) object,tabular,ai,vector,ui
	@touch $@

$(VENV)/.installed-dev: $(BUILT_FROM)
	@.ci/install $(VENV) dev
	@touch $(VENV)/.installed-demo $@

install: $(VENV)/.installed-dev ## everything that developing needs

demo: $(VENV)/.installed-demo ## index Python's documentation and ask it a question
	$(BIN)/nvisy run $(DEMO)
	$(BIN)/nvisy search $(DEMO) "$(QUESTION)"
	@echo "See the run in Dagster: $(BIN)/nvisy dev $(dir $(DEMO))   then open http://127.0.0.1:3000"
	@echo 'Ask something else:     make demo QUESTION="How do I compress a file?"'

test: $(VENV)/.installed-dev ## the tests, without the storms
	$(BIN)/pytest -m "not soak" -n 4 --dist worksteal -q $(PYTEST_ARGS)

lint: style imports types ## style, format, direction of imports, types

style: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

imports: $(VENV)/.installed-dev
	$(BIN)/lint-imports

types: $(VENV)/.installed-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.installed-dev ## generate docs/reference
	$(BIN)/nvisy docs

docs-check: $(VENV)/.installed-dev ## fail when docs/reference is stale
	$(BIN)/nvisy docs --check

soak: $(VENV)/.installed-dev ## the long storms and soaks
	$(BIN)/pytest -m soak --timeout 0 $(PYTEST_ARGS)

bench: $(VENV)/.installed-dev ## the benchmarks
	$(BIN)/python benchmarks/run.py

check: lint docs-check test ## what continuous integration runs

clean: ## remove the environment, caches and the state of runs
	rm -rf $(VENV) .make .nvisy .dagster dist build .pytest_cache .ruff_cache .hypothesis \
	  .import_linter_cache benchmarks/work examples/*/.nvisy examples/*/out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
