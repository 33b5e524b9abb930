"""Takes secrets out of the exceptions that IPython and Jupyter show: they ask no excepthook."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import TYPE_CHECKING, Any

from dltobs._cut import TEXT
from dltobs._describe import text_of
from dltobs._redaction.patterns import WITHHELD
from dltobs._stderr import CapturedStderr

if TYPE_CHECKING:
    from collections.abc import Callable

    from dltobs._redaction.redactor import Redactor

_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
"""A colour."""


class ShellHook:
    """Stands before the methods by which the running shell of IPython shows exceptions.

    - `_showtraceback` has the lines of the stack trace, and in a kernel sends them to the notebook.
    - `showtraceback` is around it; groups, among others, it prints to stderr.
    - `_format_exception_for_storage` is for what `%notebook` saves.
    - The result of a cell holds the exception, whose text a kernel sends with its reply.

    Args:
        redactor: Takes the secrets out.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._shell: Any = None
        self._ours: dict[str, tuple[Any, Any]] = {}

    def redirect(self, redactor: Redactor) -> None:
        """Use another redactor from now on."""
        self._redactor = redactor

    def attach(self) -> None:
        """Put the methods in place, where IPython is running."""
        # it is not imported: where it runs, it is there
        get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
        self._shell = None if get_shell is None else get_shell()
        if not hasattr(self._shell, "_showtraceback"):
            self._shell = None
            return
        self._replace("_showtraceback", self._show_lines)
        self._replace("showtraceback", self._show)
        self._replace("_format_exception_for_storage", self._store)
        self._shell.events.register("post_run_cell", self._clean_result)

    def detach(self) -> None:
        """Put the methods back; where somebody has come after us, only do nothing from now on."""
        shell, self._shell = self._shell, None
        if shell is None:
            return
        for name, (ours, before) in self._ours.items():
            if vars(shell).get(name) is ours:
                if before is None:
                    delattr(shell, name)
                else:
                    setattr(shell, name, before)
        with contextlib.suppress(ValueError):  # somebody has taken it away
            shell.events.unregister("post_run_cell", self._clean_result)

    def _replace(self, name: str, method: Callable[..., Any]) -> None:
        original = getattr(self._shell, name, None)
        if original is None:
            return  # of another version

        def ours(*args: Any, **kwargs: Any) -> Any:
            return original(*args, **kwargs) if self._shell is None else method(original, *args, **kwargs)

        self._ours[name] = ours, vars(self._shell).get(name)
        setattr(self._shell, name, ours)

    def _show_lines(self, original: Callable[..., Any], kind: Any, error: Any, lines: Any) -> Any:
        return original(kind, self._cleaned(error), [self._text(text_of(line)) for line in lines])

    def _show(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        captured = CapturedStderr()
        try:
            return original(*args, **kwargs)
        finally:
            text = self._text(captured.end())
            if text and sys.stderr is not None:
                sys.stderr.write(text)

    def _store(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        stored = original(*args, **kwargs)
        lines = [self._text(text_of(line)) for line in stored.get("traceback", ())]
        return {**stored, "evalue": self._text(text_of(stored.get("evalue", ""))), "traceback": lines}

    def _clean_result(self, result: Any) -> None:
        for name in ("error_before_exec", "error_in_exec"):
            error = getattr(result, name, None)
            if error is not None:
                setattr(result, name, self._cleaned(error))

    def _cleaned(self, error: Any) -> Any:
        """The exception; where its text has a secret, one of the same name without it."""
        text = text_of(error)
        clean = self._text(text)
        return error if clean == text else type(type(error).__name__, (Exception,), {})(clean)

    def _text(self, text: str) -> str:
        try:
            clean = self._redactor.text(text, TEXT)
            plain = _ESCAPE.sub("", clean)
            # a colour may begin in the middle of a secret
            return clean if plain == clean else self._text_in_colour(clean, plain)
        except Exception:  # noqa: BLE001 - an error here would show the exception unredacted
            return WITHHELD

    def _text_in_colour(self, text: str, plain: str) -> str:
        clean = self._redactor.text(plain)
        return text if clean == plain else clean
