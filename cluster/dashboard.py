"""The connection to a cluster's dashboard: Ray's job client, with its failures as one sentence each, and no request without an end.

A token is sent when RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH names one, or with RAY_AUTH_MODE=token from ~/.ray/auth_token.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cleave.config.where import parse_address
from cleave.errors import ConfigError, RoleUnavailable

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

TOKEN_REMEDY = (
    "set RAY_AUTH_MODE=token and the cluster's token in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token "
    "(`ray get-auth-token` prints it on the head)"
)

CHECK = "check"
"""The `cleave_program` in the metadata of the job that examines a cluster before another one starts."""
TIMEOUTS_S = (10.0, 60.0)
"""For a request's connection, and for the next byte of its reply."""


class ClusterUnavailable(RoleUnavailable):
    """The dashboard of the cluster cannot be reached, or does not answer as one."""

    exit_code = 2


def connect(address: str) -> "JobSubmissionClient":
    """A client of the dashboard at `address`. Raises ClusterUnavailable or ConfigError (address, token)."""
    try:
        url = parse_address(address)
    except ValueError as error:
        raise ConfigError(f"{error}.") from error
    _use_named_token()
    with reporting(url):
        from ray.job_submission import JobSubmissionClient

        class Client(JobSubmissionClient):  # Ray's own waits for ever on a head that accepts connections and does not answer
            def _do_request(self, *request: Any, **options: Any) -> Any:
                return super()._do_request(*request, **({"timeout": TIMEOUTS_S} | options))

        logging.getLogger("ray.dashboard").setLevel(logging.WARNING)
        with _no_other_address():
            try:
                return Client(url)
            except (KeyError, TypeError, ValueError) as error:  # it replies, but not as a dashboard does
                raise ClusterUnavailable(f"what answers at {url} is no Ray dashboard; name it with --address http://HOST:8265.") from error


@contextmanager
def _no_other_address() -> Iterator[None]:
    """Ray's client takes an address from the environment before the one that it is given; the caller has chosen already."""
    hidden = {name: os.environ.pop(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextmanager
def reporting(address: str) -> Iterator[None]:
    """Turn what Ray's client raises in the body into the errors of errors.py."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise wants_token(address) from error
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise ClusterUnavailable(
            f"no Ray dashboard answers at {address}; start one with `ray start --head`, or name it with --address http://HOST:8265."
        ) from error
    except RuntimeError as error:
        raise _refused(address, str(error)) from error


def wants_token(address: str) -> ConfigError:
    """A token is missing, wrong or no longer good."""
    return ConfigError(f"the cluster at {address} wants another token or any at all; {TOKEN_REMEDY}.")


def _refused(address: str, message: str) -> Exception:
    text = " ".join(message.split())
    if "has already been used" in text or "already exists" in text:
        return ConfigError("a job of this name ran on the cluster before; give another --name, or none.")
    if "status code 404" in text:
        return ConfigError(f"the cluster at {address} knows no such job; `cleave jobs list` shows the ones it has.")
    return ClusterUnavailable(f"the cluster at {address} refused the request: {_last_line(message)}; see its dashboard log.")


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.replace("\\n", "\n").splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given").rstrip(".")[:300]


def _use_named_token() -> None:
    # Ray's client sends a token only in token mode; a token that is named on purpose is meant to be sent.
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def details(job: Any) -> dict[str, Any]:
    """A job as plain JSON types: id, status, exit code, times in seconds since 1970."""
    return {
        "submission_id": job.submission_id,
        "status": job.status.value,
        "entrypoint": job.entrypoint,
        "exit_code": job.driver_exit_code,
        "message": job.message,
        "start_time": job.start_time / 1000 if job.start_time else None,
        "end_time": job.end_time / 1000 if job.end_time else None,
        "metadata": job.metadata or {},
    }
