"""The session service's composition root: the one place that names Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from maieutic.session.v1.turn_work_service_pb2_grpc import add_TurnWorkServiceServicer_to_server
from maieutic.v1.admin_service_pb2_grpc import add_AdminServiceServicer_to_server
from maieutic.v1.artifact_service_pb2_grpc import add_ArtifactServiceServicer_to_server
from maieutic.v1.dead_letter_admin_service_pb2_grpc import (
    add_DeadLetterAdminServiceServicer_to_server,
)
from maieutic.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server
from maieutic.v1.specification_service_pb2_grpc import add_SpecificationServiceServicer_to_server
from maieutic.v1.turn_service_pb2_grpc import add_TurnServiceServicer_to_server
from maieutic.v1.usage_admin_service_pb2_grpc import add_UsageAdminServiceServicer_to_server
from maieutic.v1.usage_service_pb2_grpc import add_UsageServiceServicer_to_server
from services.runtime.bus import Bus
from services.runtime.channel import open_channel
from services.runtime.identity import Signer, Verifier
from services.runtime.lifecycle import run
from services.runtime.rabbitmq import RabbitMQBus
from services.runtime.server import RunningServer, serving
from services.runtime.settings import BadSettings, load
from services.runtime.telemetry import telemetry
from services.runtime.topology import maieutic_topology
from services.session.adapters.address import BadStoreUrl
from services.session.adapters.orphans import RedisKeySpace
from services.session.adapters.private_valkey import valkey_in_memory
from services.session.adapters.redis import RedisSessionStore
from services.session.adapters.wake import RedisWakes
from services.session.analyses import Analyses
from services.session.annotations import Annotations
from services.session.archive import Archive
from services.session.archive_turns import ArchiveTurns
from services.session.archiving import Archiving
from services.session.artifact_archive import ArtifactArchive
from services.session.artifact_rpc import ArtifactServicer
from services.session.artifacts import Artifacts
from services.session.branching import Branching
from services.session.calls import observed
from services.session.conversations import Conversations
from services.session.dead_letter_rpc import DeadLetterServicer
from services.session.figures import Figures
from services.session.history import History
from services.session.ids import Ids
from services.session.jobs import Jobs, Limits
from services.session.limits import SessionLimits
from services.session.listing import SessionList
from services.session.live import LiveSessions
from services.session.losses import Losses
from services.session.model import Timing
from services.session.notebook import Notebook
from services.session.orphans import OrphanSearch
from services.session.publisher import Publisher
from services.session.quarantine import QuarantineOffice
from services.session.rpc import (
    AdminServicer,
    SessionServicer,
    SpecificationServicer,
)
from services.session.session_watching import SessionWatching
from services.session.settings import SessionSettings
from services.session.specifications import Specifications
from services.session.statistics import Statistics
from services.session.sweeper import Sweeper
from services.session.turn_history import TurnHistory
from services.session.turn_rpc import TurnServicer, TurnWorkServicer
from services.session.turns import Turns
from services.session.usage_rpc import UsageAdminServicer, UsageServicer
from services.session.watching import Wakes, Watching
from services.session.work import Work

SERVICE = "session"
SERVICES = (
    "maieutic.v1.SessionService",
    "maieutic.v1.TurnService",
    "maieutic.v1.SpecificationService",
    "maieutic.v1.ArtifactService",
    "maieutic.session.v1.TurnWorkService",
    "maieutic.v1.AdminService",
    "maieutic.v1.DeadLetterAdminService",
    "maieutic.v1.UsageService",
    "maieutic.v1.UsageAdminService",
)


@asynccontextmanager
async def session_service(
    settings: SessionSettings, *, bus: Bus, signer: Signer, verifier: Verifier
) -> AsyncIterator[RunningServer]:
    """Serve during the block. `embedded` calls this, too."""
    timing = settings.timing()
    async with (
        _store(settings) as store,
        RedisWakes.connect(store.servers) as wakes,
        open_channel(
            settings.archive_address,
            service="persistence",
            signer=signer,
            options=settings.channel,
        ) as channel,
        Publisher(bus, store, timing) as publisher,
    ):
        shared = _shared(settings, store, Archive(channel), publisher)
        sweeper = _sweeper(shared)
        register = _registering(shared, wakes, sweeper, channel)
        space = RedisKeySpace(store.servers)
        search = OrphanSearch(space=space, timing=timing, options=settings.orphans)
        figures = Figures(store, settings.census_interval)
        async with (
            serving(settings.server, register, verifier=verifier, arounds=[observed]) as running,
            _running(sweeper.run, search.run, figures.run),
        ):
            yield running


@asynccontextmanager
async def _running(*works: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Do these during the block."""
    tasks = [asyncio.create_task(work()) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _store(settings: SessionSettings) -> AsyncIterator[RedisSessionStore]:
    """Open the live store. Raises BadSettings."""
    _check_replication(settings)
    async with AsyncExitStack() as stack:
        url = settings.redis_url
        if settings.session_backend == "memory":
            url = await stack.enter_async_context(valkey_in_memory())
        opening = RedisSessionStore.connect(
            url,
            timing=settings.timing(),
            timeout=settings.redis_timeout,
            connect_timeout=settings.redis_connect_timeout,
            connections=settings.redis_connections,
            replica_timeout=settings.replica_timeout
            if settings.durability == "replicated"
            else None,
        )
        try:
            store = await stack.enter_async_context(opening)
        except BadStoreUrl as error:
            raise BadSettings(f"MAIEUTIC_REDIS_URL: {error}") from error
        yield store


def _check_replication(settings: SessionSettings) -> None:
    if settings.durability == "primary":
        return
    if settings.session_backend == "memory":
        raise BadSettings("MAIEUTIC_DURABILITY: the memory has no replica: write primary")
    if settings.replica_timeout >= settings.redis_timeout:
        problem = "must be less than MAIEUTIC_REDIS_TIMEOUT, in which the answer has to be there"
        raise BadSettings(f"MAIEUTIC_REPLICA_TIMEOUT: {problem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """What most of the service's objects stand on."""

    settings: SessionSettings
    store: RedisSessionStore
    live: LiveSessions
    archive: Archive
    publisher: Publisher
    losses: Losses
    ids: Ids
    timing: Timing


def _shared(
    settings: SessionSettings, store: RedisSessionStore, archive: Archive, publisher: Publisher
) -> _Shared:
    timing = settings.timing()
    return _Shared(
        settings=settings,
        store=store,
        live=LiveSessions(store, archive, timing, _archive_turns(settings)),
        archive=archive,
        publisher=publisher,
        losses=Losses(store.content_id),
        ids=Ids(settings.id_key.encode()),
        timing=timing,
    )


def _sweeper(shared: _Shared) -> Sweeper:
    return Sweeper(
        store=shared.store,
        live=shared.live,
        publisher=shared.publisher,
        losses=shared.losses,
        timing=shared.timing,
        interval=shared.settings.sweep_interval,
    )


def _registering(
    shared: _Shared, wakes: Wakes, sweeper: Sweeper, archive: grpc.aio.Channel
) -> Callable[[grpc.aio.Server], Sequence[str]]:
    """Return what adds the services to a server."""
    annotations = Annotations(shared.store, shared.live, shared.publisher)
    limits = _limits(shared.settings)
    jobs = Jobs(shared.ids, limits)
    turns = _turns(shared, sweeper, jobs, limits)
    analyses = Analyses(turns, jobs)
    watching = Watching(store=shared.store, turns=turns, wakes=wakes)
    artifacts = Artifacts(
        store=shared.store, live=shared.live, archive=ArtifactArchive(archive), turns=turns
    )

    def register(server: grpc.aio.Server) -> Sequence[str]:
        found = SpecificationServicer(Specifications(annotations))
        add_SessionServiceServicer_to_server(_sessions(shared, annotations, wakes), server)
        add_TurnServiceServicer_to_server(TurnServicer(turns, analyses, watching), server)
        add_SpecificationServiceServicer_to_server(found, server)
        add_TurnWorkServiceServicer_to_server(_work(shared, jobs, artifacts), server)
        add_ArtifactServiceServicer_to_server(ArtifactServicer(artifacts), server)
        add_AdminServiceServicer_to_server(AdminServicer(QuarantineOffice(shared.store)), server)
        add_DeadLetterAdminServiceServicer_to_server(DeadLetterServicer(archive), server)
        usage = UsageServicer(archive, shared.live, turns)
        add_UsageServiceServicer_to_server(usage, server)
        add_UsageAdminServiceServicer_to_server(UsageAdminServicer(archive), server)
        return SERVICES

    return register


def _sessions(shared: _Shared, annotations: Annotations, wakes: Wakes) -> SessionServicer:
    """Wire what callers do with sessions."""
    store, live, archive, ids = shared.store, shared.live, shared.archive, shared.ids
    publisher, most = shared.publisher, shared.settings.most()
    return SessionServicer(
        conversations=_conversations(shared),
        history=_history(shared),
        session_list=SessionList(store, archive),
        notebook=Notebook(
            annotations=annotations,
            live=live,
            archive=archive,
            publisher=publisher,
            ids=ids,
            most=most,
        ),
        branching=Branching(
            store=store, live=live, archive=archive, ids=ids, limits=_session_limits(shared)
        ),
        statistics=Statistics(store=store, live=live, archive=archive),
        watching=SessionWatching(
            store=store,
            conversations=_conversations(shared),
            archive=archive,
            wakes=wakes,
            heartbeat=shared.settings.stream_heartbeat,
        ),
    )


def _archive_turns(settings: SessionSettings) -> ArchiveTurns:
    """Leave half of the connections to those who need no archive."""
    places = max(1, settings.redis_connections // 2)
    return ArchiveTurns(places, seconds=settings.redis_timeout)


def _session_limits(shared: _Shared) -> SessionLimits:
    return SessionLimits(shared.store, shared.archive, shared.settings.most())


def _conversations(shared: _Shared) -> Conversations:
    return Conversations(
        store=shared.store,
        live=shared.live,
        archive=shared.archive,
        publisher=shared.publisher,
        ids=shared.ids,
        limits=_session_limits(shared),
        budget=shared.settings.budget.session(),
    )


def _history(shared: _Shared) -> History:
    return History(store=shared.store, archive=shared.archive, conversations=_conversations(shared))


def _limits(settings: SessionSettings) -> Limits:
    return Limits(
        max_attempts=settings.max_attempts,
        oldest_unconfirmed=settings.overload_after,
        most_waiting=settings.waiting_turns,
        time_budgets=settings.time_budget,
        budget=settings.budget.turn(),
    )


def _turns(shared: _Shared, sweeper: Sweeper, jobs: Jobs, limits: Limits) -> Turns:
    """Wire what callers do with turns."""
    return Turns(
        store=shared.store,
        live=shared.live,
        archive=shared.archive,
        publisher=shared.publisher,
        losses=shared.losses,
        jobs=jobs,
        timing=shared.timing,
        limits=limits,
        most=shared.settings.most(),
        memory_full=sweeper.memory_full,
    )


def _work(shared: _Shared, jobs: Jobs, artifacts: Artifacts) -> TurnWorkServicer:
    """Wire what workers and the archive do with turns."""
    store, publisher, timing = shared.store, shared.publisher, shared.timing
    work = Work(
        store=store,
        live=shared.live,
        archive=shared.archive,
        publisher=publisher,
        timing=timing,
        jobs=jobs,
        answer_bytes=shared.settings.answer_bytes,
    )
    return TurnWorkServicer(
        work,
        Archiving(store=store, publisher=publisher, timing=timing),
        TurnHistory(store=store, history=_history(shared)),
        artifacts,
    )


async def main(settings: SessionSettings) -> None:
    """Serve until cancelled."""
    signer, verifier = Signer(SERVICE, settings.signing_key), Verifier(settings.public_keys)
    async with (
        telemetry(SERVICE, settings.telemetry),
        RabbitMQBus.connect(settings.bus_url, maieutic_topology()) as bus,
        session_service(settings, bus=bus, signer=signer, verifier=verifier) as running,
    ):
        await running.wait()


if __name__ == "__main__":
    run(main(load(SessionSettings)))
