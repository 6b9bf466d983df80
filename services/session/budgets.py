"""What the calls of models in a turn may consume: reserved before a call, settled after it. Pure.

Each call is one entry in its turn, known by its usage_id, with what it may consume until it is
told what it has. The entries stay as long as the turn's record, over all of its attempts. A
session's spending is their sum over all turns that ran while it had a budget, and what the accounts
say of those before.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.session.v1.record_pb2 import MeteredCall, TurnRecord
from maieutic.v1.budget_pb2 import Budget, Spending
from maieutic.v1.turn_service_pb2 import Usage
from services.session.model import Draft

LEAST_ANSWER = 256
"""Tokens. A call that could say less is not made, unless it asks for less."""
MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Purse:
    """A budget, and what is used of it: spent or reserved."""

    budget: Budget
    used: Spending
    reason: str
    """Of a refusal."""
    whose: str
    way_out: str

    @property
    def tokens_left(self) -> int:
        return self.budget.tokens - self.used.tokens - self.used.reserved_tokens

    @property
    def cost_left(self) -> int:
        used = self.used.cost_micros + self.used.reserved_cost_micros
        return self.budget.cost_micros - used

    def answer(self, asked: work.ReserveBudgetRequest) -> int:
        """Return how many tokens the call may say; below 0 if it may not even read its input."""
        most = asked.max_tokens
        if self.budget.HasField("tokens"):
            most = min(most, self.tokens_left - asked.input_tokens)
        if self.budget.HasField("cost_micros"):
            most = min(most, _affordable(asked, self.cost_left))
        return most

    def refusal(self, asked: work.ReserveBudgetRequest) -> work.BudgetRefused:
        """Say what is left, and what the call needs at least."""
        least = min(asked.max_tokens, LEAST_ANSWER)
        left, needed = [], []
        if self.budget.HasField("tokens"):
            left.append(f"{max(0, self.tokens_left)} of {self.budget.tokens} tokens")
            needed.append(f"{asked.input_tokens} + {least} tokens")
        if self.budget.HasField("cost_micros"):
            whole, currency = money(self.budget.cost_micros), self.budget.currency
            left.append(f"{money(max(0, self.cost_left))} of {whole} {currency}")
            needed.append(f"{money(_cost(asked, least))} {currency}")
        explanation = (
            f"the budget of the {self.whose} has {' and '.join(left)} left, and the next call of "
            f"the model needs {' and '.join(needed)}, for what it reads and the least it may say"
            f"{self._under_way()}: {self.way_out}"
        )
        return work.BudgetRefused(reason=self.reason, explanation=explanation, over_budget=True)

    def _under_way(self) -> str:
        reserved = self.used.reserved_tokens
        return f" ({reserved} tokens are reserved for calls under way)" if reserved else ""


def is_bounded(draft: Draft, turn: TurnRecord) -> bool:
    """Whether a budget bounds the turn: its calls are reserved, then."""
    return turn.job.HasField("budget") or has_budget(draft)


def has_budget(draft: Draft) -> bool:
    """Whether the session has a budget."""
    return draft.session is not None and draft.session.session.HasField("budget")


def reserve(
    draft: Draft, turn: TurnRecord, asked: work.ReserveBudgetRequest
) -> work.ReserveBudgetResponse:
    """Keep what the call may consume, or refuse it; the same call again gets the same answer."""
    settle(draft, turn, asked.usage)
    draft.put_turn(turn)
    known = next((call for call in turn.calls if call.usage_id == asked.usage_id), None)
    if known is not None:
        return _granted(known.max_tokens)
    purses = _purses(draft, turn)
    if (unpriced := _unpriced(purses, asked)) is not None:
        return work.ReserveBudgetResponse(status=work.WRITE_STATUS_APPLIED, refused=unpriced)
    emptiest = min(purses, key=lambda purse: purse.answer(asked), default=None)
    may_say = emptiest.answer(asked) if emptiest is not None else asked.max_tokens
    if emptiest is not None and may_say < min(asked.max_tokens, LEAST_ANSWER):
        refused = emptiest.refusal(asked)
        return work.ReserveBudgetResponse(status=work.WRITE_STATUS_APPLIED, refused=refused)
    with _counted(draft, turn):
        turn.calls.add(
            usage_id=asked.usage_id,
            claim_id=asked.claim_id,
            tokens=asked.input_tokens + may_say,
            cost_micros=_cost(asked, may_say) if _currency(draft, turn) else 0,
            max_tokens=may_say,
        )
    return _granted(may_say)


def _granted(max_tokens: int) -> work.ReserveBudgetResponse:
    return work.ReserveBudgetResponse(
        status=work.WRITE_STATUS_APPLIED, granted=work.BudgetGranted(max_tokens=max_tokens)
    )


def _purses(draft: Draft, turn: TurnRecord) -> list[_Purse]:
    """Return the budgets that bound the turn; none if its session's was taken away since."""
    purses = []
    if turn.job.HasField("budget"):
        own = _Purse(
            budget=turn.job.budget,
            used=used_by(turn),
            reason="TURN_BUDGET_SPENT",
            whose="turn",
            way_out="ask for less, or again with a larger budget",
        )
        purses.append(own)
    if has_budget(draft):
        shared = _Purse(
            budget=draft.record.session.budget,
            used=draft.record.session.spending,
            reason="SESSION_BUDGET_SPENT",
            whose="session",
            way_out="give the session a larger budget, or ask in another one",
        )
        purses.append(shared)
    return purses


def used_by(turn: TurnRecord) -> Spending:
    """Return what the calls of the turn have consumed, and what is reserved for them."""
    used = Spending()
    for call in turn.calls:
        if call.settled:
            used.tokens += call.tokens
            used.cost_micros += call.cost_micros
        else:
            used.reserved_tokens += call.tokens
            used.reserved_cost_micros += call.cost_micros
    return used


@contextmanager
def _counted(draft: Draft, turn: TurnRecord) -> Iterator[None]:
    """Let what changes in the turn's entries during the block change the session's spending."""
    before = used_by(turn)
    yield
    after = used_by(turn)
    if not has_budget(draft) or before == after:
        return
    spent = draft.record.session.spending
    for field in Spending.DESCRIPTOR.fields:
        was, becomes = getattr(before, field.name), getattr(after, field.name)
        # Never below 0: of a turn whose record was lost nothing is left to take back.
        setattr(spent, field.name, max(0, getattr(spent, field.name) + becomes - was))
    draft.session_changed = True


def _unpriced(
    purses: Iterable[_Purse], asked: work.ReserveBudgetRequest
) -> work.BudgetRefused | None:
    """Return why nobody can tell what the call would cost, if a budget of money needs that."""
    currencies = {purse.budget.currency for purse in purses if purse.budget.currency}
    priced_in = {asked.price.currency} if asked.HasField("price") else set[str]()
    if currencies <= priced_in:
        return None
    explanation = (
        f"the model {asked.model} has no price in {' and '.join(sorted(currencies))}, which the "
        "budget is in: give the budget in tokens, or have the operator add the model to "
        "MAIEUTIC_MODEL_PRICES_MODELS"
    )
    return work.BudgetRefused(reason="PRICE_UNKNOWN", explanation=explanation)


def settle(draft: Draft, turn: TurnRecord, told: Iterable[Usage]) -> None:
    """Put what calls have consumed in the place of what they might; the last word counts.

    What has no id, from a worker of the version before, cannot be told from what was told already.
    """
    if not is_bounded(draft, turn):
        return
    currency = _currency(draft, turn)
    with _counted(draft, turn):
        for usage in told:
            if usage.usage_id:
                call = _entry(turn, usage.usage_id)
                call.cost_micros = _told_cost(usage, call, currency)
                call.tokens = usage.input_tokens + usage.output_tokens
                call.settled = True


def _currency(draft: Draft, turn: TurnRecord) -> str:
    """Return what the turn's calls are counted in; empty if no budget of money bounds it."""
    shared = draft.record.session.budget.currency if has_budget(draft) else ""
    return turn.job.budget.currency or shared


def _entry(turn: TurnRecord, usage_id: str) -> MeteredCall:
    """Return the call's entry; one that was not reserved, or is lost, gets a new one."""
    known = next((call for call in turn.calls if call.usage_id == usage_id), None)
    return known if known is not None else turn.calls.add(usage_id=usage_id)


def _told_cost(usage: Usage, call: MeteredCall, currency: str) -> int:
    """Return what a call has cost; what was reserved if it consumed something of unknown cost."""
    if currency and usage.HasField("cost_micros") and usage.currency == currency:
        return usage.cost_micros
    return call.cost_micros if usage.input_tokens or usage.output_tokens else 0


def void_rest(draft: Draft, turn: TurnRecord, claim_id: str) -> None:
    """Give back what a run has reserved for calls that it says nothing of, as it ends."""
    with _counted(draft, turn):
        kept = [call for call in turn.calls if call.settled or call.claim_id != claim_id]
        del turn.calls[:]
        turn.calls.extend(kept)


def charge_rest(draft: Draft, turn: TurnRecord) -> None:
    """Take what nobody has told as consumed, as the turn ends: its calls may have been made."""
    with _counted(draft, turn):
        for call in turn.calls:
            call.settled = True


def _affordable(asked: work.ReserveBudgetRequest, cost_left: int) -> int:
    """Return how many tokens the call may say for so much money; below 0 if not even read."""
    left = cost_left * MILLION - asked.input_tokens * asked.price.input
    if left < 0:
        return -1
    return left // asked.price.output if asked.price.output else asked.max_tokens


def _cost(asked: work.ReserveBudgetRequest, says: int) -> int:
    """Return what the call costs if it says so much, rounded up."""
    price = asked.price
    return -(-(asked.input_tokens * price.input + says * price.output) // MILLION)


def money(micros: int) -> str:
    """Return an amount in units of its currency."""
    return f"{micros // MILLION}.{micros % MILLION:06}"
