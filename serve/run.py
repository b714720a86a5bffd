"""What `cleave serve` does: connect to Ray or start it, deploy the application, print its URL, and take down what it started on Ctrl-C.

    cleave serve [CONFIG] [KEY=VALUE]... [--host 127.0.0.1] [--port 8000] [--dry-run]

Left out: the application (serve/app.py), and changing one that runs (`serve deploy`).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from cleave import errors
from cleave.config.base import dump
from cleave.config.serve import ServeArgs, ServeConfig
from cleave.console import say
from cleave.errors import CleaveError, ConfigError, RoleUnavailable

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_MARGIN_S = 10.0
"""Serve's own time limit beyond ours: a backstop."""
INSIDE_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the environment of a job's entrypoint."""
POLL_S = 0.3
SAY_EVERY_S = 10.0
QUESTION = "Tom has 12 apples and buys 7 more. How many apples does Tom have?"


def main(config: ServeConfig, *, dry_run: bool = False, blocking: bool = True) -> int:
    """Serve until SIGINT or SIGTERM. `blocking` False: return once it is ready and leave it running.

    Raises ConfigError for what the user has to change (a taken port, a cluster too small, a model that cannot be loaded).
    """
    if dry_run:
        print(dump(config), end="")
        return 0
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with ExitStack() as started:
        connect(config, started)
        check_resources(config)
        start_http(config, started)
        deploy(config, started)
        announce(config)
        if not blocking:
            started.pop_all()
            return 0
        wait_for_signal()
        say("stopping; requests under way are finished first.")
    return 0


def connect(config: ServeConfig, started: ExitStack) -> None:
    """Join the cluster that is named, or start one on this machine. Raises ConfigError if it cannot be reached."""
    import ray

    if ray.is_initialized():
        return
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        check_port(config.host, config.port)
    try:
        ray.init(address=address, runtime_env=_environment(config, address), log_to_driver=False)
    except Exception as error:  # Ray raises bare Exceptions when it cannot start or be reached
        said = " ".join(str(error).split()).rstrip(".")
        if address == "local":
            raise RoleUnavailable(f"Ray does not start on this machine: {said}; try again when it is less busy.") from error
        raise ConfigError(
            f"cannot reach a Ray cluster at {address}: {said}; start one with `ray start --head`, or drop address."
        ) from error
    started.callback(ray.shutdown)


def check_port(host: str, port: int) -> None:
    """Raise ConfigError if this machine cannot listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port or --host.") from error


def check_resources(config: ServeConfig) -> None:
    """Raise ConfigError if the cluster cannot hold all replicas, instead of waiting for ever."""
    import ray

    from actors.placement import preflight

    preflight(config.roles)
    needed = needed_cpus(config)
    there = sum(node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"])  # type: ignore[no-untyped-call]
    if needed > there:
        raise ConfigError(
            f"roles and ingress need {needed:g} CPU, the cluster has {there:g}; lower ingress.num_cpus or roles.*.resources.num_cpus."
        )


def needed_cpus(args: ServeArgs) -> float:
    """Logical CPUs of all replicas."""
    from actors.placement import bundles
    from serve.deployments import BATCHES_CPUS, LEDGER_CPUS

    ingress = args.ingress.num_replicas * args.ingress.num_cpus
    shared = (LEDGER_CPUS if args.needs_ledger else 0.0) + (BATCHES_CPUS if args.batches.folder is not None else 0.0)
    return ingress + shared + sum(bundle.count * bundle.cpus for bundle in bundles(args.roles))


def start_http(config: ServeConfig, started: ExitStack) -> None:
    """Start Serve with our host and port, unless it runs already; then its own hold. Raises ConfigError if our application runs."""
    from ray import serve as ray_serve

    status = ray_serve.status()
    if config.application in status.applications:
        raise ConfigError(
            f"an application {config.application!r} runs on this cluster already; change it with `serve deploy`, or set application=NAME."
        )
    if status.proxies:
        say("Serve runs on this cluster already: its host and port hold.")
        return
    started.callback(_stop_serve_unless_used)
    ray_serve.start(
        proxy_location="HeadOnly",
        http_options={
            "host": config.host,
            "port": config.port,
            "request_timeout_s": config.limits.request_timeout_s + TIMEOUT_MARGIN_S,
        },
    )


def deploy(config: ServeConfig, started: ExitStack) -> None:
    """Deploy the application and wait until every replica is up. Raises what kept a role from starting."""
    from ray import serve as ray_serve
    from ray.serve.exceptions import RayServeException

    from serve.app import build

    started.callback(ray_serve.delete, config.application)
    target = ray_serve.RunTarget(build(config.args()), name=config.application, route_prefix=config.route_prefix)
    try:
        ray_serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    except RayServeException as error:
        reason = str(error).strip().splitlines()[-1].rpartition("RayServeException: ")[2]
        raise ConfigError(
            f"Serve refuses the application: {reason.rstrip('.')}; set route_prefix or application to another one."
        ) from error
    wait_until_running(config.application)


def wait_until_running(application: str) -> None:
    """Return once every replica is up. Raises what kept one from starting."""
    from ray import serve as ray_serve

    start = said = time.monotonic()
    while True:
        overview = ray_serve.status().applications.get(application)
        state = overview.status.value if overview is not None else "DEPLOYING"
        if state == "RUNNING":
            return
        if overview is not None and state in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise reason_of({name: part.message for name, part in overview.deployments.items()}, overview.message)
        if time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            parts = overview.deployments.items() if overview is not None else ()
            waiting = ", ".join(name for name, part in parts if part.status.value != "HEALTHY") or "Serve"
            say(f"{said - start:.0f} s: waiting for {waiting}")
        time.sleep(POLL_S)


def reason_of(messages: Mapping[str, str], summary: str) -> CleaveError:
    """Why an application cannot start, from Serve's message per deployment: the typed error that one ends with, else a last line.

    Serve reports a failed constructor as text that ends with the exception; deployments that merely wait have messages too.
    """
    last = {name: lines[-1] for name, message in messages.items() if (lines := [line for line in message.splitlines() if line.strip()])}
    for name, line in last.items():
        path, colon, sentence = line.strip().partition(": ")
        module, _, kind = path.rpartition(".")
        cls = getattr(errors, kind, None)
        if colon and module == errors.__name__ and isinstance(cls, type) and issubclass(cls, CleaveError):
            return cls(f"{name} cannot start: {sentence}")
    said = "; ".join(f"{name}: {line.strip()}" for name, line in last.items()) or summary
    return RoleUnavailable(f"the application cannot start ({said}); the logs are under the Ray session's logs/serve.")


def announce(config: ServeConfig) -> None:
    """Print where it is and how to ask it."""
    url = f"http://{_reachable(config.host)}:{config.port}{config.route_prefix.rstrip('/')}"
    if not answers(url):
        say(f"the application runs, but does not answer at {url}: Serve was started with another host or port.")
        return
    key = "-H 'Authorization: Bearer KEY' " if config.keys.required else ""
    chat = f'{{"model": "{config.name}", "messages": [{{"role": "user", "content": "{QUESTION}"}}]}}'
    print(f"{url}  (documentation: {url}/docs)")
    for path, body in (("/v1/solve", f'{{"question": "{QUESTION}"}}'), ("/v1/chat/completions", chat)):
        print(f"curl {url}{path} {key}-H 'Content-Type: application/json' -d '{body}'", flush=True)


def answers(url: str, within_s: float = 10.0) -> bool:
    """Whether /health replies; proxies learn of a new route a moment after it is there."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if httpx.get(f"{url}/health", timeout=within_s, trust_env=False).status_code == 200:
                return True
        except httpx.HTTPError:
            pass
        time.sleep(POLL_S)
    return False


def wait_for_signal() -> None:
    """Return at SIGINT or SIGTERM. Outside the main thread, where signals cannot be caught, wait for ever."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_serve_unless_used() -> None:
    """Others may have deployed to the Serve that we started."""
    from ray import serve as ray_serve

    if not ray_serve.status().applications:
        ray_serve.shutdown()  # type: ignore[no-untyped-call]


def _environment(config: ServeConfig, address: str) -> dict[str, Any]:
    """How replicas find this tree's packages, by path on this machine, sent along to a cluster elsewhere; and the hashed keys and what
    is said of spans, if this machine has them in its environment."""
    sent = {name: os.environ[name] for name in _passed_on(config) if name in os.environ}
    if address == "local":
        path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
        return {"env_vars": {"PYTHONPATH": path, **sent}}
    # A job has its tree already, and Ray allows only one.
    tree = {} if INSIDE_A_JOB in os.environ else {"working_dir": str(ROOT)}
    return {**tree, **({"env_vars": sent} if sent else {})}


def _passed_on(config: ServeConfig) -> set[str]:
    """Variables that replicas need. Headers for the receiver of spans hold secrets: the nodes have them themselves, or do without."""
    names = {name for name in (config.keys.env, config.tracing.endpoint_env) if name is not None}
    if config.tracing.on:
        names |= {name for name in os.environ if name.startswith("OTEL_") and not name.endswith("_HEADERS")}
    return names


def _reachable(host: str) -> str:
    """An address to connect to, for one to listen on."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
