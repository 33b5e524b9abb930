"""Everything of dltobs that meets Prefect, attached and detached together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dltobs.integrations.prefect.context import current_labels
from dltobs.integrations.prefect.logs import PrefectHandler
from dltobs.integrations.prefect.processes import TaskProcesses
from dltobs.integrations.prefect.tracing import FlowSpans

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dltobs._redaction.redactor import Redactor
    from dltobs._settings.settings import Settings
    from dltobs._warnings import Warner


class PrefectHook:
    """What a set-up has where Prefect is installed; it costs next to nothing where it is not used.

    Args:
        settings: What task processes are to be like.
        redactor: For log lines and names.
        warner: Told of what goes wrong.
    """

    def __init__(self, settings: Settings, redactor: Redactor, warner: Warner) -> None:
        self.handler = PrefectHandler(redactor=redactor, warner=warner)
        self._redactor = redactor
        self._spans: FlowSpans | None = None
        self._settings = settings
        self._warner = warner
        self._processes: TaskProcesses | None = None

    def refresh(self) -> Mapping[str, str]:
        """Look at Prefect again before a run, and give the names and ids that it has for it, redacted."""
        self.handler.refresh()
        labels = current_labels()
        return self._redactor.redact(labels) if labels else labels

    def attach(self, decide_provider: Callable[[], None] | None) -> None:
        """Hook into Prefect, which is imported now, later or never.

        Args:
            decide_provider: Decides the tracer provider, where there may be spans.
        """

        def begin() -> None:
            self.handler.refresh()
            if decide_provider is not None:
                decide_provider()

        self._spans = FlowSpans(begin, self._warner, has_spans=decide_provider is not None)
        self._spans.attach()
        self._processes = TaskProcesses(self._settings, self._redactor, self._warner, self._spans.traces)
        self._processes.attach()
        self.handler.refresh()

    def detach(self) -> None:
        """Undo `attach()`."""
        for part in (self._processes, self._spans):
            if part is not None:
                part.detach()
        self._processes = self._spans = None
        self.handler.give_back()
