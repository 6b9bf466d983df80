"""Commands that need no transaction: sent together, answered together."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from redis.exceptions import RedisError, ResponseError

from services.session.adapters.link import Command
from services.session.adapters.refusals import refusal
from services.session.adapters.servers import Servers
from services.session.observing import timed


class Pipeline:
    """What every part of the store stands on: the servers, and one round trip to each of them."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    async def _pipeline(self, commands: Sequence[Command], *, errors: bool = False) -> list[Any]:
        """Return the replies; with *errors* also those that are errors, as exceptions."""
        if not commands:
            return []
        try:
            with timed():
                replies = await self._servers.ask(commands)
        except (RedisError, OSError) as error:
            raise refusal(error) from error
        for reply in replies:
            if isinstance(reply, Exception) and not (errors and isinstance(reply, ResponseError)):
                raise refusal(reply) from reply
        return replies

    async def _pipeline_to_all(self, commands: Sequence[Command]) -> list[list[Any]]:
        """Return the replies of each server that takes writes, for what is not about a key."""
        try:
            told = await self._servers.ask_all(commands)
        except (RedisError, OSError) as error:
            raise refusal(error) from error
        for reply in chain.from_iterable(told):
            if isinstance(reply, Exception):
                raise refusal(reply) from reply
        return told
