"""What the gateway asks of the outside, besides the services behind it."""

from typing import Protocol

from services.gateway.model import KeyHolder


class KeyStore(Protocol):
    """The API keys that were given out."""

    async def holder(self, key: str) -> KeyHolder | None:
        """Return whom *key* was given to, or None if it is unknown or withdrawn.

        A key that was added or withdrawn counts within seconds. Raises nothing: while the store
        cannot be read, what it said last holds.
        """
        ...
