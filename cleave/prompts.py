"""Prompts as versioned data: a YAML file says how each role asks, a PromptSet fills it in.

    prompts = load_prompts("reference-v1")                 # a shipped name, or the path of a YAML file
    prompts.decompose(problem)                             # → Prompt
    prompts.next_question(problem, plan, known)            # → Prompt
    prompts.solve(problem, "steps", plan)                  # → Prompt
    prompts.solve_target(problem.gold_steps, "57")         # → what a model is trained to reply

Left out: the files' schema (templates.py), tokens and chat templates (lm/), reading the replies (plans.py, solutions.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from cleave.config.base import validate
from cleave.errors import ConfigError
from cleave.plans import DEFAULT_LIMITS, NO_MORE
from cleave.roles import SolveMode
from cleave.solutions import render_solution
from cleave.templates import KINDS, ChatTemplates, Form, TextTemplates, fill
from cleave.types import Plan, Problem, Prompt, SolutionStep, Step

SHIPPED = "prompt_sets"
"""Folder of the shipped sets, beside this file."""


@dataclass(frozen=True)
class PromptSet:
    """How the roles ask, and what a model is trained to reply. `fingerprint` is the sha256 of the file (after those of the set that it
    extends), hexadecimal."""

    templates: TextTemplates | ChatTemplates
    fingerprint: str

    @property
    def name(self) -> str:
        return self.templates.name

    @property
    def kind(self) -> Literal["text", "chat"]:
        """What a model has to understand: plain text or chat messages."""
        return self.templates.kind

    def decompose(self, problem: Problem, seed: int | None = None, most: int = DEFAULT_LIMITS.steps) -> Prompt:
        """Ask for a plan of `problem`. `most` is the largest number of sub-questions, named where the prompts do that."""
        return self.templates.prompt("decompose", {"question": problem.text, "most": str(most)}, seed)

    def next_question(
        self,
        problem: Problem,
        plan: Plan,
        known: Sequence[SolutionStep] = (),
        seed: int | None = None,
        most: int = DEFAULT_LIMITS.steps,
    ) -> Prompt:
        """Ask for the sub-question after those of `plan`, which `known` answers, or whether none is needed.

        Raises ConfigError where the prompts have no form for it, ValueError for `known` other than the answers of all steps.
        """
        if self.templates.next_question is None:
            raise ConfigError(
                f"the prompts {self.name} cannot ask for the next sub-question; use instruct-v2, or a decomposer that was trained on "
                "next_question with reference-v2."
            )
        if [step.id for step in known] != [step.id for step in plan.steps]:
            raise ValueError("the next sub-question needs the answers of exactly those before it, in order")
        values = {"plan": plan.text, "known": self._lines(known), "id": str(len(plan.steps) + 1), "most": str(most)}
        return self.templates.prompt("next_question", {"question": problem.text, **values}, seed)

    def solve(
        self,
        problem: Problem,
        mode: SolveMode = "steps",
        plan: Plan | None = None,
        known: Sequence[SolutionStep] = (),
        seed: int | None = None,
    ) -> Prompt:
        """Ask for a solution, in the modes of SolveRequest; an empty plan asks like no plan.

        Raises ValueError for mode 'step' without a plan or with `known` other than the answers of all steps but the last.
        """
        form = solve_form(mode, plan)
        values = {"question": problem.text, "plan": plan.text if plan else ""}
        if form == "solve_step":
            assert plan is not None
            if [step.id for step in known] != [step.id for step in plan.steps[:-1]]:
                raise ValueError("mode 'step' needs the answers of exactly the steps before the last one, in order")
            last = plan.steps[-1]
            values |= {"known": self._lines(known), "id": str(last.id), "step": last.question}
        return self.templates.prompt(form, values, seed)

    def reconstruct(self, plan: Plan | None, steps: Sequence[SolutionStep], answer: str, seed: int | None = None) -> Prompt:
        """Ask which problem a trace answers (arXiv 2106.07174). Raises ConfigError where the prompts have no form for it."""
        if self.templates.reconstruct is None:
            raise ConfigError(f"the prompts {self.name} cannot ask for the problem of a trace; use reference-v3 or instruct-v3.")
        values = {"plan": plan.text if plan else "", "solution": render_solution(steps, answer)}
        return self.templates.prompt("reconstruct", values, seed)

    def verify(self, problem: Problem, solution: str, plan: Plan | None = None, seed: int | None = None) -> Prompt:
        """Ask whether a solution, as it was written, is right; one of `verdicts` answers. Raises ConfigError like `require_verdicts`."""
        self.require_verdicts()
        values = {"question": problem.text, "plan": plan.text if plan else "", "solution": solution.strip()}
        return self.templates.prompt("verify", values, seed)

    def require_verdicts(self) -> None:
        """Raise ConfigError where the prompts cannot ask for a verdict."""
        if self.templates.verify is None:
            raise ConfigError(
                f"the prompts {self.name} cannot ask for a verdict; use instruct-v4, or a verifier that was trained with reference-v4."
            )

    @property
    def verdicts(self) -> tuple[str, str]:
        """The replies to `verify`: for a right solution, for a wrong one."""
        return self.templates.verdicts

    def again(self, prompt: Prompt, reply: str, complaint: str, seed: int | None = None) -> Prompt:
        """Ask once more after a reply that could not be parsed: a chat hears the complaint, plain text only gets another seed."""
        return self.templates.again(prompt, reply, complaint, seed)

    def stops(self, form: Form) -> tuple[str, ...]:
        """Strings that end a reply to this form, besides the model's own end token."""
        return self.templates.stops(form)

    def decompose_target(self, plan: Plan) -> str:
        """The reply that a decomposer is trained on. The empty plan is an empty line."""
        return plan.text + "\n"

    def next_target(self, step: Step | None) -> str:
        """The reply that a decomposer is trained on when asked for the next sub-question; None: no more are needed."""
        return (f"{step.id}. {step.question}" if step is not None else NO_MORE) + "\n"

    def step_target(self, step: SolutionStep) -> str:
        """The reply that a solver is trained on when asked for a single step (mode 'step')."""
        return self.templates.step_reply(step.id, step.text) + "\n"

    def solve_target(self, steps: Sequence[SolutionStep], answer: str) -> str:
        """The reply that a solver is trained on; without steps the answer line alone (mode 'answer')."""
        return render_solution(steps, answer) + "\n"

    def reconstruct_target(self, problem: Problem) -> str:
        """The reply that a reconstructor is trained on, and whose probability it is asked for."""
        return problem.text + "\n"

    def _lines(self, known: Sequence[SolutionStep]) -> str:
        return "".join(fill(self.templates.step_line, {"id": str(step.id), "text": step.text}) for step in known)


def solve_form(mode: SolveMode, plan: Plan | None) -> Form:
    """Which form asks for this mode. Raises ValueError for mode 'step' without a plan."""
    if mode == "answer":
        return "solve_answer"
    has_steps = plan is not None and bool(plan.steps)
    if mode == "step" and not has_steps:
        raise ValueError("mode 'step' asks for the last step of a plan, so it needs a plan with steps")
    if mode == "step":
        return "solve_step"
    return "solve_steps" if has_steps else "solve_single"


def load_prompts(name_or_path: str | Path) -> PromptSet:
    """Read a prompt set by its shipped name or from a YAML file (a path has a suffix or a slash). Raises ConfigError.

    `extends: NAME` lays the file's forms over those of a shipped set.
    """
    data, content = _parsed(str(name_or_path))
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"the prompt set {name_or_path} has no known kind; write `kind: text` or `kind: chat`.")
    templates = validate(KINDS[kind], data, source=f"the prompt set {name_or_path}")
    return PromptSet(templates, hashlib.sha256(content).hexdigest())


def shipped_prompts() -> list[str]:
    """Names of the prompt sets that ship with Cleave."""
    folder = resources.files("cleave") / SHIPPED
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _parsed(name: str) -> tuple[dict[str, Any], bytes]:
    """A file's entries over those of the set that it extends, and the bytes that they come from."""
    content = _read(name)
    try:
        data = yaml.safe_load(content.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"the prompt set {name} is not valid YAML: {' '.join(str(error).split())}.") from error
    own = dict(data) if isinstance(data, dict) else {}
    base = own.pop("extends", None)
    if base is None:
        return own, content
    if base not in shipped_prompts():
        raise ConfigError(f"the prompt set {name} extends {base!r}; only shipped ones can be extended: {', '.join(shipped_prompts())}.")
    inherited, before = _parsed(base)
    return inherited | own, before + content


def _read(name: str) -> bytes:
    if "/" in name or name.endswith((".yaml", ".yml")):
        try:
            return Path(name).read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read the prompt set {name}: {error.strerror}; check the path.") from error
    if name not in shipped_prompts():
        raise ConfigError(f"no prompt set is named {name!r}; the shipped ones are {', '.join(shipped_prompts())}, or give a YAML file.")
    return (resources.files("cleave") / SHIPPED / f"{name}.yaml").read_bytes()
