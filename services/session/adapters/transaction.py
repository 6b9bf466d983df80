"""A WATCH transaction on one raw connection, in two round trips.

The client library's own pipelines reconnect silently, and so lose the WATCH and with it updates
(see docs/adr/0001). Here a lost connection before EXEC was sent is a conflict, and after it an
unknown commit; the caller starts again in both cases and sees by what it reads whether it is done.
"""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from redis.asyncio.connection import ConnectionPool
from redis.exceptions import (
    ClusterDownError,
    ConnectionError,  # noqa: A004 - redis-py's own name
    ExecAbortError,
    MovedError,
    ResponseError,
    TimeoutError,  # noqa: A004 - redis-py's own name
    TryAgainError,
)

Command = Sequence[str | bytes | int]


class Conflict(Exception):
    """Somebody else wrote what was read, or the watch was lost: nothing was written."""


class CommitUnknown(Exception):
    """The connection broke after EXEC was sent: it may or may not have been carried out."""


class Transaction:
    """Watch and read, then commit. Leaves a connection that it cannot vouch for closed."""

    def __init__(self, pool: ConnectionPool, *, timeout: float) -> None:
        """Take a connection of *pool*; *timeout* in seconds bounds each round trip."""
        self._pool = pool
        self._timeout = timeout
        self._watching = False

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(self._timeout):
            self._connection = await self._pool.get_connection()  # type: ignore[no-untyped-call] # redis-py
        return self

    async def read(self, keys: Sequence[str], reads: Sequence[Command]) -> list[Any]:
        """Watch *keys* and return the replies to *reads*, all in one round trip.

        The reply of a key that holds another type is the error itself.
        """
        commands: list[Command] = [("WATCH", *keys), *reads] if keys else list(reads)
        if self._watching and not self._connection.is_connected:
            message = "the connection was lost while watching"
            raise Conflict(message)
        self._watching = True
        replies = await self._round_trip(commands)
        for reply in replies:
            if isinstance(reply, Exception) and not is_wrong_type(reply):
                raise reply
        return replies[1:] if keys else replies

    async def commit(self, commands: Sequence[Command]) -> list[Any]:
        """Carry out all *commands* or none; raises Conflict or CommitUnknown."""
        if not self._connection.is_connected:
            message = "the connection was lost while watching"
            raise Conflict(message)
        try:
            replies = await self._round_trip([("MULTI",), *commands, ("EXEC",)])
        except (ConnectionError, TimeoutError, OSError) as error:
            raise CommitUnknown(str(error)) from error
        self._watching = False
        return _committed(replies)

    async def _round_trip(self, commands: Sequence[Command]) -> list[Any]:
        packed = self._connection.pack_commands(commands)
        async with asyncio.timeout(self._timeout):
            await self._connection.send_packed_command(packed, check_health=False)
            return [await self._reply() for _ in commands]

    async def _reply(self) -> Any:
        try:
            # Bytes whatever the pool decodes: records are binary.
            return await self._connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return error

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A decision that raised leaves the connection in order; anything else may not have.
        cut = isinstance(
            error, asyncio.CancelledError | ConnectionError | TimeoutError | OSError | CommitUnknown
        )
        try:
            if self._watching and (cut or not self._connection.is_connected):
                await self._connection.disconnect(nowait=True)
            elif self._watching:
                await self._unwatch()
        finally:
            await asyncio.shield(self._pool.release(self._connection))

    async def _unwatch(self) -> None:
        try:
            await self._round_trip([("UNWATCH",)])
        except (ConnectionError, TimeoutError, OSError):
            await self._connection.disconnect(nowait=True)


def is_wrong_type(reply: Any) -> bool:
    """Whether the reply says that the key holds something that nobody here wrote."""
    return isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")


def _committed(replies: list[Any]) -> list[Any]:
    outcome = replies[-1]
    if outcome is None:
        message = "a watched key was changed"
        raise Conflict(message)
    if isinstance(outcome, ExecAbortError):
        cause = next((r for r in replies[1:-1] if isinstance(r, Exception)), outcome)
        raise _moved(cause)
    if isinstance(outcome, Exception):
        raise _moved(outcome)
    if failed := next((reply for reply in outcome if isinstance(reply, Exception)), None):
        # Redis carries out the others all the same: this is never silently half a write.
        raise failed
    return list(outcome)


def _moved(error: Exception) -> Exception:
    if isinstance(error, MovedError | TryAgainError | ClusterDownError):
        return Conflict(str(error))
    return error
