"""Texts that no back end foresees: lone surrogates, messages without end, secrets at the edge of a cut."""

from __future__ import annotations

import json
import logging

import dlt
import pytest
from dlt.common.destination.exceptions import DestinationTerminalException
from dlt.pipeline.exceptions import PipelineStepFailed
from opentelemetry import baggage, context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import dltobs
from dltobs import BackendStatus
from dltobs._cut import MARGIN, MESSAGE, TEXT, cut
from dltobs._redaction.redactor import Redactor
from dltobs.logs.formatters import JsonFormatter
from dltobs.logs.text import TextFormatter
from dltobs.sinks.slack_alert import Alert
from dltobs.sinks.slack_blocks import rich_payload
from dltobs.sinks.slack_text import escaped
from recording import RecordingSink
from servers import attributes_of

SECRET = "Zq9" + "k7Pw2" * 12 + "xYz"


def resource_that_raises(message):
    @dlt.resource
    def orders():
        yield {"id": 1}
        raise ValueError(message)

    return orders()


def fail(one, message):
    with pytest.raises(PipelineStepFailed):
        one.run(resource_that_raises(message))


def exception_of(spans, name):
    (span,) = [one for one in spans if one.name == name]
    (event,) = [one for one in span.events if one.name == "exception"]
    return attributes_of(event)


def texts_of(span, name):
    return [value.string_value for value in attributes_of(span)[name].values]


def test_half_an_emoji_in_an_exception_loses_no_span(otlp, pipeline):
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")
    pipeline("good").run([{"id": 1}], table_name="t")
    fail(pipeline(), "bad name caf\ud83d")
    dltobs.shutdown()
    assert dltobs.status()["otlp"] == BackendStatus(delivered=len(otlp.spans))
    assert exception_of(otlp.spans, "run shop")["exception.message"] == "bad name caf\ufffd"


def test_half_an_emoji_in_an_exception_loses_no_span_of_the_application(otlp, pipeline):
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{otlp.url}/v1/traces")))
    trace.set_tracer_provider(provider)
    dltobs.configure(metrics="off")
    with trace.get_tracer("app").start_as_current_span("the application's"):
        fail(pipeline(), "bad name caf\ud83d")
    provider.shutdown()
    assert {"the application's", "run shop", "extract"} <= {span.name for span in otlp.spans}


def test_half_an_emoji_in_a_span_of_somebody_elses_loses_none_of_ours(otlp, pipeline):
    """With our provider they are in one batch."""
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off", tracing="on")

    @dlt.resource
    def orders():
        with trace.get_tracer("app").start_as_current_span("GET caf\ud83d") as span:
            span.set_attribute("names", ["caf\udc80", "tea"])
        yield {"id": 1}

    pipeline().run(orders())
    dltobs.shutdown()
    assert dltobs.status()["otlp"] == BackendStatus(delivered=len(otlp.spans))
    (span,) = [span for span in otlp.spans if span.name.startswith("GET")]
    assert span.name == "GET caf\ufffd"
    assert texts_of(span, "names") == ["caf\ufffd", "tea"]


def test_what_a_back_end_refuses_is_sent_once(otlp, pipeline):
    """Nothing in it had to be replaced."""
    otlp.status = 400
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off", tracing="on")

    @dlt.resource
    def orders():
        with trace.get_tracer("app").start_as_current_span("GET") as span:
            span.set_attribute("names", ["coffee", "tea"])
            span.set_attribute("numbers", [1, 2])
        yield {"id": 1}

    pipeline().run(orders())
    dltobs.shutdown()
    assert len(otlp.requests) == 1


def test_a_message_without_end_is_shortened_on_spans(otlp, pipeline):
    """A back end that refuses what is too large would refuse the rest of the batch with it."""
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")
    fail(pipeline(), "first " + "x" * 1_000_000 + " last")
    dltobs.shutdown()
    message = exception_of(otlp.spans, "run shop")["exception.message"]
    assert message.startswith("first ")
    assert message.endswith(" last")
    assert len(message) < 100_000
    assert len(otlp.raw) < 1_000_000


def pieces_of(secret, length=8):
    return [secret[start : start + length] for start in range(len(secret) - length + 1)]


def test_a_cut_keeps_beginning_and_end_and_says_how_much_is_missing():
    text = f"first {'x' * 4_000_000} last"
    once = cut(text, 1000)
    assert len(once) <= 1000
    assert once.startswith("first xxx")
    assert once.endswith("xxx last")
    kept = once.replace("… (3,999,059 characters cut) …", "")
    assert len(text) - len(kept) == 3_999_059
    assert cut(once, 1000) is once
    assert "… (3,999,559 characters cut) …" in cut(once, 500)


@pytest.mark.parametrize("secrets_before", [0, 40])
def test_no_piece_of_a_secret_stays_at_the_edge_of_a_cut(secrets_before):
    """Wherever it stands, and also where the text becomes shorter by the secrets before it."""
    redactor = Redactor([SECRET])
    before = f"{SECRET} " * secrets_before
    edges = [500 - 24, 500, 500 + MARGIN, 476 + MARGIN + len(SECRET)]
    places = {place for edge in edges for place in range(edge - 3 * len(SECRET), edge + 3 * len(SECRET), 5)}
    filler = "ä" * 20_000
    for place in places:
        for text in (
            f"{before}{filler[:place]}{SECRET}{filler}",
            f"{filler}{SECRET}{filler[:place]}{before}",
        ):
            clean = redactor.text(text, 1000)
            assert len(clean) <= 1000
            assert "characters cut" in clean
            assert not [piece for piece in pieces_of(SECRET, 4) if piece in clean], place


@pytest.fixture
def searched(monkeypatch):
    """The number of characters in which secrets were looked for."""
    lengths = []
    known = Redactor._known
    monkeypatch.setattr(Redactor, "_known", lambda self, text: lengths.append(len(text)) or known(self, text))
    return lengths


def test_nobody_searches_what_no_back_end_gets(
    otlp, sentry, slack, pipeline, tmp_path, monkeypatch, searched
):
    """An exception that quotes 4 MB costs little more than any other."""
    monkeypatch.setenv("API_KEY", SECRET)
    recording = RecordingSink()
    dltobs.configure(
        otlp_endpoint=otlp.url,
        metrics="off",
        sentry_dsn=sentry.dsn,
        slack_incoming_hook=slack.url,
        log_file=str(tmp_path / "dlt.jsonl"),
        loguru=True,
        ledger=True,
        sinks=[recording],
    )
    assert dlt.secrets["api_key"] == SECRET
    length = 4_000_000
    row = json.dumps({"id": 1, "token": "t1", "url": "https://shop.example/o?sig=1", "key": SECRET})

    @dlt.resource
    def orders():
        yield {"id": 1}
        body = row * (length // len(row))
        logging.getLogger("dlt").warning("body: %s", body)
        try:
            raise LookupError(body)
        except LookupError as error:
            raise ValueError(f"unexpected response: {body}") from error

    with pytest.raises(PipelineStepFailed):
        pipeline().run(orders())
    dltobs.shutdown()
    assert sum(searched) < length
    failure = recording.run.failure
    assert failure.error_type == "LookupError"
    messages = [failure.message, *(info.message for info in failure.chain)]
    assert all(len(message) <= MESSAGE for message in messages)
    assert sum("characters cut" in message for message in messages) >= 3
    assert len(failure.stacktrace) <= TEXT
    assert "in orders" in failure.stacktrace
    assert "dlt.pipeline.exceptions.PipelineStepFailed" in failure.stacktrace
    (event,) = sentry.events
    outputs = [
        otlp.raw.decode("utf-8", "replace"),
        json.dumps(event, ensure_ascii=False),
        *(body.decode() for body in slack.bodies),
        (tmp_path / "dlt.jsonl").read_text("utf-8"),
    ]
    assert len(outputs) >= 4
    for output in outputs:
        assert "characters cut" in output
        assert len(output) < 1_000_000
        assert not [piece for piece in pieces_of(SECRET) if piece in output]


def test_a_long_text_is_searched_once_until_another_secret_is_known(searched):
    redactor = Redactor([SECRET])
    text = f"{SECRET} and 0tH3r-s3cret; " * 10_000
    assert redactor.text(text, 1000) == redactor.text("".join(list(text)), 1000)
    once = sum(searched)
    redactor.text(text, 1000)
    assert sum(searched) == once
    redactor.add("0tH3r-s3cret")
    assert "0tH3r" not in redactor.text(text, 1000)


@pytest.mark.parametrize("formatter", [JsonFormatter, TextFormatter])
def test_a_log_line_is_as_long_as_log_stores_take(searched, formatter):
    """Whatever it is that is long: message, argument, extra or exception."""
    redactor = Redactor([SECRET])
    text = f"{SECRET} and some more words beside the secret, as there are in an answer; " * 40_000
    record = logging.LogRecord("dlt", logging.ERROR, "load.py", 1, f"{text}%s", (text,), None)
    record.body, record.rows = text, [{"id": number, "name": SECRET} for number in range(50_000)]
    try:
        raise ValueError(text)
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    line = formatter(redactor=redactor).format(record)
    assert len(line) < 256 * 1024
    assert sum(searched) < len(text)
    assert "characters cut" in line
    assert not [piece for piece in pieces_of(SECRET) if piece in line]
    if formatter is JsonFormatter:
        told = json.loads(line)
        assert "rows" in told
        assert "in test_a_log_line" in told["exception"]["stacktrace"]


def test_a_long_attribute_of_a_span_of_somebody_elses_is_cut(otlp, pipeline, monkeypatch, searched):
    monkeypatch.setenv("API_KEY", SECRET)
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")
    assert dlt.secrets["api_key"] == SECRET
    body = f"{SECRET} and some more words beside the secret; " * 40_000

    @dlt.resource
    def orders():
        with trace.get_tracer("app").start_as_current_span("GET") as span:
            span.set_attribute("http.response.body", body)
            span.add_event("body", {"body": body})
            yield {"id": 1}

    pipeline().run(orders())
    dltobs.shutdown()
    (span,) = [span for span in otlp.spans if span.name == "GET"]
    (event,) = span.events
    for value in (attributes_of(span)["http.response.body"], attributes_of(event)["body"]):
        assert len(value) <= TEXT
        assert "characters cut" in value
        assert not [piece for piece in pieces_of(SECRET) if piece in value]
    assert sum(searched) < len(body)


@pytest.mark.parametrize("shift", [0, 10, 51])
def test_a_secret_at_the_edge_of_a_long_message_of_a_job_is_taken_out(otlp, pipeline, monkeypatch, shift):
    monkeypatch.setenv("API_KEY", SECRET)
    recording = RecordingSink()
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off", sinks=[recording])

    @dlt.destination(name="posting", batch_size=1)
    def posting(items, table, api_key: dlt.TSecretValue = dlt.secrets["api_key"]):
        lines = [f"GET https://api.example/v1/{api_key}/orders" for _ in range(400)]
        raise DestinationTerminalException("cannot post:\n" + "\n".join(lines) + "." * shift)

    with pytest.raises(PipelineStepFailed):
        pipeline(destination=posting()).run([{"id": 1}], table_name="t")
    dltobs.shutdown()
    (job,) = [job for step in recording.run.steps for job in step.load_jobs if job.table == "t"]
    pieces = [SECRET[start : start + 12] for start in range(len(SECRET) - 11)]
    assert len(job.failed_message) > 2_000
    assert not [piece for piece in pieces if piece in job.failed_message]
    assert not [piece for piece in pieces if piece.encode() in otlp.raw]


def test_a_secret_that_opentelemetry_has_cut_in_a_list_is_taken_out(otlp, pipeline, monkeypatch):
    """As the HTTP instrumentations capture headers."""
    secret = "Zq9k7Pw2mX4nB8vC1tR5yU6oL3"
    monkeypatch.setenv("API_KEY", secret)
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "24")
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")
    assert dlt.secrets["api_key"] == secret

    @dlt.resource
    def orders():
        with trace.get_tracer("app").start_as_current_span("GET") as span:
            span.set_attribute("http.request.header.x_session", ["v1", f"v1 {secret}"])
        yield {"id": 1}

    pipeline().run(orders())
    dltobs.shutdown()
    (span,) = [span for span in otlp.spans if span.name == "GET"]
    assert texts_of(span, "http.request.header.x_session") == ["v1", "v1 ***"]


def test_the_application_keeps_its_context_where_the_environment_names_a_parent(otlp, pipeline, monkeypatch):
    """Its baggage goes on with the requests that a resource makes."""
    monkeypatch.setenv("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    monkeypatch.setenv("BAGGAGE", "tenant=other,region=eu")
    seen = []

    @dlt.resource
    def orders():
        seen.append((dict(baggage.get_all()), context.get_value("number")))
        yield {"id": 1}

    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")
    own = context.set_value("number", 42, baggage.set_baggage("tenant", "acme"))
    token = context.attach(own)
    try:
        pipeline().run(orders())
    finally:
        context.detach(token)
    dltobs.shutdown()
    assert seen == [({"tenant": "acme", "region": "eu"}, 42)]
    (root,) = [span for span in otlp.spans if span.name == "run shop"]
    assert root.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert root.parent_span_id.hex() == "b7ad6b7169203331"


def test_slack_shows_every_fact():
    facts = tuple((f"fact {number}", str(number)) for number in range(23))
    blocks = rich_payload(Alert("title", facts))["blocks"]
    fields = [block["fields"] for block in blocks if "fields" in block]
    assert [len(one) for one in fields] == [10, 10, 3]
    assert "fact 22" in fields[-1][-1]["text"]


@pytest.mark.parametrize("limit", range(1, 30))
def test_a_cut_completes_no_mention(limit):
    text = escaped("read it, @channelxyz, and @hereafter", limit)
    assert len(text) <= limit
    assert "@channel…" not in text
    assert "@here…" not in text
