"""What is kept beside a conversation, read and changed as one value."""

from collections.abc import Callable
from typing import TypeVar

from maieutic.v1.session_service_pb2 import Session
from services.session.ids import checked
from services.session.live import LiveSessions, owned
from services.session.model import Caller, Draft
from services.session.ports import Reads, SessionStore
from services.session.publisher import Publisher

T = TypeVar("T")


class Annotations:
    """Drafts with the annotations of a caller's session. Raises NotFound and Unavailable."""

    def __init__(self, store: SessionStore, live: LiveSessions, publisher: Publisher) -> None:
        self._store = store
        self._live = live
        self._publisher = publisher

    async def read(self, caller: Caller, session_id: str) -> Draft:
        """Return the session with its annotations; it was used now."""
        await self._store.keep_alive(checked("session_id", session_id))
        _, draft = await self._transact(caller, session_id, lambda _: None)
        return draft

    async def changed(
        self, caller: Caller, session_id: str, change: Callable[[Draft], T], request_id: str
    ) -> tuple[T, Session]:
        """Change them in one step; returns what *change* did, and the session after it."""
        checked("session_id", session_id)
        result, draft = await self._transact(caller, session_id, change, request_id)
        self._publisher.after(draft)
        return result, draft.record.session

    async def _transact(
        self, caller: Caller, session_id: str, change: Callable[[Draft], T], request_id: str = ""
    ) -> tuple[T, Draft]:
        def decide(draft: Draft) -> T:
            owned(draft.session, session_id, caller.tenant, caller.user)
            return change(draft)

        reads = Reads(annotations=True, operation=request_id)
        return await self._live.transact(session_id, decide, reads)
