"""Equal failures have one fingerprint, different ones have not."""

from __future__ import annotations

import time
from datetime import datetime, timezone

import pytest

from dltobs._alerts.fingerprint import fingerprint_of, stable, telling_line
from dltobs._events import FailedJob, Failure, Package, Run, RunFinished, StepFinished

AT = datetime(2026, 11, 21, 12, 3, tzinfo=timezone.utc)
RUN = Run("shop", "0123456789abcdef0123456789abcdef")
TRACE = """Traceback (most recent call last):
  File "/app/load.py", line 12, in run
    raise Refused("no place")
shop.Refused: no place
"""

SAME = [
    (
        "Job for `orders.a1b2c3d4e5.0.jsonl` failed in load `1732231234.123456`",
        "Job for `orders.f00dfeed01.3.jsonl` failed in load `1733000000.5`",
    ),
    (
        "429 for https://shop.example/api?page=3&after=abc",
        "429 for https://shop.example/api?page=14&after=xyz",
    ),
    ("no row 6f0d1c2e-1111-4222-8333-abcdefabcdef", "no row 00000000-0000-0000-0000-000000000000"),
    ("expired at 2026-11-21T23:12:11.123Z", "expired at 2026-01-02 03:04:05+01:00"),
    ("expired Fri, 21 Nov 2026 10:00:01 GMT", "expired Sat, 02 May 2026 00:59:59 GMT"),
    ("since datetime.datetime(2026, 1, 2, 3, 4)", "since datetime.datetime(2025, 12, 31, 3, 4, 5, 6)"),
    ("<Session object at 0x7f12ab34>", "<Session object at 0x55aa0000>"),
    ("took 0.5s, limit 30", "took 1,234.75s, limit 7"),
    ("3 rows of 4.5 MB", "17 rows of 900 MB"),
    ("bad ids (1, 2, 3)", "bad ids (9)"),
    ("cannot load {'id': 'a', 'name': 'Ann'}", "cannot load {'id': 'b', 'name': 'Bob'}"),
    ("Could not convert string 'abc' to DOUBLE", "Could not convert string 'n/a' to DOUBLE"),
    (
        "invalid literal for int() with base 10: 'abc'",
        "invalid literal for int() with base 10: 'def'",
    ),
    ("/tmp/tmpabcdef/x/orders.parquet not found", "/tmp/tmpuvwxyz/y/orders.parquet not found"),
    ("connect to 10.0.0.1:5432 refused", "connect to 10.0.12.7:5433 refused"),
    (
        "Contract is violated. Offending data item: id: ann",
        "Contract is violated. Offending data item: id: bob",
    ),
    ("answered 503 after 0.4 s", "answered 503 after 12 s"),
    ("2 validation errors for Order\nprice", "3 validation errors for Order\nprice"),
    ("locked by PID 17\n  at line 3 of x", "locked by PID 4711\n  at line 4 of y"),
]

DIFFERENT = [
    ("no such order", "no such currency"),
    ("'customer'", "'price'"),
    ("no such column `price`", "no such column `name`"),
    ('relation "orders" does not exist', 'relation "items" does not exist'),
    ("404 for https://shop.example/orders", "404 for https://shop.example/items"),
    ("connection refused", "connection timed out"),
    (
        "1 validation error for Order\nprice\n  Input should",
        "1 validation error for Order\ncustomer\n  Input should",
    ),
    (
        "002003 (42S02): SQL compilation error:\nObject 'ORDERS' does not exist",
        "002003 (42S02): SQL compilation error:\nDatabase 'PROD' does not exist",
    ),
    ("(42S02) refused", "(42P01) refused"),
    ("API answered 401", "API answered 503"),
    ("failed with status code: 401", "failed with status code: 403"),
    ("ORA-00942: refused", "ORA-01017: refused"),
    ("[Errno 28] while writing", "[Errno 13] while writing"),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_what_changes_each_time_makes_no_difference(first, second):
    assert stable(first) == stable(second)


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_what_tells_failures_apart_stays(first, second):
    assert stable(first) != stable(second)


def test_of_a_stack_trace_the_line_below_the_last_frame_tells():
    trace = (
        "Traceback (most recent call last):\n"
        '  File "load.py", line 3, in run\n'
        "    insert()\n"
        "    ~~~~~~^^\n"
        "duckdb.ConversionException: no number\n"
        "\n"
        "LINE 1: SELECT\n"
        "        ^"
    )
    assert telling_line(trace) == "duckdb.ConversionException: no number"


@pytest.mark.parametrize("empty", ["", "\n \n"])
def test_an_empty_message_has_an_empty_one(empty):
    assert stable(empty) == ""


@pytest.mark.parametrize(
    "long", ["a" * 200_000, "a-" * 100_000, "#," * 100_000, "?a" * 100_000, "1." * 100_000]
)
def test_a_long_message_costs_little(long):
    started = time.perf_counter()
    assert len(stable(long)) <= 200
    assert time.perf_counter() - started < 0.5


def failed(message="no such order", step="load", **options):
    failure = Failure(step, "KeyError", message, options.pop("terminal", False), (), "", **options)
    ended = StepFinished(RUN, step, 0, AT, AT, failure=failure)
    return fingerprint_of(RunFinished(RUN, "failed", AT, AT, (ended,), ended))


def tolerated(*tables, file="aa00bb11cc"):
    jobs = tuple(FailedJob(f"{table}.{file}.0.csv", table, TRACE) for table in tables)
    ended = StepFinished(RUN, "load", 0, AT, AT, packages=(Package("1", "loaded", "shop", jobs),))
    return fingerprint_of(RunFinished(RUN, "ok_with_failed_jobs", AT, AT, (ended,)))


def test_a_failure_is_known_by_its_step_its_place_its_type_and_its_message():
    assert failed("order 12") == failed("order 13") == ["shop", "load", "", "KeyError", "order #"]
    others = [
        failed("item 12"),
        failed("order 12", "extract"),
        failed("order 12", "extract", resource="orders"),
        failed("order 12", "extract", resource="items"),
    ]
    assert len({tuple(one) for one in [failed("order 12"), *others]}) == 5


def test_the_table_of_a_load_counts_where_another_try_will_not_help():
    """One that may pass is a trouble of the destination, met by the table whose turn it was."""
    assert failed(table="orders") == failed(table="items")
    assert failed(table="orders", terminal=True) != failed(table="items", terminal=True)
    assert failed(step="normalize", table="orders") != failed(step="normalize", table="items")


def test_failed_jobs_are_known_by_their_tables_in_any_order():
    """dlt lists them as the file system does: by names with random parts."""
    assert tolerated("orders", "items") == tolerated("items", "orders", file="dd22ee33ff")
    assert tolerated("orders") != tolerated("items")
    assert tolerated("orders") != failed(TRACE, table="orders")


def test_without_a_failure_the_outcome_tells():
    lost, terminated = (
        fingerprint_of(RunFinished(RUN, outcome, AT, AT)) for outcome in ("lost", "terminated")
    )
    assert lost != terminated
