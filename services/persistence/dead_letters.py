"""Dead letters: from their queue into the archive, and gone after their time."""

import hashlib
import json
import logging

from services.persistence.dead_letter_ports import DeadLetter, DeadLetters
from services.persistence.errors import ArchiveUnavailable, Refused
from services.persistence.retrying import until_done
from services.persistence.settings import DeadLetterOptions
from services.runtime import names, telemetry
from services.runtime.bus import Bus, Delivery
from services.runtime.repeating import again_and_again
from services.runtime.topology import Topology

LOG = logging.getLogger(__name__)
QUEUE = "dead.v1"
PREFETCH = 8
"""Letters are rare, and may be large."""
REDRIVES_HEADER = "maieutic-redrives"
"""How often a message was redriven. It tells a message that died again, which is a new letter, from
one that is delivered again, which is not."""
MOST_REASON = 1000
MOST_REDRIVES = 1_000_000
ID_LENGTH = 24
"""Digits and letters alone: an id is typed at a command line, where a dash begins an option."""


def letter_of(delivery: Delivery, *, body_bytes: int) -> DeadLetter:
    """Return the letter that a delivery is; the same for each delivery of one death.

    What a database cannot keep in a text is replaced: no publisher of the system sends it.
    """
    redrives = _redrives(delivery.headers.get(REDRIVES_HEADER, ""))
    reason = _storable(delivery.dead_reason or "unknown")
    facts = (delivery.routing_key, delivery.message_id, reason, redrives)
    digest = hashlib.sha256(json.dumps(facts).encode() + delivery.body).hexdigest()
    return DeadLetter(
        letter_id=digest[:ID_LENGTH],
        message_id=_storable(delivery.message_id),
        routing_key=_storable(delivery.routing_key),
        reason=reason[:MOST_REASON],
        headers={
            _storable(name): _storable(value)
            for name, value in delivery.headers.items()
            if name != REDRIVES_HEADER
        },
        body=delivery.body[:body_bytes],
        size=len(delivery.body),
        redrives=redrives,
    )


def _redrives(text: str) -> int:
    readable = text.isascii() and text.isdecimal() and len(text) <= len(str(MOST_REDRIVES))
    return min(int(text), MOST_REDRIVES) if readable else 0


def _storable(text: str) -> str:
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


class DeadLetterKeeper:
    """Moves dead letters from the bus into the archive."""

    def __init__(
        self, *, bus: Bus, letters: DeadLetters, topology: Topology, options: DeadLetterOptions
    ) -> None:
        self._bus = bus
        self._letters = letters
        self._topology = topology
        self._options = options

    async def run(self) -> None:
        """Consume until cancelled; while the database is away, letters stay on the bus."""
        async with self._bus.consume(QUEUE, prefetch=PREFETCH) as deliveries:
            async for delivery in deliveries:
                await self._keep(delivery)

    async def _keep(self, delivery: Delivery) -> None:
        letter = letter_of(delivery, body_bytes=self._options.body_bytes)
        # One that the database refuses would be lost if it were taken: it stays and is told.
        new = await until_done(
            lambda: self._letters.keep_dead_letter(letter),
            despite=(ArchiveUnavailable, Refused),
            what=f"dead letter {letter.letter_id} is held",
        )
        if new:
            queue = self._topology.home_of(letter.routing_key).queue
            telemetry.current().counter(names.DEAD_LETTERS).add(1, {names.BUS_DESTINATION: queue})
            LOG.error("dead letter %s of %s: %s", letter.letter_id, queue, letter.reason)
        await delivery.ack()


class DeadLetterSweeper:
    """Removes letters after their time."""

    def __init__(self, letters: DeadLetters, options: DeadLetterOptions) -> None:
        self._letters = letters
        self._options = options

    async def run(self) -> None:
        """Sweep until cancelled."""
        seconds, what = self._options.interval, "old dead letters are removed"
        await again_and_again(self.sweep, seconds=seconds, what=what)

    async def sweep(self) -> int:
        """Remove what is old enough, once; returns how many letters."""
        dropped = await self._letters.expire_dead_letters(older_than=self._options.keep)
        if dropped:
            LOG.warning("%d dead letters were kept long enough and are removed", dropped)
        return dropped
