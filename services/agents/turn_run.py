"""One job, from its delivery to its answer: claim, run the agent, commit, publish."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any, Protocol, TypeVar

from maieutic.bus.v1.bus_pb2 import RunTurn, TurnFinished
from maieutic.session.v1.turn_work_service_pb2 import (
    WRITE_STATUS_APPLIED,
    WRITE_STATUS_FENCED,
    WRITE_STATUS_MISSING,
    BudgetRefused,
    CompleteTurnResponse,
    FailTurnResponse,
    ReserveBudgetRequest,
    ReserveBudgetResponse,
    TurnClaim,
    WriteStatus,
)
from maieutic.v1.turn_service_pb2 import Usage
from services.agents import publishing
from services.agents.accounts import Account, Accounts
from services.agents.budget import TurnBudget
from services.agents.cancelling import is_own_cancel
from services.agents.crew import Crew
from services.agents.errors import (
    LogBehind,
    SessionSilent,
    TurnOver,
    TurnStopped,
    WorkerDraining,
)
from services.agents.failures import (
    TIME_BUDGET,
    Failure,
    Postponement,
    failure_of,
    postponement_of,
    wait_before_retry,
)
from services.agents.ports import Answer
from services.agents.recorded_turns import RecordedTurn
from services.agents.recorder import Recorder
from services.agents.turn_agents import TurnAgents
from services.agents.turn_work import TurnWork
from services.runtime import telemetry
from services.runtime.bus import Bus
from services.runtime.errors import ServiceError

_LOG = logging.getLogger(__name__)

T = TypeVar("T")


class Disposition(Enum):
    """What becomes of the deliveries of a job."""

    ACK = "ack"
    LEFT = "ack, but the turn may not be over"
    REQUEUE = "requeue"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnParts:
    """What every run of this process shares."""

    work: TurnWork
    recorder: Recorder
    bus: Bus
    crew: Crew
    accounts: Accounts


class _Response(Protocol):
    """What the commits have in common."""

    @property
    def status(self) -> WriteStatus.ValueType: ...


class _Ending(_Response, Protocol):
    """What CompleteTurn and FailTurn have in common."""

    @property
    def finished(self) -> TurnFinished: ...

    def HasField(self, field_name: Any, /) -> bool: ...  # noqa: N802 - protobuf's name


R = TypeVar("R", bound=_Response)
E = TypeVar("E", bound=_Ending)


class TurnRun:
    """Runs one job under one claim id; hears from the recorder what becomes of its lease."""

    def __init__(self, *, job: RunTurn, claim_id: str, from_lane: bool, parts: TurnParts) -> None:
        self._job = job
        self._claim_id = claim_id
        self._from_lane = from_lane
        self._parts = parts
        self._turn: RecordedTurn | None = None
        self._stopped: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._ending = False
        self._claiming = asyncio.Lock()
        self._reclaim: asyncio.Task[None] | None = None
        self._agents = TurnAgents(job=job, work=parts.work, crew=parts.crew, commit=self._commit)
        self._account = Account(claim_id)

    async def run(self) -> Disposition:
        """Run the job to its end; ServiceError if the session service refuses a call."""
        with self._parts.accounts.kept(self._job.turn_id, self._account):
            try:
                disposition, finished = await self._ran()
            except ServiceError:
                await self._tell(None)
                raise
        await self._tell(finished)
        return disposition

    async def _ran(self) -> tuple[Disposition, TurnFinished | None]:
        """Run the job; returns what becomes of its deliveries, and the outcome if there is one."""
        try:
            finished = await self._outcome()
        except TurnOver as over:
            finished = over.finished
        except (SessionSilent, WorkerDraining):
            return Disposition.REQUEUE, None
        return Disposition.LEFT if finished is None else Disposition.ACK, finished

    async def _tell(self, finished: TurnFinished | None) -> None:
        """Tell the archive the outcome, and first what was consumed besides it.

        Nobody else knows that: of an outcome the session service reminds the archive.
        """
        told = finished.outcome.usage if finished is not None else ()
        if consumed := self._account.besides(told):
            message = publishing.used(self._job, self._claim_id, consumed)
            await publishing.confirmed(self._parts.bus, message)
        if finished is not None:
            await publishing.confirmed(self._parts.bus, publishing.outcome(finished))
        await self._settle(told)

    async def _settle(self, told: Iterable[Usage]) -> None:
        """Tell the turn's budgets what they have not heard; else they count with the most."""
        if untold := self._account.reserved_ended(besides=told):
            try:
                await self._parts.work.settle(self._job.turn_id, untold)
            except ServiceError as error:
                _LOG.warning("turn %s: not settled: %s", self._job.turn_id, error.reason)

    def fenced(self) -> None:
        """See `TurnListener`. While an outcome is under way its own answer tells."""
        if not self._ending:
            self._stop(TurnOver())

    def missing(self) -> None:
        """See `TurnListener`: claim again, while the agent goes on."""
        if self._turn is not None:
            self._reclaim = asyncio.create_task(self._claim_again_or_stop(self._turn.log.fence))

    def silent(self) -> None:
        """See `TurnListener`."""
        self._stop(SessionSilent())

    def drain(self) -> None:
        """Hand the turn back: the process is about to end."""
        self._stop(WorkerDraining())

    def _stop(self, reason: Exception) -> None:
        if not self._stopped.done():
            self._stopped.set_result(reason)

    async def _outcome(self) -> TurnFinished | None:
        """Return what is to be published, or None if there is nothing; raises TurnStopped."""
        claim = await self._unless_stopped(self._claim())
        recorded = self._parts.recorder.turn(
            turn_id=self._job.turn_id, claim_id=self._claim_id, fence=claim.fence, listener=self
        )
        with recorded as turn:
            self._turn = turn
            if claim.budgeted:
                self._account.budget = TurnBudget(partial(self._reserve, turn))
            try:
                return await self._unless_stopped(self._attempt(turn, claim))
            except WorkerDraining:
                await self._release(turn)
                return None
            finally:
                if self._reclaim is not None:
                    await _end(self._reclaim)

    async def _release(self, turn: RecordedTurn, seconds: float = 0.0) -> None:
        """Hand the turn back for so long.

        Raises WorkerDraining if only its job can bring it back.
        """
        response = await self._parts.work.release(turn.log, seconds, self._account.besides(()))
        if response.status == WRITE_STATUS_MISSING:
            raise WorkerDraining

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work, or stop it at once and raise why."""
        task = asyncio.create_task(work)
        try:
            either: set[asyncio.Future[Any]] = {task, self._stopped}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise self._stopped.result()
            return task.result()
        finally:
            await _end(task)

    async def _claim(self) -> TurnClaim:
        """Claim the turn; raises TurnOver if there is nothing to do."""
        response = await self._parts.work.claim(
            self._job, self._claim_id, from_lane=self._from_lane
        )
        if response.HasField("claim"):
            telemetry.link_to(response.claim.earlier_traceparents)
            return response.claim
        finished = response.finished if response.HasField("finished") else None
        raise TurnOver(finished)

    async def _claim_again(self, turn: RecordedTurn, lost_fence: int) -> None:
        """Bring the turn back from its job, under the same claim id, and go on."""
        async with self._claiming:
            if turn.log.fence != lost_fence:
                return  # done meanwhile
            turn.log.suspended = True
            turn.resume((await self._claim()).fence)
            # At once: whatever becomes of the turn, its outcome is to name what is finished.
            await self._agents.tell_all(turn)

    async def _claim_again_or_stop(self, lost_fence: int) -> None:
        if self._turn is None:
            return
        try:
            await self._claim_again(self._turn, lost_fence)
        except (TurnStopped, ServiceError) as reason:
            self._stop(reason)

    async def _attempt(self, turn: RecordedTurn, claim: TurnClaim) -> TurnFinished | None:
        answer = await self._answered(turn, claim)
        if isinstance(answer, Postponement):
            await self._release(turn, answer.seconds)
            return None
        if isinstance(answer, Answer):
            return await self._ended(turn, lambda seq: self._complete(turn, seq, answer))
        return await self._ended(turn, lambda seq: self._fail(turn, seq, answer))

    async def _answered(
        self, turn: RecordedTurn, claim: TurnClaim
    ) -> Answer | Failure | Postponement:
        budget = asyncio.timeout(_left(claim))
        try:
            async with budget:
                return await self._agents.answer(turn, claim)
        except TurnStopped:
            raise
        # The edge of the agents' code: whatever an agent raises ends this attempt, not the worker.
        except (Exception, asyncio.CancelledError) as error:
            if is_own_cancel(error):
                raise
            if isinstance(error, TimeoutError) and budget.expired():
                return TIME_BUDGET
            if self._account.budget is not None and self._account.budget.refused is not None:
                return _not_allowed(self._account.budget.refused)
            chance = random.random()  # noqa: S311 - no secret
            if (postponement := postponement_of(error, _left(claim), chance)) is not None:
                return postponement
            failure = failure_of(error)
            log = _LOG.exception if failure.reason == "AGENT_ERROR" else _LOG.warning
            log("turn %s: attempt %d failed: %s", self._job.turn_id, claim.attempt, failure.reason)
            wait = wait_before_retry(failure.retry_after, claim.attempt, chance)
            return replace(failure, retry_after=wait) if failure.retryable else failure

    async def _reserve(
        self, turn: RecordedTurn, call: ReserveBudgetRequest
    ) -> ReserveBudgetResponse:
        work, account = self._parts.work, self._account
        return await self._commit(
            turn, lambda _: work.reserve(turn.log, call, account.reserved_ended()), recorded=False
        )

    async def _complete(
        self, turn: RecordedTurn, last_seq: int, answer: Answer
    ) -> CompleteTurnResponse:
        await self._agents.tell_again(turn)
        steps = self._agents.committed
        return await self._parts.work.complete(turn.log, last_seq, answer, steps)

    async def _fail(self, turn: RecordedTurn, last_seq: int, failure: Failure) -> FailTurnResponse:
        await self._agents.tell_again(turn)
        consumed = self._account.besides(self._agents.consumed)
        steps = self._agents.committed
        return await self._parts.work.fail(turn.log, last_seq, failure, consumed, steps)

    async def _ended(
        self, turn: RecordedTurn, send: Callable[[int], Awaitable[E]]
    ) -> TurnFinished | None:
        """Commit the outcome; None if the turn is to run again."""

        async def ending(last_seq: int) -> E:
            self._ending = True
            try:
                return await send(last_seq)
            finally:
                self._ending = False

        response = await self._commit(turn, ending)
        return response.finished if response.HasField("finished") else None

    async def _commit(
        self,
        turn: RecordedTurn,
        send: Callable[[int], Awaitable[R]],
        *,
        recorded: bool = True,
    ) -> R:
        """Commit once every frame is *recorded*, if that matters; raises TurnOver.

        It is raised if another outcome stands.
        """
        while True:
            last_seq = await turn.recorded() if recorded else 0
            fence = turn.log.fence
            try:
                response = await send(last_seq)
            except LogBehind:
                turn.restate()
                continue
            if response.status == WRITE_STATUS_APPLIED:
                return response
            claimed_again = turn.log.suspended or turn.log.fence != fence
            if response.status == WRITE_STATUS_FENCED and not claimed_again:
                raise TurnOver
            await self._claim_again(turn, fence)


def _not_allowed(refused: BudgetRefused) -> Failure:
    return Failure(
        reason=refused.reason,
        explanation=refused.explanation,
        retryable=False,
        over_budget=refused.over_budget,
    )


def _left(claim: TurnClaim) -> float:
    """Return the seconds that are left of the turn's time budget."""
    return claim.deadline.ToMicroseconds() / 1e6 - time.time()


async def _end(task: asyncio.Task[Any]) -> None:
    """Cancel the task if it is not over, and wait until it is, whatever it says."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
