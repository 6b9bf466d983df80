"""What the archive decides, without a database: which facts become which rows.

A fact is applied to what the archive knows already. The first terminal outcome of a turn that is
committed wins and never changes, the highest revision of a session wins, and a deleted session
stays deleted: its facts change nothing.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from maieutic.bus.v1.bus_pb2 import RunTurn, TurnFinished
from maieutic.v1.turn_service_pb2 import TURN_STATE_ROLLED_BACK

ACCEPTED = "ACCEPTED"
"""The state of a turn's row until its outcome is known."""
ROLLED_BACK = "ROLLED_BACK"
"""The state of a turn that is as if it had never been asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place in a list that is sorted by time and id."""

    time: datetime
    id: str


# Rows are tuples, in the order of their columns, because that is what a database driver takes.


class SessionRow(NamedTuple):
    """A session, or its tombstone if `delete_time` is set."""

    session_id: str
    tenant: str
    user_id: str
    title: str
    mode: str
    revision: int
    message_count: int
    parent_session_id: str
    create_time: datetime
    last_used_time: datetime | None
    delete_time: datetime | None
    record: bytes


class TurnRow(NamedTuple):
    """A turn; `finished` and what follows from it are set once it has an outcome."""

    turn_id: str
    session_id: str
    tenant: str
    user_id: str
    request_id: str
    predecessor_turn_id: str
    lane: str
    state: str
    reason: str
    explanation: str
    attempts: int
    create_time: datetime
    start_time: datetime | None
    finish_time: datetime | None
    job: bytes
    finished: bytes | None


class MessageRow(NamedTuple):
    """A message; its position is None while it is not part of the conversation."""

    message_id: str
    session_id: str
    turn_id: str
    position: int | None
    author: str
    text: str
    create_time: datetime | None
    citations: str
    record: bytes


class AnnotationsRow(NamedTuple):
    """The notes and bookmarks of a session: those with the highest revision stay."""

    session_id: str
    revision: int
    record: bytes


class UsageRow(NamedTuple):
    """What one step of a turn consumed."""

    turn_id: str
    step_no: int
    step: str
    model: str
    tenant: str
    user_id: str
    session_id: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    duration_ms: int
    finish_time: datetime | None
    cache_write_tokens: int
    cost_micros: int | None
    """In millionths of the currency's unit; None if it is unknown."""
    currency: str
    """Empty if the cost is unknown."""
    usage_id: str
    """What has the same one is the same; empty if a worker of the version before told it."""
    kind: str
    """Of the turn; empty if a worker of the version before told it."""


class EventRow(NamedTuple):
    """That something was archived; the same fact has the same key."""

    event_key: str
    kind: str
    tenant: str
    user_id: str
    session_id: str
    turn_id: str
    detail: str
    event_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One message from the bus, as the rows that it asks for."""

    session: SessionRow
    event: EventRow
    turn: TurnRow | None = None
    messages: tuple[MessageRow, ...] = ()
    usage: tuple[UsageRow, ...] = ()
    annotations: AnnotationsRow | None = None
    finished: TurnFinished | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionState:
    """What the archive holds of a session."""

    revision: int
    deleted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the archive held before a batch (its sessions included in the batch's own rows)."""

    sessions: Mapping[str, SessionState]
    finished: Mapping[str, TurnFinished]
    """The outcomes that are committed already, of turns in the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What the archive holds after a batch was committed, of what the batch was about.

    Nothing of deleted sessions is in it.
    """

    finished: tuple[TurnFinished, ...] = ()
    """For each finished turn the outcome in its row, whoever sent it."""
    revisions: Mapping[str, int] = field(default_factory=dict)
    """The archived revision of each session."""
    annotated: Mapping[str, int] = field(default_factory=dict)
    """The revision up to which each session's notes and bookmarks are archived."""
    accepted: tuple[str, ...] = ()
    """Turns whose acceptance the archive holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The rows that a batch adds, none twice, and what may be said once they are committed."""

    turns: tuple[TurnRow, ...]
    messages: tuple[MessageRow, ...]
    withdrawn: tuple[tuple[str, str], ...]
    """Turn and session of the turns whose messages are no part of the conversation any more."""
    artifacts: tuple[tuple[str, str], ...]
    """Artifact and turn of the files that outcomes name."""
    usage: tuple[UsageRow, ...]
    annotations: tuple[AnnotationsRow, ...]
    events: tuple[EventRow, ...]
    deleted: tuple[str, ...]
    """Sessions whose turns and messages go."""
    applied: Applied


def session_rows(facts: Iterable[Fact]) -> list[SessionRow]:
    """Return one row for each session: its tombstone, or else its highest revision.

    They are in order of their ids, so that two writers lock them in the same order.
    """
    rows: dict[str, SessionRow] = {}
    for row in (fact.session for fact in facts):
        known = rows.get(row.session_id)
        if known is None or _replaces(row, known):
            rows[row.session_id] = row
    return [rows[session_id] for session_id in sorted(rows)]


def plan(facts: Sequence[Fact], known: Known) -> Plan:
    """Decide what a batch writes, in the order of its facts."""
    living = [fact for fact in facts if not known.sessions[fact.session.session_id].deleted]
    deletions = [fact for fact in facts if fact.session.delete_time is not None]
    first = _first_outcomes(living, known)
    news = [fact for fact in living if _is_news(fact, first)]
    rows = _turn_rows(fact.turn for fact in news if fact.turn)
    annotations = _annotations_rows(f.annotations for f in news if f.annotations)
    return Plan(
        turns=tuple(rows.values()),
        messages=tuple(_message_rows(row for fact in news for row in fact.messages).values()),
        withdrawn=tuple(
            (row.turn_id, row.session_id) for row in rows.values() if row.state == ROLLED_BACK
        ),
        artifacts=tuple(pair for f in news if f.finished for pair in named_artifacts(f.finished)),
        usage=_usage_rows(facts, news, first),
        annotations=tuple(annotations.values()),
        events=tuple({fact.event.event_key: fact.event for fact in [*news, *deletions]}.values()),
        deleted=tuple(sorted({fact.session.session_id for fact in deletions})),
        applied=Applied(
            finished=tuple(first.values()),
            revisions={
                fact.session.session_id: known.sessions[fact.session.session_id].revision
                for fact in living
            },
            annotated={row.session_id: row.revision for row in annotations.values()},
            accepted=tuple({f.turn.turn_id: None for f in living if f.turn and not f.finished}),
        ),
    )


def named_artifacts(finished: TurnFinished) -> list[tuple[str, str]]:
    """Return artifact and turn of the files that an outcome names; rolled back, it names none."""
    outcome, turn_id = finished.outcome, finished.job.turn_id
    if outcome.state == TURN_STATE_ROLLED_BACK:
        return []
    return [(one.artifact_id, turn_id) for one in outcome.artifacts]


def joined(parts: Collection[Applied]) -> Applied:
    """Return what batches that were committed one by one amount to."""
    return Applied(
        finished=tuple({f.job.turn_id: f for part in parts for f in part.finished}.values()),
        revisions={
            session_id: revision
            for part in parts
            for session_id, revision in part.revisions.items()
        },
        annotated={
            session_id: revision
            for part in parts
            for session_id, revision in part.annotated.items()
        },
        accepted=tuple({turn_id: None for part in parts for turn_id in part.accepted}),
    )


def in_acceptance_order(jobs: Sequence[RunTurn]) -> list[RunTurn]:
    """Order a session's jobs, given roughly by age: each after its predecessor.

    The time alone is no proof, because the archive may hear of two turns in either order.
    """
    waiting = {job.turn_id: job for job in jobs}
    ordered: list[RunTurn] = []
    for job in jobs:
        chain = []
        link = waiting.pop(job.turn_id, None)
        while link is not None:
            chain.append(link)
            link = waiting.pop(link.predecessor_turn_id, None)
        ordered.extend(reversed(chain))
    return ordered


def _replaces(row: SessionRow, known: SessionRow) -> bool:
    if known.delete_time is not None:
        return False
    return row.delete_time is not None or row.revision > known.revision


def _first_outcomes(facts: Iterable[Fact], known: Known) -> dict[str, TurnFinished]:
    """Return for each finished turn the outcome that wins: the archived one, else the first."""
    first: dict[str, TurnFinished] = {}
    for fact in facts:
        if fact.turn and fact.finished:
            turn_id = fact.turn.turn_id
            first.setdefault(turn_id, known.finished.get(turn_id, fact.finished))
    return first


def _is_news(fact: Fact, first: Mapping[str, TurnFinished]) -> bool:
    """Whether the fact is not an outcome that came too late."""
    if fact.turn is None or fact.finished is None:
        return fact.session.delete_time is None
    return first[fact.turn.turn_id] is fact.finished


def _usage_rows(
    facts: Iterable[Fact], news: Iterable[Fact], first: Mapping[str, TurnFinished]
) -> tuple[UsageRow, ...]:
    """Return what was consumed: also for an outcome that came too late, or a deleted session.

    Of those, what the outcome that won tells was counted with it, maybe by a version that did not
    keep ids.
    """
    told = {
        (turn_id, usage.usage_id)
        for turn_id, finished in first.items()
        for usage in finished.outcome.usage
    }
    late = [
        row
        for fact in facts
        for row in fact.usage
        if row.usage_id and (row.turn_id, row.usage_id) not in told
    ]
    rows = [*(row for fact in news for row in fact.usage), *late]
    return tuple({(row.turn_id, row.usage_id or row.step_no): row for row in rows}.values())


def _turn_rows(rows: Iterable[TurnRow]) -> dict[str, TurnRow]:
    """Return one row for each turn, in the order of first mention; an outcome replaces none."""
    kept: dict[str, TurnRow] = {}
    for row in rows:
        if row.turn_id not in kept or row.finished is not None:
            kept[row.turn_id] = row
    return kept


def _annotations_rows(rows: Iterable[AnnotationsRow]) -> dict[str, AnnotationsRow]:
    """Return one row for each session, the one with the highest revision."""
    kept: dict[str, AnnotationsRow] = {}
    for row in rows:
        if row.session_id not in kept or row.revision > kept[row.session_id].revision:
            kept[row.session_id] = row
    return kept


def _message_rows(rows: Iterable[MessageRow]) -> dict[str, MessageRow]:
    """Return one row for each message, the one with a position if there is one."""
    kept: dict[str, MessageRow] = {}
    for row in rows:
        if row.message_id not in kept or row.position is not None:
            kept[row.message_id] = row
    return kept
