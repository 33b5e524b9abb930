"""What has been told is not told again for a while, but counted."""

from __future__ import annotations

import json
import logging
import stat
import threading

import pytest

from dltobs._alerts.cooldown import FILE_NAME, Cooldown, key_of
from dltobs._locks import locked
from dltobs._redaction.redactor import Redactor
from dltobs._warnings import Warner
from scripts import run_script

HOUR = 3600.0
START = 1_800_000_000.0
KEY = key_of("shop", "load", "KeyError", "no such order")


@pytest.fixture
def warner():
    return Warner(Redactor())


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


def entries(folder):
    return json.loads((folder / FILE_NAME).read_text("utf-8"))


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_the_same_failure_is_told_once_and_then_with_the_number_of_those_in_between(folder, warner):
    """Also by another process, which reads the file."""
    permit = Cooldown(HOUR, folder, warner).ask(KEY, START)
    assert (permit.more, permit.since) == (0, None)
    Cooldown(HOUR, folder, warner).told(permit)
    for minute in range(1, 5):
        assert Cooldown(HOUR, folder, warner).ask(KEY, START + 60 * minute) is None
    permit = Cooldown(HOUR, folder, warner).ask(KEY, START + HOUR)
    assert (permit.more, permit.since) == (4, START)
    Cooldown(HOUR, folder, warner).told(permit)
    assert entries(folder)[KEY] == [START + HOUR, True, 0, None]


def test_another_failure_is_told(folder, warner):
    cooldown = Cooldown(HOUR, folder, warner)
    cooldown.told(cooldown.ask(KEY, START))
    assert cooldown.ask(key_of("shop", "load", "KeyError", "no such item"), START) is not None
    assert cooldown.ask(key_of("shop", "extract", "KeyError", "no such order"), START) is not None
    assert cooldown.ask(key_of("other", "load", "KeyError", "no such order"), START) is not None


def test_zero_seconds_never_mute_and_leave_no_file(folder, warner):
    cooldown = Cooldown(0, folder, warner)
    for _ in range(3):
        permit = cooldown.ask(KEY, START)
        cooldown.told(permit)
        assert permit.more == 0
    assert not folder.exists()


def test_what_is_on_its_way_is_not_sent_twice_but_only_for_a_while(folder, warner):
    """Its process may have died; the one that follows is told, with those in between."""
    assert Cooldown(HOUR, folder, warner).ask(KEY, START) is not None
    assert Cooldown(HOUR, folder, warner).ask(KEY, START + 5) is None
    permit = Cooldown(HOUR, folder, warner).ask(KEY, START + 300)
    assert (permit.more, permit.since) == (2, START)


def test_what_was_lost_does_not_mute(folder, warner):
    """The next message tells of the ones that nobody has seen."""
    cooldown = Cooldown(HOUR, folder, warner)
    cooldown.lost(cooldown.ask(KEY, START))
    cooldown.lost(cooldown.ask(KEY, START + 1))
    permit = cooldown.ask(KEY, START + 2)
    assert (permit.more, permit.since) == (2, START)


def test_those_that_came_while_it_was_on_its_way_are_counted(folder, warner):
    cooldown = Cooldown(HOUR, folder, warner)
    permit = cooldown.ask(KEY, START)
    assert cooldown.ask(KEY, START + 1) is None
    cooldown.told(permit)
    assert cooldown.ask(KEY, START + 2) is None
    assert cooldown.ask(KEY, START + HOUR).more == 2


def test_a_clock_that_is_put_back_does_not_mute_for_ever(folder, warner):
    """Neither by what was told in what is now the future, nor by what was on its way then."""
    cooldown = Cooldown(HOUR, folder, warner)
    cooldown.told(cooldown.ask(KEY, START + 10 * HOUR))
    permit = cooldown.ask(KEY, START)
    assert permit is not None
    cooldown.told(permit)
    assert cooldown.ask(KEY, START + 1) is None
    other = key_of("shop", "load", "ValueError", "")
    assert cooldown.ask(other, START + HOUR) is not None
    assert cooldown.ask(other, START) is not None


def test_the_file_is_private_and_holds_no_text(folder, warner):
    cooldown = Cooldown(HOUR, folder, warner)
    cooldown.told(cooldown.ask(KEY, START))
    path = folder / FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    content = path.read_text("utf-8")
    assert "shop" not in content
    assert "order" not in content
    assert names(folder) == [FILE_NAME]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"a": 1}',
        '{"' + KEY + '": [1, true',
        json.dumps({KEY: [1e999, True, 0, None]}),
        json.dumps({KEY: [10**400, True, 0, None]}),
        json.dumps({KEY: [START, "yes", 0, None]}),
        json.dumps({KEY: [START, True, -1, None]}),
        json.dumps({KEY: [START, True, 0, "now"]}),
        json.dumps({KEY: [START, True, 0]}),
        "\0" * 1000,
        "[" * 100_000,
    ],
)
def test_a_torn_or_foreign_file_harms_nothing(folder, warner, content):
    folder.mkdir()
    (folder / FILE_NAME).write_text(content, "utf-8")
    cooldown = Cooldown(HOUR, folder, warner)
    permit = cooldown.ask(KEY, START + 1)
    assert permit is not None
    cooldown.told(permit)
    assert entries(folder)[KEY] == [START + 1, True, 0, None]


def test_the_file_does_not_grow_for_ever(folder, warner):
    """Those that came to something last are kept."""
    cooldown = Cooldown(HOUR, folder, warner)
    keys = [key_of("shop", "load", f"E{'x' * number}", "") for number in range(1030)]
    for number, key in enumerate(keys):
        cooldown.told(cooldown.ask(key, START + number))
    assert set(entries(folder)) == set(keys[-1000:])
    assert cooldown.ask(keys[-1], START + 1031) is None


def test_a_folder_that_cannot_be_written_is_one_warning_and_everything_is_told(tmp_path, warner, caplog):
    caplog.set_level(logging.WARNING, "dltobs")
    (tmp_path / "file").touch()
    cooldown = Cooldown(HOUR, tmp_path / "file" / "spool", warner)
    for number in range(3):
        permit = cooldown.ask(KEY, START + number)
        assert permit is not None
        cooldown.told(permit)
    (record,) = caplog.records
    assert "told again" in record.getMessage()


def test_threads_count_every_one(folder, warner, monkeypatch):
    # a busy machine may stop whoever holds it
    monkeypatch.setattr("dltobs._alerts.cooldown._LOCK_TIMEOUT", 60.0)
    cooldown = Cooldown(HOUR, folder, warner)
    permits = []
    threads = [threading.Thread(target=lambda: permits.append(cooldown.ask(KEY, START))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (permit,) = filter(None, permits)
    cooldown.told(permit)
    assert cooldown.ask(KEY, START + HOUR).more == 19


def test_processes_that_fail_at_once_tell_each_failure_once_and_count_every_other(tmp_path):
    """Four with a failure of their own, and one that they share; nothing is torn, no other file is left."""
    script = """
    import os
    import time
    from pathlib import Path
    from dltobs._alerts import cooldown
    from dltobs._redaction.redactor import Redactor
    from dltobs._warnings import Warner

    cooldown._LOCK_TIMEOUT = 60.0  # a busy machine may stop whoever holds it
    start = time.time() + 0.2
    children = []
    for child in range(4):
        pid = os.fork()
        if pid == 0:
            mine = cooldown.Cooldown(3600, Path("folder"), Warner(Redactor()))
            time.sleep(max(0, start - time.time()))
            for number in range(50):
                for name in ("E", "E" * (child + 2)):
                    permit = mine.ask(cooldown.key_of("p", "load", name, "m"))
                    if permit is not None:
                        print(name, flush=True)
                        mine.told(permit)
            os._exit(0)
        children.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
    """
    (tmp_path / "folder").mkdir()
    result = run_script(script, tmp_path, prelude="")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert sorted(result.stdout.split()) == ["E", "EE", "EEE", "EEEE", "EEEEE"]
    assert names(tmp_path / "folder") == [FILE_NAME]
    muted = sorted(muted for _, _, muted, _ in entries(tmp_path / "folder").values())
    assert muted == [49, 49, 49, 49, 199]


def test_who_does_not_get_the_lock_goes_on_without_it(folder, warner, monkeypatch):
    monkeypatch.setattr("dltobs._alerts.cooldown._LOCK_TIMEOUT", 0.01)
    folder.mkdir()
    with locked(folder, timeout=0):
        cooldown = Cooldown(HOUR, folder, warner)
        cooldown.told(cooldown.ask(KEY, START))
    assert entries(folder)[KEY] == [START, True, 0, None]
