"""The Markdown of a run, and what there is where Prefect is not."""

from __future__ import annotations

import importlib.util
import re
from datetime import datetime, timedelta, timezone

import pytest

import dltobs
from dltobs._events import FailedJob, Failure, Job, Package, Run, RunFinished, StepFinished
from dltobs.integrations.prefect.context import current_labels, current_prefect_run
from dltobs.integrations.prefect.report import key_of, report
from scripts import run_script

AT = datetime(2026, 11, 22, tzinfo=timezone.utc)
RUN = Run("shop", "ab" * 16, "duckdb", "dlt.destinations.duckdb", "shop_data")


def finished(*steps, outcome="ok"):
    failed = next((step for step in steps if step.failure is not None), None)
    return RunFinished(RUN, outcome, AT, AT + timedelta(seconds=2), steps, failed)


def load(*jobs, **options):
    return StepFinished(RUN, "load", 1, AT, AT + timedelta(seconds=1), load_jobs=jobs, **options)


def job(table, rows, state="completed"):
    return Job(f"{table}.1", table, internal=False, state=state, rows=rows, bytes=rows * 10)


def test_the_jobs_of_a_table_are_summed_up_the_largest_first():
    text = report(
        finished(load(job("small", 1), job("large", 1000), job("large", 500), job("bad", 7, "failed")))
    )
    assert text.startswith("# shop: ok\n")
    assert text.index("| large | 1,500 | 15,000 |") < text.index("| small | 1 | 10 |")
    assert "bad" not in text


def test_rows_that_are_not_known_are_not_told():
    """Of a job whose file an earlier run has written."""
    unknown = Job("small.2", "small", internal=False, state="completed", bytes=5)
    text = report(finished(load(job("small", 1), unknown, job("large", 7))))
    assert text.index("| large | 7 | 70 |") < text.index("| small |  | 15 |")
    assert "| Rows |" not in text
    assert "| Bytes | 85 |" in text


def test_nothing_in_a_name_or_message_is_markup():
    """A pipe does not end a cell, a bracket makes no link, a line of code stays in its block."""
    failure = Failure("load", "ValueError", "<b>bold</b>\n# heading", terminal=True, chain=(), stacktrace="")
    text = report(finished(load(job("a|b [x](http://y)", 1)), load(failure=failure), outcome="failed"))
    assert r"| a\|b \[x\](http://y) | 1 |" in text
    assert "\n    <b>bold</b>\n    # heading" in text
    assert "\n# heading" not in text


def test_the_size_is_bounded():
    long = "x" * 100_000
    jobs = [job(f"table_{number}_{long}", number) for number in range(500)]
    package = Package("1.1", "loaded", "shop", tuple(FailedJob(f"{n}", long, long) for n in range(100)))
    failure = Failure("load", "ValueError", long, terminal=True, chain=(), stacktrace="")
    text = report(finished(load(*jobs, packages=(package,)), load(failure=failure), outcome="failed"))
    assert len(text) < 60_000
    assert "and 400 more" in text
    assert "and 80 more" in text


@pytest.mark.parametrize("name", ["shop", "My Shop_2", "--", "läden", "x" * 500])
def test_a_key_has_what_prefect_takes(name):
    assert re.fullmatch(r"[a-z0-9-]{1,255}", key_of(name))


def test_outside_of_prefect_there_are_no_names():
    assert current_prefect_run() is None
    assert current_labels() == {}


@pytest.mark.skipif(importlib.util.find_spec("prefect") is not None, reason="Prefect is installed here")
def test_asking_for_prefect_where_it_is_not_installed_names_the_extra():
    with pytest.raises(dltobs.ConfigurationError, match=re.escape("pip install 'dltobs[prefect]'")) as raised:
        dltobs.configure(prefect="on")
    assert raised.value.setting == "prefect"


def test_a_process_that_does_not_use_prefect_does_not_import_it(tmp_path):
    """Installed or not."""
    source = """
        import dltobs
        dltobs.configure()
        pipeline().run([{"id": 1}], table_name="orders")
        dltobs.shutdown()
        print([name for name in sys.modules if name.split(".")[0] == "prefect"], sys.meta_path[0])
    """
    done = run_script(source, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[] ")
    assert "Arrival" not in done.stdout
