"""Work that nobody should wait for, such as telling metrics of a reply: done a moment later on the same event loop.

    defer(metrics.call, "ok", seconds)

Left out: work that must not be lost. What is deferred when the loop ends is not done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

DELAY_S = 0.02
"""After which a reply is on its way. Ray takes tens of microseconds for each figure."""


def defer(act: Callable[..., None], *arguments: object) -> None:
    """Call it later, in the order of the calls. Needs a running event loop."""
    asyncio.get_running_loop().call_later(DELAY_S, act, *arguments)
