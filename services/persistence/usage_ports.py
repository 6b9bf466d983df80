"""What accounts are asked, and what they need from a database."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from maieutic.v1.usage_service_pb2 import UsageKey, UsageRow, UsageTotal


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuestion:
    """Which calls of models to add up, and how."""

    tenant: str
    user_id: str | None
    """None: of all users."""
    session_id: str = ""
    turn_id: str = ""
    start: datetime | None = None
    """From then on."""
    end: datetime | None = None
    """Until before then."""
    group_by: tuple[UsageKey.ValueType, ...] = ()
    after: tuple[str, ...] | None = None
    """The last row's place; None from the first row on."""
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageAnswer:
    """A part of the rows, and the sums of all of them."""

    rows: Sequence[UsageRow]
    total: UsageTotal
    rest: tuple[str, ...] | None = None
    """The last row's place if more follow."""
    known: bool = True
    """False: the session or turn that was asked for is not here, or somebody else's."""


class UsageAccounts(Protocol):
    """Sums of what was consumed."""

    async def usage(self, question: UsageQuestion) -> UsageAnswer:
        """Add up the calls of one state of the archive.

        Raises ArchiveUnavailable, and UsageTooLarge if that takes longer than it may.
        """
        ...
