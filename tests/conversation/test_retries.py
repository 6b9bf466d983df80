"""A call that is made again, after what it refers to has gone."""

import pytest

from maieutic_client import AlreadyExists, Maieutic, NotFound
from tests.conversation.texts import TEA

pytestmark = pytest.mark.asyncio(loop_scope="package")

PATIENCE = 30.0


async def test_a_session_made_or_changed_before_its_documents_went_is_answered_again(
    client: Maieutic,
) -> None:
    tea = [(await client.documents.add("tea.md", TEA)).document.document_id]
    made = await client.sessions.create(document_ids=tea, request_id="make")
    other = await client.sessions.create()
    await client.sessions.update(other, document_ids=tea, request_id="change")
    await client.documents.delete(tea[0])

    again = await client.sessions.create(document_ids=tea, request_id="make")
    assert (again.session_id, list(again.document_ids)) == (made.session_id, tea)
    changed = await client.sessions.update(other, document_ids=tea, request_id="change")
    assert list(changed.document_ids) == tea
    with pytest.raises(AlreadyExists):
        await client.sessions.create(title="Tea", document_ids=tea, request_id="make")
    before = [session.session_id async for session in client.sessions.list()]
    for call in (
        client.sessions.create(document_ids=tea),
        client.sessions.update(other, document_ids=tea),
    ):
        with pytest.raises(NotFound) as refused:
            await call
        assert refused.value.reason == "DOCUMENT_NOT_FOUND"
    assert [session.session_id async for session in client.sessions.list()] == before


async def test_an_analysis_over_a_collection_that_was_emptied_since_is_found_again(
    client: Maieutic,
) -> None:
    tea = [(await client.documents.add("tea.md", TEA)).document.document_id]
    await client.documents.attach("teas", tea)
    session = await client.sessions.create()

    async def analysed(request_id: str) -> tuple[str, bytes]:
        stream = client.turns.analyze(
            session,
            text="Green tea is brewed at 75 degrees.",
            collection="teas",
            request_id=request_id,
            timeout=PATIENCE,
        )
        outcome = await stream.result()
        return stream.turn_id, outcome.findings.support.SerializeToString(deterministic=True)

    first = await analysed("look")
    await client.documents.detach("teas", tea)
    assert await analysed("look") == first
    with pytest.raises(NotFound) as refused:
        await analysed("look-again")
    assert refused.value.reason == "COLLECTION_NOT_FOUND"
