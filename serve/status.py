"""`cleave serve status`: what is served on a cluster, replica by replica, and which models play the roles."""

from __future__ import annotations

import json
from typing import Any

from ray import serve as ray_serve

from cleave.console import print_table, say
from cleave.errors import ConfigError
from cleave.roles import ROLES, Role
from serve.running import Running, join


def main(*, application: str | None, address: str, as_json: bool = False) -> int:
    """Show it; 0 if all of it runs, 1 if something does not. `application` None: all. Raises ConfigError."""
    join(address)
    names = list(ray_serve.status().applications) if application is None else [application]
    found = {name: describe(name) for name in names}
    if as_json:
        print(json.dumps(found))
    else:
        for name, each in found.items():
            show(name, each)
    return 0 if all(each["status"] == "RUNNING" for each in found.values()) else 1


def describe(application: str) -> dict[str, Any]:
    """Plain JSON types. Raises ConfigError for an unknown application."""
    overview = ray_serve.status().applications.get(application)
    if overview is None:
        raise ConfigError(f"no application {application!r} runs on this cluster; leave --application out to see all.")
    deployments = {
        name: {
            "status": part.status.value,
            "replicas": {state: int(n) for state, n in part.replica_states.items()},
            "message": part.message,
        }
        for name, part in overview.deployments.items()
    }
    return {"status": overview.status.value, "message": overview.message, "deployments": deployments, "roles": _roles(application)}


def show(name: str, found: dict[str, Any]) -> None:
    """Print the tables."""
    rows = [
        (
            part,
            each["status"],
            ", ".join(f"{n} {state}" for state, n in each["replicas"].items()) or "none",
            " ".join(each["message"].split()),
        )
        for part, each in found["deployments"].items()
    ]
    print_table(("deployment", "status", "replicas", "message"), rows, title=f"{name}: {found['status']}")
    if found["message"]:
        say(f"{name}: {' '.join(found['message'].split())}")
    roles = [(role, each["model"], each["before"] or "") for role, each in found["roles"].items()]
    if roles:
        print_table(("role", "model", "before"), roles)


def _roles(application: str) -> dict[str, dict[str, str | None]]:
    """The models by role; empty for applications of others, and while the ingress does not answer."""
    try:
        args = Running(application).args
    except ConfigError:
        return {}
    return {role: {"model": _short(args.roles, role), "before": _short(args.previous, role)} for role in ROLES}


def _short(roles: Any, role: Role) -> str | None:
    config = getattr(roles, role)
    return None if config is None else str(config.model.short)
