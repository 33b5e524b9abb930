"""What a person reads in Slack of real pipelines."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import dlt
import pytest
from dlt.common.destination.exceptions import DestinationTerminalException
from dlt.common.utils import obfuscate_pseudo_secret

import dltobs
from conftest import SECRET
from dltobs import _state
from dltobs._alerts import links
from dltobs._alerts.cooldown import FILE_NAME
from dltobs._events import Run, RunFinished, RunLost, SchemaChange, StepFinished
from dltobs._redaction.redactor import Redactor
from dltobs._settings.resolution import resolve_settings
from dltobs._settings.settings import Settings
from dltobs._warnings import Warner
from dltobs.sinks import slack as slack_sink
from dltobs.sinks import slack_alert, slack_sender
from dltobs.sinks.delivery import Delivery
from dltobs.sinks.slack import SlackSink
from scripts import PRELUDE, WITHOUT_THREADS, run_script
from slack_server import Reply, problem_of

AT = datetime(2026, 11, 21, 12, 3, tzinfo=timezone.utc)
RUN = Run("shop", "0123456789abcdef0123456789abcdef", "duckdb", "dlt.destinations.duckdb", "shop_data")


@dlt.destination(name="refusing")
def refusing(items, table):
    raise DestinationTerminalException(f"no table <{table['name']}> & no place")


@dlt.resource
def broken():
    yield {"id": 1}
    raise KeyError("no such order")


def fail(pipeline, data, **options):
    with pytest.raises(Exception):  # noqa: B017 - whatever the pipeline raises; the message is what is asserted
        pipeline.run(data, **options)


def lines(slack) -> list[str]:
    """The plain text of the only message, after a shutdown."""
    dltobs.shutdown()
    assert problem_of(slack.post) is None
    return slack.post["text"].split("\n")


def emitted(slack, *events, **settings) -> list[str]:
    """The plain text of the messages that events give which no pipeline makes here."""
    delivery = Delivery("slack", "messages", Warner(Redactor()))
    settings = Settings(slack_incoming_hook=slack.hook, **settings)
    sink = SlackSink(settings, Warner(Redactor()), delivery, Path("spool"))
    for event in events:
        sink.emit(event)
    assert sink.flush(5)
    sink.close()
    assert all(problem_of(post) is None for post in slack.posts)
    return [post["text"] for post in slack.posts]


def test_a_failed_run_is_one_message_with_what_it_takes(slack, pipeline):
    """Pipeline, environment, step, outcome, root cause, retry, link, tags."""
    dltobs.configure(
        slack_incoming_hook=slack.hook,
        environment="production",
        tags={"team": "data"},
        tracing="on",
        trace_url_template="https://jaeger/trace/{trace_id}?span={span_id}&p={pipeline}&t={transaction_id}",
    )
    one = pipeline("my_shop")
    fail(one, broken())
    said = lines(slack)
    transaction_id = one.last_trace.transaction_id
    assert said[0] == "🔴 my_shop: extract failed"
    assert said[1:3] == ["Environment: production", "Step: extract"]
    assert said[3].startswith("Where: resource broken (test_slack.py:")
    assert said[4] == "Outcome: failed"
    assert "Destination: duckdb / my_shop_data" in said
    assert "Worth a retry: perhaps, dlt does not say" in said
    assert "KeyError: 'no such order'" in said
    assert f"Run: {transaction_id}" in said
    assert "team: data" in said
    (url,) = [line for line in said if line.startswith("Trace: ")]
    assert f"/trace/{transaction_id}?span=" in url
    assert f"&amp;p=my_shop&amp;t={transaction_id}" in url
    header, facts, cause, context = slack.post["blocks"]
    assert header["text"]["text"] == said[0]
    assert {"type": "mrkdwn", "text": "*Step*\n`extract`", "verbatim": True} in facts["fields"]
    assert cause["text"]["text"] == "*`KeyError`*\n```\n'no such order'\n```"
    assert context["elements"][0]["text"].startswith(f"<https://jaeger/trace/{transaction_id}?span=")
    assert dltobs.status()["slack"].delivered == 1


def test_a_load_that_failed_names_its_jobs_and_packages(slack, pipeline):
    dltobs.configure(slack_incoming_hook=slack.hook, slack_on="failure")
    one = pipeline(destination=refusing)
    fail(one, [{"id": 1}], table_name="orders")
    said = lines(slack)
    kind = "dlt.common.destination.exceptions.DestinationTerminalException"
    refusal = "no table &lt;orders&gt; &amp; no place"
    assert said[0] == "🔴 shop: load failed"
    assert "Worth a retry: no, the error is terminal" in said
    assert f"{kind}: {refusal}" in said
    (job,) = [line for line in said if line.startswith("orders (orders.")]
    assert job.split("): ")[1] == "as above"
    assert any(line.startswith("Jobs: ") and "1 failed" in line for line in said)


def test_a_run_that_tolerates_failed_jobs_is_told_as_a_failure(slack, pipeline, monkeypatch):
    monkeypatch.setenv("LOAD__RAISE_ON_FAILED_JOBS", "false")
    dltobs.configure(slack_incoming_hook=slack.hook, slack_on="failure")
    data = [dlt.resource([{"id": 1}], name=f"table{number}") for number in range(8)]
    pipeline(destination=refusing).run(data)
    said = lines(slack)
    assert said[0] == "🟠 shop: 8 failed jobs"
    assert "Outcome: ok_with_failed_jobs" in said
    assert "Worth a retry: no, the jobs failed for good" in said
    assert len([line for line in said if line.startswith("table")]) == 5
    assert "and 3 more" in said


def test_a_run_that_goes_well_is_told_only_where_that_is_wanted(slack, pipeline):
    """With its rows, jobs and duration; no link without a span. What it has made is told anyway."""
    dltobs.configure(slack_incoming_hook=slack.hook)
    pipeline("other").run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert slack.post["text"].startswith("🔵 other: first run: 1 table, 1 column")
    slack.posts.clear()
    dltobs.configure(
        slack_incoming_hook=slack.hook, slack_on="success", trace_url_template="https://j/{trace_id}"
    )
    pipeline().run([{"id": 1}, {"id": 2}], table_name="orders")
    said = lines(slack)
    assert said[0] == "🟢 shop: ok"
    assert "Rows: 2 loaded" in said
    assert any(line.startswith("Jobs: ") and line.endswith(" completed") for line in said)
    assert any(line.startswith("Duration: ") for line in said)
    assert not any(line.startswith("Trace") for line in said)


def test_failures_are_not_told_where_only_success_is_wanted(slack, pipeline):
    dltobs.configure(slack_incoming_hook=slack.hook, slack_on="success")
    fail(pipeline(), broken())
    dltobs.shutdown()
    assert slack.posts == []


@pytest.mark.parametrize(
    ("outcome", "title", "retry"),
    [
        ("terminated", "🟠 shop: terminated in run", True),
        ("lost", "🔴 shop: lost, its end was never seen", True),
        ("no_data", "🟢 shop: no data", False),
    ],
)
def test_each_outcome_has_its_words(slack, outcome, title, retry):
    event = RunFinished(RUN, outcome, AT, AT + timedelta(hours=2, minutes=5))
    (text,) = emitted(slack, event, slack_on=("failure", "lost", "success"))
    assert text.split("\n")[0] == title
    assert "Duration: 2 h 5 min" in text
    assert ("Worth a retry: yes" in text) is retry


def test_lost_runs_have_a_word_of_their_own(slack):
    event = RunFinished(RUN, "lost", AT, AT)
    assert emitted(slack, event, slack_on=("failure", "success", "schema_change")) == []


def test_schema_changes_are_one_message_a_load(slack):
    changes = (
        SchemaChange("new_column", "1795305345.7", "shop", "orders", "color", "text"),
        SchemaChange("variant_column", "1795305345.7", "shop", "orders", "amount__v_text", "text"),
    )
    step = StepFinished(RUN, "load", 1, AT, AT, schema_changes=changes)
    (text,) = emitted(slack, StepFinished(RUN, "load", 1, AT, AT), step)
    assert text.startswith("🟠 shop: ")
    assert "orders.color" in text
    assert "orders.amount__v_text" in text
    assert "Load: 1795305345.7" in text
    slack.posts.clear()
    assert emitted(slack, step, slack_on=("failure",)) == []


def test_changes_of_which_there_is_nothing_to_say_are_no_message(slack, monkeypatch):
    monkeypatch.setattr(slack_alert, "told", lambda changes, first_run: ())
    change = SchemaChange("new_column", "1", "shop", "orders", "color", "text")
    assert emitted(slack, StepFinished(RUN, "load", 1, AT, AT, schema_changes=(change,))) == []


def test_the_event_in_sentry_is_named(slack):
    links.publish(RUN.transaction_id, "sentry", "5e067b9ef969e277a05b8f1db869f6d0")
    (text,) = emitted(slack, RunFinished(RUN, "lost", AT, AT))
    assert "Sentry: 5e067b9ef969e277a05b8f1db869f6d0" in text


def test_what_is_published_of_runs_does_not_grow_for_ever():
    for number in range(1000):
        links.publish(f"run {number}", "sentry", str(number))
    assert links.published("run 999") == {"sentry": "999"}
    assert links.published("run 0") == {}
    assert len(links._published) <= 256


def test_no_secret_leaves(slack, pipeline, monkeypatch):
    """Nor the webhook itself, in an exception, a tag or the environment's name."""
    monkeypatch.setenv("API_KEY", SECRET)
    dltobs.configure(
        slack_incoming_hook=slack.hook,
        environment=f"production {SECRET}",
        tags={"key": SECRET, "hook": slack.hook},
        trace_url_template=f"https://j/{{transaction_id}}?key={SECRET}",
    )

    @dlt.resource
    def leaking():
        yield {"id": dlt.secrets["api_key"][:0]}
        raise ValueError(f"GET {slack.hook} with {SECRET} at {slack.hook.rpartition('/')[2]}")

    fail(pipeline(), leaking())
    dltobs.shutdown()
    assert len(slack.posts) == 1
    everything = json.dumps(slack.posts, ensure_ascii=False)
    assert "ValueError" in everything
    assert SECRET not in everything
    assert "pl4nted" not in everything.lower()
    assert slack.hook not in repr(_state)


def test_nobody_is_pinged_by_an_exception(slack, pipeline):
    dltobs.configure(slack_incoming_hook=slack.hook)

    @dlt.resource
    def pinging():
        yield {"id": 1}
        raise ValueError("<!channel> @channel <https://evil.example|click> `<!here>` ```<@U012AB3CD>```")

    fail(pipeline(), pinging())
    dltobs.shutdown()
    body = json.dumps(slack.post, ensure_ascii=False)
    assert "<!" not in body
    assert "<@" not in body
    assert "<https://evil" not in body
    assert "@channel" not in body
    assert "&lt;!channel&gt; @\u200bchannel &lt;https://evil.example|click&gt;" in body


def test_the_same_failure_is_told_once_over_processes_and_then_counted(tmp_path, slack):
    """A cooldown that has passed tells how many there were."""
    script = """
    import dltobs
    dltobs.configure()
    try:
        pipeline().run(broken())
    except Exception:
        pass
    """
    variables = {"DLTOBS__SLACK_INCOMING_HOOK": slack.hook}
    for _ in range(3):
        result = run_script(script, tmp_path, **variables)
        assert result.returncode == 0, result.stderr
    assert len(slack.posts) == 1
    path = tmp_path / "dlt" / "dltobs" / "spool" / FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "shop" not in path.read_text()
    assert "order" not in path.read_text()
    # an hour later
    known = json.loads(path.read_text())
    path.write_text(json.dumps({key: [since - 4000, *rest] for key, (since, *rest) in known.items()}))
    run_script(script, tmp_path, **variables)
    assert len(slack.posts) == 2
    assert "and 2 more since " in slack.posts[1]["text"]
    run_script(script, tmp_path, **variables, DLTOBS__ALERT_COOLDOWN="0")
    assert len(slack.posts) == 3


def contents(folder):
    """The files and folders in a folder, with the times at which they were changed."""
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]} if folder.exists() else {}


def test_nothing_is_written_into_the_working_directory_after_the_run(slack, sentry, otlp, pipeline):
    """Callers delete it then, as dlt's `PipelineTasksGroup` does, while Slack and others are still being told."""
    dltobs.configure(
        slack_incoming_hook=slack.hook,
        sentry_dsn=sentry.dsn,
        otlp_endpoint=otlp.url,
        ledger=True,
        spool_max_bytes=0,
    )
    for number, is_deleted in enumerate((False, True, False, True)):
        slack.gate.clear()
        one = pipeline(f"shop{number // 2}")
        folder = Path(one.working_dir)
        fail(one, broken())  # the second one of each pipeline is counted, and told to nobody
        if is_deleted:
            shutil.rmtree(folder)
        before = contents(folder)
        slack.gate.set()
        assert _state.runtime.sinks[-2].flush(20)
        assert contents(folder) == before
    dltobs.shutdown()
    assert contents(folder) == before
    assert [post["text"].split("\n")[0] for post in slack.posts] == [
        "🔴 shop0: extract failed",
        "🔴 shop1: extract failed",
    ]


def test_equal_failed_jobs_are_told_once_whatever_their_order(slack, pipeline, monkeypatch):
    """dlt lists the jobs of a package in the order of its folder, which is another one each time."""
    monkeypatch.setenv("LOAD__RAISE_ON_FAILED_JOBS", "false")
    dltobs.configure(slack_incoming_hook=slack.hook, slack_on="failure")
    one = pipeline(destination=refusing)
    for _ in range(6):
        one.run([dlt.resource([{"id": 1}], name=name) for name in ("orders", "people", "items", "carts")])
    dltobs.shutdown()
    assert [post["blocks"][0]["text"]["text"] for post in slack.posts] == ["🟠 shop: 4 failed jobs"]


def test_a_failure_is_the_same_in_slack_as_in_sentry(slack, sentry, pipeline):
    """Two resources that fail alike are two troubles; values of data make no difference."""
    dltobs.configure(slack_incoming_hook=slack.hook, slack_on="failure", sentry_dsn=sentry.dsn)
    one = pipeline()

    def numbers(value):
        yield {"id": 1}
        message = f"could not convert string to float: '{value}'"
        raise ValueError(message)

    for name, value in (("orders", "Ann"), ("orders", "Bob"), ("people", "Ann"), ("people", "Cleo")):
        fail(one, dlt.resource(numbers, name=name)(value))
    dltobs.shutdown()
    assert len(sentry.events) == 4
    assert len({tuple(event["fingerprint"]) for event in sentry.events}) == len(slack.posts) == 2


def test_another_channel_or_environment_has_not_been_told(slack, tmp_path):
    assert len(emitted(slack, lost(0, tmp_path))) == 1
    assert len(emitted(slack, lost(1, tmp_path), environment="staging")) == 2
    assert len(emitted(slack, lost(2, tmp_path))) == 2


def test_lost_runs_of_a_pipeline_are_told_once_and_then_counted(slack, tmp_path):
    """One that dies again and again, for want of memory perhaps, is not one message a run."""
    told = emitted(slack, *(lost(number, tmp_path) for number in range(3)))
    assert len(told) == 1
    told = emitted(slack, lost(3, tmp_path), alert_cooldown=0)
    assert len(told) == 2


def lost(number, folder):
    run = replace(RUN, transaction_id=f"{number:032x}", working_dir=str(folder))
    return RunLost(run, "run", "extract", AT, AT, AT, "host", 7, noticed_by="ab" * 16)


def test_a_merge_tells_its_rows(slack, pipeline):
    """The job that merges the staging table has no rows of its own."""
    dltobs.configure(slack_incoming_hook=slack.hook, slack_on="success")
    orders = dlt.resource([{"id": 1}, {"id": 2}], name="orders", write_disposition="merge", primary_key="id")
    pipeline().run(orders)
    assert "Rows: 2 loaded" in lines(slack)


def test_a_message_that_was_lost_does_not_mute_the_next(slack, pipeline):
    slack.replies = [Reply(410, "channel_is_archived")]
    dltobs.configure(slack_incoming_hook=slack.hook)
    one = pipeline()
    fail(one, broken())
    _state.runtime.sinks[-1].flush(20)
    fail(one, broken())
    dltobs.shutdown()
    assert len(slack.posts) == 2
    assert "and 1 more since " in slack.posts[1]["text"]
    status = dltobs.status()["slack"]
    assert (status.delivered, status.dropped, status.last_error) == (1, 1, "HTTP 410 channel_is_archived")


def test_an_alert_that_ends_the_process_is_delivered(tmp_path, slack):
    slack.reply = Reply(delay=0.5)
    result = run_script(
        "import dltobs; dltobs.configure(); pipeline().run(broken())",
        tmp_path,
        RUNTIME__SLACK_INCOMING_HOOK=slack.hook,
    )
    assert result.returncode == 1
    assert "extract failed" in slack.post["text"]


@pytest.mark.parametrize(
    "reply",
    [None, Reply(raw=b"\x00rubbish"), Reply(503), Reply(429, "", (("Retry-After", "3600"),))],
)
def test_a_slack_in_trouble_changes_neither_result_nor_time_of_a_run(
    slack, pipeline, reply, caplog, monkeypatch
):
    """But for the deadline at the end."""
    monkeypatch.setattr(slack_sender, "_REQUEST_TIMEOUT", 60)  # who waits for the answer is late then
    if reply is None:
        slack.gate.clear()
    else:
        slack.reply = reply
    dltobs.configure(slack_incoming_hook=slack.hook, slack_on="success", flush_timeout=1)
    pipeline("warm").run([{"id": 1}], table_name="orders")
    begun = time.monotonic()
    info = pipeline().run([{"id": 1}], table_name="orders")
    assert not info.has_failed_jobs
    assert time.monotonic() - begun < 15
    begun = time.monotonic()
    dltobs.shutdown()
    assert time.monotonic() - begun < 10
    while _state.deliveries[0].pending:
        time.sleep(0.01)  # a slow disk is still at it
    assert dltobs.status()["slack"].spooled == 2
    warnings = [record.getMessage() for record in caplog.records if record.name == "dltobs"]
    assert warnings
    assert not any("pl4nted" in line.lower() for line in warnings)


@pytest.mark.parametrize("broken_part", ["rich_payload", "run_alert"])
def test_a_message_is_not_lost_for_its_form(slack, monkeypatch, caplog, broken_part):
    """It has no blocks then, or one line."""

    def fails(*args):
        raise RuntimeError("no form")

    monkeypatch.setattr(slack_sink, broken_part, fails)
    (text,) = emitted(slack, RunFinished(RUN, "lost", AT, AT))
    assert text.startswith("🔴 shop: lost" if broken_part == "rich_payload" else "shop: lost (")
    assert ("blocks" in slack.post) is (broken_part == "run_alert")
    assert [record.name for record in caplog.records] == ["dltobs"]


def test_dlts_own_webhook_counts_from_the_environment_and_from_secrets(tmp_path, slack):
    """Ours wins."""
    script = "import dltobs; dltobs.configure(); pipeline().run(broken())"
    run_script(script, tmp_path, RUNTIME__SLACK_INCOMING_HOOK=slack.hook, DLTOBS__ALERT_COOLDOWN="0")
    assert len(slack.posts) == 1
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "secrets.toml").write_text(f'[runtime]\nslack_incoming_hook = "{slack.hook}"\n')
    run_script(script, tmp_path, DLTOBS__ALERT_COOLDOWN="0")
    assert len(slack.posts) == 2
    run_script(
        script,
        tmp_path,
        DLTOBS__ALERT_COOLDOWN="0",
        DLTOBS__SLACK_INCOMING_HOOK=f"{slack.url}/services/of/our/own",
        RUNTIME__SLACK_INCOMING_HOOK=slack.hook,
    )
    assert slack.paths[2] == "/services/of/our/own"
    result = run_script(
        f"""
        from dltobs._settings.resolution import resolve_settings
        settings = resolve_settings({{}})
        print(settings.source_of("slack_incoming_hook"))
        assert {slack.hook!r} not in repr(settings)
        """,
        tmp_path,
    )
    assert result.stdout == "runtime.slack_incoming_hook of dlt's configuration\n"


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("slack_on", "failure,sucess", "perhaps success"),
        ("slack_on", "everything", "failure, lost, success, schema_change"),
        ("slack_incoming_hook", "hooks.slack.com/pl4nted", "this value is not usable"),
        ("alert_cooldown", "an hour", "number of seconds"),
        ("alert_cooldown", -1, "number of seconds"),
        ("trace_url_template", "https://j/{traceid}", "perhaps trace_id"),
        ("trace_url_template", "https://j/{trace_id", "a brace without its other one"),
        ("trace_url_template", "https://j/{trace_id.__class__}", "unknown name in braces"),
        ("trace_url_template", "https://j/{trace_id:>99999999}", "unknown name in braces"),
        ("trace_url_template", "https://j/{trace_id!r}", "unknown name in braces"),
        ("trace_url_template", "https://j/{}", "unknown name in braces"),
        ("trace_url_template", "j/{trace_id}", "no http:// or https://"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_right(setting, value, said):
    with pytest.raises(dltobs.ConfigurationError) as info:
        dltobs.configure(**{setting: value})
    assert info.value.setting == setting
    assert said in str(info.value)
    assert "pl4nted" not in str(info.value)
    assert _state.runtime is None


def test_words_are_taken_in_any_form():
    dltobs.configure(slack_on=["Failure", "lost", "failure"])
    assert _state.runtime.settings.slack_on == ("failure", "lost")
    assert "slack" not in dltobs.status()


def test_workers_of_normalize_send_nothing_of_their_own(slack, pipeline, monkeypatch):
    monkeypatch.setenv("NORMALIZE__WORKERS", "2")
    monkeypatch.setenv("NORMALIZE__START_METHOD", "spawn")
    dltobs.configure(slack_incoming_hook=slack.hook, slack_on="success")
    data = [dlt.resource([{"id": 1}], name=f"table{number}") for number in range(3)]
    pipeline().run(data)
    assert lines(slack)[0] == "🟢 shop: ok"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a fork")
def test_a_forked_child_tells_of_its_own_runs(tmp_path, slack):
    """Once each, though the child has inherited what its parent had begun to send."""
    slack.replies = [Reply(delay=0.5)]
    result = run_script(
        """
        import dltobs
        dltobs.configure(slack_on="success")
        load("parent")
        child = os.fork()
        if child == 0:
            load("child")
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        """,
        tmp_path,
        prelude=PRELUDE + WITHOUT_THREADS,
        DLTOBS__SLACK_INCOMING_HOOK=slack.hook,
    )
    assert result.returncode == 0, result.stderr
    assert sorted(post["text"].split("\n")[0] for post in slack.posts) == ["🟢 child: ok", "🟢 parent: ok"]


def test_a_cooldown_that_fails_tells(slack, monkeypatch, caplog):
    """Whatever is wrong with it, the message is sent."""
    monkeypatch.setattr("dltobs._alerts.cooldown.read_json", lambda _: {}["nothing"])
    event = RunFinished(RUN, "lost", AT, AT)
    assert len(emitted(slack, event, event)) == 2
    assert any("alert cooldown" in record.getMessage() for record in caplog.records)


def test_a_webhook_that_dlt_disguises_is_known(slack, monkeypatch):
    """dlt takes `RUNTIME__SLACK_INCOMING_HOOK` in a form that is no URL, too."""
    disguised = obfuscate_pseudo_secret(slack.hook, b"dlt-runtime-2022")
    monkeypatch.setenv("RUNTIME__SLACK_INCOMING_HOOK", disguised)
    settings = resolve_settings({})
    assert settings.slack_incoming_hook == slack.hook
    assert settings.source_of("slack_incoming_hook") == "environment variable RUNTIME__SLACK_INCOMING_HOOK"


def test_an_unwritable_spool_is_no_reason_to_say_nothing(slack, pipeline, tmp_path):
    (tmp_path / "file").touch()
    dltobs.configure(slack_incoming_hook=slack.hook, spool_dir=tmp_path / "file" / "spool")
    fail(pipeline(), broken())
    assert lines(slack)[0] == "🔴 shop: extract failed"


def test_a_first_run_that_fails_is_one_message(slack, pipeline):
    """Its load has made the tables, and then failed."""
    dltobs.configure(slack_incoming_hook=slack.hook, metrics="off")

    fail(pipeline(destination=refusing), [{"id": 1}], table_name="orders")
    dltobs.shutdown()
    (post,) = slack.posts
    assert post["text"].startswith("🔴 shop: load failed")


def test_three_loads_of_changing_data_are_three_messages(slack, pipeline):
    """The first in one line; then what is new, and what did not fit. A load that changes nothing says nothing."""
    dltobs.configure(slack_incoming_hook=slack.hook, metrics="off")
    shop = pipeline()
    shop.run([{"id": 1, "amount": 5}], table_name="orders")
    shop.run([{"id": 2, "amount": 6}], table_name="orders")
    shop.run([{"id": 3, "amount": "six", "note": "a"}], table_name="orders")
    shop.run([dlt.resource([{"id": 1}], name="people")])
    dltobs.shutdown()
    first, second, third = (post["text"] for post in slack.posts)
    assert first.startswith("🔵 shop: first run: 1 table")
    assert second.startswith("🟠 shop: ")
    assert third.startswith("🔵 shop: ")
    assert "1 new column, 1 type conflict" in second
    assert "amount__v_text" in second
    assert "note" in second
    assert "1 new table" in third
    assert dltobs.status()["slack"].delivered == 3
