"""What the store's adapter needs of the servers that it stands on, one or many."""

from collections.abc import Sequence
from typing import Any, Protocol

from services.session.adapters.link import Command, Link, OnMessage
from services.session.adapters.links import Links


class Servers(Protocol):
    """A single server, the primary that Sentinels name, or the primaries of a cluster.

    Every method may raise RedisError or OSError, NotAsked among them for a server that has not
    answered for long.
    """

    def at(self, key: str) -> Links:
        """Return the links to the server that has the key now."""
        ...

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies, errors as exceptions among them; commands may have any keys.

        MULTI to EXEC go to one server. Commands may be carried out twice.
        """
        ...

    async def ask_all(self, commands: Sequence[Command]) -> list[list[Any]]:
        """Ask every server that takes writes, for what is not about a key."""
        ...

    def primaries(self) -> Sequence[Links]:
        """Return the links to each server that takes writes; once one has answered, some."""
        ...

    async def dial(self, on_message: OnMessage | None = None) -> Link:
        """Open a link to a server that hears of everything that is published."""
        ...
