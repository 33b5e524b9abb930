"""The benchmark runs, and writes what it promises; no time is asserted here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "bench" / "run.py"
FIGURES = {
    "json_line",
    "json_line_against_bare",
    "redaction_of_line_10_secrets",
    "redaction_of_line_100_secrets",
    "redaction_of_line_1000_secrets",
    "redaction_of_stack_trace_10_secrets",
    "redaction_of_stack_trace_100_secrets",
    "redaction_of_stack_trace_1000_secrets",
    "redaction_of_line_is_flat",
    "redaction_of_stack_trace_is_flat",
    "start_up",
    "start_up_without_runtime",
    "replayed_load",
    "own_code_in_run",
    "run_with_everything_on",
    "run_with_dlts_json_and_sentry",
    "cost_of_ledger",
}


@pytest.mark.timeout(600)
def test_every_figure_is_measured_and_written_with_its_raw_numbers(tmp_path: Path) -> None:
    """`bench/run.py --quick` prints each figure and writes ratios, goals, versions and every round."""
    output = tmp_path / "results.json"
    run = subprocess.run(
        [sys.executable, str(RUN), "--quick", "--output", str(output)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr

    document = json.loads(output.read_text(encoding="utf-8"))
    assert document["versions"].keys() >= {
        "python",
        "dlt",
        "dltobs",
        "python-json-logger",
        "structlog",
        "orjson",
    }
    assert document["figures"].keys() >= FIGURES
    for name, figure in document["figures"].items():
        assert name in run.stdout
        assert {figure["subject"], figure["peer"]} | figure["beside"].keys() == figure["seconds"].keys()
        assert figure["goal"] is None or figure["goal"] > 0
        rounds = figure["ratio"]["rounds"]
        assert rounds > 0
        for ratio in (figure["ratio"], *figure["beside"].values()):
            numbers = (ratio["median"], ratio["min"], ratio["max"], *ratio["by_round"])
            assert all(math.isfinite(number) and number > 0 for number in numbers)
            assert len(ratio["by_round"]) == rounds
            assert ratio["min"] <= ratio["median"] <= ratio["max"]
        assert all(len(seconds) == rounds for seconds in figure["seconds"].values())


def test_the_measured_line_bears_trace_context(tmp_path: Path) -> None:
    """The samples in the file show what each formatter has written: ours is the complete contract."""
    output = tmp_path / "results.json"
    subprocess.run(
        [sys.executable, str(RUN), "--rounds", "1", "--only", "json_line", "--output", str(output)],
        capture_output=True,
        check=True,
    )

    (figure,) = json.loads(output.read_text(encoding="utf-8"))["figures"].values()
    line = json.loads(figure["details"]["samples"]["dltobs"])
    assert line.keys() >= {
        "timestamp",
        "message",
        "pipeline",
        "step",
        "transaction_id",
        "trace_id",
        "span_id",
    }
    assert json.loads(figure["details"]["samples"]["OrjsonFormatter, bare"]) == {"message": line["message"]}


def test_memory_is_measured_in_whole_processes(tmp_path: Path) -> None:
    """The figure takes minutes and is left to `--long`; here with a hundred jobs, of which each has a span."""
    code = "import json, memory; print(json.dumps(memory.memory_of(100, 1).as_json()))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=RUN.parent, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    figure = json.loads(run.stdout)
    assert all(size > 2**20 for sizes in figure["bytes"].values() for size in sizes)
    assert 0.5 < figure["ratio"]["median"] < 3
