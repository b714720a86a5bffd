"""An application of three deployments that do nothing, called one after another by an ingress: what Serve itself takes for a request of
three hops, to hold ours against (serve.py).

    with application(config):
        run_empty()                    # POST {PREFIX}/hops, beside the application on the same cluster
"""

from __future__ import annotations

from typing import Any, cast

from fastapi import FastAPI
from ray import serve as ray_serve
from ray.serve.handle import DeploymentHandle

PREFIX = "/empty"
HOPS = 3
_app = FastAPI()


@ray_serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Echo:
    async def __call__(self, body: dict[str, str]) -> dict[str, str]:
        return body


@ray_serve.deployment(ray_actor_options={"num_cpus": 0.1})
@ray_serve.ingress(_app)
class Door:
    def __init__(self, handles: list[DeploymentHandle[Any]]) -> None:
        self._handles = handles

    @_app.post("/hops")
    async def hops(self) -> dict[str, str]:
        body = {"question": "How many?"}
        for handle in self._handles:
            body = await handle.remote(body)
        return body


def run_empty() -> None:
    """Start it on the Serve that runs, and wait until it does."""
    echo, door = cast(Any, Echo), cast(Any, Door)  # what the decorators make of them
    echoes = [echo.options(name=f"Echo{i}").bind() for i in range(HOPS)]
    ray_serve.run(door.bind(echoes), name="empty", route_prefix=PREFIX)
