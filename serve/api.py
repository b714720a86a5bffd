"""The HTTP application: routes, health, errors, limits, documentation at /docs. Plain FastAPI over a Service, without Ray.

    app = create_app(Service(roles, args.limits), Catalogue.of(args))

Run in a replica by serve/ingress.py. Left out for now: streaming, keys, batches, the page.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from cleave import __version__
from serve import failures
from serve.body_limit import BodyLimit
from serve.catalogue import Catalogue
from serve.openai_routes import openai_routes
from serve.service import Service
from serve.solve_routes import solve_routes

DESCRIPTION = (
    "A decomposer splits a problem into sub-questions, a solver answers them, a verifier scores the solutions. "
    "`/v1/chat/completions` speaks OpenAI's chat API without streaming; `/v1/solve` returns everything that happened."
)


def create_app(service: Service, catalogue: Catalogue) -> FastAPI:
    """The application over one service."""
    app = FastAPI(title="Cleave", version=__version__, description=DESCRIPTION)
    app.add_middleware(BodyLimit, max_bytes=service.limits.max_body_bytes)
    failures.install(app, service.limits.retry_after_s)
    app.include_router(openai_routes(service, catalogue))
    app.include_router(solve_routes(service, catalogue))

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
