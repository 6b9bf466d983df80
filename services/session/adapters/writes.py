"""A draft as the commands of its MULTI."""

from maieutic.bus.v1.bus_pb2 import SessionChanged, SessionDeleted
from maieutic.v1.session_service_pb2 import SessionFrame
from services.session.adapters import keys
from services.session.adapters.census import entry_of, no_entry_of
from services.session.adapters.codec import encode
from services.session.adapters.link import Command
from services.session.ids import shard_of
from services.session.model import (
    SESSION_LOG_FRAMES,
    STUB,
    Draft,
    Fact,
    Timing,
    settled,
    timestamp,
)

PARTS_OUTLIVE_MS = 60_000
"""The record goes first, so that a reader never finds a record without its parts."""


def commands_of(draft: Draft, timing: Timing) -> list[Command]:
    """Return everything that the draft writes, in one slot."""
    shard = shard_of(draft.session_id)
    commands = _parts(draft)
    # Logs come first: sessions and turns arm the expiry of theirs, or remove it.
    if draft.log_begun:
        begun = SessionFrame().SerializeToString()
        commands.append(("XADD", keys.session_events_key(draft.session_id), "*", "f", begun))
    if draft.happened:
        commands += _happened(draft)
    if draft.session_changed:
        commands += _session(draft, timing)
    if draft.carried_out is not None:
        request_id, operation = draft.carried_out
        name = keys.operation_key(draft.session_id, request_id)
        commands.append(("SET", name, encode(operation), "PX", timing.stub))
    commands += _events(draft)
    commands += _turns(draft, timing)
    for turn_id, at_ms in draft.due.items():
        due = keys.due_key(shard)
        commands.append(("ZREM", due, turn_id) if at_ms is None else ("ZADD", due, at_ms, turn_id))
    for fact in draft.out:
        body = fact.SerializeToString()
        commands.append(("XADD", keys.out_key(shard), "*", "k", routing_key(fact), "b", body))
    return commands


def routing_key(fact: Fact) -> str:
    """Return where on the results exchange a fact goes."""
    if isinstance(fact, SessionChanged):
        return "session.changed"
    return "session.deleted" if isinstance(fact, SessionDeleted) else "turn.accepted"


def _parts(draft: Draft) -> list[Command]:
    """Return what keeps the session's messages and annotations."""
    commands: list[Command] = []
    for message_id, message in draft.messages_put.items():
        name = keys.messages_key(draft.session_id)
        commands.append(("HSET", name, message_id, encode(message)))
    if draft.messages_dropped:
        commands.append(("HDEL", keys.messages_key(draft.session_id), *draft.messages_dropped))
    if draft.annotations_changed:
        name = keys.annotations_key(draft.session_id)
        commands.append(("SET", name, encode(draft.kept_annotations)))
    return commands


def _session(draft: Draft, timing: Timing) -> list[Command]:
    record, name = draft.record, keys.record_key(draft.session_id)
    parts = [keys.messages_key(draft.session_id)]
    if record.tombstone:
        notes = keys.annotations_key(draft.session_id)
        return [
            ("SET", name, encode(record), "PX", timing.stub),
            ("DEL", *parts, notes, keys.session_events_key(draft.session_id)),
            ("PUBLISH", keys.session_wake_channel(draft.session_id), b""),
            no_entry_of(draft.session_id),
        ]
    if record.annotations_revision:
        parts.append(keys.annotations_key(draft.session_id))
    if record.logged:
        parts.append(keys.session_events_key(draft.session_id))
    expire_ms = draft.now_ms + timing.idle
    entry = entry_of(record, expire_ms)
    if not settled(record):
        record.session.ClearField("expire_time")
        return [("SET", name, encode(record)), entry, *(("PERSIST", part) for part in parts)]
    record.session.expire_time.CopyFrom(timestamp(expire_ms))
    return [
        ("SET", name, encode(record), "PX", timing.idle),
        entry,
        *(("PEXPIRE", part, timing.idle + PARTS_OUTLIVE_MS) for part in parts),
    ]


def _happened(draft: Draft) -> list[Command]:
    # A log that is gone begins with its next watcher: until then nobody could tell the gap.
    into = ("XADD", keys.session_events_key(draft.session_id), "NOMKSTREAM")
    commands: list[Command] = [
        (*into, "MAXLEN", "~", SESSION_LOG_FRAMES, "*", "f", frame.SerializeToString())
        for frame in draft.happened
    ]
    return [*commands, ("PUBLISH", keys.session_wake_channel(draft.session_id), b"")]


def _turns(draft: Draft, timing: Timing) -> list[Command]:
    commands: list[Command] = []
    for turn_id in sorted(draft.turns_changed):
        turn, name = draft.turns[turn_id], keys.turn_key(turn_id)
        if turn.phase == STUB:
            commands.append(("SET", name, encode(turn), "PX", timing.stub))
            commands.append(("PEXPIRE", keys.events_key(turn_id), timing.idle + PARTS_OUTLIVE_MS))
        else:
            commands.append(("SET", name, encode(turn)))
    commands += [
        ("DEL", keys.turn_key(turn_id), keys.events_key(turn_id))
        for turn_id in sorted(draft.turns_removed)
    ]
    return commands


def _events(draft: Draft) -> list[Command]:
    commands: list[Command] = []
    for turn_id, at, frame in draft.events:
        entry = f"{at.fence}-{at.seq}"
        body = frame.SerializeToString()
        commands.append(("XADD", keys.events_key(turn_id), entry, "f", body))
    commands += [
        ("PUBLISH", keys.wake_channel(turn_id), b"")
        for turn_id in sorted({turn_id for turn_id, _, _ in draft.events})
    ]
    return commands
