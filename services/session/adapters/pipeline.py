"""Commands that need no transaction: sent together, answered together."""

from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError, ResponseError

from services.session.adapters.link import Command, Links
from services.session.adapters.refusals import refusal
from services.session.observing import timed


class Pipeline:
    """What every part of the store stands on: the links, and one round trip over the shared one."""

    def __init__(self, links: Links) -> None:
        self._links = links

    async def _pipeline(self, commands: Sequence[Command], *, errors: bool = False) -> list[Any]:
        """Return the replies; with *errors* also those that are errors, as exceptions."""
        if not commands:
            return []
        try:
            with timed():
                link = await self._links.shared()
                replies = await link.request(commands)
        except (RedisError, OSError) as error:
            raise refusal(error) from error
        for reply in replies:
            if isinstance(reply, Exception) and not (errors and isinstance(reply, ResponseError)):
                raise refusal(reply) from reply
        return replies
