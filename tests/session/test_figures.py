"""The figures of the session store on the page for Prometheus."""

from collections.abc import Mapping

from prometheus_client import Metric

from services.runtime.scraping import metrics_endpoint
from services.runtime.telemetry import TelemetryOptions, telemetry
from services.session.adapters import keys
from services.session.ids import SHARDS, shard_of
from tests.scrape import scraped
from tests.session.stack import SHORT_LEASE, SOON, failure, session_stack
from tests.waiting import wait_until

LATENCY = "maieutic_session_store_duration_seconds"


async def test_what_the_store_holds_and_how_fast_it_is_can_be_seen(store_url: str) -> None:
    async with (
        metrics_endpoint("127.0.0.1:0") as endpoint,
        telemetry("session", TelemetryOptions(), metric_readers=[endpoint.reader()]),
        session_stack(store_url) as stack,
    ):
        user = stack.user()
        with stack.archiver.paused():
            sessions = [(await user.create(title="stars")).session_id for _ in range(3)]
            turn = await user.begin(sessions[0])
            await stack.redis.setrange(keys.record_key(sessions[1]), 7, "\x00\x00")
            await failure(user.get(sessions[1]))
            wanted = {
                "maieutic_session_live": 3,
                "maieutic_session_active": 1,
                "maieutic_session_quarantined": 1,
                "maieutic_session_store_connections_used": 0,
                "maieutic_session_store_connections_waiting": 0,
            }

            async def shown() -> bool:
                page = await scraped(endpoint.address)
                return {name: value(page, name) for name in wanted} == wanted

            await wait_until(shown, SOON)
            page = await scraped(endpoint.address)
        assert 100 < value(page, "maieutic_session_size_bytes") < 10_000
        assert value(page, "maieutic_session_due_age_seconds") >= 0
        counts = {
            sample.labels["operation"]: sample.value
            for sample in page[LATENCY].samples
            if sample.name.endswith("_count")
        }
        assert counts["create"] >= 3
        assert counts["get"] >= 1
        assert counts["turn"] >= 1
        await user.cancel(turn.turn_id)


def value(page: Mapping[str, Metric], name: str) -> float:
    """Return the one sample of a metric; -1 if it is not there."""
    samples = page[name].samples if name in page else []
    return next((sample.value for sample in samples), -1)


async def test_a_store_that_cannot_be_counted_stops_no_turn(store_url: str) -> None:
    async with (
        metrics_endpoint("127.0.0.1:0") as endpoint,
        telemetry("session", TelemetryOptions(), metric_readers=[endpoint.reader()]),
        session_stack(store_url, lease=SHORT_LEASE) as stack,
    ):
        user = stack.user()
        session_id = (await user.create()).session_id
        other = (shard_of(session_id) + 1) % SHARDS
        # As a bug or an operator may leave it.
        await stack.redis.set(keys.live_key(other), "no index")

        async def refused() -> bool:
            errors = (await scraped(endpoint.address)).get("session_store_errors")
            return errors is not None and bool(errors.samples)

        await wait_until(refused, SOON)
        turn = await user.begin(session_id)
        await stack.claim(turn.turn_id)  # and its worker dies
        await stack.claim(turn.turn_id, queue="suspect")
        await stack.redis.delete(keys.live_key(other))

        async def counted() -> bool:
            return value(await scraped(endpoint.address), "maieutic_session_live") == 1

        await wait_until(counted, SOON)
