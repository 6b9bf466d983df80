"""Index versions, for those who run the backend: gRPC in, call, gRPC out."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from maieutic.v1 import index_admin_service_pb2 as pb
from maieutic.v1.index_admin_service_pb2_grpc import IndexAdminServiceServicer
from services.retrieval.keeping import Keeper
from services.retrieval.moving import Exporter, Importer

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class IndexAdminServicer(IndexAdminServiceServicer):
    """The index versions; the gateway lets only admins in."""

    def __init__(self, keeper: Keeper, exporter: Exporter, importer: Importer) -> None:
        self._keeper = keeper
        self._exporter = exporter
        self._importer = importer

    async def ListIndexVersions(
        self, request: pb.ListIndexVersionsRequest, context: Context
    ) -> pb.ListIndexVersionsResponse:
        """Return all versions, with their documents counted."""
        return pb.ListIndexVersionsResponse(versions=await self._keeper.all())

    async def BuildIndexVersion(
        self, request: pb.BuildIndexVersionRequest, context: Context
    ) -> AsyncIterator[pb.BuildIndexVersionResponse]:
        """Have every document indexed under a version, and tell how far that is."""
        recipe = await self._keeper.recipe(
            embedder_url=request.embedder_url,
            chunk_characters=request.chunk_characters,
            chunk_overlap=request.chunk_overlap if request.HasField("chunk_overlap") else None,
        )
        async with aclosing(self._keeper.build(recipe)) as states:
            async for state in states:
                yield pb.BuildIndexVersionResponse(version=state)

    async def SwitchIndexVersion(
        self, request: pb.SwitchIndexVersionRequest, context: Context
    ) -> pb.SwitchIndexVersionResponse:
        """Have searches use a version."""
        await self._keeper.switch(request.version_id, force=request.force)
        return pb.SwitchIndexVersionResponse()

    async def RollbackIndexVersion(
        self, request: pb.RollbackIndexVersionRequest, context: Context
    ) -> pb.RollbackIndexVersionResponse:
        """Have searches use the version that they used before."""
        version_id = await self._keeper.switch("", force=request.force)
        return pb.RollbackIndexVersionResponse(version_id=version_id)

    async def DropIndexVersion(
        self, request: pb.DropIndexVersionRequest, context: Context
    ) -> pb.DropIndexVersionResponse:
        """Remove a version with its vectors."""
        await self._keeper.drop(request.version_id)
        return pb.DropIndexVersionResponse()

    async def ExportIndexVersion(
        self, request: pb.ExportIndexVersionRequest, context: Context
    ) -> AsyncIterator[pb.ExportIndexVersionResponse]:
        """Send a version as a file."""
        async with aclosing(self._exporter.file(request.version_id)) as parts:
            async for part in parts:
                yield part

    async def ImportIndexVersion(
        self, request_iterator: AsyncIterator[pb.ImportIndexVersionRequest], context: Context
    ) -> AsyncIterator[pb.ImportIndexVersionResponse]:
        """Make a version of a file."""
        parts = (request.content async for request in request_iterator)
        async with aclosing(self._importer.version(parts)) as steps:
            async for step in steps:
                yield step
