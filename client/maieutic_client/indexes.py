"""For those who run the backend: index versions side by side."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO

import grpc

from maieutic.v1 import index_admin_service_pb2 as pb
from maieutic.v1.index_admin_service_pb2_grpc import IndexAdminServiceStub
from maieutic_client.connection import Connection
from maieutic_client.errors import lifted

DROP_TIMEOUT_SECONDS = 120.0
PART_BYTES = 256 * 1024


class Indexes:
    """`client.indexes`: needs an admin's API key, else PermissionDenied."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = IndexAdminServiceStub(connection.channel)

    async def list(self) -> Sequence[pb.IndexVersion]:
        """Return all versions, the oldest first."""
        request = pb.ListIndexVersionsRequest()
        return (await self._connection.call(self._stub.ListIndexVersions, request)).versions

    async def build(
        self, *, embedder_url: str = "", chunk_characters: int = 0, chunk_overlap: int | None = None
    ) -> AsyncIterator[pb.IndexVersion]:
        """Have every document indexed under a version, and yield how far that is until it is done.

        What is not given is as the retrieval service is set. The build goes on without the caller;
        building again tells again. Goes on where it was cut off.
        """
        request = pb.BuildIndexVersionRequest(
            embedder_url=embedder_url,
            chunk_characters=chunk_characters,
            chunk_overlap=chunk_overlap,
        )
        told = self._connection.repeated(self._stub.BuildIndexVersion, request)
        async with aclosing(told):
            async for response in told:
                yield response.version

    async def switch(self, version_id: str, *, force: bool = False) -> None:
        """Have searches use a version; raises FailedPrecondition if it lacks documents."""
        request = pb.SwitchIndexVersionRequest(version_id=version_id, force=force)
        await self._connection.call(self._stub.SwitchIndexVersion, request)

    async def rollback(self, *, force: bool = False) -> str:
        """Have searches use the version that they used before; returns its id."""
        request = pb.RollbackIndexVersionRequest(force=force)
        answer = await self._connection.call(self._stub.RollbackIndexVersion, request)
        return answer.version_id

    async def drop(self, version_id: str) -> None:
        """Remove a version with its vectors, never the one that is searched."""
        request = pb.DropIndexVersionRequest(version_id=version_id)
        await self._connection.call(
            self._stub.DropIndexVersion, request, timeout=DROP_TIMEOUT_SECONDS
        )

    async def export(
        self, version_id: str, path: Path
    ) -> AsyncIterator[pb.ExportIndexVersionResponse]:
        """Write a version to a file, and yield how far that is; the file is there once it is whole.

        It is not tried again. Raises NotFound, and OSError.
        """
        request = pb.ExportIndexVersionRequest(version_id=version_id)
        call = self._stub.ExportIndexVersion(request, metadata=self._connection.metadata)
        beginning = path.with_name(f"{path.name}.part")
        try:
            with beginning.open("wb") as file:
                async for response in call:
                    await asyncio.to_thread(file.write, response.content)
                    yield response
            await asyncio.to_thread(beginning.replace, path)
        except grpc.aio.AioRpcError as failed:
            raise lifted(failed) from failed
        finally:
            call.cancel()
            beginning.unlink(missing_ok=True)

    async def import_(self, path: Path) -> AsyncIterator[pb.ImportIndexVersionResponse]:
        """Make a version of an exported file, and yield how far that is; the last one has its id.

        It is not tried again. Raises InvalidArgument if the file is damaged or does not fit,
        FailedPrecondition if there is such a version, and OSError.
        """
        with path.open("rb") as file:
            told = self._connection.sent(self._stub.ImportIndexVersion, _parts(file))
            async with aclosing(told):
                async for response in told:
                    yield response


async def _parts(file: BinaryIO) -> AsyncIterator[pb.ImportIndexVersionRequest]:
    while part := await asyncio.to_thread(file.read, PART_BYTES):
        yield pb.ImportIndexVersionRequest(content=part)
