"""Redis keys. The hash tag is the shard, so all of a family shares one slot and one MULTI."""

import hashlib

from services.session.ids import shard_of


def record_key(session_id: str) -> str:
    """Return the key of a session's record."""
    return f"{{{shard_of(session_id)}}}:s:{session_id}:rec"


def messages_key(session_id: str) -> str:
    """Return the key of a session's messages: a hash."""
    return f"{{{shard_of(session_id)}}}:s:{session_id}:msg"


def annotations_key(session_id: str) -> str:
    """Return the key of a session's notes and bookmarks."""
    return f"{{{shard_of(session_id)}}}:s:{session_id}:notes"


def session_events_key(session_id: str) -> str:
    """Return the key of the log of what happens in a session: a stream."""
    return f"{{{shard_of(session_id)}}}:s:{session_id}:ev"


def session_wake_channel(session_id: str) -> str:
    """Return the channel on which a session's watchers are woken."""
    return f"{{{shard_of(session_id)}}}:s:{session_id}:wake"


def operation_key(session_id: str, request_id: str) -> str:
    """Return the key of the marker that a request was carried out in a session."""
    return f"{{{shard_of(session_id)}}}:s:{session_id}:op:{request_id}"


def turn_key(turn_id: str) -> str:
    """Return the key of a turn."""
    return f"{{{shard_of(turn_id)}}}:t:{turn_id}"


def events_key(turn_id: str) -> str:
    """Return the key of a turn's event log: a stream."""
    return f"{turn_key(turn_id)}:ev"


def wake_channel(turn_id: str) -> str:
    """Return the channel on which a turn's watchers are woken."""
    return f"{turn_key(turn_id)}:wake"


def due_key(shard: int) -> str:
    """Return the key of a shard's clock: a sorted set of turns by the time of their next check."""
    return f"{{{shard}}}:due"


def live_key(shard: int) -> str:
    """Return the key of a shard's live sessions: a sorted set by when each expires."""
    return f"{{{shard}}}:live"


def out_key(shard: int) -> str:
    """Return the key of a shard's facts for the archive: a stream."""
    return f"{{{shard}}}:out"


def quarantine_key(shard: int, name: str) -> str:
    """Return where a record in quarantine is, by its name there: in the slot that it was in."""
    return f"{{{shard}}}:q:{name}"


def quarantine_index_key(shard: int) -> str:
    """Return the key of a shard's quarantine: a sorted set of names by when they came."""
    return f"{{{shard}}}:quarantine"


def quarantine_request_key(request_id: str) -> str:
    """Return the key of the marker that a request removed a record from quarantine."""
    return f"q:op:{request_id}"


def replication_key(session_id: str) -> str:
    """Return the key that is written to see how far the replicas of a session's server are."""
    return f"{{{shard_of(session_id)}}}:replicated"


def content_key() -> str:
    """Return the key of the content's name, which goes only with everything else."""
    return "maieutic:content"


def owner_key(owner: str) -> str:
    """Return the key of an owner's list of sessions: a sorted set by creation.

    The owner is hashed, since tenants and users may contain anything.
    """
    return f"u:{hashlib.sha256(owner.encode()).hexdigest()[:40]}:s"
