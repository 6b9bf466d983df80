"""Sessions and turns that tests of the store write, without the service around them."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from uuid import uuid4

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1.record_pb2 import SessionRecord, TurnRecord
from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.turn_service_pb2 import TurnFrame
from services.session.adapters.redis import RedisSessionStore
from services.session.errors import StoreUnavailable
from services.session.ids import Ids
from services.session.model import QUEUED, Draft, EventId, Timing
from services.session.ports import Append
from tests.waiting import wait_until

TIMING = Timing(idle=100_000)


def opened(
    url: str, timeout: float = 5.0, timing: Timing = TIMING, connections: int = 64
) -> AbstractAsyncContextManager[RedisSessionStore]:
    return RedisSessionStore.connect(url, timing=timing, timeout=timeout, connections=connections)


async def back(store: RedisSessionStore) -> None:
    """Wait until calls are let through again."""

    async def served() -> bool:
        try:
            await store.pressure()
        except StoreUnavailable:
            return False
        return True

    await wait_until(served)


async def changed(
    store: RedisSessionStore, session_id: str, decide: Callable[[Draft], object]
) -> None:
    """Change the session; of an impatient store a busy machine may ask for several tries."""

    async def done() -> bool:
        try:
            await store.transact(session_id, decide)
        except StoreUnavailable:
            return False
        return True

    await wait_until(done)


def new_session() -> str:
    return Ids(b"k").session("t", "u", uuid4().hex)


def new_turn(session_id: str) -> str:
    return Ids(b"k").turn(session_id, uuid4().hex)


def make(session_id: str, *, archived: bool = True) -> Callable[[Draft], None]:
    """Decide to make the session, settled if it is archived."""

    def decide(draft: Draft) -> None:
        draft.session = SessionRecord(
            tenant="t", session=Session(session_id=session_id, user_id="u"), next_position=1
        )
        draft.touch()
        if archived:
            draft.record.archived_revision = draft.record.session.revision

    return decide


def say(text: str) -> Callable[[Draft], None]:
    def decide(draft: Draft) -> None:
        position = draft.record.next_position
        draft.put_message(Message(message_id=f"m{position}", position=position, text=text))
        draft.session_changed = True

    return decide


def put_turn(turn_id: str, session_id: str, due: int | None = None) -> Callable[[Draft], None]:
    def decide(draft: Draft) -> None:
        turn = TurnRecord(phase=QUEUED, job=RunTurn(turn_id=turn_id), fence=5)
        turn.job.message.session_id = session_id
        draft.put_turn(turn)
        draft.events.append((turn_id, EventId(5, 0), TurnFrame(turn_id=turn_id)))
        if due is not None:
            draft.due[turn_id] = due

    return decide


def count(name: str) -> Callable[[Draft], None]:
    """Decide to count one up, once for each name."""

    def decide(draft: Draft) -> None:
        metadata = draft.record.session.metadata
        if name not in metadata:
            metadata[name] = ""
            metadata["n"] = str(int(metadata["n"] or "0") + 1)
            draft.session_changed = True

    return decide


async def counted(store: RedisSessionStore, session_id: str) -> int:
    record = await store.session(session_id)
    assert record is not None
    return int(record.session.metadata["n"] or "0")


def frames(turn_id: str, number: int) -> list[TurnFrame]:
    return [TurnFrame(turn_id=turn_id) for _ in range(number)]


async def appended(
    store: RedisSessionStore, turn_id: str, fence: int, seq: int, number: int = 1
) -> str:
    append = Append(turn_id=turn_id, first=EventId(fence, seq), frames=frames(turn_id, number))
    return (await store.append([append]))[0]
