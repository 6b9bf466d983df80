"""The public UsageService: the accounts are the archive's, which no gateway reaches."""

from typing import TYPE_CHECKING

import grpc

from maieutic.v1 import usage_admin_service_pb2 as admin_pb, usage_service_pb2 as pb
from maieutic.v1.usage_admin_service_pb2_grpc import (
    UsageAdminServiceServicer,
    UsageAdminServiceStub,
)
from maieutic.v1.usage_service_pb2_grpc import UsageServiceServicer, UsageServiceStub
from services.runtime.errors import NotFound
from services.session.archive import answered
from services.session.callers import GATEWAY, Context, calling_user, only_for
from services.session.ids import checked
from services.session.live import LiveSessions, owned
from services.session.turns import Turns

if TYPE_CHECKING:  # typing names of the generated stubs
    from maieutic.v1.usage_admin_service_pb2_grpc import UsageAdminServiceAsyncStub
    from maieutic.v1.usage_service_pb2_grpc import UsageServiceAsyncStub

SECONDS = 20.0
"""That adding up may take, and waiting for others who add up."""


class UsageServicer(UsageServiceServicer):
    """Passes on what a caller asks of its own usage."""

    def __init__(self, archive: grpc.aio.Channel, live: LiveSessions, turns: Turns) -> None:
        self._archive: UsageServiceAsyncStub = UsageServiceStub(archive)
        self._live = live
        self._turns = turns

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        _check_ids(request)
        try:
            return await answered(self._archive.GetUsage(request, timeout=SECONDS))
        except NotFound:
            # The archive may not have heard of it yet: then it has consumed nothing so far.
            await self._require(request)
        return pb.GetUsageResponse()

    async def _require(self, request: pb.GetUsageRequest) -> None:
        """Raise NotFound unless the live store has what is asked for, and it is the caller's."""
        caller = calling_user()
        if request.turn_id:
            await self._turns.get(caller, request.turn_id)
            return
        await self._live.transact(
            request.session_id,
            lambda draft: owned(draft.session, request.session_id, caller.tenant, caller.user),
        )


class UsageAdminServicer(UsageAdminServiceServicer):
    """Passes on what the gateway lets through: the calls of admins."""

    def __init__(self, archive: grpc.aio.Channel) -> None:
        self._archive: UsageAdminServiceAsyncStub = UsageAdminServiceStub(archive)

    async def GetTenantUsage(
        self, request: admin_pb.GetTenantUsageRequest, context: Context
    ) -> admin_pb.GetTenantUsageResponse:
        only_for(GATEWAY)
        _check_ids(request)
        return await answered(self._archive.GetTenantUsage(request, timeout=SECONDS))


def _check_ids(request: pb.GetUsageRequest | admin_pb.GetTenantUsageRequest) -> None:
    if request.session_id:
        checked("session_id", request.session_id)
    if request.turn_id:
        checked("turn_id", request.turn_id)
