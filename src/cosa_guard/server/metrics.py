"""Counts and times for Prometheus. Plain dictionaries while requests run; prometheus-client only when somebody asks."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cosa_guard.pool import threads_held
from cosa_sdk.errors import MissingExtra

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from cosa_guard.server.site import Runtime

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Seconds."""


@dataclass(slots=True)
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(BOUNDS, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        running, out = 0, []
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), self.counts, strict=True):
            running += count
            out.append((bound, float(running)))
        return out


@dataclass(slots=True)
class Metrics:
    """What one worker has seen. Tenants and routes come from the file, never from a request, so labels are bounded."""

    requests: Counter[tuple[str, str, int, str, str]] = field(default_factory=Counter)
    """By tenant, route, status, act, outcome."""
    seconds: dict[str, _Histogram] = field(default_factory=dict)
    """By route."""
    judge_errors: Counter[str] = field(default_factory=Counter)
    """By tenant: answers in which a judge failed."""
    guard_errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By tenant and kind: answers that the guard could not give safely."""
    upstream_errors: Counter[str] = field(default_factory=Counter)
    """By upstream."""
    reloads: Counter[str] = field(default_factory=Counter)
    """By result: ok, failed."""
    gone: int = 0
    """Requests whose client went away."""

    def answered(self, tenant: str, route: str, status: int, act: str, outcome: str, seconds: float) -> None:
        """Count one answered request."""
        self.requests[tenant, route, status, act, outcome] += 1
        times = self.seconds.get(route)
        if times is None:
            times = self.seconds[route] = _Histogram()
        times.observe(seconds)

    def page(self, runtime: Runtime) -> bytes:
        """Everything, as Prometheus reads it.

        Raises:
            MissingExtra: prometheus-client is not installed.
        """
        try:
            from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415  # an extra
        except ImportError:
            raise MissingExtra("/metrics", "serve") from None
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Once(list(self._families(runtime))))
        return generate_latest(registry)

    def _families(self, runtime: Runtime) -> Iterable[Metric]:
        from prometheus_client.core import (  # noqa: PLC0415
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        worker = str(os.getpid())  # series of different workers must not be taken for one
        named = ["tenant", "route", "status", "act", "outcome", "worker"]
        requests = CounterMetricFamily("cosa_requests", "Answered requests.", labels=named)
        for key, count in self.requests.items():
            requests.add_metric([*map(str, key), worker], count)
        yield requests
        times = HistogramMetricFamily(
            "cosa_request_seconds", "Time to the end of the answer.", labels=["route", "worker"]
        )
        for route, histogram in self.seconds.items():
            times.add_metric([route, worker], histogram.buckets(), histogram.total)
        yield times
        for name, text, label, counted in (
            ("cosa_judge_errors", "Answers in which a judge failed.", "tenant", self.judge_errors),
            ("cosa_upstream_errors", "Upstreams that failed.", "upstream", self.upstream_errors),
            ("cosa_reloads", "Reloads by result.", "result", self.reloads),
        ):
            family = CounterMetricFamily(name, text, labels=[label, "worker"])
            for value, count in counted.items():
                family.add_metric([value, worker], count)
            yield family
        unsafe = CounterMetricFamily(
            "cosa_guard_errors", "Answers that could not be given safely.", labels=["tenant", "kind", "worker"]
        )
        for (tenant, kind), count in self.guard_errors.items():
            unsafe.add_metric([tenant, kind, worker], count)
        yield unsafe
        gone = CounterMetricFamily("cosa_clients_gone", "Requests whose client went away.", labels=["worker"])
        gone.add_metric([worker], self.gone)
        yield gone
        lost = CounterMetricFamily(
            "cosa_judge_threads_abandoned", "Judges that were given up on while they ran.", labels=["worker"]
        )
        lost.add_metric([worker], runtime.pool.abandoned)
        yield lost
        held = GaugeMetricFamily(
            "cosa_judge_threads_held", "Threads that such judges hold: they cannot be stopped.", labels=["worker"]
        )
        held.add_metric([worker], threads_held())  # in the pools of combined judges too
        yield held
        for name, text in (("running", "Requests that run."), ("waiting", "Requests that wait for a place.")):
            gauge = GaugeMetricFamily(f"cosa_requests_{name}", text, labels=["tenant", "worker"])
            for tenant, state in runtime.states.items():
                gauge.add_metric([tenant, worker], getattr(state.gate, name))
            yield gauge


class _Once:
    """A collector of families that are made already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
