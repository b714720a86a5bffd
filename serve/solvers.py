"""Solvers in front of the solver: one whose replies are capped, and one whose reply is heard while it grows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from cleave.config.reasoning import ReasoningConfig
from cleave.roles import RoleHandle, SolveReply, SolveRequest
from cleave.types import ModelInfo
from serve.lease import book
from serve.model_calls import Continued, Piece, RoleModel, Said, Say

Solver = RoleHandle[SolveRequest, SolveReply]


class Capped:
    """A solver whose replies are at most `max_tokens` long, whatever is asked of it."""

    def __init__(self, solver: Solver, max_tokens: int) -> None:
        self._solver, self._max_tokens = solver, max_tokens

    async def __call__(self, request: SolveRequest) -> SolveReply:
        sampling = replace(request.sampling, max_tokens=min(request.sampling.max_tokens, self._max_tokens))
        return await self._solver(replace(request, sampling=sampling))

    async def info(self) -> ModelInfo:
        return await self._solver.info()


class Heard:
    """A solver that tells what it writes while it writes; the same replies."""

    def __init__(self, solver: Solver, model: RoleModel, on_text: Callable[[str], None]) -> None:
        self._solver, self._model, self._on_text = solver, model, on_text

    async def __call__(self, request: SolveRequest) -> SolveReply:
        said = await heard(self._model.stream(Say(request)), lambda piece: self._on_text(piece.text))
        assert isinstance(said, Said)
        assert isinstance(said.reply, SolveReply)
        book(said.usage)
        return said.reply

    async def info(self) -> ModelInfo:
        return await self._solver.info()


async def heard(items: AsyncIterator[Piece | Said | Continued], on_piece: Callable[[Piece], None]) -> Said | Continued:
    """Pass the pieces of a stream on; its last item."""
    last: Said | Continued | None = None
    async for item in items:
        if isinstance(item, Piece):
            on_piece(item)
        else:
            last = item
    assert last is not None, "a stream ends with its reply"
    return last


def can_be_heard(reasoning: ReasoningConfig) -> bool:
    """Whether what the solver writes is the answer for sure: one sample, written in one piece, that is not withheld."""
    whole = reasoning.strategy in ("direct", "single", "static")
    return whole and reasoning.n == 1 and reasoning.abstain_below is None
