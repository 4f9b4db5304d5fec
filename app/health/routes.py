"""`/health/live`, `/health/ready` and `/metrics`: the only open calls besides the docs."""

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from app.access.dependencies import SessionDep
from app.core.clock import utc_now
from app.health import repository

router = APIRouter(tags=["Health"])
ROLES = ("control", "compute")
RATIOS = (0.1, 0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0)


class _Ratios(Collector):
    """Actual by predicted seconds of finished runs; a prediction on the long side is under 1."""

    def __init__(self, by_method: Sequence[tuple[str, Sequence[int], float]]) -> None:
        self._by_method = by_method

    @override
    def collect(self) -> Iterator[Metric]:
        """Return one histogram, by method."""
        told = "Actual by predicted seconds of finished runs"
        histogram = HistogramMetricFamily("lethe_prediction_ratio", told, labels=["method"])
        names = [*map(str, RATIOS), "+Inf"]
        for method, counts, total in self._by_method:
            histogram.add_metric([method], list(zip(names, counts, strict=True)), total)
        yield histogram


@router.get("/health/live")
def live() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@router.get("/health/ready", responses={503: {"description": "A part is missing"}})
def ready(session: SessionDep) -> JSONResponse:
    """Say whether the database answers and a worker of each role was heard from."""
    alive = repository.workers_alive(session, utc_now())
    missing = [role for role in ROLES if role not in alive]
    body: dict[str, Any] = {"database": "ok", "workers": {role: role in alive for role in ROLES}}
    return JSONResponse(body, 503 if missing else 200)


@router.get("/metrics", response_class=Response)
def metrics(session: SessionDep) -> Response:
    """Return counts by state, and how far predictions were out by method, for Prometheus."""
    registry = CollectorRegistry()
    for name, counts in repository.counts(session).items():
        gauge = Gauge(f"lethe_{name}", f"Number of {name} by state", ["state"], registry=registry)
        for state, number in counts.items():
            gauge.labels(state=state).set(number)
    registry.register(_Ratios(repository.prediction_ratios(session, RATIOS)))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
