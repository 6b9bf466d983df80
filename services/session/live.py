"""Transactions on a session that may have left the live store: it is brought back first."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TypeVar

from maieutic.archive.v1.archive_service_pb2 import GetSessionSnapshotResponse
from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1.record_pb2 import SessionRecord
from maieutic.v1.session_service_pb2 import Session
from services.runtime.errors import NotFound
from services.session.archive import Archive
from services.session.archive_turns import ArchiveTurns, AsksArchive, hurried
from services.session.errors import RecordDamaged, session_not_found
from services.session.model import (
    STUB,
    TERMINAL,
    Caller,
    Draft,
    Timing,
    answer_id,
    in_window,
    milliseconds,
)
from services.session.ports import Reads, SessionStore
from services.session.restoring import adopt_survivors, refill, restore
from services.session.spending import accounted, bring_back, known_here

T = TypeVar("T")


class _Gone(Exception):
    """The session's record is absent, or its turns are not all watched yet."""

    def __init__(self, turn_ids: frozenset[str]) -> None:
        super().__init__()
        self.turn_ids = turn_ids


@dataclass(slots=True, kw_only=True)
class _Preparation:
    """What comes before a decision, with what earlier tries have shown."""

    restore: Callable[[Draft, frozenset[str]], Awaitable[None]]
    prepare: Callable[[Draft], Awaitable[None]] | None
    turn_ids: frozenset[str] = frozenset()
    """The turns that a session to be restored has."""
    hurries: bool = True
    damaged: bool = False

    def reads(self, reads: Reads) -> Reads:
        return replace(reads, turns=[*{*reads.turns, *self.turn_ids}]) if self.turn_ids else reads

    async def __call__(self, draft: Draft) -> None:
        self.damaged = self.damaged or draft.damaged
        if draft.session is not None and self.prepare is None:
            return
        with hurried(self.hurries):
            if draft.session is None:
                await self.restore(draft, self.turn_ids)
            if self.prepare is not None:
                await self.prepare(draft)


class LiveSessions:
    """Finds each session live or restores it, in one atomic step with what the caller decides."""

    def __init__(
        self, store: SessionStore, archive: Archive, timing: Timing, turns: ArchiveTurns
    ) -> None:
        self._store = store
        self._archive = archive
        self._timing = timing
        self._turns = turns

    async def transact(
        self,
        session_id: str,
        decide: Callable[[Draft], T],
        reads: Reads = Reads(),  # noqa: B008 - frozen
        prepare: Callable[[Draft], Awaitable[None]] | None = None,
    ) -> tuple[T, Draft]:
        """Like the store's own, with the session restored if the archive knows it.

        A deleted session is a tombstone in the draft; an unknown one leaves it without a session.
        Raises Unavailable if the archive is needed and too slow, and RecordDamaged of a session
        that could not be read and that the archive does not know.
        """
        own = _Preparation(restore=self._restore, prepare=prepare)
        async with AsyncExitStack() as turn:
            while True:
                try:
                    return await self._store.transact(session_id, decide, own.reads(reads), own)
                except _Gone as gone:
                    own.turn_ids = gone.turn_ids
                except AsksArchive:
                    await turn.enter_async_context(self._turns.one())
                    own.hurries = False
                except NotFound as error:
                    if own.damaged:
                        raise RecordDamaged from error
                    raise

    async def _restore(self, draft: Draft, watched: frozenset[str]) -> None:
        """Restore under the watch of every turn concerned.

        What the archive says is only worth something if it was read after the watch began: an
        outcome that is archived meanwhile leaves a stub, and that is a conflict.
        """
        snapshot = await self._archive.snapshot(draft.session_id)
        if snapshot.deleted:
            # As if the tombstone were still here; it is not written back.
            draft.session = SessionRecord(
                tenant=snapshot.tenant, session=snapshot.session, tombstone=True
            )
            draft.turns_removed.update(draft.turns)
            draft.turns.clear()
            return
        if snapshot.HasField("session"):
            await self._bring_back(draft, snapshot, watched)
        else:
            adopt_survivors(draft, self._timing)
        if draft.session is not None:
            await self._list(draft.session)

    async def _bring_back(
        self, draft: Draft, snapshot: GetSessionSnapshotResponse, watched: frozenset[str]
    ) -> None:
        unfinished = frozenset(job.turn_id for job in snapshot.unfinished)
        if not unfinished <= watched:
            raise _Gone(unfinished | watched)
        if snapshot.session.HasField("budget"):
            await self._account(draft, snapshot.session, unfinished)
        restore(draft, snapshot, self._timing)

    async def _list(self, record: SessionRecord) -> None:
        """Put it on its user's list of live sessions: listing has taken it off since it left."""
        session = record.session
        owner = Caller(tenant=record.tenant, user=session.user_id)
        made = milliseconds(session.create_time)
        await self._store.list_add(owner.key, session.session_id, made)

    async def _account(self, draft: Draft, session: Session, unfinished: frozenset[str]) -> None:
        """Let a session that comes back know what it has spent; its turns may still be here.

        A turn that is unfinished is counted by its end, which the accounts may have by now.
        """
        here = known_here(draft.turns.values())
        ids = unfinished.union(turn.job.turn_id for turn in here)
        accounts = await self._archive.statistics(draft.session_id, ids)
        bring_back(session, accounted(session.budget, accounts, here))

    async def predecessor_over(self, draft: Draft, job: RunTurn) -> bool:
        """Whether the turn before this one is sealed here, or has ended in the archive."""
        if not job.predecessor_turn_id:
            return True
        before = draft.turns.get(job.predecessor_turn_id)
        if before is not None:
            return before.phase in (TERMINAL, STUB)
        row = await self._archive.turn(job.predecessor_turn_id, draft.session_id)
        return row.HasField("finished")

    async def promotable(self, draft: Draft, job: RunTurn) -> bool:
        """Whether a waiting turn may start; its window then has what was said before it.

        A turn before it that nobody knows will never end: nothing waits for that one.
        """
        before = job.predecessor_turn_id
        if draft.session is None or draft.record.session.active_turn_id:
            return False
        if not await self.predecessor_over(draft, job):
            row = await self._archive.turn(before, draft.session_id)
            if before in draft.turns or row.HasField("job"):
                return False
        if before and not in_window(draft.record, answer_id(before)):
            snapshot = await self._archive.snapshot(draft.session_id)
            unfinished = {job.turn_id for job in snapshot.unfinished}
            refill(draft, [m for m in snapshot.window if m.turn_id not in unfinished])
        return True


def owned(session: SessionRecord | None, session_id: str, tenant: str, user: str) -> SessionRecord:
    """Return the session if it is this user's; raises NotFound, the same for every other case."""
    if session is None or session.tombstone:
        raise session_not_found(session_id)
    if (session.tenant, session.session.user_id) != (tenant, user):
        raise session_not_found(session_id)
    return session
