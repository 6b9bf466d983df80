"""A small archive that works: it keeps what it is told, and can be taken away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from maieutic.archive.v1 import archive_service_pb2 as pb
from maieutic.archive.v1.archive_service_pb2_grpc import (
    ArchiveServiceServicer,
    add_ArchiveServiceServicer_to_server,
)
from maieutic.archive.v1.artifact_store_service_pb2_grpc import (
    add_ArtifactStoreServiceServicer_to_server,
)
from maieutic.bus.v1.bus_pb2 import (
    RunTurn,
    SessionAnnotations,
    SessionChanged,
    SessionDeleted,
    TurnFinished,
)
from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2 import (
    SESSION_ORDER_LAST_USED_FIRST,
    SESSION_ORDER_OLDEST_FIRST,
    Session,
    SessionStatistics,
)
from maieutic.v1.usage_service_pb2 import GetUsageResponse, UsageTotal
from maieutic.v1.usage_service_pb2_grpc import (
    UsageServiceServicer,
    add_UsageServiceServicer_to_server,
)
from services.persistence.branching import carried, found_in
from services.runtime.errors import NotFound, Unavailable, Unimplemented
from services.runtime.server import RunningServer, ServerOptions, serving
from tests.fakes.artifact_store import ArtifactStore


@dataclass
class ColdArchive(ArchiveServiceServicer):
    """Sessions, turns and messages in dictionaries, served as the archive is."""

    sessions: dict[str, SessionChanged] = field(default_factory=dict)
    deleted: dict[str, SessionDeleted] = field(default_factory=dict)
    accepted: dict[str, RunTurn] = field(default_factory=dict)
    finished: dict[str, TurnFinished] = field(default_factory=dict)
    annotations: dict[str, SessionAnnotations] = field(default_factory=dict)
    branched: dict[str, Sequence[Message]] = field(default_factory=dict)
    """The messages that branches began with."""
    away: bool = False
    full: bool = False
    """Reads are answered, a branch cannot be stored."""
    old: bool = False
    """Whether it is of the version before, which counts no sessions."""
    most: int = 1000
    """No answer has more messages or sessions, as if they were too large for more."""
    before_messages: Callable[[], Awaitable[None]] | None = None
    """Runs before messages are listed."""
    after_turn: Callable[[], Awaitable[None]] | None = None
    """Runs when a turn was looked for, before the answer goes out."""
    before_statistics: Callable[[], object] | None = None
    """Runs before the accounts are read."""
    reads: int = 0
    counts: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is not set, counting sessions takes for ever."""

    def __post_init__(self) -> None:
        self.artifacts = ArtifactStore(self.finished)
        self.counts.set()

    def keep(self, row: TurnFinished) -> TurnFinished:
        """Keep the first outcome of a turn and return the one that stands."""
        return self.finished.setdefault(row.job.turn_id, row)

    def change(self, changed: SessionChanged) -> None:
        session_id = changed.session.session_id
        held = self.annotations.get(session_id)
        if changed.HasField("annotations") and (
            held is None or held.revision < changed.annotations.revision
        ):
            self.annotations[session_id] = changed.annotations
        known = self.sessions.get(session_id)
        if known is None or known.session.revision < changed.session.revision:
            self.sessions[changed.session.session_id] = changed

    def messages(self, session_id: str) -> list[Message]:
        """Return all messages of a session, oldest first."""
        found: dict[str, Message] = {}
        for job in self.accepted.values():
            found[job.message.message_id] = job.message
        for row in self.finished.values():
            # A turn that was rolled back, or that never left the line, has no position.
            found[row.job.message.message_id] = row.job.message
            if row.HasField("answer"):
                found[row.answer.message_id] = row.answer
        mine = [m for m in found.values() if m.session_id == session_id and m.position]
        mine += self.branched.get(session_id, [])
        return sorted(mine, key=lambda message: message.position)

    def _answering(self) -> None:
        self.reads += 1
        if self.away:
            message = "the archive is away"
            raise Unavailable(message, retry_after=1.0)

    async def GetSessionSnapshot(self, request: Any, context: Any) -> Any:
        self._answering()
        session_id = request.session_id
        if session_id in self.deleted:
            tombstone = self.deleted[session_id]
            snapshot = pb.GetSessionSnapshotResponse(deleted=True, tenant=tombstone.tenant)
            snapshot.session.session_id = session_id
            snapshot.session.user_id = tombstone.user_id
            return snapshot
        if session_id not in self.sessions:
            return pb.GetSessionSnapshotResponse()
        changed, messages = self.sessions[session_id], self.messages(session_id)
        jobs = [j for j in self.accepted.values() if j.message.session_id == session_id]
        spoken = [job.turn_id for job in jobs if job.lane == "interactive"]
        return pb.GetSessionSnapshotResponse(
            tenant=changed.tenant,
            session=changed.session,
            window=messages[-request.window :],
            unfinished=[job for job in jobs if job.turn_id not in self.finished],
            last_position=max((m.position for m in messages), default=0),
            last_turn_id=spoken[-1] if spoken else "",
            annotations=self.annotations.get(session_id),
        )

    async def ListArchivedSessions(self, request: Any, context: Any) -> Any:
        self._answering()
        mine = [
            changed.session
            for changed in self.sessions.values()
            if (changed.tenant, changed.session.user_id) == (request.tenant, request.user_id)
            and changed.session.session_id not in self.deleted
        ]
        used = request.order == SESSION_ORDER_LAST_USED_FIRST
        oldest = request.order == SESSION_ORDER_OLDEST_FIRST

        def place_of(session: Session) -> tuple[int, str]:
            at = session.last_used_time if used else session.create_time
            return at.ToMilliseconds(), session.session_id

        ordered = sorted(mine, key=place_of, reverse=not oldest)
        if request.HasField("before_create_time"):
            place = (request.before_create_time.ToMilliseconds(), request.before_session_id)
            ordered = [
                s for s in ordered if (place_of(s) > place if oldest else place_of(s) < place)
            ]
        return pb.ListArchivedSessionsResponse(
            sessions=ordered[: min(request.limit, self.most)], cut=self._cut(ordered, request)
        )

    async def CountArchivedSessions(self, request: Any, context: Any) -> Any:
        self._answering()
        await self.counts.wait()
        if self.old:
            message = "this archive does not know the method"
            raise Unimplemented(message)
        count = sum(
            (changed.tenant, changed.session.user_id) == (request.tenant, request.user_id)
            and session_id not in self.deleted
            for session_id, changed in self.sessions.items()
        )
        return pb.CountArchivedSessionsResponse(count=count)

    async def ListArchivedMessages(self, request: Any, context: Any) -> Any:
        self._answering()
        if self.before_messages is not None:
            await self.before_messages()
        up, below = request.oldest_first and not self.old, request.before_position
        found = [
            message
            for message in self.messages(request.session_id)
            if (message.position > request.after_position if up else message.position < below)
            or not (up or below)
        ]
        return pb.ListArchivedMessagesResponse(
            messages=(found if up else found[::-1])[: min(request.limit, self.most)],
            cut=self._cut(found, request),
            oldest_first=up,
        )

    def _cut(self, found: Sequence[Any], request: Any) -> bool:
        return self.most < min(len(found), int(request.limit))

    async def GetArchivedMessage(self, request: Any, context: Any) -> Any:
        self._answering()
        found = {m.message_id: m for m in self.messages(request.session_id) if m.position}
        return pb.GetArchivedMessageResponse(message=found.get(request.message_id))

    async def CreateBranch(self, request: Any, context: Any) -> Any:
        self._answering()
        if self.full:
            message = "the archive cannot write"
            raise Unavailable(message, retry_after=1.0)
        branch = request.branch
        if branch.parent_session_id in self.deleted:
            raise NotFound("session", branch.parent_session_id)
        if branch.session_id in self.sessions or branch.session_id in self.deleted:
            return pb.CreateBranchResponse(created=False)
        archived = self.messages(branch.parent_session_id)
        messages = carried(branch, archived, request.window, request.window_position)
        if not messages:
            raise NotFound("message", branch.parent_message_id)
        branch.message_count = len(messages)
        self.branched[branch.session_id] = messages
        changed = SessionChanged(tenant=request.tenant, session=branch)
        found = found_in(messages, request.findings)
        if found.ByteSize():
            kept = SessionAnnotations(revision=branch.revision, findings=found)
            changed.annotations.CopyFrom(kept)
        self.change(changed)
        return pb.CreateBranchResponse(created=True)

    async def GetArchivedStatistics(self, request: Any, context: Any) -> Any:
        self._answering()
        if self.before_statistics is not None:
            self.before_statistics()
        rows = [
            row
            for turn_id, row in self.finished.items()
            if row.job.message.session_id == request.session_id
            and turn_id not in request.except_turn_ids
        ]
        found = SessionStatistics()
        for row in rows:
            found.turns.add(state=row.outcome.state, count=1)
            found.retry_count += max(0, row.outcome.attempts - 1)
            for step in row.outcome.usage:
                used = found.usage.add(
                    model=step.model,
                    call_count=1,
                    input_tokens=step.input_tokens,
                    currency=step.currency,
                )
                if step.HasField("cost_micros"):
                    used.cost_micros = step.cost_micros
        return pb.GetArchivedStatisticsResponse(statistics=found)

    async def GetArchivedTurn(self, request: Any, context: Any) -> Any:
        self._answering()
        response = pb.GetArchivedTurnResponse()
        if request.turn_id in self.accepted:
            response.job.CopyFrom(self.accepted[request.turn_id])
        if request.turn_id in self.finished:
            row = self.finished[request.turn_id]
            response.job.CopyFrom(row.job)
            response.finished.CopyFrom(row)
        of_turn = response.job.message.session_id
        response.session_deleted = bool({request.session_id, of_turn} & self.deleted.keys())
        if self.after_turn is not None:
            await self.after_turn()
        return response


class ColdUsage(UsageServiceServicer):
    """Counts the calls that archived outcomes tell of, whosever they are."""

    def __init__(self, archive: ColdArchive) -> None:
        self._archive = archive

    async def GetUsage(self, request: Any, context: Any) -> Any:
        self._archive._answering()
        found = [
            row
            for row in self._archive.finished.values()
            if request.session_id in ("", row.job.message.session_id)
            and request.turn_id in ("", row.job.turn_id)
        ]
        if not found and request.WhichOneof("scope"):
            raise NotFound("thing", request.session_id or request.turn_id)
        count = sum(len(row.outcome.usage) for row in found)
        total = UsageTotal(call_count=count, turn_count=len(found))
        return GetUsageResponse(total=total)


@asynccontextmanager
async def cold_archive() -> AsyncIterator[tuple[ColdArchive, RunningServer]]:
    """Serve an empty archive during the block."""
    # It keeps no documents: to their calls the base class answers that there are none such.
    archive = ColdArchive()  # type: ignore[abstract]

    def register(server: grpc.aio.Server) -> Sequence[str]:
        add_ArchiveServiceServicer_to_server(archive, server)
        add_ArtifactStoreServiceServicer_to_server(archive.artifacts, server)
        add_UsageServiceServicer_to_server(ColdUsage(archive), server)
        return (
            "maieutic.archive.v1.ArchiveService",
            "maieutic.archive.v1.ArtifactStoreService",
            "maieutic.v1.UsageService",
        )

    async with serving(ServerOptions(), register) as running:
        yield archive, running
