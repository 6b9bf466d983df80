"""The turns that a worker holds, and which of them have something to send."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from maieutic.session.v1.turn_work_service_pb2 import TurnEvents
from maieutic.v1.turn_service_pb2 import TurnFile
from services.agents.ports import AgentEvent
from services.agents.turn_log import TurnLog


class TurnListener(Protocol):
    """Who runs a turn, and hears what becomes of its lease."""

    def fenced(self) -> None:
        """Another claim or an outcome stands."""
        ...

    def missing(self) -> None:
        """The live store has lost the turn: claim it again, then call `resume`."""
        ...

    def silent(self) -> None:
        """The session service has not answered for too long."""
        ...


class RecordedTurn:
    """A turn under a lease: what is appended goes to its event log."""

    def __init__(self, log: TurnLog, listener: TurnListener, turns: "RecordedTurns") -> None:
        self.log = log
        self.listener = listener
        self.opened = asyncio.get_running_loop().time()
        self.sent_on: object | None = None
        """The stream on which the batch under way was sent last."""
        self._turns = turns
        self._settled = asyncio.Event()
        self._settled.set()

    def append(self, event: AgentEvent) -> None:
        """Take an event; it is sent with the next batch."""
        self.log.append(event)
        self._changed()

    async def recorded(self) -> int:
        """Wait until every frame is in the event log; returns the number of the last one."""
        await self._settled.wait()
        return self.log.last_seq

    def resume(self, fence: int) -> None:
        """Go on under the fence of a new claim."""
        self.log.resume(fence)
        self.sent_on = None
        self._changed()

    def go_on_after(self, files: Iterable[TurnFile]) -> None:
        """Tell watchers which files earlier attempts have finished."""
        self.log.go_on_after(files)
        self._changed()

    def restate(self) -> None:
        """Send all text again: the live store has lost frames that it had acknowledged."""
        self.log.restate()
        self._changed()

    def acknowledged(self, events: TurnEvents) -> None:
        """Note that a batch is in the event log."""
        self.log.acknowledge(events)
        self._changed()

    def to_send(self, stream: object) -> TurnEvents | None:
        """Return what is to be sent on *stream* now."""
        events = self.log.under_way if self.sent_on is not stream else None
        if self.log.suspended or (events := events or self.log.freeze()) is None:
            return None
        self.sent_on = stream
        return events

    def _changed(self) -> None:
        if self.log.is_clear:
            self._settled.set()
            return
        self._settled.clear()
        self._turns.note(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTurns:
    """The turns under a lease; both are sets in the order in which their turns came."""

    held: dict[RecordedTurn, None] = field(default_factory=dict)
    changed: dict[RecordedTurn, None] = field(default_factory=dict)
    """Those that may have something to send."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once there is something to say, and once a stream ends."""

    def add(self, turn: RecordedTurn) -> None:
        """Hold a turn."""
        self.held[turn] = None

    def remove(self, turn: RecordedTurn) -> None:
        """Hold it no longer."""
        del self.held[turn]
        self.changed.pop(turn, None)

    def note(self, turn: RecordedTurn) -> None:
        """Let a turn send, unless it is over: what is left of that is nobody's any more."""
        if turn in self.held:
            self.changed[turn] = None
            self.wake.set()

    def look_at_all(self) -> None:
        """Let every turn send: a new stream has sent nothing yet."""
        self.changed.update(self.held)
        self.wake.set()

    def next_changed(self) -> RecordedTurn:
        """Take the turn that has waited longest."""
        turn = next(iter(self.changed))
        del self.changed[turn]
        return turn
