"""Adding up what was consumed."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from maieutic.v1.turn_service_pb2 import TurnKind
from maieutic.v1.usage_service_pb2 import (
    USAGE_KEY_DAY,
    USAGE_KEY_KIND,
    USAGE_KEY_MODEL,
    USAGE_KEY_SESSION,
    USAGE_KEY_STEP,
    USAGE_KEY_UNSPECIFIED,
    USAGE_KEY_USER,
    UsageKey,
    UsageRow,
    UsageTotal,
)
from services.persistence.adapters.sql import Connection, Database, Row
from services.persistence.errors import UsageTooLarge
from services.persistence.usage_ports import UsageAnswer, UsageQuestion

FIELDS: Mapping[UsageKey.ValueType, str] = MappingProxyType(
    {
        USAGE_KEY_DAY: "day",
        USAGE_KEY_MODEL: "model",
        USAGE_KEY_STEP: "step",
        USAGE_KEY_KIND: "kind",
        USAGE_KEY_SESSION: "session_id",
        USAGE_KEY_USER: "user_id",
    }
)
"""The field of a row that has the key."""
COLUMNS: Mapping[UsageKey.ValueType, str] = MappingProxyType(
    {
        **FIELDS,
        USAGE_KEY_DAY: "date_trunc('day', finish_time AT TIME ZONE 'UTC')",
        USAGE_KEY_UNSPECIFIED: "''",
    }
)
"""What calls are grouped by; without any key they are all of one group."""

# Place 0 is the sum of all rows.
SUMS = """
WITH grouped AS (
    SELECT {columns}, currency, count(*) AS calls, count(*) - count(cost_micros) AS unpriced,
        sum(input_tokens) AS input, sum(output_tokens) AS output, sum(cached_tokens) AS cached,
        sum(cache_write_tokens) AS cache_write, sum(cost_micros) AS cost
    FROM usage
    WHERE {which}
    GROUP BY {names}, currency
), shown AS (
    SELECT {keys}, currency, calls, unpriced, input, output, cached, cache_write, cost FROM grouped
), placed AS (
    SELECT dense_rank() OVER (ORDER BY {names}) AS place, shown.* FROM shown {beyond}
)
SELECT * FROM placed WHERE place <= {limit}
UNION ALL
SELECT 0, {blanks}, currency, sum(calls), sum(unpriced), sum(input), sum(output), sum(cached),
    sum(cache_write), sum(cost)
FROM grouped GROUP BY currency
"""

# A turn's calls may be in several currencies, and in several rows, but it is one turn in each.
TURNS = """
WITH met AS (
    SELECT {columns}, turn_id FROM usage WHERE {which} GROUP BY {names}, turn_id
), grouped AS (
    SELECT {names}, count(*) AS turns FROM met GROUP BY {names}
), shown AS (
    SELECT {keys}, turns FROM grouped
), placed AS (
    SELECT 1 AS place, shown.* FROM shown {beyond} ORDER BY {names} LIMIT {limit}
)
SELECT * FROM placed
UNION ALL
SELECT 0, {blanks}, count(*) FROM (SELECT turn_id FROM met GROUP BY turn_id) AS turns
"""

# A deleted session is known by its tombstone, its turns by what they have consumed.
KNOWN_SESSION = """
SELECT 1 AS one FROM sessions
WHERE session_id = $1 AND tenant = $2 AND user_id = coalesce($3, user_id)
"""
KNOWN_TURN = """
SELECT 1 AS one FROM turns WHERE turn_id = $1 AND tenant = $2 AND user_id = coalesce($3, user_id)
UNION ALL
SELECT 1 FROM usage WHERE turn_id = $1 AND tenant = $2 AND user_id = coalesce($3, user_id)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountOptions:
    """How much of the database accounts may have."""

    at_once: int = 2
    """Questions that are answered at a time, each on one connection; others wait their turn."""

    timeout: float = 8.0
    """Seconds that the answer to one may take, less than pool_timeout; after that the caller is
    told to ask for less."""


class Accounts:
    """The archive's sums; see `usage_ports.UsageAccounts`."""

    def __init__(self, database: Database, options: AccountOptions) -> None:
        self._database = database
        self._timeout = options.timeout
        self._free = asyncio.Semaphore(options.at_once)

    async def usage(self, question: UsageQuestion) -> UsageAnswer:
        """Add up the calls of one state of the archive."""
        async with self._free:
            try:
                # Leaving stops the statement, so that a connection is never held for longer.
                async with asyncio.timeout(self._timeout), self._database.adding_up() as connection:
                    return await _answer(connection, question)
            except TimeoutError as error:
                raise UsageTooLarge(self._timeout) from error


async def _answer(connection: Connection, question: UsageQuestion) -> UsageAnswer:
    keys = question.group_by or (USAGE_KEY_UNSPECIFIED,)
    names = [f"key_{number}" for number, _ in enumerate(keys, start=1)]
    arguments: list[Any] = []
    parts = {
        "names": ", ".join(names),
        "blanks": ", ".join("''" for _ in names),
        "columns": ", ".join(map(_column, keys, names)),
        "keys": ", ".join(map(_key, keys, names)),
        "which": _conditions(question, arguments),
        "beyond": _beyond(question, names, arguments),
        "limit": _placed(question.limit + 1, arguments),
    }
    sums = await connection.fetch(SUMS.format(**parts), *arguments)
    turns = await connection.fetch(TURNS.format(**parts), *arguments)
    totals = _totals(names, sums, turns)
    total = totals.pop(None, UsageTotal())
    known = total.call_count > 0 or await _is_known(connection, question)
    places = sorted(place for place in totals if place is not None)
    page = places[: question.limit]
    return UsageAnswer(
        rows=[_row(question.group_by, place, totals[place]) for place in page],
        total=total,
        rest=page[-1] if len(places) > len(page) else None,
        known=known,
    )


def _column(key: UsageKey.ValueType, name: str) -> str:
    return f"{COLUMNS[key]} AS {name}"


def _key(key: UsageKey.ValueType, name: str) -> str:
    """Return the text of a group's key; made once for each group, and not for each call."""
    text = f"coalesce(to_char({name}, 'YYYY-MM-DD'), '')" if key == USAGE_KEY_DAY else name
    # Sorted by code points, in every database and as Python sorts.
    return f'{text} COLLATE "C" AS {name}'


def _conditions(question: UsageQuestion, arguments: list[Any]) -> str:
    wanted = {
        "tenant =": question.tenant,
        "user_id =": question.user_id,
        "session_id =": question.session_id or None,
        "turn_id =": question.turn_id or None,
        "finish_time >=": question.start,
        "finish_time <": question.end,
    }
    return " AND ".join(
        f"{test} {_placed(value, arguments)}" for test, value in wanted.items() if value is not None
    )


def _beyond(question: UsageQuestion, names: Sequence[str], arguments: list[Any]) -> str:
    if question.after is None:
        return ""
    after = ", ".join(_placed(text, arguments) for text in question.after)
    return f"WHERE ({', '.join(names)}) > ({after})"


def _placed(value: Any, arguments: list[Any]) -> str:
    arguments.append(value)
    return f"${len(arguments)}"


def _totals(
    names: Sequence[str], sums: Iterable[Row], turns: Iterable[Row]
) -> dict[tuple[str, ...] | None, UsageTotal]:
    """Return what each row has consumed by its place, that of all rows by None."""
    totals: dict[tuple[str, ...] | None, UsageTotal] = {}
    for row in sums:
        _add(totals.setdefault(_place(row, names), UsageTotal()), row)
    for row in turns:
        totals.setdefault(_place(row, names), UsageTotal()).turn_count = row["turns"]
    for total in totals.values():
        total.costs.sort(key=lambda cost: cost.currency)
    return totals


def _place(row: Row, names: Sequence[str]) -> tuple[str, ...] | None:
    return tuple(row[name] for name in names) if row["place"] else None


def _add(total: UsageTotal, row: Row) -> None:
    total.call_count += int(row["calls"])
    total.unknown_cost_call_count += int(row["unpriced"])
    total.input_tokens += int(row["input"])
    total.output_tokens += int(row["output"])
    total.cached_tokens += int(row["cached"])
    total.cache_write_tokens += int(row["cache_write"])
    if row["cost"] is not None:
        total.costs.add(currency=row["currency"], micros=int(row["cost"]))


def _row(
    group_by: Sequence[UsageKey.ValueType], place: Sequence[str], total: UsageTotal
) -> UsageRow:
    row = UsageRow(total=total)
    for key, text in zip(group_by, place, strict=False):
        if key == USAGE_KEY_KIND:
            row.kind = _kind(text)
        else:
            setattr(row, FIELDS[key], text)
    return row


def _kind(text: str) -> TurnKind.ValueType:
    """Return the turn's kind: a newer version's is kept as its number."""
    if text.isdigit():
        return TurnKind.ValueType(int(text))
    return TurnKind.Value(f"TURN_KIND_{text or 'UNSPECIFIED'}")


async def _is_known(connection: Connection, question: UsageQuestion) -> bool:
    if question.session_id:
        statement, thing = KNOWN_SESSION, question.session_id
    elif question.turn_id:
        statement, thing = KNOWN_TURN, question.turn_id
    else:
        return True
    return bool(await connection.fetch(statement, thing, question.tenant, question.user_id))
