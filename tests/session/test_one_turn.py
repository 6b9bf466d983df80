"""One turn in the hands of two workers, its caller, the clock and the archive, in any order."""

from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from hypothesis.strategies import booleans, integers, sampled_from

from maieutic.bus.v1.bus_pb2 import TurnFinished
from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.v1.turn_service_pb2 import (
    TURN_STATE_COMPLETED,
    TURN_STATE_FAILED,
    TurnOutcome,
)
from services.session import transitions as t
from services.session.beginning import begin
from services.session.ending import Ending, archived, finish_stop
from services.session.frames import text_of
from services.session.model import (
    CANCELLING,
    PROVISIONAL,
    STUB,
    TERMINAL,
    TERMINAL_SEQ,
)
from services.session.sweeping import sweep
from tests.session.drafts import TIMING, Memory, job, turn_id

A = turn_id("a")
MAX_ATTEMPTS = 3
workers = sampled_from(["w1", "w2"])


class OneTurn(RuleBasedStateMachine):
    """Whatever happens, the turn ends once, and everybody is told the same end."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()
        self.holds: dict[str, tuple[t.Hold, int]] = {}
        self.claims = 0
        self.offered: list[TurnFinished] = []
        """Outcomes that were handed to somebody who publishes them."""
        self.row: TurnFinished | None = None
        self.shown: list[TurnOutcome] = []
        self.fence = 0

    @initialize(restored=booleans())
    def begin(self, restored: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        self.memory = Memory.with_session(restored=restored)
        new = job("a", attempts=MAX_ATTEMPTS, budget_seconds=60)
        self.memory.apply(lambda d: begin(d, new, TIMING))
        self._collect()

    @property
    def phase(self) -> int:
        return self.memory.turns[A].phase

    def _collect(self, finished: TurnFinished | None = None) -> None:
        published = [e for e in self.memory.published if isinstance(e, TurnFinished)]
        if finished is not None and finished.HasField("outcome"):
            published.append(finished)
        for one in published:
            copied = TurnFinished()
            copied.CopyFrom(one)
            self.offered.append(copied)
        self.memory.published.clear()

    @rule(worker=workers, again=booleans(), from_lane=booleans())
    def claim(self, worker: str, again: bool, from_lane: bool) -> None:  # noqa: FBT001 - drawn
        known = self.holds.get(worker)
        if known is None or not again:
            self.claims += 1
        claim_id = known[0].claim_id if known and again else f"c{self.claims}"
        who = t.Claimant(worker_id=worker, claim_id=claim_id, from_lane=from_lane)
        response = self.memory.apply(lambda d: t.claim(d, A, who, TIMING))
        if response.HasField("claim"):
            hold = t.Hold(turn_id=A, fence=response.claim.fence, claim_id=claim_id)
            same = known is not None and known[0] == hold
            self.holds[worker] = (hold, known[1] if known and same else 0)
        self._collect(response.finished)

    @rule(worker=workers)
    def heartbeat(self, worker: str) -> None:
        if worker in self.holds:
            self.memory.apply(lambda d: t.heartbeat(d, self.holds[worker][0], TIMING))

    @rule(worker=workers)
    def record(self, worker: str) -> None:
        if worker in self.holds:
            hold, seq = self.holds[worker]
            if self.memory.append(A, hold.fence, seq + 1, f"{worker}.{seq} "):
                assert not self._ends(), "nobody adds to the log of a turn that has ended"
                self.holds[worker] = (hold, seq + 1)

    @rule(worker=workers)
    def complete(self, worker: str) -> None:
        if worker in self.holds:
            hold, seq = self.holds[worker]
            ending = Ending(state=TURN_STATE_COMPLETED, text=f"by {worker} {hold.claim_id}")
            done = self.memory.apply(lambda d: t.complete(d, hold, ending, seq, TIMING))
            assert done.HasField("finished") == (done.status == work.WRITE_STATUS_APPLIED)
            self._collect(done.finished)

    @rule(worker=workers, retryable=booleans(), wait=integers(0, 5_000))
    def fail(self, worker: str, retryable: bool, wait: int) -> None:  # noqa: FBT001 - drawn
        if worker in self.holds:
            ending = Ending(state=TURN_STATE_FAILED, reason="MODEL_AWAY")
            failure = t.Failure(ending=ending, retryable=retryable, retry_after_ms=wait)
            hold = self.holds[worker][0]
            done = self.memory.apply(lambda d: t.fail_attempt(d, hold, failure, TIMING))
            self._collect(done.finished)

    @rule(worker=workers, wait=integers(0, 5_000))
    def release(self, worker: str, wait: int) -> None:
        if worker in self.holds:
            hold = self.holds[worker][0]
            self.memory.apply(lambda d: t.release(d, hold, wait))

    @rule()
    def cancel(self) -> None:
        self.memory.apply(lambda d: t.cancel(d, A, "x", TIMING))
        self._collect()

    @precondition(lambda self: self.phase == CANCELLING)
    @rule()
    def finish_stop(self) -> None:
        text = text_of(self.memory.frames(A))
        self.memory.apply(lambda d: finish_stop(d, A, text, TIMING))
        self._collect()

    @rule(ms=integers(1, 20_000))
    def time_passes(self, ms: int) -> None:
        self.memory.now += ms

    @rule(ms=integers(1, 60_000))
    def the_clock_goes_back(self, ms: int) -> None:
        self.memory.now -= ms

    @rule(judge=booleans())
    def sweep(self, judge: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        if self.memory.due.get(A, self.memory.now + 1) <= self.memory.now:
            self._sweep(judge=judge)

    def _sweep(self, *, judge: bool) -> None:
        text = text_of(self.memory.frames(A))
        self.memory.apply(lambda d: sweep(d, A, text, TIMING, judge_leases=judge))
        self._collect()

    @precondition(lambda self: self.offered)
    @rule(number=integers(0, 20))
    def archive(self, number: int) -> None:
        self.row = self.row or self.offered[number % len(self.offered)]
        row = self.row
        self.memory.apply(lambda d: archived(d, row, TIMING))
        self._collect()

    def _ends(self) -> list[TurnOutcome]:
        """Return what watchers were shown as the end."""
        return [f.outcome for f in self.memory.frames(A) if f.HasField("outcome")]

    @invariant()
    def the_turn_ends_at_most_once(self) -> None:
        ends = self._ends()
        assert len(ends) <= 1
        assert not self.shown or self.shown == ends
        self.shown = ends
        if ends:
            assert self.memory.logs[A][-1][0].seq == TERMINAL_SEQ
        if A in self.memory.turns:
            assert bool(ends) == (self.phase in (TERMINAL, STUB))

    @invariant()
    def all_are_told_the_same_end(self) -> None:
        told = [one.outcome for one in self.offered] + self._ends()
        assert all(one == told[0] for one in told)

    @invariant()
    def the_session_is_busy_until_the_end_is_shown(self) -> None:
        session = self.memory.session
        if session is not None:
            assert session.session.active_turn_id == ("" if self._ends() else A)

    @invariant()
    def only_what_is_archived_leaves_the_clock(self) -> None:
        if A in self.memory.turns:
            assert (A in self.memory.due) == (self.phase != STUB)

    @invariant()
    def fences_only_grow_and_attempts_are_bounded(self) -> None:
        if A in self.memory.turns:
            turn = self.memory.turns[A]
            assert turn.fence >= self.fence
            self.fence = turn.fence
            assert 0 <= turn.attempt - turn.excused - turn.beside <= MAX_ATTEMPTS

    def teardown(self) -> None:
        """Leave it to the clock, a worker and the archive: the turn gets to its end."""
        for _ in range(60):
            if A not in self.memory.turns or self.phase == STUB:
                return
            if self.phase not in (TERMINAL, PROVISIONAL):
                self.claim("w1", again=False, from_lane=False)
                self.complete("w1")
            self.memory.now = max(self.memory.now, self.memory.due[A])
            self._sweep(judge=True)
            if self.offered:
                self.archive(0)
        raise AssertionError("the turn never ended")


TestOneTurn = OneTurn.TestCase
TestOneTurn.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, derandomize=True, database=None
)
