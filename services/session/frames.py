"""What a turn's frames say together: the text, the files, and where some are missing. Pure."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from maieutic.v1.turn_service_pb2 import TurnFile, TurnFrame, TurnGap
from services.session.model import TERMINAL_SEQ, EventId

Entry: TypeAlias = tuple[EventId, TurnFrame]

MERGED_CHARACTERS = 16_384
"""A delta that is this long takes no more of those that follow it."""


class Story:
    """What a reader has in front of them after some frames."""

    def __init__(self) -> None:
        self.attempt = 0
        self.incomplete = False
        """Whether frames are missing that the text needs."""
        self.last: EventId | None = None
        """The place of the last frame that was read from a log."""
        self.files: list[TurnFile] = []
        """In their order; what is said belongs to the last one, unless that is finished."""
        self._said: list[str] = []

    @property
    def text(self) -> str:
        """What the agent has said, or has written of the file in progress."""
        return "".join(self._said)

    def read(self, entries: Iterable[Entry]) -> None:
        """Go on with what a log has next, but for the outcome: that says all by itself."""
        for at, frame in entries:
            if at.seq == TERMINAL_SEQ:
                return
            self.incomplete = self.incomplete or not follows(self.last, at)
            self.take(frame)
            self.last = at

    def take(self, frame: TurnFrame) -> None:
        """Go on with the next frame."""
        match frame.WhichOneof("event"):
            case "started":
                self.attempt, self.incomplete, self._said = frame.started.attempt, False, []
                self.files = [file for file in self.files if file.HasField("artifact")]
            case "snapshot":
                self.incomplete, self._said = False, [frame.snapshot.text]
                self.files = list(frame.snapshot.files)
            case "gap":
                self.incomplete, self._said = frame.gap.text_incomplete, [frame.gap.text]
                self.files = list(frame.gap.files)
            case "delta":
                self._said.append(frame.delta.text)
            case "file":
                others = [file for file in self.files if file.index != frame.file.index]
                self.files, self._said = [*others, frame.file], []


def text_of(frames: Iterable[TurnFrame]) -> str:
    """Return what a reader of these frames has in front of them."""
    story = Story()
    for frame in frames:
        story.take(frame)
    return story.text


def follows(before: EventId | None, at: EventId) -> bool:
    """Whether nothing can be missing between two frames, or before the first one.

    An acceptance, a claim, a stop and an outcome, which have numbers of their own, may follow
    anything: each says by itself what holds of the text before it.
    """
    if at.seq in (0, TERMINAL_SEQ):
        return True
    return before is not None and at == (before.fence, before.seq + 1)


def unbroken(before: EventId | None, entries: Sequence[Entry]) -> Sequence[Entry]:
    """Return the entries up to the first place where some are missing."""
    for place, (at, _) in enumerate(entries):
        if not follows(before, at):
            return entries[:place]
        before = at
    return entries


def gap(
    turn_id: str,
    before: EventId | None,
    first: EventId,
    story: Story,
    committed: Iterable[TurnFile] = (),
) -> Sequence[Entry]:
    """Return the one entry that stands for all of a log after *before*, where some is missing.

    *first* is the place of the first frame that is left there, and the *story* is the whole log's.
    The log may have lost the frames of files that were *committed* before it was read. If what was
    left is gone by now, there is no entry.
    """
    if story.last is None or story.last < first:
        return []
    told = {file.index for file in story.files}
    same_fence = before is not None and before.fence == first.fence
    found = TurnGap(
        text=story.text,
        attempt=story.attempt,
        text_incomplete=story.incomplete,
        missing_frames=first.seq - (before.seq + 1 if before and same_fence else 0),
        files=[*(file for file in committed if file.index not in told), *story.files],
    )
    return [(story.last, TurnFrame(turn_id=turn_id, gap=found))]


def merged(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Return the entries with adjacent deltas as one, at the place of the last of them."""
    if len(entries) < 2:  # noqa: PLR2004 - the usual case: a reader in step
        return entries
    found: list[Entry] = []
    for at, frame in entries:
        into = found[-1][1] if found else None
        if into is None or not _takes(into, frame):
            found.append((at, frame))
            continue
        into.delta.text += frame.delta.text
        found[-1] = (at, into)
    return found


def _takes(into: TurnFrame, frame: TurnFrame) -> bool:
    both = into.HasField("delta") and frame.HasField("delta")
    return both and len(into.delta.text) < MERGED_CHARACTERS
