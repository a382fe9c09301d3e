"""What a call may cost at most, and what it did cost, from the list prices in `genai-prices`.

Invariants:
- Fail closed: a model without a price raises `UnknownPrice`; it never counts as free.
- The maximum is one: it prices input at the dearest way it can be billed (a cache write costs more than plain
  input with some models), takes the later of two dates where a price is about to change, and rounds up.
- Prices are those of the day of the request. `genai-prices` is never asked to update itself: no network here.

Money is Decimal US dollars with ten decimals, as `numeric(20,10)` holds it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING

from lead_coordinator.errors import InvalidInput
from lead_coordinator.providers.base import Usage

if TYPE_CHECKING:
    from genai_prices import Usage as PricedUsage

_CENT_OF_A_MICRO = Decimal("0.0000000001")
# A request that waits or runs over midnight may be billed at the next day's price.
_PRICE_HORIZON = timedelta(minutes=15)
_PRICE_LISTS = {"gemini": "google", "openai": "openai"}


class UnknownPrice(InvalidInput):
    """There is no list price for a model; a call to it is refused."""


def check_priced(provider: str, model: str, at: datetime) -> None:
    """Raises `UnknownPrice` unless calls to the model can be priced at that time."""
    _price(provider, model, Usage(input_tokens=1, output_tokens=1), at)


def maximum_cost(provider: str, model: str, input_tokens: int, output_tokens: int, at: datetime) -> Decimal:
    """The most a request can cost, US dollars, with at most so many tokens each way. Raises
    `UnknownPrice`."""
    usages = (
        Usage(input_tokens=input_tokens, output_tokens=output_tokens),
        Usage(input_tokens=input_tokens, output_tokens=output_tokens, cache_write_tokens=input_tokens),
    )
    costs = [
        _price(provider, model, usage, moment) for usage in usages for moment in (at, at + _PRICE_HORIZON)
    ]
    return max(costs).quantize(_CENT_OF_A_MICRO, ROUND_CEILING)


def real_cost(provider: str, model: str, usage: Usage, at: datetime) -> Decimal:
    """What a request cost, US dollars, that left at `at` (aware). Raises `UnknownPrice`."""
    return _price(provider, model, usage, at).quantize(_CENT_OF_A_MICRO, ROUND_HALF_UP)


def _price(provider: str, model: str, usage: Usage, at: datetime) -> Decimal:
    if at.tzinfo is None:
        raise ValueError("a price is asked for at a time with a time zone")
    from genai_prices import calc_price

    price_list = _PRICE_LISTS.get(provider)
    if price_list is None:
        raise UnknownPrice(
            f"provider={provider} has no price list; allowed: {', '.join(sorted(_PRICE_LISTS))}"
        )
    try:
        priced = calc_price(_priced_usage(usage), model, provider_id=price_list, genai_request_timestamp=at)
    except LookupError:
        raise UnknownPrice(
            f"model={model} of provider {provider} has no list price, so its calls are refused: "
            "name one that has"
        ) from None
    return priced.total_price


def _priced_usage(usage: Usage) -> PricedUsage:
    from genai_prices import Usage as PricedUsage

    if usage.cache_write_tokens:
        return PricedUsage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=min(usage.cached_tokens, usage.input_tokens - usage.cache_write_tokens),
            cache_write_tokens=usage.cache_write_tokens,
        )
    return PricedUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=min(usage.cached_tokens, usage.input_tokens),
    )
