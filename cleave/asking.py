"""`cleave ask`: one question in, the plan, every sub-answer, the answer, its confidence and its cost out.

    code = main("How many …?", open_roles=open_roles, overrides=["reasoning.strategy=stepwise"])

Results go to stdout (`as_json`: the Trace as one line), progress to stderr and only on a terminal. The exit code is 0 if nothing
failed. How roles are built is the caller's choice (`open_roles`), since this package may not import the one that hosts them.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

from cleave import errors
from cleave.config.ask import AskConfig
from cleave.config.base import load, read_yaml
from cleave.config.roles import RolesConfig
from cleave.console import out, say_error
from cleave.events import Event, OnEvent, PlanMade, SolutionFound, StageEntered, StepAsked
from cleave.questions import MAX_BYTES, check_question, problem_of
from cleave.reasoning import reason
from cleave.roles import Roles
from cleave.trace_view import print_trace, printable
from cleave.types import Failure, Trace, to_json

OpenRoles = Callable[[RolesConfig, Path | None], AbstractAsyncContextManager[Roles]]
"""Builds the cast, recording every model call to the path if there is one, and closes it at the end."""
SAMPLING_TEMPERATURE = 0.7
"""Temperature of several samples where the user names none."""


def main(
    question: str,
    *,
    open_roles: OpenRoles,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    roles: Path | None = None,
    decomposer: str | None = None,
    solver: str | None = None,
    strategy: str | None = None,
    n: int | None = None,
    temperature: float | None = None,
    as_json: bool = False,
    record: Path | None = None,
) -> int:
    """Answer one question ('-': the one on stdin) and print it. Raises DataError and ConfigError before any work is done."""
    text = read_question(question)
    options = [
        *_option("roles", read_yaml(roles) if roles is not None else None),
        *_option("roles.decomposer.model", decomposer),
        *_option("roles.solver.model", solver),
        *_option("reasoning.strategy", strategy),
        *_sampling(config, n, temperature),
    ]
    resolved = load(AskConfig, config, [*options, *overrides])
    with spinner() as on_event:
        trace = asyncio.run(answer(text, resolved, open_roles, record, on_event))
    if as_json:
        print(to_json(trace))
    else:
        print_trace(trace, out())
    if trace.error is not None:
        say_error(sentence(trace.error))
    return exit_code(trace.error)


async def answer(question: str, config: AskConfig, open_roles: OpenRoles, record: Path | None, on_event: OnEvent | None) -> Trace:
    """Reason about one checked question with a cast of its own."""
    async with open_roles(config.roles, record) as roles:
        return await reason(problem_of(question), roles, config.reasoning, on_event=on_event)


def read_question(question: str) -> str:
    """The question itself or, for '-', what stdin holds. Raises DataError for what cannot be a question."""
    return check_question(sys.stdin.buffer.read(MAX_BYTES + 1) if question == "-" else question)


@contextmanager
def spinner() -> Iterator[OnEvent | None]:
    """Show on stderr, if that is a terminal, what the loop is doing; yields the callback that it reports to."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True, markup=False, highlight=False).status("loading models") as status:

        def show(event: Event) -> None:
            status.update(activity(event))

        yield show


def activity(event: Event) -> str:
    """What the loop does after an event, in a few words."""
    if isinstance(event, StageEntered):
        return f"stage {event.stage + 1} of {event.of}: {event.strategy}, n = {event.n}"
    if isinstance(event, PlanMade):
        return f"solving {len(event.plan.steps)} steps"
    if isinstance(event, StepAsked):
        return printable(f"step {event.step}: {event.question[:80]}").replace("\n", " ")
    return "checking" if isinstance(event, SolutionFound) else "working"


def sentence(failure: Failure) -> str:
    """A failure as one sentence for people."""
    return f"{failure.role}: {failure.message}" if failure.role else failure.message


def exit_code(failure: Failure | None) -> int:
    """The command line's exit code for the outcome of a trace."""
    if failure is None:
        return 0
    kind = getattr(errors, failure.type, errors.CleaveError)
    return int(kind.exit_code)


def _option(key: str, value: object) -> list[str]:
    return [] if value is None else [f"{key}={json.dumps(value)}"]


def _sampling(config: Path | None, n: int | None, temperature: float | None) -> list[str]:
    """The options of n samples. Several are drawn at random and vote, unless the user or the config says otherwise."""
    options = _option("reasoning.n", n)
    given = read_yaml(config).get("reasoning") if config is not None else None
    keys = set(given) if isinstance(given, dict) else set()
    if n is not None and n > 1:
        options += [] if "temperature" in keys else _option("reasoning.temperature", SAMPLING_TEMPERATURE)
        options += [] if "selection" in keys else _option("reasoning.selection", "majority")
    return options + _option("reasoning.temperature", temperature)
