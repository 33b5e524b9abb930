"""The documentation tells the truth: its code runs, its tables are those of the code."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dltobs
from dltobs._settings.settings import Settings
from scripts import run_python

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[object]:
    return [
        pytest.param(body, id=f"{path.name}-{number}")
        for path in DOCUMENTS
        for number, (found, body) in enumerate(_BLOCK.findall(path.read_text("utf-8")), 1)
        if found == language
    ]


def run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_python(["-c", code], folder, {**os.environ, **environment})


def test_every_block_is_of_a_language_that_is_tested():
    """`text` is what a program printed; everything else is run or read."""
    found = {language for path in DOCUMENTS for language, _ in _BLOCK.findall(path.read_text("utf-8"))}
    assert found <= {"python", "sh", "toml", "json", "text"}


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code, tmp_path):
    """In an empty folder, as a script of its own."""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_first_block_of_the_readme_shows_something(tmp_path):
    """Whoever tries it sees that dltobs is there, and how the run ended."""
    done = run(blocks("python")[0].values[0], tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Run of shop.*2 rows", done.stderr)


@pytest.mark.parametrize("document", blocks("toml"))
def test_toml_blocks_are_configurations(document, tmp_path):
    """dltobs takes them from `.dlt/config.toml`."""
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "config.toml").write_text(document)
    done = run("import dltobs; dltobs.configure()", tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", blocks("sh"))
def test_commands_are_known_to_make_and_to_our_scripts(command, tmp_path):
    """Each line is a target of the Makefile, a script of ours with arguments that it takes, or installs dltobs."""
    for line in command.splitlines():
        words = line.split("#")[0].split()
        if words[:2] == ["pip", "install"]:
            assert words[2:] == ['"dltobs"', '"dlt[duckdb]"']
            continue
        if words[0] == "make":
            check, folder = [*words, "--dry-run"], ROOT
        else:
            assert words[0] == ".venv/bin/python", line
            check, folder = [sys.executable, str(ROOT / words[1]), *words[2:], "--help"], tmp_path
        done = subprocess.run(check, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", blocks("json"))
def test_json_blocks_have_the_keys_of_a_log_line(document, tmp_path):
    """The example is what a run writes, key for key and type for type."""
    code = (
        "import dltobs; dltobs.configure(log_file='dlt.jsonl', tracing='on', environment='production', log_level='INFO')\n"
        "import dlt; dlt.pipeline('shop', destination='duckdb').run([{'id': 1}], table_name='orders')"
    )
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "dlt.jsonl").read_text().splitlines()]
    (written,) = [line for line in lines if line["message"] == "Running file normalizing"]
    shown = json.loads(document)
    assert list(written) == list(shown)
    assert {key: type(value) for key, value in written.items()} == {
        key: type(value) for key, value in shown.items()
    }


def test_the_table_of_settings_is_that_of_the_code():
    """Every setting has its row, in order, and a literal default is the right one."""
    table = re.search(r"## Settings\n(.*?)\nIn a file", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert table is not None
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", table[1], re.MULTILINE)
    fields = [one for one in dataclasses.fields(Settings) if "parse" in one.metadata or one.name == "sinks"]
    assert [name for name, _ in rows] == [one.name for one in fields]
    for (_, shown), one in zip(rows, fields, strict=True):
        literal = re.fullmatch(r"`([^`]+)`", shown.strip())
        if literal and not literal[1].isupper():
            assert one.metadata["parse"](literal[1]) == one.default


def test_the_typed_consumer_uses_every_public_name():
    """`make wheel` checks it as a type checker sees the installed package."""
    consumer = (ROOT / "tests" / "consumer.py").read_text("utf-8")
    assert [name for name in dltobs.__all__ if f"dltobs.{name}" not in consumer] == []


def test_every_dependency_has_its_reason_in_the_readme():
    """And none is named that is not there."""
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert listed is not None
    needed = set(re.findall(r'"([\w-]+)', listed[1]))
    table = (ROOT / "README.md").read_text("utf-8").partition("## Dependencies")[2].partition("## Limits")[0]
    named = {
        name.split(" (")[0]
        for row in re.findall(r"^\| ([^|]+) \| [^|]+ \|$", table, re.MULTILINE)
        for name in row.split(", ")
        if name not in {"package", "---"} and not name.startswith("not ")
    }
    assert {name for name in named if "." not in name or name == "dlt"} == needed
