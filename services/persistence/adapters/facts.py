"""Writing facts: one transaction for a batch, and every statement may run again."""

from collections.abc import Sequence
from itertools import groupby

from maieutic.bus.v1.bus_pb2 import RunTurn, TurnFinished
from services.persistence.adapters.artifacts import FORGET_ARTIFACTS, NAME
from services.persistence.adapters.session_documents import (
    FORGET_SESSION_DOCUMENTS,
    keep_session_documents,
)
from services.persistence.adapters.sql import Connection, Database
from services.persistence.model import (
    Applied,
    Fact,
    Known,
    SessionRow,
    SessionState,
    in_acceptance_order,
    plan,
    session_rows,
)

# Also where it changes nothing, this locks the session's row until the commit. So two writers of
# one session run one after the other, and a turn's writers with them.
KEEP_SESSION = """
INSERT INTO sessions (
    session_id, tenant, user_id, title, mode, revision, message_count, parent_session_id,
    create_time, last_used_time, delete_time, record
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (session_id) DO UPDATE SET
    title = excluded.title,
    mode = excluded.mode,
    revision = excluded.revision,
    message_count = excluded.message_count,
    parent_session_id = excluded.parent_session_id,
    create_time = excluded.create_time,
    last_used_time = excluded.last_used_time,
    delete_time = excluded.delete_time,
    record = excluded.record
WHERE sessions.delete_time IS NULL
    AND (excluded.delete_time IS NOT NULL OR excluded.revision > sessions.revision)
"""

KNOWN_SESSIONS = """
SELECT session_id, revision, delete_time FROM sessions WHERE session_id = ANY($1)
"""

KNOWN_OUTCOMES = """
SELECT turn_id, finished FROM turns WHERE turn_id = ANY($1) AND finished IS NOT NULL
"""

KEEP_TURN = """
INSERT INTO turns (
    turn_id, session_id, tenant, user_id, request_id, predecessor_turn_id, lane, state, reason,
    explanation, attempts, create_time, start_time, finish_time, job, finished, archive_time
) VALUES (
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
    CASE WHEN $8 = 'ACCEPTED' THEN NULL ELSE now() END
)
ON CONFLICT (turn_id) DO UPDATE SET
    state = excluded.state,
    reason = excluded.reason,
    explanation = excluded.explanation,
    attempts = excluded.attempts,
    start_time = excluded.start_time,
    finish_time = excluded.finish_time,
    finished = excluded.finished,
    archive_time = excluded.archive_time
WHERE turns.finished IS NULL AND excluded.finished IS NOT NULL
"""

KEEP_MESSAGE = """
INSERT INTO messages (
    message_id, session_id, turn_id, position, author, text, create_time, citations, record
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (message_id) DO UPDATE SET position = excluded.position, record = excluded.record
WHERE messages.position IS NULL AND excluded.position IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM turns
    WHERE turns.turn_id = excluded.turn_id AND turns.state = 'ROLLED_BACK'
)
"""

WITHDRAW_MESSAGES = "UPDATE messages SET position = NULL WHERE turn_id = $1 AND session_id = $2"

KEEP_USAGE = """
INSERT INTO usage (
    turn_id, step_no, step, model, tenant, user_id, session_id, input_tokens, output_tokens,
    cached_tokens, duration_ms, finish_time, cache_write_tokens, cost_micros, currency, usage_id,
    kind
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
ON CONFLICT DO NOTHING
"""

KEEP_ANNOTATIONS = """
INSERT INTO annotations (session_id, revision, record) VALUES ($1, $2, $3)
ON CONFLICT (session_id) DO UPDATE SET revision = excluded.revision, record = excluded.record
WHERE excluded.revision > annotations.revision
"""

KEEP_EVENT = """
INSERT INTO events (
    event_key, kind, tenant, user_id, session_id, turn_id, detail, event_time
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT DO NOTHING
"""

FORGET_MESSAGES = "DELETE FROM messages WHERE session_id = $1"
FORGET_TURNS = "DELETE FROM turns WHERE session_id = $1"
FORGET_ANNOTATIONS = "DELETE FROM annotations WHERE session_id = $1"
FORGET_ALL = (
    FORGET_MESSAGES,
    FORGET_TURNS,
    FORGET_ANNOTATIONS,
    FORGET_SESSION_DOCUMENTS,
    FORGET_ARTIFACTS,
)

# The condition on ensure_time stands twice: a second caller that waited for the row tests it
# again on what the first one left.
LEASE_SESSIONS = """
UPDATE sessions SET ensure_time = now()
WHERE session_id IN (
    SELECT turns.session_id
    FROM turns JOIN sessions AS held ON held.session_id = turns.session_id
    WHERE turns.finished IS NULL
        AND turns.accept_time <= now() - make_interval(secs => $1)
        AND (held.ensure_time IS NULL OR held.ensure_time <= now() - make_interval(secs => $2))
    GROUP BY turns.session_id
    ORDER BY min(turns.accept_time)
    LIMIT $3
)
    AND (ensure_time IS NULL OR ensure_time <= now() - make_interval(secs => $2))
RETURNING session_id
"""

UNFINISHED_JOBS = """
SELECT session_id, job FROM turns
WHERE session_id = ANY($1) AND finished IS NULL
ORDER BY session_id, create_time, accept_order
"""


class FactWriter:
    """The archive's writes; see `ports.Facts`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def apply(self, batch: Sequence[Fact]) -> Applied:
        """Commit the batch as a whole."""
        async with self._database.writing() as connection:
            sessions = session_rows(batch)
            await connection.write(KEEP_SESSION, sessions)
            known = await _known(connection, batch)
            stored = [row for row in sessions if _is_stored(row, known)]
            await keep_session_documents(connection, stored)
            planned = plan(batch, known)
            await connection.write(KEEP_TURN, planned.turns)
            await connection.write(KEEP_MESSAGE, planned.messages)
            await connection.write(WITHDRAW_MESSAGES, planned.withdrawn)
            await connection.write(NAME, planned.artifacts)
            await connection.write(KEEP_USAGE, planned.usage)
            await connection.write(KEEP_ANNOTATIONS, planned.annotations)
            await connection.write(KEEP_EVENT, planned.events)
            for forget in FORGET_ALL:
                await connection.write(forget, [(session_id,) for session_id in planned.deleted])
        return planned.applied

    async def unfinished_turns(
        self, *, older_than: float, lease: float, limit: int
    ) -> Sequence[RunTurn]:
        """Return the unfinished jobs of sessions with an old one, and lease the sessions."""
        async with self._database.writing() as connection:
            leased = await connection.fetch(LEASE_SESSIONS, older_than, lease, limit)
            ids = [row["session_id"] for row in leased]
            rows = await connection.fetch(UNFINISHED_JOBS, ids) if ids else ()
        jobs: list[RunTurn] = []
        for _, of_session in groupby(rows, key=lambda row: row["session_id"]):
            jobs += in_acceptance_order([RunTurn.FromString(row["job"]) for row in of_session])
        return jobs


def _is_stored(row: SessionRow, known: Known) -> bool:
    """Whether the session's row is this one, not a later one or a tombstone."""
    state = known.sessions[row.session_id]
    return row.delete_time is None and not state.deleted and row.revision == state.revision


async def _known(connection: Connection, batch: Sequence[Fact]) -> Known:
    """Read what is committed; called with the sessions' rows locked, so that it stays true."""
    session_ids = list({fact.session.session_id for fact in batch})
    turn_ids = list({fact.turn.turn_id for fact in batch if fact.turn and fact.finished})
    sessions = await connection.fetch(KNOWN_SESSIONS, session_ids)
    outcomes = await connection.fetch(KNOWN_OUTCOMES, turn_ids) if turn_ids else ()
    return Known(
        sessions={
            row["session_id"]: SessionState(
                revision=row["revision"], deleted=row["delete_time"] is not None
            )
            for row in sessions
        },
        finished={row["turn_id"]: TurnFinished.FromString(row["finished"]) for row in outcomes},
    )
