"""`cleave serve promote ROLE MODEL` and `cleave serve rollback ROLE`: another version of one role for an application that runs.

A candidate is started beside the application. Both versions are asked the same problems through Serve (serve/probe.py), and the candidate
is asked what the application was asked (serve/recorded.py); it is refused if it loses or changes more than the limits allow. Else Serve
starts its replicas before it stops the old ones, and no request meets both versions (serve/pins.py). What was before is kept with the
application, for the way back, which is taken by itself if too many problems fail while this watches. A watch ends with its process.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

from cleave.agreement import Agreement
from cleave.comparison import ALL, Comparison, Limits, as_dict, show
from cleave.config.base import SHORT, validate
from cleave.config.model import ModelConfig
from cleave.config.serve import ServeArgs
from cleave.config.workload import TaskShare
from cleave.console import say
from cleave.errors import ConfigError, RoleUnavailable
from cleave.roles import Role, Roles
from cleave.types import ModelInfo
from serve.ingress import serve_roles
from serve.probe import probe
from serve.recorded import Replay, replay
from serve.run import needed_cpus
from serve.running import Candidate, Running, join
from serve.tally import label, share_failed

CONFIDENCE = 0.95
"""Of the intervals that are shown."""
LOOK_S = 1.0
"""Between two looks at what has failed."""


def promote(
    role: Role,
    model: str,
    tasks: Sequence[TaskShare],
    limits: Limits,
    *,
    application: str,
    address: str,
    wanted: Replay | None = None,
    watch_s: float | None = None,
    dry_run: bool = False,
    as_json: bool = False,
) -> int:
    """Compare, judge, go over and watch; 1 if the limits forbid it or what was before is in use again. `wanted`: the requests that the
    new version is asked too; `watch_s` None: as the application is configured; `dry_run`: everything but going over. Raises ConfigError,
    and what keeps the new version from starting; what runs is left as it is then."""
    wanted = wanted or Replay()
    _check_asked(tasks, limits, wanted)
    join(address, application)
    running = Running(application)
    if wanted.wanted and not running.args.traces.max_traces:
        raise ConfigError("this application remembers no requests; start it with traces.max_traces, or leave --recorded and --shadow out.")
    args = watching(promoted(running.args, role, model), watch_s)
    check_room(args)
    say(f"starting {role} {model} beside what runs.")
    with Candidate(application, role, args) as candidate:
        handles = running.handles()
        old, new = serve_roles(running.args, handles), serve_roles(args, {**handles, role: candidate})
        found = asyncio.run(probe(tasks, args.reasoning, old, new)) if tasks else None
        info, agreement = asyncio.run(_replayed(running, wanted, role, old, new))
    broken = [*(limits.broken_by(found.tasks[ALL]) if found else []), *(limits.broken_by_agreement(agreement) if agreement else [])]
    tell(found, agreement, broken, as_json)
    if broken:
        return 1
    if dry_run:
        return 0
    running.replace(args)
    say(f"{role}: {model} is in use; `cleave serve rollback {role}` goes back.")
    return watch(running, role, info) if args.upgrades.watch_s else 0


def watch(running: Running, role: Role, info: ModelInfo) -> int:
    """Go back if more problems of the version that is in use fail than may; 1 if so."""
    upgrades, ledger = running.args.upgrades, running.ledger()
    say(f"watching for {upgrades.watch_s:g} s whether problems fail.")
    end, total, share = time.monotonic() + upgrades.watch_s, 0, 0.0
    while time.monotonic() < end:
        time.sleep(LOOK_S)
        try:
            total, share = share_failed(asyncio.run(ledger.tallies()), role, label(info))
        except RoleUnavailable:
            continue
        if total >= upgrades.min_requests and share > upgrades.max_error_rate:
            say(f"{100 * share:.1f} % of {total} problems failed, at most {100 * upgrades.max_error_rate:g} % may: going back.")
            running.replace(demoted(running.args, role))
            say(f"{role}: {_model(running.args, role)} is in use again.")
            return 1
    say(f"{100 * share:.1f} % of {total} problems failed; {_model(running.args, role)} stays.")
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


def watching(args: ServeArgs, watch_s: float | None) -> ServeArgs:
    """The args with another time to watch; None: their own."""
    if watch_s is None:
        return args
    return args.model_copy(update={"upgrades": args.upgrades.model_copy(update={"watch_s": watch_s})})


def check_room(args: ServeArgs) -> None:
    """Raise ConfigError where the new replicas find no place beside the old ones, instead of waiting for ever. Serve replaces those of all
    deployments, changed or not."""
    import ray

    needed, free = needed_cpus(args), ray.available_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
    if free < needed:
        raise ConfigError(
            f"the new replicas need {needed:g} CPU beside the old ones, {free:g} are free; add a node, or scale something down."
        )


def tell(found: Comparison | None, agreement: Agreement | None, broken: Sequence[str], as_json: bool) -> None:
    """What was measured, and what is against it."""
    if as_json:
        measured = {} if found is None else as_dict(found)
        replayed = {} if agreement is None else {"requests": agreement.as_dict()}
        print(json.dumps(measured | replayed | {"refused": list(broken)}, ensure_ascii=False))
    else:
        if found is not None:
            show(found, CONFIDENCE)
        if agreement is not None:
            agreement.show()
    for reason in broken:
        say(f"refused: {reason}.")


def _check_asked(tasks: Sequence[TaskShare], limits: Limits, wanted: Replay) -> None:
    """Raise ConfigError where nothing would be compared, or nothing judged."""
    if not tasks and not wanted.wanted:
        raise ConfigError("nothing is compared; name problems by --task, or requests by --recorded or --shadow.")
    if not tasks and limits.max_changed is None:
        raise ConfigError("requests alone say nothing of right or wrong; set --max-changed, or name problems by --task.")
    if wanted.shadow and not wanted.seconds:
        raise ConfigError("a shadow needs some time; set --minutes.")


async def _replayed(running: Running, wanted: Replay, role: Role, old: Roles, new: Roles) -> tuple[ModelInfo, Agreement | None]:
    """Which version the candidate is, and how it answers the requests that are wanted."""
    before: ModelInfo = await getattr(old, role).info()
    info: ModelInfo = await getattr(new, role).info()
    return info, await replay(running.ledger(), wanted, role, before, new) if wanted.wanted else None


def _model(args: ServeArgs, role: Role) -> Any:
    config = args.roles.played().get(role)
    return None if config is None else config.model.short
