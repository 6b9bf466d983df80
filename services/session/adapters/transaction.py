"""A WATCH transaction on one connection, in two round trips.

The client library's own pipelines reconnect silently, and so lose the WATCH and with it updates
(see docs/adr/0001). Here a lost connection before EXEC was sent is a conflict, and after it an
unknown commit; the caller starts again in both cases and sees by what it reads whether it is done.
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from redis._parsers import BaseParser
from redis.exceptions import (
    ConnectionError,  # noqa: A004 - redis-py's own name
    ExecAbortError,
    RedisError,
    TimeoutError,  # noqa: A004 - redis-py's own name
)

from services.session.adapters.link import Command
from services.session.adapters.replies import is_wrong_type
from services.session.adapters.servers import Servers

_MARK_MS = 1_000


class Conflict(Exception):
    """Somebody else wrote what was read, or the watch was lost: nothing was written."""


class CommitUnknown(Exception):
    """The connection broke after EXEC was sent: it may or may not have been carried out."""

    def __init__(self, lost: ConnectionError | TimeoutError) -> None:
        super().__init__(str(lost))
        self.lost = lost
        """How it broke."""


class Transaction:
    """Watch and read, then commit, on a link that is lent for it, all in the slot of one key.

    What the server refuses because another one has to be asked, or not yet, is raised as it came:
    nothing was written.
    """

    def __init__(self, servers: Servers, key: str) -> None:
        self._servers = servers
        self._key = key
        self._watching = False
        self._written = False

    async def __aenter__(self) -> Self:
        self._links = self._servers.at(self._key)
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
        """Carry out all *commands* or none; raises Conflict, CommitUnknown or RedisError."""
        if not self._link.alive:
            message = "the connection was lost while watching"
            raise Conflict(message)
        answer = self._link.request([("MULTI",), *commands, ("EXEC",)])
        try:
            replies = await answer
        except (ConnectionError, TimeoutError) as error:
            raise CommitUnknown(error) from error
        self._watching = False
        done = _committed(replies)
        self._written = True
        return done

    async def replicated(self, timeout: float, mark: str) -> bool:  # noqa: ASYNC109 - the server's
        """Return whether a replica has, within *timeout* seconds, all that stands here by now.

        A server promises to wait for what the same link has written. Where that is nothing, because
        what was to be written stands already, the key *mark* is written for it. Raises
        CommitUnknown if the link is lost meanwhile.
        """
        wait: list[Command] = [("WAIT", 1, round(timeout * 1000))]
        if not self._written:
            wait.insert(0, ("SET", mark, b"", "PX", _MARK_MS))
        try:
            replies = await self._link.request(wait)
        except (ConnectionError, TimeoutError) as error:
            raise CommitUnknown(error) from error
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return bool(replies[-1])

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._watching:
            self._link.tell([("UNWATCH",)])
        self._links.take_back(self._link)
        if isinstance(error, CommitUnknown):
            error = error.lost
        if isinstance(error, RedisError | OSError):
            self._links.failed(error)
        elif isinstance(error, Exception | None):  # what a decision raises is no fault of the link
            self._links.answered()


def _committed(replies: list[Any]) -> list[Any]:
    outcome = replies[-1]
    if outcome is None:
        message = "a watched key was changed"
        raise Conflict(message)
    if isinstance(outcome, ExecAbortError):
        raise _cause(outcome, replies[1:-1])
    if isinstance(outcome, Exception):
        raise outcome
    if failed := next((reply for reply in outcome if isinstance(reply, Exception)), None):
        # Redis carries out the others all the same: this is never silently half a write.
        raise failed
    return list(outcome)


def _cause(aborted: ExecAbortError, queued: Sequence[Any]) -> Exception:
    """Return why nothing was carried out: a command was refused, or EXEC itself."""
    if refused := next((reply for reply in queued if isinstance(reply, Exception)), None):
        return refused
    _, colon, reason = str(aborted).partition("because of: ")
    read: Callable[[str], Exception] = BaseParser.parse_error
    return read(reason) if colon else aborted
