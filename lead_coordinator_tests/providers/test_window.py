"""The sandbox's rate limit is exact: it is what the platform's limiter is measured against."""

from hypothesis import given
from hypothesis import strategies as st

from lead_coordinator.providers.sandbox.window import PeakCounter, SlidingWindow

# Whole milliseconds as integers, so that the oracle needs no tolerance.
gaps = st.lists(st.integers(0, 30_000), max_size=200)
limits = st.integers(1, 12)
WINDOW = 60_000


def _times(gaps: list[int]) -> list[int]:
    times, now = [], 0
    for gap in gaps:
        now += gap
        times.append(now)
    return times


@given(gaps, limits)
def test_admits_exactly_what_the_definition_allows(gaps: list[int], limit: int) -> None:
    window = SlidingWindow(limit, WINDOW)
    admitted: list[int] = []
    for now in _times(gaps):
        in_window = [t for t in admitted if now - t < WINDOW]
        admission = window.admit(now)
        assert admission.admitted == (len(in_window) < limit), f"at {now} with {in_window} inside the window"
        if admission.admitted:
            admitted.append(now)
            assert admission.remaining == limit - len(in_window) - 1
        else:
            assert admission.retry_after_seconds == min(in_window) + WINDOW - now
    for start in admitted:
        assert sum(start <= t < start + WINDOW for t in admitted) <= limit, (
            "no window holds more than the limit"
        )


@given(gaps, limits)
def test_the_delay_it_names_is_right_and_shortest(gaps: list[int], limit: int) -> None:
    window, now = SlidingWindow(limit, WINDOW), 0
    for now in _times(gaps):
        window.admit(now)
    refused = window.admit(now)
    while refused.admitted:
        refused = window.admit(now)
    wait = int(refused.retry_after_seconds)
    assert wait > 0
    assert not window.admit(now + wait - 1).admitted, "a moment earlier there is no place"
    assert window.admit(now + wait).admitted, "at the time named there is one"


def test_a_refused_request_takes_no_place() -> None:
    window = SlidingWindow(1, 60)
    assert window.admit(0.0).admitted
    assert not window.admit(30.0).admitted
    assert window.admit(60.0).admitted


@given(gaps)
def test_the_peak_is_the_fullest_window(gaps: list[int]) -> None:
    counter, times = PeakCounter(WINDOW), _times(gaps)
    for now in times:
        counter.count(now)
    assert counter.peak == max((sum(t - WINDOW < u <= t for u in times) for t in times), default=0)
