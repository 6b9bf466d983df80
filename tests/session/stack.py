"""A session service on a real store, with an archive, a bus, and somebody for each identity."""

import asyncio
import functools
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as Proto
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from redis.asyncio import Redis

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.session.v1.turn_work_service_pb2_grpc import TurnWorkServiceStub
from maieutic.v1 import (
    artifact_service_pb2 as artifacts,
    session_service_pb2 as sessions,
    specification_pb2,
    specification_service_pb2 as specifications,
    turn_service_pb2 as turns,
)
from maieutic.v1.admin_service_pb2_grpc import AdminServiceStub
from maieutic.v1.artifact_pb2 import Artifact
from maieutic.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from maieutic.v1.budget_pb2 import Budget
from maieutic.v1.dead_letter_admin_service_pb2_grpc import DeadLetterAdminServiceStub
from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2_grpc import SessionServiceStub
from maieutic.v1.specification_service_pb2_grpc import SpecificationServiceStub
from maieutic.v1.summary_pb2 import Summary
from maieutic.v1.turn_service_pb2_grpc import TurnServiceStub
from maieutic.v1.usage_admin_service_pb2_grpc import UsageAdminServiceStub
from maieutic.v1.usage_service_pb2_grpc import UsageServiceStub
from services.runtime.bus import Bus
from services.runtime.channel import open_channel
from services.runtime.identity import Signer, Verifier, acting_for
from services.runtime.memory import MemoryBus
from services.runtime.server import ServerOptions
from services.runtime.topology import maieutic_topology
from services.session.adapters import keys
from services.session.ids import shard_of
from services.session.main import session_service
from services.session.model import Timing
from services.session.settings import SessionSettings
from tests.fakes.cold_archive import ColdArchive, cold_archive
from tests.session.archiver import Archiver, archiving
from tests.waiting import wait_until

if TYPE_CHECKING:  # the generated module has one class for both kinds of channel
    from maieutic.session.v1.turn_work_service_pb2_grpc import TurnWorkServiceAsyncStub
    from maieutic.v1.admin_service_pb2_grpc import AdminServiceAsyncStub
    from maieutic.v1.artifact_service_pb2_grpc import ArtifactServiceAsyncStub
    from maieutic.v1.dead_letter_admin_service_pb2_grpc import DeadLetterAdminServiceAsyncStub
    from maieutic.v1.session_service_pb2_grpc import SessionServiceAsyncStub
    from maieutic.v1.specification_service_pb2_grpc import SpecificationServiceAsyncStub
    from maieutic.v1.turn_service_pb2_grpc import TurnServiceAsyncStub
    from maieutic.v1.usage_admin_service_pb2_grpc import UsageAdminServiceAsyncStub
    from maieutic.v1.usage_service_pb2_grpc import UsageServiceAsyncStub

SERVICES = ("gateway", "session", "agents", "persistence")
SOON = 10.0
SHORT_LEASE = 0.6
"""For workers that die: one that lives may be silent for longer on a busy machine."""
NEWEST = sessions.MESSAGE_ORDER_NEWEST_FIRST
OLDEST = sessions.MESSAGE_ORDER_OLDEST_FIRST


@dataclass(frozen=True, kw_only=True)
class FastSettings(SessionSettings):
    """A hurried clock: what takes seconds in production takes tenths here."""

    id_key: str = "k" * 32
    server: ServerOptions = field(default=ServerOptions(stream_grace=0.1, grace=1.0))
    lease: float = 5.0
    publish_grace: float = 0.2
    archive_grace: float = 0.3
    sweep_interval: float = 0.05
    census_interval: float = 0.2
    max_attempts: int = 3
    queue_check: float = 0.5
    cancel_grace: float = 0.2
    gather: float = 0.05

    def timing(self) -> Timing:
        timing = SessionSettings.timing(self)
        return replace(
            timing,
            queue_check=round(self.queue_check * 1000),
            cancel_grace=round(self.cancel_grace * 1000),
            gather=round(self.gather * 1000),
            longest_backoff=1_000,
        )


@functools.cache
def _key(service: str) -> tuple[bytes, bytes]:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, public


def signer(service: str) -> Signer:
    return Signer(service, _key(service)[0])


class Jobs:
    """Everything that was published for workers, in order; each is taken off at once."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, RunTurn]] = []

    def of(self, turn_id: str, queue: str = "") -> list[RunTurn]:
        return [job for name, job in self.seen if job.turn_id == turn_id and queue in name]

    async def next(self, turn_id: str, *, nth: int = 1, queue: str = "") -> RunTurn:
        """Wait for the nth job of the turn."""
        await wait_until(lambda: len(self.of(turn_id, queue)) >= nth, SOON)
        return self.of(turn_id, queue)[nth - 1]

    async def collect(self, bus: MemoryBus, queue: str) -> None:
        async with bus.consume(queue, prefetch=100) as deliveries:
            async for delivery in deliveries:
                self.seen.append((queue, RunTurn.FromString(delivery.body)))
                await delivery.ack()


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One session service, with a stub for each identity that calls it."""

    sessions: "SessionServiceAsyncStub"
    turns: "TurnServiceAsyncStub"
    specifications: "SpecificationServiceAsyncStub"
    gateway_work: "TurnWorkServiceAsyncStub"
    work: "TurnWorkServiceAsyncStub"
    archive: "TurnWorkServiceAsyncStub"
    artifacts: "ArtifactServiceAsyncStub"
    usage: "UsageServiceAsyncStub"
    usage_admin: "UsageAdminServiceAsyncStub"
    worker_usage_admin: "UsageAdminServiceAsyncStub"
    admin: "AdminServiceAsyncStub"
    worker_admin: "AdminServiceAsyncStub"
    dead_letters: "DeadLetterAdminServiceAsyncStub"
    worker_dead_letters: "DeadLetterAdminServiceAsyncStub"


@dataclass(kw_only=True)
class Stack:
    """What a test has in its hands."""

    replicas: list[Replica]
    bus: MemoryBus
    jobs: Jobs
    archive: ColdArchive
    archiver: Archiver
    redis: Redis
    _numbers: Iterable[int] = field(default_factory=count)

    @property
    def first(self) -> Replica:
        return self.replicas[0]

    def user(self, replica: int = 0, *, tenant: str = "", name: str = "") -> "User":
        """Return somebody new, or the one of that tenant and name."""
        tenant, name = tenant or f"t-{uuid4().hex[:8]}", name or f"u-{uuid4().hex[:8]}"
        return User(self.replicas[replica], tenant=tenant, name=name)

    def worker(self, replica: int = 0) -> "Worker":
        return Worker(self, self.replicas[replica], f"w{next(iter(self._numbers))}")

    async def claim(self, turn_id: str, *, nth: int = 1, queue: str = "") -> "Held":
        """Wait for the turn's job and claim it as a new worker.

        A job may have come twice, or before a late heartbeat: then another one holds the turn yet.
        """
        job = await self.jobs.next(turn_id, nth=nth, queue=queue)
        worker, claim_id = self.worker(), uuid4().hex
        response = await worker.claim(job, claim_id)

        async def free() -> bool:
            nonlocal response
            if response.HasField("held"):
                response = await worker.claim(job, claim_id)
            return not response.HasField("held")

        await wait_until(free, SOON)
        return worker.held(job, claim_id, response)

    async def answer(self, turn_id: str, text: str, *, nth: int = 1) -> work.CompleteTurnResponse:
        """Be the worker that answers the turn, and publish the outcome."""
        held = await self.claim(turn_id, nth=nth)
        await held.say(text)
        return await held.complete(text)

    async def due(self, turn_id: str) -> float | None:
        score: float | None = await self.redis.zscore(keys.due_key(shard_of(turn_id)), turn_id)
        return score

    async def forget(self, session_id: str) -> None:
        """Let the session expire, as if nobody had used it for long."""
        await self.redis.delete(
            keys.record_key(session_id),
            keys.messages_key(session_id),
            keys.annotations_key(session_id),
        )

    async def archived(self, turn_id: str) -> None:
        """Wait until the archive has confirmed the turn's outcome, and the clock knows."""

        async def off_the_clock() -> bool:
            return await self.due(turn_id) is None and turn_id in self.archive.finished

        await wait_until(off_the_clock, SOON)


class User:
    """A caller behind the gateway."""

    def __init__(self, replica: Replica, *, tenant: str, name: str) -> None:
        self._replica = replica
        self.tenant = tenant
        self.name = name

    def at(self, replica: Replica) -> "User":
        """Return the same user, at another replica."""
        return User(replica, tenant=self.tenant, name=self.name)

    @contextmanager
    def acting(self) -> Iterator[Replica]:
        with acting_for(self.tenant, self.name):
            yield self._replica

    async def create(self, request_id: str = "", **fields: Any) -> sessions.Session:
        request = sessions.CreateSessionRequest(request_id=request_id or uuid4().hex, **fields)
        with self.acting() as replica:
            return (await replica.sessions.CreateSession(request)).session

    async def get(self, session_id: str) -> sessions.Session:
        with self.acting() as replica:
            request = sessions.GetSessionRequest(session_id=session_id)
            return (await replica.sessions.GetSession(request)).session

    async def get_or_create(
        self, *document_ids: str, **fields: Any
    ) -> sessions.GetOrCreateSessionResponse:
        request = sessions.GetOrCreateSessionRequest(document_ids=document_ids, **fields)
        with self.acting() as replica:
            response: sessions.GetOrCreateSessionResponse = (
                await replica.sessions.GetOrCreateSession(request)
            )
        return response

    async def update(
        self, session_id: str, request_id: str = "", *, expected: int = 0, **fields: Any
    ) -> sessions.Session:
        """Update the fields that are given."""
        request = sessions.UpdateSessionRequest(
            session_id=session_id,
            request_id=request_id or uuid4().hex,
            expected_revision=expected,
            **fields,
        )
        request.update_mask.paths.extend(fields)
        with self.acting() as replica:
            return (await replica.sessions.UpdateSession(request)).session

    async def end(self, session_id: str) -> sessions.Session:
        request = sessions.EndSessionRequest(session_id=session_id, request_id=uuid4().hex)
        with self.acting() as replica:
            return (await replica.sessions.EndSession(request)).session

    async def touch(self, session_id: str) -> sessions.Session:
        request = sessions.TouchSessionRequest(session_id=session_id, request_id=uuid4().hex)
        with self.acting() as replica:
            return (await replica.sessions.TouchSession(request)).session

    async def page(
        self, size: int = 0, token: str = "", **fields: Any
    ) -> tuple[list[sessions.Session], str]:
        with self.acting() as replica:
            request = sessions.ListSessionsRequest(page_size=size, page_token=token, **fields)
            response = await replica.sessions.ListSessions(request)
        return list(response.sessions), response.next_page_token

    async def all_sessions(self, size: int, **fields: Any) -> list[str]:
        """Return the ids of all pages."""
        found, token = await self.page(size, **fields)
        while token:
            more, token = await self.page(size, token, **fields)
            found += more
        return [session.session_id for session in found]

    async def delete(self, session_id: str) -> None:
        with self.acting() as replica:
            request = sessions.DeleteSessionRequest(session_id=session_id, request_id=uuid4().hex)
            await replica.sessions.DeleteSession(request)

    async def messages(
        self, session_id: str, size: int = 0, token: str = "", **fields: Any
    ) -> tuple[list[Message], str]:
        with self.acting() as replica:
            request = sessions.ListMessagesRequest(
                session_id=session_id, page_size=size, page_token=token, **fields
            )
            response = await replica.sessions.ListMessages(request)
        return list(response.messages), response.next_page_token

    async def all_messages(self, session_id: str, size: int = 0) -> list[Message]:
        """Return the messages of all pages, oldest first; both directions agree."""
        back = await self._all_messages(session_id, size, order=NEWEST)
        forth = await self._all_messages(session_id, size, order=OLDEST)
        assert forth == back[::-1]
        return forth

    async def _all_messages(self, session_id: str, size: int, **fields: Any) -> list[Message]:
        found, token = await self.messages(session_id, size, **fields)
        while token:
            more, token = await self.messages(session_id, size, token, **fields)
            found += more
        return found

    async def branch(
        self, session_id: str, message_id: str, request_id: str = "", **fields: Any
    ) -> sessions.Session:
        request = sessions.BranchSessionRequest(
            session_id=session_id,
            message_id=message_id,
            request_id=request_id or uuid4().hex,
            **fields,
        )
        with self.acting() as replica:
            return (await replica.sessions.BranchSession(request)).session

    async def statistics(self, session_id: str) -> sessions.SessionStatistics:
        request = sessions.GetSessionStatisticsRequest(session_id=session_id)
        with self.acting() as replica:
            return (await replica.sessions.GetSessionStatistics(request)).statistics

    async def add_note(self, session_id: str, text: str, request_id: str = "") -> sessions.Note:
        request = sessions.AddNoteRequest(
            session_id=session_id, request_id=request_id or uuid4().hex, text=text
        )
        with self.acting() as replica:
            return (await replica.sessions.AddNote(request)).note

    async def notes(
        self, session_id: str, size: int = 0, token: str = ""
    ) -> tuple[list[sessions.Note], str]:
        request = sessions.ListNotesRequest(session_id=session_id, page_size=size, page_token=token)
        with self.acting() as replica:
            response = await replica.sessions.ListNotes(request)
        return list(response.notes), response.next_page_token

    async def delete_note(self, session_id: str, note_id: str) -> None:
        request = sessions.DeleteNoteRequest(
            session_id=session_id, note_id=note_id, request_id=uuid4().hex
        )
        with self.acting() as replica:
            await replica.sessions.DeleteNote(request)

    async def add_bookmark(
        self, session_id: str, message_id: str, label: str = "", request_id: str = ""
    ) -> sessions.Bookmark:
        request = sessions.AddBookmarkRequest(
            session_id=session_id,
            request_id=request_id or uuid4().hex,
            message_id=message_id,
            label=label,
        )
        with self.acting() as replica:
            return (await replica.sessions.AddBookmark(request)).bookmark

    async def bookmarks(
        self, session_id: str, size: int = 0, token: str = ""
    ) -> tuple[list[sessions.Bookmark], str]:
        request = sessions.ListBookmarksRequest(
            session_id=session_id, page_size=size, page_token=token
        )
        with self.acting() as replica:
            response = await replica.sessions.ListBookmarks(request)
        return list(response.bookmarks), response.next_page_token

    async def delete_bookmark(self, session_id: str, bookmark_id: str) -> None:
        request = sessions.DeleteBookmarkRequest(
            session_id=session_id, bookmark_id=bookmark_id, request_id=uuid4().hex
        )
        with self.acting() as replica:
            await replica.sessions.DeleteBookmark(request)

    async def begin(
        self,
        session_id: str,
        text: str = "Why?",
        request_id: str = "",
        *,
        budget: float = 0,
        most: Budget | None = None,
        policy: turns.BusyPolicy.ValueType = turns.BUSY_POLICY_UNSPECIFIED,
        agent: str = "",
    ) -> turns.Turn:
        request = turns.BeginTurnRequest(
            session_id=session_id,
            request_id=request_id or uuid4().hex,
            text=text,
            busy_policy=policy,
            agent=agent,
            budget=most,
        )
        if budget:
            request.time_budget.CopyFrom(_duration(budget))
        with self.acting() as replica:
            return (await replica.turns.BeginTurn(request)).turn

    def ask_for_question(self, session_id: str, request_id: str = "") -> Any:
        request = turns.NextQuestionRequest(
            session_id=session_id, request_id=request_id or uuid4().hex
        )
        with self.acting() as replica:
            return replica.turns.NextQuestion(request)

    def generate_code(self, session_id: str, instructions: str = "", request_id: str = "") -> Any:
        request = turns.GenerateCodeRequest(
            session_id=session_id, request_id=request_id or uuid4().hex, instructions=instructions
        )
        with self.acting() as replica:
            return replica.turns.GenerateCode(request)

    async def specifications(
        self, session_id: str, **fields: Any
    ) -> list[specification_pb2.Specification]:
        request = specifications.ListSpecificationsRequest(session_id=session_id, **fields)
        with self.acting() as replica:
            answer = await replica.specifications.ListSpecifications(request)
        return list(answer.specifications)

    async def conflicts(self, session_id: str, **fields: Any) -> list[specification_pb2.Conflict]:
        request = specifications.ListConflictsRequest(session_id=session_id, **fields)
        with self.acting() as replica:
            return list((await replica.specifications.ListConflicts(request)).conflicts)

    async def questions(self, session_id: str) -> list[specification_pb2.Question]:
        request = specifications.ListQuestionsRequest(session_id=session_id)
        with self.acting() as replica:
            return list((await replica.specifications.ListQuestions(request)).questions)

    async def summary(self, session_id: str) -> Summary | None:
        request = specifications.GetSummaryRequest(session_id=session_id)
        with self.acting() as replica:
            answer = await replica.specifications.GetSummary(request)
        return answer.summary if answer.HasField("summary") else None

    async def resolve(
        self, session_id: str, conflict_id: str, request_id: str = "", **resolution: Any
    ) -> specification_pb2.Conflict:
        request = specifications.ResolveConflictRequest(
            session_id=session_id,
            request_id=request_id or uuid4().hex,
            conflict_id=conflict_id,
            **resolution,
        )
        with self.acting() as replica:
            return (await replica.specifications.ResolveConflict(request)).conflict

    async def artifacts(
        self, size: int = 0, token: str = "", *, session_id: str = "", turn_id: str = ""
    ) -> tuple[list[str], str]:
        """Return the paths of a page, and the next page's token."""
        request = artifacts.ListArtifactsRequest(
            page_size=size, page_token=token, session_id=session_id, turn_id=turn_id
        )
        with self.acting() as replica:
            response = await replica.artifacts.ListArtifacts(request)
        return [artifact.path for artifact in response.artifacts], response.next_page_token

    async def artifact(self, artifact_id: str) -> Artifact:
        request = artifacts.GetArtifactRequest(artifact_id=artifact_id)
        with self.acting() as replica:
            response: artifacts.GetArtifactResponse = await replica.artifacts.GetArtifact(request)
        return response.artifact

    def download(self, artifact_id: str) -> Any:
        request = artifacts.DownloadArtifactRequest(artifact_id=artifact_id)
        with self.acting() as replica:
            return replica.artifacts.DownloadArtifact(request)

    def stream(self, session_id: str, text: str = "Why?", request_id: str = "") -> Any:
        request = turns.StreamTurnRequest(
            session_id=session_id, request_id=request_id or uuid4().hex, text=text
        )
        with self.acting() as replica:
            return replica.turns.StreamTurn(request)

    def watch(self, turn_id: str, cursor: str = "") -> Any:
        with self.acting() as replica:
            return replica.turns.WatchTurn(turns.WatchTurnRequest(turn_id=turn_id, cursor=cursor))

    def watch_session(self, session_id: str, cursor: str = "") -> Any:
        request = sessions.WatchSessionRequest(session_id=session_id, cursor=cursor)
        with self.acting() as replica:
            return replica.sessions.WatchSession(request)

    async def frames(self, turn_id: str, cursor: str = "") -> list[turns.TurnFrame]:
        """Return the turn's frames from the cursor to the end."""
        return await frames_of(self.watch(turn_id, cursor))

    async def turn(self, turn_id: str) -> turns.Turn:
        with self.acting() as replica:
            return (await replica.turns.GetTurn(turns.GetTurnRequest(turn_id=turn_id))).turn

    async def cancel(self, turn_id: str) -> turns.Turn:
        request = turns.CancelTurnRequest(turn_id=turn_id, request_id=uuid4().hex)
        with self.acting() as replica:
            return (await replica.turns.CancelTurn(request)).turn

    async def ended(self, turn_id: str) -> turns.Turn:
        """Wait for the turn's outcome."""

        async def has_outcome() -> bool:
            return (await self.turn(turn_id)).HasField("outcome")

        await wait_until(has_outcome, SOON)
        return await self.turn(turn_id)


class Worker:
    """A worker process."""

    def __init__(self, stack: Stack, replica: Replica, worker_id: str) -> None:
        self._stack = stack
        self._replica = replica
        self.worker_id = worker_id

    async def claim(self, job: RunTurn, claim_id: str = "") -> work.ClaimTurnResponse:
        response: work.ClaimTurnResponse = await self._replica.work.ClaimTurn(
            work.ClaimTurnRequest(
                worker_id=self.worker_id, claim_id=claim_id or uuid4().hex, job=job
            )
        )
        return response

    async def claimed(self, job: RunTurn, claim_id: str = "") -> "Held":
        claim_id = claim_id or uuid4().hex
        return self.held(job, claim_id, await self.claim(job, claim_id))

    def held(self, job: RunTurn, claim_id: str, response: work.ClaimTurnResponse) -> "Held":
        """Return the turn that was granted."""
        assert response.HasField("claim"), response
        return Held(self._stack, self._replica, job.turn_id, claim_id, response.claim)


class Held:
    """A turn in a worker's hands."""

    def __init__(
        self,
        stack: Stack,
        replica: Replica,
        turn_id: str,
        claim_id: str,
        claim: work.TurnClaim,
    ) -> None:
        self._stack = stack
        self._replica = replica
        self.turn_id = turn_id
        self.claim_id = claim_id
        self.claim = claim
        self.seq = 0

    @property
    def _hold(self) -> dict[str, Any]:
        return {"turn_id": self.turn_id, "fence": self.claim.fence, "claim_id": self.claim_id}

    async def messages(
        self, page_token: str = "", page_size: int = 0, **fields: Any
    ) -> work.ListTurnMessagesResponse:
        request = work.ListTurnMessagesRequest(
            **{**self._hold, **fields}, page_token=page_token, page_size=page_size
        )
        response: work.ListTurnMessagesResponse = await self._replica.work.ListTurnMessages(request)
        return response

    async def record(
        self, texts: Sequence[str] = (), *, first_seq: int = 0, beat: bool = True
    ) -> work.RecordTurnEventsResponse:
        """Record the texts as deltas, each a frame, with a heartbeat."""
        frames = [turns.TurnFrame(delta=turns.TurnDelta(text=text)) for text in texts]
        return await self.record_frames(frames, first_seq=first_seq, beat=beat)

    async def record_frames(
        self, frames: Sequence[turns.TurnFrame], *, first_seq: int = 0, beat: bool = True
    ) -> work.RecordTurnEventsResponse:
        request = work.RecordTurnEventsRequest(batch_id=7)
        for frame in frames:
            frame.turn_id = self.turn_id
        if frames:
            first = first_seq or self.seq + 1
            request.events.add(**self._hold, first_seq=first, frames=frames)
            self.seq = max(self.seq, first + len(frames) - 1)
        if beat:
            request.heartbeats.add(**self._hold)

        async def one() -> AsyncIterator[work.RecordTurnEventsRequest]:
            yield request

        responses = [r async for r in self._replica.work.RecordTurnEvents(one())]
        assert [r.batch_id for r in responses] == [7]
        return responses[0]

    async def say(self, text: str) -> None:
        response = await self.record(text.split(" ") if text else ())
        assert not response.fenced_turn_ids
        assert not response.missing_turn_ids

    async def put(self, path: str, content: bytes = b"x", **hold: Any) -> Any:
        """Put a file and return the response."""
        request = work.PutTurnArtifactRequest(
            **{**self._hold, **hold}, path=path, media_type="text/plain", content=content
        )
        return await self._replica.work.PutTurnArtifact(request)

    async def complete_step(
        self,
        step: str,
        findings: turns.Findings,
        usage: Sequence[turns.Usage] = (),
        artifacts: Sequence[Artifact] = (),
        finished_steps: int = 0,
    ) -> work.CompleteStepResponse:
        request = work.CompleteStepRequest(
            **self._hold,
            step=step,
            findings=findings,
            usage=usage,
            artifacts=artifacts,
            finished_steps=finished_steps,
        )
        response: work.CompleteStepResponse = await self._replica.work.CompleteStep(request)
        return response

    async def reserve(
        self, number: int, **call: Any
    ) -> work.BudgetGranted | work.BudgetRefused | work.WriteStatus.ValueType:
        """Ask for a call; returns its status if that is not applied."""
        response: work.ReserveBudgetResponse = await self._replica.work.ReserveBudget(
            work.ReserveBudgetRequest(**self._hold, usage_id=f"{self.claim_id}:{number}", **call)
        )
        if response.status != work.WRITE_STATUS_APPLIED:
            return response.status
        return response.granted if response.HasField("granted") else response.refused

    async def settle(self, *usage: turns.Usage) -> None:
        """Tell what calls have consumed, as a run does after its end."""
        request = work.SettleBudgetRequest(turn_id=self.turn_id, usage=usage)
        await self._replica.work.SettleBudget(request)

    async def complete(
        self,
        text: str,
        *,
        publish: bool = True,
        findings: turns.Findings | None = None,
        usage: Sequence[turns.Usage] = (),
        artifacts: Sequence[Artifact] = (),
        hand_on: Sequence[work.HandOn] = (),
        finished_steps: int = 0,
    ) -> work.CompleteTurnResponse:
        response: work.CompleteTurnResponse = await self._replica.work.CompleteTurn(
            work.CompleteTurnRequest(
                **self._hold,
                last_seq=self.seq,
                text=text,
                findings=findings,
                usage=usage,
                artifacts=artifacts,
                hand_on=hand_on,
                finished_steps=finished_steps,
            )
        )
        if publish and response.HasField("finished"):
            await self._stack.archiver.publish(self._stack.bus, response.finished)
        return response

    async def fail(
        self,
        *,
        retryable: bool,
        retry_after: float = 0,
        reason: str = "MODEL_AWAY",
        usage: Sequence[turns.Usage] = (),
        finished_steps: int = 0,
    ) -> work.FailTurnResponse:
        response: work.FailTurnResponse = await self._replica.work.FailTurn(
            work.FailTurnRequest(
                **self._hold,
                last_seq=self.seq,
                reason=reason,
                retryable=retryable,
                retry_after=_duration(retry_after),
                usage=usage,
                finished_steps=finished_steps,
            )
        )
        return response

    async def release(self, retry_after: float = 0) -> work.WriteStatus.ValueType:
        response: work.ReleaseTurnResponse = await self._replica.work.ReleaseTurn(
            work.ReleaseTurnRequest(**self._hold, retry_after=_duration(retry_after))
        )
        return response.status


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(round(seconds * 1000))
    return duration


async def frames_of(call: Any) -> list[turns.TurnFrame]:
    """Return the frames of a stream of turns."""
    return [response.frame async for response in call]


def kinds(frames: Sequence[turns.TurnFrame]) -> list[str]:
    return [frame.WhichOneof("event") or "" for frame in frames]


async def failure(call: Any) -> grpc.aio.AioRpcError:
    """Return the error that the call, awaited or iterated, ends with."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call succeeded")


def detail(error: grpc.aio.AioRpcError, kind: type[Any]) -> Any:
    """Return the error's detail of that type; raises AssertionError if it has none."""
    status = _status(error)
    for packed in status.details:
        found: Proto = kind()
        if packed.Unpack(found):
            return found
    raise AssertionError(f"no {kind.__name__} in {status}")


def _status(error: grpc.aio.AioRpcError) -> Status:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            return Status.FromString(value)
    raise AssertionError(f"no details: {error!r}")


def reason(error: grpc.aio.AioRpcError) -> str:
    found: ErrorInfo = detail(error, ErrorInfo)
    return found.reason


def bad_field(error: grpc.aio.AioRpcError) -> str:
    found: BadRequest = detail(error, BadRequest)
    return found.field_violations[0].field


def retry_after(error: grpc.aio.AioRpcError) -> float:
    found: RetryInfo = detail(error, RetryInfo)
    return found.retry_delay.ToTimedelta().total_seconds()


@asynccontextmanager
async def session_stack(
    url: str,
    *,
    replicas: int = 1,
    bus: Bus | None = None,
    memory: MemoryBus | None = None,
    client: AbstractAsyncContextManager[Redis] | None = None,
    flush: bool = True,
    **settings: Any,
) -> AsyncIterator[Stack]:
    """Run session services on the store at *url*, which is emptied first.

    *client* is the test's own way to a store that is not one server. *bus* stands before the memory
    bus, for services only; *settings* are FastSettings.
    """
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(client or Redis.from_url(url))
        if flush:
            await redis.flushdb()
        archive, running = await stack.enter_async_context(cold_archive())
        inner = memory or MemoryBus(maieutic_topology())
        await stack.enter_async_context(inner)
        jobs = Jobs()
        for lane in ("interactive", "analysis", "long", "suspect"):
            await stack.enter_async_context(_in_background(jobs.collect(inner, f"turns.{lane}.v1")))
        options = FastSettings(redis_url=url, archive_address=running.address, **settings)
        found = [
            await stack.enter_async_context(_replica(options, bus or inner))
            for _ in range(replicas)
        ]
        archiver = await stack.enter_async_context(archiving(inner, archive, found[0].archive))
        yield Stack(
            replicas=found, bus=inner, jobs=jobs, archive=archive, archiver=archiver, redis=redis
        )


@asynccontextmanager
async def _in_background(work_: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work_)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _replica(settings: SessionSettings, bus: Bus) -> AsyncIterator[Replica]:
    verifier = Verifier({service: _key(service)[1] for service in SERVICES})
    async with (
        session_service(settings, bus=bus, signer=signer("session"), verifier=verifier) as running,
        _channel(running.address, "gateway") as gateway,
        _channel(running.address, "agents") as agents,
        _channel(running.address, "persistence") as persistence,
    ):
        yield Replica(
            sessions=SessionServiceStub(gateway),
            turns=TurnServiceStub(gateway),
            specifications=SpecificationServiceStub(gateway),
            gateway_work=TurnWorkServiceStub(gateway),
            work=TurnWorkServiceStub(agents),
            archive=TurnWorkServiceStub(persistence),
            artifacts=ArtifactServiceStub(gateway),
            usage=UsageServiceStub(gateway),
            usage_admin=UsageAdminServiceStub(gateway),
            worker_usage_admin=UsageAdminServiceStub(agents),
            admin=AdminServiceStub(gateway),
            worker_admin=AdminServiceStub(agents),
            dead_letters=DeadLetterAdminServiceStub(gateway),
            worker_dead_letters=DeadLetterAdminServiceStub(agents),
        )


def _channel(address: str, service: str) -> Any:
    return open_channel(address, service="session", signer=signer(service))
