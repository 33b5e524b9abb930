"""Makes dlt's configuration faster in tests."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType


def remember_type_hints(modules: Mapping[str, ModuleType]) -> None:
    """Remember what dlt asks of the same type hints again and again: a tenth of a small run.

    Args:
        modules: All that dlt has imported, by name.
    """
    base_configuration = modules["dlt.common.configuration.specs.base_configuration"]
    for name in ("extract_inner_hint", "is_secret_hint"):
        pure = getattr(base_configuration, name)
        remembered = functools.cache(pure)
        for module in list(modules.values()):
            if vars(module).get(name) is pure:
                setattr(module, name, remembered)
