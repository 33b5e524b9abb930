"""An uncaught exception is printed without its secret, and who was told before is told as before."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading

import pytest

import dltobs
from conftest import SECRET
from dltobs import Redactor
from dltobs._excepthook import ExceptHook
from dltobs._settings.settings import Settings
from dltobs._warnings import Warner
from dltobs.logs.output import LogOutput
from scripts import run_script
from test_logs_attach import run
from test_logs_json import Exploding

CONFIGURE = "dltobs.configure(); learn()\n"
JSON = {"RUNTIME__LOG_FORMAT": "JSON"}


def uncaught(script: str, tmp_path, **environment: str):
    """Run a script that fails; its exit code is Python's own."""
    done = run(script, tmp_path, **environment)
    assert done.returncode == 1, done.stderr
    return done


def lines_of(done) -> list:
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_an_exception_is_printed_as_python_does_without_its_secret(tmp_path):
    done = uncaught(CONFIGURE + "raise ValueError(f'refused {SECRET}')", tmp_path)
    first, *_, last = done.stderr.splitlines()
    assert first == "Traceback (most recent call last):"
    assert last == "ValueError: refused ***"
    assert done.stderr.count("Traceback") == 1


def test_in_json_mode_an_exception_is_one_line(tmp_path):
    script = (
        CONFIGURE
        + """
def broken():
    raise KeyError(SECRET) from ValueError("cause " + SECRET)
broken()
"""
    )
    (line,) = lines_of(uncaught(script, tmp_path, **JSON))
    assert (line["level"], line["logger"]) == ("CRITICAL", "dltobs.excepthook")
    assert line["message"] == "Uncaught KeyError"
    assert line["function"] == "broken"
    assert line["exception"]["type"] == "KeyError"
    assert line["exception"]["stacktrace"].startswith("ValueError: cause ***\n")
    assert line["thread"] == "MainThread"
    assert line["service"] == "dlt"


def test_the_console_setting_decides_over_text_and_json(tmp_path):
    script = "dltobs.configure(console={!r}); learn()\nraise ValueError(SECRET)"
    assert len(lines_of(uncaught(script.format("json"), tmp_path))) == 1
    assert uncaught(script.format("text"), tmp_path, **JSON).stderr.startswith("Traceback")


THREAD = """
import threading
import time
def work():
    raise ValueError(f"refused {SECRET}")
thread = threading.Thread(target=work, name="worker-7")
thread.start(); thread.join()
"""


def test_an_exception_in_a_thread_is_printed_without_its_secret(tmp_path):
    done = run(CONFIGURE + THREAD, tmp_path)
    assert done.returncode == 0
    assert done.stderr.startswith("Exception in thread worker-7:\nTraceback")
    assert done.stderr.endswith("ValueError: refused ***\n")


def test_an_exception_in_a_thread_is_one_line_in_json_mode(tmp_path):
    done = run(CONFIGURE + THREAD, tmp_path, **JSON)
    (line,) = lines_of(done)
    assert (line["thread"], line["function"]) == ("worker-7", "work")
    assert line["exception"]["message"] == "refused ***"


def test_system_exit_in_a_thread_is_silent(tmp_path):
    done = run(CONFIGURE + THREAD.replace("ValueError", "SystemExit"), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_many_threads_that_crash_at_once_all_appear_and_stderr_survives(tmp_path):
    script = (
        CONFIGURE
        + """
import threading
import time
barrier = threading.Barrier(20)
def work(number):
    barrier.wait()
    raise ValueError(f"crash {number:02} {SECRET}")
before = sys.stderr, sys.__stderr__
threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
for t in threads: t.start()
for t in threads: t.join()
assert (sys.stderr, sys.__stderr__) == before
print("end", file=sys.stderr)
"""
    )
    *lines, end = run(script, tmp_path, **JSON).stderr.splitlines()
    assert end == "end"
    messages = sorted(json.loads(line)["exception"]["message"] for line in lines)
    assert messages == [f"crash {number:02} ***" for number in range(20)]


def test_a_hook_that_was_there_is_called_and_what_it_prints_is_redacted(tmp_path):
    script = """
    import traceback
    def hook(kind, error, trace):
        print(f"own hook: {error}", file=sys.stderr)
        print(f"told {kind.__name__}")
        sys.__stderr__.write(f"directly: {error}\\n")
        sys.stderr.buffer.write(f"bytes: {error}\\n".encode())
    sys.excepthook = hook
    dltobs.configure(); learn()
    raise ValueError(SECRET)
    """
    done = uncaught(script, tmp_path)
    assert done.stdout == "told ValueError\n"
    assert done.stderr.startswith("own hook: ***\ndirectly: ***\nbytes: ***\nTraceback")
    assert done.stderr.endswith("ValueError: ***\n")
    first, second = lines_of(uncaught(script, tmp_path, **JSON))
    assert first["message"] == "own hook: ***\ndirectly: ***\nbytes: ***"
    assert first["logger"] == "stderr"
    assert second["exception"]["message"] == "***"


def test_a_hook_that_logs_to_a_handler_made_before_is_redacted_too(tmp_path):
    script = """
    logging.basicConfig(format="%(levelname)s %(message)s")
    def hook(*info):
        logging.getLogger("app").critical("uncaught", exc_info=info)
    sys.excepthook = hook
    dltobs.configure(); learn()
    raise ValueError(SECRET)
    """
    done = uncaught(script, tmp_path)
    assert done.stderr.startswith("CRITICAL uncaught\nTraceback")
    assert done.stderr.count("ValueError: ***") == 1


def test_a_hook_that_prints_the_trace_in_its_own_way_is_enough(tmp_path):
    script = """
    import rich.traceback
    rich.traceback.install(show_locals=True)
    dltobs.configure(); learn()
    def broken(password):
        raise ValueError(f"refused {password}")
    broken(SECRET)
    """
    done = uncaught(script, tmp_path)
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert "ValueError: refused ***" in done.stderr


@pytest.mark.parametrize("mode", [{}, JSON])
def test_a_hook_that_raises_loses_neither_exception(mode, tmp_path):
    script = """
    def hook(kind, error, trace):
        print("began", file=sys.stderr)
        raise RuntimeError(f"hook broken by {error}")
    sys.excepthook = hook
    dltobs.configure(); learn()
    raise ValueError(SECRET)
    """
    done = uncaught(script, tmp_path, **mode)
    assert "began" in done.stderr
    assert "hooks for uncaught exceptions" in done.stderr.replace("a hook for", "hooks for")
    assert "RuntimeError: hook broken by ***" in done.stderr
    assert "ValueError: ***" in done.stderr


def test_a_hook_that_closes_stderr_does_not_bring_the_secret_to_light(tmp_path):
    script = """
    def hook(kind, error, trace):
        print(error, file=sys.stderr)
        sys.stderr.close()
        sys.stderr.buffer.close()
        sys.__excepthook__(kind, error, trace)
        raise RuntimeError(error)
    sys.excepthook = hook
    dltobs.configure(); learn()
    raise ValueError(SECRET)
    """
    assert "\nValueError: ***\n" in uncaught(script, tmp_path).stderr
    assert lines_of(uncaught(script, tmp_path, **JSON))[-1]["exception"]["message"] == "***"


def test_a_handler_that_does_not_give_its_stream_away_is_no_obstacle(capfd):
    class Stubborn(logging.StreamHandler):
        def setStream(self, stream):  # noqa: N802 - the name is logging's
            raise RuntimeError(stream)

    handler = Stubborn()
    logging.getLogger("app.hook").addHandler(handler)
    hook = ExceptHook(Redactor([SECRET]))
    hook.attach()
    stderr = sys.stderr
    sys.excepthook(ValueError, ValueError(SECRET), None)
    hook.detach()
    logging.getLogger("app.hook").removeHandler(handler)
    assert sys.stderr is stderr
    assert capfd.readouterr().err == "ValueError: ***\n"


def test_a_hook_that_ends_the_process_decides_on_the_exit_code(tmp_path):
    script = """
    def hook(kind, error, trace):
        print(f"bye {error}", file=sys.stderr)
        raise SystemExit(7)
    sys.excepthook = hook
    dltobs.configure(); learn()
    raise ValueError(SECRET)
    """
    done = run(script, tmp_path)
    assert done.returncode == 7
    assert done.stderr.startswith("bye ***\n")


@pytest.mark.parametrize(
    "order",
    [
        "sentry_sdk.init(DSN, shutdown_timeout=30); dltobs.configure()",
        "dltobs.configure(); sentry_sdk.init(DSN, shutdown_timeout=30)",
    ],
)
@pytest.mark.parametrize("mode", [{}, JSON])
def test_the_applications_sentry_still_gets_its_event(order, mode, tmp_path, sentry):
    script = f"""
    import sentry_sdk
    DSN = {sentry.dsn!r}
    {order}; learn()
    raise ValueError(f"refused {{SECRET}}")
    """
    done = uncaught(script, tmp_path, **mode)
    (event,) = sentry.events
    assert event["exception"]["values"][-1]["type"] == "ValueError"
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is False
    if mode:
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("{")]
        assert json.loads(line)["exception"]["message"] == "refused ***"
    else:
        assert done.stderr.count("Traceback") == 1
        assert "ValueError: refused ***" in done.stderr


def test_cause_chain_and_notes_are_printed_without_secrets(tmp_path):
    script = (
        CONFIGURE
        + """
try:
    try:
        raise KeyError("first " + SECRET)
    except KeyError:
        raise OSError("second " + SECRET)
except OSError as error:
    last = ValueError("third " + SECRET)
    if hasattr(last, "add_note"):
        last.add_note("note " + SECRET)
    raise last from error
"""
    )
    text = uncaught(script, tmp_path).stderr
    for part in ("KeyError: 'first ***'", "OSError: second ***", "ValueError: third ***"):
        assert part in text
    assert ("note ***" in text) == (sys.version_info >= (3, 11))
    (line,) = lines_of(uncaught(script, tmp_path, **JSON))
    assert "KeyError: 'first ***'" in line["exception"]["stacktrace"]


def test_keyboard_interrupt_ends_the_process_as_before(tmp_path):
    alone = run("learn()\nraise KeyboardInterrupt(SECRET[:0])", tmp_path)
    done = run(CONFIGURE + "raise KeyboardInterrupt(SECRET)", tmp_path)
    assert done.returncode == alone.returncode
    assert done.stderr.endswith("KeyboardInterrupt: ***\n")


def test_an_exception_that_cannot_print_itself_is_printed(tmp_path):
    script = (
        CONFIGURE
        + """
class Mute(Exception):
    def __str__(self):
        raise RuntimeError(SECRET)
raise Mute
"""
    )
    assert "Mute: <exception str() failed>" in uncaught(script, tmp_path).stderr
    (line,) = lines_of(uncaught(script, tmp_path, **JSON))
    assert line["exception"]["message"] == "<unprintable Mute>"


@pytest.mark.parametrize("state", ["sys.stderr = None", "sys.stderr.close()", "del sys.stderr"])
@pytest.mark.parametrize("mode", [{}, JSON])
def test_without_a_usable_stderr_nothing_is_printed_and_the_exit_code_stays(state, mode, tmp_path):
    script = (
        CONFIGURE
        + f"""
told = []
{state}
raise ValueError(SECRET)
"""
    )
    alone = run(f"{state}\nraise ValueError('x')", tmp_path)
    done = run(script, tmp_path, **mode)
    assert done.returncode == alone.returncode
    assert "Traceback" not in done.stderr


def test_a_thread_without_stderr_does_not_print_to_the_one_it_was_started_with(tmp_path):
    script = CONFIGURE + THREAD.replace("thread.start()", "thread.start").replace(
        "    raise", "    sys.stderr = None\n    raise"
    ).replace("thread.start;", "thread.start();")
    done = run(script, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("mode", [{}, JSON])
def test_after_shutdown_pythons_own_behaviour_is_back(mode, tmp_path):
    script = """
    dltobs.configure()
    dltobs.shutdown()
    import threading
    assert sys.excepthook is sys.__excepthook__
    assert threading.excepthook is threading.__excepthook__
    raise ValueError("plain")
    """
    done = uncaught(script, tmp_path, **mode)
    assert done.stderr.endswith("ValueError: plain\n")


def test_switched_off_the_hooks_are_not_touched():
    before = sys.excepthook, threading.excepthook
    dltobs.configure(excepthook=False)
    assert (sys.excepthook, threading.excepthook) == before


def test_a_hook_that_came_after_ours_stays_and_ours_steps_aside(capfd):
    dltobs.configure()
    ours = sys.excepthook
    told = []

    def later(*info):
        told.append(info)
        ours(*info)

    sys.excepthook = later
    dltobs.shutdown()
    assert sys.excepthook is later
    error = ValueError("password=hunter22")
    later(ValueError, error, None)
    assert told
    assert capfd.readouterr().err == "ValueError: password=hunter22\n"  # Python's own behaviour


@pytest.mark.parametrize("console", ["text", "json"])
def test_if_redaction_fails_the_exception_is_withheld(console, capfd):
    redactor = Exploding()
    log = LogOutput(Settings(console=console), redactor, Warner(redactor), log_file=None, recent_lines=None)
    log.handlers_for("")
    hook = ExceptHook(redactor, log)
    hook.attach()
    sys.excepthook(ValueError, ValueError(SECRET), None)
    hook.detach()
    log.release_own_logger()
    text = capfd.readouterr().err
    assert "[withheld]" in text
    assert SECRET not in text


def test_if_the_log_fails_the_exception_is_withheld(capfd):
    class Broken:
        @property
        def console_is_json(self):
            raise RuntimeError(SECRET)

    hook = ExceptHook(Redactor([SECRET]), Broken())
    hook.attach()
    sys.excepthook(ValueError, ValueError(SECRET), None)
    hook.detach()
    assert capfd.readouterr().err == "[withheld]\n"


def test_hooks_of_threads_that_crash_at_once_run_at_once_each_redacted(capfd):
    """Nobody waits for another thread's hook, and none is left out."""
    together = threading.Barrier(3)

    def hook_of_the_application(args):
        together.wait(30)  # three hooks are running
        sys.stderr.write(f"{args.thread.name} told {args.exc_value}\n")
        together.wait(30)

    def crash():
        raise ValueError(SECRET)

    previous, stderr = threading.excepthook, sys.stderr
    threading.excepthook = hook_of_the_application
    hook = ExceptHook(Redactor([SECRET]))
    hook.attach()
    try:
        threads = [threading.Thread(target=crash, name=f"thread{number}") for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        hook.detach()
        threading.excepthook = previous
    text = capfd.readouterr().err
    assert sorted(line for line in text.splitlines() if "told" in line) == [
        f"thread{number} told ***" for number in range(3)
    ]
    assert SECRET not in text
    assert sys.stderr is stderr


def test_a_hook_that_waits_for_another_crashing_thread_does_not_hang(capfd):
    def crash():
        raise ValueError(f"second {SECRET}")

    def waiting(kind, error, trace):
        thread = threading.Thread(target=crash)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()

    sys.excepthook = waiting
    hook = ExceptHook(Redactor([SECRET]))
    hook.attach()
    stderr = sys.stderr
    sys.excepthook(ValueError, ValueError(f"first {SECRET}"), None)
    hook.detach()
    assert sys.stderr is stderr
    text = capfd.readouterr().err
    assert "first ***" in text
    assert "second ***" in text
    assert SECRET not in text


def test_handlers_write_to_their_own_stream_again_afterwards(capfd):
    handler = logging.StreamHandler()
    logging.getLogger("app.hook").addHandler(handler)
    sys.excepthook = lambda *info: logging.getLogger("app.hook").error("told %s", info[1])
    hook = ExceptHook(Redactor([SECRET]))
    hook.attach()
    sys.excepthook(ValueError, ValueError(SECRET), None)
    hook.detach()
    assert handler.stream is sys.stderr
    logging.getLogger("app.hook").removeHandler(handler)
    assert capfd.readouterr().err.startswith("told ***\n")


def test_a_hook_that_ends_the_process_at_once_does_not_take_the_exception_with_it(tmp_path):
    script = """
import os, traceback
def last(*args):
    traceback.print_exception(*args)
    os._exit(3)
sys.excepthook = last
dltobs.configure(); learn()
raise ValueError(f"refused {SECRET}")
"""
    done = run("import sys\n" + script, tmp_path)
    assert done.returncode == 3
    assert done.stderr.endswith("ValueError: refused ***\n")
    assert done.stderr.count("Traceback") == 1


@pytest.mark.parametrize("environment", [{}, JSON])
def test_an_exception_that_python_cannot_raise_is_printed_without_its_secret(tmp_path, environment):
    script = """
class Closing:
    def __del__(self):
        raise ValueError(f"cannot close {SECRET}")
one = Closing()
del one
"""
    done = run(CONFIGURE + script, tmp_path, **environment)
    assert done.returncode == 0
    assert "cannot close ***" in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize("console", ["text", "json"])
def test_what_other_threads_write_meanwhile_is_neither_lost_nor_repeated(console, capfd):
    """A hook of somebody else's runs for as long as it likes, while other threads go on."""
    handler = logging.StreamHandler()
    app = logging.getLogger("app.hook")
    app.addHandler(handler)
    kept = []

    def write():
        print("printed by another thread", file=sys.stderr)
        sys.__stderr__.write("written by another thread\n")
        app.error("logged by another thread")
        logging.getLogger("dltobs").warning("3 events are kept in the spool")

    def hook(kind, error, trace):
        print(f"own: {error}", file=sys.stderr)
        kept.append(sys.stderr)
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()

    sys.excepthook = hook
    dltobs.configure(console=console, redact_patterns=["pl4nted"])
    before = sys.stderr, sys.__stderr__, handler.stream
    sys.excepthook(ValueError, ValueError("pl4nted"), None)
    assert before == (sys.stderr, sys.__stderr__, handler.stream)
    print("kept and used later", file=kept[0])
    app.removeHandler(handler)
    text = capfd.readouterr().err
    for line in (
        "printed by another thread\n",
        "written by another thread\n",
        "logged by another thread\n",
        "3 events are kept in the spool",
        "own: ***",
        "kept and used later\n",
    ):
        assert text.count(line) == 1, line
    assert "pl4nted" not in text


def test_with_pythons_own_hook_stderr_is_not_touched(monkeypatch, capfd):
    class Watched:
        """A stderr that looks whether it is still the one while somebody writes."""

        def __init__(self):
            self.text = ""

        def write(self, text):
            assert sys.stderr is self
            self.text += text

        def flush(self):
            pass

    dltobs.configure(redact_patterns=["pl4nted"])
    watched = Watched()
    monkeypatch.setattr(sys, "stderr", watched)
    sys.excepthook(ValueError, ValueError("pl4nted"), None)
    assert watched.text == "ValueError: ***\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_the_line_is_json_on_a_stderr_of_any_encoding(encoding, monkeypatch):
    dltobs.configure(console="json")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(written, encoding, "backslashreplace", newline=""))
    sys.excepthook(ValueError, ValueError("Größe → 🚀"), None)
    line = json.loads(written.getvalue().decode(encoding))
    assert line["exception"]["message"] == "Größe → 🚀"


def test_an_exception_stands_in_the_log_file_and_in_loguru_too(tmp_path):
    script = """
    from loguru import logger
    logger.remove()
    logger.add("loguru.txt", format="{level} {name} {message}")
    dltobs.configure(console="text", log_file="dlt.jsonl", loguru=True); learn()
    raise ValueError(f"refused {SECRET}")
    """
    done = uncaught(script, tmp_path)
    assert done.stderr.endswith("ValueError: refused ***\n")
    assert done.stderr.count("refused") == 1
    (line,) = [json.loads(line) for line in (tmp_path / "dlt.jsonl").read_text().splitlines()]
    assert (line["level"], line["message"]) == ("CRITICAL", "Uncaught ValueError")
    assert (line["exception"]["type"], line["exception"]["message"]) == ("ValueError", "refused ***")
    text = (tmp_path / "loguru.txt").read_text()
    assert text.startswith("CRITICAL dltobs.excepthook Uncaught ValueError\nTraceback")
    assert SECRET not in text


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python prints no colours before 3.13")
def test_colours_are_those_of_python_where_nothing_is_redacted(monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    dltobs.configure(redact_patterns=["pl4nted"])
    sys.excepthook(ValueError, ValueError("harmless"), None)
    assert "\x1b[" in capfd.readouterr().err
    sys.excepthook(ValueError, ValueError("pl4nted"), None)
    assert capfd.readouterr().err == "ValueError: ***\n"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no groups before 3.11")
@pytest.mark.parametrize("console", ["text", "json"])
def test_of_a_group_every_exception_is_printed(console, capfd):
    dltobs.configure(console=console, redact_patterns=["pl4nted"])
    pages = [ValueError(f"page {number} failed with pl4nted") for number in range(12)]
    group = ExceptionGroup("tasks", [*pages, ExceptionGroup("inner", [KeyError("pl4nted")])])  # noqa: F821
    sys.excepthook(type(group), group, None)
    text = capfd.readouterr().err
    for number in range(12):
        assert f"page {number} failed with ***" in text
    assert "KeyError: '***'" in text


FAILS = """
import dltobs
dltobs.configure({settings})
try:
    pipeline().run(broken())
except Exception as error:
    caught = error
{raises}
"""


def crashed(tmp_path, raises: str = "raise caught", settings: str = "", **variables: str):
    """The lines of the log file of a script whose run has failed, and what was printed."""
    done = run_script(
        FAILS.format(raises=raises, settings=settings), tmp_path, DLTOBS__LOG_FILE="dlt.log", **variables
    )
    assert done.returncode == 1
    return (tmp_path / "dlt.log").read_text().splitlines(), done.stderr


@pytest.mark.parametrize("mode", [{}, JSON], ids=["text", "json"])
def test_what_the_line_of_a_run_tells_is_pointed_to_in_one_short_line(mode, tmp_path):
    lines, stderr = crashed(tmp_path, **mode)
    told, pointer = [json.loads(line) for line in lines]
    assert (told["level"], told["exception"]["message"]) == ("ERROR", "no such order")
    assert pointer["level"] == "CRITICAL"
    assert pointer["message"] == (
        "Uncaught dlt.pipeline.exceptions.PipelineStepFailed, which ended the run of shop: see the line of that run"
    )
    assert "exception" not in pointer
    for name in ("pipeline", "step", "transaction_id", "trace_id"):
        assert pointer[name] == told[name]
    if mode:
        assert stderr.splitlines() == lines
    else:
        assert stderr.count("\nTraceback (most recent call last):") >= 1
        assert stderr.rstrip().endswith("caused an exception: no such order")


def test_an_exception_that_wraps_that_of_a_run_is_written_whole_with_the_ids_of_the_run(tmp_path):
    told, crash = crashed(tmp_path, "raise RuntimeError('the nightly load failed') from caught")[0]
    told, crash = json.loads(told), json.loads(crash)
    assert crash["message"] == "Uncaught RuntimeError"
    assert crash["exception"]["message"] == "the nightly load failed"
    assert crash["transaction_id"] == told["transaction_id"]


def test_a_line_that_the_level_hides_is_not_pointed_to(tmp_path):
    (line,) = crashed(tmp_path, settings="log_level='CRITICAL', dlt_log_level='WARNING'")[0]
    assert json.loads(line)["exception"]["type"] == "dlt.pipeline.exceptions.PipelineStepFailed"


def test_in_a_text_file_the_stack_trace_is_written_once(tmp_path):
    lines, _ = crashed(tmp_path, settings="log_file_format='text'")
    assert "Run of shop failed in extract" in lines[0]
    assert "|Uncaught dlt.pipeline.exceptions.PipelineStepFailed [shop run " in lines[1]
    assert sum(line.startswith("ValueError: no such order") for line in lines) == 1


def test_a_message_of_megabytes_is_cut_and_stands_there_once(tmp_path, capfd):
    dltobs.configure(console="json", log_file=str(tmp_path / "dlt.jsonl"), redact_patterns=["pl4nted"])
    text = "pl4nted " + "row " * 1_000_000 + "the end"
    sys.excepthook(ValueError, ValueError(text), None)
    (line,) = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert line["exception"]["message"].startswith("*** row row")
    assert line["exception"]["message"].endswith("the end")
    assert len(json.dumps(line)) < 40_000


def test_a_hook_that_raises_without_a_stderr_does_not_bring_the_secret_to_light(tmp_path):
    """What our hook raises Python would print, together with the exception, to where stderr was."""
    script = """
    def hook(kind, error, trace):
        sys.stderr = None
        raise RuntimeError(error)
    sys.excepthook = hook
    dltobs.configure(); learn()
    raise ValueError(SECRET)
    """
    assert "RuntimeError" not in uncaught(script, tmp_path).stderr
