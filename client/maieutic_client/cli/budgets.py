"""Options that say what may be consumed."""

import functools
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

import click

from maieutic.v1.budget_pb2 import Budget

MILLION = 1_000_000
CENTS = 2
"""Decimals that are always shown."""
MOST_TOKENS = 10**12
MOST_MICROS = 10**15

F = TypeVar("F", bound=Callable[..., Any])


class Money(click.ParamType[int]):
    """An amount in units of its currency, read as millionths."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the millionths; fails for what is none, or no whole number of them."""
        try:
            micros = Decimal(value) * MILLION
        except InvalidOperation:
            micros = Decimal()
        if not (micros.is_finite() and 0 < micros <= MOST_MICROS and micros == int(micros)):
            self.fail(f"{value!r} is no amount such as 0.25, with at most six decimals", param, ctx)
        return int(micros)


def _currency(_: click.Context, __: click.Parameter, value: str) -> str:
    if not re.fullmatch("[A-Z]{3}", value):
        raise click.BadParameter(f"{value!r} is no code of three capital letters, as USD")
    return value


def budget_options(command: F) -> F:
    """Give the command the options of a budget, as its argument `budget`; None without any."""

    @click.option(
        "--budget-tokens",
        type=click.IntRange(1, MOST_TOKENS),
        metavar="N",
        help="Most tokens, input and output together.",
    )
    @click.option("--budget-cost", type=Money(), metavar="AMOUNT", help="Most money, as 0.25.")
    @click.option(
        "--currency",
        default="USD",
        show_default=True,
        metavar="CODE",
        callback=_currency,
        help="Of the money: that of the installation's price table.",
    )
    @functools.wraps(command)
    def wrapped(
        *, budget_tokens: int | None, budget_cost: int | None, currency: str, **others: Any
    ) -> Any:
        budget = None
        if budget_tokens is not None or budget_cost is not None:
            budget = Budget(
                tokens=budget_tokens,
                cost_micros=budget_cost,
                currency=currency if budget_cost is not None else "",
            )
        return command(budget=budget, **others)

    return wrapped  # type: ignore[return-value]


def amount(micros: int) -> str:
    """Return an amount in its currency's unit, exactly: to the cent, or as far as it goes."""
    units, rest = divmod(micros, MILLION)
    return f"{units}.{f'{rest:06}'.rstrip('0').ljust(CENTS, '0')}"
