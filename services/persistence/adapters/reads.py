"""Reading what was archived."""

from collections.abc import Sequence
from datetime import UTC, datetime
from types import MappingProxyType

from maieutic.bus.v1.bus_pb2 import RunTurn, SessionAnnotations, TurnFinished
from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2 import (
    SESSION_ORDER_LAST_USED_FIRST,
    SESSION_ORDER_NEWEST_FIRST,
    SESSION_ORDER_OLDEST_FIRST,
    ModelUsage,
    Session,
    SessionOrder,
    SessionStatistics,
)
from services.persistence.adapters.sql import Connection, Database, Row, moment
from services.persistence.model import Place, in_acceptance_order
from services.persistence.ports import ArchivedTurn, Page, Snapshot
from services.persistence.statistics import EndedTurn, statistics

SESSION = "SELECT tenant, delete_time, record FROM sessions WHERE session_id = $1"

WINDOW = """
SELECT record FROM messages
WHERE session_id = $1 AND position IS NOT NULL
ORDER BY position DESC, message_id DESC
LIMIT $2
"""

UNFINISHED = """
SELECT job FROM turns
WHERE session_id = $1 AND finished IS NULL
ORDER BY create_time, accept_order
"""

LAST_POSITION = """
SELECT coalesce(max(position), 0) AS last FROM messages WHERE session_id = $1
"""

# The end of the chain of predecessors, not the last row: rows may be written in another order.
# What runs beside the conversation is on other lanes.
LAST_TURN = """
SELECT turn_id FROM turns
WHERE session_id = $1 AND lane = 'interactive' AND NOT EXISTS (
    SELECT 1 FROM turns AS later
    WHERE later.session_id = $1 AND later.predecessor_turn_id = turns.turn_id
)
ORDER BY create_time DESC, accept_order DESC
LIMIT 1
"""

# Ids are sorted by code points, in every database and as the session service sorts: it lists these
# and its own together. The sizes are summed here, so that what does not fit is never read.
SESSIONS = """
WITH page AS (
    SELECT record, {at} AS sorted_time, session_id COLLATE "C" AS session_id FROM sessions
    WHERE tenant = $1 AND user_id = $2 AND delete_time IS NULL
        AND {at} {within} $3 AND ({at} {beyond} $3 OR session_id COLLATE "C" {beyond} $4)
    ORDER BY {at} {way}, session_id COLLATE "C" {way}
    LIMIT $5
), sized AS (
    SELECT
        record,
        row_number() OVER in_order AS place,
        sum(length(record)) OVER in_order AS bytes,
        count(*) OVER () AS total
    FROM page
    WINDOW in_order AS (ORDER BY sorted_time {way}, session_id {way})
)
SELECT record, total FROM sized WHERE place = 1 OR bytes <= $6 ORDER BY place
"""
DOWN = SESSIONS.replace("{way}", "DESC").replace("{beyond}", "<").replace("{within}", "<=")
UP = SESSIONS.replace("{way}", "ASC").replace("{beyond}", ">").replace("{within}", ">=")
PAST_ALL_SESSIONS = Place(time=datetime.max.replace(tzinfo=UTC), id="")
BEFORE_ALL_SESSIONS = Place(time=datetime.min.replace(tzinfo=UTC), id="")
LISTS = MappingProxyType(
    {
        SESSION_ORDER_NEWEST_FIRST: (DOWN.replace("{at}", "create_time"), PAST_ALL_SESSIONS),
        SESSION_ORDER_OLDEST_FIRST: (UP.replace("{at}", "create_time"), BEFORE_ALL_SESSIONS),
        SESSION_ORDER_LAST_USED_FIRST: (
            DOWN.replace("{at}", "coalesce(last_used_time, create_time)"),
            PAST_ALL_SESSIONS,
        ),
    }
)
"""The statement of each order, and the place from which it starts."""

COUNT_SESSIONS = """
SELECT count(*) AS found FROM sessions
WHERE tenant = $1 AND user_id = $2 AND delete_time IS NULL
"""

# Messages of one position are peers: they have one place and one sum, so they come together.
MESSAGES = """
WITH page AS (
    SELECT record, position, message_id FROM messages
    WHERE session_id = $1 AND position {beyond} $2 AND position {within} coalesce(
        (
            SELECT position FROM messages
            WHERE session_id = $1 AND position {beyond} $2
            ORDER BY position {way} LIMIT 1 OFFSET $3
        ), {last})
), sized AS (
    SELECT
        record,
        message_id,
        rank() OVER in_order AS place,
        sum(length(record)) OVER in_order AS bytes,
        count(*) OVER () AS total
    FROM page
    WINDOW in_order AS (ORDER BY position {way})
)
SELECT record, total FROM sized WHERE place = 1 OR bytes <= $4 ORDER BY place, message_id {way}
"""
PAST_ALL_POSITIONS = 2**63 - 1
MESSAGES_DOWN = MESSAGES.format(beyond="<", within=">=", way="DESC", last=0)
MESSAGES_UP = MESSAGES.format(beyond=">", within="<=", way="ASC", last=PAST_ALL_POSITIONS)

MESSAGE = """
SELECT record FROM messages
WHERE message_id = $2 AND session_id = $1 AND position IS NOT NULL
"""

ANNOTATIONS = "SELECT record FROM annotations WHERE session_id = $1"

TURNS_COUNTED = """
SELECT state, attempts, start_time, finish_time FROM turns
WHERE session_id = $1 AND NOT turn_id = ANY($2)
"""

USAGE_BY_MODEL = """
SELECT model, currency, count(*) AS calls, sum(input_tokens) AS input,
    sum(output_tokens) AS output, sum(cached_tokens) AS cached,
    sum(cache_write_tokens) AS cache_write, sum(cost_micros) AS cost, sum(duration_ms) AS duration
FROM usage
WHERE session_id = $1 AND NOT turn_id = ANY($2)
GROUP BY model, currency
ORDER BY model, currency
"""

TURN = "SELECT job, finished, archive_time FROM turns WHERE turn_id = $1"


class Reader:
    """The archive's reads; see `ports.Reads`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def snapshot(self, session_id: str, *, window: int) -> Snapshot:
        """Return one consistent state of a session."""
        async with self._database.reading() as connection:
            if not (found := await connection.fetch(SESSION, session_id)):
                return Snapshot()
            (row,) = found
            if row["delete_time"] is not None:
                tombstone = Session.FromString(row["record"])
                return Snapshot(tenant=row["tenant"], session=tombstone, deleted=True)
            return await _living(connection, session_id, row, window)

    async def list_sessions(
        self,
        tenant: str,
        user_id: str,
        *,
        after: Place | None,
        limit: int,
        most_bytes: int,
        order: SessionOrder.ValueType = SESSION_ORDER_NEWEST_FIRST,
    ) -> Page[Session]:
        """Return a user's sessions in the order."""
        statement, start = LISTS[order]
        place = after or start
        async with self._database.reading() as connection:
            rows = await connection.fetch(
                statement, tenant, user_id, place.time, place.id, limit, most_bytes
            )
        return Page(items=[Session.FromString(row["record"]) for row in rows], cut=_cut(rows))

    async def count_sessions(self, tenant: str, user_id: str) -> int:
        """Return how many sessions a user has."""
        async with self._database.reading() as connection:
            (row,) = await connection.fetch(COUNT_SESSIONS, tenant, user_id)
        return int(row["found"])

    async def list_messages(
        self,
        session_id: str,
        *,
        beyond: int,
        limit: int,
        most_bytes: int,
        oldest_first: bool = False,
    ) -> Page[Message]:
        """Return a session's messages beyond a position, newest or oldest first."""
        statement = MESSAGES_UP if oldest_first else MESSAGES_DOWN
        start = beyond if oldest_first else beyond or PAST_ALL_POSITIONS
        async with self._database.reading() as connection:
            rows = await connection.fetch(statement, session_id, start, limit - 1, most_bytes)
        return Page(items=[Message.FromString(row["record"]) for row in rows], cut=_cut(rows))

    async def get_message(self, session_id: str, message_id: str) -> Message | None:
        """Return a message of a session."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(MESSAGE, session_id, message_id)
        return Message.FromString(rows[0]["record"]) if rows else None

    async def statistics(
        self, session_id: str, except_turn_ids: Sequence[str]
    ) -> SessionStatistics:
        """Return what a session's turns consumed."""
        left_out = list(except_turn_ids)
        async with self._database.reading() as connection:
            turns = await connection.fetch(TURNS_COUNTED, session_id, left_out)
            usage = await connection.fetch(USAGE_BY_MODEL, session_id, left_out)
        return statistics(map(_counted, turns), map(_usage, usage))

    async def get_turn(self, turn_id: str, session_id: str) -> ArchivedTurn:
        """Return a turn, or what is known of its session."""
        async with self._database.reading() as connection:
            turns = await connection.fetch(TURN, turn_id)
            sessions = await connection.fetch(SESSION, session_id)
        deleted = any(row["delete_time"] is not None for row in sessions)
        if deleted or not turns:
            return ArchivedTurn(session_deleted=deleted)
        (row,) = turns
        return ArchivedTurn(
            job=RunTurn.FromString(row["job"]),
            finished=TurnFinished.FromString(row["finished"]) if row["finished"] else None,
            archive_time=moment(row["archive_time"]) if row["archive_time"] else None,
        )


def _counted(row: Row) -> EndedTurn:
    start, finish = row["start_time"], row["finish_time"]
    return EndedTurn(
        state=row["state"],
        attempts=row["attempts"],
        start_time=moment(start) if start else None,
        finish_time=moment(finish) if finish else None,
    )


def _usage(row: Row) -> ModelUsage:
    used = ModelUsage(
        model=row["model"],
        call_count=row["calls"],
        input_tokens=int(row["input"]),
        output_tokens=int(row["output"]),
        cached_tokens=int(row["cached"]),
        cache_write_tokens=int(row["cache_write"]),
        currency=row["currency"],
    )
    if row["cost"] is not None:
        used.cost_micros = int(row["cost"])
    used.duration.FromMilliseconds(int(row["duration"]))
    return used


def _cut(rows: Sequence[Row]) -> bool:
    return bool(rows) and len(rows) < rows[0]["total"]


async def _living(connection: Connection, session_id: str, row: Row, window: int) -> Snapshot:
    messages = await connection.fetch(WINDOW, session_id, window)
    jobs = await connection.fetch(UNFINISHED, session_id)
    (last,) = await connection.fetch(LAST_POSITION, session_id)
    last_turns = await connection.fetch(LAST_TURN, session_id)
    kept = await connection.fetch(ANNOTATIONS, session_id)
    return Snapshot(
        tenant=row["tenant"],
        session=Session.FromString(row["record"]),
        window=tuple(Message.FromString(each["record"]) for each in reversed(messages)),
        unfinished=tuple(in_acceptance_order([RunTurn.FromString(each["job"]) for each in jobs])),
        last_position=last["last"],
        last_turn_id=last_turns[0]["turn_id"] if last_turns else "",
        annotations=SessionAnnotations.FromString(kept[0]["record"]) if kept else None,
    )
