"""What calls of models cost. Money is counted in millionths of the currency's unit. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation

from services.agents.model_names import of_model
from services.agents.ports import Cost, ModelUsage

MILLION = 1_000_000
KINDS = ("input", "output", "cached", "cache_write")
HIGHEST = Decimal(MILLION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a million tokens cost, in millionths of the currency's unit."""

    input: int
    """Neither read from the model's cache nor written to it."""
    output: int
    cached: int
    """Input that was read from the cache."""
    cache_write: int
    """Input that was written to the cache."""


FREE = Price(input=0, output=0, cached=0, cache_write=0)
WITHOUT_PROVIDER: Mapping[str, Price] = {"offline-*": FREE, "scripted-*": FREE}
"""The models that run here and nobody charges for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTable:
    """What the models cost as of a date."""

    date: str
    currency: str
    prices: Mapping[str, Price]
    """By the model's name, or by the beginning of names and an asterisk."""

    def cost(self, used: ModelUsage) -> Cost | None:
        """Return the cost of a call, rounded to the nearest; None if the model has no price."""
        if (price := self.of(used.model)) is None:
            return None
        fresh = max(0, used.input_tokens - used.cached_tokens - used.cache_write_tokens)
        total = (
            fresh * price.input
            + used.output_tokens * price.output
            + used.cached_tokens * price.cached
            + used.cache_write_tokens * price.cache_write
        )
        micros = (total + MILLION // 2) // MILLION
        return Cost(micros=micros, currency=self.currency, price_date=self.date)

    def of(self, model: str) -> Price | None:
        """Return the price under the model's own name, or under its longest beginning."""
        return of_model(self.prices, model)


def price_table(as_of: str, currency: str, models: Mapping[str, Mapping[str, str]]) -> PriceTable:
    """Return the table that settings describe; raises ValueError with what is wrong."""
    try:
        date.fromisoformat(as_of)
    except ValueError as error:
        raise ValueError(f"the date must be written YYYY-MM-DD, not {as_of!r}") from error
    if not re.fullmatch("[A-Z]{3}", currency):
        raise ValueError(f"the currency must be three letters of ISO 4217, not {currency!r}")
    prices = {name: _read(name, price) for name, price in models.items()}
    return PriceTable(date=as_of, currency=currency, prices={**WITHOUT_PROVIDER, **prices})


def _read(name: str, price: Mapping[str, str]) -> Price:
    if set(price) != set(KINDS):
        raise ValueError(f"the price of {name} must have {', '.join(KINDS)} and nothing else")
    return Price(**{kind: _micros(f"{kind} of {name}", price[kind]) for kind in KINDS})


def _micros(what: str, amount: str) -> int:
    """Return an amount of money in millionths."""
    try:
        value = Decimal(amount)
    except InvalidOperation as error:
        raise ValueError(f"{what}: {amount!r} is no decimal number") from error
    if not (value.is_finite() and 0 <= value <= HIGHEST):
        raise ValueError(f"{what}: {amount} is not from 0 to {HIGHEST}")
    micros = value * MILLION
    if micros != int(micros):
        raise ValueError(f"{what}: {amount} has more than six decimals")
    return int(micros)
