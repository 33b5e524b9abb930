"""Console and file: whole lines, private files, and errors that tell no secret."""

from __future__ import annotations

import io
import json
import logging
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from dlt.common import logger as dlt_logger

import dltobs
from conftest import SECRET
from dltobs import ConfigurationError, JsonFormatter, Redactor
from dltobs._context.current import RunContext, current_run
from dltobs._warnings import Warner
from dltobs.logs.file import FileHandler
from dltobs.logs.handlers import ConsoleHandler, RecentLines
from dltobs.logs.text import TextFormatter
from test_logs_attach import run
from test_logs_json import record_of


class BrokenError(Exception):
    pass


class BrokenFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        raise BrokenError(record.getMessage())


@pytest.fixture
def warnings(caplog):
    """Messages of the logger `dltobs`."""
    return lambda: [record.getMessage() for record in caplog.records if record.name == "dltobs"]


def file_handler(path, formatter=None, **kw):
    kw = {"max_bytes": 10**6, "backup_count": 3, "warner": Warner(Redactor([SECRET])), **kw}
    return FileHandler(path, formatter or JsonFormatter(redactor=Redactor([SECRET])), **kw)


def mode_of(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_log_and_rotated_files_are_their_owners_alone(tmp_path):
    before = os.umask(0)
    try:
        dltobs.configure(log_file=tmp_path / "logs" / "a.log", log_file_max_bytes=300, console="off")
        for number in range(20):
            logging.getLogger("dlt").error("line %d", number)
    finally:
        os.umask(before)
    files = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert files == ["a.log", "a.log.1", "a.log.2", "a.log.3", "a.log.4", "a.log.5"]
    assert {mode_of(tmp_path / "logs" / name) for name in files} == {0o600}


def test_an_existing_file_becomes_private_and_is_appended_to(tmp_path):
    path = tmp_path / "a.log"
    path.write_text('{"before": 1}\n')
    path.chmod(0o644)
    dltobs.configure(log_file=path, console="off")
    logging.getLogger("dlt").error("after")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"before": 1}
    assert lines[1]["message"] == "after"
    assert mode_of(path) == 0o600


def test_rotation_keeps_the_newest_lines_whole(tmp_path):
    handler = file_handler(tmp_path / "a.log", max_bytes=2000, backup_count=2)
    for number in range(100):
        handler.handle(record_of("line %d", number))
    handler.close()
    texts = [(tmp_path / name).read_text() for name in ("a.log.2", "a.log.1", "a.log")]
    numbers = [int(json.loads(line)["message"].split()[1]) for text in texts for line in text.splitlines()]
    assert numbers == list(range(numbers[0], 100))
    assert all(len(text) < 2500 for text in texts)


def test_a_text_file_is_written_in_dlts_format(tmp_path):
    dltobs.configure(log_file=tmp_path / "a.log", log_file_format="text", console="off")
    logging.getLogger("dlt").error("é \udcff password=hunter22")
    line = (tmp_path / "a.log").read_text(encoding="utf-8").rstrip("\n")
    assert line.endswith("|é ? password=***")
    assert "|[ERROR]|" in line


WRITER = """
import logging, sys
from pathlib import Path
from dltobs import JsonFormatter, Redactor
from dltobs.logs import file
from dltobs.logs.file import FileHandler
name = sys.argv[1]
file._APPENDS_ARE_ATOMIC = sys.argv[2] == "atomic"
handler = FileHandler(
    Path("shared.log"), JsonFormatter(redactor=Redactor()), max_bytes=20_000, backup_count=200
)
logger = logging.getLogger("dlt")
logger.addHandler(handler)
logger.propagate = False
print("ready", flush=True)
sys.stdin.readline()
for number in range(400):
    logger.warning("%s:%d:%s", name, number, "x" * (number % 300))
"""


@pytest.mark.parametrize("appends", ["atomic", "locked"])
def test_several_processes_lose_and_tear_no_line_through_rotation(tmp_path, appends):
    """Where the system does not append in one piece (Windows), by a lock for each line."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, name, appends],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        )
        for name in "abcd"
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    errors = [writer.communicate(timeout=100)[1] for writer in writers]
    assert errors == ["", "", "", ""]
    files = [path for path in tmp_path.iterdir() if path.name.startswith("shared.log")]
    files = [path for path in files if path.suffix != ".lock"]
    assert len(files) > 5
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    seen = sorted(tuple(line["message"].split(":")[:2]) for line in lines)
    assert seen == sorted((name, str(number)) for name in "abcd" for number in range(400))
    assert {mode_of(path) for path in files} == {0o600}


def test_a_forked_process_writes_into_the_same_file(tmp_path):
    done = run(
        """
        dltobs.configure(log_file="a.log", log_file_max_bytes=3000, log_file_backup_count=100, console="off")
        log = logging.getLogger("dlt")
        log.error("parent")
        children = []
        for child in range(4):
            pid = os.fork()
            if pid == 0:
                for number in range(50):
                    log.error("child %d %d", child, number)
                os._exit(0)
            children.append(pid)
        for number in range(50):
            log.error("parent %d", number)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
        """,
        tmp_path,
        PYTHONWARNINGS="ignore::DeprecationWarning",
    )
    assert (done.returncode, done.stderr) == (0, "")
    texts = [path.read_text() for path in tmp_path.iterdir() if path.name.startswith("a.log")]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    assert len({line["message"] for line in lines}) == len(lines) == 251
    assert len({line["process"] for line in lines}) == 5


def test_an_unusable_path_is_a_configuration_error_with_its_reason(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="log_file"):
        dltobs.configure(log_file=tmp_path / "file" / "a.log")
    with pytest.raises(ConfigurationError, match="log_file"):
        dltobs.configure(log_file=tmp_path)


@pytest.mark.parametrize("kind", ["console", "file"])
def test_an_error_of_a_handler_is_one_warning_and_never_prints_the_record(kind, tmp_path, warnings, capfd):
    warner = Warner(Redactor([SECRET]))
    if kind == "console":
        handler: logging.Handler = ConsoleHandler(BrokenFormatter(), warner)
    else:
        handler = file_handler(tmp_path / "a.log", BrokenFormatter(), warner=warner)
    assert logging.raiseExceptions
    for number in range(3):
        handler.handle(record_of(f"{SECRET} {number}"))
    (warning,) = warnings()
    assert warning.startswith(f"{'console log' if kind == 'console' else 'log file'}: BrokenError: ***")
    assert SECRET not in capfd.readouterr().err


def test_a_line_of_a_run_that_cannot_be_written_is_one_warning(tmp_path, caplog):
    """Where dlt's own lines are off, it is the only one that shows that the disk is full."""
    logger = logging.getLogger("dltobs")
    handler = file_handler(tmp_path / "a.log", BrokenFormatter())
    logger.addHandler(handler)
    for number in range(3):
        logger.error("line %d", number)
    logger.removeHandler(handler)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.getMessage().startswith("log file: BrokenError: line 0")


def test_a_full_disk_is_one_warning_and_the_run_goes_on(tmp_path):
    done = run(
        """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        learn()
        dltobs.configure(log_file="a.log", console="text", log_level="ERROR")
        learn()
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        log = logging.getLogger("dlt")
        for number in range(20):
            log.error("line %d %s", number, SECRET)
        dltobs.shutdown()
        print("done")
        """,
        tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, "done\n")
    warnings = [line for line in done.stderr.splitlines() if "|[WARNING]|" in line]
    assert len(warnings) == 1
    assert "log file: OSError: [Errno 27] File too large" in warnings[0]
    assert len([line for line in done.stderr.splitlines() if "|[ERROR]|" in line]) == 20
    assert "Traceback" not in done.stderr
    assert "--- Logging error ---" not in done.stderr


def test_a_console_that_cannot_be_written_is_one_warning_in_the_file(tmp_path):
    script = f"""
        import logging, os, dltobs, dlt
        os.environ["API_KEY"] = {SECRET!r}
        dltobs.configure(log_file="a.log")
        dlt.secrets["api_key"]
        for number in range(5):
            logging.getLogger("dlt").error("line %d {SECRET}", number)
        dltobs.shutdown()
    """
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], stderr=full, cwd=tmp_path, check=False
        )
    lines = [json.loads(line) for line in (tmp_path / "a.log").read_text().splitlines()]
    assert SECRET not in (tmp_path / "a.log").read_text()
    assert [line["level"] for line in lines].count("ERROR") == 5
    (warning,) = [line for line in lines if line["logger"] == "dltobs"]
    assert warning["level"] == "WARNING"
    assert "console log: OSError: [Errno 28]" in warning["message"]
    assert done.returncode in (0, 120)  # 120 is Python's own, where stderr cannot be flushed at exit


def test_a_file_that_cannot_be_closed_does_not_disturb_shutdown(tmp_path, warnings, monkeypatch):
    dltobs.configure(log_file=tmp_path / "a.log", console="off")
    logging.getLogger("dlt").error("x")
    inode = (tmp_path / "a.log").stat().st_ino
    close = os.close

    def fail(descriptor: int) -> None:
        is_ours = os.fstat(descriptor).st_ino == inode
        close(descriptor)
        if is_ours:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "close", fail)
    dltobs.shutdown()
    monkeypatch.undo()
    assert [text for text in warnings() if "No space left on device" in text]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("is_json", [True, False])
def test_a_console_that_cannot_encode_a_character_escapes_it(encoding, is_json, monkeypatch):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding, "strict")
    monkeypatch.setattr(sys, "stderr", stream)
    redactor = Redactor([SECRET])
    formatter = JsonFormatter(redactor=redactor) if is_json else TextFormatter(redactor=redactor)
    message = "é 日本 😀 \u2028 \udcff"
    ConsoleHandler(formatter).handle(record_of(message))
    monkeypatch.undo()
    text = raw.getvalue().decode(encoding)
    if is_json:
        assert json.loads(text)["message"] == "é 日本 😀 \u2028 \\udcff"
    else:
        assert "\\u65e5\\u672c \\U0001f600" in text


def test_a_console_of_the_least_possible_kind_is_written(monkeypatch):
    class Least:
        def write(self, text: str) -> None:
            written.append(text)

        def flush(self) -> None:
            pass

    written: list[str] = []
    monkeypatch.setattr(sys, "stderr", Least())
    ConsoleHandler(logging.Formatter()).handle(record_of("é"))
    monkeypatch.undo()
    assert written == ["é\n"]


def test_without_a_stderr_the_console_is_silent(monkeypatch, warnings):
    handler = ConsoleHandler(logging.Formatter())
    monkeypatch.setattr(sys, "stderr", None)
    handler.handle(record_of("nowhere"))
    assert warnings() == []


def test_a_closed_stderr_is_one_warning(monkeypatch, warnings):
    closed = io.StringIO()
    closed.close()
    handler = ConsoleHandler(logging.Formatter(), Warner(Redactor()))
    monkeypatch.setattr(sys, "stderr", closed)
    for _ in range(3):
        handler.handle(record_of("nowhere"))
    monkeypatch.undo()
    assert len(warnings()) == 1


def test_threads_write_whole_lines_to_the_console(capfd):
    import threading

    handler = ConsoleHandler(JsonFormatter(redactor=Redactor([SECRET])))

    def write(name: str) -> None:
        for number in range(100):
            handler.handle(record_of("%s %d %s", name, number, SECRET))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [json.loads(line)["message"] for line in capfd.readouterr().err.splitlines()]
    assert sorted(lines) == sorted(f"{name} {number} ***" for name in "abc" for number in range(100))


def test_recent_lines_are_those_of_the_run_and_the_newest():
    memory = RecentLines()
    run_context = RunContext("shop", "load", "1" * 32)
    token = current_run.set(run_context)
    memory.handle(record_of("before it began"))
    memory.begin("1" * 32)
    for number in range(60):
        memory.handle(record_of("line %d", number))
    current_run.reset(token)
    memory.handle(record_of("outside"))
    lines = memory.take("1" * 32)
    assert [line.message for line in lines] == [f"line {number}" for number in range(10, 60)]
    assert memory.take("1" * 32) == ()


def test_our_own_warnings_appear_on_console_and_in_the_file_without_secrets(tmp_path, capfd, monkeypatch):
    import dlt

    monkeypatch.setenv("API_KEY", SECRET)
    dltobs.configure(log_file=tmp_path / "a.log", console="text")
    assert dlt.secrets["api_key"] == SECRET
    logging.getLogger("dltobs").warning("trouble with %s", SECRET)
    assert capfd.readouterr().err.endswith("|trouble with ***\n")
    (line,) = map(json.loads, (tmp_path / "a.log").read_text().splitlines())
    assert line["message"] == "trouble with ***"
    dlt_logger.error("x")
