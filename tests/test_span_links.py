"""Links from a run to the earlier traces that made its packages."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import dlt
import pytest
from dlt.common.destination.exceptions import DestinationTerminalException
from dlt.pipeline.exceptions import PipelineStepFailed
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import dltobs
from dltobs._redaction.redactor import Redactor
from dltobs._runs.span_links import FILE_NAME, SpanLinks
from dltobs._warnings import Warner
from scripts import run_script
from servers import attributes_of


class Door:
    """A destination that is closed until somebody opens it."""

    def __init__(self):
        self.is_open = False

    def destination(self):
        @dlt.destination(batch_size=10, name="door")
        def door(items, table):
            if not self.is_open:
                raise DestinationTerminalException("closed")

        return door


@pytest.fixture
def collected(otlp):
    dltobs.configure(otlp_endpoint=otlp.url, console="off")
    return otlp


@pytest.fixture
def warnings(caplog):
    return lambda: [record.getMessage() for record in caplog.records if record.name == "dltobs"]


def linked(span):
    """Trace and span ids that a span links to."""
    return [(link.trace_id, link.span_id) for link in span.links]


def ids(*spans):
    return [(span.trace_id, span.span_id) for span in spans]


def file_of(one):
    return Path(one.working_dir) / FILE_NAME


def test_steps_called_one_by_one_link_to_those_before(collected, pipeline):
    one = pipeline()
    one.extract([{"id": 1}], table_name="orders")
    assert stat.S_IMODE(file_of(one).stat().st_mode) == 0o600
    one.normalize()
    one.load()
    assert not file_of(one).exists()
    dltobs.shutdown()

    extract, normalize, load = (collected.named(f"{step} shop") for step in ("extract", "normalize", "load"))
    assert linked(extract) == []
    assert linked(normalize) == ids(extract)
    assert linked(load) == ids(extract, normalize)
    (load_id,) = {attributes_of(link)["dlt.load_id"] for link in load.links}
    assert load_id == attributes_of(load)["dlt.load_id"]


def test_a_run_that_succeeds_at_once_has_no_links(collected, pipeline):
    one = pipeline()
    one.run([{"id": 1}], table_name="orders")
    assert not file_of(one).exists()
    dltobs.shutdown()
    assert not any(span.links for span in collected.spans)


def test_a_run_of_pending_packages_links_to_the_run_that_made_them(collected, pipeline):
    """To the last span of each earlier trace; a load that failed again has made nothing."""
    door = Door()
    one = pipeline(destination=door.destination())
    for data in ([{"id": 1}], None):
        with pytest.raises(PipelineStepFailed):
            one.run(data, table_name="orders")
    door.is_open = True
    one.run()
    assert not file_of(one).exists()
    dltobs.shutdown()

    (made,) = [span for span in collected.spans if span.name == "normalize"]
    first, second, third = [span for span in collected.spans if span.name == "load"]
    assert linked(first) == []
    assert linked(second) == linked(third) == ids(made)
    roots = [span for span in collected.spans if span.name == "run shop"]
    assert len({root.trace_id for root in roots}) == 3


def test_another_process_links_too(tmp_path, otlp):
    """The file is all that they share."""
    for step in ("extract([{'id': 1}], table_name='orders')", "normalize()", "load()"):
        run = run_script(
            f"""
            import dltobs
            dltobs.configure(console="off", metrics="off")
            pipeline().{step}
            """,
            tmp_path,
            OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url,
        )
        assert run.returncode == 0, run.stderr
    assert linked(otlp.named("load shop")) == ids(otlp.named("extract shop"), otlp.named("normalize shop"))


def test_within_one_trace_there_are_no_links(pipeline, collected):
    """Steps below a span of the user's are connected already."""
    one = pipeline("warm")
    one.run([{"id": 1}], table_name="orders")
    one = pipeline()
    with trace.get_tracer("user").start_as_current_span("job"):
        one.extract([{"id": 1}], table_name="orders")
        one.normalize()
        one.load()
    dltobs.shutdown()
    assert not any(span.links for span in collected.spans)
    assert not file_of(one).exists()


def test_without_tracing_nothing_is_kept(pipeline):
    dltobs.configure()
    one = pipeline()
    one.extract([{"id": 1}], table_name="orders")
    assert not file_of(one).exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"1.5": [["',
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b'{"1.5": 1, "2.5": [1], "3.5": [["x", "y", true]], "4.5": [[1, 2, 3]], "5.5": []}',
        json.dumps({"1.5": [["0" * 32, "a" * 16, True]]}).encode(),
        json.dumps({"1.5": [["a" * 32, "b" * 16, "yes"]]}).encode(),
        b"[" * 100_000,
    ],
)
def test_a_torn_or_foreign_file_harms_nothing(collected, pipeline, warnings, content):
    """It is replaced by what is known."""
    one = pipeline()
    one.extract([{"id": 1}], table_name="orders")
    file_of(one).write_bytes(content)
    one.normalize()
    one.load()
    dltobs.shutdown()
    assert linked(collected.named("normalize shop")) == []
    assert linked(collected.named("load shop")) == ids(collected.named("normalize shop"))
    assert not warnings()


def test_a_folder_that_cannot_be_written_is_one_warning(collected, pipeline, warnings):
    """What stands in the way here stands there for root, too."""
    one = pipeline()
    one.extract([{"id": 1}], table_name="orders")
    file_of(one).unlink()
    file_of(one).mkdir()
    one.normalize()
    one.load()
    one.run([{"id": 2}], table_name="orders")
    dltobs.shutdown()
    (warning,) = warnings()
    assert "cannot be kept" in warning
    assert len([path for path in Path(one.working_dir).iterdir() if "span_links" in path.name]) == 1


def test_a_pipe_in_its_place_does_not_stop_the_run(collected, pipeline):
    one = pipeline()
    Path(one.working_dir).mkdir(parents=True, exist_ok=True)
    os.mkfifo(file_of(one))
    one.run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert collected.named("run shop")


def test_the_file_does_not_grow_without_end(tmp_path, warnings):
    """Packages that somebody dropped are never loaded; a package that is tried for ever has many traces."""
    trace.set_tracer_provider(TracerProvider())
    tracer = trace.get_tracer("test")
    links = SpanLinks(Warner(Redactor()))
    path = tmp_path / FILE_NAME

    def step(load_id):
        with tracer.start_as_current_span("step") as span:
            links.pass_on(str(tmp_path), [load_id], [load_id], is_last=False)
            return f"{span.get_span_context().trace_id:032x}"

    for number in range(300):
        step(f"{number}.5")
    last = [step("299.5") for _ in range(20)][-1]
    content = json.loads(path.read_text())
    assert len(content) == 256
    assert list(content)[-1] == "299.5"
    assert len(content["299.5"]) == 8
    assert content["299.5"][-1][0] == last
    assert path.stat().st_size < 64 * 1024
    links.pass_on(str(tmp_path), [], list(content), is_last=True)
    assert list(tmp_path.iterdir()) == []
    assert not warnings()
