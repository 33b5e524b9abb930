"""A file of the spool that somebody has claimed, and is to be gone; folders that no spool can be in."""

from __future__ import annotations

import threading
import time

import pytest

import dltobs
from dltobs import ConfigurationError, Redactor, _state
from dltobs._spool.spool import Spool
from dltobs._warnings import Warner
from servers import OtlpServer

TARGET = "http://collector:4318/v1/traces"

pytestmark = pytest.mark.usefixtures("time_to_keep")


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool", 10_000_000, Warner(Redactor()), lambda *_: None)


@pytest.fixture
def warnings(caplog):
    return lambda: [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.mark.parametrize("end", [Spool.release, Spool.done])
def test_what_was_acknowledged_is_gone_though_somebody_is_sending_it(spool, warnings, end):
    spool.keep("otlp", TARGET, b"late", entry_id="late")
    spool.keep("otlp", TARGET, b"other", entry_id="other")
    claim = spool.claim(spool.entries()[0])
    spool.discard("otlp", "late")
    end(spool, claim)
    (left,) = spool.entries()
    assert spool.claim(left).payload == b"other"
    assert warnings() == []


def test_of_another_back_end_nothing_is_discarded(spool):
    spool.keep("sentry", TARGET, b"x", entry_id="same")
    claim = spool.claim(spool.entries()[0])
    spool.discard("otlp", "same")
    spool.release(claim)
    assert len(spool.entries()) == 1


@pytest.mark.parametrize("was_claimed", [False, True])
def test_what_changes_hands_just_then_is_discarded_all_the_same(spool, monkeypatch, warnings, was_claimed):
    """The file has another name when it is to be taken away than when it was looked for."""
    spool.keep("otlp", TARGET, b"late", entry_id="late")
    (entry,) = spool.entries()
    claim = spool.claim(entry) if was_claimed else None
    scan, seen = spool._scan, []

    def scanned():
        found = scan()
        if not seen:
            seen.append(found)
            if claim is None:
                spool.claim(entry)
            else:
                spool.release(claim)
        return found

    monkeypatch.setattr(spool, "_scan", scanned)
    spool.discard("otlp", "late")
    assert seen
    assert list(spool.folder.iterdir()) == []
    assert warnings() == []


def test_what_is_discarded_while_it_is_being_claimed_is_claimed_by_nobody(spool, monkeypatch, warnings):
    from dltobs._spool import spool as module

    spool.keep("otlp", TARGET, b"late", entry_id="late")
    (entry,) = spool.entries()
    read = module.read

    def too_late(path):
        spool.discard("otlp", "late")
        return read(path)

    monkeypatch.setattr(module, "read", too_late)
    assert spool.claim(entry) is None
    assert list(spool.folder.iterdir()) == []
    assert warnings() == []


class Slow(OtlpServer):
    """Answers each request when it is told to: `answers` are codes by the order in which requests came."""

    def __init__(self) -> None:
        self.answers: list[tuple[threading.Event, int]] = [(threading.Event(), 200), (threading.Event(), 503)]
        self._mine = threading.local()
        super().__init__()

    def received(self, request):
        self._mine.number = len(self.requests)
        super().received(request)

    def status_for(self, path):
        event, code = self.answers[self._mine.number]
        event.wait(120)
        return code


def test_a_late_acknowledgement_holds_while_the_next_set_up_is_sending(monkeypatch, tmp_path, pipeline):
    """Acknowledged once, though another attempt was under way that failed: it is never sent again."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "120")
    server = Slow()
    first, second = (event for event, _ in server.answers)
    kept = (tmp_path / "dlt" / "dltobs" / "spool").glob
    dltobs.configure(otlp_endpoint=server.url, metrics="off", flush_timeout=3)
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    wait_for(lambda: list(kept("*.ready")))
    assert len(server.requests) == 1
    dltobs.configure(otlp_endpoint=server.url, metrics="off", flush_timeout=3)
    wait_for(lambda: len(server.requests) == 2)
    first.set()
    wait_for(lambda: not list(kept("*")))
    second.set()
    assert _state.runtime.resending.wait(60)
    assert list(kept("*")) == []
    dltobs.flush_spool(60)
    dltobs.shutdown()
    assert len(server.requests) == 2
    server.close()


def test_a_folder_that_no_path_can_name_is_an_error():
    with pytest.raises(
        ConfigurationError, match=r"spool_dir \(argument of configure\(\)\): .* cannot be used"
    ):
        dltobs.configure(spool_dir="spool\ud800")
    assert dltobs.status() == {}
