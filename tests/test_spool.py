"""The folder of what back ends did not take: whole files, one owner each, within its size, whatever the disk does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from conftest import SECRET
from dltobs import Redactor
from dltobs._spool.files import STALE_AFTER, fingerprint
from dltobs._spool.spool import Spool
from dltobs._warnings import Warner

TARGET = "http://collector:4318/v1/traces"
LARGE = 10_000_000
PRELUDE = """
import os, sys, time
from pathlib import Path
from dltobs import Redactor
from dltobs._spool.spool import Spool
from dltobs._warnings import Warner
spool = Spool(Path(sys.argv[1]), 10_000_000, Warner(Redactor()), lambda kind, items: None)
"""


@pytest.fixture
def evicted():
    return []


@pytest.fixture
def make(tmp_path, evicted):
    def spool(max_bytes=LARGE, folder=tmp_path / "spool"):
        return Spool(folder, max_bytes, Warner(Redactor()), lambda *what: evicted.append(what))

    return spool


@pytest.fixture
def spool(make):
    return make()


@pytest.fixture
def warnings(caplog):
    return lambda: [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def start(script, folder, *prefix, arguments=()):
    """A process with a spool in `folder`."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", PRELUDE + textwrap.dedent(script), str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out, err


def wait_for(processes, folder):
    """Until each of them has left its mark in a folder."""
    while len(list(folder.iterdir())) < len(processes):
        assert not [one.stderr.read() for one in processes if one.poll() is not None]
        time.sleep(0.005)


def names(spool):
    return sorted(path.name for path in spool.folder.iterdir())


def payloads(spool):
    """What can be claimed, which is left as it was."""
    found = []
    for entry in spool.entries():
        claim = spool.claim(entry)
        if claim is not None:
            found.append(claim.payload)
            spool.release(claim)
    return found


def test_nothing_is_created_before_there_is_something_to_keep(spool):
    assert spool.entries() == []
    spool.discard("otlp", "x")
    assert not spool.folder.exists()


def test_a_delivery_is_kept_for_its_owner_alone(spool):
    """Whatever the process's own mask is."""
    before = os.umask(0)
    try:
        assert spool.keep("otlp", TARGET, b"\x00payload\n\xff", items=4)
    finally:
        os.umask(before)
    (path,) = spool.folder.iterdir()
    assert spool.folder.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600
    (entry,) = spool.entries()
    assert (entry.kind, entry.items, entry.target) == ("otlp", 4, fingerprint(TARGET))
    assert payloads(spool) == [b"\x00payload\n\xff"]


def test_what_was_acknowledged_is_gone_and_what_was_not_stays(spool):
    for number in range(3):
        spool.keep("otlp", TARGET, b"%d" % number)
    first, second, _ = map(spool.claim, spool.entries())
    spool.done(first)
    spool.release(second)
    assert [entry.suffix for entry in spool.entries()] == [".ready", ".sending"]
    assert payloads(spool) == [b"1"]


def test_the_oldest_comes_first(spool):
    for number in range(20):
        spool.keep("sentry" if number % 2 else "otlp", TARGET, b"%d" % number)
    assert payloads(spool) == [b"%d" % number for number in range(20)]


def test_one_with_the_same_id_takes_the_place_of_the_earlier(spool):
    """The last sums of a process stand for those before; of another back end it is another id."""
    for payload in (b"1", b"2"):
        spool.keep("otlp_metrics", TARGET, payload, entry_id="process-1")
    spool.keep("otlp", TARGET, b"3", entry_id="process-1")
    assert payloads(spool) == [b"2", b"3"]
    spool.discard("otlp_metrics", "process-1")
    assert payloads(spool) == [b"3"]


def test_an_address_is_known_again_without_what_is_secret_in_it():
    """A key may change; a host, port, project or path may not."""
    plain = fingerprint("https://o0.ingest.sentry.io/42")
    assert fingerprint("https://key0000@o0.ingest.sentry.io/42") == plain
    assert fingerprint("https://other:pw@O0.ingest.sentry.io/42/") == plain
    assert fingerprint("https://o0.ingest.sentry.io/42?token=x#y") == plain
    others = (
        "http://o0.ingest.sentry.io/42",
        "https://o0.ingest.sentry.io:444/42",
        "https://o0.ingest.sentry.io/43",
    )
    assert plain not in map(fingerprint, others)
    assert fingerprint("collector:4317") != fingerprint("collector:4318")


def test_nothing_of_an_address_stands_in_a_file(spool):
    spool.keep(
        "slack", f"https://user:{SECRET}@hooks.example/services/T0/B0/webhook-secret?a=query-secret", b"text"
    )
    (path,) = spool.folder.iterdir()
    content = path.name.encode() + path.read_bytes()
    for secret in (SECRET, "webhook-secret", "query-secret", "hooks.example", "user"):
        assert secret.encode() not in content


def test_the_oldest_goes_when_the_size_is_reached(make, evicted):
    spool = make(5_000)
    for number in range(10):
        assert spool.keep("otlp", TARGET, b"%d" % number * 1000, items=number)
    assert sum(path.stat().st_size for path in spool.folder.iterdir()) <= 5_000
    assert payloads(spool) == [b"%d" % number * 1000 for number in range(6, 10)]
    assert evicted == [("otlp", number) for number in range(6)]


def test_what_is_larger_than_the_spool_is_not_kept(make, warnings):
    spool = make(1_000)
    spool.keep("otlp", TARGET, b"small")
    assert not spool.keep("otlp", TARGET, b"x" * 1_000)
    assert payloads(spool) == [b"small"]
    assert len(warnings()) == 1
    assert "spool_max_bytes" in warnings()[0]


def test_what_somebody_sends_is_not_taken_away_for_the_size(make, evicted):
    spool = make(5_000)
    spool.keep("otlp", TARGET, b"0" * 3000)
    claim = spool.claim(spool.entries()[0])
    spool.keep("otlp", TARGET, b"1" * 3000)
    spool.release(claim)
    assert len(payloads(spool)) == 2
    assert evicted == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content.replace(b"payload", b"pAyload"),
        lambda content: b"\xff\xfe not json\n",
        lambda content: b"[1, 2]\n" + content,
        lambda content: content.replace(b'"format":1', b'"format":2'),
    ],
    ids=["empty", "torn", "longer", "changed", "garbage", "no object", "of another format"],
)
def test_a_corrupt_file_is_set_aside_and_the_others_go_on(spool, warnings, spoil):
    for payload in (b"payload 1", b"payload 2"):
        spool.keep("otlp", TARGET, payload)
    path = spool.folder / spool.entries()[0].name
    path.write_bytes(spoil(path.read_bytes()))
    assert payloads(spool) == [b"payload 2"]
    assert payloads(spool) == [b"payload 2"]
    assert [one.name for one in (spool.folder / "corrupt").iterdir()] == [path.name]
    assert len(warnings()) == 1
    assert "corrupt" in warnings()[0]


def test_a_file_under_the_name_of_another_is_corrupt(spool):
    """It would be sent to the wrong address."""
    spool.keep("otlp", "http://first", b"1")
    spool.keep("otlp", "http://second", b"2")
    first, second = (spool.folder / entry.name for entry in spool.entries())
    second.write_bytes(first.read_bytes())
    assert payloads(spool) == [b"1"]


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_file_is_set_aside(spool, tmp_path, kind):
    spool.keep("otlp", TARGET, b"1")
    path = spool.folder / spool.entries()[0].name
    (tmp_path / "elsewhere").write_bytes(path.read_bytes())
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(path)
    spool.keep("otlp", TARGET, b"2")
    assert payloads(spool) == [b"2"]
    assert [one.name for one in (spool.folder / "corrupt").iterdir()] == [path.name]
    assert (tmp_path / "elsewhere").exists()


def test_files_that_are_not_ours_are_let_alone(make):
    spool = make(2_000)
    spool.folder.mkdir()
    for name in ("notes.txt", "x.ready", f"{1:020d}.otlp.zz.1.yy.ready", ".hidden", "a.part"):
        (spool.folder / name).write_text("mine" * 1000)
    before = names(spool)
    spool.keep("otlp", TARGET, b"1")
    assert payloads(spool) == [b"1"]
    assert [name for name in names(spool) if name in before] == before


def test_files_set_aside_go_before_others_when_the_size_is_reached(make, evicted):
    spool = make(5_000)
    spool.keep("otlp", TARGET, b"0" * 3000)
    path = spool.folder / spool.entries()[0].name
    path.write_bytes(path.read_bytes()[:-1])
    assert payloads(spool) == []
    spool.keep("otlp", TARGET, b"1" * 2000)
    spool.keep("otlp", TARGET, b"2" * 2000)
    assert len(payloads(spool)) == 2
    assert list((spool.folder / "corrupt").iterdir()) == []
    assert evicted == []


CLAIM = """
claim = spool.claim(spool.entries()[0])
print(claim.payload.decode(), flush=True)
time.sleep(60)
"""


def test_what_a_living_process_has_claimed_is_its_own_until_it_dies(spool):
    """Killed while it sent: the next one takes it."""
    spool.keep("otlp", TARGET, b"1")
    holder = start(CLAIM, spool.folder)
    assert holder.stdout.readline() == "1\n"
    assert [entry.suffix for entry in spool.entries()] == [".sending"]
    assert payloads(spool) == []
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert payloads(spool) == [b"1"]


@pytest.mark.parametrize("days", [1, -1])
def test_a_clock_that_jumps_frees_a_claim_and_loses_nothing(spool, monkeypatch, days):
    """Also backwards: what was claimed in the future is free, else it might be for years."""
    spool.keep("otlp", TARGET, b"1")
    claim = spool.claim(spool.entries()[0])
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + days * 86_400_000_000_000)
    spool.keep("otlp", TARGET, b"2")
    assert sorted(payloads(spool)) == [b"1", b"2"]
    spool.done(claim)
    assert payloads(spool) == [b"2"]


def as_of(spool, **changes):
    """Rename the only claim to one of another owner."""
    (entry,) = spool.entries()
    owner = {
        "host": entry.owner.host,
        "pid": entry.owner.pid,
        "token": entry.owner.token,
        "at": entry.owner.at,
    }
    parts = {**owner, **changes}
    name = f"{entry.stem}.{parts['host']}-{parts['pid']}-{parts['token']}-{parts['at']}{entry.suffix}"
    (spool.folder / entry.name).rename(spool.folder / name)


def test_of_another_host_only_the_time_tells(spool):
    """Its process ids say nothing here."""
    spool.keep("otlp", TARGET, b"1")
    spool.claim(spool.entries()[0])
    as_of(spool, host="0" * 12, pid=4_000_000)
    assert payloads(spool) == []
    as_of(spool, at=time.time_ns() - (STALE_AFTER + 1) * 1_000_000_000)
    assert payloads(spool) == [b"1"]


def test_an_earlier_process_with_our_id_is_dead(spool):
    """In a container each is process 1."""
    spool.keep("otlp", TARGET, b"1")
    spool.claim(spool.entries()[0])
    assert payloads(spool) == []
    as_of(spool, token="0" * 8)
    assert payloads(spool) == [b"1"]


def test_what_a_process_left_half_written_is_taken_away(spool):
    """That of a living one is not."""
    spool.keep("otlp", TARGET, b"1")
    (entry,) = spool.entries()
    for pid in (os.getpid(), 4_000_000):
        claimed = spool.claim(spool.entries()[0])
        half = claimed.name.replace(".sending", ".part").replace(f"-{os.getpid()}-", f"-{pid}-")
        (spool.folder / half).write_bytes(b"half")
        spool.release(claimed)
    assert payloads(spool) == [b"1"]
    rest = [name for name in names(spool) if name != entry.name]
    assert len(rest) == 1
    assert f"-{os.getpid()}-" in rest[0]


FLUSH = """
ready = Path(sys.argv[2])
(ready / str(os.getpid())).touch()
deadline = time.monotonic() + 60
while ready.exists() and time.monotonic() < deadline:
    time.sleep(0.001)
for entry in spool.entries():
    claim = spool.claim(entry)
    if claim is not None:
        print(claim.payload.decode(), flush=True)
        time.sleep(0.001)  # so that nobody is done before the others have begun
        spool.done(claim)
"""


def test_several_processes_take_each_delivery_once(spool, tmp_path):
    for number in range(300):
        spool.keep("otlp", TARGET, b"%d" % number)
    ready = tmp_path / "ready"
    ready.mkdir()
    others = [start(FLUSH, spool.folder, arguments=[str(ready)]) for _ in range(4)]
    wait_for(others, ready)
    ready.rename(tmp_path / "begun")
    taken = [finish(one)[0].split() for one in others]
    assert sorted(int(one) for part in taken for one in part) == list(range(300))
    assert sum(bool(part) for part in taken) > 1, "only one process had anything to do"
    assert list(spool.folder.iterdir()) == []


def killed_after(process, seconds):
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    return process.communicate()[0].split("\n")[:-1]


def test_processes_that_are_killed_at_any_moment_lose_and_tear_nothing(spool, tmp_path):
    """While they write, claim or send: what was kept is there, or somebody has sent it."""
    write = """
    (Path(sys.argv[2]) / str(os.getpid())).touch()
    for number in range(100_000):
        spool.keep("otlp", "http://collector", b"%d-%d" % (os.getpid(), number))
        print(f"{os.getpid()}-{number}", flush=True)
    """
    send = """
    (Path(sys.argv[2]) / str(os.getpid())).touch()
    while True:
        for entry in spool.entries():
            claim = spool.claim(entry)
            if claim is not None:
                print(claim.payload.decode(), flush=True)
                spool.done(claim)
    """
    written, sent = [], []
    for number in range(6):
        ready = tmp_path / f"ready-{number}"
        ready.mkdir()
        processes = [start(script, spool.folder, arguments=[str(ready)]) for script in (write, send)]
        wait_for(processes, ready)
        wait = 0.3 + 0.07 * number
        for process, lines in zip(processes, (written, sent), strict=True):
            lines.extend(killed_after(process, wait))
            wait = 0.03
    left = [payload.decode() for payload in payloads(spool)]
    assert len(written) > 10, "too slow to tell anything"
    assert set(written) <= {*sent, *left}
    assert not (spool.folder / "corrupt").exists()
    assert {name.rpartition(".")[2] for name in names(spool)} <= {"ready"}


def test_several_processes_write_into_one_spool_within_its_size(make):
    spool = make(100_000)
    script = """
    spool._max_bytes = 100_000
    for number in range(100):
        assert spool.keep("otlp", "http://collector", b"%d %d " % (os.getpid(), number) * 200)
    """
    for one in [start(script, spool.folder) for _ in range(4)]:
        finish(one)
    kept = payloads(spool)
    assert 10 < len(kept) < 100
    assert all(len(set(payload.split(b" ")[:2])) == 2 for payload in kept)
    assert sum(path.stat().st_size for path in spool.folder.iterdir()) <= 100_000


def can_mount() -> bool:
    if sys.platform != "linux":
        return False
    script = "mount -t tmpfs -o size=64k tmpfs /mnt"
    try:
        return (
            subprocess.run(
                ["unshare", "-rm", "sh", "-c", script], capture_output=True, check=False
            ).returncode
            == 0
        )
    except OSError:
        return False


mounting = pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here (unshare -rm)")


def on_tmpfs(script, options, folder):
    """Run a script with a file system of its own in `folder`."""
    folder.mkdir()
    mount = f'mount -t tmpfs -o {options} tmpfs {folder} && exec "$@"'
    return finish(start(script, folder, "unshare", "-rm", "sh", "-c", mount, "sh"))


@mounting
def test_a_full_disk_is_one_warning_and_what_was_kept_stays(tmp_path):
    out, err = on_tmpfs(
        """
        kept = [spool.keep("otlp", "http://collector", b"%d" % number * 20_000) for number in range(10)]
        print(kept.count(True), kept.count(False))
        claims = [spool.claim(entry) for entry in spool.entries()]
        print(len(claims), all(len(set(claim.payload)) == 1 for claim in claims))
        for claim in claims:
            spool.done(claim)
        print(spool.keep("otlp", "http://collector", b"x" * 20_000), len(os.listdir(spool.folder)))
        """,
        "size=64k",
        tmp_path / "small",
    )
    assert out.split("\n")[:3] == ["3 7", "3 True", "True 1"]
    assert err.count("no space left on device") == 1


@mounting
def test_a_read_only_folder_is_one_warning(tmp_path):
    out, err = on_tmpfs(
        """
        spool.keep("otlp", "http://collector", b"1")
        os.system(f"mount -o remount,bind,ro {spool.folder}")
        print(spool.keep("otlp", "http://collector", b"2"))
        (entry,) = spool.entries()
        print(spool.claim(entry), os.listdir(spool.folder) == [entry.name])
        spool.discard("otlp", entry.entry_id)
        """,
        "size=64k",
        tmp_path / "small",
    )
    assert out.split("\n")[:2] == ["False", "None True"]
    assert err.count("read-only file system") == 1


def test_a_folder_that_cannot_be_made_is_one_warning(make, tmp_path, warnings):
    (tmp_path / "file").write_text("x")
    spool = make(folder=tmp_path / "file" / "spool")
    assert not spool.keep("otlp", TARGET, b"1")
    assert not spool.keep("otlp", TARGET, b"2")
    assert spool.entries() == []
    assert [message for message in warnings() if "not a directory" in message] == warnings()
    assert len(warnings()) == 1


def test_a_folder_that_goes_away_is_made_again(spool):
    spool.keep("otlp", TARGET, b"1")
    (claim,) = map(spool.claim, spool.entries())
    for path in spool.folder.iterdir():
        path.unlink()
    spool.folder.rmdir()
    spool.done(claim)
    spool.release(claim)
    assert spool.entries() == []
    assert spool.keep("otlp", TARGET, b"2")
    assert payloads(spool) == [b"2"]


def test_a_file_is_no_pickle(spool):
    """Its first line is JSON, so nothing in it is ever run."""
    spool.keep("otlp", TARGET, b"payload", items=3, entry_id="a" * 32)
    (path,) = spool.folder.iterdir()
    line, payload = path.read_bytes().split(b"\n", 1)
    assert json.loads(line).keys() == {"format", "name", "bytes", "sha256"}
    assert payload == b"payload"
