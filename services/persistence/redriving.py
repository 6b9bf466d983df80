"""Publishing dead letters again, to where they came from."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.persistence.dead_letter_ports import DeadLetters, KeptLetter, LetterFilter
from services.persistence.dead_letters import REDRIVES_HEADER
from services.persistence.errors import BusAway, CutDeadLetter, DeadLetterNotFound
from services.runtime import names, telemetry
from services.runtime.bus import Bus, BusUnavailable, OutgoingMessage
from services.runtime.topology import Topology

MOST_LETTERS = 100
"""In one call, so that it ends within a caller's patience."""
CONFIRM_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Letters to redrive, and how many more of their kind there are."""

    letters: Sequence[KeptLetter]
    remaining: int = 0


class Redriving:
    """Chooses letters and publishes them again."""

    def __init__(self, *, letters: DeadLetters, bus: Bus, topology: Topology) -> None:
        self._letters = letters
        self._bus = bus
        self._topology = topology

    async def choose(self, which: LetterFilter | Sequence[str]) -> Chosen:
        """Return what is to be redriven: nothing that was already.

        Raises DeadLetterNotFound and CutDeadLetter for letters named by their ids.
        """
        if isinstance(which, LetterFilter):
            found, count = await self._letters.dead_letters_to_redrive(which, limit=MOST_LETTERS)
            return Chosen(letters=found, remaining=count - len(found))
        found = await self._letters.dead_letters_of(which)
        if missing := set(which) - {letter.letter_id for letter in found}:
            raise DeadLetterNotFound(min(missing))
        for letter in found:
            if letter.cut:
                raise CutDeadLetter(letter.letter_id)
        return Chosen(letters=[letter for letter in found if letter.redrive_time is None])

    async def redrive(self, letters: Sequence[KeptLetter]) -> None:
        """Publish each with its own message id, then mark it.

        Whatever fails between the two has the letter published again by the next redrive, which
        its consumer recognises by the message id. Raises BusAway and ArchiveUnavailable; then
        those before are done.
        """
        for letter in letters:
            await self._publish(letter.letter_id)
            await self._letters.mark_redriven(letter.letter_id)
            queue = self._topology.home_of(letter.routing_key).queue
            counter = telemetry.current().counter(names.REDRIVEN_DEAD_LETTERS)
            counter.add(1, {names.BUS_DESTINATION: queue})

    async def _publish(self, letter_id: str) -> None:
        letter = await self._letters.whole_dead_letter(letter_id)
        if letter is None:
            raise DeadLetterNotFound(letter_id)
        message = OutgoingMessage(
            exchange=self._topology.home_of(letter.routing_key).exchange,
            routing_key=letter.routing_key,
            body=letter.body,
            message_id=letter.message_id,
            headers={**letter.headers, REDRIVES_HEADER: str(letter.redrives + 1)},
        )
        try:
            await self._bus.publish(message, timeout=CONFIRM_SECONDS)
        except BusUnavailable as error:
            raise BusAway from error
