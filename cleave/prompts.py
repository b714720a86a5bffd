"""Prompts as versioned data: a YAML file says how each role asks, a PromptSet fills it in.

    prompts = load_prompts("reference-v1")                 # a shipped name, or the path of a YAML file
    prompts.decompose(problem)                             # → Prompt
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
from typing import Literal

import yaml

from cleave.config.base import validate
from cleave.errors import ConfigError
from cleave.roles import SolveMode
from cleave.solutions import render_solution
from cleave.templates import KINDS, ChatTemplates, Form, TextTemplates, fill
from cleave.types import Plan, Problem, Prompt, SolutionStep

SHIPPED = "prompt_sets"
"""Folder of the shipped sets, beside this file."""


@dataclass(frozen=True)
class PromptSet:
    """How the roles ask, and what a model is trained to reply. `fingerprint` is the sha256 of the file, hexadecimal."""

    templates: TextTemplates | ChatTemplates
    fingerprint: str

    @property
    def name(self) -> str:
        return self.templates.name

    @property
    def kind(self) -> Literal["text", "chat"]:
        """What a model has to understand: plain text or chat messages."""
        return self.templates.kind

    def decompose(self, problem: Problem, seed: int | None = None) -> Prompt:
        """Ask for a plan of `problem`."""
        return self.templates.prompt("decompose", {"question": problem.text}, seed)

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

    def again(self, prompt: Prompt, reply: str, complaint: str, seed: int | None = None) -> Prompt:
        """Ask once more after a reply that could not be parsed: a chat hears the complaint, plain text only gets another seed."""
        return self.templates.again(prompt, reply, complaint, seed)

    def stops(self, form: Form) -> tuple[str, ...]:
        """Strings that end a reply to this form, besides the model's own end token."""
        return self.templates.stops(form)

    def decompose_target(self, plan: Plan) -> str:
        """The reply that a decomposer is trained on. The empty plan is an empty line."""
        return plan.text + "\n"

    def solve_target(self, steps: Sequence[SolutionStep], answer: str) -> str:
        """The reply that a solver is trained on; without steps the answer line alone (mode 'answer')."""
        return render_solution(steps, answer) + "\n"

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
    """Read a prompt set by its shipped name or from a YAML file (a path has a suffix or a slash). Raises ConfigError."""
    content = _read(str(name_or_path))
    try:
        data = yaml.safe_load(content.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"the prompt set {name_or_path} is not valid YAML: {' '.join(str(error).split())}.") from error
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"the prompt set {name_or_path} has no known kind; write `kind: text` or `kind: chat`.")
    templates = validate(KINDS[kind], data, source=f"the prompt set {name_or_path}")
    return PromptSet(templates, hashlib.sha256(content).hexdigest())


def shipped_prompts() -> list[str]:
    """Names of the prompt sets that ship with Cleave."""
    folder = resources.files("cleave") / SHIPPED
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _read(name: str) -> bytes:
    if "/" in name or name.endswith((".yaml", ".yml")):
        try:
            return Path(name).read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read the prompt set {name}: {error.strerror}; check the path.") from error
    if name not in shipped_prompts():
        raise ConfigError(f"no prompt set is named {name!r}; the shipped ones are {', '.join(shipped_prompts())}, or give a YAML file.")
    return (resources.files("cleave") / SHIPPED / f"{name}.yaml").read_bytes()
