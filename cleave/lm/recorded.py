"""Recording a model's calls, and replaying them without the model: deterministic, instant, offline.

    model = Recorder(model, "calls.jsonl")          # behaves as `model`, appends what it replies
    model = RecordedModel("calls.jsonl")            # recorded:calls.jsonl; an unknown call is an error

One JSON line per prompt, keyed by a hash of (prompt with its seed, options of sampling or drafting), so that a replay does not depend on
how calls were batched. Lines are appended by a single write each. Given a folder, every recorder writes a file of its own there (several
processes, also on several machines), and a replay reads all of them. Of a call that was recorded more than once, the first one counts.
"""

import hashlib
import json
import os
import socket
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from cleave.decoding.draft import Draft, Drafting
from cleave.errors import ConfigError, DataError, GenerationError, StorageError
from cleave.lm.protocol import Capability, LanguageModel
from cleave.types import Completion, ModelInfo, Prompt, Sampling, from_dict, to_dict

T = TypeVar("T")

REPLAYABLE: frozenset[Capability] = frozenset(get_args(Capability)) - {"hidden_states"}


class Recorder:
    """A model that also writes down what it replies."""

    def __init__(self, model: LanguageModel, path: str | Path) -> None:
        """`path` is a file to append to, or a folder (existing, or ending in a slash) for a file of this recorder's own."""
        self.model = model
        self.info = model.info
        self.capabilities = model.capabilities
        self.path = _own_file(path)
        _drop_torn_end(self.path)
        self._append([{"kind": "model", "info": to_dict(model.info), "capabilities": sorted(model.capabilities)}])

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See LanguageModel. Raises StorageError if the reply cannot be written down."""
        replies = await self.model.generate(prompts, sampling)
        self._append([_line("generate", generate_key(p, sampling), p, reply) for p, reply in zip(prompts, replies, strict=True)])
        return replies

    async def score(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Completion]:
        """See LanguageModel. Raises StorageError if the reply cannot be written down."""
        scored = await self.model.score(prompts, continuations)
        pairs = zip(prompts, continuations, scored, strict=True)
        self._append([_line("score", score_key(p, text), p, [reply]) for p, text, reply in pairs])
        return scored

    async def drafts(self, prompts: Sequence[Prompt], drafting: Drafting) -> list[list[Draft]]:
        """See LanguageModel. Raises StorageError if the drafts cannot be written down."""
        drafted = await self.model.drafts(prompts, drafting)
        self._append([_line("drafts", drafts_key(p, drafting), p, drafts) for p, drafts in zip(prompts, drafted, strict=True)])
        return drafted

    def reads(self, prompt: Prompt, continuation: str) -> bool:
        """See LanguageModel."""
        return self.model.reads(prompt, continuation)

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[str]:
        """See LanguageModel. A stream that is read to its end is recorded as a call with n = 1."""
        pieces: list[str] = []
        async for piece in self.model.stream(prompt, sampling):
            pieces.append(piece)
            yield piece
        self._append([_line("generate", generate_key(prompt, replace(sampling, n=1)), prompt, [Completion("".join(pieces))])])

    async def aclose(self) -> None:
        """Close the model."""
        await self.model.aclose()

    def _append(self, lines: Sequence[dict[str, Any]]) -> None:
        data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                while data:
                    data = data[os.write(descriptor, data) :]
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageError(f"cannot record calls in {self.path}: {error.strerror}; choose another --record path.") from error


class RecordedModel:
    """Replays recorded calls, with the capabilities of the recorded model; what was not recorded is an error."""

    def __init__(self, path: str | Path) -> None:
        """Raises ConfigError if there is nothing at `path`, DataError for a broken file."""
        self.path = Path(path).expanduser()
        self.info = ModelInfo(f"recorded:{path}")
        self.capabilities: frozenset[Capability] = REPLAYABLE - {"values"}
        self._replies: dict[str, list[Completion]] = {}
        self._drafts: dict[str, list[Draft]] = {}
        for line in _read_lines(self.path):
            if line["kind"] == "model":
                self.info = from_dict(ModelInfo, line["info"])
                self.capabilities = REPLAYABLE.intersection(line.get("capabilities", REPLAYABLE))
            elif line["kind"] == "drafts":
                self._drafts.setdefault(line["key"], [from_dict(Draft, draft) for draft in line["replies"]])
            else:
                self._replies.setdefault(line["key"], [from_dict(Completion, reply) for reply in line["replies"]])

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """See LanguageModel. Raises GenerationError for a call that was not recorded."""
        return [list(self._find(self._replies, "generate", generate_key(prompt, sampling))) for prompt in prompts]

    async def score(self, prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[Completion]:
        """See LanguageModel. Raises GenerationError for a call that was not recorded."""
        keys = [score_key(prompt, text) for prompt, text in zip(prompts, continuations, strict=True)]
        return [self._find(self._replies, "score", key)[0] for key in keys]

    async def drafts(self, prompts: Sequence[Prompt], drafting: Drafting) -> list[list[Draft]]:
        """See LanguageModel. Raises GenerationError for a call that was not recorded."""
        return [list(self._find(self._drafts, "drafts", drafts_key(prompt, drafting))) for prompt in prompts]

    def reads(self, prompt: Prompt, continuation: str) -> bool:
        """See LanguageModel. A recording knows no context."""
        return True

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[str]:
        """See LanguageModel. Yields the recorded reply in one piece."""
        [[reply]] = await self.generate([prompt], replace(sampling, n=1))
        yield reply.text

    async def aclose(self) -> None:
        """Nothing is held."""

    def _find(self, recorded: Mapping[str, list[T]], kind: str, key: str) -> list[T]:
        if key not in recorded:
            raise GenerationError(f"{self.path} has no recorded {kind} call {key}; record it by running the same command with --record.")
        return recorded[key]


def generate_key(prompt: Prompt, sampling: Sampling) -> str:
    """Hash of everything that a reply depends on."""
    return digest({"generate": to_dict(prompt), "sampling": to_dict(sampling)})


def drafts_key(prompt: Prompt, drafting: Drafting) -> str:
    """Hash of everything that drafts depend on, but for the model with its n-grams."""
    return digest({"drafts": to_dict(prompt), "drafting": to_dict(drafting)})


def score_key(prompt: Prompt, continuation: str) -> str:
    """Hash of everything that a score depends on; a seed is not part of it."""
    return digest({"score": to_dict(replace(prompt, seed=None)), "continuation": continuation})


def digest(content: Mapping[str, Any]) -> str:
    """32 hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _line(kind: str, key: str, prompt: Prompt, replies: Sequence[Completion | Draft]) -> dict[str, Any]:
    return {"kind": kind, "key": key, "prompt": to_dict(prompt), "replies": [to_dict(reply) for reply in replies]}


def _own_file(path: str | Path) -> Path:
    target = Path(path).expanduser()
    if target.is_dir() or str(path).endswith("/"):
        return _made(target) / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
    _made(target.parent)
    return target


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot record calls in {folder}: {error.strerror}; choose another --record path.") from error
    return folder


def _drop_torn_end(path: Path) -> None:
    """Remove a last line without newline, which a killed recorder left, so that the next record starts a line of its own."""
    if not path.is_file():
        return
    try:
        whole = path.read_bytes().rpartition(b"\n")
        if whole[2]:
            os.truncate(path, len(whole[0]) + len(whole[1]))
    except OSError as error:
        raise StorageError(f"cannot record calls in {path}: {error.strerror}; choose another --record path.") from error


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ConfigError(f"no recording at {path}; make one by running a command with --record {path}.")
    for file in files:
        yield from _read_file(file)


def _read_file(file: Path) -> Iterator[dict[str, Any]]:
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the recording {file}: {error.strerror}; check its permissions.") from error
    *whole, rest = raw.split(b"\n")  # a rest without newline was cut off by a kill and is no record
    del rest
    for number, text in enumerate(whole, start=1):
        try:
            line = json.loads(text)
            complete = isinstance(line, dict) and (line["kind"] == "model" or {"key", "replies"} <= set(line))
        except (ValueError, KeyError) as error:
            raise DataError(f"{file}, line {number}, is no recorded call: {error}; delete the line.") from error
        if not complete:
            raise DataError(f"{file}, line {number}, is no recorded call; delete the line.")
        yield line
