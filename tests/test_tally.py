"""What worker processes tell their parent of their deliveries when they end."""

from __future__ import annotations

import sys
import threading

import pytest

from dltobs import BackendStatus
from dltobs._redaction.redactor import Redactor
from dltobs._warnings import Warner
from dltobs._workers.tally import Tally, report
from dltobs.sinks.delivery import Delivery
from scripts import WITHOUT_THREADS, run_script


@pytest.fixture
def tally():
    one = Tally()
    yield one
    one.close()


def counted(name="otlp", delivered=0, dropped=0):
    delivery = Delivery(name, "spans", Warner(Redactor()))
    delivery.submitted(delivered + dropped)
    delivery.delivered(delivered)
    if dropped:
        delivery.dropped(dropped, "refused")
    return delivery


def test_the_counts_of_workers_are_added_to_those_of_the_same_name(tally):
    report(tally.writer, [counted(delivered=3), counted("console", delivered=1)])
    report(tally.writer, [counted(delivered=2, dropped=1)])
    own = counted(delivered=10)
    tally.collect([own])
    assert own.status == BackendStatus(delivered=15, dropped=1, last_error="refused")
    assert own.pending == 0


def test_a_worker_that_sent_nothing_takes_no_room(tally):
    report(tally.writer, [counted()])
    assert not tally._reader.poll()


def test_a_worker_does_not_wait_for_a_parent_that_does_not_read(tally):
    """The application may start thousands of processes of its own before dlt's next pool looks into the pipe."""

    def tell():
        for _ in range(5000):
            try:
                report(tally.writer, [counted(delivered=1)])
            except OSError:  # full
                return

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    own = counted()
    tally.collect([own])
    assert own.status.delivered > 100


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets one make a pipe small")
def test_children_end_although_the_pipe_is_full(otlp, tmp_path):
    """Each would hang at its end for ever."""
    result = run_script(
        """
        import fcntl, gc, multiprocessing
        import dltobs
        from dltobs._workers.tally import Tally

        dltobs.configure()
        load("shop")
        (tally,) = [one for one in gc.get_objects() if isinstance(one, Tally)]
        fcntl.fcntl(tally.writer.fileno(), 1031, 4096)  # F_SETPIPE_SZ

        def child():
            from opentelemetry import trace
            trace.get_tracer("user").start_span("work of a child").end()

        for number in range(100):
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join(10)
            print(process.exitcode)
            if process.exitcode is None:
                process.kill()
                break
        """,
        tmp_path,
        prelude="import dlt\n" + WITHOUT_THREADS,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url,
    )
    assert result.stdout.split() == ["0"] * 100, result.stderr
    assert sum(span.name == "work of a child" for span in otlp.spans) == 100


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_what_children_of_the_application_sent_is_known_after_shutdown(otlp, tmp_path):
    """No pool of dlt's ends after them, which would look into the pipe."""
    result = run_script(
        """
        import multiprocessing
        import dltobs

        dltobs.configure()
        load("shop")

        def child():
            from opentelemetry import trace
            trace.get_tracer("user").start_span("work of a child").end()

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        dltobs.shutdown()
        print(dltobs.status()["otlp"].delivered)
        """,
        tmp_path,
        prelude="import dlt\n" + WITHOUT_THREADS,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url,
    )
    assert "work of a child" in {span.name for span in otlp.spans}
    assert int(result.stdout) == len(otlp.spans), result.stderr
