"""A user's sessions as one list: live and archived ones, in an order, those that fit a filter.

Everything but `SessionList` is pure.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from maieutic.session.v1.record_pb2 import SessionRecord
from maieutic.v1 import session_service_pb2 as pb
from services.session.archive import Archive
from services.session.ids import checked
from services.session.model import Caller, timestamp
from services.session.paging import (
    LAST_USED_FIRST,
    NEWEST_FIRST,
    OLDEST_FIRST,
    Order,
    Place,
    page_of_sessions,
)
from services.session.ports import SessionStore

DEFAULT_PAGE = 50
MAKING_MS = 60_000
"""A session that is being made is on the list this long before it must have a record."""
LOOKED_AT_ONCE = 200
"""How many sessions are held against a filter at a time; ten times as many for one page."""
SCANS = 10
WHOLE_LIST = 100_000


_ORDERS = {order.kind: order for order in (NEWEST_FIRST, OLDEST_FIRST, LAST_USED_FIRST)}


class SessionList:
    """Pages of a user's sessions. Raises BadPageToken, StoreUnavailable and Unavailable."""

    def __init__(self, store: SessionStore, archive: Archive) -> None:
        self._store = store
        self._archive = archive

    async def page(
        self, caller: Caller, request: pb.ListSessionsRequest
    ) -> tuple[list[pb.Session], str]:
        """Return a page and the next one's token. Raises BadPageToken.

        A filter that few sessions fit ends a page early, after a bounded look at the list.
        """
        if parent := request.filter.parent_session_id:
            checked("filter.parent_session_id", parent)
        order = _ORDERS[request.order or pb.SESSION_ORDER_NEWEST_FIRST]
        limit, fits = request.page_size or DEFAULT_PAGE, fitting(request.filter)
        at_once = LOOKED_AT_ONCE if request.HasField("filter") else limit
        after = order.parse(request.page_token)
        found: list[pb.Session] = []
        for _ in range(SCANS):
            sessions, after = await self._part(caller, order, after, at_once)
            found += filter(fits, sessions)
            if after is None or len(found) >= limit:
                break
        page, rest = page_of_sessions(found, None, limit, order)
        await self._show_expiry(page)
        return page, order.token(rest or after)

    async def _part(
        self, caller: Caller, order: Order, after: Place | None, limit: int
    ) -> tuple[list[pb.Session], Place | None]:
        """Return the next sessions of the list, and where to go on unless it is at its end."""
        listed = await self._listed(caller, order, after, limit)
        archived, more = await self._archive.sessions(
            caller.tenant, caller.user, order.kind, after, limit + 1
        )
        # Those that the archive lists are looked up, too: one may have been deleted just now.
        ids = list({place.session_id for place in listed} | {s.session_id for s in archived})
        records = dict(zip(ids, await self._store.sessions(ids), strict=True))
        await self._prune(caller, listed, records)
        # A source that has more is known only down to its last place, and so is the whole.
        ends = [order.place(archived[-1])] if more else []
        if order is NEWEST_FIRST and len(listed) > limit:
            ends.append(listed[-1])
        merged = [s for s in merge(records, archived) if order.follows(order.place(s), after)]
        return page_of_sessions(order.sorted(merged), order.nearest(ends), limit, order)

    async def _listed(
        self, caller: Caller, order: Order, after: Place | None, limit: int
    ) -> list[Place]:
        """Return the live list, which is by creation; for another order the whole of it."""
        newest = order is NEWEST_FIRST
        start, most = (after, limit + 1) if newest else (None, WHOLE_LIST)
        return [Place(*place) for place in await self._store.list_page(caller.key, start, most)]

    async def _prune(
        self, caller: Caller, listed: Sequence[Place], records: Mapping[str, SessionRecord | None]
    ) -> None:
        settled = time.time_ns() // 1_000_000 - MAKING_MS
        gone = [sid for made, sid in listed if not _lives(records[sid]) and made < settled]
        await self._store.list_remove(caller.key, gone)

    async def _show_expiry(self, sessions: Sequence[pb.Session]) -> None:
        """Say when each expires: reading puts that off, and the record does not know."""
        left = await self._store.time_left([session.session_id for session in sessions])
        for session, ms in zip(sessions, left, strict=True):
            show_expiry(session, ms)


def show_expiry(session: pb.Session, left_ms: int) -> None:
    """Let the session say when it expires: in *left_ms*, or not at all for 0."""
    session.ClearField("expire_time")
    if left_ms:
        session.expire_time.CopyFrom(timestamp(time.time_ns() // 1_000_000 + left_ms))


def fitting(wanted: pb.SessionFilter) -> Callable[[pb.Session], bool]:
    """Return the test of whether a session fits all that is set."""

    def fits(session: pb.Session) -> bool:
        ended = session.HasField("end_time")
        return (
            wanted.mode in (pb.SESSION_MODE_UNSPECIFIED, session.mode)
            and (wanted.state != pb.SESSION_STATE_OPEN or not ended)
            and (wanted.state != pb.SESSION_STATE_ENDED or ended)
            and wanted.document_id in ("", *session.document_ids)
            and wanted.parent_session_id in ("", session.parent_session_id)
            and all(session.metadata.get(key) == value for key, value in wanted.metadata.items())
        )

    return fits


def merge(
    records: Mapping[str, SessionRecord | None], archived: Sequence[pb.Session]
) -> list[pb.Session]:
    """Return live and archived sessions without those that are deleted here."""
    merged = {s.session_id: s for s in archived if records[s.session_id] is None}
    for session_id, record in records.items():
        if record is not None and not record.tombstone:
            merged[session_id] = record.session
    return list(merged.values())


def _lives(record: SessionRecord | None) -> bool:
    return record is not None and not record.tombstone
