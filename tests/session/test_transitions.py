"""The table of a turn's states, row by row, without any store."""

from collections.abc import Callable

import pytest

from maieutic.bus.v1.bus_pb2 import SessionChanged, TurnAccepted, TurnFinished
from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.session.v1.record_pb2 import FinishedStep, TurnRecord
from maieutic.v1.artifact_pb2 import Artifact
from maieutic.v1.turn_service_pb2 import (
    BUSY_POLICY_ENQUEUE,
    TURN_STATE_CANCELLED,
    TURN_STATE_COMPLETED,
    TURN_STATE_FAILED,
)
from services.session import transitions as t
from services.session.beginning import begin, confirm_job
from services.session.ending import Ending, archived, end, finish_stop
from services.session.errors import EventsOutOfStep, RequestIdTaken, SessionBusy
from services.session.model import (
    CANCELLING,
    LEASED,
    PROVISIONAL,
    QUEUED,
    STUB,
    TERMINAL,
    WAITING,
    Draft,
    RunJob,
    next_stamp,
    settled,
    trim,
)
from services.session.sweeping import sweep
from tests.session.drafts import T0, TIMING, Memory, job, turn_id

A, B = turn_id("a"), turn_id("b")
ONE = t.Claimant(worker_id="w1", claim_id="c1")
TWO = t.Claimant(worker_id="w2", claim_id="c2")
ANSWER = Ending(state=TURN_STATE_COMPLETED, text="Because.")
APPLIED, FENCED, MISSING = (
    work.WRITE_STATUS_APPLIED,
    work.WRITE_STATUS_FENCED,
    work.WRITE_STATUS_MISSING,
)


def begun(*, restored: bool = False, attempts: int = 3, budget_seconds: int = 600) -> Memory:
    memory = Memory.with_session(restored=restored)
    new = job("a", attempts=attempts, budget_seconds=budget_seconds)
    memory.apply(lambda d: begin(d, new, TIMING))
    return memory


def claim(memory: Memory, who: t.Claimant = ONE) -> work.ClaimTurnResponse:
    return memory.apply(lambda d: t.claim(d, A, who, TIMING))


def claimed(**kind: int) -> tuple[Memory, t.Hold]:
    memory = begun(**kind)  # type: ignore[arg-type]
    return memory, hold_of(claim(memory))


def hold_of(response: work.ClaimTurnResponse, who: t.Claimant = ONE) -> t.Hold:
    assert response.HasField("claim"), response
    return t.Hold(turn_id=A, fence=response.claim.fence, claim_id=who.claim_id)


def complete(memory: Memory, hold: t.Hold, ending: Ending = ANSWER) -> work.CompleteTurnResponse:
    return memory.apply(lambda d: t.complete(d, hold, ending, 0, TIMING))


def cancel(memory: Memory, turn: str = A) -> None:
    memory.apply(lambda d: t.cancel(d, turn, "x", TIMING))


def tick(memory: Memory, *, judge: bool = True, turn: str = A, over: bool = False) -> None:
    """Sweep the turn at the time it is due."""
    memory.now = max(memory.now, memory.due[turn])
    memory.apply(
        lambda d: sweep(d, turn, "half", TIMING, judge_leases=judge, predecessor_over=over)
    )


def row(memory: Memory, text: str = "Because.", turn: str = A) -> TurnFinished:
    """Return what the archive holds of the turn."""
    stored = memory.turns[turn]
    if stored.HasField("finished"):
        return TurnFinished.FromString(stored.finished.SerializeToString())
    other = Memory.with_session()
    other.turns[turn] = TurnRecord(phase=LEASED, job=stored.job, fence=7, provisional=True)
    ending = Ending(state=TURN_STATE_COMPLETED, text=text)
    return other.apply(lambda d: end(d, d.turns[turn], ending, TIMING))


def mark(memory: Memory, outcome: TurnFinished) -> None:
    memory.apply(lambda d: archived(d, outcome, TIMING))


def phase(memory: Memory, turn: str = A) -> int:
    return memory.turns[turn].phase


def beside(claim_id: str) -> t.Claimant:
    """Return a worker that has other turns, too."""
    return t.Claimant(worker_id=claim_id, claim_id=claim_id, from_lane=True)


def lose_in_its_lane(memory: Memory) -> None:
    """Have the turn claimed from its lane by one that is heard of no more."""
    assert claim(memory, beside(f"since {memory.now}")).HasField("claim")
    tick(memory)


def test_a_suspect_is_given_to_no_lane_and_what_got_on_in_its_last_attempt_is_none() -> None:
    memory, hold = claimed()
    memory.now = memory.due[A]
    assert claim(memory, beside("c2")).HasField("held")
    assert claim(memory, beside("c1")).HasField("claim"), (
        "its own worker goes on, wherever it has it from"
    )
    step = FinishedStep(step="context")
    memory.apply(lambda d: t.complete_step(d, hold, step))
    memory.now = memory.due[A]
    assert claim(memory, beside("c2")).claim.attempt == 2


def test_a_turn_goes_back_to_its_lane_once_after_its_worker_was_lost_there() -> None:
    memory = begun()
    lose_in_its_lane(memory)
    assert memory.published[-1] == RunJob(job=memory.turns[A].job, suspect=False)
    lose_in_its_lane(memory)
    assert memory.published[-1] == RunJob(job=memory.turns[A].job, suspect=True)
    assert claim(memory, beside("c3")).HasField("held")
    assert claim(memory).claim.attempt == 3


def test_workers_that_were_lost_beside_others_spend_no_attempts_and_those_alone_do() -> None:
    memory = begun(attempts=1)
    lose_in_its_lane(memory)
    lose_in_its_lane(memory)
    assert claim(memory).claim.attempt == 3
    tick(memory)
    spent = memory.turns[A].finished.outcome
    assert (spent.reason, spent.attempts) == ("ATTEMPTS_SPENT", 3)


def test_what_fails_by_itself_spends_attempts_also_beside_others() -> None:
    memory = begun(attempts=2)
    lose_in_its_lane(memory)
    away = t.Failure(
        ending=Ending(state=TURN_STATE_FAILED, reason="MODEL_AWAY"),
        retryable=True,
        retry_after_ms=0,
    )

    def fail(claim_id: str) -> work.FailTurnResponse:
        hold = hold_of(claim(memory, beside(claim_id)), beside(claim_id))
        return memory.apply(lambda d: t.fail_attempt(d, hold, away, TIMING))

    assert not fail("c2").HasField("finished"), "one counts, and two were made"
    assert fail("c3").finished.outcome.attempts == 3


def test_a_finished_step_ends_the_row_of_workers_that_were_lost_beside_others() -> None:
    memory = begun(attempts=1)
    lose_in_its_lane(memory)
    hold = hold_of(claim(memory, beside("c2")), beside("c2"))
    memory.apply(lambda d: t.complete_step(d, hold, FinishedStep(step="context")))
    tick(memory)
    assert memory.published[-1] == RunJob(job=memory.turns[A].job, suspect=False)
    lose_in_its_lane(memory)
    assert memory.published[-1] == RunJob(job=memory.turns[A].job, suspect=True)
    assert claim(memory).claim.attempt == 4
    tick(memory)
    assert memory.turns[A].finished.outcome.reason == "ATTEMPTS_SPENT"


def test_begin_writes_the_turn_its_message_and_its_check_and_tells_bus_and_archive() -> None:
    memory = begun()
    assert phase(memory) == QUEUED
    assert memory.session is not None
    assert memory.session.session.active_turn_id == A
    assert [entry.message_id for entry in memory.session.window] == [f"{A}.u"]
    assert memory.messages[f"{A}.u"].position == 1
    assert memory.due == {A: T0 + TIMING.publish_grace}
    assert memory.kinds(A) == ["accepted"]
    assert [type(fact) for fact in memory.facts] == [TurnAccepted]
    assert memory.published == [RunJob(job=memory.turns[A].job)]
    assert not memory.turns[A].provisional


def test_begin_again_finds_the_turn_and_writes_nothing() -> None:
    memory = begun()
    before = memory.state()
    memory.apply(lambda d: begin(d, job("a"), TIMING))
    assert memory.state() == before


def test_begin_again_with_another_request_is_refused() -> None:
    memory = begun()
    other = job("a")
    other.request_hash = b"other"
    with pytest.raises(RequestIdTaken):
        memory.apply(lambda d: begin(d, other, TIMING))


def test_another_turn_is_refused_while_one_runs() -> None:
    memory = begun()
    before = memory.state()
    with pytest.raises(SessionBusy):
        memory.apply(lambda d: begin(d, job("b"), TIMING))
    assert memory.state() == before


def test_a_turn_knows_the_one_before_it() -> None:
    memory, hold = claimed()
    complete(memory, hold)
    memory.apply(lambda d: begin(d, job("b"), TIMING))
    assert memory.turns[B].job.predecessor_turn_id == A


def test_a_turn_that_meets_a_conflict_waits_without_the_place_that_it_nearly_had() -> None:
    """Its message would be in the history twice: the archive tells waiting ones by that."""
    memory, new = Memory.with_session(), job("b", policy=BUSY_POLICY_ENQUEUE)
    assert begin(memory.draft(), new, TIMING).job.message.position == 1
    memory.apply(lambda d: begin(d, job("a"), TIMING))
    waiting = memory.apply(lambda d: begin(d, new, TIMING))
    assert waiting.phase == WAITING
    assert waiting.job.message.position == 0


def test_a_claim_gives_a_new_fence_an_attempt_and_the_window() -> None:
    memory = begun()
    memory.now += 5
    response = claim(memory)
    assert (response.claim.attempt, response.claim.max_attempts) == (1, 3)
    assert [m.text for m in response.claim.window] == ["text of a"]
    assert phase(memory) == LEASED
    assert memory.due[A] == memory.turns[A].lease_end_ms == memory.now + TIMING.lease
    assert memory.logs[A][-1][0] == (response.claim.fence, 0)
    assert memory.kinds(A) == ["accepted", "started"]


def test_the_same_claim_begins_a_log_that_was_lost_anew_and_counts_no_attempt() -> None:
    memory = begun()
    before = claim(memory).claim.fence
    del memory.logs[A]
    again = memory.apply(lambda d: t.claim(d, A, ONE, TIMING)).claim
    assert (again.fence > before, again.attempt) == (True, 1)
    assert memory.kinds(A) == ["started"]
    assert memory.append(A, again.fence, 1, "text")
    assert memory.apply(lambda d: t.claim(d, A, ONE, TIMING)).claim.fence == again.fence


def test_the_same_claim_gets_the_same_answer_even_after_its_lease() -> None:
    memory = begun()
    first = claim(memory)
    memory.now += TIMING.lease + 1
    again = claim(memory)
    assert again == first
    assert memory.turns[A].lease_end_ms == memory.now + TIMING.lease


def test_a_live_lease_holds_off_others() -> None:
    memory, _ = claimed()
    before = memory.state()
    assert claim(memory, TWO).HasField("held")
    assert memory.state() == before


def test_a_passed_lease_is_taken_over_and_the_first_worker_is_fenced() -> None:
    memory, first = claimed()
    memory.append(A, first.fence, 1, "from the first")
    memory.now += TIMING.lease
    second = hold_of(claim(memory, TWO), TWO)
    assert second.fence > first.fence
    assert memory.turns[A].attempt == 2
    assert not memory.append(A, first.fence, 2, "too late")
    assert memory.apply(lambda d: t.heartbeat(d, first, TIMING)) == FENCED
    assert complete(memory, first).status == FENCED
    assert memory.append(A, second.fence, 1, "from the second")


@pytest.mark.parametrize("kind", [WAITING, CANCELLING])
def test_a_turn_that_may_not_run_is_held(kind: int) -> None:
    memory = begun()
    memory.turns[A].phase = kind  # type: ignore[assignment]
    before = memory.state()
    assert claim(memory).HasField("held")
    assert memory.state() == before


def test_a_claim_without_attempts_left_is_held_and_the_clock_ends_the_turn() -> None:
    memory, _ = claimed(attempts=1)
    memory.now += TIMING.lease
    assert claim(memory, TWO).HasField("held")
    assert memory.due[A] == memory.now
    tick(memory)
    assert memory.turns[A].finished.outcome.reason == "ATTEMPTS_SPENT"


def test_a_claim_of_an_ended_turn_gets_its_outcome() -> None:
    memory, hold = claimed()
    finished = complete(memory, hold).finished
    before = memory.state()
    assert claim(memory, TWO).finished == finished
    assert memory.state() == before


def test_a_claim_of_an_archived_or_absent_turn_is_gone() -> None:
    memory, hold = claimed()
    complete(memory, hold)
    mark(memory, row(memory))
    assert claim(memory, TWO).HasField("gone")
    memory.turns.clear()
    assert claim(memory, TWO).HasField("gone")


def test_a_turn_that_waits_for_its_retry_time_is_not_given_out() -> None:
    memory, hold = claimed()
    fail(memory, hold, retryable=True, wait=5_000)
    assert claim(memory, TWO).HasField("held")
    memory.now += 5_000
    assert claim(memory, TWO).claim.attempt == 2


def test_a_heartbeat_renews_a_lease_that_has_passed_as_long_as_nobody_took_it() -> None:
    memory, hold = claimed()
    memory.now += 10 * TIMING.lease
    assert memory.apply(lambda d: t.heartbeat(d, hold, TIMING)) == APPLIED
    assert memory.turns[A].lease_end_ms == memory.now + TIMING.lease


WRITES: list[Callable[[Draft, t.Hold], object]] = [
    lambda d, hold: t.heartbeat(d, hold, TIMING),
    lambda d, hold: t.complete(d, hold, ANSWER, 0, TIMING).status,
    lambda d, hold: t.fail_attempt(d, hold, failure(), TIMING).status,
    lambda d, hold: t.release(d, hold, 0),
]


@pytest.mark.parametrize("write", WRITES)
def test_a_write_to_an_absent_turn_is_missing_and_not_fenced(
    write: Callable[[Draft, t.Hold], object],
) -> None:
    memory = Memory.with_session()
    hold = t.Hold(turn_id=A, fence=1, claim_id="c1")
    before = memory.state()
    assert memory.apply(lambda d: write(d, hold)) == MISSING
    assert memory.state() == before


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("kind", [WAITING, QUEUED, LEASED, CANCELLING, TERMINAL, PROVISIONAL, STUB])
def test_a_write_that_does_not_match_is_fenced_in_every_state(
    write: Callable[[Draft, t.Hold], object], kind: int
) -> None:
    memory, hold = claimed()
    memory.turns[A].phase = kind  # type: ignore[assignment]
    memory.turns[A].finished.outcome.fence = hold.fence + 1
    before = memory.state()
    for other in (
        t.Hold(turn_id=A, fence=hold.fence - 1, claim_id="c1"),
        t.Hold(turn_id=A, fence=hold.fence, claim_id="c2"),
    ):
        assert memory.apply(lambda d, other=other: write(d, other)) == FENCED  # type: ignore[misc]
    assert memory.state() == before


def test_completing_seals_the_turn_and_frees_the_session() -> None:
    memory, hold = claimed()
    response = complete(memory, hold)
    assert (response.status, phase(memory)) == (APPLIED, TERMINAL)
    assert memory.session is not None
    assert memory.session.session.active_turn_id == ""
    assert [entry.message_id for entry in memory.session.window] == [f"{A}.u", f"{A}.a"]
    assert memory.messages[f"{A}.a"].position == 2
    assert memory.session.session.message_count == 2
    assert memory.kinds(A)[-1] == "outcome"
    assert memory.frames(A)[-1].outcome.text == "Because."
    assert memory.due[A] == memory.now + TIMING.archive_grace
    assert response.finished.session == memory.session.session
    assert memory.published[1:] == [], "the worker publishes what it completed"


def test_completing_again_gets_the_same_answer_and_writes_nothing() -> None:
    memory, hold = claimed()
    first = complete(memory, hold)
    before = memory.state()
    assert complete(memory, hold, Ending(state=TURN_STATE_FAILED)) == first
    assert memory.state() == before


def test_an_outcome_before_the_last_frame_is_out_of_step() -> None:
    memory, hold = claimed()
    memory.append(A, hold.fence, 1, "text")
    with pytest.raises(EventsOutOfStep):
        memory.apply(lambda d: t.complete(d, hold, ANSWER, 2, TIMING))
    assert memory.apply(lambda d: t.complete(d, hold, ANSWER, 1, TIMING)).status == APPLIED


def test_a_provisional_outcome_is_stored_but_not_shown() -> None:
    memory, hold = claimed(restored=True)
    shown = memory.state()
    complete(memory, hold)
    assert phase(memory) == PROVISIONAL
    assert memory.session is not None
    assert memory.session.session.active_turn_id == A
    assert memory.kinds(A) == ["accepted", "started"]
    assert shown != memory.state()
    with pytest.raises(SessionBusy):
        memory.apply(lambda d: begin(d, job("b"), TIMING))


def failure(*, retryable: bool = False, wait: int = 0) -> t.Failure:
    ending = Ending(state=TURN_STATE_FAILED, reason="MODEL_REFUSED")
    return t.Failure(ending=ending, retryable=retryable, retry_after_ms=wait)


def fail(
    memory: Memory, hold: t.Hold, *, retryable: bool = False, wait: int = 0
) -> work.FailTurnResponse:
    cause = failure(retryable=retryable, wait=wait)
    return memory.apply(lambda d: t.fail_attempt(d, hold, cause, TIMING))


def test_a_retryable_failure_queues_the_turn_again_not_before_its_time() -> None:
    memory, hold = claimed()
    response = fail(memory, hold, retryable=True, wait=700)
    assert (response.status, response.HasField("finished")) == (APPLIED, False)
    assert phase(memory) == QUEUED
    assert memory.due[A] == memory.turns[A].not_before_ms == memory.now + 700
    tick(memory)
    assert memory.published[-1] == RunJob(job=memory.turns[A].job)


def test_a_retryable_failure_of_the_last_attempt_is_the_outcome() -> None:
    memory, hold = claimed(attempts=1)
    response = fail(memory, hold, retryable=True)
    assert response.finished.outcome.reason == "MODEL_REFUSED"
    assert phase(memory) == TERMINAL


def test_a_retryable_failure_whose_wait_ends_after_the_budget_is_the_outcome() -> None:
    memory, hold = claimed(budget_seconds=60)
    response = fail(memory, hold, retryable=True, wait=60_000)
    assert response.finished.outcome.reason == "MODEL_REFUSED"
    assert phase(memory) == TERMINAL


def test_a_permanent_failure_is_the_outcome_and_says_nothing() -> None:
    memory, hold = claimed()
    response = fail(memory, hold)
    assert response.finished.outcome.state == TURN_STATE_FAILED
    assert not response.finished.HasField("answer")
    assert fail(memory, hold) == response


def test_a_release_does_not_count_the_attempt() -> None:
    memory, hold = claimed()
    assert memory.apply(lambda d: t.release(d, hold, 0)) == APPLIED
    assert (phase(memory), memory.turns[A].attempt) == (QUEUED, 0)
    assert memory.due[A] == memory.now
    assert claim(memory, TWO).claim.attempt == 1


def test_a_release_for_long_is_looked_at_when_the_budget_is_spent() -> None:
    memory, hold = claimed(budget_seconds=60)
    memory.apply(lambda d: t.release(d, hold, 3_600_000))
    assert memory.due[A] == memory.turns[A].start_ms + 60_000
    tick(memory)
    tick(memory)
    assert memory.turns[A].finished.outcome.reason == "TIME_BUDGET_SPENT"


def test_cancel_moves_the_fence_first_and_then_keeps_what_was_said() -> None:
    memory, hold = claimed()
    memory.append(A, hold.fence, 1, "half")
    cancel(memory)
    assert phase(memory) == CANCELLING
    assert memory.turns[A].fence > hold.fence
    assert memory.turns[A].intent.reason == "CANCELLED_BY_CALLER"
    assert memory.due[A] == memory.now + TIMING.cancel_grace
    assert not memory.append(A, hold.fence, 2, "zombie")
    assert complete(memory, hold).status == FENCED
    memory.apply(lambda d: finish_stop(d, A, "half", TIMING))
    assert phase(memory) == TERMINAL
    assert memory.kinds(A).count("outcome") == 1
    assert memory.messages[f"{A}.a"].text == "half"
    assert memory.published[-1] == memory.turns[A].finished


def test_the_clock_finishes_a_stop_that_its_caller_left() -> None:
    memory = begun()
    cancel(memory)
    tick(memory)
    assert memory.turns[A].finished.outcome.state == TURN_STATE_CANCELLED


@pytest.mark.parametrize("kind", [CANCELLING, TERMINAL, PROVISIONAL, STUB])
def test_cancel_writes_nothing_once_the_turn_is_stopped_or_ended(kind: int) -> None:
    memory, hold = claimed()
    complete(memory, hold)
    memory.turns[A].phase = kind  # type: ignore[assignment]
    before = memory.state()
    cancel(memory)
    assert memory.state() == before


def test_cancelling_twice_keeps_the_first_intent() -> None:
    memory = begun()
    cancel(memory)
    before = memory.state()
    memory.apply(lambda d: t.cancel(d, A, "second", TIMING))
    assert memory.state() == before


def test_a_passed_lease_sends_the_job_to_the_suspects() -> None:
    memory, _ = claimed()
    tick(memory)
    assert memory.published[-1] == RunJob(job=memory.turns[A].job, suspect=True)
    assert phase(memory) == LEASED
    assert memory.due[A] > memory.now


def test_no_lease_is_judged_before_the_store_was_in_reach_for_one() -> None:
    memory, _ = claimed()
    published = list(memory.published)
    tick(memory, judge=False)
    assert memory.published == published
    assert phase(memory) == LEASED


def test_a_live_lease_is_left_alone() -> None:
    memory, _ = claimed()
    memory.due[A] = memory.now
    published = list(memory.published)
    tick(memory)
    assert (memory.published, memory.due[A]) == (published, memory.turns[A].lease_end_ms)


def test_an_unconfirmed_job_is_published_again_and_ever_more_rarely() -> None:
    memory = begun()
    looks = []
    for _ in range(12):
        tick(memory)
        looks.append(memory.due[A] - memory.now)
    assert memory.published == [RunJob(job=memory.turns[A].job)] * 13
    assert looks == sorted(looks)
    assert looks[0] == TIMING.publish_grace
    assert looks[-1] == TIMING.queue_check


def test_a_confirmed_job_is_left_alone_for_long_and_then_published_again() -> None:
    memory = begun()
    memory.apply(lambda d: confirm_job(d, A, TIMING))
    assert memory.due[A] == memory.now + TIMING.queue_check
    before = memory.state()
    memory.apply(lambda d: confirm_job(d, A, TIMING))
    assert memory.state() == before
    tick(memory)
    assert memory.published[-1] == RunJob(job=memory.turns[A].job)


def test_a_confirm_that_comes_late_changes_no_claimed_turn() -> None:
    memory, _ = claimed()
    before = memory.state()
    memory.apply(lambda d: confirm_job(d, A, TIMING))
    assert memory.state() == before


def test_a_worker_that_renews_beyond_the_budget_is_stopped() -> None:
    memory, hold = claimed(budget_seconds=30)
    for _ in range(40):
        memory.now += 1_000
        memory.apply(lambda d: t.heartbeat(d, hold, TIMING))
        if memory.due[A] <= memory.now:
            tick(memory)
        if phase(memory) != LEASED:
            break
    assert phase(memory) == CANCELLING
    assert memory.now - T0 <= 32_000
    tick(memory)
    outcome = memory.turns[A].finished.outcome
    assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "TIME_BUDGET_SPENT")
    assert outcome.text == "half"


def test_waiting_for_a_worker_spends_no_budget() -> None:
    memory = begun(budget_seconds=1)
    for _ in range(3):
        memory.now += 60_000
        tick(memory)
    assert phase(memory) == QUEUED
    assert claim(memory).HasField("claim")


def test_an_unarchived_outcome_is_published_again_and_ever_more_rarely() -> None:
    memory, hold = claimed()
    complete(memory, hold)
    looks = []
    for _ in range(12):
        tick(memory)
        looks.append(memory.due[A] - memory.now)
    assert memory.published[1:] == [memory.turns[A].finished] * 12
    assert (looks, looks[-1]) == (sorted(looks), TIMING.longest_backoff)


def test_archiving_leaves_a_stub_off_the_clock_and_a_session_that_may_expire() -> None:
    memory, hold = claimed()
    complete(memory, hold)
    assert memory.session is not None
    assert not settled(memory.session)
    mark(memory, row(memory))
    assert phase(memory) == STUB
    assert A not in memory.due
    assert not memory.turns[A].HasField("finished")
    assert memory.turns[A].job.request_hash == b"a"
    assert settled(memory.session)
    before = memory.state()
    mark(memory, TurnFinished(job=job("a")))
    assert memory.state() == before


@pytest.mark.parametrize("until", ["queued", "leased", "cancelling", "provisional"])
def test_the_archives_outcome_wins_over_whatever_runs(until: str) -> None:
    memory = begun(restored=True)
    others = row(memory, "from before")
    hold = hold_of(claim(memory)) if until != "queued" else None
    if until == "cancelling":
        cancel(memory)
    if until == "provisional" and hold is not None:
        complete(memory, hold)
    mark(memory, others)
    assert phase(memory) == STUB
    assert memory.session is not None
    assert memory.session.session.active_turn_id == ""
    assert memory.messages[f"{A}.a"].text == "from before"
    assert memory.kinds(A).count("outcome") == 1
    assert memory.told(A).count("turn_ended") == 1
    assert memory.frames(A)[-1].outcome == others.outcome
    if hold is not None:
        assert complete(memory, hold).status == FENCED
    assert isinstance(memory.facts[-1], SessionChanged)


def test_archiving_an_absent_turn_leaves_a_stub_against_a_late_rebuild() -> None:
    memory = Memory.with_session()
    mark(memory, TurnFinished(job=job("a")))
    assert phase(memory) == STUB
    assert A not in memory.due


def test_archiving_a_turn_that_was_lost_alone_frees_its_session() -> None:
    memory = begun()
    others = row(memory)
    del memory.turns[A]
    mark(memory, others)
    assert memory.session is not None
    assert memory.session.session.active_turn_id == ""
    assert not memory.session.unarchived_turn_ids
    assert memory.messages[f"{A}.a"].text == "Because."
    assert memory.told(A) == ["turn_accepted", "turn_ended"]


@pytest.mark.parametrize(("count", "told"), [(2, 2), (300, 0)])
def test_the_watchers_are_told_the_files_of_a_step_unless_they_are_too_many(
    count: int, told: int
) -> None:
    memory, hold = claimed()
    files = [Artifact(artifact_id="a" * 48, path=f"src/file_{n:03}.py") for n in range(count)]
    step = FinishedStep(step="files", artifacts=files)
    memory.apply(lambda d: t.complete_step(d, hold, step))
    finished = memory.happened[-1].turn_step_finished
    assert (finished.step, len(finished.artifacts)) == ("files", told)
    assert finished.shortened == (not told)


def test_the_end_of_a_turn_that_was_lost_alone_after_it_is_not_told_again() -> None:
    memory, hold = claimed()
    complete(memory, hold)
    others = row(memory)
    del memory.turns[A]
    mark(memory, others)
    assert phase(memory) == STUB
    assert memory.told(A) == ["turn_accepted", "turn_started", "turn_ended"]


def test_archiving_a_turn_that_nothing_here_knows_starts_the_one_that_waits_for_it() -> None:
    memory = with_waiting(restored=True)
    others = row(memory)
    assert memory.session is not None
    del memory.turns[A]
    memory.session.session.active_turn_id = ""
    memory.session.unarchived_turn_ids.remove(A)
    del memory.session.window[:]
    mark(memory, others)
    assert (phase(memory, B), memory.session.session.active_turn_id) == (QUEUED, B)
    window = [entry.message_id for entry in memory.session.window]
    assert window == [f"{A}.u", f"{A}.a", f"{B}.u"]
    assert memory.published[-1] == RunJob(job=memory.turns[B].job)


def test_a_deleted_session_takes_no_archived_turn() -> None:
    memory = begun()
    outcome = row(memory)
    assert memory.session is not None
    memory.session.tombstone = True
    memory.turns.clear()
    before = memory.state()
    mark(memory, outcome)
    assert memory.state() == before


def with_waiting(*, restored: bool = False) -> Memory:
    """Return a session where b waits behind a."""
    memory = begun(restored=restored)
    assert memory.session is not None
    waiting = TurnRecord(phase=WAITING, job=job("b"), fence=T0, provisional=restored)
    waiting.job.predecessor_turn_id = A
    memory.turns[B] = waiting
    memory.session.waiting_turn_ids.append(B)
    memory.session.unarchived_turn_ids.append(B)
    memory.due[B] = T0
    return memory


def test_a_seal_promotes_the_next_waiting_turn() -> None:
    memory = with_waiting()
    complete(memory, hold_of(claim(memory)))
    assert memory.session is not None
    assert (phase(memory, B), memory.session.session.active_turn_id) == (QUEUED, B)
    assert memory.messages[f"{B}.u"].position == 3
    assert memory.due[B] == memory.now + TIMING.publish_grace
    assert memory.published[-1] == RunJob(job=memory.turns[B].job)


def test_a_waiting_turn_starts_by_the_clock_only_once_the_one_before_is_over() -> None:
    memory = with_waiting()
    assert memory.session is not None
    memory.session.session.active_turn_id = ""
    tick(memory, turn=B, over=False)
    assert phase(memory, B) == WAITING
    assert memory.due[B] == memory.now + TIMING.queue_check
    tick(memory, turn=B, over=True)
    assert phase(memory, B) == QUEUED


def test_a_waiting_turn_does_not_start_beside_a_running_one() -> None:
    memory = with_waiting()
    tick(memory, turn=B, over=True)
    assert phase(memory, B) == WAITING


@pytest.mark.parametrize(("restored", "ends"), [(False, TERMINAL), (True, PROVISIONAL)])
def test_a_cancelled_waiting_turn_leaves_the_line_and_promotes_nothing(
    restored: bool,  # noqa: FBT001
    ends: int,
) -> None:
    memory = with_waiting(restored=restored)
    cancel(memory, B)
    assert memory.session is not None
    assert phase(memory, B) == ends
    assert not memory.session.waiting_turn_ids
    assert memory.session.session.active_turn_id == A
    assert f"{B}.u" not in memory.messages
    assert memory.published[-1].job.turn_id == B


def test_an_archived_waiting_turn_leaves_the_line_and_promotes_nothing() -> None:
    memory = with_waiting()
    outcome = row(memory, turn=B)
    mark(memory, outcome)
    assert memory.session is not None
    assert not memory.session.waiting_turn_ids
    assert memory.session.session.active_turn_id == A
    assert phase(memory, B) == STUB


def test_a_turn_is_not_begun_past_those_that_wait() -> None:
    memory = with_waiting()
    assert memory.session is not None
    memory.session.session.active_turn_id = ""
    with pytest.raises(SessionBusy):
        memory.apply(lambda d: begin(d, job("c"), TIMING))


def test_fences_never_repeat_even_if_the_clock_goes_back() -> None:
    memory = begun()
    fences = [memory.turns[A].fence]
    for step in range(6):
        memory.now -= 3_600_000
        memory.turns[A].lease_end_ms = 0
        who = t.Claimant(worker_id="w", claim_id=f"c{step}")
        memory.turns[A].job.max_attempts = 99
        fences.append(claim(memory, who).claim.fence)
    cancel(memory)
    fences.append(memory.turns[A].fence)
    assert fences == sorted(set(fences))


def test_revisions_never_repeat_even_if_the_clock_goes_back() -> None:
    assert next_stamp(10, 5) == 11
    assert next_stamp(10, 50) == 50


def test_the_window_drops_the_oldest_messages_but_none_that_is_not_archived() -> None:
    memory = Memory.with_session()
    draft = memory.draft()
    for n in range(30):
        new = job(f"n{n}").message
        new.position = n + 1
        draft.put_message(new)
        draft.record.window[-1].archived = n < 4
    trim(draft)
    assert len(draft.record.window) == 26
    for entry in draft.record.window:
        entry.archived = True
    trim(draft)
    assert len(draft.record.window) == 20
    assert len(draft.messages_dropped) == 10


def test_a_session_expires_only_when_nothing_is_live_or_unarchived() -> None:
    memory = Memory.with_session()
    assert memory.session is not None
    assert not settled(memory.session)
    memory.session.archived_revision = memory.session.session.revision
    assert settled(memory.session)
    for spoil in ("active", "waiting", "unarchived"):
        record = Memory.with_session().session
        assert record is not None
        record.archived_revision = record.session.revision
        if spoil == "active":
            record.session.active_turn_id = A
        elif spoil == "waiting":
            record.waiting_turn_ids.append(A)
        else:
            record.unarchived_turn_ids.append(A)
        assert not settled(record)
