"""A WATCH transaction on one connection, in two round trips.

The client library's own pipelines reconnect silently, and so lose the WATCH and with it updates
(see docs/adr/0001). Here a lost connection before EXEC was sent is a conflict, and after it an
unknown commit; the caller starts again in both cases and sees by what it reads whether it is done.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from redis.exceptions import (
    ClusterDownError,
    ConnectionError,  # noqa: A004 - redis-py's own name
    ExecAbortError,
    MovedError,
    TimeoutError,  # noqa: A004 - redis-py's own name
    TryAgainError,
)

from services.session.adapters.link import Command, Links
from services.session.adapters.replies import is_wrong_type


class Conflict(Exception):
    """Somebody else wrote what was read, or the watch was lost: nothing was written."""


class CommitUnknown(Exception):
    """The connection broke after EXEC was sent: it may or may not have been carried out."""

    def __init__(self, lost: ConnectionError | TimeoutError) -> None:
        super().__init__(str(lost))
        self.lost = lost
        """How it broke."""


class Transaction:
    """Watch and read, then commit, on a link that is lent for it."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._watching = False

    async def __aenter__(self) -> Self:
        self._link = await self._links.lend()
        return self

    async def read(self, keys: Sequence[str], reads: Sequence[Command]) -> list[Any]:
        """Watch *keys* and return the replies to *reads*, all in one round trip.

        The reply of a key that holds another type is the error itself.
        """
        commands: list[Command] = [("WATCH", *keys), *reads] if keys else list(reads)
        if self._watching and not self._link.alive:
            message = "the connection was lost while watching"
            raise Conflict(message)
        self._watching = True
        replies = await self._link.request(commands)
        for reply in replies:
            if isinstance(reply, Exception) and not is_wrong_type(reply):
                raise reply
        return replies[1:] if keys else replies

    async def commit(self, commands: Sequence[Command]) -> list[Any]:
        """Carry out all *commands* or none; raises Conflict or CommitUnknown."""
        if not self._link.alive:
            message = "the connection was lost while watching"
            raise Conflict(message)
        answer = self._link.request([("MULTI",), *commands, ("EXEC",)])
        try:
            replies = await answer
        except (ConnectionError, TimeoutError) as error:
            raise CommitUnknown(error) from error
        self._watching = False
        return _committed(replies)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._watching:
            self._link.tell([("UNWATCH",)])
        self._links.take_back(self._link)


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
