"""The clock of unfinished work: takes what is overdue and moves it on."""

import asyncio
import logging
import time
from collections.abc import Callable

from maieutic.session.v1.record_pb2 import TurnRecord
from services.runtime import names, telemetry
from services.runtime.errors import ServiceError
from services.session.live import LiveSessions
from services.session.logs import story_of
from services.session.losses import Losses
from services.session.model import CANCELLING, WAITING, Draft, Timing
from services.session.ports import Reads, SessionStore
from services.session.publisher import Publisher
from services.session.sweeping import sweep

_log = logging.getLogger(__name__)

TAKE_AT_ONCE = 50
HOLD_MS = 5_000
"""A turn that is taken is left alone at least this long by others; if its taker dies, they try."""
MEMORY_LIMIT = 0.8


class Contact:
    """For how long the store has been in reach without a break.

    A silence as long as a lease is a break, too: this process may have been stopped, and its
    workers with it.
    """

    def __init__(self, longest_silence: float, *, clock: Callable[[], float]) -> None:
        self._longest_silence = longest_silence
        self._clock = clock
        self._since = self._last = clock()

    def seen(self) -> None:
        """Note that the store has answered."""
        now = self._clock()
        if now - self._last > self._longest_silence:
            self._since = now
        self._last = now

    def lost(self) -> None:
        """Note that the store has not answered."""
        self._since = self._last = self._clock()

    @property
    def seconds(self) -> float:
        """How long the contact has lasted."""
        return self._last - self._since


class Sweeper:
    """One runs in every replica; what two of them do twice is harmless."""

    def __init__(
        self,
        *,
        store: SessionStore,
        live: LiveSessions,
        publisher: Publisher,
        losses: Losses,
        timing: Timing,
        interval: float,
    ) -> None:
        self._store = store
        self._live = live
        self._publisher = publisher
        self._losses = losses
        self._timing = timing
        self._interval = interval
        self._contact = Contact(timing.lease / 1000, clock=time.monotonic)
        self._memory_share = 0.0

    def memory_full(self) -> bool:
        """Whether the store is so full that no new turns should be taken on."""
        return self._memory_share > MEMORY_LIMIT

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                await self._once()
            except ServiceError as error:
                # Workers could not renew their leases either: none is judged for a while.
                self._contact.lost()
                _log.warning("the sweep was broken off: %s", error)
            await asyncio.sleep(self._interval)

    async def _once(self) -> None:
        self._memory_share = (await self._store.pressure()).memory_share
        overdue = await self._store.take_overdue(HOLD_MS, TAKE_AT_ONCE)
        self._measure(len(overdue))
        self._contact.seen()
        await self._losses.look()
        await asyncio.gather(*map(self._sweep_alone, overdue))
        for shard in await self._store.out_shards():
            self._publisher.pump_soon(shard)
        await self._publisher.probe()

    def _measure(self, overdue: int) -> None:
        meters = telemetry.current()
        meters.counter(names.TURNS_SWEPT).add(overdue)
        meters.gauge(names.STORE_MEMORY).set(self._memory_share)
        meters.gauge(names.OLDEST_UNCONFIRMED).set(self._publisher.oldest_unconfirmed())

    async def _sweep_alone(self, turn_id: str) -> None:
        try:
            await self._sweep(turn_id)
        except ServiceError as error:
            _log.warning("turn %s is swept later: %s", turn_id, error.reason)
        except Exception:  # noqa: BLE001 - a supervision loop, see below
            # One turn that shows a bug must not stop the clock of all the others.
            _log.exception("turn %s could not be swept", turn_id)

    async def _sweep(self, turn_id: str) -> None:
        turn = await self._store.turn(turn_id)
        if turn is None:
            await self._store.forget_due(turn_id)
            return
        with telemetry.span(names.SWEEP_TURN, parent=telemetry.extract(turn.job.trace_context)):
            await self._move_on(turn_id, turn)

    async def _move_on(self, turn_id: str, turn: TurnRecord) -> None:
        partial = ""
        if turn.phase == CANCELLING:
            partial = (await story_of(self._store, turn_id)).text
        judge = self._contact.seconds >= self._timing.lease / 1000
        promotable = False

        async def prepare(draft: Draft) -> None:
            nonlocal promotable
            found = draft.turns.get(turn_id)
            waiting = found is not None and found.phase == WAITING
            promotable = waiting and await self._live.promotable(draft, turn.job)

        def decide(draft: Draft) -> None:
            sweep(
                draft,
                turn_id,
                partial,
                self._timing,
                judge_leases=judge,
                predecessor_over=promotable,
            )

        reads = Reads.of_job(turn.job, annotations=turn.phase == CANCELLING)
        _, draft = await self._live.transact(turn.job.message.session_id, decide, reads, prepare)
        self._publisher.after(draft)
