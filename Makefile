# Needs Python (3.10 or newer) and make. Everything else is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
OLDEST_DLT = 1.23.0
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed

.PHONY: demo test test-oldest lint bench wheel clean

demo: $(STAMP)  ## run a real pipeline under dltobs and show what one sees
	$(BIN)/python examples/quickstart.py

test: $(STAMP)  ## run the tests
	$(BIN)/python -m pytest --cov --cov-report=term --cov-fail-under=90

test-oldest: $(STAMP)  ## what touches dlt's insides, with the oldest dlt that is supported
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-oldest/bin/python -m pip install --quiet --editable ".[grpc]" --group test "dlt[duckdb]==$(OLDEST_DLT)"
	.venv-oldest/bin/python -m pytest --quiet tests/test_runs.py tests/test_secrets.py tests/test_settings.py \
		tests/test_logs_attach.py tests/test_spans.py tests/test_sentry.py tests/test_quiet.py

lint: $(STAMP)  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## ratios against peers, measured side by side; writes bench/results.json
	$(BIN)/python bench/run.py

wheel: $(STAMP)  ## build the wheel and try it in a clean environment
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist
	$(PYTHON) -m venv --clear .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet dist/*.whl "dlt[duckdb]"
	cd $$(mktemp -d) && "$(CURDIR)/.venv-wheel/bin/python" -I "$(CURDIR)/tests/try_wheel.py"

$(STAMP): pyproject.toml src/dltobs/_version.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[grpc]" --group dev
	touch $@

clean:
	rm -rf $(VENV) .venv-oldest .venv-wheel dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .import_linter_cache
