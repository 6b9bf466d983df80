"""What a transaction watches and reads: the draft on which it decides."""

from collections.abc import Mapping, Sequence
from typing import Any

from maieutic.bus.v1.bus_pb2 import SessionAnnotations
from maieutic.session.v1.record_pb2 import Operation, SessionRecord, TurnRecord
from maieutic.v1.message_pb2 import Message
from maieutic.v1.turn_service_pb2 import TurnFrame
from services.session.adapters import keys
from services.session.adapters.codec import Corrupt
from services.session.adapters.quarantine import put_aside
from services.session.adapters.replies import decoded, is_wrong_type, milliseconds, pairs, tails
from services.session.adapters.transaction import Transaction
from services.session.errors import ErrorType
from services.session.model import Draft, EventId
from services.session.observing import seen
from services.session.ports import Damage, Reads


async def read_draft(
    transaction: Transaction, session_id: str, reads: Reads, others: Sequence[str] = ()
) -> tuple[Draft, dict[str, Operation | None]]:
    """Watch and read in one round trip, with one more if turns wait in line; raises Corrupt.

    Returns the draft, and the markers of *others*, the ids of requests that are to go along.
    """
    record = keys.record_key(session_id)
    turn_keys = [keys.turn_key(turn) for turn in reads.turns]
    commands: list[tuple[str, ...]] = [("TIME",), ("GET", record)]
    commands += [("GET", key) for key in turn_keys]
    if reads.tails:
        commands += [("XREVRANGE", keys.events_key(t), "+", "-", "COUNT", "1") for t in reads.turns]
    if reads.window:
        commands.append(("HGETALL", keys.messages_key(session_id)))
    watched, marker = [record, *turn_keys], keys.operation_key(session_id, reads.operation)
    if reads.annotations:
        # Written with the session's record only, whose watch is enough.
        commands.append(("GET", keys.annotations_key(session_id)))
    if reads.operation:
        commands.append(("GET", marker))
        watched.append(marker)
    marker_keys = [keys.operation_key(session_id, other) for other in others]
    commands += [("GET", key) for key in marker_keys]
    replies = await transaction.read([*watched, *marker_keys], commands)
    markers = [replies.pop() for _ in marker_keys][::-1]
    operation = replies.pop() if reads.operation else None
    annotations = replies.pop() if reads.annotations else None
    count = len(reads.turns)
    draft = Draft(session_id=session_id, now_ms=milliseconds(replies[0]))
    draft.session = await _kept(transaction, SessionRecord, record, replies[1], draft)
    draft.operation = await _kept(transaction, Operation, marker, operation, draft)
    await _decode_turns(transaction, draft, reads.turns, replies[2 : 2 + count])
    if reads.tails:
        draft.tails = await _tails(transaction, draft, reads.turns, replies[2 + count :][:count])
    if reads.window:
        await _decode_window(transaction, draft, replies[-1])
    if reads.annotations:
        await _decode_annotations(transaction, draft, annotations)
    await _read_line(transaction, draft, running=reads.running)
    return draft, {
        other: await _kept(transaction, Operation, key, raw, draft)
        for other, key, raw in zip(others, marker_keys, markers, strict=True)
    }


async def _decode_turns(
    transaction: Transaction, draft: Draft, turn_ids: Sequence[str], raws: Sequence[Any]
) -> None:
    for turn_id, raw in zip(turn_ids, raws, strict=True):
        key = keys.turn_key(turn_id)
        turn = await _kept(transaction, TurnRecord, key, raw, draft)
        if turn is not None:
            draft.turns[turn_id] = turn


async def _tails(
    transaction: Transaction, draft: Draft, turn_ids: Sequence[str], replies: Sequence[Any]
) -> Mapping[str, EventId]:
    for turn_id, reply in zip(turn_ids, replies, strict=True):
        if is_wrong_type(reply):
            error = Corrupt(TurnFrame, Damage.WRONG_TYPE)
            await _put_aside(transaction, keys.events_key(turn_id), draft, error)
            raise error
    return tails(turn_ids, replies)


async def _decode_window(transaction: Transaction, draft: Draft, reply: Any) -> None:
    if draft.session is None:
        return
    if is_wrong_type(reply):
        error = Corrupt(Message, Damage.WRONG_TYPE)
        await _put_aside(transaction, keys.messages_key(draft.session_id), draft, error)
        raise error
    raws = pairs(reply)
    for entry in draft.session.window:
        raw = raws.get(entry.message_id.encode())
        if raw is None:
            # A part has expired or was evicted: the whole session counts as gone.
            draft.session = None
            draft.messages.clear()
            return
        key = keys.messages_key(draft.session_id)
        message = await _kept(transaction, Message, key, raw, draft)
        if message is not None:
            draft.messages[entry.message_id] = message


async def _decode_annotations(transaction: Transaction, draft: Draft, raw: bytes | None) -> None:
    if draft.session is None:
        return
    key = keys.annotations_key(draft.session_id)
    found = await _kept(transaction, SessionAnnotations, key, raw, draft)
    if found is None:
        found = SessionAnnotations()
    if found.revision != draft.session.annotations_revision:
        # As with a message that is missing: the archive has the whole session.
        draft.session = None
        draft.messages.clear()
        return
    draft.annotations = found


async def _read_line(transaction: Transaction, draft: Draft, *, running: bool) -> None:
    """Read the turns in line, too: whatever ends the one before promotes the first of them."""
    waiting = draft.session.waiting_turn_ids if draft.session else ()
    beside = draft.session.side_turn_ids if draft.session and running else ()
    active = draft.session.session.active_turn_id if draft.session and running else ""
    wanted = [turn for turn in (active, *waiting, *beside) if turn]
    missing = [turn for turn in wanted if turn not in draft.turns]
    if not missing:
        return
    turn_keys = [keys.turn_key(turn) for turn in missing]
    raws = await transaction.read(turn_keys, [("GET", key) for key in turn_keys])
    await _decode_turns(transaction, draft, missing, raws)
    present = [turn for turn in waiting if turn in draft.turns]
    draft.record.ClearField("waiting_turn_ids")
    draft.record.waiting_turn_ids.extend(present)


async def _kept(
    transaction: Transaction, kind: type[Any], key: str, raw: bytes | None, draft: Draft
) -> Any:
    if raw is None:
        return None
    try:
        return decoded(kind, raw)
    except Corrupt as error:
        await _put_aside(transaction, key, draft, error)
        raise


async def _put_aside(transaction: Transaction, key: str, draft: Draft, error: Corrupt) -> None:
    seen(ErrorType.SERIALIZATION, str(error))
    await transaction.commit(put_aside(key, error.damage, draft.now_ms))
