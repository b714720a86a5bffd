"""Seeds derived from what they are for, so that a repeated call draws the same numbers wherever and whenever it runs."""

from __future__ import annotations

import hashlib
import json


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^48), a function of the parts alone: the same in every process, on every machine."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:6], "big")
