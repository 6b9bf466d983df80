"""The public DeadLetterAdminService: the letters are the archive's, which no gateway reaches."""

from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

from maieutic.v1 import dead_letter_admin_service_pb2 as pb
from maieutic.v1.dead_letter_admin_service_pb2_grpc import (
    DeadLetterAdminServiceServicer,
    DeadLetterAdminServiceStub,
)
from services.runtime.identity import current_identity
from services.session.archive import answered
from services.session.errors import ServicesOnly

if TYPE_CHECKING:  # a typing name of the generated stubs
    from maieutic.v1.dead_letter_admin_service_pb2_grpc import DeadLetterAdminServiceAsyncStub

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

SERVICE = "maieutic.v1.DeadLetterAdminService"


class DeadLetterServicer(DeadLetterAdminServiceServicer):
    """Passes on what the gateway lets through: the calls of admins."""

    def __init__(self, archive: grpc.aio.Channel) -> None:
        self._archive: DeadLetterAdminServiceAsyncStub = DeadLetterAdminServiceStub(archive)

    async def ListDeadLetters(
        self, request: pb.ListDeadLettersRequest, context: Context
    ) -> pb.ListDeadLettersResponse:
        _gateway_only()
        return await answered(self._archive.ListDeadLetters(request))

    async def GetDeadLetter(
        self, request: pb.GetDeadLetterRequest, context: Context
    ) -> pb.GetDeadLetterResponse:
        _gateway_only()
        return await answered(self._archive.GetDeadLetter(request))

    async def RedriveDeadLetters(
        self, request: pb.RedriveDeadLettersRequest, context: Context
    ) -> pb.RedriveDeadLettersResponse:
        _gateway_only()
        return await answered(self._archive.RedriveDeadLetters(request))

    async def DropDeadLetters(
        self, request: pb.DropDeadLettersRequest, context: Context
    ) -> pb.DropDeadLettersResponse:
        _gateway_only()
        return await answered(self._archive.DropDeadLetters(request))


def _gateway_only() -> None:
    if current_identity().service != "gateway":
        raise ServicesOnly
