"""However turns end, their calls are in the accounts, each once."""

import pytest

from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.turn_service_pb2 import TURN_STATE_CANCELLED, TURN_STATE_COMPLETED
from maieutic.v1.usage_service_pb2 import USAGE_KEY_DAY, USAGE_KEY_KIND, UsageTotal
from maieutic_client import Maieutic
from tests.faults.steps import HANGING, PATIENCE, scripted, until_event
from tests.stack import RealStack
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

COMPLETED = scripted(text="one two three")
REJECTED = scripted(fail="rejected", fail_after=1, tells_input=True)
RETRIED = scripted(fail="unavailable", fail_after=1, fail_times=1, tells_input=True)
HANGS = scripted(fail="hang", fail_after=2, tells_input=True)
SECOND_TIME = scripted(text="one two three four five six", tells_input=True, **HANGING)


async def test_calls_count_once_however_their_turns_end(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    await counted(client, await ended(client, session, COMPLETED), 1)
    await counted(client, await ended(client, session, REJECTED), 1)
    await counted(client, await ended(client, session, RETRIED), 2)
    await counted(client, await cancelled(client, session), 1)
    # What the killed worker's call consumed nobody knows.
    await counted(client, await killed(stack, client, session), 1)
    whole = await client.usage.get(session=session, group_by=[USAGE_KEY_KIND, USAGE_KEY_DAY])
    assert (whole.total.call_count, whole.total.turn_count) == (6, 5)
    assert sum(row.total.call_count for row in whole.rows) == 6
    assert [cost.currency for cost in whole.total.costs] == ["USD"]
    await client.sessions.delete(session)
    await wait_until(lambda: is_deleted(stack, session), PATIENCE, every=0.05)
    assert (await client.usage.get(session=session)).total == whole.total


async def ended(client: Maieutic, session: Session, question: str) -> str:
    stream = client.turns.stream(session.session_id, question, timeout=PATIENCE)
    await stream.result()
    return stream.turn_id


async def cancelled(client: Maieutic, session: Session) -> str:
    async with client.turns.stream(session.session_id, HANGS, timeout=PATIENCE) as stream:
        await until_event(stream, "delta")
        await client.turns.cancel(stream.turn_id)
        assert (await stream.result()).state == TURN_STATE_CANCELLED
    return stream.turn_id


async def killed(stack: RealStack, client: Maieutic, session: Session) -> str:
    async with client.turns.stream(session.session_id, SECOND_TIME, timeout=PATIENCE) as stream:
        await until_event(stream, "delta")
        await stack.kill9("agents")
        await stack.start("agents")
        outcome = await stream.result()
    assert (outcome.state, outcome.attempts) == (TURN_STATE_COMPLETED, 2)
    return stream.turn_id


async def counted(client: Maieutic, turn_id: str, count: int) -> None:
    """Wait until the accounts have as many calls of the turn."""

    async def total() -> UsageTotal:
        return (await client.usage.get(turn_id=turn_id)).total

    async def there() -> bool:
        return (await total()).call_count >= count

    await wait_until(there, PATIENCE, every=0.05)
    assert (await total()).call_count == count


async def is_deleted(stack: RealStack, session: Session) -> bool:
    query = "SELECT 1 FROM sessions WHERE session_id = $1 AND delete_time IS NOT NULL"
    return bool(await stack.rows(query, session.session_id))
