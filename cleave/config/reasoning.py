"""How a problem is reasoned about: strategy, samples, selection and limits, in one stage or several."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from cleave.config.base import Config, validate_part
from cleave.plans import DEFAULT_LIMITS

StageStrategy = Literal["direct", "single", "static", "stepwise", "dynamic"]
StrategyName = Literal[StageStrategy, "adaptive"]
SelectionName = Literal["first", "majority", "rr_all", "rr_topk", "weighted", "weighted_topk", "maj_topn"]
PLANNED: tuple[StrategyName, ...] = ("static", "stepwise")
"""Strategies whose plans are made before anything is solved: several can be sampled, or the task's own taken."""
RULES: tuple[SelectionName, ...] = get_args(SelectionName)
UNSCORED: tuple[SelectionName, ...] = ("first", "majority")
"""Selection rules that need no verifier."""


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
    max_samples: int | None = Field(None, gt=0)
    """Solutions drawn, over all rounds and stages. What would pass it is not drawn."""


class StageConfig(Config):
    """One stage of the strategy `adaptive`: how it reasons, null: as the `reasoning` around it, and when its answer is taken."""

    strategy: StageStrategy = "static"
    """As in `reasoning`."""
    n: int | None = None
    """Solutions sampled in this stage."""
    temperature: float | None = None
    """Sampling temperature of the solver."""
    top_p: float | None = None
    """Nucleus of the solver's sampling."""
    min_p: float | None = None
    """Least probability of a drawn token, as in `reasoning`."""
    plans: int | None = None
    """Plans sampled in this stage."""
    plan_temperature: float | None = None
    """Sampling temperature of the decomposer."""
    max_steps: int | None = None
    """Most sub-questions of a plan."""
    selection: SelectionName | None = None
    """How the answer is chosen among the stage's own solutions; several samples need another rule than first."""
    rerank_top_k: int | None = None
    """Most frequent answers that rr_topk and weighted_topk choose among."""
    majority_top_n: int | None = None
    """Best-scored solutions that vote in maj_topn."""
    stop_early: float | None = None
    """Draw the stage's samples in rounds, as in `reasoning`."""
    samples_per_round: int | None = None
    """Solutions drawn between two looks."""
    agreement: float | None = Field(None, gt=0, le=1)
    """Share of the stage's samples that must give its answer; null: none where `confidence` is set, else 1 for up to 3 samples, 0.8 for up
    to 5 and 0.6 for more."""
    confidence: float | None = Field(None, gt=0, le=1)
    """Confidence that its answer must have; the verifier then scores the stage's solutions before it is decided. null: any."""


class ReasoningConfig(Config):
    """One strategy with its options."""

    strategy: StrategyName = "static"
    """direct: answer only; single: step by step without a plan; static: plan once, solve in one pass; stepwise: the plan node by node;
    dynamic: each sub-question after seeing the answers so far; adaptive: the `stages` in turn, until one's answer is sure enough."""
    stages: tuple[StageConfig, ...] = ()
    """What `adaptive` goes through, from cheap to dear; the last stage always answers. Other strategies leave it alone."""
    otherwise: Literal["last", "most_agreed"] = "last"
    """Whose answer is given when the last stage does not reach its own condition either (adaptive only). last: the last stage's;
    most_agreed: that of the stage whose samples agree most."""
    n: int = Field(1, ge=1, le=1024)
    """Solutions sampled per problem."""
    temperature: float = Field(0.0, ge=0, le=5)
    """Sampling temperature of the solver; 0 is greedy (then n must be 1)."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus of the solver's sampling."""
    min_p: float | None = Field(None, ge=0, le=1)
    """Least probability of a token that the solver draws, as a share of the most likely one's, at the temperature and after top_p; null or
    0: any. Local models only."""
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

    @property
    def most_samples(self) -> int:
        """Solutions that a problem can take, over all stages."""
        return sum(stage.reasoning.n for stage in self.in_stages())

    @property
    def is_random(self) -> bool:
        """Whether another seed can give another trace."""
        return any(stage.reasoning.temperature + stage.reasoning.plan_temperature > 0 for stage in self.in_stages())

    def in_stages(self) -> tuple["Stage", ...]:
        """What is gone through: the resolved stages of `adaptive`; of any other strategy itself, as the only one."""
        if self.strategy != "adaptive":
            return (Stage(self),)
        around = self.model_dump(exclude={"stages"})
        return tuple(_stage(stage, around, f"stages.{i}") for i, stage in enumerate(self.stages))

    @model_validator(mode="after")
    def _stages_are_reached(self) -> Self:
        if self.strategy != "adaptive":  # stages that wait need not fit in with it
            return self
        if not self.stages:
            raise ValueError("adaptive goes through stages; list them under stages, from cheap to dear")
        for i, stage in enumerate(self.in_stages()):
            n, next_one = stage.reasoning.n, i + 1
            if n > 1 and stage.reasoning.selection == "first":
                raise ValueError(f"stages.{i}: the first of {n} samples is no vote; set selection: majority")
            if next_one < len(self.stages) and stage.agreement * n <= 1 and stage.confidence is None:
                samples = "one sample always agrees with itself" if n == 1 else f"{n} samples always agree as much as that"
                remedy = "set confidence, for example to 0.9, or more samples (n: 3)"
                raise ValueError(f"stages.{i}: {samples}, so that stages.{next_one} is never reached; {remedy}")
        return self

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.strategy == "adaptive":  # its own options only stand in for what its stages leave out, and those were checked
            return self
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


@dataclass(frozen=True)
class Stage:
    """A resolved stage: how it reasons, and what its answer must reach to be taken, a share of its samples (0: any) and a confidence
    (None: any)."""

    reasoning: ReasoningConfig
    agreement: float = 0.0
    confidence: float | None = None

    @property
    def is_scored(self) -> bool:
        """Whether verdicts decide on its answer."""
        return self.confidence is not None or self.reasoning.selection not in UNSCORED

    def takes(self, agreement: float, confidence: float | None) -> bool:
        """Whether an answer that this share of the samples gives is sure enough. An unknown confidence (None) reaches none."""
        return agreement >= self.agreement and (self.confidence is None or (confidence or 0.0) >= self.confidence)


def usual_agreement(n: int) -> float:
    """The share of n samples that Adaptive-Solver asks for (arXiv 2310.01446)."""
    return 1.0 if n <= 3 else 0.8 if n <= 5 else 0.6


def _stage(stage: StageConfig, around: Mapping[str, Any], where: str) -> Stage:
    """What `stage` says over what the config `around` it says. Raises ValueError that names the place of a mistake."""
    own = stage.model_dump(exclude={"agreement", "confidence"}, exclude_none=True)
    reasoning = validate_part(ReasoningConfig, {**around, **own}, where)
    unsaid = 0.0 if stage.confidence is not None else usual_agreement(reasoning.n)
    return Stage(reasoning, stage.agreement if stage.agreement is not None else unsaid, stage.confidence)
