"""The exceptions that dltobs raises.

```
DltobsError
├── ConfigurationError (also a ValueError)
└── SaveError
```

Only `configure()` raises, and `save()`, which is called for its own sake. Once `configure()` has returned,
what goes wrong inside dltobs is one warning on the logger `dltobs`, never an exception in the pipeline.
"""

from __future__ import annotations


class DltobsError(Exception):
    """Base class of every exception that dltobs raises."""


class SaveError(DltobsError):
    """`save()` could not write, or there is nothing to write. The message holds no secret."""


class ConfigurationError(DltobsError, ValueError):
    """A setting is wrong; nothing has been attached.

    The message never contains the value of a secret setting.

    Attributes:
        setting: The name of the setting, e.g. `log_file`; of an unknown one, as it was written.
        source: Where the value came from, in words, e.g. `environment variable DLTOBS__LOG_FILE`.
        problem: What is wrong with it.
        expected: What would be right; empty where there is nothing to add.
    """

    def __init__(self, setting: str, *, source: str, problem: str, expected: str = "") -> None:
        self.setting = setting
        self.source = source
        self.problem = problem
        self.expected = expected
        hint = f"; expected {expected}" if expected else ""
        super().__init__(f"{setting} ({source}): {problem}{hint}")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by keyword arguments, which `Exception` alone would lose."""
        return _rebuild, (self.setting, self.source, self.problem, self.expected)


def _rebuild(setting: str, source: str, problem: str, expected: str) -> ConfigurationError:
    return ConfigurationError(setting, source=source, problem=problem, expected=expected)
