"""What a reader of a turn's log is told when frames are missing from it, and when many wait."""

from collections.abc import Sequence

from hypothesis import given, strategies as st

from maieutic.v1.artifact_pb2 import Artifact
from maieutic.v1.turn_service_pb2 import (
    TurnDelta,
    TurnFile,
    TurnFrame,
    TurnNotice,
    TurnOutcome,
    TurnSnapshot,
    TurnStarted,
)
from services.session.frames import (
    MERGED_CHARACTERS,
    Entry,
    Story,
    follows,
    gap,
    merged,
    unbroken,
)
from services.session.model import TERMINAL_SEQ, EventId

PAGE = 4


def delta(text: str) -> TurnFrame:
    return TurnFrame(delta=TurnDelta(text=text))


NOTICE = TurnFrame(notice=TurnNotice(code="SEARCHING"))


def log_of(fence: int, *frames: TurnFrame, first: int = 1) -> list[Entry]:
    """Return what a worker recorded under a fence, from a number on."""
    return [(EventId(fence, first + n), frame) for n, frame in enumerate(frames)]


def started(fence: int, attempt: int = 1) -> Entry:
    return EventId(fence, 0), TurnFrame(started=TurnStarted(attempt=attempt))


def outcome(fence: int, text: str) -> Entry:
    return EventId(fence, TERMINAL_SEQ), TurnFrame(outcome=TurnOutcome(text=text))


def told(before: EventId | None, log: Sequence[Entry]) -> Sequence[Entry]:
    """Return what a reader is told where the log does not go on after *before*."""
    story = Story()
    story.read(log)
    first = next(at for at, _ in log if before is None or at > before)
    return gap("t", before, first, story)


def test_only_what_the_number_before_it_precedes_follows_unless_it_stands_for_itself() -> None:
    assert follows(EventId(5, 7), EventId(5, 8))
    assert not follows(EventId(5, 7), EventId(5, 9))
    assert not follows(EventId(5, 7), EventId(6, 8))
    assert not follows(None, EventId(5, 1))
    assert follows(None, EventId(5, 0))
    assert follows(EventId(5, 7), EventId(9, 0))
    assert follows(EventId(5, 7), EventId(5, TERMINAL_SEQ))


def test_what_comes_before_a_hole_is_still_told_as_it_is() -> None:
    log = [started(5), *log_of(5, delta("a"), delta("b"))]
    assert unbroken(None, [*log, *log_of(5, delta("d"), first=4)]) == log


def test_a_hole_is_told_with_the_text_that_is_left_and_what_is_missing() -> None:
    log = [started(5, 2), *log_of(5, delta("a")), *log_of(5, delta("d"), delta("e"), first=4)]
    ((at, frame),) = told(EventId(5, 1), [*log, outcome(5, "abcde")])
    assert at == (5, 5)
    found = frame.gap
    assert (found.text, found.attempt, found.text_incomplete) == ("ade", 2, True)
    assert (found.missing_frames, frame.turn_id) == (2, "t")


def test_text_that_was_told_as_a_whole_since_is_not_missing() -> None:
    again = TurnFrame(snapshot=TurnSnapshot(text="abc"))
    log = log_of(5, NOTICE, again, delta("d"), first=900)
    ((_, frame),) = told(EventId(5, 1), log)
    assert (frame.gap.text, frame.gap.text_incomplete) == ("abcd", False)
    assert frame.gap.missing_frames == 898
    ((_, frame),) = told(None, [*log, started(9, 3), *log_of(9, delta("x"))])
    assert (frame.gap.text, frame.gap.attempt, frame.gap.text_incomplete) == ("x", 3, False)
    assert frame.gap.missing_frames == 900


def test_what_is_gone_before_it_could_be_told_is_no_gap() -> None:
    story = Story()
    story.read([*log_of(5, delta("a")), outcome(5, "abc")])
    assert gap("t", EventId(5, 3), EventId(5, 7), story) == []
    assert gap("t", None, EventId(5, 7), Story()) == []


def test_deltas_that_wait_become_one_and_nothing_else_does() -> None:
    log = [started(5), *log_of(5, delta("a"), delta("b"), NOTICE, delta("c"), delta("d"))]
    found = merged([*log, outcome(5, "abcd")])
    assert [at.seq for at, _ in found] == [0, 2, 3, 5, TERMINAL_SEQ]
    assert [frame.delta.text for _, frame in found] == ["", "ab", "", "cd", ""]


def begins(index: int) -> TurnFrame:
    return TurnFrame(file=TurnFile(path=f"{index}.py", index=index))


def finished(index: int) -> TurnFrame:
    done = TurnFile(path=f"{index}.py", index=index, artifact=Artifact(artifact_id=str(index)))
    return TurnFrame(file=done)


def test_deltas_of_two_files_are_not_merged() -> None:
    log = log_of(5, begins(1), delta("a"), delta("b"), finished(1), begins(2), delta("c"))
    assert [frame.delta.text for _, frame in merged(log)] == ["", "ab", "", "", "c"]


def test_text_belongs_to_the_file_in_progress_and_an_attempt_voids_that_file_alone() -> None:
    story = Story()
    story.read([started(5), *log_of(5, begins(1), delta("a"), finished(1), begins(2), delta("b"))])
    assert ([file.index for file in story.files], story.text) == ([1, 2], "b")
    story.read([started(6, 2)])
    assert ([file.index for file in story.files], story.text) == ([1], "")
    story.read(log_of(6, begins(2), delta("c"), begins(2)))
    assert ([file.index for file in story.files], story.text) == ([1, 2], "")


def test_a_hole_is_told_with_the_files_that_are_there() -> None:
    files = [finished(1).file, begins(2).file]
    again = TurnFrame(snapshot=TurnSnapshot(text="b", files=files))
    ((_, frame),) = told(EventId(5, 1), log_of(5, again, delta("c"), first=900))
    assert (list(frame.gap.files), frame.gap.text) == (files, "bc")


def test_no_merged_delta_grows_without_bound() -> None:
    long = "x" * (MERGED_CHARACTERS // 2)
    found = merged(log_of(5, *(delta(long) for _ in range(10))))
    assert [len(frame.delta.text) for _, frame in found] == [MERGED_CHARACTERS] * 5


def written(pieces: Sequence[str]) -> list[Entry]:
    """Return the log of a turn.

    "!" begins an attempt, "=" tells what there is so far, "." is said, "(" begins a file, ")"
    finishes it.
    """
    entries, fence, story = [started(1)], 1, Story()
    for number, piece in enumerate(pieces):
        if piece == "!":
            fence += 1
            entries.append(started(fence, fence))
            story.take(entries[-1][1])
        done = sum(file.HasField("artifact") for file in story.files)
        said = {".": delta(f"{number} "), "(": begins(done + 1), ")": finished(done + 1)}
        whole = TurnFrame(snapshot=TurnSnapshot(text=story.text, files=story.files))
        frame = said.get(piece, whole)
        story.take(frame)
        entries.append((EventId(fence, entries[-1][0].seq + 1), frame))
    return entries


def read(log: Sequence[Entry], after: EventId | None, story: Story) -> None:
    """Take the log as a watcher does, page by page."""
    while page := [entry for entry in log if after is None or entry[0] > after][:PAGE]:
        known = unbroken(after, page) or told(after, log)
        for at, frame in merged(
            [(at, TurnFrame.FromString(f.SerializeToString())) for at, f in known]
        ):
            story.take(frame)
            after = at


@given(
    st.lists(st.sampled_from("....=!()"), max_size=40),
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(0, 6),
    st.integers(-1, 40),
)
def test_a_reader_has_the_text_or_knows_that_it_has_not(
    pieces: list[str], trimmed: int, hole: int, width: int, cursor: int
) -> None:
    whole = written(pieces)
    lost = {at for at, _ in whole[:trimmed]} | {
        at for at, _ in whole[hole : hole + width] if at.seq != 0
    }
    story, seen = Story(), whole[: min(cursor, len(whole) - 1) + 1]
    for _, frame in seen:
        story.take(frame)
    left = [entry for entry in whole if entry[0] not in lost]
    read(left, seen[-1][0] if seen else None, story)
    unread, told_whole = any(at in lost for at, _ in whole[-1:]), Story()
    for _, frame in whole:
        told_whole.take(frame)
    assert story.incomplete or unread or shown(story) == shown(told_whole)


def shown(story: Story) -> tuple[str, list[TurnFile]]:
    return story.text, story.files
