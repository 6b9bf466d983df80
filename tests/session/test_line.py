"""Turns in line, in any order of what can happen to them, beside a list that knows the order."""

from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from hypothesis.strategies import booleans, data, integers, sampled_from

from maieutic.bus.v1.bus_pb2 import TurnFinished
from maieutic.v1.turn_service_pb2 import (
    BUSY_POLICY_ENQUEUE as ENQUEUE,
    BUSY_POLICY_INTERRUPT as INTERRUPT,
    BUSY_POLICY_REJECT as REJECT,
    BUSY_POLICY_ROLLBACK as ROLLBACK,
    TURN_STATE_COMPLETED,
    TURN_STATE_FAILED,
    BusyPolicy,
)
from services.session import transitions as t
from services.session.beginning import begin
from services.session.ending import Ending, archived, finish_stop
from services.session.errors import LineFull, SessionBusy
from services.session.model import PROVISIONAL, STUB, TERMINAL, WAITING
from services.session.sweeping import sweep
from tests.session.drafts import TIMING, Memory, job, turn_id

MOST = 3


class Line(RuleBasedStateMachine):
    """Each step is one transaction; the list below says who runs and who waits."""

    @initialize(restored=booleans())
    def make(self, restored: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        self.memory = Memory.with_session(restored=restored)
        self.running = ""
        self.waiting: list[str] = []
        self.policies: dict[str, BusyPolicy.ValueType] = {}
        self.started: list[str] = []
        """Turns in the order in which they became active."""

    @rule(policy=sampled_from([REJECT, ENQUEUE, INTERRUPT, ROLLBACK]))
    def ask(self, policy: BusyPolicy.ValueType) -> None:
        name = f"n{len(self.policies)}"
        turn, new = turn_id(name), job(name, policy=policy)
        try:
            self.memory.apply(lambda d: begin(d, new, TIMING, most_waiting=MOST))
        except (SessionBusy, LineFull) as refused:
            full = isinstance(refused, LineFull)
            assert self.running
            assert policy == (ENQUEUE if full else REJECT)
            assert not full or len(self.waiting) >= MOST
            return
        self.policies[turn] = policy
        if not self.running:
            self.start(turn)
        elif policy == ENQUEUE:
            assert len(self.waiting) < MOST
            self.waiting.append(turn)
        else:
            if self.waiting and self.policies[self.waiting[0]] in (INTERRUPT, ROLLBACK):
                del self.waiting[0]
            self.waiting.insert(0, turn)

    def start(self, turn: str) -> None:
        self.running = turn
        self.started.append(turn)

    def phase(self, turn: str) -> int:
        return self.memory.turns[turn].phase

    def next_starts(self) -> None:
        """If the turn that ran is over, the first in line runs."""
        if self.running and self.phase(self.running) in (TERMINAL, STUB):
            self.running = ""
            if self.waiting:
                self.start(self.waiting.pop(0))

    def claim(self) -> t.Hold | None:
        turn = self.running
        who = t.Claimant(worker_id="w", claim_id=f"c{len(self.memory.published)}")
        response = self.memory.apply(lambda d: t.claim(d, turn, who, TIMING))
        if not response.HasField("claim"):
            return None
        return t.Hold(turn_id=turn, fence=response.claim.fence, claim_id=who.claim_id)

    @precondition(lambda self: self.running)
    @rule(how=sampled_from(["complete", "fail", "retry", "release", "leave"]))
    def work(self, how: str) -> None:
        if (hold := self.claim()) is None:
            return
        answer = Ending(state=TURN_STATE_COMPLETED, text="Because.")
        failure = t.Failure(
            ending=Ending(state=TURN_STATE_FAILED), retryable=how == "retry", retry_after_ms=0
        )
        if how == "complete":
            self.memory.apply(lambda d: t.complete(d, hold, answer, 0, TIMING))
        elif how in ("fail", "retry"):
            self.memory.apply(lambda d: t.fail_attempt(d, hold, failure, TIMING))
        elif how == "release":
            self.memory.apply(lambda d: t.release(d, hold, 0))
        self.next_starts()

    @precondition(lambda self: self.policies)
    @rule(draw=data())
    def cancel(self, draw: object) -> None:
        turn = draw.draw(sampled_from(sorted(self.policies)))  # type: ignore[attr-defined]
        self.memory.apply(lambda d: t.cancel(d, turn, "x", TIMING))
        if turn in self.waiting:
            self.waiting.remove(turn)

    @precondition(lambda self: self.running)
    @rule()
    def finish_stop(self) -> None:
        turn = self.running
        self.memory.apply(lambda d: finish_stop(d, turn, "half", TIMING))
        self.next_starts()

    @rule(seconds=integers(0, 700), judge=booleans())
    def expire(self, seconds: int, judge: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        self.memory.now += seconds * 1000
        for turn, due in sorted(self.memory.due.items()):
            if due > self.memory.now:
                continue
            over = not self.running
            self.memory.apply(
                lambda d, turn=turn, over=over: sweep(  # type: ignore[misc]
                    d, turn, "half", TIMING, judge_leases=judge, predecessor_over=over
                )
            )
            self.next_starts()

    @precondition(lambda self: self.policies)
    @rule(draw=data())
    def archive(self, draw: object) -> None:
        turn = draw.draw(sampled_from(sorted(self.policies)))  # type: ignore[attr-defined]
        if self.phase(turn) in (TERMINAL, PROVISIONAL):
            self.confirm(turn)

    def confirm(self, turn: str) -> None:
        row = TurnFinished.FromString(self.memory.turns[turn].finished.SerializeToString())
        self.memory.apply(lambda d: archived(d, row, TIMING))
        self.next_starts()

    @invariant()
    def the_line_is_as_it_should_be(self) -> None:
        assert self.memory.session is not None
        assert list(self.memory.session.waiting_turn_ids) == self.waiting
        assert self.memory.session.session.active_turn_id == self.running
        assert {turn for turn in self.policies if self.phase(turn) == WAITING} == set(self.waiting)

    @invariant()
    def positions_have_no_gaps(self) -> None:
        assert self.memory.session is not None
        session = self.memory.session
        messages = [self.memory.messages[entry.message_id] for entry in session.window]
        last = session.next_position - 1
        assert [m.position for m in messages] == list(range(last - len(messages) + 1, last + 1))
        assert session.session.message_count == last

    @invariant()
    def nobody_starts_or_ends_twice(self) -> None:
        assert len(set(self.started)) == len(self.started)
        for turn in self.policies:
            ended = self.phase(turn) in (TERMINAL, STUB)
            assert self.memory.kinds(turn).count("outcome") == ended

    def teardown(self) -> None:
        """Let everything end: each turn that was accepted does."""
        for _ in range(10 * len(getattr(self, "policies", ()))):
            if self.running and self.phase(self.running) == PROVISIONAL:
                self.confirm(self.running)
            elif self.running:
                self.memory.now = max(self.memory.now, self.memory.due[self.running])
                self.finish_stop()
                self.work("complete")
                self.expire(0, judge=True)
        if hasattr(self, "memory"):
            assert (self.running, self.waiting) == ("", [])
            over = {TERMINAL, PROVISIONAL, STUB}
            assert {self.phase(turn) for turn in self.policies} <= over


TestLine = Line.TestCase
TestLine.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True, database=None
)
