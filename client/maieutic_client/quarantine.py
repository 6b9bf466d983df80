"""For those who run the backend: records that could not be read."""

from collections.abc import AsyncIterator

from maieutic.v1 import admin_service_pb2 as pb
from maieutic.v1.admin_service_pb2_grpc import AdminServiceStub
from maieutic_client.connection import Connection, new_request_id


class Quarantine:
    """`client.quarantine`: needs an admin's API key, else PermissionDenied."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = AdminServiceStub(connection.channel)

    async def list(self, *, page_size: int = 0) -> AsyncIterator[pb.QuarantinedRecord]:
        """Iterate over the records in quarantine, the latest first; pages come as needed."""
        request = pb.ListQuarantinedRequest(page_size=page_size)
        async for page in self._connection.pages(self._stub.ListQuarantined, request):
            for record in page.records:
                yield record

    async def get(self, record_id: str, *, with_content: bool = False) -> pb.GetQuarantinedResponse:
        """Return a record; raises NotFound. Its content may have what users wrote."""
        request = pb.GetQuarantinedRequest(record_id=record_id, with_content=with_content)
        return await self._connection.call(self._stub.GetQuarantined, request)

    async def drop(self, record_id: str, *, request_id: str | None = None) -> None:
        """Remove a record for good; removing it again succeeds."""
        request = pb.DropQuarantinedRequest(
            record_id=record_id, request_id=request_id or new_request_id()
        )
        await self._connection.call(self._stub.DropQuarantined, request)
