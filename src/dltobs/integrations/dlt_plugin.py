"""The plugin of dlt's entry point group `dlt`: `DLTOBS__AUTO_CONFIGURE=true` is all that a container needs.

dlt loads it when its configuration is first used. It implements no hook of dlt's: being loaded is enough.
"""

from __future__ import annotations

from dlt.common import logger

from dltobs.integrations.zero_code import arm

arm(logger, asked=False)
