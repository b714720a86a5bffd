"""How a problem is reasoned about: strategy, samples, selection and limits."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cleave.config.base import Config
from cleave.plans import DEFAULT_LIMITS

StrategyName = Literal["direct", "single", "static", "stepwise", "dynamic"]
SelectionName = Literal["first", "majority", "rr_all", "rr_topk", "weighted", "weighted_topk", "maj_topn"]
PLANNED: tuple[StrategyName, ...] = ("static", "stepwise")
"""Strategies whose plans are made before anything is solved: several can be sampled, or the task's own taken."""


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
    """direct: answer only; single: step by step without a plan; static: plan once, solve in one pass; stepwise: the plan node by node;
    dynamic: each sub-question after seeing the answers so far."""
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
    max_steps: int | None = Field(None, ge=1, le=DEFAULT_LIMITS.steps)
    """Most sub-questions of a plan; null: 16. Prompts that can name it do (instruct-v2). A plan that is longer all the same is refused like
    one that cannot be read, never cut: its last sub-question is the one that answers the problem."""
    gold_plan: bool = False
    """Take the task's own plan instead of asking the decomposer: what a perfect decomposer would bring."""
    gold_steps: bool = False
    """Answer a plan's sub-questions as the task does instead of asking the solver: what a perfect solver would bring (static only)."""
    selection: SelectionName = "first"
    """How the answer is chosen among the solutions. first: the first that there is; majority: most votes; by the verifier's scores,
    rr_all: the best one, weighted: the heaviest answer, each with _topk: among the most frequent answers only; maj_topn: most votes of
    the best ones."""
    rerank_top_k: int = Field(8, ge=1)
    """Most frequent answers that rr_topk and weighted_topk choose among."""
    majority_top_n: int = Field(8, ge=1)
    """Best-scored solutions that vote in maj_topn."""
    stop_early: float | None = Field(None, gt=0.5, le=1)
    """Draw samples in rounds and stop once the leading answer is ahead with at least this probability; 1: once it can no longer lose; null:
    draw all n."""
    samples_per_round: int = Field(2, ge=1)
    """Solutions drawn between two looks (stop_early only)."""
    abstain_below: float | None = Field(None, gt=0, le=1)
    """Give no answer whose confidence is below this, or unknown; null: always answer. With a calibrated verifier it is about the share of
    answers at this confidence that are right."""
    seed: int = 0
    """Seed of the run; each problem derives its own from it and its id."""
    budget: BudgetConfig = BudgetConfig()
    """Limits per problem."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.plans > 1 and self.strategy not in PLANNED:
            makes = "makes a plan for each solution" if self.strategy == "dynamic" else "makes no plan"
            raise ValueError(f"the strategy {self.strategy} {makes}; use static or stepwise, or plans=1")
        if self.gold_plan and (self.plans > 1 or self.max_steps is not None or self.strategy not in PLANNED):
            raise ValueError("gold_plan is the one plan of a task as it is; use it with static or stepwise, plans=1 and no max_steps")
        if self.gold_steps and (self.n > 1 or self.strategy != "static"):
            raise ValueError("gold_steps are the one solution of a plan; use them with static and n=1")
        if self.plans > self.n:
            raise ValueError(f"{self.plans} plans need at least as many solutions; set n to {self.plans} or more")
        if self.plans > 1 and self.plan_temperature == 0:
            raise ValueError("several plans at plan_temperature 0 are all the same; set plan_temperature, for example to 0.7")
        if self.stop_early is not None and (self.n == 1 or self.plans > 1):
            raise ValueError("stop_early counts the votes on one plan; set n above 1 and plans=1, or remove it")
        if self.n > self.plans and self.temperature == 0:
            raise ValueError("several solutions of one plan at temperature 0 are all the same; set temperature, for example to 0.7, or n=1")
        return self
