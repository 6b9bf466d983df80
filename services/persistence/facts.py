"""From messages on the bus to facts: bytes in, rows out."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TypeVar

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from maieutic.bus.v1.bus_pb2 import (
    RunTurn,
    SessionChanged,
    SessionDeleted,
    TurnAccepted,
    TurnFinished,
    TurnUsed,
)
from maieutic.v1 import message_pb2, session_service_pb2, turn_service_pb2
from services.persistence.errors import Unreadable
from services.persistence.model import (
    ACCEPTED,
    AnnotationsRow,
    EventRow,
    Fact,
    MessageRow,
    SessionRow,
    TurnRow,
    UsageRow,
)

TURN_ACCEPTED = "turn.accepted"
TURN_FINISHED = "turn.finished"
TURN_USED = "turn.used"
SESSION_CHANGED = "session.changed"
SESSION_DELETED = "session.deleted"

VISIBLE_NUL = "\u2400"
CURRENCY = re.compile("[A-Z]{3}")
UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)
GOING_ON = frozenset(
    {
        turn_service_pb2.TURN_STATE_UNSPECIFIED,
        turn_service_pb2.TURN_STATE_WAITING,
        turn_service_pb2.TURN_STATE_QUEUED,
        turn_service_pb2.TURN_STATE_RUNNING,
        turn_service_pb2.TURN_STATE_CANCELLING,
    }
)
"""The states that are no end. All others are, those of a newer version, too."""

M = TypeVar("M", bound=Message)


def read_fact(routing_key: str, body: bytes) -> Fact:
    """Return what a message from the bus says.

    Raises Unreadable if it is of no known kind, cannot be parsed, names nothing, or carries an
    impossible time.
    """
    if (reader := READERS.get(routing_key)) is None:
        raise Unreadable(f"no message is known by the routing key {routing_key!r}")
    try:
        return reader(body)
    except DecodeError as error:
        raise Unreadable(f"{routing_key}: not the expected protobuf: {error}") from error
    except (ValueError, OverflowError) as error:
        raise Unreadable(f"{routing_key}: {error}") from error


def visible(text: str) -> str:
    """Return the text as PostgreSQL can hold it: a NUL becomes its printable picture.

    Only columns for people are changed so; the protobuf beside them keeps the text as it came.
    """
    return text.replace("\0", VISIBLE_NUL)


def time_of(message: Message, field: str) -> datetime | None:
    """Return a Timestamp field in UTC, or None if it is unset; ValueError if it is impossible."""
    if not message.HasField(field):
        return None
    timestamp: Timestamp = getattr(message, field)
    return timestamp.ToDatetime(UTC)


def enum_name(enum: EnumDescriptor, value: int) -> str:
    """Return a value's name without its enum's prefix; a newer version's value as its number."""
    if (known := enum.values_by_number.get(value)) is None:
        return str(value)
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    name: str = known.name
    return name.removeprefix(prefix)


def _accepted(body: bytes) -> Fact:
    job = TurnAccepted.FromString(body).job
    session = _session_row(job.tenant, job.user_id, _session_of(job))
    turn = _turn_row(job, session)
    return Fact(
        session=session,
        turn=turn,
        messages=_message_rows([job.message], turn) if job.HasField("message") else (),
        event=_turn_event(TURN_ACCEPTED, turn, ACCEPTED, turn.create_time),
    )


def _finished(body: bytes) -> Fact:
    finished = TurnFinished.FromString(body)
    job, outcome = finished.job, finished.outcome
    if outcome.state in GOING_ON:
        raise Unreadable(f"the outcome's state is not terminal: {outcome.state}")
    held = finished.session if finished.HasField("session") else _session_of(job)
    session = _session_row(job.tenant, job.user_id, held)
    turn = _turn_row(job, session)._replace(
        state=enum_name(turn_service_pb2.TurnState.DESCRIPTOR, outcome.state),
        reason=visible(outcome.reason),
        explanation=visible(outcome.explanation),
        attempts=outcome.attempts,
        start_time=time_of(finished, "start_time"),
        finish_time=time_of(outcome, "finish_time"),
        finished=body,
    )
    question = [job.message] if job.HasField("message") else []
    answer = [finished.answer] if finished.HasField("answer") else []
    return Fact(
        session=session,
        turn=turn,
        messages=_message_rows([*question, *answer], turn),
        usage=_usage_rows(
            outcome.usage,
            session,
            turn.turn_id,
            when=turn.finish_time,
            kind=job.kind or turn_service_pb2.TURN_KIND_ASK,
        ),
        event=_turn_event(TURN_FINISHED, turn, turn.state, turn.finish_time),
        finished=finished,
    )


def _used(body: bytes) -> Fact:
    used = TurnUsed.FromString(body)
    session = _session_row(used.tenant, used.user_id, used.session)
    turn_id, claim_id = _id("turn_id", used.turn_id), _id("claim_id", used.claim_id)
    if not all(step.usage_id for step in used.usage):
        raise Unreadable("usage_id is missing")
    when = time_of(used, "time")
    return Fact(
        session=session,
        usage=_usage_rows(used.usage, session, turn_id, when=when, kind=used.kind),
        event=EventRow(
            event_key=f"{TURN_USED}:{turn_id}:{claim_id}",
            kind=TURN_USED,
            tenant=session.tenant,
            user_id=session.user_id,
            session_id=session.session_id,
            turn_id=turn_id,
            detail="",
            event_time=when,
        ),
    )


def _changed(body: bytes) -> Fact:
    changed = SessionChanged.FromString(body)
    session = _session_row(changed.tenant, changed.session.user_id, changed.session)
    return Fact(
        session=session,
        annotations=_annotations_row(changed, session),
        event=EventRow(
            event_key=f"{SESSION_CHANGED}:{session.session_id}:{session.revision}",
            kind=SESSION_CHANGED,
            tenant=session.tenant,
            user_id=session.user_id,
            session_id=session.session_id,
            turn_id="",
            detail=f"revision {session.revision}",
            event_time=session.last_used_time,
        ),
    )


def _deleted(body: bytes) -> Fact:
    deleted = SessionDeleted.FromString(body)
    when = time_of(deleted, "delete_time") or UNKNOWN_TIME
    # Whose it was is kept, so that only its owner is told that it is gone.
    bare = session_service_pb2.Session(session_id=deleted.session_id, user_id=deleted.user_id)
    session = _session_row(deleted.tenant, deleted.user_id, bare)
    return Fact(
        session=session._replace(mode="", delete_time=when),
        event=EventRow(
            event_key=f"{SESSION_DELETED}:{session.session_id}",
            kind=SESSION_DELETED,
            tenant=session.tenant,
            user_id=session.user_id,
            session_id=session.session_id,
            turn_id="",
            detail="",
            event_time=when,
        ),
    )


READERS: Mapping[str, Callable[[bytes], Fact]] = MappingProxyType(
    {
        TURN_ACCEPTED: _accepted,
        TURN_FINISHED: _finished,
        TURN_USED: _used,
        SESSION_CHANGED: _changed,
        SESSION_DELETED: _deleted,
    }
)


def _session_of(job: RunTurn) -> session_service_pb2.Session:
    """Return the job's session; without one, a bare one at revision 0, which any other beats."""
    if job.HasField("session"):
        return job.session
    return session_service_pb2.Session(
        session_id=job.message.session_id,
        user_id=job.user_id,
        create_time=job.create_time,
    )


def _session_row(tenant: str, user_id: str, session: session_service_pb2.Session) -> SessionRow:
    owner = user_id or session.user_id
    return SessionRow(
        session_id=_id("session_id", session.session_id),
        tenant=_key("tenant", tenant),
        user_id=_key("user_id", owner),
        title=visible(session.title),
        mode=enum_name(session_service_pb2.SessionMode.DESCRIPTOR, session.mode),
        revision=session.revision,
        message_count=session.message_count,
        parent_session_id=visible(session.parent_session_id),
        create_time=time_of(session, "create_time") or UNKNOWN_TIME,
        last_used_time=time_of(session, "last_used_time"),
        delete_time=None,
        record=session.SerializeToString(),
    )


def _annotations_row(changed: SessionChanged, session: SessionRow) -> AnnotationsRow | None:
    if not changed.HasField("annotations"):
        return None
    return AnnotationsRow(
        session_id=session.session_id,
        revision=changed.annotations.revision,
        record=changed.annotations.SerializeToString(),
    )


def _turn_row(job: RunTurn, session: SessionRow) -> TurnRow:
    return TurnRow(
        turn_id=_id("turn_id", job.turn_id),
        session_id=session.session_id,
        tenant=session.tenant,
        user_id=session.user_id,
        request_id=visible(job.request_id),
        predecessor_turn_id=_key("predecessor_turn_id", job.predecessor_turn_id),
        lane=visible(job.lane),
        state=ACCEPTED,
        reason="",
        explanation="",
        attempts=0,
        create_time=time_of(job, "create_time") or UNKNOWN_TIME,
        start_time=None,
        finish_time=None,
        job=job.SerializeToString(),
        finished=None,
    )


def carried_rows(messages: Iterable[message_pb2.Message]) -> tuple[MessageRow, ...]:
    """Return the rows of messages that no turn of their session has made."""
    return tuple(
        _message_row(message, _id("session_id", message.session_id), "") for message in messages
    )


def _message_rows(messages: Iterable[message_pb2.Message], turn: TurnRow) -> tuple[MessageRow, ...]:
    return tuple(_message_row(message, turn.session_id, turn.turn_id) for message in messages)


def _message_row(message: message_pb2.Message, session_id: str, turn_id: str) -> MessageRow:
    return MessageRow(
        message_id=_id("message_id", message.message_id),
        session_id=session_id,
        turn_id=turn_id,
        position=message.position or None,
        author=enum_name(message_pb2.Author.DESCRIPTOR, message.author),
        text=visible(message.text),
        create_time=time_of(message, "create_time"),
        citations=json.dumps([_citation(citation) for citation in message.citations]),
        record=message.SerializeToString(),
    )


def _citation(citation: message_pb2.Citation) -> dict[str, Any]:
    return {
        "number": citation.number,
        "document_id": visible(citation.document_id),
        "document_name": visible(citation.document_name),
        "chunk_id": visible(citation.chunk_id),
        "chunk_position": citation.chunk_position,
        "quote": visible(citation.quote),
        # JSON has no NaN and no infinity.
        "score": citation.score if math.isfinite(citation.score) else None,
    }


def _usage_rows(
    usage: Iterable[turn_service_pb2.Usage],
    session: SessionRow,
    turn_id: str,
    *,
    when: datetime | None,
    kind: turn_service_pb2.TurnKind.ValueType,
) -> tuple[UsageRow, ...]:
    of_turn = enum_name(turn_service_pb2.TurnKind.DESCRIPTOR, kind) if kind else ""
    return tuple(
        UsageRow(
            turn_id=turn_id,
            step_no=number,
            step=visible(step.step),
            model=visible(step.model),
            tenant=session.tenant,
            user_id=session.user_id,
            session_id=session.session_id,
            input_tokens=step.input_tokens,
            output_tokens=step.output_tokens,
            cached_tokens=step.cached_tokens,
            duration_ms=step.duration.ToMilliseconds(),
            finish_time=when,
            cache_write_tokens=step.cache_write_tokens,
            cost_micros=step.cost_micros if _is_priced(step) else None,
            currency=step.currency if _is_priced(step) else "",
            usage_id=_key("usage_id", step.usage_id),
            kind=of_turn,
        )
        for number, step in enumerate(usage, start=1)
    )


def _is_priced(step: turn_service_pb2.Usage) -> bool:
    """Whether the step's cost is known: an amount of no currency is none."""
    return step.HasField("cost_micros") and CURRENCY.fullmatch(step.currency) is not None


def _turn_event(kind: str, turn: TurnRow, detail: str, when: datetime | None) -> EventRow:
    return EventRow(
        event_key=f"{kind}:{turn.turn_id}",
        kind=kind,
        tenant=turn.tenant,
        user_id=turn.user_id,
        session_id=turn.session_id,
        turn_id=turn.turn_id,
        detail=detail,
        event_time=when,
    )


def _id(field: str, value: str) -> str:
    if not value:
        raise Unreadable(f"{field} is missing")
    return _key(field, value)


def _key(field: str, value: str) -> str:
    # Not made visible as text is: two keys must never become one.
    if "\0" in value:
        raise Unreadable(f"{field} holds a NUL")
    return value
