"""What callers must see: sessions as plain Python, where one call happens after the other."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maieutic.v1 import session_service_pb2 as pb, turn_service_pb2 as turns
from services.session.ids import Ids, document_set_id

IDS = Ids(b"k" * 32)
MOST_WAITING = 2
MAX_ATTEMPTS = 3
ALWAYS_IN_WINDOW = 10
"""A worker is given at least so many messages, and more while they are not archived."""
TAKING_OVER: dict[int, int] = {
    turns.BUSY_POLICY_INTERRUPT: turns.TURN_STATE_INTERRUPTED,
    turns.BUSY_POLICY_ROLLBACK: turns.TURN_STATE_ROLLED_BACK,
}


class Refused(Exception):
    """The call is refused, for a reason that programs can act on; it changes nothing."""

    @property
    def reason(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class AnyOf:
    """One of these is the answer: what a call that was retried is told may come from its replay."""

    answers: tuple[Any, ...]


LATE = AnyOf(("APPLIED", "FENCED"))
"""A retry may come when what was written is archived already, or the turn is with the next."""


@dataclass(frozen=True)
class View:
    """A session as callers see it, apart from times and its revision."""

    session_id: str
    title: str
    mode: int
    metadata: tuple[tuple[str, str], ...]
    documents: tuple[str, ...]
    parent: tuple[str, str]
    ended: bool
    active: str
    message_count: int


@dataclass
class Asked:
    """A turn."""

    text: str
    policy: int
    state: int = turns.TURN_STATE_WAITING
    ending: int = 0
    """How it ends: decided, but not shown yet. The session is busy until it is."""
    attempt: int = 0
    holder: str = ""
    said: str = ""
    answer: str = ""

    @property
    def over(self) -> bool:
        """Whether its outcome is shown."""
        return self.state >= turns.TURN_STATE_COMPLETED

    def held_by(self, claim_id: str) -> bool:
        running = self.state == turns.TURN_STATE_RUNNING and not self.ending
        return running and self.holder == claim_id

    def queue(self) -> None:
        self.state = turns.TURN_STATE_QUEUED

    def stop(self, how: int) -> None:
        self.ending, self.answer, self.holder = how, self.said, ""
        if how == turns.TURN_STATE_ROLLED_BACK:
            self.answer = ""


@dataclass
class Talk:
    """A session with everything in it."""

    session_id: str
    title: str = ""
    mode: int = pb.SESSION_MODE_DIRECT
    metadata: tuple[tuple[str, str], ...] = ()
    documents: tuple[str, ...] = ()
    standing: bool = False
    parent: tuple[str, str] = ("", "")
    revision: int | None = None
    """As it was last seen; None once it has changed since."""
    ended: bool = False
    deleted: bool = False
    away: bool = False
    """It may have left the live store, or a part of it; the next call may bring it back."""
    restored: bool = False
    """It came back: what ends in it is shown once the archive has it."""
    messages: list[tuple[str, str]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    bookmarks: dict[str, tuple[str, str]] = field(default_factory=dict)
    turns: dict[str, Asked] = field(default_factory=dict)
    active: str = ""
    waiting: list[str] = field(default_factory=list)
    done: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Requests that were carried out, by their ids."""

    @property
    def view(self) -> View:
        return View(
            session_id=self.session_id,
            title=self.title,
            mode=self.mode,
            metadata=self.metadata,
            documents=self.documents,
            parent=self.parent,
            ended=self.ended,
            active=self.active,
            message_count=len(self.messages),
        )

    @property
    def ending(self) -> bool:
        return bool(self.active) and bool(self.turns[self.active].ending)

    def shown(self, turn_id: str) -> tuple[int, int, str] | None:
        """Return a turn's state, its place in line and the text of its outcome, if it is there."""
        turn = self.turns.get(turn_id)
        if turn is None or self.deleted:
            return None
        place = self.waiting.index(turn_id) + 1 if turn_id in self.waiting else 0
        return turn.state, place, turn.answer if turn.over else ""

    def shows(self, seen: Mapping[str, tuple[int, int, str] | None]) -> bool:
        """Whether the turns are as they were seen."""
        return all(self.shown(turn_id) == shown for turn_id, shown in seen.items())

    def once(self, request_id: str, request: tuple[Any, ...]) -> bool:
        """Whether the request is carried out now; if it was before, nothing happens."""
        if request_id in self.done:
            if self.done[request_id] != request:
                raise Refused("REQUEST_ID_TAKEN")
            return False
        self.done[request_id] = request
        self.revision = None
        return True

    def start(self, turn_id: str) -> None:
        self.active = turn_id
        self.turns[turn_id].queue()
        self.messages.append((f"{turn_id}.u", self.turns[turn_id].text))

    def show_end(self) -> None:
        """Show how the turn that was active has ended, and start the next."""
        turn_id, turn = self.active, self.turns[self.active]
        turn.state, turn.ending = turn.ending, 0
        if turn.state == turns.TURN_STATE_ROLLED_BACK:
            self.messages.remove((f"{turn_id}.u", turn.text))
        elif turn.answer:
            self.messages.append((f"{turn_id}.a", turn.answer))
        self.active, self.revision = "", None
        if self.waiting:
            self.start(self.waiting.pop(0))

    def make_way(self, policy: int) -> None:
        how = TAKING_OVER[policy]
        if self.waiting and self.turns[self.waiting[0]].policy in TAKING_OVER:
            self.turns[self.waiting.pop(0)].state = how
        running = self.turns[self.active]
        if not running.ending:
            running.stop(how)

    def end_turn(self, turn: Asked, how: int, answer: str) -> None:
        turn.ending, turn.answer = how, answer
        if not self.restored:
            self.show_end()


@dataclass
class World:
    """All sessions of one user. Each call returns what it answers, or raises Refused."""

    tenant: str
    user: str
    talks: dict[str, Talk] = field(default_factory=dict)

    def after(self, name: str, args: Sequence[Any]) -> tuple[Any, "World"]:
        """Return what the call answers, and the world after it."""
        world = World(self.tenant, self.user, dict(self.talks))
        try:
            return getattr(world, name)(*args), world
        except Refused as refused:
            return ("refused", refused.reason), self

    def by_itself(self) -> Iterator["World"]:
        """Yield what may happen without any call, one thing at a time."""
        for talk in list(self.talks.values()):
            if talk.away and not talk.deleted:
                world = World(self.tenant, self.user, dict(self.talks))
                back = world._copied(talk.session_id)
                back.away, back.restored, back.revision = False, True, None
                yield world
            if talk.ending:
                world = World(self.tenant, self.user, dict(self.talks))
                world._copied(talk.session_id).show_end()
                yield world

    @property
    def at_rest(self) -> bool:
        """Whether every end is shown."""
        return not any(talk.ending for talk in self.talks.values())

    def _copied(self, session_id: str) -> Talk:
        self.talks[session_id] = copy.deepcopy(self.talks[session_id])
        return self.talks[session_id]

    def _talk(self, session_id: str) -> Talk:
        if session_id not in self.talks or self.talks[session_id].deleted:
            raise Refused("SESSION_NOT_FOUND")
        return self._copied(session_id)

    def _turn(self, session_id: str, turn_id: str) -> Asked | None:
        """Return the turn, unless it or its session is gone."""
        talk = self.talks.get(session_id)
        return None if talk is None or talk.deleted else self._copied(session_id).turns.get(turn_id)

    def create(self, request_id: str, title: str) -> View:
        session_id = IDS.session(self.tenant, self.user, request_id)
        known = self.talks.setdefault(session_id, Talk(session_id=session_id, title=title))
        if known.deleted:
            raise Refused("SESSION_DELETED")
        known = self._copied(session_id)
        known.once(request_id, ("create", title))
        return known.view

    def get_or_create(self, documents: tuple[str, ...]) -> View:
        set_id, generation = document_set_id(documents), 0
        while True:
            session_id = IDS.standing(self.tenant, self.user, set_id, generation)
            talk = self.talks.setdefault(
                session_id, Talk(session_id=session_id, documents=documents, standing=True)
            )
            if not (talk.ended or talk.deleted):
                return talk.view
            generation += 1

    def get(self, session_id: str) -> View:
        return self._talk(session_id).view

    def all_sessions(self, _order: int, ended: bool) -> frozenset[View]:  # noqa: FBT001 - as the others
        """Return those that are ended, or all."""
        here = (talk for talk in self.talks.values() if not talk.deleted)
        return frozenset(talk.view for talk in here if talk.ended or not ended)

    def update(
        self, session_id: str, request_id: str, expected: int, fields: tuple[tuple[str, Any], ...]
    ) -> View:
        talk, before = self._talk(session_id), self.talks[session_id].revision
        if talk.once(request_id, ("update", expected, fields)):
            if expected not in (0, before):
                raise Refused("REVISION_MISMATCH")
            for name, value in fields:
                if name == "documents" and talk.standing and set(value) != set(talk.documents):
                    raise Refused("DOCUMENT_SET_FIXED")
                setattr(talk, name, value)
        return talk.view

    def end(self, session_id: str) -> View:
        talk = self._talk(session_id)
        if not talk.ended:
            talk.ended, talk.revision = True, None
        return talk.view

    def touch(self, session_id: str) -> View:
        talk = self._talk(session_id)
        talk.revision = None
        return talk.view

    def delete(self, session_id: str) -> None:
        if session_id not in self.talks:
            raise Refused("SESSION_NOT_FOUND")
        talk = self._copied(session_id)
        talk.deleted, talk.active, talk.waiting = True, "", []

    def branch(self, session_id: str, request_id: str, message_id: str) -> View:
        branch_id = IDS.branch(session_id, request_id)
        if branch_id not in self.talks:
            parent = self._talk(session_id)
            ids = [known for known, _ in parent.messages]
            if message_id not in ids:
                raise Refused("MESSAGE_NOT_FOUND")
            texts = [text for _, text in parent.messages[: ids.index(message_id) + 1]]
            self.talks[branch_id] = Talk(
                session_id=branch_id,
                title=parent.title,
                mode=parent.mode,
                metadata=parent.metadata,
                documents=parent.documents,
                parent=(session_id, message_id),
                messages=[(f"{branch_id}.{n}", text) for n, text in enumerate(texts, start=1)],
                away=True,
            )
        known = self.talks[branch_id]
        if known.deleted:
            raise Refused("SESSION_DELETED")
        if known.parent[1] != message_id:
            raise Refused("REQUEST_ID_TAKEN")
        return known.view

    def messages(self, session_id: str, _order: int) -> list[tuple[str, str]]:
        return self._talk(session_id).messages

    all_messages = messages

    def add_note(self, session_id: str, request_id: str, text: str) -> str:
        talk, note_id = self._talk(session_id), IDS.note(session_id, request_id)
        if talk.once(request_id, ("note", text)):
            talk.notes[note_id] = text
        return note_id

    def delete_note(self, session_id: str, note_id: str) -> None:
        talk = self._talk(session_id)
        if talk.notes.pop(note_id, None) is not None:
            talk.revision = None

    def notes(self, session_id: str) -> list[tuple[str, str]]:
        return sorted(self._talk(session_id).notes.items())

    def add_bookmark(self, session_id: str, request_id: str, message_id: str) -> str:
        talk, bookmark_id = self._talk(session_id), IDS.bookmark(session_id, request_id)
        if message_id not in [known for known, _ in talk.messages]:
            raise Refused("MESSAGE_NOT_FOUND")
        if talk.once(request_id, ("bookmark", message_id)):
            talk.bookmarks[bookmark_id] = (message_id, request_id)
        return bookmark_id

    def delete_bookmark(self, session_id: str, bookmark_id: str) -> None:
        talk = self._talk(session_id)
        if talk.bookmarks.pop(bookmark_id, None) is not None:
            talk.revision = None

    def bookmarks(self, session_id: str) -> list[tuple[str, tuple[str, str]]]:
        return sorted(self._talk(session_id).bookmarks.items())

    def begin(self, session_id: str, request_id: str, text: str, policy: int) -> str:
        talk, turn_id = self._talk(session_id), IDS.turn(session_id, request_id)
        if (known := talk.turns.get(turn_id)) is not None:
            if (known.text, known.policy) != (text, policy):
                raise Refused("REQUEST_ID_TAKEN")
            return turn_id
        if talk.ended:
            raise Refused("SESSION_ENDED")
        talk.turns[turn_id], talk.revision = Asked(text, policy), None
        if not talk.active:
            talk.start(turn_id)
        elif policy in TAKING_OVER:
            talk.make_way(policy)
            talk.waiting.insert(0, turn_id)
        elif policy != turns.BUSY_POLICY_ENQUEUE:
            raise Refused("SESSION_BUSY")
        elif len(talk.waiting) >= MOST_WAITING:
            raise Refused("LIMIT_REACHED")
        else:
            talk.waiting.append(turn_id)
        return turn_id

    def cancel(self, session_id: str, turn_id: str) -> str:
        turn = self._turn(session_id, turn_id)
        if turn is None:
            raise Refused("TURN_NOT_FOUND")
        talk = self.talks[session_id]
        if turn_id in talk.waiting:
            talk.waiting.remove(turn_id)
            turn.state, talk.revision = turns.TURN_STATE_CANCELLED, None
        elif turn_id == talk.active and not turn.ending:
            turn.stop(turns.TURN_STATE_CANCELLED)
        return turn_id

    def claim(self, session_id: str, turn_id: str, claim_id: str) -> Any:
        turn = self._turn(session_id, turn_id)
        if turn is None or turn.over:
            return "over"
        if turn.ending:
            return AnyOf(("held", "over"))
        if turn.state == turns.TURN_STATE_QUEUED:
            turn.state, turn.holder = turns.TURN_STATE_RUNNING, claim_id
            turn.attempt, turn.said = turn.attempt + 1, ""
        if not turn.held_by(claim_id):
            return "held"
        messages = self.talks[session_id].messages
        return turn.attempt, len(messages), [text for _, text in messages[-ALWAYS_IN_WINDOW:]]

    def record(self, session_id: str, turn_id: str, claim_id: str, text: str) -> Any:
        turn = self._turn(session_id, turn_id)
        if turn is None:
            return AnyOf(("MISSING", "FENCED"))
        # The log takes what the last worker says until the next one claims, or the end is shown.
        if turn.over or turn.holder != claim_id or not (text or turn.held_by(claim_id)):
            return "FENCED"
        turn.said += text
        return LATE

    def complete(self, session_id: str, turn_id: str, claim_id: str, text: str) -> Any:
        turn = self._turn(session_id, turn_id)
        if turn is not None and turn.held_by(claim_id):
            self.talks[session_id].end_turn(turn, turns.TURN_STATE_COMPLETED, text)
            return LATE
        return self._too_late(turn, claim_id)

    def fail(self, session_id: str, turn_id: str, claim_id: str, retryable: bool) -> Any:  # noqa: FBT001 - as the others
        turn = self._turn(session_id, turn_id)
        if turn is None or not turn.held_by(claim_id):
            return self._too_late(turn, claim_id)
        if retryable and turn.attempt < MAX_ATTEMPTS:
            turn.queue()
        else:
            self.talks[session_id].end_turn(turn, turns.TURN_STATE_FAILED, "")
        return LATE

    def release(self, session_id: str, turn_id: str, claim_id: str) -> Any:
        turn = self._turn(session_id, turn_id)
        if turn is None:
            return AnyOf(("MISSING", "FENCED"))
        if not turn.held_by(claim_id):
            return "FENCED"
        turn.attempt -= 1
        turn.queue()
        return LATE

    @staticmethod
    def _too_late(turn: Asked | None, claim_id: str) -> Any:
        if turn is None:
            return AnyOf(("MISSING", "FENCED"))
        how = turn.ending or turn.state
        own = how in (turns.TURN_STATE_COMPLETED, turns.TURN_STATE_FAILED)
        return LATE if own and turn.holder == claim_id else "FENCED"

    def leave(self, session_id: str, _parts: int) -> None:
        """The session may leave the live store, if all of it is archived."""
        if session_id in self.talks and not self.talks[session_id].active:
            self._copied(session_id).away = True

    def hurry(self, session_id: str) -> None:
        """The clock looks at the session's turns at once: that changes nothing."""

    def archive_again(self, session_id: str) -> None:
        """The archive says again what it has said."""

    def ensure(self, session_id: str) -> int:
        """The archive asks for turns that are not lost: none is rebuilt."""
        return 0
