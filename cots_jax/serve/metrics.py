# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads: requests, their time, the batches, and what waits."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
ROWS = (1, 2, 4, 8, 16, 32)


class Metrics:
    """In a registry of their own: nothing of the process beside them."""

    def __init__(self, pictures: Callable[[], float], waiting: Callable[[], float]):
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "cots_search_requests",
            "Answered requests",
            ("route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "cots_search_request_seconds", "From the head of a request to the end of its answer",
            ("route",), buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._rows = Histogram(
            "cots_search_batch_requests", "Requests that the device answered at once",
            ("kind",), buckets=ROWS, registry=self._registry,
        )  # fmt: skip
        shown = {"pictures": pictures, "waiting": waiting}
        said = {"pictures": "Pictures of the index", "waiting": "Requests that wait for the device"}
        for name, value in shown.items():
            gauge = Gauge(f"cots_search_{name}", said[name], registry=self._registry)
            gauge.set_function(value)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Counts a request; `route` is a path of the API, never what a client made up."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batched(self, kind: str, requests: int) -> None:
        """Counts a batch."""
        self._rows.labels(kind).observe(requests)

    def text(self) -> bytes:
        """In the text format of Prometheus."""
        return generate_latest(self._registry)
