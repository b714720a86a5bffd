"""The content of a prompt set's YAML file: templates of one of two kinds, checked when they are read.

`text` is one string per form, for models trained on exactly it; `chat` is a system message, worked examples and a user message
per form, for instruction models. Templates are filled by literal replacement in one pass: braces in a question mean nothing, and
nothing is evaluated. Left out: which form asks for what (prompts.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import model_validator

from cleave.config.base import Config
from cleave.types import Message, Prompt

Form = Literal["decompose", "next_question", "solve_steps", "solve_single", "solve_answer", "solve_step", "reconstruct", "verify"]

_PLACEHOLDER = re.compile(r"\{([a-z]+)\}")
_PLACEHOLDERS: Mapping[str, frozenset[str]] = {
    "decompose": frozenset({"question"}),
    "next_question": frozenset({"question", "plan", "known"}),
    "solve_steps": frozenset({"question", "plan"}),
    "solve_single": frozenset({"question"}),
    "solve_answer": frozenset({"question"}),
    "solve_step": frozenset({"question", "plan", "known", "id", "step"}),
    "reconstruct": frozenset({"plan", "solution"}),
    "verify": frozenset({"question", "plan", "solution"}),
    "repair": frozenset({"complaint"}),
    "step_line": frozenset({"id", "text"}),
}
"""What each template must use, neither more nor less but for those in _OPTIONAL."""
_OPTIONAL: Mapping[str, frozenset[str]] = {
    "decompose": frozenset({"most"}),
    "next_question": frozenset({"id", "most"}),
}
"""What a template may use besides; `most` is the largest number of sub-questions."""


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace each `{name}` that is in `values`, once: a value that itself contains `{name}` stays as it is."""
    return _PLACEHOLDER.sub(lambda match: values.get(match.group(1), match.group(0)), template)


class TextTemplates(Config):
    """Plain text. A single step is asked by `solve_steps`, the known lines and the step's number, which the model continues; the next
    sub-question is one line. A verdict is asked for after the solution, which follows the text that it was a reply to."""

    name: str
    """Name with version; a change of wording is a new version."""
    kind: Literal["text"]
    """This kind."""
    decompose: str
    """Asks for a plan."""
    next_question: str | None = None
    """Asks for the sub-question after those that are answered; null: these prompts cannot ask for it."""
    solve_steps: str
    """Asks for a solution along a plan."""
    solve_single: str
    """Asks for a step-by-step solution without a plan."""
    solve_answer: str
    """Asks for the final answer only."""
    reconstruct: str | None = None
    """Asks for the problem that a trace answers; null: these prompts cannot ask for it."""
    verify: str | None = None
    """What follows a solution and is continued by one of `verdicts`; null: these prompts cannot ask for a verdict."""
    verdicts: tuple[str, str] = (" correct", " incorrect")
    """How a verdict is worded: for a right solution, for a wrong one."""
    step_line: str = "{id}. {text}\n"
    """One line of a solution."""
    stop: tuple[str, ...] = ()
    """Strings that end a reply, besides the model's own end token."""

    @model_validator(mode="after")
    def _placeholders_fit(self) -> Self:
        _check_verdicts(self.verdicts)
        for form in ("decompose", "next_question", "solve_steps", "solve_single", "solve_answer", "reconstruct", "step_line"):
            if getattr(self, form) is not None:
                _check_placeholders(form, getattr(self, form))
        return self

    def prompt(self, form: Form, values: Mapping[str, str], seed: int | None) -> Prompt:
        if form == "solve_step":
            return Prompt(text=f"{fill(self.solve_steps, values)}{values['known']}{values['id']}.", seed=seed)
        if form == "verify":
            asked = fill(self.solve_steps if values["plan"] else self.solve_single, values)
            return Prompt(text=f"{asked}{values['solution']}\n{self.verify}", seed=seed)
        return Prompt(text=fill(getattr(self, form), values), seed=seed)

    def stops(self, form: Form) -> tuple[str, ...]:
        return (*self.stop, "\n") if form in ("solve_step", "next_question") else self.stop

    def step_reply(self, number: int, text: str) -> str:
        """What a model replies to `solve_step`: it goes on after the number."""
        return f" {text}"

    def again(self, prompt: Prompt, reply: str, complaint: str, seed: int | None) -> Prompt:
        """The same prompt with another seed: a model that only continues text cannot read a complaint."""
        return Prompt(text=prompt.text, seed=seed)


class Example(Config):
    """One worked example of a chat form: the values of the user template's placeholders, and the reply."""

    question: str
    """The example's problem."""
    plan: str = ""
    """Its plan, one `k. question` per line (forms that show a plan)."""
    known: str = ""
    """Solution lines that are given (solve_step, next_question)."""
    id: str = ""
    """Number of the step that is asked (solve_step), or asked for (next_question)."""
    step: str = ""
    """Question of the step that is asked (solve_step)."""
    solution: str = ""
    """Solution that is judged (verify) or that a question is asked of (reconstruct)."""
    reply: str
    """What the model should reply."""


class ChatForm(Config):
    """How one thing is asked in a chat."""

    system: str
    """Instruction, sent as the system message; `{most}` in it is the largest number of sub-questions."""
    user: str
    """Template of the user message."""
    examples: tuple[Example, ...] = ()
    """Worked examples, sent as earlier turns."""

    def messages(self, values: Mapping[str, str]) -> tuple[Message, ...]:
        most = {name: value for name, value in values.items() if name == "most"}
        turns = [Message("system", fill(self.system, most).strip())]
        for example in self.examples:
            turns.append(Message("user", fill(self.user, example.model_dump(exclude={"reply"})).strip()))
            turns.append(Message("assistant", example.reply.strip()))
        return (*turns, Message("user", fill(self.user, values).strip()))


class ChatTemplates(Config):
    """Chat messages for instruction models."""

    name: str
    """Name with version; a change of wording is a new version."""
    kind: Literal["chat"]
    """This kind."""
    decompose: ChatForm
    """Asks for a plan."""
    next_question: ChatForm | None = None
    """Asks for the sub-question after those that are answered; null: these prompts cannot ask for it."""
    solve_steps: ChatForm
    """Asks for a solution along a plan."""
    solve_single: ChatForm
    """Asks for a step-by-step solution without a plan."""
    solve_answer: ChatForm
    """Asks for the final answer only."""
    solve_step: ChatForm
    """Asks for the answer of one step of a plan, the steps before it being known."""
    reconstruct: ChatForm | None = None
    """Asks for the problem that a trace answers; null: these prompts cannot ask for it."""
    verify: ChatForm | None = None
    """Asks for a verdict on a solution; null: these prompts cannot ask for one."""
    verdicts: tuple[str, str] = ("correct", "incorrect")
    """How a verdict is worded: for a right solution, for a wrong one."""
    repair: str
    """Template of the message that sends an unparsable reply back."""
    step_line: str = "{id}. {text}\n"
    """One line of a solution."""
    stop: tuple[str, ...] = ()
    """Strings that end a reply, besides the model's own end token."""

    @model_validator(mode="after")
    def _placeholders_fit(self) -> Self:
        _check_verdicts(self.verdicts)
        for form in ("decompose", "next_question", "solve_steps", "solve_single", "solve_answer", "solve_step", "reconstruct", "verify"):
            if getattr(self, form) is not None:
                _check_placeholders(form, getattr(self, form).user)
        _check_placeholders("repair", self.repair)
        _check_placeholders("step_line", self.step_line)
        return self

    def prompt(self, form: Form, values: Mapping[str, str], seed: int | None) -> Prompt:
        chat: ChatForm = getattr(self, form)
        return Prompt(messages=chat.messages(values), seed=seed)

    def stops(self, form: Form) -> tuple[str, ...]:
        return self.stop

    def step_reply(self, number: int, text: str) -> str:
        """What a model replies to `solve_step`."""
        return f"{number}. {text}"

    def again(self, prompt: Prompt, reply: str, complaint: str, seed: int | None) -> Prompt:
        """The conversation so far, the reply, and the complaint about it."""
        turns = (Message("assistant", reply), Message("user", fill(self.repair, {"complaint": complaint}).strip()))
        return Prompt(messages=(*prompt.messages, *turns), seed=seed)


KINDS: Mapping[str, type[TextTemplates] | type[ChatTemplates]] = {"text": TextTemplates, "chat": ChatTemplates}
"""The schema of each kind of file."""


def _check_verdicts(words: tuple[str, str]) -> None:
    right, wrong = (word.strip().casefold() for word in words)
    if not right or not wrong or right.startswith(wrong) or wrong.startswith(right):
        raise ValueError("verdicts are two words, neither of which begins with the other")


def _check_placeholders(form: str, template: str) -> None:
    found = frozenset(_PLACEHOLDER.findall(template))
    if found - _OPTIONAL.get(form, frozenset()) != _PLACEHOLDERS[form]:
        names = ", ".join(f"{{{name}}}" for name in sorted(_PLACEHOLDERS[form]))
        raise ValueError(f"the template {form} must use exactly {names}")
