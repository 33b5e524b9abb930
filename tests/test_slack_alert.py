"""What is said of a run, before it has a form."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from dltobs._events import (
    ExceptionInfo,
    FailedJob,
    Failure,
    Frame,
    Job,
    Package,
    Run,
    RunFinished,
    SchemaChange,
    StepFinished,
)
from dltobs.sinks.slack_alert import more_since, run_alert, schema_alert, trace_url

AT = datetime(2026, 11, 21, 12, 3, tzinfo=timezone.utc)
RUN = Run("shop", "0123456789abcdef0123456789abcdef")
TRACE = """Traceback (most recent call last):
  File "/app/load.py", line 3, in run
    self.run()
    ^^^^^^^^^^
  File "/app/load.py", line 12, in run
    raise Refused("no place")
shop.Refused: no place
  for orders
"""


def failure(message="no such order", **options):
    return Failure("load", "KeyError", message, options.pop("terminal", False), (), "", **options)


def step(name="load", depth=0, **options):
    return StepFinished(RUN, name, depth, AT, AT, **options)


def run(outcome="failed", seconds=0.0, **options):
    return RunFinished(RUN, outcome, AT, AT + timedelta(seconds=seconds), **options)


def fact(event, label):
    return dict(run_alert(event).facts).get(label)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0.00 s"), (2.984, "2.98 s"), (200, "3 min 20 s"), (3600, "1 h 0 min"), (100_000, "27 h 46 min")],
)
def test_durations_are_for_people(seconds, shown):
    assert fact(run(seconds=seconds), "Duration") == shown


def test_packages_are_named_by_what_became_of_them():
    failed = step(failure=failure(load_id="3", is_package_partially_loaded=True))
    aborted = step(packages=(Package("4", "aborted", "shop"), Package("5", "loaded", "shop")))
    event = run(
        steps=(aborted, failed),
        failed_step=failed,
        pending_packages=("1", "2", "3"),
        partly_loaded_packages=("3",),
        aborted_packages=("4",),
    )
    assert fact(event, "Packages") == "pending: 1, 2, 3; partly loaded: 3; aborted: 4"
    many = replace(event, pending_packages=tuple(map(str, range(9))))
    assert fact(many, "Packages").startswith("pending: 0, 1, 2, 3, 4, and 4 more; ")


def test_rows_are_those_of_the_last_step_that_knows():
    jobs = (
        Job("orders.1.0.csv", "orders", internal=False, state="completed", rows=1200),
        Job("orders.2.0.csv", "orders", internal=False, state="failed", rows=7),
        Job("_dlt_loads.1.0.csv", "_dlt_loads", internal=True, state="completed", rows=1),
    )
    extract, normalize = step("extract", rows=3), step("normalize", rows=4)
    load = step(load_jobs=jobs)
    assert fact(run(steps=(extract, normalize, load)), "Rows") == "1,200 loaded"
    assert fact(run(steps=(extract, normalize)), "Rows") == "4 normalized"
    assert fact(run(steps=(extract, step("normalize", failure=failure()))), "Rows") == "3 extracted"
    assert fact(run(steps=(step("extract", failure=failure()),)), "Rows") is None
    assert fact(run(steps=(extract, normalize, load)), "Jobs") == "2 completed, 1 failed"


def test_rows_that_nobody_knows_are_not_said_to_be_none():
    """Those of a package that an earlier run has normalized."""
    known = Job("orders.1.0.csv", "orders", internal=False, state="completed", rows=1200)
    unknown = replace(known, job_id="orders.2.0.csv", rows=None)
    assert fact(run("ok", steps=(step(load_jobs=(unknown,)),)), "Rows") is None
    assert fact(run("ok", steps=(step(load_jobs=(known, unknown)),)), "Rows") == "at least 1,200 loaded"
    assert fact(run("ok", steps=(step(load_jobs=(replace(known, rows=0),)),)), "Rows") == "0 loaded"


def test_a_job_is_named_once_with_the_end_of_its_stack_trace():
    """The outer step repeats it."""
    job = FailedJob("orders.1.0.csv", "orders", TRACE)
    inner, outer = step(failure=failure(job=job), depth=1), step("run", failure=failure(job=job))
    alert = run_alert(run(steps=(inner, outer), failed_step=inner))
    assert alert.details == ("orders (orders.1.0.csv): shop.Refused: no place\n  for orders",)
    assert dict(alert.facts)["Jobs"] == "1 failed"


def chained(*infos, resource="orders", table=None):
    *_, root = infos
    ended = Failure(
        "extract",
        root.type,
        root.message,
        terminal=False,
        chain=infos,
        stacktrace="",
        resource=resource,
        table=table,
    )
    one = step("extract", failure=ended)
    return run(steps=(one,), failed_step=one)


def test_the_place_of_a_failure_is_told():
    """The resource or table, and the line of the user's code."""
    library = Frame("/lib/requests/api.py", 3, "get", "requests.api", "", in_app=False)
    users = Frame("/app/shop.py", 12, "fetch", "shop", "", in_app=True)
    inner = ExceptionInfo("ValueError", "no", (users, library))
    assert fact(chained(inner), "Where") == "resource orders, fetch (shop.py:12)"
    named = replace(inner, frames=(replace(users, function="orders"),))
    assert fact(chained(named), "Where") == "resource orders (shop.py:12)"
    assert fact(chained(inner, table="orders"), "Where") == "resource orders, fetch (shop.py:12)"
    assert fact(
        chained(ExceptionInfo("dlt.X", "", (users,)), replace(inner, frames=(library,))), "Where"
    ) == ("resource orders, fetch (shop.py:12)")
    assert fact(chained(ExceptionInfo("ValueError", "no", ()), resource=None), "Where") is None
    earlier = replace(inner, frames=(replace(users, function="main"),))
    assert fact(chained(inner, earlier), "Where") == "resource orders, fetch (shop.py:12)"
    refused = step(failure=failure(table="orders"))
    assert fact(run(steps=(refused,), failed_step=refused), "Where") == "table orders"


def test_what_the_users_code_made_of_the_root_cause_is_told_with_it():
    """It knows what was being done; dlt's own wrapping exceptions do not."""
    wrapped = ExceptionInfo("dlt.pipeline.exceptions.PipelineStepFailed", "extract failed", ())
    raised = ExceptionInfo("shop.ShopError", "cannot fetch orders", ())
    root = ExceptionInfo("KeyError", "'id'", ())
    assert run_alert(chained(wrapped, raised, root)).cause == (
        "KeyError",
        "'id'\nraised as shop.ShopError: cannot fetch orders",
    )
    assert run_alert(chained(wrapped, root)).cause == ("KeyError", "'id'")
    long = run_alert(chained(raised, replace(root, message="x" * 10_000))).cause[1]
    assert len(long) < 3000
    assert long.endswith("raised as shop.ShopError: cannot fetch orders")


def test_a_job_that_failed_of_the_root_cause_does_not_repeat_it():
    """The others tell theirs."""
    jobs = (FailedJob("orders.1.0.csv", "orders", TRACE), FailedJob("items.1.0.csv", "items", "full"))
    ended = step(
        failure=failure("no place\n  for orders", job=jobs[0]), packages=(Package("1", "new", "s", jobs),)
    )
    assert run_alert(run(steps=(ended,), failed_step=ended)).details == (
        "orders (orders.1.0.csv): as above",
        "items (items.1.0.csv): full",
    )
    short = step(failure=failure("l", job=jobs[1]))
    assert run_alert(run(steps=(short,), failed_step=short)).details == ("items (items.1.0.csv): full",)
    silent = step(failure=failure("", job=jobs[1]))
    assert run_alert(run(steps=(silent,), failed_step=silent)).details == ("items (items.1.0.csv): full",)


def test_a_job_that_ended_the_step_is_counted_once():
    """dlt has queued it again, so its state is `retry`."""
    job = FailedJob("orders.1.0.csv", "orders", TRACE)
    queued = Job("orders.1.0.csv", "orders", internal=False, state="retry")
    ended = step(failure=failure(job=job), load_jobs=(queued,))
    assert fact(run(steps=(ended,), failed_step=ended), "Jobs") == "1 failed"


def test_a_schema_is_named_where_it_has_not_the_name_of_its_pipeline():
    def title(*schemas):
        changes = tuple(SchemaChange("new_column", "1", name, "orders", "color", "text") for name in schemas)
        return schema_alert(step(schema_changes=changes)).title

    assert title("shop") == "🔵 shop: 1 new column"
    assert title("github") == "🔵 shop: github: 1 new column"
    assert title("shop", "github") == "🔵 shop: github, shop: 2 new columns"


def test_a_link_is_made_only_where_it_leads_somewhere():
    """Without tracing the trace id is dlt's own, which no back end knows."""
    traced = step(trace_id="a" * 32, span_id="b" * 16)
    untraced = step(trace_id=RUN.transaction_id)
    template = "https://j/{trace_id}/{span_id}"
    assert trace_url(template, run("ok", steps=(traced,))) == f"https://j/{'a' * 32}/{'b' * 16}"
    assert trace_url(template, traced) == f"https://j/{'a' * 32}/{'b' * 16}"
    assert trace_url(template, run("ok", steps=(untraced,))) is None
    assert trace_url(template, run("lost")) is None
    assert trace_url(None, traced) is None
    odd = replace(untraced, run=replace(RUN, pipeline="a/b c&d"))
    assert trace_url("https://j/{pipeline}?t={transaction_id}", odd) == (
        f"https://j/a%2Fb%20c%26d?t={RUN.transaction_id}"
    )


def test_the_failed_step_is_what_the_link_leads_to():
    inner = step(depth=1, failure=failure(), trace_id="a" * 32, span_id="1" * 16)
    outer = step("run", failure=failure(), trace_id="a" * 32, span_id="2" * 16)
    event = run(steps=(inner, outer), failed_step=inner)
    assert trace_url("https://j/{span_id}", event) == f"https://j/{'1' * 16}"


def test_those_in_between_are_told_with_the_time_of_the_last_message():
    """With the day where it is another one."""
    since = AT.timestamp()
    assert more_since(4, since, AT + timedelta(hours=2)) == "This failure again, and 4 more since 12:03 UTC"
    assert more_since(1, since, AT + timedelta(days=1)) == (
        "This failure again, and 1 more since 2026-11-21 12:03 UTC"
    )
    assert more_since(0, since, AT) == ""
    assert more_since(3, None, AT) == ""
