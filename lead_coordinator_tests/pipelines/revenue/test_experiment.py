"""Experiments: the better variant wins, and where there is none, nobody does more often than stated."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lead_coordinator.pipelines.revenue.bandit import Arm, Batch, chances_of_best, log_evidence, with_floor
from lead_coordinator.pipelines.revenue.experiment import Decision, decide, rules_of
from lead_coordinator.pipelines.revenue.settings import ExperimentSettings

BEGUN = datetime(2026, 11, 1, tzinfo=UTC)
RULES = ExperimentSettings()
COUNTS = st.integers(0, 5000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))
ARMS = st.lists(COUNTS, min_size=2, max_size=5).map(
    lambda counts: [Arm(f"v{n}", seen, hits) for n, (seen, hits) in enumerate(counts)]
)


def in_parts(arms: Sequence[Arm], parts: int = 10) -> list[Batch]:
    """The arms' counts as they come in so many batches, spread evenly."""
    return [
        {
            arm.name: tuple(
                count * (part + 1) // parts - count * part // parts
                for count in (arm.exposures, arm.successes)
            )
            for arm in arms
        }
        for part in range(parts)
    ]


def decided(arms: Sequence[Arm], rules: ExperimentSettings = RULES, days: int = 0) -> Decision:
    return decide(arms, in_parts(arms), rules, begun=BEGUN, now=BEGUN + timedelta(days=days))


def binomial(source: random.Random, count: int, rate: float) -> int:
    """By the normal approximation where it is good, one by one elsewhere."""
    if count * rate > 30:
        return min(count, max(0, round(source.gauss(count * rate, math.sqrt(count * rate * (1 - rate))))))
    return sum(source.random() < rate for _ in range(count))


def run(rates: Sequence[float], visitors: int, rules: ExperimentSettings, seed: int) -> tuple[Decision, int]:
    """A whole experiment, decided once a day; answers its end, and the day of it."""
    source = random.Random(seed)
    seen, hits = [0] * len(rates), [0] * len(rates)
    shares = [1 / len(rates)] * len(rates)
    batches: list[Batch] = []
    for day in range(1, rules.maximum_days + 1):
        batch = {}
        for number, (rate, share) in enumerate(zip(rates, shares, strict=True)):
            count = round(visitors * share)
            seen[number] += count
            batch[str(number)] = (count, binomial(source, count, rate))
            hits[number] += batch[str(number)][1]
        batches.append(batch)
        arms = [Arm(str(number), *counts) for number, counts in enumerate(zip(seen, hits, strict=True))]
        decision = decide(arms, batches, rules, begun=BEGUN, now=BEGUN + timedelta(days=day))
        if decision.stop:
            return decision, day
        shares = list(decision.shares.values())
    raise AssertionError("an experiment was expected to end after its maximum duration")


@pytest.mark.parametrize(("better", "days"), [(0.065, 21), (0.075, 10)])
def test_with_a_true_difference_the_better_variant_wins_in_95_of_100_runs(better: float, days: int) -> None:
    """Stated power: 5.0 % against 6.5 % or more, 1,000 visitors a day, at most 42 days."""
    ends = [run((0.05, better), 1000, RULES, seed) for seed in range(200)]
    assert sum(end.winner == "1" for end, _ in ends) >= 190
    assert sum(end.winner == "0" for end, _ in ends) == 0
    assert sum(day for _, day in ends) / 200 < days


def test_without_a_difference_a_winner_is_named_no_more_often_than_the_error_rate() -> None:
    """Twenty looks at each of 400 runs with error_rate 20 %: at most 80 winners and luck; 5 % likewise."""
    for error_rate in (0.2, 0.05):
        rules = ExperimentSettings(
            error_rate=error_rate, minimum_exposures=1, maximum_days=20, minimum_share=0.5
        )
        false = sum(run((0.3, 0.3), 200, rules, seed)[0].winner is not None for seed in range(400))
        assert false <= 400 * error_rate


@pytest.mark.parametrize("harmful", [0, 1])
def test_of_three_the_best_wins_and_a_harmful_one_is_shown_no_more(harmful: int) -> None:
    rates = [0.06, 0.10, 0.06]
    if harmful:
        rates[2] = 0.02
    ends = [run(rates, 1500, RULES, seed) for seed in range(40)]
    assert sum(end.winner == "1" for end, _ in ends) >= 38
    arms = [Arm("0", 3000, 180), Arm("1", 3000, 200), Arm("2", 3000, 60)]
    decision = decided(arms)
    assert decision.harmful == ("2",)
    assert decision.shares["2"] == 0
    assert not decision.stop


def test_where_only_the_control_is_left_it_has_won() -> None:
    decision = decided([Arm("0", 3000, 180), Arm("1", 3000, 60)])
    assert (decision.stop, decision.winner, decision.harmful) == (True, "0", ("1",))
    assert decision.shares == {"0": 1.0, "1": 0.0}


def test_nothing_is_decided_before_the_least_number_of_visitors() -> None:
    arms = [Arm("0", 10_000, 100), Arm("1", 499, 200)]
    decision = decided(arms)
    assert (decision.stop, decision.harmful) == (False, ())
    assert decision.reason == "1: fewer than 500 visitors"
    assert decision.shares == {"0": 0.5, "1": 0.5}
    (first, second) = arms
    assert decided([first, Arm("1", 500, 200)]).winner == "1"
    assert second.exposures == 499


def test_it_ends_without_a_winner_when_too_much_was_given_away_or_the_time_is_over() -> None:
    arms = [Arm("0", 20_000, 1000), Arm("1", 20_000, 1030)]
    running = decided(arms, days=41)
    assert not running.stop
    assert "1 (chance of being the best: 7" in running.reason
    over = decided(arms, days=42)
    assert (over.stop, over.winner, over.reason) == (
        True,
        None,
        "42 days are over and no difference was shown",
    )
    assert over.shares == {"0": 1.0, "1": 0.0}, "the control stays"
    strict = RULES.model_copy(update={"maximum_regret": 20.0})
    dear = decided(arms, strict)
    assert (dear.stop, dear.winner) == (True, None)
    assert dear.reason == "30 successes were given away, 20 are allowed: no winner"


def test_the_better_variant_gets_more_visitors_and_no_one_less_than_the_least_share() -> None:
    arms = [Arm("0", 1000, 50), Arm("1", 1000, 62), Arm("2", 1000, 40)]
    decision = decided(arms)
    assert decision.shares["1"] > decision.shares["0"] > decision.shares["2"] >= 0.1
    assert sum(decision.shares.values()) == pytest.approx(1)


def test_chances_are_those_of_the_closed_form() -> None:
    """Of two arms with one visitor each, one success and one failure: P(Beta(2,1) > Beta(1,2)) = 5/6."""
    chances = chances_of_best([Arm("a", 1, 1), Arm("b", 1, 0)])
    assert chances["a"] == pytest.approx(5 / 6, abs=1e-3)
    assert chances_of_best([Arm("a", 0, 0), Arm("b", 0, 0), Arm("c", 0, 0)])["c"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("rate", "worse_by"), [(0.1, 0.0), (0.5, 0.0), (0.8, 0.0), (0.5, 0.2)])
@pytest.mark.parametrize("first", [(3, 1), (5, 5), (0, 4)])
def test_evidence_is_a_fair_bet_where_the_one_is_not_better(
    rate: float, worse_by: float, first: tuple[int, int]
) -> None:
    """After any first batch, over all outcomes of a second one, its mean is at most what it was."""
    seen, others = 9, 4  # shared out unevenly
    before = {"a": (10, first[0]), "b": (10, first[1])}

    def weight(count: int, hits: int, chance: float) -> float:
        return math.comb(count, hits) * chance**hits * (1 - chance) ** (count - hits)

    def evidence(batches: list[Batch]) -> float:
        """Without the rule that the sums must point this way, which only takes evidence away."""
        return math.exp(max(log_evidence("a", "b", batches), -700.0))

    mean = 0.0
    for hits in range(seen + 1):
        for other_hits in range(others + 1):
            after = {"a": (seen, hits), "b": (others, other_hits)}
            chance = weight(seen, hits, rate - worse_by) * weight(others, other_hits, rate)
            mean += chance * evidence([before, after])
    # By batches it is 1 after the first. In all it is below a martingale: the mixtures over the likelihood at
    # the true rates, whose mean stays what it is.
    mixtures = sum(math.lgamma(n + 0.5) + math.lgamma(10.5 - n) - math.lgamma(11) for n in first)
    likelihood = sum(
        n * math.log(p) + (10 - n) * math.log(1 - p)
        for n, p in zip(first, (rate - worse_by, rate), strict=True)
    )
    martingale = math.exp(mixtures - 2 * math.log(math.pi) - likelihood)
    assert mean <= (1 + martingale) / 2 + 1e-12


def test_over_all_outcomes_the_evidence_in_all_is_a_fair_bet_too() -> None:
    for rate in (0.1, 0.5, 0.8):
        mean = 0.0
        for hits in range(13):
            for others in range(13):
                chance = math.comb(12, hits) * math.comb(12, others)
                chance *= rate ** (hits + others) * (1 - rate) ** (24 - hits - others)
                one_batch = [{"a": (12, hits), "b": (12, others)}]
                mean += chance * math.exp(max(log_evidence("a", "b", one_batch), -700.0))
        assert mean <= 1


def test_batches_of_one_variant_at_a_time_say_the_same_as_of_both() -> None:
    both = in_parts([Arm("a", 4000, 260), Arm("b", 4000, 200)])
    apart = [{name: batch[name]} for batch in both for name in ("a", "b")]
    assert log_evidence("a", "b", apart) == pytest.approx(log_evidence("a", "b", both))
    assert log_evidence("a", "b", both) > 1.5


@hypothesis_settings(deadline=None)
@given(ARMS, st.integers(0, 60))
def test_whatever_the_counts_a_decision_is_sound(arms: list[Arm], days: int) -> None:
    decision = decided(arms, days=days)
    assert sum(decision.shares.values()) == pytest.approx(1, abs=1e-6)
    assert all(0 <= share <= 1 for share in decision.shares.values())
    assert sum(decision.chances.values()) == pytest.approx(1)
    assert decision.winner is None or decision.stop
    assert arms[0].name not in decision.harmful
    if decision.winner is not None:
        winner = next(arm for arm in arms if arm.name == decision.winner)
        assert winner.rate == max(arm.rate for arm in arms if arm.rate is not None)
    assert days < RULES.maximum_days or decision.stop
    assert decided(arms, days=days) == decision


@given(ARMS, st.integers(1, 12))
def test_evidence_points_one_way_only(arms: list[Arm], parts: int) -> None:
    batches = in_parts(arms, parts)
    forth, back = log_evidence("v0", "v1", batches), log_evidence("v1", "v0", batches)
    assert min(forth, back) == -math.inf
    assert not math.isnan(forth)
    assert forth < math.inf


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=10).filter(lambda found: sum(found) > 0), st.floats(0, 0.5)
)
def test_a_floor_is_kept_and_shares_stay_in_order(chances: list[float], floor: float) -> None:
    whole = sum(chances)
    shares = with_floor({str(n): chance / whole for n, chance in enumerate(chances)}, floor)
    assert sum(shares.values()) == pytest.approx(1)
    least = min(floor, 1 / len(chances))
    assert min(shares.values()) >= least - 1e-9
    best = max(range(len(chances)), key=chances.__getitem__)
    assert shares[str(best)] == pytest.approx(max(shares.values()))


def test_impossible_counts_are_refused_and_intervals_hold_the_rate() -> None:
    with pytest.raises(ValueError, match="2 successes of 1 exposures"):
        Arm("a", 1, 2)
    low, high = Arm("a", 1000, 50).interval()
    assert (low, high) == pytest.approx((0.0381, 0.0653), abs=2e-4)
    assert Arm("a", 0, 0).interval() == (0, 1)
    assert Arm("a", 0, 0).rate is None


def test_rules_that_are_not_named_come_from_the_profile() -> None:
    defaults = ExperimentSettings(maximum_days=7, error_rate=0.1)
    rules = rules_of({"error_rate": 0.01}, defaults)
    assert (rules.maximum_days, rules.error_rate) == (7, 0.01)
