"""The entry point for `opentelemetry-instrument`, which traces dlt with the provider that it has set up.

The package `opentelemetry-instrumentation` is no dependency: whoever loads this module has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # not typed
from wrapt import register_post_import_hook

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import ModuleType


class DltobsInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # it is not typed
    """Makes every dlt pipeline observable, as `dltobs.configure()` does, once dlt is imported and used.

    All settings count but arguments; spans and metrics go to the providers that are set by then.
    """

    is_wanted = False
    """Between `instrument()` and `uninstrument()`."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """The versions of dlt that can be observed."""
        return ("dlt >= 1.23, != 1.27.0",)

    def _instrument(self, **_: Any) -> None:
        DltobsInstrumentor.is_wanted = True
        # a program that does not import dlt is spared even the rest of dltobs
        register_post_import_hook(_on_import, "dlt.common.logger")

    def _uninstrument(self, **_: Any) -> None:
        DltobsInstrumentor.is_wanted = False
        from dltobs._runtime import shutdown
        from dltobs.integrations.zero_code import disarm

        disarm()
        shutdown()


def _on_import(dlt_logger: ModuleType) -> None:
    if DltobsInstrumentor.is_wanted:
        from dltobs.integrations.zero_code import arm

        arm(dlt_logger, asked=True)
