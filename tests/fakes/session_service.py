"""The fake session service as a server has it."""

from collections.abc import Callable

import grpc

from maieutic.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server
from maieutic.v1.specification_service_pb2_grpc import add_SpecificationServiceServicer_to_server
from maieutic.v1.turn_service_pb2_grpc import add_TurnServiceServicer_to_server
from maieutic.v1.usage_admin_service_pb2_grpc import add_UsageAdminServiceServicer_to_server
from maieutic.v1.usage_service_pb2_grpc import add_UsageServiceServicer_to_server
from tests.fakes.conversations import Conversations, FakeSessions, FakeTurns
from tests.fakes.specifications import FakeSpecifications
from tests.fakes.usage import FakeUsage


def register_conversations(state: Conversations) -> Callable[[grpc.aio.Server], list[str]]:
    """Return what `serving` calls to add the public services."""

    def register(server: grpc.aio.Server) -> list[str]:
        add_SessionServiceServicer_to_server(FakeSessions(state), server)
        add_TurnServiceServicer_to_server(FakeTurns(state), server)
        add_SpecificationServiceServicer_to_server(FakeSpecifications(state), server)
        usage = FakeUsage(state)
        add_UsageServiceServicer_to_server(usage, server)
        add_UsageAdminServiceServicer_to_server(usage, server)
        return [
            "maieutic.v1.SessionService",
            "maieutic.v1.TurnService",
            "maieutic.v1.SpecificationService",
            "maieutic.v1.UsageService",
            "maieutic.v1.UsageAdminService",
        ]

    return register
