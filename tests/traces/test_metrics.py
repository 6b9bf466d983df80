"""Each process's page for Prometheus."""

import pytest

from maieutic_client import Maieutic
from services.runtime import names
from tests.faults.steps import archived_turn, scripted
from tests.runtime.test_scraping import all_metrics, prometheus_name
from tests.scrape import scraped
from tests.stack import SERVICES
from tests.traces.observed import PATIENCE, Observed
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

OURS = ("maieutic_", "session_", "rpc_", "messaging_", "gen_ai_")
EXPECTED = {
    "gateway": (names.RPC_SERVER_DURATION, names.RPC_CLIENT_DURATION, names.RPC_SERVER_ACTIVE),
    "session": (
        names.RPC_SERVER_DURATION,
        names.TURNS_ENDED,
        names.TURN_DURATION,
        names.QUEUE_WAIT,
        names.STORE_MEMORY,
        names.OLDEST_UNCONFIRMED,
        names.BUS_PUBLISH_DURATION,
    ),
    "agents": (
        names.ACTIVE_TURNS,
        names.BUS_DELIVERED,
        names.MODEL_DURATION,
        names.MODEL_FIRST_TEXT,
        names.MODEL_TOKENS,
    ),
    "persistence": (names.ARCHIVED_FACTS, names.ARCHIVE_COMMIT_DURATION, names.BUS_DELIVERED),
    "retrieval": (names.RPC_SERVER_DURATION, names.CHUNKS_INDEXED),
}


@pytest.mark.parametrize("service", SERVICES)
async def test_a_process_s_page_has_its_metrics_and_none_without_a_name(
    observed: Observed, client: Maieutic, service: str
) -> None:
    document = (await client.documents.add("tea.md", b"# Tea\n\nGreen tea brews at 75.")).document
    session = await client.sessions.create(document_ids=[document.document_id])
    async with client.turns.stream(session.session_id, scripted(), timeout=PATIENCE) as stream:
        await stream.result()
    await archived_turn(observed.stack, stream.turn_id)
    wanted = {prometheus_name(metric) for metric in EXPECTED[service]}

    async def there() -> bool:
        return wanted <= (await scraped(observed.pages[service])).keys()

    await wait_until(there, PATIENCE)
    page = await scraped(observed.pages[service])
    shown = {name for name in page if name.startswith(OURS)}
    assert shown <= {prometheus_name(metric) for metric in all_metrics()}
    labels = [sample.labels for name in shown for sample in page[name].samples]
    assert {one["service_name"] for one in labels} == {service}
