"""What the runs of turns consume: each call of a model is one entry, whatever becomes of it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count

from google.protobuf.duration_pb2 import Duration

from maieutic.v1.turn_service_pb2 import Usage
from services.agents.budget import TurnBudget
from services.agents.ports import ModelUsage


class Account:
    """What one run has consumed so far."""

    def __init__(self, claim_id: str) -> None:
        """*claim_id* is the run's; it makes the ids of the entries unique."""
        self._ids = (f"{claim_id}:{number}" for number in count(1))
        self._entries: dict[str, Usage] = {}
        self._under_way: set[str] = set()
        self.budget: TurnBudget | None = None
        """Asked before each call, if there is one."""

    @contextmanager
    def call(self) -> Iterator[str]:
        """Give the id of another call, which is under way during the block."""
        usage_id = next(self._ids)
        self._under_way.add(usage_id)
        try:
            yield usage_id
        finally:
            self._under_way.discard(usage_id)

    def note(self, usage: Usage) -> None:
        """Keep what a call has consumed by now; the last word counts."""
        self._entries[usage.usage_id] = usage

    def besides(self, told: Iterable[Usage]) -> list[Usage]:
        """Return what is not among what is *told* elsewhere."""
        known = {usage.usage_id for usage in told}
        return [usage for usage_id, usage in self._entries.items() if usage_id not in known]

    def reserved_ended(self, *, besides: Iterable[Usage] = ()) -> list[Usage]:
        """Return what the reserved calls have consumed that are not under way any more.

        That is nothing for a call whose model has said nothing of it. What is told *besides* is
        left out.
        """
        known = {usage.usage_id for usage in besides} | self._under_way
        asked = self.budget.asked if self.budget is not None else ()
        return [
            self._entries.get(usage_id, Usage(usage_id=usage_id))
            for usage_id in asked
            if usage_id not in known
        ]


class Accounts:
    """The accounts of the turns that run in this process."""

    def __init__(self) -> None:
        self._open: dict[str, Account] = {}

    @contextmanager
    def kept(self, turn_id: str, account: Account) -> Iterator[None]:
        """Let the calls of a turn be noted in its run's account during the block."""
        self._open[turn_id] = account
        try:
            yield
        finally:
            del self._open[turn_id]

    def of(self, turn_id: str) -> Account | None:
        """Return the account of the turn's run; None if it does not run."""
        return self._open.get(turn_id)


def usage_of(consumed: ModelUsage, step: str, prompt: str, seconds: float) -> Usage:
    """Return what a call consumed, as turns account for it."""
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1e6))
    usage = Usage(
        usage_id=consumed.usage_id,
        step=step,
        model=consumed.model,
        input_tokens=consumed.input_tokens,
        output_tokens=consumed.output_tokens,
        cached_tokens=consumed.cached_tokens,
        cache_write_tokens=consumed.cache_write_tokens,
        duration=duration,
        prompt=prompt,
    )
    if (cost := consumed.cost) is not None:
        usage.cost_micros, usage.currency = cost.micros, cost.currency
        usage.price_date = cost.price_date
    return usage
