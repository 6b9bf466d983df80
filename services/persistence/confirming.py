"""Telling the session service what the archive holds, and what it misses."""

import logging
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import TypeAlias, TypeVar

import grpc

from maieutic.bus.v1.bus_pb2 import RunTurn, TurnFinished
from maieutic.session.v1.turn_work_service_pb2 import (
    ArchivedSession,
    EnsureTurnsRequest,
    MarkArchivedRequest,
)
from maieutic.session.v1.turn_work_service_pb2_grpc import TurnWorkServiceStub
from services.persistence.model import Applied
from services.persistence.retrying import until_done
from services.runtime.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ServiceError,
    from_rpc,
)

LOG = logging.getLogger(__name__)

REQUEST_BYTES = 1024 * 1024
"""A request holds no more than this, or a single item: gRPC refuses messages over 4 MiB."""
REQUEST_SECONDS = 30.0

ABOUT_THE_ITEM = (
    InvalidArgument,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    DataLoss,
    Internal,
)
"""Answers that the same item would get again. All others are about the way there, and pass."""

T = TypeVar("T")
Item: TypeAlias = TurnFinished | ArchivedSession | str
Part = TypeVar("Part", bound=Item | RunTurn)


class _Passing(Exception):
    """The session service is not to be reached now."""


class Confirmations:
    """What the archive says to the session service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._service = TurnWorkServiceStub(channel)

    async def confirm(self, applied: Applied) -> None:
        """Mark what is archived; waits for the session service for as long as it is away.

        An item that the service refuses is left out, with an error in the log. Its row stands,
        and the clock of unfinished work publishes the outcome again.
        """
        for items in _parts(_items(applied)):
            await self._mark(items)

    async def ensure(self, jobs: Sequence[RunTurn]) -> list[str]:
        """Have turns brought back that the live store has lost; returns those it had lost.

        Raises what the session service answers, as a ServiceError.
        """
        rebuilt: list[str] = []
        for part in _whole_sessions(jobs):
            request = EnsureTurnsRequest(jobs=part)
            call = self._service.EnsureTurns(request, timeout=REQUEST_SECONDS)
            rebuilt += (await _answer(call)).rebuilt_turn_ids
        return rebuilt

    async def _mark(self, items: Sequence[Item]) -> None:
        try:
            await until_done(
                lambda: self._marked(items), despite=(_Passing,), what="MarkArchived is held"
            )
        except ServiceError as error:
            if len(items) == 1:
                LOG.exception("MarkArchived refuses %s", _about(items[0]), exc_info=error)
                return
            middle = len(items) // 2
            await self._mark(items[:middle])
            await self._mark(items[middle:])

    async def _marked(self, items: Sequence[Item]) -> None:
        request = MarkArchivedRequest(
            turns=[item for item in items if isinstance(item, TurnFinished)],
            sessions=[item for item in items if isinstance(item, ArchivedSession)],
            accepted_turn_ids=[item for item in items if isinstance(item, str)],
        )
        try:
            await _answer(self._service.MarkArchived(request, timeout=REQUEST_SECONDS))
        except ABOUT_THE_ITEM:
            raise
        except ServiceError as error:
            raise _Passing(str(error)) from error


async def _answer(call: Awaitable[T]) -> T:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from error


def _items(applied: Applied) -> Iterator[Item]:
    sessions = (
        ArchivedSession(
            session_id=session_id,
            revision=revision,
            annotations_revision=applied.annotated.get(session_id, 0),
        )
        for session_id, revision in applied.revisions.items()
    )
    return chain(applied.finished, sessions, applied.accepted)


def _parts(items: Iterable[Part]) -> Iterator[list[Part]]:
    """Cut into parts that fit into a request."""
    part: list[Part] = []
    size = 0
    for item in items:
        own = len(item) if isinstance(item, str) else item.ByteSize()
        if part and size + own > REQUEST_BYTES:
            yield part
            part, size = [], 0
        part.append(item)
        size += own
    if part:
        yield part


def _whole_sessions(jobs: Sequence[RunTurn]) -> Iterator[list[RunTurn]]:
    """Cut into parts that fit into a request, between two sessions where that can be."""
    part: list[RunTurn] = []
    for _, of_session in groupby(jobs, key=lambda job: job.message.session_id):
        run = list(of_session)
        if part and sum(job.ByteSize() for job in [*part, *run]) > REQUEST_BYTES:
            yield part
            part = []
        # A session's line that is too large by itself goes in several: its order stays.
        *full, part = _parts([*part, *run])
        yield from full
    if part:
        yield part


def _about(item: Item) -> str:
    if isinstance(item, TurnFinished):
        return f"turn {item.job.turn_id}"
    if isinstance(item, ArchivedSession):
        return f"session {item.session_id}"
    return f"the acceptance of turn {item}"
