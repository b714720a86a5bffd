"""An application that runs on a cluster, seen and changed from outside of it.

    join("auto", "cleave")
    running = Running("cleave")
    running.args.roles.solver.model.short
    running.replace(args)                          # Serve's rolling update: what differs is started beside what runs, then takes its place

Left out: starting one (serve/run.py), and whether a change is wanted (serve/promote.py).
"""

from __future__ import annotations

import logging
from typing import Any

from ray import serve as ray_serve
from ray.serve.exceptions import RayServeException

from cleave.config.serve import ServeArgs
from cleave.errors import CleaveError, ConfigError
from cleave.roles import Role
from serve.app import build
from serve.deployments import DEPLOYMENTS, role_options
from serve.handle import LedgerHandle
from serve.run import wait_until_running

WITHIN_S = 30.0


def join(address: str, application: str | None = None) -> None:
    """Connect to a cluster. With an application, what is deployed from here gets the environment that it has: its tree, its keys. Raises
    ConfigError if there is no cluster, or none that serves."""
    import ray

    if not ray.is_initialized():
        _connect(address, {})
        if application in ray_serve.status().applications and (environment := _environment(application)):
            ray.shutdown()
            _connect(address, environment)
    if not ray_serve.status().applications:
        raise ConfigError("nothing is served on this cluster; start something with `cleave serve`.")


def _connect(address: str, environment: dict[str, Any]) -> None:
    import ray

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        ray.init(address=address, log_to_driver=False, runtime_env=environment)
    except Exception as error:  # Ray raises bare Exceptions when it cannot be reached
        said = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"cannot reach a Ray cluster at {address}: {said}; name another one by --address.") from error


class Running:
    """One application. Raises ConfigError if it does not run, or is none of ours."""

    def __init__(self, application: str) -> None:
        names = ray_serve.status().applications
        if application not in names:
            raise ConfigError(f"no application {application!r} runs on this cluster; there are {', '.join(names)}.")
        self.name = application
        try:
            self.args: ServeArgs = ray_serve.get_app_handle(application).current_args.remote().result(timeout_s=WITHIN_S)
        except (RayServeException, TimeoutError, AttributeError) as error:
            raise ConfigError(f"{application!r} does not say what it was built from; is it one of `cleave serve`?") from error

    def handles(self) -> dict[Role, Any]:
        """A handle for each role that has a model of its own."""
        return {role: ray_serve.get_deployment_handle(DEPLOYMENTS[role].name, self.name) for role in self.args.roles.played()}

    def ledger(self) -> LedgerHandle:
        """What the ingress replicas share, where the args need one."""
        return LedgerHandle(ray_serve.get_deployment_handle("Ledger", self.name))

    def replace(self, args: ServeArgs) -> None:
        """Go over to other args without a pause. Where they cannot be gone over to, what ran stays, and why is raised."""
        try:
            self._deploy(args)
        except CleaveError:
            self._deploy(self.args)
            raise
        self.args = args

    def _deploy(self, args: ServeArgs) -> None:
        target = ray_serve.RunTarget(build(args), name=self.name, route_prefix=_details(self.name)["route_prefix"])
        ray_serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        wait_until_running(self.name)


class Candidate:
    """One replica of a role's new version, beside the application and without a route, for as long as the `with` lasts."""

    def __init__(self, application: str, role: Role, args: ServeArgs) -> None:
        """`args`: those with the new version."""
        self._name, self._role, self._args = f"{application}-candidate", role, args

    def __enter__(self) -> Any:
        """Its handle. Raises what keeps it from starting."""
        config = self._args.roles.played()[self._role]
        options = role_options(config, self._args) | {"num_replicas": 1}
        application = DEPLOYMENTS[self._role].options(**options).bind(config)
        target = ray_serve.RunTarget(application, name=self._name, route_prefix=None)
        ray_serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        try:
            wait_until_running(self._name)
        except BaseException:
            ray_serve.delete(self._name)
            raise
        return ray_serve.get_deployment_handle(DEPLOYMENTS[self._role].name, self._name)

    def __exit__(self, *_: object) -> None:
        ray_serve.delete(self._name)


def _environment(application: str) -> dict[str, Any]:
    """The runtime environment of the application's replicas."""
    deployment = next(iter(_details(application)["deployments"].values()))
    environment: dict[str, Any] = (deployment["deployment_config"].get("ray_actor_options") or {}).get("runtime_env") or {}
    return environment


def _details(application: str) -> dict[str, Any]:
    """What Serve's controller knows; there is no public way to ask it."""
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client()
    details: dict[str, Any] = client.get_serve_details()["applications"][application]
    return details
