"""The page at which Prometheus reads a process's metrics, read over HTTP."""

import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from services.runtime import names
from services.runtime.scraping import metrics_endpoint
from services.runtime.telemetry import TelemetryOptions, telemetry
from tests.backends.process import free_port
from tests.scrape import scraped


async def test_a_service_s_metrics_are_on_its_page_under_their_names() -> None:
    address = f"127.0.0.1:{free_port()}"
    async with telemetry("session", TelemetryOptions(metrics_listen=address)) as recorded:
        outcome = {names.LANE: "interactive", names.TURN_STATE: "FAILED"}
        recorded.counter(names.TURNS_ENDED).add(2, outcome)
        recorded.level(names.ACTIVE_TURNS).add(1, {names.LANE: "long"})
        recorded.gauge(names.STORE_MEMORY).set(0.25)
        recorded.histogram(names.TURN_DURATION).record(1.5, outcome)
        page = await scraped(address)

    (ended,) = page["maieutic_turns_ended"].samples
    assert (ended.name, ended.value) == ("maieutic_turns_ended_total", 2)
    assert ended.labels == {
        "service_name": "session",
        "maieutic_lane": "interactive",
        "maieutic_turn_state": "FAILED",
    }
    assert page["maieutic_agents_turns_active"].samples[0].value == 1
    assert page["maieutic_session_store_memory_share"].samples[0].value == 0.25
    duration = page["maieutic_turn_duration_seconds"].samples
    buckets = {one.labels["le"]: one.value for one in duration if one.name.endswith("_bucket")}
    assert (buckets["1.0"], buckets["2.5"]) == (0, 1)
    assert page["process_resident_memory_bytes"].samples[0].value > 0


async def test_the_page_is_answered_while_the_loop_is_busy() -> None:
    async with metrics_endpoint("127.0.0.1:0") as endpoint:
        url = f"http://{endpoint.address}/metrics"
        # On the loop's own thread, on purpose: it can do nothing else meanwhile.
        with urllib.request.urlopen(url, timeout=5) as page:  # noqa: ASYNC210 - see above
            assert page.status == 200


async def test_several_services_share_one_page() -> None:
    async with (
        metrics_endpoint("127.0.0.1:0") as endpoint,
        telemetry("session", TelemetryOptions(), metric_readers=[endpoint.reader()]) as session,
        telemetry("gateway", TelemetryOptions(), metric_readers=[endpoint.reader()]) as gateway,
    ):
        session.counter(names.UNEXPECTED_ERRORS).add(1)
        gateway.counter(names.UNEXPECTED_ERRORS).add(2)
        page = await scraped(endpoint.address)

    found = page["maieutic_errors_unexpected"].samples
    assert {one.labels["service_name"]: one.value for one in found} == {"session": 1, "gateway": 2}


async def test_the_page_goes_with_the_service() -> None:
    async with metrics_endpoint("127.0.0.1:0") as endpoint:
        await scraped(endpoint.address)
    with pytest.raises(urllib.error.URLError):
        await scraped(endpoint.address)


async def test_an_address_in_use_is_an_error_at_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = TelemetryOptions(metrics_listen=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(OSError, match="in use"):
            async with telemetry("session", options):
                pass


UNITS = {"s": "_seconds", "By": "_bytes"}


def all_metrics() -> list[names.Metric]:
    return [one for one in vars(names).values() if isinstance(one, names.Metric)]


def prometheus_name(metric: names.Metric) -> str:
    return metric.name.replace(".", "_") + UNITS.get(metric.unit, "")


async def test_every_metric_has_the_name_on_the_page_that_its_documentation_gives() -> None:
    async with (
        metrics_endpoint("127.0.0.1:0") as endpoint,
        telemetry("session", TelemetryOptions(), metric_readers=[endpoint.reader()]) as recorded,
    ):
        for metric in all_metrics():
            recorded.gauge(metric).set(1)
        page = await scraped(endpoint.address)

    text = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    for metric in all_metrics():
        name = prometheus_name(metric)
        assert name in page
        assert f"| `{metric.name}` | `{name}` | {metric.help} |" in text
