"""A model that is never asked the same thing twice: its replies are kept in a folder, across runs and processes.

    model = CachedModel(model, "runs/study/replies", {"revision": "…"})

One SQLite file per model, named by what its replies depend on besides the call (weights, dtype, context, prices). A call is kept if
it can be repeated: greedy, or with a seed; its usage is what it cost the first time. The folder has to be on a local disk, one per
machine: SQLite's locks do not hold on network file systems. Left out: streams and drafts, which go to the model.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cleave.decoding.draft import Draft, Drafting
from cleave.errors import StorageError
from cleave.lm.protocol import LanguageModel
from cleave.lm.recorded import digest, generate_key, score_key
from cleave.types import Completion, Prompt, Sampling, from_dict, to_dict

LOCKED_S = 60.0
"""Seconds to wait for another process that writes."""
AT_ONCE = 500
"""Keys in one query; SQLite bounds how many it takes."""


class CachedModel:
    """A model and the store of its replies."""

    def __init__(self, model: LanguageModel, folder: str | Path, identity: Mapping[str, object]) -> None:
        """`identity` is all that a reply depends on besides the call. Raises StorageError if the folder cannot be written."""
        self.model = model
        self.info = model.info
        self.capabilities = model.capabilities
        self._store = ReplyStore(Path(folder).expanduser() / f"{digest(identity)}.sqlite")

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See LanguageModel. Only calls that are not kept reach the model."""
        keys = [repeatable_key(prompt, sampling) for prompt in prompts]
        found = self._store.find([key for key in keys if key is not None])
        missing = [i for i, key in enumerate(keys) if key is None or key not in found]
        drawn = await self.model.generate([prompts[i] for i in missing], sampling) if missing else []
        fresh = dict(zip(missing, drawn, strict=True))
        self._store.keep({key: replies for i, replies in fresh.items() if (key := keys[i]) is not None and _is_whole(replies)})
        return [fresh[i] if i in fresh else found[key or ""] for i, key in enumerate(keys)]

    async def score(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Completion]:
        """See LanguageModel. Only pairs that are not kept reach the model."""
        keys = [score_key(prompt, text) for prompt, text in zip(prompts, continuations, strict=True)]
        found = self._store.find(keys)
        missing = [i for i, key in enumerate(keys) if key not in found]
        scored = await self.model.score([prompts[i] for i in missing], [continuations[i] for i in missing]) if missing else []
        fresh = {keys[i]: [reply] for i, reply in zip(missing, scored, strict=True)}
        self._store.keep(fresh)
        return [(found | fresh)[key][0] for key in keys]

    async def drafts(self, prompts: Sequence[Prompt], drafting: Drafting) -> list[list[Draft]]:
        """See LanguageModel."""
        return await self.model.drafts(prompts, drafting)

    def reads(self, prompt: Prompt, continuation: str) -> bool:
        """See LanguageModel."""
        return self.model.reads(prompt, continuation)

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[str]:
        """See LanguageModel."""
        async for piece in self.model.stream(prompt, sampling):
            yield piece

    async def aclose(self) -> None:
        """Close the model and the store."""
        self._store.close()
        await self.model.aclose()


def repeatable_key(prompt: Prompt, sampling: Sampling) -> str | None:
    """The key of a call whose reply would be the same again; None for one that is drawn without a seed. Greedy replies need none."""
    if sampling.is_greedy:
        return generate_key(replace(prompt, seed=None), sampling)
    return None if prompt.seed is None else generate_key(prompt, sampling)


def _is_whole(replies: Sequence[Completion]) -> bool:
    """Whether none ended in an error, which may not come again."""
    return all(reply.finish != "error" for reply in replies)


class ReplyStore:
    """Replies by key in one SQLite file that several processes of one machine may share."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Calls come from the event loop's thread, which need not be the one that builds the model.
            self._rows = sqlite3.connect(path, timeout=LOCKED_S, check_same_thread=False)
            self._rows.execute("PRAGMA journal_mode = WAL")
            self._rows.execute("PRAGMA synchronous = NORMAL")
            self._rows.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, replies TEXT NOT NULL) WITHOUT ROWID")

    def find(self, keys: Sequence[str]) -> dict[str, list[Completion]]:
        """The replies that are kept of these calls."""
        found = {}
        with self._errors():
            for start in range(0, len(keys), AT_ONCE):
                part = keys[start : start + AT_ONCE]
                asked = f"SELECT key, replies FROM replies WHERE key IN ({','.join('?' * len(part))})"
                for key, text in self._rows.execute(asked, part):
                    found[key] = [from_dict(Completion, reply) for reply in json.loads(text)]
        return found

    def keep(self, replies: Mapping[str, Sequence[Completion]]) -> None:
        """Add replies; of a call that two processes made at the same time the first one counts."""
        rows = [(key, json.dumps([to_dict(reply) for reply in each], ensure_ascii=False)) for key, each in replies.items()]
        if rows:
            with self._errors(), self._rows:
                self._rows.executemany("INSERT OR IGNORE INTO replies VALUES (?, ?)", rows)

    def close(self) -> None:
        """Release the file."""
        self._rows.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error, ValueError) as error:
            raise StorageError(
                f"cannot keep replies in {self._path}: {error}; name another folder on a local disk, or remove the file."
            ) from error
