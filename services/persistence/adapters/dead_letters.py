"""Dead letters in the database."""

import json
from collections.abc import Sequence

from services.persistence.adapters.sql import Connection, Database, Row, moment
from services.persistence.dead_letter_ports import (
    DeadLetter,
    KeptLetter,
    LetterFilter,
    LetterOperation,
)
from services.persistence.errors import RequestIdTaken

OPERATION_SECONDS = 86_400.0
HIGHEST = 2**63 - 1

KEEP_LETTER = """
INSERT INTO dead_letters
    (letter_id, message_id, routing_key, reason, headers, body, size, cut, redrives)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (letter_id) DO NOTHING
RETURNING number
"""

SHOWN = """
SELECT number, letter_id, message_id, routing_key, reason, size, cut, redrives, create_time,
    redrive_time
FROM dead_letters
"""
MATCHES = "($1 = '' OR routing_key = $1) AND strpos(reason, $2) > 0"
LIST = f"""
{SHOWN} WHERE {MATCHES} AND number < $3 AND ($4 OR redrive_time IS NULL)
ORDER BY number DESC LIMIT $5
"""
REDRIVABLE = f"{MATCHES} AND redrive_time IS NULL AND NOT cut"
TO_REDRIVE = f"{SHOWN} WHERE {REDRIVABLE} ORDER BY number LIMIT $3"
HOW_MANY_TO_REDRIVE = f"SELECT count(*) AS letters FROM dead_letters WHERE {REDRIVABLE}"  # noqa: S608 - constants
OF_IDS = f"{SHOWN} WHERE letter_id = ANY($1) ORDER BY number"
WHOLE = "SELECT * FROM dead_letters WHERE letter_id = $1"
MARK = "UPDATE dead_letters SET redrive_time = now() WHERE letter_id = $1"

DROP = f"""
DELETE FROM dead_letters WHERE {MATCHES} AND redrive_time IS NULL RETURNING letter_id
"""  # noqa: S608 - constants
DROP_IDS = "DELETE FROM dead_letters WHERE letter_id = ANY($1) RETURNING letter_id"
EXPIRE = """
DELETE FROM dead_letters WHERE create_time <= now() - make_interval(secs => $1)
RETURNING letter_id
"""

OUTCOME = """
SELECT request_hash, outcome FROM dead_letter_operations
WHERE tenant = $1 AND user_id = $2 AND request_id = $3
"""
KEEP_OUTCOME = """
INSERT INTO dead_letter_operations (tenant, user_id, request_id, request_hash, outcome)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
"""
FORGET_OUTCOMES = """
DELETE FROM dead_letter_operations WHERE create_time <= now() - make_interval(secs => $1)
"""


class DeadLetterFile:
    """The file of dead letters; see `dead_letter_ports.DeadLetters`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep_dead_letter(self, letter: DeadLetter) -> bool:
        """Keep a letter; returns whether it is new."""
        async with self._database.writing() as connection:
            rows = await connection.fetch(
                KEEP_LETTER,
                letter.letter_id,
                letter.message_id,
                letter.routing_key,
                letter.reason,
                json.dumps(dict(letter.headers)),
                letter.body,
                letter.size,
                letter.cut,
                letter.redrives,
            )
        return bool(rows)

    async def dead_letters(
        self, which: LetterFilter, *, below: int | None, limit: int, with_redriven: bool
    ) -> Sequence[KeptLetter]:
        """Return a page, the latest first."""
        before = HIGHEST if below is None else below
        async with self._database.reading() as connection:
            rows = await connection.fetch(
                LIST, which.routing_key, which.reason, before, with_redriven, limit
            )
        return [_shown(row) for row in rows]

    async def dead_letters_to_redrive(
        self, which: LetterFilter, *, limit: int
    ) -> tuple[Sequence[KeptLetter], int]:
        """Return the oldest to redrive, and how many there are in all."""
        matched = which.routing_key, which.reason
        async with self._database.reading() as connection:
            rows = await connection.fetch(TO_REDRIVE, *matched, limit)
            (count,) = await connection.fetch(HOW_MANY_TO_REDRIVE, *matched)
        return [_shown(row) for row in rows], count["letters"]

    async def dead_letters_of(self, letter_ids: Sequence[str]) -> Sequence[KeptLetter]:
        """Return those that are there."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(OF_IDS, list(letter_ids))
        return [_shown(row) for row in rows]

    async def whole_dead_letter(self, letter_id: str) -> DeadLetter | None:
        """Return a letter with its body."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(WHOLE, letter_id)
        return _whole(rows[0]) if rows else None

    async def mark_redriven(self, letter_id: str) -> None:
        """Note that a letter was published again."""
        async with self._database.writing() as connection:
            await connection.write(MARK, [(letter_id,)])

    async def dead_letter_outcome(self, operation: LetterOperation) -> bytes | None:
        """Return a request's outcome."""
        async with self._database.reading() as connection:
            return await _outcome(connection, operation)

    async def keep_dead_letter_outcome(self, operation: LetterOperation, outcome: bytes) -> bytes:
        """Keep a request's first outcome and return it."""
        async with self._database.writing() as connection:
            return await _first_outcome(connection, operation, outcome)

    async def drop_dead_letters(
        self, which: LetterFilter | Sequence[str], operation: LetterOperation
    ) -> int:
        """Remove letters once; returns how many."""
        async with self._database.writing() as connection:
            if (done := await _outcome(connection, operation)) is not None:
                return int(done)
            if isinstance(which, LetterFilter):
                dropped = await connection.fetch(DROP, which.routing_key, which.reason)
            else:
                dropped = await connection.fetch(DROP_IDS, list(which))
            count = str(len(dropped)).encode()
            return int(await _first_outcome(connection, operation, count))

    async def expire_dead_letters(self, *, older_than: float) -> int:
        """Remove what was kept long enough."""
        async with self._database.writing() as connection:
            dropped = await connection.fetch(EXPIRE, older_than)
            await connection.write(FORGET_OUTCOMES, [(OPERATION_SECONDS,)])
        return len(dropped)


async def _outcome(connection: Connection, operation: LetterOperation) -> bytes | None:
    key = operation.tenant, operation.user_id, operation.request_id
    rows = await connection.fetch(OUTCOME, *key)
    if not rows:
        return None
    if rows[0]["request_hash"] != operation.request_hash:
        raise RequestIdTaken(operation.request_id)
    return bytes(rows[0]["outcome"])


async def _first_outcome(
    connection: Connection, operation: LetterOperation, outcome: bytes
) -> bytes:
    """Keep an outcome unless there is one, and return the one that stands."""
    key = operation.tenant, operation.user_id, operation.request_id
    await connection.write(KEEP_OUTCOME, [(*key, operation.request_hash, outcome)])
    first = await _outcome(connection, operation)
    return outcome if first is None else first


def _shown(row: Row) -> KeptLetter:
    redriven = row["redrive_time"]
    return KeptLetter(
        number=row["number"],
        letter_id=row["letter_id"],
        message_id=row["message_id"],
        routing_key=row["routing_key"],
        reason=row["reason"],
        size=row["size"],
        cut=bool(row["cut"]),
        redrives=row["redrives"],
        create_time=moment(row["create_time"]),
        redrive_time=None if redriven is None else moment(redriven),
    )


def _whole(row: Row) -> DeadLetter:
    return DeadLetter(
        letter_id=row["letter_id"],
        message_id=row["message_id"],
        routing_key=row["routing_key"],
        reason=row["reason"],
        headers=json.loads(row["headers"]),
        body=bytes(row["body"]),
        size=row["size"],
        redrives=row["redrives"],
    )
