"""The routes of single roles: `/v1/decompose` a problem into plans, `/v1/verify` solutions, `/v1/drafts` of a text in one superposed pass.

What fails for one plan or solution is listed beside those that did not; only where nothing at all came is the reply an error.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body

from cleave.decoding.draft import Draft, Drafting
from cleave.errors import GenerationError, ParseError
from cleave.roles import DecomposeReply, DecomposeRequest, VerifyRequest
from cleave.seeds import derive_seed
from cleave.solutions import parse_solution
from cleave.types import Failure, Plan, Sampling, Solution, Verdict
from serve.catalogue import Catalogue
from serve.completion import FINISH
from serve.failures import ApiError, api_error
from serve.model_calls import AskDrafts, Drafted
from serve.openai_routes import ERRORS, QUESTION
from serve.request import check_fan_out, plan_of, problem_of, reply_limit
from serve.role_schema import (
    DecomposeBody,
    DraftReply,
    DraftsBody,
    DraftsReply,
    FailureReply,
    PlansReply,
    StepReply,
    VerdictReply,
    VerdictsReply,
    VerifyBody,
)
from serve.schema import RoleUsage
from serve.service import Service

DECOMPOSE_EXAMPLES: dict[str, Any] = {
    "plan": {"summary": "One plan", "value": {"question": QUESTION}},
    "plans": {"summary": "Three plans", "value": {"question": QUESTION, "n": 3, "temperature": 0.7, "seed": 1}},
}
VERIFY_EXAMPLES: dict[str, Any] = {
    "two": {
        "summary": "Two solutions",
        "value": {
            "question": QUESTION,
            "solutions": ["1. 12 + 7 = 19\nThe answer is: 19", "1. 12 - 7 = 5\nThe answer is: 5"],
            "plan": "1. How many apples does Tom have in all?",
        },
    }
}
DRAFTS_EXAMPLES: dict[str, Any] = {"three": {"summary": "Three continuations", "value": {"prefix": f"Question: {QUESTION}", "k": 3}}}


def role_routes(service: Service, catalogue: Catalogue) -> APIRouter:
    """The router over one service."""
    router = APIRouter(prefix="/v1", tags=["Roles"], responses=ERRORS)

    @router.post("/decompose", summary="Split a problem into sub-questions")
    async def decompose(body: Annotated[DecomposeBody, Body(openapi_examples=DECOMPOSE_EXAMPLES)]) -> PlansReply:
        problem = problem_of(body.question, body.context, service.limits)
        check_fan_out(body.n, service.limits)
        seed = body.seed if body.seed is not None else secrets.randbits(31) if body.temperature else 0
        limit = reply_limit(body.max_tokens, service.limits) or service.limits.max_tokens
        sampling = Sampling(limit, body.temperature, body.top_p, n=body.n)
        reply, model = await service.decompose(DecomposeRequest(problem, sampling, derive_seed(seed, "decomposer"), body.max_steps))
        _check_any(reply)
        return PlansReply(
            plans=[_steps(plan) for plan in reply.plans],
            texts=list(reply.texts),
            failures=_failures(reply.failures),
            seed=seed,
            usage=RoleUsage(**asdict(reply.usage)),
            model=asdict(model),
        )

    @router.post("/verify", summary="Score solutions")
    async def verify(body: Annotated[VerifyBody, Body(openapi_examples=VERIFY_EXAMPLES)]) -> VerdictsReply:
        problem = problem_of(body.question, body.context, service.limits)
        check_fan_out(len(body.solutions), service.limits)
        solutions = tuple(parse_solution(text) for text in body.solutions)
        plan = plan_of(body.plan)
        reply, model = await service.verify(VerifyRequest(problem, solutions, () if plan is None else (plan,)))
        if len(reply.verdicts) != len(solutions):
            unsure = Failure(GenerationError.__name__, "the verifier has no opinion of these solutions; check its model.", "verifier")
            raise api_error(reply.failures[0] if reply.failures else unsure)
        return VerdictsReply(
            verdicts=[_verdict(verdict, solution) for verdict, solution in zip(reply.verdicts, solutions, strict=True)],
            failures=_failures(reply.failures),
            usage=RoleUsage(**asdict(reply.usage)),
            model=asdict(model),
        )

    @router.post("/drafts", summary="Continue a text in several ways for about the price of one")
    async def drafts(body: Annotated[DraftsBody, Body(openapi_examples=DRAFTS_EXAMPLES)]) -> DraftsReply:
        role = catalogue.role(body.model)
        if role is None:
            catalogue.pipeline(body.model)
            raise ApiError(400, f"{body.model!r} is a composed pipeline, a model is needed; name a role.", "unsupported_model", "model")
        check_fan_out(body.k, service.limits)
        drafting = Drafting(
            k=body.k,
            max_tokens=reply_limit(body.max_tokens, service.limits) or body.max_tokens,
            temperature=body.temperature,
            alpha=body.alpha,
            reset_every=body.reset_every,
            stop=tuple(body.stop),
        )
        drafted: Drafted = await service.ask_model(role, AskDrafts(body.prefix, drafting, body.seed))
        return DraftsReply(
            drafts=[_draft(draft) for draft in drafted.drafts], usage=RoleUsage(**asdict(drafted.usage)), model=asdict(drafted.model)
        )

    return router


def _check_any(reply: DecomposeReply) -> None:
    """Raise ApiError 502 where no plan could be read."""
    if not any(plan is not None for plan in reply.plans):
        missing = Failure(ParseError.__name__, "the decomposer sent no plan; check its prompts.", "decomposer")
        raise api_error(reply.failures[0] if reply.failures else missing)


def _steps(plan: Plan | None) -> list[StepReply] | None:
    if plan is None:
        return None
    return [StepReply(id=step.id, question=step.question, needs=list(step.needs)) for step in plan.steps]


def _verdict(verdict: Verdict | None, solution: Solution) -> VerdictReply | None:
    if verdict is None:
        return None
    return VerdictReply(score=verdict.score, raw=verdict.raw, step_scores=list(verdict.step_scores), answer=solution.answer)


def _failures(failures: Sequence[Failure]) -> list[FailureReply]:
    return [FailureReply(**asdict(failure)) for failure in failures]


def _draft(draft: Draft) -> DraftReply:
    perplexity = draft.perplexity if math.isfinite(draft.perplexity) else None
    return DraftReply(
        text=draft.text, logprob=draft.logprob, perplexity=perplexity, tokens=len(draft.token_ids), finish_reason=FINISH[draft.finish]
    )
