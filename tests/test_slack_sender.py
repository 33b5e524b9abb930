"""Messages reach the webhook, or what became of them is known."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from email.utils import formatdate

import pytest
from tenacity import wait_chain, wait_fixed

from dltobs._redaction.redactor import Redactor
from dltobs._warnings import Warner
from dltobs.sinks import slack_sender
from dltobs.sinks.delivery import Delivery
from dltobs.sinks.slack_sender import Message, SlackSender
from scripts import run_script
from servers import OtlpServer
from slack_server import HOOK_PATH, Reply

PLAIN = {"text": "plain"}
RICH = {"text": "rich", "blocks": []}


class Sent:
    """A sender with what its messages ended in, and what was warned of."""

    def __init__(self, url: str, caplog) -> None:
        caplog.set_level(logging.DEBUG)
        self._caplog = caplog
        self._others = set(threading.enumerate())
        self.ends: list[bool] = []
        self.delivery = Delivery("slack", "messages", Warner(Redactor([url])))
        self.sender = SlackSender(url, self.delivery)

    def send(self, count: int = 1) -> None:
        for _ in range(count):
            self.sender.send(Message(RICH, PLAIN, self.ends.append))

    def flush(self, timeout: float = 20) -> bool:
        return self.sender.flush(timeout)

    def join(self) -> None:
        """Wait for the thread that sends, which has nothing left to do but to end."""
        for thread in set(threading.enumerate()) - self._others:
            if thread.name == "dltobs-slack":
                thread.join(10)
                assert not thread.is_alive()

    @property
    def counts(self):
        return self.delivery.status.delivered, self.delivery.status.dropped

    @property
    def error(self):
        return self.delivery.status.last_error

    @property
    def warnings(self):
        return [record.getMessage() for record in self._caplog.records if record.name == "dltobs"]


@pytest.fixture
def sent(slack, caplog):
    one = Sent(slack.hook, caplog)
    yield one
    one.delivery.abandon("the test is over")
    one.sender.close()


@pytest.fixture
def give_up(monkeypatch):
    """Has two more attempts made, so many seconds after the one before, and none that a flush would see.

    Two, as the wait that is on when the flush begins is cut short.
    """

    def after(seconds):
        soon = wait_fixed(seconds)
        monkeypatch.setattr(slack_sender, "_BACKOFF", wait_chain(soon, soon, wait_fixed(60)))
        monkeypatch.setattr(slack_sender, "_PAUSE_IN_FLUSH", 60)

    return after


def test_messages_are_sent_in_order_by_another_thread_which_then_ends(slack, sent):
    for number in range(5):
        sent.sender.send(Message({"text": str(number)}, PLAIN, sent.ends.append))
    assert sent.flush()
    assert [post["text"] for post in slack.posts] == ["0", "1", "2", "3", "4"]
    assert sent.counts == (5, 0)
    assert sent.ends == [True] * 5
    sent.join()
    assert slack.headers[0]["Content-Type"] == "application/json"
    sent.send()
    assert sent.flush()
    assert sent.counts == (6, 0)


def test_sending_never_waits(slack, sent):
    slack.gate.clear()
    begun = time.monotonic()
    sent.send(3)
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_429_is_tried_again_when_slack_says(slack, sent, form):
    date = int(time.time()) + 2
    until_then = date - time.time()
    begun = time.monotonic()
    value = "1" if form == "seconds" else formatdate(date, usegmt=True)
    slack.replies = [Reply(429, "rate_limited", (("Retry-After", value),))]
    sent.send()
    assert sent.flush()
    assert sent.counts == (1, 0)
    first, second = slack.times
    due = first + 1 if form == "seconds" else begun + until_then
    assert second > due - 0.1, "the clocks may differ by as much"
    assert second - first < 15


@pytest.mark.parametrize(
    "reply",
    [
        Reply(429, "rate_limited"),
        Reply(429, "rate_limited", (("Retry-After", "soon"),)),
        Reply(500, "rollup_error"),
        Reply(503, "<html>down</html>"),
        Reply(raw=b""),
        Reply(raw=b"\x00\xff rubbish\r\n\r\n"),
        Reply(raw=b"HTTP/1.1 500 \r\ncontent-length: 100\r\n\r\nhalf"),
    ],
)
def test_what_may_pass_is_tried_again(slack, sent, reply, monkeypatch):
    monkeypatch.setattr(slack_sender, "_BACKOFF", wait_fixed(0.05))
    slack.replies = [reply, reply]
    sent.send()
    assert sent.flush()
    assert len(slack.posts) == 3
    assert sent.counts == (1, 0)
    assert sent.warnings == []


def test_a_connection_that_is_refused_is_tried_again(sent, give_up, dead_port):
    give_up(0.3)
    sent.sender = SlackSender(f"http://127.0.0.1:{dead_port}{HOOK_PATH}", sent.delivery)
    begun = time.monotonic()
    sent.send()
    assert sent.flush()
    assert 0.3 <= time.monotonic() - begun < 10
    assert sent.counts == (0, 1)
    assert sent.warnings == [
        f"slack: 1 message could not be delivered: connection refused; address http://127.0.0.1:{dead_port}"
    ]


def test_waiting_longer_than_the_flush_lasts_is_given_up_at_once(slack, sent):
    """There is one warning that names the reason, and no second request before its time."""
    slack.reply = Reply(429, "rate_limited", (("Retry-After", "30"),))
    sent.send()
    assert slack.arrived.wait(10)
    begun = time.monotonic()
    assert sent.flush()
    assert time.monotonic() - begun < 10
    assert len(slack.posts) == 1
    assert sent.ends == [False]
    assert sent.warnings == [
        f"slack: 1 message could not be delivered: HTTP 429 rate_limited; address {slack.url}"
    ]


def test_a_flush_ends_a_wait_of_our_own(slack, sent, monkeypatch):
    """The next attempt is made now, as the process is about to end."""
    pausing = threading.Event()
    monkeypatch.setattr(slack_sender, "_BACKOFF", lambda _: pausing.set() or 60)
    slack.replies = [Reply(500)] * 2
    sent.send()
    assert pausing.wait(10)
    begun = time.monotonic()
    assert sent.flush()
    assert time.monotonic() - begun < 15
    assert len(slack.posts) == 3
    assert sent.counts == (1, 0)


def test_a_server_error_that_stays_is_one_warning(slack, sent, give_up):
    give_up(0.05)
    slack.reply = Reply(503, "service unavailable")
    sent.send(2)
    assert sent.flush()
    assert len(slack.posts) > 4
    assert sent.counts == (0, 2)
    assert sent.error == "HTTP 503 service unavailable"
    assert sent.warnings == [
        f"slack: 1 message could not be delivered: HTTP 503 service unavailable; address {slack.url}"
    ]


def test_a_server_that_hangs_costs_no_more_than_the_deadline(slack, sent):
    """What it says after the end changes nothing."""
    slack.gate.clear()
    sent.send(2)
    assert slack.arrived.wait(10)
    begun = time.monotonic()
    assert not sent.flush(0.5)
    assert time.monotonic() - begun < 3
    sent.delivery.abandon("not sent before the deadline")
    sent.sender.close()
    assert sent.counts == (0, 2)
    assert sent.ends == [False, False]
    slack.gate.set()
    sent.join()
    assert sent.counts == (0, 2)
    assert sent.ends == [False, False]
    assert len(slack.posts) == 1


@pytest.mark.parametrize(
    ("status", "words", "said"),
    [
        (403, "invalid_token", "HTTP 403 invalid_token"),
        (403, "action_prohibited", "HTTP 403 action_prohibited"),
        (404, "no_service", "HTTP 404 no_service"),
        (410, "channel_is_archived", "HTTP 410 channel_is_archived"),
        (404, "<html>a page of a proxy</html>", "HTTP 404 Not Found"),
        (302, "", "HTTP 302 Found"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(slack, sent, status, words, said):
    slack.reply = Reply(status, words, (("Location", slack.url),))
    sent.send()
    assert sent.flush()
    assert len(slack.posts) == 1
    assert sent.counts == (0, 1)
    advice = (
        "; look at the webhook in slack_incoming_hook or RUNTIME__SLACK_INCOMING_HOOK"
        if status != 302
        else ""
    )
    assert sent.warnings == [f"slack: 1 message could not be delivered: {said}; address {slack.url}{advice}"]


def test_blocks_that_slack_refuses_are_sent_as_plain_text(slack, sent):
    slack.replies = [Reply(400, "invalid_blocks")]
    sent.send()
    assert sent.flush()
    assert slack.posts == [RICH, PLAIN]
    assert sent.counts == (1, 0)


def test_plain_text_that_slack_refuses_is_lost_with_its_words(slack, sent):
    slack.reply = Reply(400, "invalid_payload")
    sent.send()
    assert sent.flush()
    assert len(slack.posts) == 2
    assert sent.warnings == [
        f"slack: 1 message could not be delivered: HTTP 400 invalid_payload; address {slack.url}"
    ]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("<!doctype html><title>Log in</title>", "the answer is a web page"),
        ('{"ok": false, "error": "invalid_auth"}', "the answer is no (invalid_auth)"),
        ('{"success": false, "error": {"secret": "pl4nted"}}', "the answer is no (no reason)"),
        ("\x00\x01\x02", "the answer is no text"),
    ],
)
def test_what_is_no_answer_of_slacks_is_no_delivery(slack, sent, body, problem):
    """As a portal or proxy sends it, with status 200."""
    slack.reply = Reply(200, body)
    sent.send()
    assert sent.flush()
    assert (sent.delivery.status.delivered, sent.error) == (0, problem)


@pytest.mark.parametrize("body", ["", "ok", '{"ok": true}', "null", "[false]", "7"])
def test_those_who_take_slacks_messages_may_say_so_in_other_words(slack, sent, body):
    slack.reply = Reply(200, body)
    sent.send()
    assert sent.flush()
    assert sent.delivery.status.delivered == 1


def test_a_full_queue_drops_and_counts(slack, sent):
    slack.gate.clear()
    sent.send(150)
    assert sent.delivery.status.dropped in {49, 50}
    assert sent.error == "queue full"


def test_the_address_is_nowhere_to_be_seen(slack, sent, give_up, monkeypatch, caplog):
    """urllib3 logs the path at DEBUG, requests puts the address into its exceptions."""

    def unknown(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    give_up(0.05)
    slack.replies = [Reply(503), Reply(raw=b"rubbish")]
    sent.send()
    assert sent.flush()
    sent.sender = SlackSender(f"http://nowhere.invalid{HOOK_PATH}", sent.delivery)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    sent.send()
    assert sent.flush()
    assert sent.counts == (1, 1)
    for shown in (caplog.text, repr(sent.sender), str(sent.delivery.status), *map(repr, caplog.records)):
        assert "pl4nted" not in shown.lower()
    logging.getLogger("urllib3.connectionpool").debug("of the application")
    assert "of the application" in caplog.text
    assert not logging.getLogger("urllib3.connectionpool").filters


def test_the_proxy_of_the_environment_is_used(slack, sent, monkeypatch):
    """And no login from ~/.netrc."""
    monkeypatch.setenv("http_proxy", slack.url)
    monkeypatch.setenv("no_proxy", "")
    sent.sender = SlackSender(f"http://hooks.slack.example{HOOK_PATH}", sent.delivery)
    sent.send()
    assert sent.flush()
    assert slack.paths == [f"http://hooks.slack.example{HOOK_PATH}"]
    assert "Authorization" not in slack.headers[0]


def test_a_login_in_netrc_is_not_sent(tmp_path, slack, sent, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password pl4nted")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    sent.send()
    assert sent.flush()
    assert "Authorization" not in slack.headers[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a fork")
def test_a_forked_child_sends_its_own_messages_and_not_its_parents(tmp_path, slack):
    """The thread and the queue are those of the parent, who may hold the lock, too."""
    slack.replies = [Reply(delay=0.5)]
    result = run_script(
        f"""
        from dltobs._redaction.redactor import Redactor
        from dltobs._warnings import Warner
        from dltobs.sinks.delivery import Delivery
        from dltobs.sinks.slack_sender import Message, SlackSender

        delivery = Delivery("slack", "messages", Warner(Redactor()))
        sender = SlackSender({slack.hook!r}, delivery)

        def send(text):
            sender.send(Message(None, {{"text": text}}, lambda delivered: None))

        send("parent 1"), send("parent 2")
        child = os.fork()
        if child == 0:
            delivery.forget()
            assert sender.flush(20)
            send("child")
            assert sender.flush(20)
            sender.close()
            os._exit(0 if delivery.status.delivered == 1 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert sender.flush(20)
        assert delivery.status.delivered == 2
        """,
        tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert sorted(post["text"] for post in slack.posts) == ["child", "parent 1", "parent 2"]


def test_without_a_thread_the_flush_sends(slack, sent, monkeypatch):
    """In an atexit function Python 3.12 starts none."""

    def start(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        sent.send(2)
    assert slack.posts == []
    assert sent.flush()
    assert sent.counts == (2, 0)


def test_requests_to_slack_are_not_traced(tmp_path, slack):
    """An instrumentation of requests would export the address."""
    otlp = OtlpServer()
    result = run_script(
        """
        import dltobs
        from opentelemetry.instrumentation.requests import RequestsInstrumentor
        from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor

        RequestsInstrumentor().instrument()
        URLLib3Instrumentor().instrument()
        dltobs.configure(slack_on="success")
        pipeline().run([{"id": 1}], table_name="orders")
        """,
        tmp_path,
        DLTOBS__SLACK_INCOMING_HOOK=slack.hook,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url,
    )
    assert result.returncode == 0, result.stderr
    assert len(slack.posts) == 1
    assert otlp.spans
    assert not [span.name for span in otlp.spans if "POST" in span.name]
    assert b"pl4nted" not in otlp.raw
    otlp.close()
