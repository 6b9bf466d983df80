"""What was said in a session: the window and the archive as one list."""

import logging
from collections.abc import Iterable, Mapping, Sequence

from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2 import MESSAGE_ORDER_OLDEST_FIRST, ListMessagesRequest
from services.runtime.errors import DeadlineExceeded, Unavailable
from services.session.archive import Archive
from services.session.conversations import Conversations
from services.session.listing import DEFAULT_PAGE
from services.session.model import Caller, rolled_back
from services.session.observing import messages_loaded
from services.session.paging import BACK, FORTH, Direction, page_of_messages
from services.session.ports import SessionStore

_log = logging.getLogger(__name__)


class History:
    """Lists messages. Raises the errors of `errors` and Unavailable."""

    def __init__(
        self, *, store: SessionStore, archive: Archive, conversations: Conversations
    ) -> None:
        self._store = store
        self._archive = archive
        self._conversations = conversations

    async def page(self, caller: Caller, request: ListMessagesRequest) -> tuple[list[Message], str]:
        """Return a page of messages and the next one's token."""
        direction = FORTH if request.order == MESSAGE_ORDER_OLDEST_FIRST else BACK
        beyond, limit = direction.parse(request.page_token), request.page_size or DEFAULT_PAGE
        session_id = request.session_id
        if not (await self._conversations.get(caller, session_id)).message_count:
            return [], ""
        # The window is read first: what leaves it later is in the archive already.
        window: Mapping[str, Message] = _by_id(await self._store.window(session_id))
        archived: Sequence[Message] = ()
        end = None
        if not _suffices(window, direction, beyond, limit):
            archived, end = await self._archived(session_id, window, direction, beyond, limit)
        messages_loaded(session_id, from_window=len(window), from_archive=len(archived))
        if archived:
            window = await self._window_now(session_id, window, archived)
            archived = await self._without_rolled_back(archived, window)
        found = {**_by_id(archived), **window}.values()
        left = [message for message in found if direction.follows(message, beyond)]
        return page_of_messages(left, end, limit, direction)

    async def _archived(
        self,
        session_id: str,
        window: Mapping[str, Message],
        direction: Direction,
        beyond: int,
        limit: int,
    ) -> tuple[Sequence[Message], int | None]:
        """Return what the archive has of the page, and the position where that ends."""
        up = direction.oldest_first
        try:
            found, more = await self._archive.messages(
                session_id, beyond, limit + 1, oldest_first=up
            )
        except (Unavailable, DeadlineExceeded) as away:
            here = [m.position for m in window.values() if direction.follows(m, beyond)]
            if up or not here:
                raise
            _log.warning("without the archive a page ends with the window: %s", away.reason)
            return (), min(here)
        return found, found[-1].position if more else None

    async def _window_now(
        self, session_id: str, window: Mapping[str, Message], archived: Sequence[Message]
    ) -> Mapping[str, Message]:
        """Return the window with what was said since it was read, if the archive knows of that.

        Of what was said meanwhile the archive may have the last message and not yet the one before.
        """
        if _last(archived) <= _last(window.values()):
            return window
        return {**_by_id(await self._store.window(session_id)), **window}

    async def _without_rolled_back(
        self, archived: Sequence[Message], window: Mapping[str, Message]
    ) -> list[Message]:
        """Leave out what was rolled back here, of which the archive may not know yet."""
        first = _first(window) or 1
        doubtful = {
            message.turn_id
            for message in archived
            if message.position >= first and message.message_id not in window
        }
        turns = await self._store.turns(sorted(doubtful))
        gone = {turn.job.turn_id for turn in turns if turn is not None and rolled_back(turn)}
        return [message for message in archived if message.turn_id not in gone]


def _suffices(window: Mapping[str, Message], direction: Direction, beyond: int, limit: int) -> bool:
    """Whether the window has the whole page, and the start of the next one."""
    first = _first(window)
    if direction.oldest_first:
        return 0 < first <= beyond + 1
    here = sum(direction.follows(message, beyond) for message in window.values())
    return first == 1 or here > limit


def _by_id(messages: Iterable[Message]) -> dict[str, Message]:
    return {message.message_id: message for message in messages}


def _first(window: Mapping[str, Message]) -> int:
    return min((message.position for message in window.values()), default=0)


def _last(messages: Iterable[Message]) -> int:
    return max((message.position for message in messages), default=0)
