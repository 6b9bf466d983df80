"""The public UsageService and what admins ask beyond it, at the session service."""

from typing import TYPE_CHECKING, Any

import grpc

from maieutic.v1 import usage_admin_service_pb2 as admin_pb, usage_service_pb2 as pb
from maieutic.v1.usage_admin_service_pb2_grpc import UsageAdminServiceServicer
from maieutic.v1.usage_service_pb2_grpc import UsageServiceServicer

if TYPE_CHECKING:  # typing names of the generated stubs
    from maieutic.v1.usage_admin_service_pb2_grpc import UsageAdminServiceAsyncStub
    from maieutic.v1.usage_service_pb2_grpc import UsageServiceAsyncStub

    Context = grpc.aio.ServicerContext[Any, Any]
else:
    Context = grpc.aio.ServicerContext

SECONDS = 20.0
"""That adding up may take, and waiting for others who add up."""


class Usage(UsageServiceServicer):
    """What a caller has consumed."""

    def __init__(self, service: "UsageServiceAsyncStub") -> None:
        self._service = service

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        """Pass on."""
        return await self._service.GetUsage(request, timeout=SECONDS)


class UsageAdmin(UsageAdminServiceServicer):
    """What all of a tenant have consumed."""

    def __init__(self, service: "UsageAdminServiceAsyncStub") -> None:
        self._service = service

    async def GetTenantUsage(
        self, request: admin_pb.GetTenantUsageRequest, context: Context
    ) -> admin_pb.GetTenantUsageResponse:
        """Pass on."""
        return await self._service.GetTenantUsage(request, timeout=SECONDS)
