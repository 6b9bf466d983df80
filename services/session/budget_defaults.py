"""What turns and sessions may consume if nobody says."""

import re
from dataclasses import dataclass

from maieutic.v1.budget_pb2 import Budget
from services.runtime.settings import PREFIX, BadSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetDefaults:
    """The budgets of turns and sessions whose requests name none; 0: none."""

    turn_tokens: int = 0
    """Tokens that a turn may consume, input and output together; 0: as many as it needs."""

    turn_cost_micros: int = 0
    """Money that a turn may cost, in millionths of the currency's unit; 0: as much as it needs."""

    session_tokens: int = 0
    """Tokens that the turns of a session may consume together; 0: as many as they need. For
    sessions that are made from then on."""

    session_cost_micros: int = 0
    """Money that the turns of a session may cost together, as above."""

    currency: str = "USD"
    """Of the money, ISO 4217: that of the workers' price table."""

    def __post_init__(self) -> None:
        for name in ("turn_tokens", "turn_cost_micros", "session_tokens", "session_cost_micros"):
            if (given := getattr(self, name)) < 0:
                raise BadSettings(f"{PREFIX}BUDGET_{name.upper()}: must be at least 0, is {given}")
        if not re.fullmatch("[A-Z]{3}", self.currency):
            problem = f"must be three letters of ISO 4217, is {self.currency!r}"
            raise BadSettings(f"{PREFIX}BUDGET_CURRENCY: {problem}")

    def turn(self) -> Budget | None:
        """Return a turn's budget."""
        return self._budget(self.turn_tokens, self.turn_cost_micros)

    def session(self) -> Budget | None:
        """Return a session's budget."""
        return self._budget(self.session_tokens, self.session_cost_micros)

    def _budget(self, tokens: int, cost_micros: int) -> Budget | None:
        if not (tokens or cost_micros):
            return None
        return Budget(
            tokens=tokens or None,
            cost_micros=cost_micros or None,
            currency=self.currency if cost_micros else "",
        )
