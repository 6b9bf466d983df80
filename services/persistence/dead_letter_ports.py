"""What dead letters are, and what they need from a database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that died."""

    letter_id: str
    message_id: str
    routing_key: str
    reason: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    """Its first part, if it is cut."""
    size: int
    """Of the whole body, in bytes."""
    redrives: int
    """How often it had been redriven when it died."""

    @property
    def cut(self) -> bool:
        """Whether the body was too large to be kept whole."""
        return len(self.body) < self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLetter:
    """What a list tells of a dead letter."""

    number: int
    """Higher than that of each letter kept before."""
    letter_id: str
    message_id: str
    routing_key: str
    reason: str
    size: int
    cut: bool
    redrives: int
    create_time: datetime
    redrive_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterFilter:
    """Which letters; an empty field matches all."""

    routing_key: str = ""
    reason: str = ""
    """A part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterOperation:
    """A request of a user, which is carried out once."""

    tenant: str
    user_id: str
    request_id: str
    request_hash: bytes
    """Of all that the request says."""


class DeadLetters(Protocol):
    """Keeps dead letters. Every method raises ArchiveUnavailable while the database is away."""

    async def keep_dead_letter(self, letter: DeadLetter) -> bool:
        """Keep a letter and return whether it is new; keeping it again changes nothing."""
        ...

    async def dead_letters(
        self, which: LetterFilter, *, below: int | None, limit: int, with_redriven: bool
    ) -> Sequence[KeptLetter]:
        """Return letters with lower numbers than *below* (None: all), the latest first."""
        ...

    async def dead_letters_to_redrive(
        self, which: LetterFilter, *, limit: int
    ) -> tuple[Sequence[KeptLetter], int]:
        """Return the oldest letters neither redriven nor cut, and how many there are in all."""
        ...

    async def dead_letters_of(self, letter_ids: Sequence[str]) -> Sequence[KeptLetter]:
        """Return those that are there, the oldest first."""
        ...

    async def whole_dead_letter(self, letter_id: str) -> DeadLetter | None:
        """Return a letter with its body; None if it is not there."""
        ...

    async def mark_redriven(self, letter_id: str) -> None:
        """Note that a letter was published again; of one that is not there nothing is noted."""
        ...

    async def dead_letter_outcome(self, operation: LetterOperation) -> bytes | None:
        """Return what the request had as its outcome; None if it had none yet.

        Raises RequestIdTaken if its id was used for another request.
        """
        ...

    async def keep_dead_letter_outcome(self, operation: LetterOperation, outcome: bytes) -> bytes:
        """Keep a request's first outcome and return it. Raises RequestIdTaken."""
        ...

    async def drop_dead_letters(
        self, which: LetterFilter | Sequence[str], operation: LetterOperation
    ) -> int:
        """Remove letters, by id or those not redriven that match; returns how many.

        The same operation again removes nothing and returns the same. Raises RequestIdTaken.
        """
        ...

    async def expire_dead_letters(self, *, older_than: float) -> int:
        """Remove letters kept more than *older_than* seconds ago, and outcomes of a day ago."""
        ...
