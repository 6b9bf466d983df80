"""The fake session service as a server has it."""

from collections.abc import Callable

import grpc

from maieutic.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server
from maieutic.v1.specification_service_pb2_grpc import add_SpecificationServiceServicer_to_server
from maieutic.v1.turn_service_pb2_grpc import add_TurnServiceServicer_to_server
from tests.fakes.conversations import Conversations, FakeSessions, FakeTurns
from tests.fakes.specifications import FakeSpecifications


def register_conversations(state: Conversations) -> Callable[[grpc.aio.Server], list[str]]:
    """Return what `serving` calls to add the public services."""

    def register(server: grpc.aio.Server) -> list[str]:
        add_SessionServiceServicer_to_server(FakeSessions(state), server)
        add_TurnServiceServicer_to_server(FakeTurns(state), server)
        add_SpecificationServiceServicer_to_server(FakeSpecifications(state), server)
        return [
            "maieutic.v1.SessionService",
            "maieutic.v1.TurnService",
            "maieutic.v1.SpecificationService",
        ]

    return register
