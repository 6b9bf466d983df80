"""One stream from this process to the session service: every turn's frames and heartbeats.

Frames of many turns travel together, at most one batch in every flush interval, and each turn has
at most one batch under way, which is sent again unchanged after a break. So the service can tell
what it has already, and nothing is lost or doubled.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import grpc

from maieutic.session.v1.turn_work_service_pb2 import (
    RecordTurnEventsRequest,
    RecordTurnEventsResponse,
    TurnEvents,
)
from services.agents.failures import TRANSIENT
from services.agents.recorded_turns import RecordedTurn, RecordedTurns, TurnListener
from services.agents.turn_log import TurnLog
from services.runtime import telemetry
from services.runtime.errors import Internal, ServiceError, Unavailable, from_rpc

if TYPE_CHECKING:  # the stub's asynchronous face exists for type checkers alone
    from maieutic.session.v1.turn_work_service_pb2_grpc import TurnWorkServiceAsyncStub

_LOG = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 1024 * 1024
"""Far below what a message may hold; after a long break texts of many turns wait."""
SECONDS_PER_TURN = 0.0003
"""That batches wait longer for each turn: one of many turns takes little more than one of a few."""
MOST_SECONDS = 0.075
"""That they wait longer, however many turns there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderOptions:
    """When the recorder sends, and when it gives up. Times in seconds."""

    flush_interval: float = 0.025
    """Between two batches, and a little more where hundreds of turns share them."""

    heartbeat_interval: float = 0.8
    """Between two renewals of the leases; a silent turn that is cancelled stops within this."""

    reply_timeout: float = 10.0
    """Without an answer for this long the stream is opened anew."""

    silence: float = 30.0
    """Without any answer for this long the turns are stopped: others may run them by now."""

    reconnect_pause: float = 1.0
    """Longest pause before a new stream; random, so that workers do not come back all at once."""

    def interval(self, turns: int) -> float:
        """Return the seconds between two batches where so many turns share them."""
        return self.flush_interval + min(turns * SECONDS_PER_TURN, MOST_SECONDS)


class Recorder:
    """Keeps the stream open and shares it among the turns."""

    def __init__(self, stub: "TurnWorkServiceAsyncStub", options: RecorderOptions) -> None:
        self._stub = stub
        self._options = options
        self._turns = RecordedTurns()
        self._last_reply = asyncio.get_running_loop().time()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, stub: "TurnWorkServiceAsyncStub", options: RecorderOptions
    ) -> AsyncIterator[Self]:
        """Record during the block."""
        recorder = cls(stub, options)
        tasks = [
            asyncio.create_task(recorder._keep_stream(), name="record stream"),
            asyncio.create_task(recorder._notice_silence(), name="record silence"),
        ]
        try:
            yield recorder
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @contextmanager
    def turn(
        self, *, turn_id: str, claim_id: str, fence: int, listener: TurnListener
    ) -> Iterator[RecordedTurn]:
        """Hold the lease of a claimed turn during the block, and record what it says."""
        log = TurnLog(turn_id=turn_id, claim_id=claim_id, fence=fence)
        turn = RecordedTurn(log, listener, self._turns)
        self._turns.add(turn)
        try:
            yield turn
        finally:
            self._turns.remove(turn)

    async def _keep_stream(self) -> None:
        while True:
            stream = _Stream(self._turns, self._options)
            try:
                await self._follow(stream)
            except ServiceError as error:
                # Logged once while the service stays away, but at every refusal.
                expected = isinstance(error, TRANSIENT) and not stream.answered_any
                level = logging.DEBUG if expected else logging.WARNING
                _LOG.log(level, "the record stream broke, opening it again: %s", error.message)
            await asyncio.sleep(random.uniform(0, self._options.reconnect_pause))  # noqa: S311 - no secret

    async def _follow(self, stream: "_Stream") -> None:
        """Send and read until the stream ends; raises ServiceError when it breaks."""
        try:
            async with asyncio.timeout(None) as patience:
                stream.opened(patience)
                with telemetry.untraced():
                    responses = self._stub.RecordTurnEvents(stream.requests())
                async for response in responses:
                    self._last_reply = asyncio.get_running_loop().time()
                    stream.answered(response)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
        except TimeoutError as error:
            raise Unavailable("the session service does not answer") from error
        finally:
            stream.close()

    async def _notice_silence(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._options.heartbeat_interval)
            limit = loop.time() - self._options.silence
            for turn in list(self._turns.held):
                if max(self._last_reply, turn.opened) < limit:
                    turn.listener.silent()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """What one request said of one turn."""

    turn: RecordedTurn
    fence: int
    events: TurnEvents | None


@dataclass(slots=True, kw_only=True)
class _Batch:
    """A request on its way, with what its answer will be about."""

    batch_id: int
    due: float
    """When its answer must be here."""
    request: RecordTurnEventsRequest
    sent: list[_Sent] = field(default_factory=list)


class _Stream:
    """One life of the stream: its requests in order, and whose answers are due."""

    def __init__(self, turns: RecordedTurns, options: RecorderOptions) -> None:
        self._turns = turns
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._unanswered: deque[_Batch] = deque()
        self._batch_id = 0
        self._next_flush = 0.0
        self._next_heartbeat = 0.0
        self._closed = False
        self._patience: asyncio.Timeout | None = None
        self.answered_any = False

    def opened(self, patience: asyncio.Timeout) -> None:
        """Let *patience* end when an answer is overdue."""
        self._patience = patience

    def close(self) -> None:
        """End the requests: gRPC may still wait for the next one of a broken stream."""
        self._patience = None
        self._closed = True
        self._turns.wake.set()

    async def requests(self) -> AsyncIterator[RecordTurnEventsRequest]:
        """Yield a request when there is something to say; never two in one flush interval."""
        self._turns.look_at_all()
        while True:
            await self._something_to_say()
            if self._closed:
                self._turns.wake.set()  # for the stream that comes after this one
                return
            if (batch := self._batch()).sent:
                self._unanswered.append(batch)
                self._expect_answer()
                yield batch.request

    def answered(self, response: RecordTurnEventsResponse) -> None:
        """Tell the turns of the oldest batch what became of it."""
        if not self._unanswered or self._unanswered[0].batch_id != response.batch_id:
            raise Internal("the session service answered a batch out of order")
        self.answered_any = True
        fenced, missing = set(response.fenced_turn_ids), set(response.missing_turn_ids)
        for sent in self._unanswered.popleft().sent:
            _tell(sent, fenced=fenced, missing=missing)
        self._expect_answer()

    async def _something_to_say(self) -> None:
        try:
            async with asyncio.timeout_at(self._next_heartbeat):
                await self._turns.wake.wait()
        except TimeoutError:
            pass  # time for a heartbeat
        # What follows shortly after an idle time goes at once, the rest waits for its neighbours.
        await asyncio.sleep(max(0.0, self._next_flush - self._loop.time()))
        self._turns.wake.clear()

    def _batch(self) -> _Batch:
        now = self._loop.time()
        self._batch_id += 1
        batch = _Batch(
            batch_id=self._batch_id,
            due=now + self._options.reply_timeout,
            request=RecordTurnEventsRequest(batch_id=self._batch_id),
        )
        self._add_events(batch)
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + self._options.heartbeat_interval
            self._add_heartbeats(batch)
        pause = self._options.interval(len(self._turns.held)) if batch.sent else 0.0
        self._next_flush = now + pause
        return batch

    def _add_events(self, batch: _Batch) -> None:
        size = 0
        while self._turns.changed:
            if size > MAX_REQUEST_BYTES:
                self._turns.wake.set()
                return
            turn = self._turns.next_changed()
            if (events := turn.to_send(self)) is not None:
                batch.request.events.append(events)
                batch.sent.append(_Sent(turn=turn, fence=turn.log.fence, events=events))
                size += events.ByteSize()

    def _add_heartbeats(self, batch: _Batch) -> None:
        for turn in self._turns.held:
            if not turn.log.suspended:
                batch.request.heartbeats.append(turn.log.heartbeat())
                batch.sent.append(_Sent(turn=turn, fence=turn.log.fence, events=None))

    def _expect_answer(self) -> None:
        if self._patience is not None:
            self._patience.reschedule(self._unanswered[0].due if self._unanswered else None)


def _tell(sent: _Sent, *, fenced: set[str], missing: set[str]) -> None:
    turn, log = sent.turn, sent.turn.log
    if log.turn_id not in fenced and log.turn_id not in missing:
        if sent.events is not None:
            turn.acknowledged(sent.events)
    elif log.suspended or log.fence != sent.fence:
        return  # known already, or about an earlier claim
    elif log.turn_id in fenced:
        turn.listener.fenced()
    else:
        log.suspended = True
        turn.listener.missing()
