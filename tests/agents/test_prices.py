"""What calls of models cost."""

from collections.abc import Mapping
from typing import Any

import pytest

from services.agents.adapters import offline, scripted
from services.agents.adapters.claude_options import ClaudeOptions
from services.agents.ports import ModelUsage
from services.agents.prices import KINDS, PriceTable, price_table
from services.agents.settings import AgentsSettings, PriceOptions
from services.runtime.settings import BadSettings, load
from tests.fakes.workers import office

OF_CLAUDE = PriceOptions()


def priced(*prices: str) -> dict[str, str]:
    return dict(zip(KINDS, prices, strict=True))


def table(models: Mapping[str, Mapping[str, str]] = OF_CLAUDE.models) -> PriceTable:
    return price_table("2026-10-24", "USD", models)


def micros(prices: PriceTable, model: str, **tokens: int) -> int | None:
    counts: dict[str, Any] = {"input_tokens": 0, "output_tokens": 0, **tokens}
    cost = prices.cost(ModelUsage(model=model, **counts))
    return None if cost is None else cost.micros


def test_each_kind_of_token_has_its_price() -> None:
    prices = table({"m": priced("2", "10", "0.10", "2.50")})
    million = 1_000_000
    assert micros(prices, "m", input_tokens=million) == 2_000_000
    assert micros(prices, "m", output_tokens=million) == 10_000_000
    assert micros(prices, "m", input_tokens=million, cached_tokens=million) == 100_000
    assert micros(prices, "m", input_tokens=million, cache_write_tokens=million) == 2_500_000
    mixed = {"input_tokens": 100, "cached_tokens": 40, "cache_write_tokens": 50}
    assert micros(prices, "m", **mixed, output_tokens=3) == 10 * 2 + 4 + 125 + 30


def test_a_cost_is_rounded_once_to_the_nearest_millionth() -> None:
    prices = table({"m": priced("0.3", "0.3", "0.3", "0.3")})
    assert micros(prices, "m", input_tokens=1) == 0
    assert micros(prices, "m", input_tokens=1, output_tokens=1) == 1


def test_counts_that_contradict_each_other_never_make_a_cost_negative() -> None:
    assert micros(table({"m": priced("9", "0", "1", "0")}), "m", cached_tokens=5) == 5


def test_a_name_goes_before_beginnings_and_the_longest_of_them_first() -> None:
    models = {"m*": priced(*"1111"), "m-5*": priced(*"2222"), "m-5-5": priced(*"3333")}
    prices = table(models)
    found = [micros(prices, name, input_tokens=1) for name in ("m-5-5", "m-5-5-x", "m-4", "n", "")]
    assert found == [3, 2, 1, None, None]


def test_the_default_table_prices_the_default_model_as_of_its_date() -> None:
    prices = price_table(OF_CLAUDE.date, OF_CLAUDE.currency, OF_CLAUDE.models)
    used = ModelUsage(model=ClaudeOptions().model, input_tokens=1_000, output_tokens=100)
    cost = prices.cost(used)
    assert cost is not None
    assert (cost.micros, cost.currency, cost.price_date) == (3_000, "USD", "2026-10-24")


@pytest.mark.parametrize("name", [offline.MODEL_NAME, scripted.MODEL_NAME])
def test_models_that_nobody_charges_for_cost_nothing_whatever_the_table(name: str) -> None:
    assert micros(table({}), name, input_tokens=9, output_tokens=9) == 0


@pytest.mark.parametrize(
    ("date", "currency", "price", "problem"),
    [
        ("24.10.2026", "USD", priced(*"1111"), "YYYY-MM-DD"),
        ("2026-10-24", "dollars", priced(*"1111"), "ISO 4217"),
        ("2026-10-24", "USD", {"input": "1"}, "cache_write"),
        ("2026-10-24", "USD", {**priced(*"1111"), "more": "1"}, "nothing else"),
        ("2026-10-24", "USD", priced("1", "1", "1", "cheap"), "no decimal number"),
        ("2026-10-24", "USD", priced("1", "1", "-1", "1"), "not from 0"),
        ("2026-10-24", "USD", priced("1", "NaN", "1", "1"), "not from 0"),
        ("2026-10-24", "USD", priced("1e9", "1", "1", "1"), "not from 0"),
        ("2026-10-24", "USD", priced("0.0000001", "1", "1", "1"), "six decimals"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(
    date: str, currency: str, price: Mapping[str, str], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        price_table(date, currency, {"m": price})


async def test_workers_do_not_start_with_such_a_table() -> None:
    prices = PriceOptions(models={"m": {"input": "1"}})
    with pytest.raises(BadSettings, match="MAIEUTIC_MODEL_PRICES: the price of m"):
        async with office(prices=prices):
            pass


def test_the_environment_brings_another_table() -> None:
    environ = {
        "MAIEUTIC_MODEL_PRICES_DATE": "2027-01-01",
        "MAIEUTIC_MODEL_PRICES_CURRENCY": "EUR",
        "MAIEUTIC_MODEL_PRICES_MODELS": (
            '{"m": {"input": "1", "output": "2", "cached": "3", "cache_write": "4"}}'
        ),
    }
    options = load(AgentsSettings, environ=environ).model.prices
    prices = price_table(options.date, options.currency, options.models)
    assert micros(prices, "m", output_tokens=7) == 14
    assert micros(prices, ClaudeOptions().model, output_tokens=7) is None
