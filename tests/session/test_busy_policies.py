"""What becomes of a turn that is begun while another one is there: every state, every policy."""

from collections.abc import Callable
from typing import TypeAlias

import pytest

from maieutic.bus.v1.bus_pb2 import SessionChanged, TurnAccepted, TurnFinished
from maieutic.session.v1.record_pb2 import TurnRecord
from maieutic.v1.turn_service_pb2 import (
    BUSY_POLICY_ENQUEUE as ENQUEUE,
    BUSY_POLICY_INTERRUPT as INTERRUPT,
    BUSY_POLICY_REJECT as REJECT,
    BUSY_POLICY_ROLLBACK as ROLLBACK,
    BUSY_POLICY_UNSPECIFIED as UNSPECIFIED,
    TURN_STATE_COMPLETED,
    TURN_STATE_INTERRUPTED,
    TURN_STATE_ROLLED_BACK,
    BusyPolicy,
)
from services.session import transitions as t
from services.session.beginning import begin, unfinished_stop
from services.session.ending import Ending, archived, finish_stop
from services.session.errors import LineFull, SessionBusy
from services.session.model import (
    CANCELLING,
    LEASED,
    PROVISIONAL,
    QUEUED,
    TERMINAL,
    WAITING,
    RunJob,
)
from services.session.sweeping import sweep
from tests.session.drafts import T0, TIMING, Memory, job, turn_id

A, B, C, D = (turn_id(name) for name in "abcd")
ONE = t.Claimant(worker_id="w1", claim_id="c1")
ANSWER = Ending(state=TURN_STATE_COMPLETED, text="Because.")
TAKING_OVER = (INTERRUPT, ROLLBACK)

Policy: TypeAlias = BusyPolicy.ValueType


def ask(memory: Memory, name: str, policy: Policy = UNSPECIFIED, *, most: int = 4) -> TurnRecord:
    new = job(name, policy=policy)
    return memory.apply(lambda d: begin(d, new, TIMING, most_waiting=most))


def claim(memory: Memory, turn: str = A) -> t.Hold:
    response = memory.apply(lambda d: t.claim(d, turn, ONE, TIMING))
    assert response.HasField("claim"), response
    return t.Hold(turn_id=turn, fence=response.claim.fence, claim_id=ONE.claim_id)


def complete(memory: Memory, turn: str = A, text: str = "Because.") -> None:
    hold, ending = claim(memory, turn), Ending(state=TURN_STATE_COMPLETED, text=text)
    memory.apply(lambda d: t.complete(d, hold, ending, 0, TIMING))


def finish(memory: Memory, turn: str = A, partial: str = "half") -> None:
    """Take the second step of a stop."""
    memory.apply(lambda d: finish_stop(d, turn, partial, TIMING))


def cancel(memory: Memory, turn: str) -> None:
    memory.apply(lambda d: t.cancel(d, turn, "x", TIMING))


def in_state(phase: int) -> Memory:
    """Return a session whose turn a is in that phase."""
    memory = Memory.with_session(restored=phase == PROVISIONAL)
    ask(memory, "a")
    if phase == LEASED:
        claim(memory)
    elif phase == CANCELLING:
        cancel(memory, A)
    elif phase in (TERMINAL, PROVISIONAL):
        complete(memory)
    assert memory.turns[A].phase == phase
    return memory


def line(memory: Memory) -> list[str]:
    assert memory.session is not None
    names = {turn_id(name): name for name in "abcdefgh"}
    return [names[turn] for turn in memory.session.waiting_turn_ids]


def active(memory: Memory) -> str:
    assert memory.session is not None
    return memory.session.session.active_turn_id


def window(memory: Memory) -> list[tuple[str, int]]:
    """Return the window's messages with their positions; each must be there."""
    assert memory.session is not None
    found = [memory.messages[entry.message_id] for entry in memory.session.window]
    return [(message.text, message.position) for message in found]


@pytest.mark.parametrize(
    ("phase", "policy", "becomes"),
    [
        *((phase, policy, None) for phase in (QUEUED, LEASED, CANCELLING, PROVISIONAL)
          for policy in (UNSPECIFIED, REJECT)),
        *((phase, ENQUEUE, phase) for phase in (QUEUED, LEASED, CANCELLING, PROVISIONAL)),
        *((phase, policy, CANCELLING) for phase in (QUEUED, LEASED) for policy in TAKING_OVER),
        *((phase, policy, phase) for phase in (CANCELLING, PROVISIONAL) for policy in TAKING_OVER),
    ],
)  # fmt: skip
def test_a_busy_session_refuses_the_next_turn_or_has_it_wait(
    phase: int, policy: Policy, becomes: int | None
) -> None:
    memory = in_state(phase)
    before, fence = memory.state(), memory.turns[A].fence
    if becomes is None:
        with pytest.raises(SessionBusy):
            ask(memory, "b", policy)
        assert memory.state() == before
        return
    ask(memory, "b", policy)
    assert (memory.turns[A].phase, memory.turns[B].phase) == (becomes, WAITING)
    assert (active(memory), line(memory)) == (A, ["b"])
    assert (memory.turns[A].fence > fence) == (becomes != phase)
    assert memory.turns[B].job.predecessor_turn_id == A
    assert f"{B}.u" not in memory.messages
    assert memory.turns[B].job.message.position == 0
    assert memory.due[B] == memory.now + TIMING.queue_check
    assert memory.facts[-1] == TurnAccepted(job=memory.turns[B].job)
    assert memory.frames(B)[-1].accepted.turn.waiting_position == 1
    assert memory.turns[B].provisional == (phase == PROVISIONAL)
    assert [e for e in memory.published if isinstance(e, RunJob) and e.job.turn_id == B] == []


@pytest.mark.parametrize("policy", [UNSPECIFIED, REJECT, ENQUEUE, *TAKING_OVER])
def test_an_idle_session_starts_the_turn_whatever_the_policy(policy: Policy) -> None:
    memory = in_state(TERMINAL)
    ask(memory, "b", policy)
    assert (memory.turns[B].phase, active(memory)) == (QUEUED, B)
    assert memory.turns[A].finished.outcome.state == TURN_STATE_COMPLETED
    assert window(memory) == [("text of a", 1), ("Because.", 2), ("text of b", 3)]


@pytest.mark.parametrize("policy", [ENQUEUE, *TAKING_OVER])
def test_beginning_again_finds_the_waiting_turn_and_writes_nothing(policy: Policy) -> None:
    memory = in_state(LEASED)
    ask(memory, "b", policy)
    before = memory.state()
    ask(memory, "b", policy)
    assert memory.state() == before


def test_turns_wait_in_their_order_and_know_their_places() -> None:
    memory = in_state(LEASED)
    for name in "bcd":
        ask(memory, name, ENQUEUE)
    assert line(memory) == ["b", "c", "d"]
    places = [memory.frames(turn)[0].accepted.turn.waiting_position for turn in (B, C, D)]
    assert places == [1, 2, 3]
    before = [memory.turns[turn].job.predecessor_turn_id for turn in (B, C, D)]
    assert before == [A, B, C]


def test_a_full_line_names_its_limit_and_writes_nothing() -> None:
    memory = in_state(LEASED)
    ask(memory, "b", ENQUEUE, most=2)
    ask(memory, "c", ENQUEUE, most=2)
    before = memory.state()
    with pytest.raises(LineFull, match="waiting_turns is reached: at most 2"):
        ask(memory, "d", ENQUEUE, most=2)
    assert memory.state() == before
    # What is there is found, full or not; and a full line does not keep anybody from interrupting.
    ask(memory, "c", ENQUEUE, most=2)
    ask(memory, "d", INTERRUPT, most=2)
    assert line(memory) == ["d", "b", "c"]


def lost(memory: Memory) -> None:
    """Spend the last attempt of the active turn."""
    memory.turns[A].attempt = memory.turns[A].job.max_attempts
    memory.turns[A].lease_end_ms = 0
    memory.now += TIMING.lease
    memory.apply(lambda d: sweep(d, A, "", TIMING, judge_leases=True))


def failed(memory: Memory) -> None:
    hold = t.Hold(turn_id=A, fence=memory.turns[A].fence, claim_id=ONE.claim_id)
    ending = Ending(state=TURN_STATE_COMPLETED, reason="REFUSED")
    failure = t.Failure(ending=ending, retryable=False, retry_after_ms=0)
    memory.apply(lambda d: t.fail_attempt(d, hold, failure, TIMING))


def stopped(memory: Memory) -> None:
    cancel(memory, A)
    finish(memory)


def over_budget(memory: Memory) -> None:
    memory.now += 700_000
    memory.apply(lambda d: sweep(d, A, "", TIMING, judge_leases=True))
    finish(memory)


def answered(memory: Memory) -> None:
    hold = t.Hold(turn_id=A, fence=memory.turns[A].fence, claim_id=ONE.claim_id)
    memory.apply(lambda d: t.complete(d, hold, ANSWER, 0, TIMING))


def archived_elsewhere(memory: Memory) -> None:
    other = in_state(TERMINAL)
    memory.apply(lambda d: archived(d, other.turns[A].finished, TIMING))


@pytest.mark.parametrize("ends", [answered, failed, lost, stopped, over_budget, archived_elsewhere])
def test_every_end_of_a_turn_starts_the_next_in_its_own_step(
    ends: Callable[[Memory], None],
) -> None:
    memory = in_state(LEASED)
    ask(memory, "b", ENQUEUE)
    ask(memory, "c", ENQUEUE)
    ends(memory)
    assert (memory.turns[B].phase, active(memory), line(memory)) == (QUEUED, B, ["c"])
    assert memory.due[B] == memory.now + TIMING.publish_grace
    jobs = [e.job for e in memory.published if isinstance(e, RunJob) and e.job.turn_id == B]
    assert jobs == [memory.turns[B].job]
    text, position = window(memory)[-1]
    assert (text, position) == ("text of b", len(window(memory)))


def test_a_provisional_end_starts_nobody_until_it_is_archived() -> None:
    memory = in_state(PROVISIONAL)
    ask(memory, "b", ENQUEUE)
    memory.apply(lambda d: archived(d, memory.turns[A].finished, TIMING))
    assert (memory.turns[B].phase, active(memory)) == (QUEUED, B)
    assert window(memory)[1:] == [("Because.", 2), ("text of b", 3)]


@pytest.mark.parametrize("phase", [QUEUED, LEASED])
def test_interrupting_keeps_and_marks_what_was_said_and_starts_before_those_that_wait(
    phase: int,
) -> None:
    memory = in_state(phase)
    ask(memory, "b", ENQUEUE)
    ask(memory, "c", INTERRUPT)
    assert line(memory) == ["c", "b"]
    finish(memory)
    outcome = memory.turns[A].finished.outcome
    assert (outcome.state, outcome.text) == (TURN_STATE_INTERRUPTED, "half")
    assert outcome.reason == "INTERRUPTED_BY_NEXT_TURN"
    assert (active(memory), line(memory)) == (C, ["b"])
    assert window(memory) == [("text of a", 1), ("half", 2), ("text of c", 3)]
    assert memory.messages[f"{A}.a"].partial
    assert memory.kinds(A).count("outcome") == 1
    assert memory.published[-2:] == [RunJob(job=memory.turns[C].job), memory.turns[A].finished]


def test_an_answer_that_is_whole_is_not_marked() -> None:
    assert not in_state(TERMINAL).messages[f"{A}.a"].partial


def test_rolling_back_leaves_neither_question_nor_answer() -> None:
    memory = in_state(TERMINAL)
    ask(memory, "b")
    hold = claim(memory, B)
    ask(memory, "c", ROLLBACK)
    finish(memory, B)
    finished = memory.turns[B].finished
    assert finished.outcome.state == TURN_STATE_ROLLED_BACK
    assert finished.outcome.reason == "ROLLED_BACK_BY_NEXT_TURN"
    assert (finished.outcome.text, finished.HasField("answer")) == ("", False)
    assert finished.job.message.position == 0
    # As if it had never been asked: the next question takes its place.
    assert window(memory) == [("text of a", 1), ("Because.", 2), ("text of c", 3)]
    assert not {f"{B}.u", f"{B}.a"} & memory.messages.keys()
    assert memory.session is not None
    assert memory.session.session.message_count == 3
    assert memory.session.next_position == 4
    assert finished.session.message_count == 3
    assert isinstance(memory.facts[-1], SessionChanged)
    fenced = memory.apply(lambda d: t.complete(d, hold, ANSWER, 0, TIMING))
    assert not fenced.HasField("finished")
    assert memory.frames(B)[-1].outcome == finished.outcome


def test_a_roll_back_in_a_restored_session_waits_for_the_archives_word() -> None:
    memory = Memory.with_session(restored=True)
    ask(memory, "a")
    claim(memory)
    ask(memory, "b", ROLLBACK)
    finish(memory)
    assert (memory.turns[A].phase, active(memory)) == (PROVISIONAL, A)
    assert window(memory) == [("text of a", 1)]
    row = TurnFinished.FromString(memory.turns[A].finished.SerializeToString())
    memory.apply(lambda d: archived(d, row, TIMING))
    assert (active(memory), window(memory)) == (B, [("text of b", 1)])


def test_the_archives_answer_stands_against_a_roll_back() -> None:
    memory = Memory.with_session(restored=True)
    ask(memory, "a")
    ask(memory, "b", ROLLBACK)
    finish(memory)
    row = in_state(TERMINAL).turns[A].finished
    memory.apply(lambda d: archived(d, row, TIMING))
    assert window(memory) == [("text of a", 1), ("Because.", 2), ("text of b", 3)]


@pytest.mark.parametrize("step_two_between", [False, True])
@pytest.mark.parametrize("policy", TAKING_OVER)
def test_of_two_that_take_over_at_the_same_time_the_later_one_starts(
    policy: Policy,
    step_two_between: bool,  # noqa: FBT001
) -> None:
    memory = in_state(LEASED)
    ask(memory, "b", INTERRUPT)
    if step_two_between:
        finish(memory)
    ask(memory, "c", policy)
    finish(memory, B if step_two_between else A)
    ended = TURN_STATE_INTERRUPTED if policy == INTERRUPT else TURN_STATE_ROLLED_BACK
    assert memory.turns[A].finished.outcome.state == TURN_STATE_INTERRUPTED
    assert memory.turns[B].finished.outcome.state == ended
    assert (active(memory), line(memory)) == (C, [])
    assert [memory.kinds(turn).count("outcome") for turn in (A, B)] == [1, 1]


def test_a_cancelled_interrupter_does_not_bring_back_what_it_stopped() -> None:
    memory = in_state(LEASED)
    ask(memory, "b", INTERRUPT)
    cancel(memory, B)
    finish(memory)
    assert memory.turns[A].finished.outcome.state == TURN_STATE_INTERRUPTED
    assert (active(memory), line(memory)) == ("", [])


def test_the_clock_finishes_an_interruption_that_its_caller_left() -> None:
    memory = in_state(LEASED)
    ask(memory, "b", INTERRUPT)
    assert unfinished_stop(memory.draft(), memory.turns[B]) == A
    memory.now = memory.due[A]
    memory.apply(lambda d: sweep(d, A, "half", TIMING, judge_leases=True))
    assert memory.turns[A].finished.outcome.text == "half"
    assert (active(memory), memory.turns[B].phase) == (B, QUEUED)
    assert unfinished_stop(memory.draft(), memory.turns[B]) == ""


def test_a_turn_that_was_enqueued_finishes_nobodys_stop() -> None:
    memory = in_state(CANCELLING)
    ask(memory, "b", ENQUEUE)
    assert unfinished_stop(memory.draft(), memory.turns[B]) == ""


def test_a_turn_that_takes_over_before_a_line_that_nothing_is_ahead_of_takes_its_place() -> None:
    memory = in_state(LEASED)
    ask(memory, "b", ENQUEUE)
    assert memory.session is not None
    # As after a restore, while the archive has yet to tell how a ended.
    memory.session.session.active_turn_id = ""
    ask(memory, "c", INTERRUPT)
    assert line(memory) == ["c", "b"]
    assert memory.turns[C].job.predecessor_turn_id == A
    assert memory.session.last_turn_id == B
    memory.now = T0 + TIMING.queue_check
    for turn in (B, C):
        memory.apply(
            lambda d, turn=turn: sweep(  # type: ignore[misc]
                d, turn, "", TIMING, judge_leases=True, predecessor_over=True
            )
        )
    assert (active(memory), line(memory)) == (C, ["b"])
