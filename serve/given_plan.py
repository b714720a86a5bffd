"""A plan that the client wrote, in the decomposer's place: what is asked for is the plan itself, at no cost.

Left out: reading the plan and whether it fits the request (serve/request.py).
"""

from __future__ import annotations

from cleave.roles import DecomposeReply, DecomposeRequest
from cleave.types import ModelInfo, Plan, Usage

INFO = ModelInfo("given", parameters=0)
"""How a trace names the one who made the plan. Without parameters, so that its calls are no model calls."""


class GivenPlan:
    """A decomposer that knows one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    async def __call__(self, request: DecomposeRequest) -> DecomposeReply:
        return DecomposeReply((self._plan,), (self._plan.text,), Usage())

    async def info(self) -> ModelInfo:
        return INFO
