"""`cleave serve promote ROLE MODEL` and `cleave serve rollback ROLE`: another version of one role for an application that runs.

A candidate is started beside the application, both versions are asked the same problems through Serve, and the new one is refused if it
loses more than the limits allow (cleave/comparison.py); else Serve starts its replicas before it stops the old ones. What was before is
kept with the application, for the way back. Left out: pinning; a request that is at work during the change can meet both versions, in
different calls.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from cleave.comparison import ALL, Comparison, Limits, as_dict, show
from cleave.config.base import SHORT, validate
from cleave.config.model import ModelConfig
from cleave.config.serve import ServeArgs
from cleave.config.workload import TaskShare
from cleave.console import say
from cleave.errors import ConfigError
from cleave.roles import Role
from serve.ingress import serve_roles
from serve.probe import probe
from serve.run import needed_cpus
from serve.running import Candidate, Running, join

CONFIDENCE = 0.95
"""Of the intervals that are shown."""


def promote(
    role: Role,
    model: str,
    tasks: Sequence[TaskShare],
    limits: Limits,
    *,
    application: str,
    address: str,
    dry_run: bool = False,
    as_json: bool = False,
) -> int:
    """Compare, judge and go over; 1 if the limits forbid it. `dry_run`: everything but going over. Raises ConfigError, and what keeps the
    new version from starting; what runs is left as it is then."""
    join(address, application)
    running = Running(application)
    args = promoted(running.args, role, model)
    check_room(args)
    say(f"starting {role} {model} beside what runs.")
    with Candidate(application, role, args) as candidate:
        handles = running.handles()
        old, new = serve_roles(running.args, handles), serve_roles(args, {**handles, role: candidate})
        found = asyncio.run(probe(tasks, args.reasoning, old, new))
    broken = limits.broken_by(found.tasks[ALL])
    tell(found, broken, as_json)
    if broken:
        return 1
    if not dry_run:
        running.replace(args)
        say(f"{role}: {model} is in use; `cleave serve rollback {role}` goes back.")
    return 0


def rollback(role: Role, *, application: str, address: str) -> int:
    """Go back to what the role was before its last promotion; once more goes forth again. Raises ConfigError if it never had one."""
    join(address, application)
    running = Running(application)
    args = demoted(running.args, role)
    check_room(args)
    running.replace(args)
    say(f"{role}: {_model(running.args, role)} is in use again.")
    return 0


def promoted(args: ServeArgs, role: Role, model: str) -> ServeArgs:
    """The args with another model for a role; all else of the role stays, with the model's options where its kind does. Raises
    ConfigError."""
    data, named = args.model_dump(mode="json"), validate(ModelConfig, {SHORT: model}, "promote")
    before = data["roles"][role]
    data["previous"][role] = before
    options = before["model"] if before is not None and before["model"]["backend"] == named.backend else {}
    another = {**options, "revision": None, "adapter": None, **named.model_dump(mode="json", exclude_unset=True)}
    data["roles"][role] = {**(before or {}), "model": another}
    new = validate(ServeArgs, data, "promote")
    if before is not None and _model(new, role) == _model(args, role):
        raise ConfigError(f"{model} is the {role} already; name another model.")
    return new


def demoted(args: ServeArgs, role: Role) -> ServeArgs:
    """The args with the role as it was. Raises ConfigError."""
    data = args.model_dump(mode="json")
    if data["previous"][role] is None:
        raise ConfigError(f"the {role} was never promoted, so there is nothing to go back to; see `cleave serve status`.")
    data["roles"][role], data["previous"][role] = data["previous"][role], data["roles"][role]
    return validate(ServeArgs, data, "rollback")


def check_room(args: ServeArgs) -> None:
    """Raise ConfigError where the new replicas find no place beside the old ones, instead of waiting for ever. Serve replaces those of all
    deployments, changed or not."""
    import ray

    needed, free = needed_cpus(args), ray.available_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
    if free < needed:
        raise ConfigError(
            f"the new replicas need {needed:g} CPU beside the old ones, {free:g} are free; add a node, or scale something down."
        )


def tell(found: Comparison, broken: Sequence[str], as_json: bool) -> None:
    """What was measured, and what is against it."""
    if as_json:
        print(json.dumps(as_dict(found) | {"refused": list(broken)}, ensure_ascii=False))
    else:
        show(found, CONFIDENCE)
    for reason in broken:
        say(f"refused: {reason}.")


def _model(args: ServeArgs, role: Role) -> Any:
    config = args.roles.played().get(role)
    return None if config is None else config.model.short
