"""What agents have understood from a session: specifications, conflicts, questions, summary."""

from collections.abc import AsyncIterator

from maieutic.v1 import specification_pb2 as pb, specification_service_pb2 as service
from maieutic.v1.specification_service_pb2_grpc import SpecificationServiceStub
from maieutic.v1.summary_pb2 import Summary
from maieutic_client.connection import Connection, new_request_id
from maieutic_client.session_ids import SessionLike, session_id_of


class Specifications:
    """`client.specifications`. A session may be given in any of the shapes of `session_id_of`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = SpecificationServiceStub(connection.channel)

    async def list(
        self,
        session: SessionLike,
        *,
        category: str = "",
        include_withdrawn: bool = False,
        page_size: int = 0,
    ) -> AsyncIterator[pb.Specification]:
        """Iterate over the specifications as they were found; pages are fetched as needed."""
        request = service.ListSpecificationsRequest(
            session_id=session_id_of(session),
            category=category,
            include_withdrawn=include_withdrawn,
            page_size=page_size,
        )
        async for page in self._connection.pages(self._stub.ListSpecifications, request):
            for specification in page.specifications:
                yield specification

    async def conflicts(
        self, session: SessionLike, *, include_closed: bool = False, page_size: int = 0
    ) -> AsyncIterator[pb.Conflict]:
        """Iterate over the conflicts that are to be decided, or over all of them."""
        request = service.ListConflictsRequest(
            session_id=session_id_of(session), include_closed=include_closed, page_size=page_size
        )
        async for page in self._connection.pages(self._stub.ListConflicts, request):
            for conflict in page.conflicts:
                yield conflict

    async def questions(
        self, session: SessionLike, *, page_size: int = 0
    ) -> AsyncIterator[pb.Question]:
        """Iterate over what agents have asked, oldest first."""
        request = service.ListQuestionsRequest(
            session_id=session_id_of(session), page_size=page_size
        )
        async for page in self._connection.pages(self._stub.ListQuestions, request):
            for question in page.questions:
                yield question

    async def summary(self, session: SessionLike) -> Summary | None:
        """Return what agents are given of the older part; None while they are given all of it."""
        request = service.GetSummaryRequest(session_id=session_id_of(session))
        response = await self._connection.call(self._stub.GetSummary, request)
        return response.summary if response.HasField("summary") else None

    async def resolve(
        self,
        session: SessionLike,
        conflict_id: str,
        kind: pb.ResolutionKind.ValueType,
        *,
        value: str = "",
        request_id: str | None = None,
    ) -> pb.Conflict:
        """Decide a conflict, once and for all; *value* is what holds now, with REPLACE."""
        request = service.ResolveConflictRequest(
            session_id=session_id_of(session),
            request_id=request_id or new_request_id(),
            conflict_id=conflict_id,
            kind=kind,
            value=value,
        )
        return (await self._connection.call(self._stub.ResolveConflict, request)).conflict
