"""The client: one connection, and a group of calls for each matter."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from maieutic_client.artifacts import Artifacts
from maieutic_client.connection import Connection
from maieutic_client.dead_letters import DeadLetters
from maieutic_client.documents import Documents
from maieutic_client.indexes import Indexes
from maieutic_client.notes import Bookmarks, Notes
from maieutic_client.quarantine import Quarantine
from maieutic_client.retry import RetryPolicy
from maieutic_client.sessions import Sessions
from maieutic_client.specifications import Specifications
from maieutic_client.tracing import Tracing
from maieutic_client.turns import Turns
from maieutic_client.usage import Usage

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider


class Maieutic:
    """A connection to a Maieutic gateway. Safe to share among the tasks of one event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.sessions = Sessions(connection)
        self.turns = Turns(connection)
        self.notes = Notes(connection)
        self.bookmarks = Bookmarks(connection)
        self.specifications = Specifications(connection)
        self.artifacts = Artifacts(connection)
        self.documents = Documents(connection)
        self.quarantine = Quarantine(connection)
        self.indexes = Indexes(connection)
        self.dead_letters = DeadLetters(connection)
        self.usage = Usage(connection)

    @classmethod
    def connect(
        cls,
        address: str,
        *,
        api_key: str,
        user: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        retry: RetryPolicy | None = None,
        tracer_provider: "TracerProvider | None" = None,
    ) -> Self:
        """Return a client of the gateway at *address* (host:port), to be used as a context.

        *user* names the end user whom a backend acts for; its key must allow that. Without
        *credentials* the connection is plain text, for this machine or behind a proxy with TLS:
        `grpc.ssl_channel_credentials()` is for a gateway with a public certificate. The first call
        connects, and waits for a gateway that is still starting as *retry* says. Where
        OpenTelemetry's API is installed each call is a span, of *tracer_provider* or the process's.
        A key or a user that no call can carry is Unauthenticated or InvalidArgument at once.
        """
        return cls(
            Connection(
                address,
                api_key=api_key,
                user=user,
                credentials=credentials,
                retry=retry or RetryPolicy(),
                tracing=Tracing(tracer_provider),
            )
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End running calls and close the connection."""
        await self._connection.close()
