# Needs Python (3.10 or newer) and make. Everything else is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
OLDEST_DLT = 1.23.0
# test processes: one more than there are cores, as they wait much of the time
JOBS ?= $(shell $(PYTHON) -c "import os; print((os.cpu_count() or 1) + 1)")
BIN = $(VENV)/bin
PYRIGHT = {"typeCheckingMode": "strict", "enableTypeIgnoreComments": true, "reportUnnecessaryTypeIgnoreComment": true}
STAMP = $(VENV)/.installed
BUGSINK = .venv-bugsink
PREFECT = .venv-prefect
OLDEST = .venv-oldest

.PHONY: install demo test coverage bugsink torture prefect test-prefect test-oldest test-lowest platforms lint bench wheel clean

install: $(STAMP) $(BUGSINK)/.installed $(PREFECT)/.installed $(OLDEST)/.installed  ## all environments at once: with --jobs

demo: $(STAMP)  ## run a real pipeline under dltobs and show what one sees
	$(BIN)/python examples/quickstart.py

test: $(STAMP)  ## run the tests
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

coverage: $(STAMP)  ## the same, with the lines and branches that they reach; twice the time
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal --cov --cov-report=term --cov-fail-under=90

bugsink: $(BUGSINK)/.installed  ## a server that takes what Sentry takes: with it, the tests use a real one

torture: $(STAMP)  ## kill 500 runs at random moments; each must be gone in time and accounted for once
	$(BIN)/python tests/torture.py --runs 500

prefect: $(PREFECT)/.installed  ## this project beside Prefect, which brings many packages of its own

test-prefect: prefect  ## the tests with a real Prefect server
	$(PREFECT)/bin/python -m pytest --quiet tests/test_prefect*.py

test-oldest: $(OLDEST)/.installed  ## what touches dlt's insides, with the oldest dlt that is supported
	$(OLDEST)/bin/python -m pytest --quiet --numprocesses $(JOBS) --dist worksteal -m "not long" \
		tests/test_runs.py tests/test_secrets.py tests/test_settings.py \
		tests/test_logs_attach.py tests/test_spans.py tests/test_sentry.py tests/test_quiet.py \
		tests/test_outcome.py tests/test_schema_changes.py tests/test_aside.py tests/test_ledger.py tests/test_save.py \
		tests/test_retries.py tests/test_lost_runs.py tests/test_ledger_neighbours.py tests/test_odd_failures.py

test-lowest: $(STAMP)  ## a subset with the lowest direct versions, on the oldest and the newest Python that are there
	$(BIN)/python tests/lowest_versions.py

platforms: $(STAMP)  ## dltobs has wheels for all it needs wherever dlt has
	$(BIN)/python tests/try_platforms.py

lint: $(STAMP)  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## ratios against peers, measured side by side; writes bench/results.json
	$(BIN)/python bench/run.py

wheel: $(STAMP)  ## build the wheel, try it in a clean environment, and check its types as a consumer sees them
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist
	$(PYTHON) -m venv --clear .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet dist/*.whl "dlt[duckdb]"
	cd $$(mktemp -d) && "$(CURDIR)/.venv-wheel/bin/python" -I "$(CURDIR)/tests/try_wheel.py"
	cd $$(mktemp -d) && cp "$(CURDIR)/tests/consumer.py" . && echo '$(PYRIGHT)' >pyrightconfig.json && \
		"$(CURDIR)/$(BIN)/mypy" --strict --python-executable "$(CURDIR)/.venv-wheel/bin/python" consumer.py && \
		"$(CURDIR)/$(BIN)/basedpyright" --pythonpath "$(CURDIR)/.venv-wheel/bin/python" consumer.py

$(STAMP): pyproject.toml src/dltobs/_version.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[grpc]" --group dev
	touch $@

$(BUGSINK)/.installed: Makefile
	$(PYTHON) -m venv $(BUGSINK)
	$(BUGSINK)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BUGSINK)/bin/python -m pip install --quiet "bugsink>=2.6,<3"
	touch $@

# the servers of Prefect 3.8 use an argument that newer versions of FastAPI have no more
$(PREFECT)/.installed: pyproject.toml Makefile
	$(PYTHON) -m venv $(PREFECT)
	$(PREFECT)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(PREFECT)/bin/python -m pip install --quiet --editable ".[prefect]" "dlt[duckdb]" "fastapi<0.150" \
		"pytest>=8" "pytest-timeout>=2.3"
	touch $@

$(OLDEST)/.installed: pyproject.toml Makefile
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(OLDEST)/bin/python -m pip install --quiet --editable ".[grpc]" --group test "dlt[duckdb]==$(OLDEST_DLT)"
	touch $@

clean:
	rm -rf $(VENV) $(BUGSINK) $(PREFECT) $(OLDEST) .venv-wheel .venv-lowest-* dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .import_linter_cache
