"""Changes of one session that wait for each other are carried out together (docs/adr/0005).

Whoever has its turn reads once and commits once, for itself and for those that wait and need no
more than what it reads. Each is decided on what the one before it leaves, has a marker of its own,
and fails alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from maieutic.session.v1.record_pb2 import Operation
from services.session.model import Draft
from services.session.ports import Reads

_TOGETHER = 32
"""Most that one commit carries out beside the change whose turn it is: it blocks the server."""

Outcome: TypeAlias = tuple[Any, Draft] | Exception


@dataclass(slots=True, kw_only=True, eq=False)
class Change:
    """What one caller wants of a session."""

    decide: Callable[[Draft], Any]
    reads: Reads
    prepare: Callable[[Draft], Awaitable[None]] | None
    outcome: Outcome | None = None
    """None until it is carried out."""

    @property
    def goes_along(self) -> bool:
        """Whether it needs no more than the session's record and its own marker."""
        reads = self.reads
        more = reads.turns or reads.window or reads.annotations or reads.running
        return not more

    def result(self) -> tuple[Any, Draft]:
        """Return what came of it, or raise that."""
        if self.outcome is None:
            message = "the change has not been carried out"
            raise LookupError(message)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@dataclass(slots=True, weakref_slot=True)
class Line:
    """Those that want to change one session, first come first served."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: dict[Change, None] = field(default_factory=dict)

    def companions(self, change: Change) -> list[Change]:
        """Return those that can be carried out together with the one whose turn it is."""
        found: list[Change] = []
        requests = {change.reads.operation}
        for each in self.waiting:
            # The same request twice: the second has to find the marker of the first.
            again = each.reads.operation and each.reads.operation in requests
            if not again and each.goes_along:
                requests.add(each.reads.operation)
                found.append(each)
            if len(found) == _TOGETHER:
                break
        return found

    def settle(self, outcomes: Mapping[Change, Outcome]) -> None:
        """Let those go whose changes are committed, or need no commit."""
        for change, outcome in outcomes.items():
            change.outcome = outcome
            self.waiting.pop(change, None)


async def decided(
    draft: Draft,
    change: Change,
    companions: Sequence[Change],
    markers: Mapping[str, Operation | None],
) -> dict[Change, Outcome]:
    """Decide for the change whose turn it is, then for each companion by its marker."""
    before = draft.following(None) if companions else draft
    outcomes = {change: await _outcome(change, draft)}
    last = before if isinstance(outcomes[change], Exception) else draft
    for companion in companions:
        own = last.following(markers.get(companion.reads.operation))
        outcomes[companion] = await _outcome(companion, own)
        if not isinstance(outcomes[companion], Exception):
            last = own
    return outcomes


async def _outcome(change: Change, draft: Draft) -> Outcome:
    try:
        if change.prepare is not None:
            await change.prepare(draft)
        return change.decide(draft), draft
    except Exception as error:  # noqa: BLE001 - it is its caller's, who raises it
        return error
