"""Exceptions, frames and the user's code in an event of Sentry's."""

from __future__ import annotations

import importlib.util
import linecache
import textwrap

import dlt
import pytest
from dlt.common.destination.exceptions import DestinationTerminalException
from dlt.pipeline.exceptions import PipelineStepFailed

import dltobs
from conftest import SECRET
from dltobs._events import ExceptionInfo, Failure, Frame
from dltobs._redaction.redactor import Redactor
from dltobs.sinks.sentry_exceptions import exceptions_of

SOURCE = '''
    """A user's module."""


    def fetch():
        first = 1
        password = "pl4nted-in-the-source"
        query = """
            -- token: pl4nted-in-a-text
        """
        if first:
            raise ValueError("no such order")
        fourth = 4
        fifth = 5
        return fourth, fifth
'''


@pytest.fixture
def module(tmp_path):
    """A module of the user's, in a file of its own."""
    path = tmp_path / "shop_source.py"
    path.write_text(textwrap.dedent(SOURCE))
    spec = importlib.util.spec_from_file_location("shop_source", path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def fail(one, data, **options):
    with pytest.raises(PipelineStepFailed):
        one.run(data, **options)
    dltobs.shutdown()


def frames_of(server):
    (event,) = server.events
    return event["exception"]["values"][-1]["stacktrace"]["frames"]


def test_frames_of_the_users_code_have_the_lines_around_them(sentry, pipeline, module):
    """Five before and five after, without the secrets that stand in them."""
    dltobs.configure(sentry_dsn=sentry.dsn)
    fail(pipeline(), dlt.resource(lambda: (yield module.fetch()), name="orders"))
    frame = frames_of(sentry)[-1]
    assert frame["function"] == "fetch"
    assert frame["filename"] == "shop_source.py"
    assert frame["pre_context"] == [
        '    password = "***"',
        '    query = """',
        "        -- token: ***",
        '    """',
        "    if first:",
    ]
    assert frame["context_line"] == '        raise ValueError("no such order")'
    assert frame["post_context"] == ["    fourth = 4", "    fifth = 5", "    return fourth, fifth"]
    assert b"pl4nted" not in sentry.raw


def test_frames_of_libraries_have_their_line_alone(sentry, pipeline, module):
    dltobs.configure(sentry_dsn=sentry.dsn)
    fail(pipeline(), dlt.resource(lambda: (yield module.fetch()), name="orders"))
    frames = [frame for frame in frames_of(sentry) if frame["module"].startswith("dlt.")]
    assert frames
    for frame in frames:
        assert frame["in_app"] is False
        assert frame["context_line"]
        assert "pre_context" not in frame
        assert "vars" not in frame


def test_the_stack_leads_from_the_step_to_the_line_that_raised(sentry, pipeline, module):
    """dlt's wrapper is no exception of its own in the event, but its frames are there."""
    dltobs.configure(sentry_dsn=sentry.dsn)
    fail(pipeline(), dlt.resource(lambda: (yield module.fetch()), name="orders"))
    (event,) = sentry.events
    (value,) = event["exception"]["values"]
    assert (value["type"], value["value"]) == ("ValueError", "no such order")
    functions = [frame["function"] for frame in frames_of(sentry)]
    assert functions.index("extract") < functions.index("_get_source_item") < functions.index("fetch")
    assert "no such order" in event["contexts"]["dlt"]["raised"]
    assert "step=extract" in event["contexts"]["dlt"]["raised"]


def test_the_exception_of_a_load_job_is_the_title(sentry, pipeline):
    """It was raised in a thread of dlt's; the exception in which dlt tells of it is no more than a wrapper."""

    @dlt.destination(batch_size=1)
    def refusing(items, table):
        raise DestinationTerminalException(f"no room: password={SECRET}")

    dltobs.configure(sentry_dsn=sentry.dsn)
    fail(pipeline(destination=refusing), [{"id": 1}], table_name="orders")
    (event,) = sentry.events
    (value,) = event["exception"]["values"]
    assert (value["type"], value["value"]) == ("DestinationTerminalException", "no room: password=***")


def test_a_file_that_was_edited_since_gives_no_context(tmp_path, module):
    """Lines of another version would mislead."""
    path = str(tmp_path / "shop_source.py")
    source = 'raise ValueError("no such order")'
    number = 1 + linecache.getlines(path).index(f"        {source}\n")
    described = _described(path, number, source)
    assert described["pre_context"][-1] == "    if first:"
    (tmp_path / "shop_source.py").write_text("\n" * 3 + textwrap.dedent(SOURCE))
    linecache.checkcache(path)
    described = _described(path, number, source)
    assert described["context_line"] == source
    assert "pre_context" not in described


def test_a_file_that_is_not_there_gives_no_context(tmp_path):
    described = _described(str(tmp_path / "missing.py"), 3, "raise")
    assert described["context_line"] == "raise"
    assert "pre_context" not in described


def test_a_secret_over_several_lines_takes_the_context_with_it(tmp_path):
    """What is left of the lines could not be told apart."""
    path = tmp_path / "key.py"
    path.write_text("KEY = '''first-half\nsecond-half'''\nraise ValueError\n")
    redactor = Redactor(["first-half\nsecond-half"])
    failure = _failure(Frame(str(path), 3, "<module>", "key", "raise ValueError", in_app=True))
    text = repr(exceptions_of(failure, redactor))
    assert "first-half" not in text
    assert "second-half" not in text
    assert "raise ValueError" in text


def _failure(frame):
    info = ExceptionInfo("ValueError", "no such order", (frame,))
    return Failure("extract", "ValueError", "no such order", terminal=False, chain=(info,), stacktrace="")


def _described(path, number, source):
    failure = _failure(Frame(path, number, "fetch", "shop_source", source, in_app=True))
    (value,) = exceptions_of(failure, Redactor())
    (frame,) = value["stacktrace"]["frames"]
    return frame
