"""Ids that name their shard, and that a retried request arrives at again."""

import base64
import hashlib
import hmac
import re
import zlib
from collections.abc import Iterable

from maieutic.bus.v1.bus_pb2 import RunTurn
from services.session.errors import InvalidId

SHARDS = 256
FAMILY_LENGTH = 24
_PART_BYTES = 18
_ID = re.compile(r"[A-Za-z0-9_-]{32,128}")
_MESSAGE_ID = re.compile(r"[A-Za-z0-9_.-]{32,160}")


class Ids:
    """Derives ids from a secret key, so that nobody can guess or plant one."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def session(self, tenant: str, user: str, request_id: str) -> str:
        """Return the id of the session that this request creates: 48 characters."""
        who = (tenant, user, request_id)
        return self._part("family", *who) + self._part("session", *who)

    def standing(self, tenant: str, user: str, document_set: str, generation: int) -> str:
        """Return the id of the user's session over a document set, the first or a later one."""
        who = (tenant, user, document_set, str(generation))
        return self._part("standing family", *who) + self._part("standing session", *who)

    def branch(self, session_id: str, request_id: str) -> str:
        """Return the id of the branch that this request makes, of its parent's family."""
        return family_of(session_id) + self._part("branch", session_id, request_id)

    def note(self, session_id: str, request_id: str) -> str:
        """Return the id of the note that this request adds, of its session's family."""
        return family_of(session_id) + self._part("note", session_id, request_id)

    def bookmark(self, session_id: str, request_id: str) -> str:
        """Return the id of the bookmark that this request adds, of its session's family."""
        return family_of(session_id) + self._part("bookmark", session_id, request_id)

    def turn(self, session_id: str, request_id: str) -> str:
        """Return the id of the turn that this request begins: 48 characters, its session's family.

        One more request id gives one more turn; the same request id gives the same turn.
        """
        return family_of(session_id) + self._part("turn", session_id, request_id)

    def analysis(self, turn_id: str) -> str:
        """Return the id of the analysis beside a turn, of the same family."""
        return family_of(turn_id) + self._part("analysis", turn_id)

    def handed_on(self, turn_id: str, kind: str) -> str:
        """Return the id of what a turn hands on to another one, of each kind one."""
        return family_of(turn_id) + self._part("handed on", turn_id, kind)

    def _part(self, *words: str) -> str:
        text = "\x00".join(words).encode()
        digest = hmac.new(self._key, text, hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest[:_PART_BYTES]).decode()


def document_set_id(document_ids: Iterable[str]) -> str:
    """Return the name of a set of documents, in whatever order they come."""
    digest = hashlib.sha256("\n".join(sorted(set(document_ids))).encode()).digest()
    return base64.urlsafe_b64encode(digest[:_PART_BYTES]).decode()


def derived(of: str, *unguessable: str) -> str:
    """Return the id of what belongs to *of*, of its family; the same for the same parts."""
    digest = hashlib.sha256("\n".join(unguessable).encode()).digest()
    return family_of(of) + base64.urlsafe_b64encode(digest[:_PART_BYTES]).decode()


def family_of(any_id: str) -> str:
    """Return the part that a session, its branches and its turns have in common."""
    return any_id[:FAMILY_LENGTH]


def shard_of(any_id: str) -> int:
    """Return the shard, 0 to 255, that holds everything of this id's family."""
    return zlib.crc32(family_of(any_id).encode()) % SHARDS


def checked(field: str, value: str) -> str:
    """Return *value* if it has the form of an id; raises InvalidId naming *field*."""
    if _ID.fullmatch(value) is None:
        problem = "must be an id as this service gave it: 32 to 128 of A-Z a-z 0-9 _ -"
        raise InvalidId(field, problem)
    return value


def checked_all(field: str, values: Iterable[str]) -> None:
    """Raise InvalidId naming *field* unless each value has the form of an id."""
    for value in values:
        checked(field, value)


def check_jobs(field: str, jobs: Iterable[RunTurn]) -> None:
    """Raise InvalidId, naming it within *field*, unless each job's ids have the form of ids."""
    for job in jobs:
        checked(f"{field}.turn_id", job.turn_id)
        checked(f"{field}.message.session_id", job.message.session_id)
        if job.predecessor_turn_id:
            checked(f"{field}.predecessor_turn_id", job.predecessor_turn_id)


def checked_message(value: str) -> str:
    """Return *value* if it has the form of a message's id; raises InvalidId."""
    if _MESSAGE_ID.fullmatch(value) is None:
        problem = "must be a message's id as ListMessages gives it: A-Z a-z 0-9 _ - ."
        raise InvalidId("message_id", problem)
    return value
