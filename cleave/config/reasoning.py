"""How a problem is reasoned about: strategy, samples, selection and limits."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cleave.config.base import Config

StrategyName = Literal["direct", "single", "static", "stepwise"]
SelectionName = Literal["first", "majority"]


class BudgetConfig(Config):
    """Limits per problem; None: no limit. Running out is reported as BudgetExceeded, with what was found until then."""

    max_tokens: int | None = Field(None, gt=0)
    """Prompt plus generated tokens over all roles."""
    max_calls: int | None = Field(None, gt=0)
    """Model calls over all roles."""
    max_seconds: float | None = Field(None, gt=0)
    """Wall seconds."""
    max_price: float | None = Field(None, gt=0)
    """Price over all roles, in the currency of the models' prices."""


class ReasoningConfig(Config):
    """One strategy with its options."""

    strategy: StrategyName = "static"
    """direct: answer only; single: step by step without a plan; static: plan once, solve in one pass; stepwise: the plan node by node."""
    n: int = Field(1, ge=1, le=1024)
    """Solutions sampled per problem."""
    temperature: float = Field(0.0, ge=0, le=5)
    """Sampling temperature of the solver; 0 is greedy (then n must be 1)."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus of the solver's sampling."""
    plans: int = Field(1, ge=1, le=64)
    """Plans sampled per problem; the n solutions are shared evenly among them."""
    plan_temperature: float = Field(0.0, ge=0, le=5)
    """Sampling temperature of the decomposer."""
    gold_plan: bool = False
    """Take the task's own plan instead of asking the decomposer: what a perfect decomposer would bring."""
    selection: SelectionName = "first"
    """How the answer is chosen among the solutions."""
    seed: int = 0
    """Seed of the run; each problem derives its own from it and its id."""
    budget: BudgetConfig = BudgetConfig()
    """Limits per problem."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.plans > 1 and self.strategy in ("direct", "single"):
            raise ValueError(f"the strategy {self.strategy} makes no plan; use static or stepwise, or plans=1")
        if self.gold_plan and (self.plans > 1 or self.strategy in ("direct", "single")):
            raise ValueError("gold_plan is the one plan of a task; use it with static or stepwise and plans=1")
        if self.plans > self.n:
            raise ValueError(f"{self.plans} plans need at least as many solutions; set n to {self.plans} or more")
        if self.plans > 1 and self.plan_temperature == 0:
            raise ValueError("several plans at plan_temperature 0 are all the same; set plan_temperature, for example to 0.7")
        if self.n > self.plans and self.temperature == 0:
            raise ValueError("several solutions of one plan at temperature 0 are all the same; set temperature, for example to 0.7, or n=1")
        return self
