"""Regular expressions that are compiled when they are first used.

Most processes never meet the text that would need them, and compiling is what importing costs.
"""

from __future__ import annotations

import re
from typing import Any, cast


class _LazyPattern:
    """Stands for a compiled expression, and becomes one with its first use."""

    def __init__(self, pattern: str, flags: int) -> None:
        self._source = pattern, flags

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(re.compile(*self._source), name)
        setattr(self, name, attribute)  # the next use finds it without coming here
        return attribute


def lazy(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """Like `re.compile`, but at the first use."""
    return cast("re.Pattern[str]", _LazyPattern(pattern, int(flags)))
