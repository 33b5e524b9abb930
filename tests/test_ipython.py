"""In IPython and in notebooks an exception is shown as ever, without its secret."""

from __future__ import annotations

import json
import sys

import pytest

from conftest import SECRET
from test_logs_attach import run

pytest.importorskip("IPython", reason="IPython is not installed")

SHELL = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="linux")
def cell(source):
    return shell.run_cell(source)
cell("import dltobs\\ndltobs.configure()")
learn()
shell.user_ns["SECRET"] = SECRET
"""


def shown(script: str, tmp_path) -> str:
    """What a shell prints, to stdout and stderr."""
    done = run(SHELL + script, tmp_path, IPYTHONDIR=str(tmp_path), IPY_TEST_SIMPLE_PROMPT="1")
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout
    return done.stdout + done.stderr


def test_the_traceback_of_a_cell_is_in_colour_and_without_its_secret(tmp_path):
    text = shown("cell('raise ValueError(\"refused \" + SECRET)')", tmp_path)
    assert "refused ***" in text
    assert "\x1b[" in text
    assert text.count("refused ***") == 1


def test_a_secret_that_colours_would_split_is_found(tmp_path):
    """IPython highlights `%1` in a string."""
    text = shown("cell(f'x = {SECRET!r}; y = {SECRET!r}; 1 / 0')", tmp_path)
    assert "x = '***'" in text
    assert "ZeroDivisionError" in text


WAYS = [
    ("async def f(): raise KeyError(SECRET)\nawait f()", "KeyError"),
    ("compile('x = = \"' + SECRET + '\"', 'orders.py', 'exec')", "SyntaxError"),
    (f"= {SECRET!r}", "SyntaxError"),
    ("try:\n  1 / 0\nexcept Exception as error:\n  raise OSError(SECRET) from error", "OSError"),
    (f"%run {SECRET}.py", "***.py"),
    ("%xmode Verbose\ndef f(password): 1 / 0\nf(SECRET)", "ZeroDivisionError"),
    ("%xmode Plain\nraise ValueError(SECRET)", " ***\n"),
    ("%xmode Minimal\nraise ValueError(SECRET)", " ***\n"),
]
"""Cells that fail, and what is shown."""


def test_every_way_in_which_a_cell_fails(tmp_path):
    script = f"""
for source in {[source for source, _ in WAYS]!r}:
    cell(source)
    cell("%tb")
    print("the next way", flush=True)
"""
    # what IPython writes to stderr stands there alone
    *texts, stderr = shown(script, tmp_path).split("the next way")
    for text, (source, expected) in zip(texts, WAYS, strict=True):
        assert expected in text or expected in stderr, source


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no groups before 3.11")
def test_groups_are_shown_without_secrets(tmp_path):
    """IPython prints them to stderr by `traceback.print_exc()`."""
    text = shown(
        'cell(\'raise ExceptionGroup("tasks", [ValueError(SECRET), KeyError("page 2", SECRET)])\')', tmp_path
    )
    assert "ValueError: ***" in text
    assert "KeyError: ('page 2', '***')" in text


def test_what_a_cell_returns_and_what_is_saved_have_no_secret(tmp_path):
    script = """
result = cell("raise ValueError('refused ' + SECRET)")
print("result:", type(result.error_in_exec).__name__, result.error_in_exec)
print("stored:", json.dumps(list(getattr(shell.history_manager, "exceptions", {}).values())))
own = cell("1 / 0")
assert isinstance(own.error_in_exec, ZeroDivisionError)
"""
    text = shown(script, tmp_path)
    assert "result: ValueError refused ***" in text


def test_shutdown_gives_ipython_back_as_it_was(tmp_path):
    script = """
names = ("_showtraceback", "showtraceback", "_format_exception_for_storage")
assert any(name in vars(shell) for name in names)
dltobs.shutdown()
assert not any(name in vars(shell) for name in names)
assert not any("dltobs" in type(one.__self__).__module__ for one in shell.events.callbacks["post_run_cell"]
               if hasattr(one, "__self__"))
cell("raise ValueError('password=hunter22')")
"""
    assert "password=hunter22" in shown(script, tmp_path)


def test_without_ipython_nothing_is_imported(tmp_path):
    done = run("dltobs.configure(); print('IPython' in sys.modules)", tmp_path)
    assert done.stdout == "False\n"


def test_the_output_of_a_notebook_has_no_secret(tmp_path, monkeypatch):
    """A kernel sends type, text and stack trace as data; they are saved in the `.ipynb`."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    monkeypatch.setenv("API_KEY", SECRET)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    # the kernel of this environment, whatever the home directory has
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    sources = [
        "import dltobs\ndltobs.configure()\nimport dlt\nSECRET = dlt.secrets['api_key']",
        "raise ValueError(f'refused {SECRET}')",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    client = nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3")
    with pytest.raises(nbclient.exceptions.CellExecutionError) as error:
        client.execute()
    (output,) = notebook.cells[1].outputs
    assert (output["output_type"], output["ename"], output["evalue"]) == (
        "error",
        "ValueError",
        "refused ***",
    )
    assert "\x1b[" in output["traceback"][0]
    assert "refused ***" in output["traceback"][-1]
    assert SECRET not in json.dumps(notebook)
    assert "refused ***" in str(error.value)
    assert SECRET not in str(error.value)
