"""The log file: shared by processes, rotated, and whatever others do to it or to the handlers."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import os
import stat
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

import dltobs
from conftest import SECRET
from dltobs import JsonFormatter, Redactor
from dltobs._warnings import Warner
from dltobs.logs.file import FileHandler
from scripts import run_script
from test_logs_json import record_of

FORKS = {"PYTHONWARNINGS": "ignore::DeprecationWarning"}
"""Since Python 3.12 there is a warning where threads are running."""


@contextmanager
def file_handler(path, **options):
    options = {"max_bytes": 10**6, "backup_count": 3, "warner": Warner(Redactor([SECRET])), **options}
    handler = FileHandler(path, JsonFormatter(redactor=Redactor([SECRET])), **options)
    yield handler
    handler.close()


def messages(path) -> list[str]:
    """Of all lines, each of which is whole."""
    return [json.loads(line)["message"] for line in path.read_text().splitlines()]


def handlers():
    """Those of dltobs on dlt's logger."""
    return [one for one in logging.getLogger("dlt").handlers if type(one).__module__.startswith("dltobs")]


def test_several_processes_and_threads_write_long_lines_whole_through_rotation(tmp_path):
    done = run_script(
        """
        import logging, threading
        from pathlib import Path
        from dltobs.logs.file import FileHandler
        formatter = logging.Formatter("%(message)s")
        log = logging.getLogger("dlt")
        log.addHandler(FileHandler(Path("a.log"), formatter, max_bytes=2_000_000, backup_count=99))
        log.propagate = False

        def write(name):
            for number in range(10):
                log.error("%s %d %s", name, number, name * (100_000 * (number % 4) + 1))

        def work(name):
            threads = [threading.Thread(target=write, args=(name + one,)) for one in "xyz"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        children = []
        for name in "abc":
            pid = os.fork()
            if not pid:
                work(name)
                os._exit(0)
            children.append(pid)
        work("p")
        print([os.waitpid(pid, 0)[1] for pid in children])
        """,
        tmp_path,
        **FORKS,
    )
    assert (done.stdout, done.stderr) == ("[0, 0, 0]\n", "")
    files = [path for path in tmp_path.iterdir() if path.name.startswith("a.log")]
    assert len(files) > 3
    texts = [text for path in files for text in path.read_text().splitlines()]
    expected = [(p + t, number) for p in "abcp" for t in "xyz" for number in range(10)]
    assert sorted(texts) == sorted(f"{name} {n} {name * (100_000 * (n % 4) + 1)}" for name, n in expected)


def test_a_line_that_had_no_room_leaves_no_torn_one(tmp_path):
    done = run_script(
        """
        import logging, resource, signal
        import dltobs
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        dltobs.configure(log_file="a.log", console="text", log_level="ERROR")
        log = logging.getLogger("dlt")
        log.error("first")
        limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, most))
        log.error("long %s", "x" * 3000)
        log.error("short")
        log.error("long %s", "y" * 3000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        log.error("last")
        """,
        tmp_path,
    )
    first, warning, *others = messages(tmp_path / "a.log")
    assert (first, others) == ("first", ["short", "last"])
    assert warning.startswith("log file: OSError: [Errno 27] File too large")
    assert done.stderr.count("|[WARNING]|") == 1


def test_what_the_system_takes_piece_by_piece_is_written_to_its_end(tmp_path, monkeypatch):
    write = os.write
    with file_handler(tmp_path / "a.log") as handler:
        monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
        handler.handle(record_of("é %s", "x" * 50))
        monkeypatch.undo()
    assert messages(tmp_path / "a.log") == ["é " + "x" * 50]


@pytest.mark.parametrize("how", ["moved", "deleted", "truncated"])
def test_a_file_that_somebody_takes_away_is_continued_in_a_new_one(tmp_path, how):
    path = tmp_path / "a.log"
    with file_handler(path) as handler:
        handler.handle(record_of("before"))
        if how == "moved":
            path.rename(tmp_path / "a.log-20261201")
            assert messages(tmp_path / "a.log-20261201") == ["before"]
        elif how == "deleted":
            path.unlink()
        else:
            os.truncate(path, 0)
        handler.handle(record_of("after"))
        handler.handle(record_of("later"))
    assert messages(path) == ["after", "later"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_process_goes_on_in_the_file_that_another_one_has_begun(tmp_path):
    path = tmp_path / "a.log"
    with file_handler(path, max_bytes=900) as one, file_handler(path, max_bytes=900) as other:
        one.handle(record_of("1"))
        other.handle(record_of("2"))
        one.handle(record_of("3 %s", "x" * 400))  # rotates
        other.handle(record_of("4"))
    assert messages(tmp_path / "a.log.1") == ["1", "2"]
    assert messages(path) == ["3 " + "x" * 400, "4"]


def test_without_backups_a_rotation_empties_the_file(tmp_path):
    path = tmp_path / "a.log"
    options = {"max_bytes": 500, "backup_count": 0}
    with file_handler(path, **options) as one, file_handler(path, **options) as other:
        for number in range(10):
            (one, other)[number % 2].handle(record_of("line %d", number))
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_size <= 500
    assert messages(path)[-1] == "line 9"


def test_a_line_longer_than_the_limit_has_a_file_of_its_own(tmp_path):
    with file_handler(tmp_path / "a.log", max_bytes=300) as handler:
        for text in ("short", "x" * 1000, "last"):
            handler.handle(record_of(text))
    assert [messages(tmp_path / f"a.log{one}") for one in (".2", ".1", "")] == [
        ["short"],
        ["x" * 1000],
        ["last"],
    ]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.log", "a.log.1", "a.log.2"]


def test_a_rotation_that_fails_is_one_warning_and_loses_no_line(tmp_path, caplog):
    (tmp_path / "a.log.1" / "x").mkdir(parents=True)
    with file_handler(tmp_path / "a.log", max_bytes=300, backup_count=1) as handler:
        for number in range(10):
            handler.handle(record_of("line %d", number))
    assert messages(tmp_path / "a.log") == [f"line {number}" for number in range(10)]
    assert len([one for one in caplog.records if one.name == "dltobs"]) == 1


def test_while_another_process_rotates_nobody_waits(tmp_path):
    path = tmp_path / "a.log"
    with file_handler(path, max_bytes=300) as one, file_handler(path, max_bytes=300) as other:
        one.handle(record_of("1"))
        with one._rotation_lock() as is_ours:
            assert is_ours
            for number in range(2, 5):
                other.handle(record_of(str(number)))
        assert messages(path) == ["1", "2", "3", "4"]
        other.handle(record_of("5"))
    assert messages(path) == ["5"]


def test_what_is_no_regular_file_is_written_and_stays_as_it_is(tmp_path):
    reading, writing = os.pipe()
    os.fchmod(writing, 0o644)
    with file_handler(Path(f"/dev/fd/{writing}"), max_bytes=300) as handler:
        for number in range(5):
            handler.handle(record_of("line %d", number))
    assert stat.S_IMODE(os.fstat(writing).st_mode) == 0o644
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert [json.loads(line)["message"] for line in pipe] == [f"line {number}" for number in range(5)]


def descriptors_of(path) -> list[int]:
    return [int(one.name) for one in Path("/proc/self/fd").iterdir() if one.resolve() == path.resolve()]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc")
@pytest.mark.parametrize("is_reused", [False, True])
def test_a_descriptor_that_somebody_has_closed_is_opened_again_and_never_another_file_written(
    tmp_path, is_reused
):
    path, other = tmp_path / "a.log", tmp_path / "orders.db"
    other.touch()
    dltobs.configure(log_file=path, console="off")
    log = logging.getLogger("dlt")
    log.error("1")
    (descriptor,) = descriptors_of(path)
    os.close(descriptor)  # as programs do that become daemons
    if is_reused:
        os.dup2(os.open(other, os.O_RDWR), descriptor)
    log.error("2")
    if is_reused:
        dltobs.shutdown()
        os.write(descriptor, b"data")
        os.close(descriptor)
        assert other.read_bytes() == b"data"
    assert messages(path) == ["1", "2"]


def test_a_child_keeps_no_lock_of_a_rotation_that_its_parent_began(tmp_path):
    """Nor takes it away from its parent: while the rotation lasts, the child does not rotate."""
    done = run_script(
        """
        import logging, signal, threading
        import dltobs
        dltobs.configure(log_file="a.log", log_file_max_bytes=300, log_file_backup_count=9, console="off")
        log = logging.getLogger("dlt")
        is_rotating, replace = threading.Event(), os.replace
        to_child, from_child = os.pipe(), os.pipe()

        def hang(*names):
            if threading.current_thread() is threading.main_thread():
                replace(*names)
            else:
                is_rotating.set()
                threading.Event().wait()

        parent = os.fork()
        if not parent:
            os.replace = hang
            log.error("1 %s", "x" * 200)
            threading.Thread(target=log.error, args=("2 %s", "x" * 200), daemon=True).start()
            is_rotating.wait()
            if not os.fork():
                log.error("3")
                os.write(from_child[1], b"1")
                os.read(to_child[0], 1)
                os._exit(0)
            signal.pause()
        os.read(from_child[0], 1)
        print(sorted(one for one in os.listdir() if one.startswith("a.log")), flush=True)
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        log.error("4")
        os.write(to_child[1], b"1")
        """,
        tmp_path,
        **FORKS,
    )
    assert (done.stdout, done.stderr) == ("['a.log']\n", "")
    assert messages(tmp_path / "a.log.1") == ["1 " + "x" * 200, "3"]
    assert messages(tmp_path / "a.log") == ["4"]


class AliveHook:
    """What alive_progress puts in the place of `sys.stderr`, and gives to each `StreamHandler`."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        self._stream.write("".join(f"on 0: {line}\n" for line in text.splitlines()))


AliveHook.__module__ = "alive_progress.core.hook_manager"


def hook_all():
    """Replace streams as `alive_progress.core.hook_manager.install()` does."""
    known = [logging.root, *(logging.getLogger(name) for name in logging.root.manager.loggerDict)]
    for handler in {
        one for logger in known for one in logger.handlers if isinstance(one, logging.StreamHandler)
    }:
        handler.setStream(AliveHook(handler.stream))
    if not isinstance(sys.stderr, AliveHook):  # nor does alive_progress nest them
        sys.stderr = AliveHook(sys.stderr)


def hold_for_ever(handler):
    threading.Thread(target=handler.acquire).start()


MISHAPS = {
    "alive_progress": lambda _: hook_all(),
    "setStream": lambda handler: getattr(handler, "setStream", str)(io.StringIO()),
    "setFormatter": lambda handler: handler.setFormatter(logging.Formatter("%(message)s")),
    "close": lambda handler: handler.close(),
    "acquire": hold_for_ever,
    "release": lambda handler: handler.release(),
    "setLevel": lambda handler: handler.setLevel(logging.ERROR),
    "flush": lambda handler: handler.flush(),
    "createLock": lambda handler: handler.createLock(),
    "set_name": lambda handler: handler.set_name("ours"),
    "dictConfig": lambda _: logging.config.dictConfig({"version": 1, "disable_existing_loggers": False}),
    "shutdown": lambda _: logging.shutdown(),
}


@pytest.mark.parametrize("mishap", MISHAPS)
def test_whatever_is_done_to_the_handlers_lines_come_out_whole(tmp_path, mishap, monkeypatch, capfd):
    stderr = sys.stderr
    monkeypatch.setattr(sys, "stderr", stderr)
    dltobs.configure(log_file=tmp_path / "a.log", console="json")
    assert len(handlers()) == 2
    for handler in handlers():
        MISHAPS[mishap](handler)
    for number in range(2):
        thread = threading.Thread(
            target=logging.getLogger("dlt").error, args=(f"line {number}",), daemon=True
        )
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
    dltobs.shutdown()
    monkeypatch.setattr(sys, "stderr", stderr)
    lines = [json.loads(line)["message"] for line in capfd.readouterr().err.splitlines()]
    assert lines == messages(tmp_path / "a.log") == ["line 0", "line 1"]


@pytest.mark.parametrize("progress", ["alive_progress", "enlighten", "tqdm", "log"])
def test_lines_are_whole_under_the_progress_bars_of_dlt(tmp_path, progress):
    if progress != "log":
        pytest.importorskip(progress)
    done = run_script(
        f"""
        import logging, warnings
        import dltobs
        warnings.simplefilter("ignore")
        dltobs.configure(log_file="a.jsonl", console="json", log_level="INFO")

        @dlt.resource
        def orders():
            for number in range(3):
                logging.getLogger("dlt").warning("page %d", number)
                yield {{"id": number}}

        dlt.pipeline(
            "shop", pipelines_dir="pipelines", destination=dlt.destinations.duckdb("shop.duckdb"), progress="{progress}"
        ).run(orders())
        logging.getLogger("dlt").warning("after")
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    texts = messages(tmp_path / "a.jsonl")
    assert [text for text in texts if text.startswith(("page", "after"))] == [
        "page 0",
        "page 1",
        "page 2",
        "after",
    ]
    if progress != "tqdm":  # it writes its bar to stderr, without line ends
        assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == texts
