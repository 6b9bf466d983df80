"""The endpoint at which Prometheus reads a process's metrics.

It is answered by a thread, so that a loop that is busy, or stuck, can be seen in its figures.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import MetricReader
from prometheus_client import CollectorRegistry, Metric, ProcessCollector, start_http_server
from prometheus_client.registry import Collector

from services.runtime import names


class Endpoint(Collector):
    """The metrics of all services of a process on one page, told apart by `service_name`."""

    def __init__(self, address: str = "") -> None:
        self.address = address
        """host:port, once it is served."""
        self._registries: list[CollectorRegistry] = []

    def reader(self) -> MetricReader:
        """Return a reader that shows one service's metrics here, for as long as it is in use."""
        registry = CollectorRegistry()
        self._registries.append(registry)
        return PrometheusMetricReader(
            scope_info_enabled=False,
            resource_attribute_filter=lambda key: key == names.SERVICE,
            registry=registry,
        )

    def collect(self) -> Iterable[Metric]:
        """Return each metric once, with the samples of all services."""
        merged: dict[str, Metric] = {}
        for registry in self._registries:
            for metric in registry.collect():
                if (known := merged.setdefault(metric.name, metric)) is not metric:
                    known.samples.extend(metric.samples)
        return merged.values()


@asynccontextmanager
async def metrics_endpoint(listen: str) -> AsyncIterator[Endpoint]:
    """Serve http://<listen>/metrics during the block; port 0 takes a free one.

    Raises OSError if the address is taken.
    """
    host, _, port = listen.rpartition(":")
    endpoint, registry = Endpoint(), CollectorRegistry()
    registry.register(endpoint)
    ProcessCollector(registry=registry)
    server, thread = start_http_server(int(port), host.strip("[]"), registry)
    endpoint.address = f"{host}:{server.server_port}"
    try:
        yield endpoint
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()
