"""The public DeadLetterAdminService: the letters are the archive's, which no gateway reaches."""

from typing import TYPE_CHECKING

import grpc

from maieutic.v1 import dead_letter_admin_service_pb2 as pb
from maieutic.v1.dead_letter_admin_service_pb2_grpc import (
    DeadLetterAdminServiceServicer,
    DeadLetterAdminServiceStub,
)
from services.session.archive import answered
from services.session.callers import GATEWAY, Context, only_for

if TYPE_CHECKING:  # a typing name of the generated stubs
    from maieutic.v1.dead_letter_admin_service_pb2_grpc import DeadLetterAdminServiceAsyncStub

SERVICE = "maieutic.v1.DeadLetterAdminService"


class DeadLetterServicer(DeadLetterAdminServiceServicer):
    """Passes on what the gateway lets through: the calls of admins."""

    def __init__(self, archive: grpc.aio.Channel) -> None:
        self._archive: DeadLetterAdminServiceAsyncStub = DeadLetterAdminServiceStub(archive)

    async def ListDeadLetters(
        self, request: pb.ListDeadLettersRequest, context: Context
    ) -> pb.ListDeadLettersResponse:
        only_for(GATEWAY)
        return await answered(self._archive.ListDeadLetters(request))

    async def GetDeadLetter(
        self, request: pb.GetDeadLetterRequest, context: Context
    ) -> pb.GetDeadLetterResponse:
        only_for(GATEWAY)
        return await answered(self._archive.GetDeadLetter(request))

    async def RedriveDeadLetters(
        self, request: pb.RedriveDeadLettersRequest, context: Context
    ) -> pb.RedriveDeadLettersResponse:
        only_for(GATEWAY)
        return await answered(self._archive.RedriveDeadLetters(request))

    async def DropDeadLetters(
        self, request: pb.DropDeadLettersRequest, context: Context
    ) -> pb.DropDeadLettersResponse:
        only_for(GATEWAY)
        return await answered(self._archive.DropDeadLetters(request))
