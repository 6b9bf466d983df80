"""How a turn's frames are numbered, merged and frozen."""

from collections.abc import Callable

from hypothesis import given, strategies as st

from maieutic.session.v1.turn_work_service_pb2 import TurnEvents
from maieutic.v1.artifact_pb2 import Artifact
from maieutic.v1.turn_service_pb2 import TurnFile, TurnFrame
from services.agents.ports import Delta, Notice
from services.agents.turn_log import REPEAT_FRAMES, TurnLog


def log() -> TurnLog:
    return TurnLog(turn_id="t", claim_id="c", fence=7)


def said(*texts: str) -> TurnLog:
    made = log()
    for text in texts:
        made.append(Delta(text=text))
    return made


def frozen(made: TurnLog) -> TurnEvents:
    events = made.freeze()
    assert events is not None
    return events


def test_deltas_that_wait_become_one_frame() -> None:
    (frame,) = frozen(said("a", "b", "c")).frames
    assert frame.delta.text == "abc"


def test_a_notice_between_deltas_keeps_its_place() -> None:
    made = said("a")
    made.append(Notice(code="SEARCHING", text="…"))
    made.append(Delta(text="b"))
    kinds = [frame.WhichOneof("event") for frame in frozen(made).frames]
    assert kinds == ["delta", "notice", "delta"]


def test_only_one_batch_is_under_way_and_it_does_not_change() -> None:
    made = said("a")
    first = frozen(made)
    before = first.SerializeToString()
    made.append(Delta(text="b"))
    assert made.freeze() is None
    assert first.SerializeToString() == before
    made.acknowledge(first)
    assert frozen(made).first_seq == 2


def test_a_new_fence_sends_all_text_as_one_snapshot_from_number_one() -> None:
    made = said("a")
    old = frozen(made)
    made.append(Delta(text="b"))
    made.resume(8)
    new = frozen(made)
    assert (new.fence, new.first_seq) == (8, 1)
    assert [frame.snapshot.text for frame in new.frames] == ["ab"]
    made.acknowledge(old)
    assert made.under_way is new


def test_the_same_fence_again_keeps_the_batch_that_was_under_way() -> None:
    made = said("a")
    events = frozen(made)
    made.suspended = True
    made.resume(7)
    assert made.under_way is events


def test_the_whole_text_goes_with_every_so_many_frames_and_again_after_a_new_claim() -> None:
    made, since, snapshots = log(), 0, 0
    for number in range(3 * REPEAT_FRAMES):
        made.append(Delta(text=f"{number} "))
        for frame in frozen(made).frames:
            since = 0 if frame.HasField("snapshot") else since + 1
            if not since:
                snapshots += 1
                assert made.text.startswith(frame.snapshot.text)
                assert len(frame.snapshot.text) > len(made.text) - 10
            assert since <= REPEAT_FRAMES
        made.acknowledge(made.under_way or TurnEvents())
        if number == REPEAT_FRAMES // 2:
            made.resume(8)
    assert snapshots == 3


def test_a_new_fence_sends_the_files_with_the_text_of_the_one_in_progress() -> None:
    made = log()
    made.go_on_after([TurnFile(path="a", index=1, artifact=Artifact(path="a"))])
    for event in (TurnFile(path="b", index=2), Delta(text="x"), TurnFile(path="b", index=2)):
        made.append(event)
    made.append(Delta(text="y"))
    kinds = [frame.WhichOneof("event") for frame in frozen(made).frames]
    assert kinds == ["snapshot", "file", "delta", "file", "delta"]
    made.resume(8)
    (frame,) = frozen(made).frames
    assert [file.path for file in frame.snapshot.files] == ["a", "b"]
    assert frame.snapshot.text == "y"


def test_text_that_is_told_again_follows_what_waits() -> None:
    made = said("a")
    made.restate()
    assert [frame.WhichOneof("event") for frame in frozen(made).frames] == ["delta", "snapshot"]
    assert made.last_seq == 2


class Service:
    """Stores what is acknowledged, and forgets it all when it loses its store."""

    def __init__(self, of: TurnLog) -> None:
        self.log = of
        self.frames: list[TurnFrame] = []
        self.said = 0

    def say(self) -> None:
        self.said += 1
        self.log.append(Delta(text=f"{self.said} "))

    def freeze(self) -> None:
        self.log.freeze()

    def acknowledge(self) -> None:
        if (events := self.log.under_way) is not None:
            assert events.first_seq == 1 + len(self.frames)
            self.frames.extend(events.frames)
            self.log.acknowledge(events)

    def lose(self) -> None:
        self.frames.clear()
        self.log.resume(self.log.fence + 1)

    @property
    def shown(self) -> str:
        text = ""
        for frame in self.frames:
            text = (frame.snapshot.text if frame.HasField("snapshot") else text) + frame.delta.text
        return text


STEPS = [Service.say, Service.freeze, Service.acknowledge, Service.lose]


@given(st.lists(st.sampled_from(STEPS), max_size=60))
def test_whatever_happens_the_frames_tell_the_whole_text_without_a_gap(
    steps: list[Callable[[Service], None]],
) -> None:
    service = Service(log())
    for step in (*steps, Service.acknowledge, Service.freeze, Service.acknowledge):
        step(service)
    assert service.shown == service.log.text
    assert service.log.is_clear
    assert service.log.last_seq == len(service.frames)
