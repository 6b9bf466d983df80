"""One session without a store: drafts are applied to it as a transaction would."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration

from maieutic.bus.v1.bus_pb2 import RunTurn, SessionAnnotations
from maieutic.session.v1.record_pb2 import SessionRecord, TurnRecord
from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2 import Session, SessionFrame
from maieutic.v1.turn_service_pb2 import BUSY_POLICY_UNSPECIFIED, BusyPolicy, TurnFrame
from services.session.ids import Ids
from services.session.model import Draft, Effect, EventId, Fact, Timing, user_message

TIMING = Timing()
IDS = Ids(b"k" * 32)
TENANT, USER = "t", "u"
SESSION_ID = IDS.session(TENANT, USER, "first")
T0 = 1_800_000_000_000

T = TypeVar("T")


def turn_id(name: str) -> str:
    return IDS.turn(SESSION_ID, name)


def job(
    name: str = "a",
    *,
    attempts: int = 3,
    budget_seconds: int = 600,
    policy: BusyPolicy.ValueType = BUSY_POLICY_UNSPECIFIED,
) -> RunTurn:
    """Return a job as the service makes it, before it is accepted."""
    return RunTurn(
        tenant=TENANT,
        user_id=USER,
        turn_id=turn_id(name),
        request_id=name,
        request_hash=name.encode(),
        lane="interactive",
        message=user_message(turn_id(name), SESSION_ID, f"text of {name}"),
        time_budget=Duration(seconds=budget_seconds),
        max_attempts=attempts,
        busy_policy=policy,
    )


@dataclass
class Memory:
    """What a store keeps of one session, and what was published."""

    now: int = T0
    session: SessionRecord | None = None
    turns: dict[str, TurnRecord] = field(default_factory=dict)
    messages: dict[str, Message] = field(default_factory=dict)
    annotations: SessionAnnotations = field(default_factory=SessionAnnotations)
    due: dict[str, int] = field(default_factory=dict)
    logs: dict[str, list[tuple[EventId, TurnFrame]]] = field(default_factory=dict)
    happened: list[SessionFrame] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    published: list[Effect] = field(default_factory=list)

    @classmethod
    def with_session(cls, *, restored: bool = False) -> "Memory":
        record = SessionRecord(
            tenant=TENANT,
            session=Session(session_id=SESSION_ID, user_id=USER, revision=T0 - 1),
            next_position=1,
            restored=restored,
            logged=True,
        )
        return cls(session=record)

    def draft(self) -> Draft:
        tails = {turn: log[-1][0] for turn, log in self.logs.items() if log}
        return Draft(
            session_id=SESSION_ID,
            now_ms=self.now,
            session=copy.deepcopy(self.session),
            turns=copy.deepcopy(self.turns),
            messages=copy.deepcopy(self.messages),
            tails=tails,
            annotations=copy.deepcopy(self.annotations),
        )

    def apply(self, decide: Callable[[Draft], T]) -> T:
        """Decide and commit; what raises commits nothing."""
        draft = self.draft()
        result = decide(draft)
        if draft.writes:
            self._commit(draft)
        self.published += draft.effects
        return result

    def _commit(self, draft: Draft) -> None:
        if draft.session_changed:
            self.session = draft.session
        for changed in draft.turns_changed:
            self.turns[changed] = draft.turns[changed]
        for removed in draft.turns_removed:
            self.turns.pop(removed, None)
            self.logs.pop(removed, None)
        self.messages.update(draft.messages_put)
        for dropped in draft.messages_dropped:
            self.messages.pop(dropped, None)
        for turn, at, frame in draft.events:
            log = self.logs.setdefault(turn, [])
            assert not log or log[-1][0] < at, "Redis would refuse this event"
            log.append((at, frame))
        if draft.annotations_changed:
            self.annotations = draft.kept_annotations
        for turn, due in draft.due.items():
            self.due.pop(turn, None) if due is None else self.due.__setitem__(turn, due)
        self.happened += draft.happened
        self.facts += draft.out

    def append(self, turn: str, fence: int, seq: int, text: str) -> bool:
        """Record a delta; False if the log refuses it."""
        log = self.logs.get(turn)
        at = EventId(fence, seq)
        if not log or log[-1][0] >= at:
            return False
        frame = TurnFrame(turn_id=turn)
        frame.delta.text = text
        log.append((at, frame))
        return True

    def frames(self, turn: str) -> list[TurnFrame]:
        return [frame for _, frame in self.logs.get(turn, [])]

    def kinds(self, turn: str) -> list[str]:
        return [frame.WhichOneof("event") or "" for frame in self.frames(turn)]

    def told(self, turn: str) -> list[str]:
        """Return what the session's watchers were told of a turn."""
        return [f.WhichOneof("event") or "" for f in self.happened if f.turn_id == turn]

    def state(self) -> object:
        """Everything that is kept, to see whether anything was written."""
        return copy.deepcopy(
            (
                *(self.session, self.turns, self.messages, self.due, self.logs),
                *(self.happened, self.facts),
            )
        )
