"""Bearer keys: who sends a request, known by the hash of the key alone.

    python -m serve.keys alice                     # prints a new key, and the line for the file or the environment variable
    ring = KeyRing.read(args.keys)
    name = ring.name_of("Bearer sk-…")

Only SHA-256 hashes are kept, so nothing that is configured, logged or dumped lets anybody in. Keys are random, with 256 bits; a slow
hash would add nothing. All hashes are compared, in constant time. Left out: what a key may do (serve/limiter.py).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from cleave.config.serve_keys import NAME, KeysConfig
from cleave.console import say, say_error
from cleave.errors import ConfigError
from serve.failures import ApiError

MOST_LENGTH = 512
"""Characters of a key; nobody's is longer."""
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class KeyRing:
    """The known keys, by name."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        """`digests`: SHA-256 of each key, in lower-case hexadecimal."""
        self._digests = dict(digests)

    @classmethod
    def read(cls, config: KeysConfig) -> KeyRing:
        """From the environment and the file. Raises ConfigError for what is missing or malformed; the message holds no hash."""
        digests: dict[str, str] = {}
        if config.env is not None:
            if not os.environ.get(config.env):
                raise ConfigError(f"${config.env} holds no keys; set it to lines of `NAME SHA256`, made by `python -m serve.keys NAME`.")
            digests |= parse(os.environ[config.env], f"${config.env}")
        if config.file is not None:
            try:
                text = Path(config.file).expanduser().read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"cannot read the keys in {config.file}: {error}; correct keys.file.") from error
            digests |= parse(text, config.file)
        unknown = sorted(config.limits.keys() - digests.keys())
        if unknown:
            raise ConfigError(f"keys.limits names {unknown[0]!r}, which is no key; the keys are {', '.join(sorted(digests))}.")
        return cls(digests)

    def name_of(self, authorization: str | None) -> str:
        """The name of the key in an Authorization header. Raises ApiError 401."""
        scheme, _, key = (authorization or "").strip().partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise ApiError(401, "this server needs a key; send it as `Authorization: Bearer KEY`.", "missing_api_key")
        digest = _digest(key[:MOST_LENGTH])
        found = [name for name, known in self._digests.items() if hmac.compare_digest(known, digest)]
        if not found or len(key) > MOST_LENGTH:
            raise ApiError(401, "this key is not known; check it, or ask for a new one.", "invalid_api_key")
        return found[0]


def parse(text: str, source: str) -> dict[str, str]:
    """Names and hashes from lines, or comma-separated entries, of `NAME SHA256`; `#` begins a comment. Raises ConfigError."""
    digests: dict[str, str] = {}
    lines = [line.partition("#")[0].strip() for line in re.split(r"[\n,]", text)]
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        name, _, digest = line.partition(" ")
        digest = digest.strip().lower()
        if not NAME.match(name) or not _DIGEST.match(digest):
            raise ConfigError(f"entry {number} of {source} is not `NAME SHA256`; make one with `python -m serve.keys NAME`.")
        if name in digests:
            raise ConfigError(f"{source} has two keys named {name!r}; give each its own name.")
        digests[name] = digest
    if not digests:
        raise ConfigError(f"{source} holds no keys; add one with `python -m serve.keys NAME`.")
    return digests


def new_key() -> str:
    """A fresh key."""
    return f"sk-cleave-{secrets.token_urlsafe(32)}"


def entry(name: str, key: str) -> str:
    """The line of a key."""
    return f"{name} {_digest(key)}"


def main(arguments: list[str]) -> int:
    """Print a new key and its line."""
    if len(arguments) != 1 or not NAME.match(arguments[0]):
        say_error("give the key one name of letters, digits, dots, dashes and underscores, such as `python -m serve.keys alice`.")
        return 2
    key = new_key()
    say("the key, shown only now; the second line goes into keys.file or the variable that keys.env names:")
    print(key)
    print(entry(arguments[0], key))
    return 0


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
