"""Branches of sessions: a copy of the parent's messages, made in one transaction."""

from collections.abc import Sequence

from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.turn_service_pb2 import Findings
from services.persistence.adapters.facts import (
    KEEP_ANNOTATIONS,
    KEEP_EVENT,
    KEEP_MESSAGE,
    KEEP_SESSION,
)
from services.persistence.adapters.session_documents import keep_session_documents
from services.persistence.adapters.sql import Connection, Database
from services.persistence.branching import carried, fact_of, found_in
from services.persistence.errors import MessageNotFound, SessionNotFound
from services.persistence.facts import carried_rows

KNOWN = "SELECT session_id FROM sessions WHERE session_id = $1"

# Locked until the commit: a deletion of the parent comes before all of this, or after it.
PARENT = "SELECT delete_time FROM sessions WHERE session_id = $1 FOR UPDATE"

UP_TO = """
SELECT record FROM messages
WHERE session_id = $1 AND position <= coalesce(
    (SELECT position FROM messages WHERE session_id = $1 AND message_id = $2), $3)
"""
PAST_ALL_POSITIONS = 2**63 - 1


class Branches:
    """Makes branches; see `ports.Branches`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create_branch(
        self,
        tenant: str,
        branch: Session,
        window: Sequence[Message],
        window_position: int,
        findings: Findings,
    ) -> bool:
        """Store the branch with what it begins with; returns whether it was not there."""
        async with self._database.writing() as connection:
            for parent in await connection.fetch(PARENT, branch.parent_session_id):
                if parent["delete_time"] is not None:
                    raise SessionNotFound(branch.parent_session_id)
            if await connection.fetch(KNOWN, branch.session_id):
                return False
            messages = carried(branch, await _up_to(connection, branch), window, window_position)
            if not messages:
                raise MessageNotFound(branch.parent_message_id)
            fact = fact_of(tenant, branch, messages, found_in(messages, findings))
            await connection.write(KEEP_SESSION, [fact.session])
            await keep_session_documents(connection, [fact.session])
            await connection.write(KEEP_MESSAGE, carried_rows(messages))
            if fact.annotations is not None:
                await connection.write(KEEP_ANNOTATIONS, [fact.annotations])
            await connection.write(KEEP_EVENT, [fact.event])
        return True


async def _up_to(connection: Connection, branch: Session) -> list[Message]:
    """Return the parent's messages up to the point; all, if only the caller knows the point."""
    rows = await connection.fetch(
        UP_TO, branch.parent_session_id, branch.parent_message_id, PAST_ALL_POSITIONS
    )
    return [Message.FromString(row["record"]) for row in rows]
