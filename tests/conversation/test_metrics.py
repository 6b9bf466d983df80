"""The metrics of an embedded backend: one page for the five services of the process."""

from services.embedded import SERVICES
from tests.backends.process import free_port
from tests.conversation.backend import backend
from tests.conversation.texts import TEA
from tests.scrape import scraped
from tests.waiting import wait_until

SOON = 30.0
ENDED = "maieutic_turns_ended"


async def test_one_page_has_the_metrics_of_every_service_of_the_process() -> None:
    address = f"127.0.0.1:{free_port()}"
    async with backend(telemetry_metrics_listen=address) as running, running.client() as client:
        document = (await client.documents.add("tea.md", TEA)).document
        session = await client.sessions.create(document_ids=[document.document_id])
        async with client.turns.stream(session.session_id, "How is tea stored?") as stream:
            await stream.result()

        async def all_there() -> bool:
            page = await scraped(address)
            labels = (sample.labels for metric in page.values() for sample in metric.samples)
            told = {one["service_name"] for one in labels if "service_name" in one}
            return told == {*SERVICES} and ENDED in page

        await wait_until(all_there, SOON)
        page = await scraped(address)
    (ended,) = page[ENDED].samples
    assert (ended.labels["maieutic_turn_state"], ended.value) == ("COMPLETED", 1)
