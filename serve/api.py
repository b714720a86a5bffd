"""The HTTP application: routes, health, errors, limits, the page at /, documentation at /docs. Plain FastAPI over a Service, without Ray.

    app = create_app(Service(roles, args.limits), Catalogue.of(args))                    # anybody may ask
    app = create_app(service, Catalogue.of(args), KeyRing.read(args.keys), ledger)       # a key is needed

Run in a replica by serve/ingress.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer

from cleave import __version__
from serve import failures
from serve.batch_routes import batch_routes
from serve.batches import Batches
from serve.body_limit import BodyLimit
from serve.catalogue import Catalogue
from serve.departure import Departure
from serve.gate import Gate
from serve.keys import KeyRing
from serve.ledger import Ledger
from serve.openai_routes import openai_routes
from serve.page_routes import at_the_prefix, page_routes
from serve.role_routes import role_routes
from serve.service import Service
from serve.solve_routes import solve_routes
from serve.text_routes import text_routes
from serve.trace_routes import trace_routes
from serve.watch import Watch

DESCRIPTION = (
    "A decomposer splits a problem into sub-questions, a solver answers them, a verifier scores the solutions. "
    "`/v1/chat/completions` and `/v1/completions` speak OpenAI's API, streams included; `/v1/solve` returns everything that happened."
)
FILES = "/v1/files"
FORM_BYTES = 4096
"""What a form may have around its file."""
logger = logging.getLogger(__name__)


def create_app(
    service: Service,
    catalogue: Catalogue,
    keys: KeyRing | None = None,
    ledger: Ledger | None = None,
    batches: Batches | None = None,
    background: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
) -> FastAPI:
    """The application over one service. With `keys` a request needs one, and `ledger` says what it may still ask for. `background`: what
    runs for as long as the server does."""
    # A redirect to the path without its last slash would name whatever host the client has named.
    app = FastAPI(title="Cleave", version=__version__, description=DESCRIPTION, lifespan=_running(background), redirect_slashes=False)
    app.add_middleware(Departure)
    larger = {} if batches is None else {FILES: batches.config.max_file_bytes + FORM_BYTES}
    limits = service.limits
    app.add_middleware(BodyLimit, max_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s, larger=larger)
    if keys is not None:
        assert ledger is not None
        app.add_middleware(Gate, ring=keys, ledger=ledger, retry_after_s=service.limits.retry_after_s)
    app.add_middleware(Watch, observer=service.observer)
    if service.spans is not None:
        service.spans.watch(app)
    failures.install(app, service.limits.retry_after_s)
    # The gate asks for the key; this tells the documentation of it.
    needed = [Depends(HTTPBearer(auto_error=False))] if keys is not None else []
    routers = (openai_routes(service, catalogue), text_routes(service, catalogue), solve_routes(service, catalogue))
    for router in (*routers, role_routes(service, catalogue), trace_routes(service), batch_routes(batches)):
        app.include_router(router, dependencies=needed)

    app.include_router(page_routes())
    app.router.default = at_the_prefix(app.router.default)

    @app.get("/health", tags=["Health"], summary="The process answers")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", tags=["Health"], summary="All roles answer", response_model=None)
    async def ready() -> Response:
        absent = await service.ready()
        if absent:
            message = "; ".join(absent) + "; try again later."
            error = failures.ApiError(503, message, "role_unavailable")
            return failures.error_response(error, service.limits.retry_after_s)
        return JSONResponse({"status": "ready"})

    return app


def _running(background: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """A lifespan during which all of it runs."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("what runs beside the requests has failed", exc_info=error)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(run()) for run in background]
        for task in tasks:
            task.add_done_callback(ended)
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    return lifespan
