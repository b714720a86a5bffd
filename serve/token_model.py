"""The model behind a role, asked directly: tokens with their log-probabilities, text as it grows, exact likelihoods of given text.

    model = TokenModel(role)                       # a Decomposer or a Solver
    said = await model.ask(Say(SolveRequest(problem), logprobs=5))

Runs in the replica that hosts the role. A role speaks through a copy of itself whose model is tapped, so that what is streamed or
reported is read exactly as the role reads it. Models of transformers can do everything; any other backend replies in one piece,
without tokens. Token ids go to the model as they are. Calls wait in the model's own queue; the micro-batcher does not see them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from actors.decomposer import Decomposer
from actors.likelihood import LikelihoodVerifier
from actors.solver import Solver
from cleave.decoding.sample import SamplingCancelled
from cleave.decoding.stopping import text_of
from cleave.errors import ConfigError
from cleave.lm.huggingface import HuggingFaceModel
from cleave.lm.protocol import LanguageModel, require
from cleave.roles import DecomposeReply, SolveReply
from cleave.types import Completion, Prompt, Sampling, Usage
from serve.model_calls import (
    AskDrafts,
    Continue,
    Continued,
    DescribeTokenizer,
    Drafted,
    ModelCall,
    Piece,
    Said,
    Say,
    Spoken,
    Token,
    Tokenize,
    TokenizerNote,
    Weigh,
)
from serve.token_drawing import OnPiece, draw

SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


class TokenModel:
    """A RoleModel (serve/model_calls.py) over a role in this process."""

    def __init__(self, role: Decomposer | Solver) -> None:
        self._role = role
        self._model = role.model

    async def ask(self, call: ModelCall) -> Any:
        """See RoleModel. Raises ConfigError and GenerationError."""
        return await self._answer(call, None)

    async def stream(self, call: Say | Continue) -> AsyncIterator[Piece | Said | Continued]:
        """See RoleModel. Closing the iterator stops the model at its next token."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | None] = asyncio.Queue()

        def put(piece: Piece) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        job = asyncio.ensure_future(self._answer(call, put))
        job.add_done_callback(lambda _: loop.call_soon(pieces.put_nowait, None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            yield await job
        finally:
            job.cancel()

    async def _answer(self, call: ModelCall, on_piece: OnPiece | None) -> Any:
        match call:
            case Say():
                return await self._say(call, on_piece)
            case Continue():
                return await self._continue(call, on_piece)
            case Tokenize():
                ids: list[int] = self._local("tokenizing").tokenizer(call.text, add_special_tokens=call.add_special_tokens)["input_ids"]
                return tuple(ids)
            case DescribeTokenizer():
                return self._describe()
            case AskDrafts():
                require(self._model, "drafts", purpose="drafting")
                [drafts] = await self._model.drafts([Prompt(text=call.prefix, seed=call.seed)], call.drafting)
                return Drafted(tuple(drafts), sum((draft.usage for draft in drafts), Usage()), self._model.info)
            case Weigh():
                verifier = LikelihoodVerifier(self._model.info.name, lambda: self._model, self._role.prompts, reuse=False)
                (reply,) = await verifier([call.request])
                return reply

    async def _say(self, call: Say, on_piece: OnPiece | None) -> Said:
        role = self._role
        if call.logprobs is not None:
            self._local("reporting tokens")
        tap = _Tap(self._model, on_piece if role.repair_retries == 0 else None, call.logprobs)
        speaker: Any = copy(role)
        speaker.model = tap
        if call.logprobs is not None:
            speaker.repair_retries = 0  # the tokens are those of the one reply
        (reply,) = await speaker([call.request])
        if call.logprobs is None:
            return Said(_texts(reply), reply, reply.usage, self._model.info)
        if not tap.heard:
            raise ConfigError("drafted plans have no token log-probabilities; leave logprobs out, or serve a decomposer without drafts.")
        tokenizer = self._local("reporting tokens").tokenizer
        spoken = tuple(Spoken(each.text, each.finish, _visible(tokenizer, each, call.logprobs)) for each in tap.heard)
        return Said(spoken, reply, reply.usage, self._model.info)

    async def _continue(self, call: Continue, on_piece: OnPiece | None) -> Continued:
        if not isinstance(self._model, HuggingFaceModel):
            return await self._continue_remotely(call)
        model = self._model
        ids = [_ids(model, prompt) for prompt in call.prompts]
        before = [await self._read(each, call.logprobs) if call.echo and call.logprobs is not None else () for each in ids]
        drawn = await self._go_on(model, ids, call, on_piece if not call.echo else None)
        texts = [
            _spoken(model, call, prompt, tokens, completion)
            for prompt, tokens, completions in zip(ids, before, drawn, strict=True)
            for completion in completions
        ]
        return Continued(tuple(texts), sum((each.usage for some in drawn for each in some), Usage()), model.info)

    async def _go_on(
        self, model: HuggingFaceModel, ids: Sequence[Sequence[int]], call: Continue, on_piece: OnPiece | None
    ) -> list[list[Completion]]:
        """What is drawn after each prompt; nothing for no tokens, but the prompts were read."""
        if call.sampling.max_tokens:
            sampling = replace(call.sampling, logprobs=call.logprobs or 0)
            return await draw(model, ids, [call.seed] * len(ids), sampling, on_piece)
        empty = Completion("", finish="length")
        read = [replace(empty, usage=model._usage(len(prompt), 0, 0.0)) for prompt in ids]
        return [[first] + [empty] * (call.sampling.n - 1) for first in read]

    async def _continue_remotely(self, call: Continue) -> Continued:
        """Over a backend that has text alone."""
        if call.echo or call.logprobs is not None or not all(isinstance(prompt, str) for prompt in call.prompts):
            self._local("echo, logprobs and token ids")
        require(self._model, "text", purpose="continuing plain text")
        prompts = [Prompt(text=str(prompt), seed=call.seed) for prompt in call.prompts]
        drawn = [completion for some in await self._model.generate(prompts, call.sampling) for completion in some]
        usage = sum((completion.usage for completion in drawn), Usage())
        return Continued(tuple(Spoken(each.text, each.finish) for each in drawn), usage, self._model.info)

    async def _read(self, ids: Sequence[int], alternatives: int | None) -> tuple[Token, ...]:
        """The tokens of a given text with their log-probabilities: one pass over it alone, so that the figures depend on nothing else."""
        model = self._local("echo")

        def work(cancelled: Callable[[], bool]) -> tuple[Token, ...]:
            if cancelled():
                raise SamplingCancelled
            return tuple(likelihoods(model, ids, alternatives or 0))

        return await model._run(work)

    def _describe(self) -> TokenizerNote:
        model = self._local("describing a tokenizer")
        tokenizer = model.tokenizer
        special = {name: getattr(tokenizer, name) for name in SPECIAL}
        template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None
        return TokenizerNote(model.info.name, type(tokenizer).__name__, len(tokenizer), model.max_len, special, template)

    def _local(self, purpose: str) -> HuggingFaceModel:
        if not isinstance(self._model, HuggingFaceModel):
            raise ConfigError(f"{purpose} needs a model of transformers, {self._model.info.name} is none; use hf:PATH for this role.")
        return self._model


def _texts(reply: DecomposeReply | SolveReply) -> tuple[Spoken, ...]:
    if isinstance(reply, DecomposeReply):
        return tuple(map(Spoken, reply.texts))
    return tuple(Spoken(solution.text, solution.finish) for solution in reply.solutions)


class _Tap:
    """A LanguageModel that lets somebody hear what it generates."""

    def __init__(self, model: LanguageModel, on_piece: OnPiece | None, logprobs: int | None) -> None:
        self._model = model
        self._on_piece = on_piece
        self._logprobs = logprobs
        self.heard: list[Completion] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """As the model's, with tokens and pieces where they are wanted."""
        wanted = replace(sampling, logprobs=max(sampling.logprobs, self._logprobs or 0))
        model = self._model
        if self._on_piece is not None and isinstance(model, HuggingFaceModel):
            ids = model._encode(prompts)
            drawn = await draw(
                model, ids, [prompt.seed for prompt in prompts], wanted, self._on_piece, hide_thinking=bool(prompts[0].messages)
            )
        else:
            drawn = await model.generate(prompts, wanted)
        self.heard.extend(completion for some in drawn for completion in some)
        return drawn


@torch.inference_mode()
def likelihoods(model: HuggingFaceModel, ids: Sequence[int], alternatives: int) -> Iterator[Token]:
    """Each token of a text with log p(token | those before it) at temperature 1; the first has none. Raises ConfigError for a text
    beyond the context."""
    if not ids or len(ids) > model.max_len:
        raise ConfigError(f"the text has {len(ids)} tokens, the model reads 1 to {model.max_len}; change its length.")
    decoder = model._sampler.model
    tokens = torch.tensor([list(ids)], device=decoder.device)
    logprobs = decoder(input_ids=tokens).logits[0, :-1].float().log_softmax(-1)  # (T - 1, V): row t is about token t + 1
    yield Token(_word(model.tokenizer, ids[0]), None)
    for row, token in zip(logprobs, ids[1:], strict=True):
        best = row.topk(min(alternatives, len(row)))
        top = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        yield Token(_word(model.tokenizer, token), float(row[token]), tuple((_word(model.tokenizer, i), value) for i, value in top))


def _spoken(model: HuggingFaceModel, call: Continue, prompt: Sequence[int], before: Sequence[Token], completion: Completion) -> Spoken:
    """A completion as it was asked for. Its tokens hold the end token: harnesses count on one more than the prompt's for max_tokens 1."""
    text = (text_of(model.tokenizer, prompt) if call.echo else "") + completion.text
    if call.logprobs is None:
        return Spoken(text, completion.finish)
    return Spoken(text, completion.finish, (*before, *_drawn(model.tokenizer, completion, call.logprobs)))


def _drawn(tokenizer: Any, completion: Completion, alternatives: int) -> Iterator[Token]:
    """All tokens of a completion."""
    tops = completion.top_logprobs or ((),) * len(completion.token_ids)
    for token, logprob, top in zip(completion.token_ids, completion.logprobs, tops, strict=True):
        yield Token(_word(tokenizer, token), logprob, tuple((_word(tokenizer, i), value) for i, value in top[:alternatives]))


def _visible(tokenizer: Any, completion: Completion, alternatives: int) -> tuple[Token, ...]:
    """The tokens that make up a completion's text: its end token, and what a stop string cut off, are left out."""
    ids = list(completion.token_ids)
    while ids and text_of(tokenizer, ids[:-1]).startswith(completion.text):
        ids.pop()
    return tuple(islice(_drawn(tokenizer, completion, alternatives), len(ids)))


def _ids(model: HuggingFaceModel, prompt: str | tuple[int, ...]) -> list[int]:
    if isinstance(prompt, str):
        (ids,) = model._encode([Prompt(text=prompt)])
        return ids
    unknown = next((token for token in prompt if not 0 <= token < len(model.tokenizer)), None)
    if unknown is not None:
        raise ConfigError(f"there is no token {unknown}, the vocabulary has {len(model.tokenizer)}; tokenize with this model's tokenizer.")
    return list(prompt)


def _word(tokenizer: Any, token: int) -> str:
    return str(tokenizer.decode([token]))
