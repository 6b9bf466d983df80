"""What somebody may want to do next, drawn without knowledge of what there is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

from hypothesis.strategies import SearchStrategy, builds, integers, sampled_from

from maieutic.v1 import turn_service_pb2 as turns
from tests.session.interleavings.callers import Callers
from tests.session.interleavings.expected import IDS
from tests.session.interleavings.serial import Call

Args: TypeAlias = tuple[Any, ...]
Kept = TypeVar("Kept")

SETS = (("d" * 20,), ("d" * 20, "e" * 20))
POLICIES = (
    turns.BUSY_POLICY_REJECT,
    turns.BUSY_POLICY_ENQUEUE,
    turns.BUSY_POLICY_INTERRUPT,
    turns.BUSY_POLICY_ROLLBACK,
)
ABOUT_SESSIONS = (
    *("create", "get_or_create", "get_or_create", "get", "update", "update", "update", "end"),
    *("touch", "delete", "branch", "leave", "add_note", "add_note", "delete_note", "notes"),
    *("add_bookmark", "delete_bookmark", "bookmarks"),
)
ABOUT_TURNS = (
    *("begin", "begin", "begin", "claim", "claim", "claim", "record", "complete", "complete"),
    *("fail", "release", "cancel", "leave", "hurry", "archive_again", "ensure", "messages"),
)
ALL = ABOUT_SESSIONS + ABOUT_TURNS


@dataclass(frozen=True)
class Wish:
    """A kind of call, and numbers that choose from whatever is there."""

    kind: str
    session: int
    which: int
    how: int
    again: int


def wishes(kinds: Sequence[str], sessions: int) -> SearchStrategy[Wish]:
    """Draw wishes of these kinds, about the first sessions."""
    return builds(
        Wish,
        kind=sampled_from(kinds),
        session=integers(0, sessions - 1),
        which=sampled_from((0, 0, 0, 1, 2, 3)),
        how=integers(0, 3),
        again=integers(0, 9),
    )


class Wishing:
    """Makes calls of wishes, from what callers know."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self._requests = 0
        self._made: list[Call] = []
        self.sessions: list[str] = []
        self._turns: list[tuple[str, str]] = []
        self._claims: list[tuple[str, str, str]] = []
        self._messages: list[str] = []
        self._notes: list[str] = []
        self._bookmarks: list[str] = []

    def call(self, wish: Wish) -> Call | None:
        """Return a call that was made before, or a new one; None if there is nothing to do."""
        if wish.again == 0 and self._made:
            return _late(self._made, wish.which)
        args = self._args(wish)
        if args is None:
            return None
        self._made.append(Call(wish.kind, args))
        return self._made[-1]

    def _args(self, wish: Wish) -> Args | None:
        session_id = self.sessions[wish.session % len(self.sessions)] if self.sessions else ""
        more = _ARGS.get(wish.kind)
        return more(self, wish, session_id) if more else (session_id,)

    def _request(self, wish: Wish) -> str:
        """Return a new request id, or now and then one that was used for something else."""
        self._requests += wish.again != 1
        return f"r{self._requests}"

    def _create(self, wish: Wish, _: str) -> Args:
        request_id = f"c{wish.which % 2}"
        self.know(IDS.session(self._callers.user.tenant, self._callers.user.name, request_id))
        return request_id, f"Title {wish.how % 2}"

    def know(self, session_id: str) -> None:
        if session_id not in self.sessions:
            self.sessions.append(session_id)

    def _update(self, wish: Wish, session_id: str) -> Args:
        revisions = self._callers.revisions.get(session_id, [])
        expected = {2: revisions[-1:], 3: revisions[-2:-1]}.get(wish.how, [])
        request_id = self._request(wish)
        # Not the mode: a Socratic session has turns of its own, which nobody here works on.
        fields = (
            ("title", f"Title {request_id}"),
            ("metadata", (("by", request_id),)),
            ("documents", SETS[wish.how % 2]),
        )
        return session_id, request_id, (expected or [0])[0], (fields[wish.which % len(fields)],)

    def _add_note(self, wish: Wish, session_id: str) -> Args:
        request_id = self._request(wish)
        self._notes.append(IDS.note(session_id, request_id))
        return session_id, request_id, f"Note {wish.how}"

    def _add_bookmark(self, wish: Wish, session_id: str) -> Args:
        request_id = self._request(wish)
        self._bookmarks.append(IDS.bookmark(session_id, request_id))
        return session_id, request_id, _late(self._messages, wish.which)

    def _branch(self, wish: Wish, session_id: str) -> Args:
        request_id = f"b-{self._request(wish)}"
        self.know(IDS.branch(session_id, request_id))
        return session_id, request_id, _late(self._messages, wish.which)

    def _begin(self, wish: Wish, session_id: str) -> Args:
        request_id = self._request(wish)
        turn_id = IDS.turn(session_id, request_id)
        self._turns.append((session_id, turn_id))
        self._messages += [f"{turn_id}.u", f"{turn_id}.a"]
        return session_id, request_id, f"Why {wish.which}?", POLICIES[wish.how]

    def _delete(self, wish: Wish, session_id: str, kept: Sequence[str]) -> Args | None:
        return (session_id, _late(kept, wish.which)) if kept else None

    def _claim(self, wish: Wish, _: str) -> Args | None:
        begun = [turn for turn in self._turns if self._callers.stack.jobs.of(turn[1])]
        if not begun:
            return None
        self._requests += 1
        self._claims.append((*_late(begun, wish.which), f"claim {self._requests}"))
        return self._claims[-1]

    def _work(self, wish: Wish, *what: Any) -> Args | None:
        """Return what a worker does under one of its last two claims."""
        return (*_late(self._claims, wish.which % 2), *what) if self._claims else None


_ARGS: Mapping[str, Callable[[Wishing, Wish, str], Args | None]] = MappingProxyType(
    {
        "create": Wishing._create,
        "get_or_create": lambda _, wish, __: (SETS[wish.how == 0],),
        "update": Wishing._update,
        "branch": Wishing._branch,
        "messages": lambda _, wish, session_id: (session_id, wish.how % 3),
        "add_note": Wishing._add_note,
        "delete_note": lambda self, wish, session_id: self._delete(wish, session_id, self._notes),
        "add_bookmark": Wishing._add_bookmark,
        "delete_bookmark": lambda self, wish, session_id: self._delete(
            wish, session_id, self._bookmarks
        ),
        "begin": Wishing._begin,
        "cancel": lambda self, wish, _: _late(self._turns, wish.which),
        "claim": Wishing._claim,
        "record": lambda self, wish, _: self._work(wish, "Because. " * wish.how),
        "complete": lambda self, wish, _: self._work(wish, f"Because {wish.how}."),
        "fail": lambda self, wish, _: self._work(wish, wish.how > 0),
        "release": lambda self, wish, _: self._work(wish),
        "leave": lambda _, wish, session_id: (session_id, wish.how % 2),
    }
)
"""The arguments of each kind of call that needs more than a session."""


def _late(many: Sequence[Kept], which: int) -> Kept:
    """Return one of the last."""
    return many[-1 - which % len(many)]
