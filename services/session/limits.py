"""How much of everything a user may have. Each error names the limit that it is about."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from services.runtime.errors import InvalidArgument
from services.session.archive import Archive
from services.session.errors import LimitReached
from services.session.model import Caller
from services.session.ports import SessionStore

_ASKED = 100

HIGHEST: Mapping[str, int] = MappingProxyType(
    {
        "metadata_bytes": 256 * 1024,
        "notes_per_session": 500,
        "bookmarks_per_session": 500,
        "waiting_turns": 32,
        "message_bytes": 128 * 1024,
        "answer_bytes": 512 * 1024,
    }
)
"""What a limit may be set to. Within these whatever can be stored also fits the messages in which
it travels, a session that is brought back from the archive with all it has included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Most:
    """The limits, by the names of their settings."""

    sessions_per_user: int = 10_000
    metadata_bytes: int = 16_384
    notes_per_session: int = 200
    bookmarks_per_session: int = 200
    message_bytes: int = HIGHEST["message_bytes"]


def check_text(text: str, most: Most) -> None:
    """Raise InvalidArgument if a user's message is too large."""
    size = len(text.encode())
    if size > most.message_bytes:
        problem = (
            f"has {size} bytes, the limit message_bytes is {most.message_bytes}: shorten it, or "
            "add it as a document and ask about that"
        )
        raise InvalidArgument("text", problem)


class SessionLimits:
    """Holds what is asked for against the limits."""

    def __init__(self, store: SessionStore, archive: Archive, most: Most) -> None:
        self._store = store
        self._archive = archive
        self._most = most

    def check_metadata(self, metadata: Mapping[str, str]) -> None:
        """Raise InvalidArgument if the metadata is too large."""
        size = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
        if size > self._most.metadata_bytes:
            problem = (
                f"its keys and values have {size} bytes, "
                f"the limit metadata_bytes is {self._most.metadata_bytes}: leave some out"
            )
            raise InvalidArgument("metadata", problem)

    async def require_room(self, caller: Caller) -> None:
        """Raise LimitReached if the user can have no more sessions."""
        most = self._most.sessions_per_user
        archived = await self._archive.count_sessions(caller.tenant, caller.user)
        # Most live sessions are archived, too: only near the limit each is looked at.
        if archived + await self._store.list_length(caller.key) < most:
            return
        if archived >= most or await self._more_only_here(caller, most - archived):
            raise LimitReached("sessions_per_user", most, "sessions of one user")

    async def _more_only_here(self, caller: Caller, room: int) -> bool:
        """Whether at least *room* of the user's sessions are not in the archive yet."""
        places = await self._store.list_page(caller.key, None, self._most.sessions_per_user + 1)
        records = await self._store.sessions([session_id for _, session_id in places])
        unconfirmed = [
            record.session.session_id
            for record in records
            if record is not None and not record.tombstone and not record.archived_revision
        ]
        only_here = 0
        for place, session_id in enumerate(unconfirmed):
            # The archive may have it without the store having heard of that: it was counted there.
            # Where very many are unconfirmed the archive lags, and each is not worth a question.
            known = place < _ASKED and await self._archive.snapshot(session_id)
            only_here += not (known and (known.deleted or known.HasField("session")))
            if only_here >= room:
                return True
        return False
