"""A session's budget, and what its turns have consumed of it. Pure."""

from collections.abc import Iterable

from maieutic.session.v1.record_pb2 import SessionRecord, TurnRecord
from maieutic.v1.budget_pb2 import Budget, Spending
from maieutic.v1.session_service_pb2 import Session, SessionStatistics
from services.session.budgets import money, used_by
from services.session.errors import SessionBudgetSpent
from services.session.model import STUB, TERMINAL


def set_budget(session: Session, budget: Budget, spent: Spending | None) -> None:
    """Bound the session from now on; *spent* is what it has consumed, if that is not kept yet."""
    session.budget.CopyFrom(budget)
    if spent is not None:
        session.spending.CopyFrom(spent)


def keeps_spending(session: Session, budget: Budget) -> bool:
    """Whether what the session has spent is known in the budget's currency."""
    kept = session.budget.currency
    return session.HasField("budget") and budget.currency in ("", kept)


def accounted(budget: Budget, accounts: SessionStatistics, turns: Iterable[TurnRecord]) -> Spending:
    """Return what a session has spent: by the archive's *accounts*, and in *turns* beside those."""
    spent = Spending()
    for entry in accounts.usage:
        spent.tokens += entry.input_tokens + entry.output_tokens
        spent.cost_micros += entry.cost_micros if entry.currency == budget.currency else 0
    for turn in turns:
        _add(spent, used_by(turn) if turn.calls else _told(turn, budget.currency))
    return spent


def _told(turn: TurnRecord, currency: str) -> Spending:
    """Return what the turn's outcome says, of a turn whose calls are not kept one by one.

    One that is not sealed yet is counted as it is.
    """
    spent = Spending()
    for usage in turn.finished.outcome.usage if turn.phase == TERMINAL else ():
        spent.tokens += usage.input_tokens + usage.output_tokens
        spent.cost_micros += usage.cost_micros if usage.currency == currency else 0
    return spent


def _add(spent: Spending, more: Spending) -> None:
    for field in Spending.DESCRIPTOR.fields:
        setattr(spent, field.name, getattr(spent, field.name) + getattr(more, field.name))


def bring_back(session: Session, by_accounts: Spending) -> None:
    """Give a session that comes back from the archive what it has spent: the larger of two figures.

    Its own has also what is in no account, as of workers that were killed, and is as old as what
    the archive has of the session. What was reserved is known from its turns alone.
    """
    session.spending.tokens = max(session.spending.tokens, by_accounts.tokens)
    session.spending.cost_micros = max(session.spending.cost_micros, by_accounts.cost_micros)
    session.spending.reserved_tokens = by_accounts.reserved_tokens
    session.spending.reserved_cost_micros = by_accounts.reserved_cost_micros


def known_here(turns: Iterable[TurnRecord]) -> list[TurnRecord]:
    """Return those of which the archive does not know yet all that the live store knows."""
    return [
        turn for turn in turns if turn.phase != STUB and (turn.calls or turn.HasField("finished"))
    ]


def require_unspent(record: SessionRecord) -> None:
    """Raise SessionBudgetSpent if nothing is left of the session's budget."""
    budget, spent = record.session.budget, record.session.spending
    if budget.HasField("tokens") and spent.tokens >= budget.tokens:
        raise SessionBudgetSpent(f"{spent.tokens} of {budget.tokens} tokens")
    if budget.HasField("cost_micros") and spent.cost_micros >= budget.cost_micros:
        amounts = f"{money(spent.cost_micros)} of {money(budget.cost_micros)}"
        raise SessionBudgetSpent(f"{amounts} {budget.currency}")
