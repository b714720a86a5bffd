"""The driver's connection to Ray: the session that there is, the cluster that RAY_ADDRESS names, or a small one of its own."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cleave.errors import ConfigError, RoleUnavailable

TREE = Path(__file__).resolve().parent.parent
INSIDE_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
OBJECT_STORE_BYTES = 256 * 2**20
"""For a local session: requests and replies are small."""


@contextmanager
def connected(dashboard: bool = False) -> Iterator[None]:
    """Be connected to Ray inside the body; a session that was started here is shut down at the end.

    Raises RoleUnavailable if that cluster cannot be reached or started, ConfigError if RAY_ADDRESS names none.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith("http"):
        raise ConfigError(f"RAY_ADDRESS={address} is a dashboard; unset it, or submit the command as a job: cleave submit -- ….")
    try:
        if address == "local":
            _start_local(dashboard)
        else:
            # A job has its tree already, and Ray allows only one.
            tree = {} if INSIDE_A_JOB in os.environ else {"working_dir": str(TREE)}
            ray.init(address=address, runtime_env=tree, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises bare Exceptions too; whatever fails here is the connection
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise RoleUnavailable(
            f"cannot connect to Ray at {address} ({reason}); start that cluster, unset RAY_ADDRESS, or set backend=inline."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _start_local(dashboard: bool) -> None:
    import ray

    # Ray protects a local session by a token that it would write into the home folder, which may be read-only.
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Workers import the tree whatever the current folder is.
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(TREE) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(TREE), *filter(None, paths)])
    ray.init(
        address="local",
        include_dashboard=dashboard,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=OBJECT_STORE_BYTES,
    )
