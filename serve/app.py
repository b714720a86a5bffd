"""The application builder: one typed argument in, a Ray Serve application out.

    serve run serve.app:build                                     # from the root of the repository, shipped reference models
    serve run serve.app:build roles.solver=hf:my/checkpoint reasoning.strategy=stepwise
    serve run configs/serve/reference.yaml                        # a Ray Serve config file; `serve deploy` takes it too
    cleave serve configs/serve/local.yaml                         # the same, with checks and a host and port of its own

Left out: starting Ray and Serve (serve/run.py).
"""

# No `from __future__ import annotations` here: Serve reads the class of `build`'s argument from its annotation.

from typing import Any

from ray.serve import Application

from cleave.config.serve import ServeArgs
from serve.deployments import bind_batches, bind_ledger, bind_roles
from serve.ingress import Ingress, ingress_options


def build(args: ServeArgs) -> Application:
    """Ingress → decomposer, solver and, if it has a model, verifier; the ledger and the store of batches, if they are needed. Raises
    pydantic's ValidationError for unknown or bad arguments."""
    ingress: Any = Ingress
    application: Application = ingress.options(**ingress_options(args)).bind(args, bind_roles(args), bind_ledger(args), bind_batches(args))
    return application
