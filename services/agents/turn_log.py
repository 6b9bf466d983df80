"""The frames of one claimed turn on their way to the session service. Pure: no I/O, no clock."""

from collections.abc import Iterable

from maieutic.session.v1.turn_work_service_pb2 import TurnEvents, TurnHeartbeat
from maieutic.v1.turn_service_pb2 import (
    TurnDelta,
    TurnFile,
    TurnFrame,
    TurnNotice,
    TurnSnapshot,
)
from services.agents.ports import AgentEvent, Delta, Notice

REPEAT_FRAMES = 500
"""Far fewer than what the session service keeps of a log, so that it always has the whole text."""


class TurnLog:
    """Numbers, merges and freezes a turn's frames, and keeps its text and its files.

    Frames wait in `pending`; `freeze` makes one batch of them, which is then sent, and after a
    break sent again, unchanged, until `acknowledge`. Only one batch is under way at a time.
    The log in the live store keeps only its newest frames, so the whole text goes with every
    `REPEAT_FRAMES`. Nothing is bounded here: what is said in a turn is bounded before it comes.
    """

    def __init__(self, *, turn_id: str, claim_id: str, fence: int) -> None:
        self.turn_id = turn_id
        self.claim_id = claim_id
        self.fence = fence
        self.suspended = False
        """The live store has lost the turn: nothing is sent until the new claim."""
        self._text: list[str] = []
        self._files: dict[int, TurnFile] = {}
        """By index: those that are finished, and the one that the text belongs to."""
        self._pending: list[TurnFrame] = []
        self._under_way: TurnEvents | None = None
        self._next_seq = 1
        self._repeat_at = REPEAT_FRAMES

    @property
    def text(self) -> str:
        """All that was said so far, or was written of the file in progress."""
        return "".join(self._text)

    @property
    def last_seq(self) -> int:
        """Number of the last frame that was frozen; 0 if there was none."""
        return self._next_seq - 1

    @property
    def is_clear(self) -> bool:
        """Whether every frame was acknowledged."""
        return not self._pending and self._under_way is None

    @property
    def under_way(self) -> TurnEvents | None:
        """The batch that was sent and not acknowledged."""
        return self._under_way

    def append(self, event: AgentEvent) -> None:
        """Take an event of the agent; text follows in one frame with text before it."""
        if isinstance(event, Delta):
            self._text.append(event.text)
            if self._pending and self._pending[-1].HasField("delta"):
                self._pending[-1].delta.text += event.text
                return
            self._pending.append(TurnFrame(turn_id=self.turn_id, delta=TurnDelta(text=event.text)))
        elif isinstance(event, TurnFile):
            self._text, self._files[event.index] = [], event
            self._pending.append(TurnFrame(turn_id=self.turn_id, file=event))
        elif isinstance(event, Notice):
            notice = TurnNotice(code=event.code, text=event.text)
            self._pending.append(TurnFrame(turn_id=self.turn_id, notice=notice))

    def freeze(self) -> TurnEvents | None:
        """Make a batch of what waits; None if nothing does, or a batch is under way already."""
        if self.suspended or self._under_way is not None or not self._pending:
            return None
        if self._next_seq >= self._repeat_at:
            self.restate()
        self._under_way = TurnEvents(
            turn_id=self.turn_id,
            fence=self.fence,
            claim_id=self.claim_id,
            first_seq=self._next_seq,
            frames=self._pending,
        )
        self._next_seq += len(self._pending)
        self._pending = []
        return self._under_way

    def acknowledge(self, events: TurnEvents) -> None:
        """Note that a batch is stored; one of an earlier claim is not ours any more."""
        if self._under_way is events:
            self._under_way = None

    def heartbeat(self) -> TurnHeartbeat:
        """Return what renews the lease."""
        return TurnHeartbeat(turn_id=self.turn_id, fence=self.fence, claim_id=self.claim_id)

    def resume(self, fence: int) -> None:
        """Go on under a new claim: its log is empty, so the text so far goes first.

        Under the same fence nothing was lost, and the batch under way is sent as it is.
        """
        self.suspended = False
        if fence == self.fence:
            return
        self.fence, self._next_seq, self._under_way = fence, 1, None
        self._pending = []
        if self._text or self._files:
            self.restate()

    def go_on_after(self, files: Iterable[TurnFile]) -> None:
        """Begin with the files that earlier attempts have finished."""
        self._files = {file.index: file for file in files}
        self.restate()

    def restate(self) -> None:
        """Send all text and files again: frames may be gone from the log."""
        snapshot = TurnSnapshot(text=self.text, files=self._files.values())
        self._pending.append(TurnFrame(turn_id=self.turn_id, snapshot=snapshot))
        self._repeat_at = self._next_seq + REPEAT_FRAMES
