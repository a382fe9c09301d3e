"""Money: never less than a call can cost, exactly what it did cost, and no call without a price."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead_coordinator.providers.base import Usage
from lead_coordinator.providers.prices import UnknownPrice, check_priced, maximum_cost, real_cost

TODAY = datetime(2026, 11, 24, 12, tzinfo=UTC)
MODELS = [("gemini", "gemini-2.5-flash-lite"), ("openai", "gpt-6-luna"), ("gemini", "gemini-3.8-flash")]


def test_list_prices_of_the_default_models() -> None:
    usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
    assert real_cost("gemini", "gemini-2.5-flash-lite", usage, TODAY) == Decimal("0.50")
    small = Usage(input_tokens=100_000, output_tokens=100_000)
    assert real_cost("openai", "gpt-6-luna", small, TODAY) == Decimal("0.06")


def test_cached_input_is_cheaper_and_thinking_is_output() -> None:
    plain = real_cost("gemini", "gemini-2.5-flash-lite", Usage(1000, 1000), TODAY)
    cached = real_cost("gemini", "gemini-2.5-flash-lite", Usage(1000, 1000, cached_tokens=1000), TODAY)
    thought = real_cost("gemini", "gemini-2.5-flash-lite", Usage(1000, 1000, thinking_tokens=900), TODAY)
    assert cached == plain - 1000 * (Decimal("0.1") - Decimal("0.01")) / 1_000_000
    assert thought == plain, "thinking tokens are part of the output and aren't counted twice"


def test_prices_follow_the_date() -> None:
    usage, new_year = Usage(1_000_000, 1_000_000), datetime(2027, 1, 1, tzinfo=UTC)
    before = real_cost("gemini", "gemini-3.8-flash", usage, new_year - timedelta(seconds=1))
    after = real_cost("gemini", "gemini-3.8-flash", usage, new_year)
    assert after == 2 * before
    held = maximum_cost("gemini", "gemini-3.8-flash", 1_000_000, 1_000_000, new_year - timedelta(minutes=5))
    assert held == after, "a call that may run past midnight is held at the dearer price"


@given(
    st.sampled_from(MODELS),
    st.integers(0, 400_000),
    st.integers(0, 60_000),
    st.data(),
)
def test_the_maximum_is_never_passed(
    model: tuple[str, str], max_in: int, max_out: int, data: st.DataObject
) -> None:
    used_in = data.draw(st.integers(0, max_in))
    cached = data.draw(st.integers(0, used_in))
    written = data.draw(st.integers(0, used_in - cached))
    used_out = data.draw(st.integers(0, max_out))
    thinking = data.draw(st.integers(0, used_out))
    usage = Usage(used_in, used_out, thinking, cached, written)
    cost = real_cost(*model, usage, TODAY)
    assert cost <= maximum_cost(*model, max_in, max_out, TODAY), f"{usage} costs more than was held"
    assert cost == cost.quantize(Decimal("1e-10"))


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("gemini", "gemini-99-imaginary"),
        ("openai", "gpt-6"),
        ("openai", "gemini-2.5-flash-lite"),
        ("mistral", "large"),
    ],
)
def test_a_model_without_a_price_is_refused(provider: str, model: str) -> None:
    with pytest.raises(UnknownPrice, match=model if provider != "mistral" else "mistral"):
        check_priced(provider, model, TODAY)
    with pytest.raises(UnknownPrice):
        maximum_cost(provider, model, 1, 1, TODAY)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        real_cost("gemini", "gemini-2.5-flash-lite", Usage(1, 1), datetime(2026, 1, 1))  # noqa: DTZ001
