"""Prometheus metrics of the ingress, through Ray's exporter: names begin with ray_cleave_serve_, counters end with _total.

The roles' own (calls, seconds, tokens, batch size, queue; ray_cleave_role_…) are in actors/host.py, replicas and proxies in Serve's
(ray_serve_…); cluster/grafana/serve.json draws all three. Labels have few values: never a key, a request or anything that a client wrote.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from cleave.errors import Abstained, BudgetExceeded
from cleave.types import Trace
from serve.observer import Observer

SECONDS: list[float] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120]
SHARES: list[float] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1]


class Metrics(Observer):
    """One per ingress replica."""

    def __init__(self) -> None:
        self._requests = Counter("cleave_serve_requests", "Requests by route and status", tag_keys=("route", "status"))
        self._seconds = Histogram("cleave_serve_request_seconds", "Seconds per request", boundaries=SECONDS, tag_keys=("route",))
        self._at_work = Gauge("cleave_serve_at_work", "Requests being worked on")
        self._first_text = Histogram("cleave_serve_first_text_seconds", "Seconds to a stream's first text", boundaries=SECONDS)
        self._problems = Counter("cleave_serve_problems", "Problems by strategy and outcome", tag_keys=("strategy", "outcome"))
        self._stages = Histogram("cleave_serve_stage_seconds", "Seconds per stage of a problem", boundaries=SECONDS, tag_keys=("stage",))
        self._tokens = Counter("cleave_serve_tokens", "Tokens by role and kind", tag_keys=("role", "kind"))
        self._price = Counter("cleave_serve_price", "Price by role, in the currency of the models' prices", tag_keys=("role",))
        self._score = Histogram("cleave_serve_verifier_score", "Verifier's scores", boundaries=SHARES)
        self._confidence = Histogram("cleave_serve_confidence", "Confidence of the answers given", boundaries=SHARES)
        self._abstentions = Counter("cleave_serve_abstentions", "Answers withheld")
        self._budget_stops = Counter("cleave_serve_budget_stops", "Problems that a budget stopped")
        self._rejected_plans = Counter("cleave_serve_rejected_plans", "Plans that could not be read or were too large")

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.inc(1, {"route": route, "status": str(status)})
        self._seconds.observe(seconds, {"route": route})

    def at_work(self, requests: int) -> None:
        self._at_work.set(requests)

    def first_text(self, seconds: float) -> None:
        self._first_text.observe(seconds)

    def answered(self, trace: Trace, rejected_plans: int) -> None:
        stopped = trace.error.type if trace.error is not None else ""
        self._problems.inc(1, {"strategy": trace.strategy, "outcome": "ok" if trace.answer is not None else stopped})
        for stage, seconds in trace.timings.items():
            self._stages.observe(seconds, {"stage": stage})
        for role, usage in trace.usage.items():
            for kind, tokens in (("prompt", usage.prompt_tokens), ("completion", usage.completion_tokens)):
                _add(self._tokens, tokens, {"role": role, "kind": kind})
            _add(self._price, usage.price, {"role": role})
        for verdict in trace.verdicts:
            if verdict is not None:
                self._score.observe(verdict.score)
        if trace.answer is not None and trace.confidence is not None:
            self._confidence.observe(trace.confidence)
        _add(self._abstentions, stopped == Abstained.__name__)
        _add(self._budget_stops, stopped == BudgetExceeded.__name__)
        _add(self._rejected_plans, rejected_plans)


def _add(counter: Counter, value: float, tags: dict[str, str] | None = None) -> None:
    """Ray's counters refuse zero."""
    if value > 0:
        counter.inc(float(value), tags or {})
