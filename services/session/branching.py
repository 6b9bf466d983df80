"""Branches: sessions that begin with another one's messages."""

from maieutic.v1 import session_service_pb2 as pb
from maieutic.v1.budget_pb2 import Spending
from services.session.archive import Archive
from services.session.errors import RequestIdTaken, SessionDeleted, session_not_found
from services.session.ids import Ids, checked, checked_message
from services.session.limits import SessionLimits
from services.session.live import LiveSessions, owned
from services.session.model import Caller, Draft, timestamp, window_messages, window_position
from services.session.operations import done_before, done_now, request_hash
from services.session.ports import Reads, SessionStore
from services.session.spending import set_budget


class Branching:
    """Makes branches. Raises the errors of `errors`, NotFound and Unavailable.

    A branch comes into being in the archive, in one transaction: there the parent's messages are,
    also those that have left its window. The window goes along, since the archive may lag. From
    there the branch is brought into the live store as any session is. So there is no moment in
    which a part of it exists, whatever dies, and nothing of the parent is needed any more.
    """

    def __init__(
        self,
        *,
        store: SessionStore,
        live: LiveSessions,
        archive: Archive,
        ids: Ids,
        limits: SessionLimits,
    ) -> None:
        self._store = store
        self._live = live
        self._archive = archive
        self._ids = ids
        self._limits = limits

    async def branch(self, caller: Caller, request: pb.BranchSessionRequest) -> pb.Session:
        """Make the branch, or return the one that this request id made."""
        checked("session_id", request.session_id)
        checked_message(request.message_id)
        branch_id = self._ids.branch(request.session_id, request.request_id)
        reads = Reads(operation=request.request_id)

        def known(draft: Draft) -> pb.Session | None:
            return _made_before(draft, caller, request) if draft.session is not None else None

        # First, since the branch may have outlived its parent.
        if (branch := (await self._live.transact(branch_id, known, reads))[0]) is not None:
            return branch
        _, parent = await self._live.transact(
            request.session_id,
            lambda draft: owned(draft.session, draft.session_id, caller.tenant, caller.user),
            Reads(window=True, annotations=True),
        )
        await self._limits.require_room(caller)
        # Before the branch is there, so that no other request under this id ever finds it.
        await self._store.transact(branch_id, lambda draft: _claim_id(draft, request), reads)
        await self._store.list_add(caller.key, branch_id, parent.now_ms)
        created = await self._archive.create_branch(
            caller.tenant,
            branch_of(parent, request, branch_id),
            window_messages(parent),
            window_position(parent),
            parent.kept_annotations.findings,
        )
        return await self._brought_here(caller, branch_id, request, created=created)

    async def _brought_here(
        self, caller: Caller, branch_id: str, request: pb.BranchSessionRequest, *, created: bool
    ) -> pb.Session:
        def decide(draft: Draft) -> pb.Session:
            session = _made_before(draft, caller, request)
            if created:
                # Made just now: no outcome of an earlier life can be on its way to the archive.
                draft.record.restored = False
            return session

        reads = Reads(operation=request.request_id)
        session, _ = await self._live.transact(branch_id, decide, reads)
        return session


def branch_of(parent: Draft, request: pb.BranchSessionRequest, branch_id: str) -> pb.Session:
    """Return the branch as it begins; how many messages it has is known to the archive."""
    session = parent.record.session
    branch = pb.Session(
        session_id=branch_id,
        user_id=session.user_id,
        title=request.title or session.title,
        mode=session.mode,
        metadata=session.metadata,
        document_ids=session.document_ids,
        revision=parent.now_ms,
        create_time=timestamp(parent.now_ms),
        last_used_time=timestamp(parent.now_ms),
        parent_session_id=session.session_id,
        parent_message_id=request.message_id,
    )
    if session.HasField("budget"):
        set_budget(branch, session.budget, Spending())
    return branch


def _claim_id(draft: Draft, request: pb.BranchSessionRequest) -> None:
    digest = request_hash(request)
    if not done_before(draft, digest):
        done_now(draft, request.request_id, digest)


def _made_before(draft: Draft, caller: Caller, request: pb.BranchSessionRequest) -> pb.Session:
    # Its id says nothing of who asks.
    record = draft.session
    if record is None or (record.tenant, record.session.user_id) != (caller.tenant, caller.user):
        raise session_not_found(request.session_id)
    if record.tombstone:
        raise SessionDeleted
    done_before(draft, request_hash(request))
    if record.session.parent_message_id != request.message_id:  # the marker lasts for a day
        raise RequestIdTaken
    return record.session
