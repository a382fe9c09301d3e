"""Metrics and experiments as the database keeps them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from lead_coordinator.database import operations, revenue
from lead_coordinator.database.connection import Database
from lead_coordinator.database.revenue import MetricRow, Outcome
from lead_coordinator.errors import InvalidInput, NotFound

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = date(2026, 11, 1)
VARIANTS = [("control", "Old headline"), ("b", "New headline")]


def rows(db: Database) -> list[dict[str, object]]:
    return db.rows(
        "SELECT page, day, clicks, impressions, search_position, views, sessions, conversions, revenue_usd"
        " FROM lead.page_metric ORDER BY page, day"
    )


def put(db: Database, *given: MetricRow, site: str = "s") -> revenue.Imported:
    return revenue.import_page_metrics(db, site, given, current_time=NOON)


def test_two_sources_meet_in_one_row_and_a_second_import_changes_nothing(db: Database) -> None:
    search = MetricRow("/a", DAY, clicks=3, impressions=100, position=4.25)
    analytics = MetricRow(
        "/a", DAY, views=9, sessions=8, conversions=Decimal("1.5"), revenue_usd=Decimal("-2.5")
    )
    assert put(db, search) == revenue.Imported(1, 0)
    assert put(db, analytics) == revenue.Imported(0, 1)
    expected = {
        "page": "/a", "day": DAY, "clicks": 3, "impressions": 100, "search_position": Decimal("4.250"),
        "views": 9, "sessions": 8, "conversions": Decimal("1.5000"), "revenue_usd": Decimal("-2.5"),
    }  # fmt: skip
    assert rows(db) == [expected]
    put(db, search)
    assert rows(db) == [expected], "figures that aren't given were expected to stay"
    together = put(db, MetricRow("/b", DAY, views=1), MetricRow("/b", DAY, clicks=2))
    assert together == revenue.Imported(1, 0), "rows of both sources may come together"
    db.execute("DELETE FROM lead.page_metric WHERE page = '/b'")
    put(db, MetricRow("/a", DAY, clicks=0, impressions=0))
    assert rows(db)[0]["clicks"] == 0, "a zero is a figure"


def test_an_import_is_all_or_nothing_over_all_its_calls(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revenue, "ROWS_A_CALL", 2)
    good = [MetricRow(f"/{n}", DAY, views=n) for n in range(5)]
    with pytest.raises(InvalidInput, match=r"p_rows\[1\]\.day: 2026-12-01 is not a date"):
        put(db, *good, MetricRow("/z", date(2026, 12, 1), views=1))
    assert rows(db) == []
    assert put(db, *good) == revenue.Imported(5, 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (MetricRow("a", DAY, views=1), r"p_rows\[0\]\.page: a is not a path"),
        (MetricRow("/" + "a" * 500, DAY, views=1), r"\.page: /aaa"),
        (MetricRow("/a\n", DAY, views=1), r"\.page"),
        (MetricRow("/a", DAY), "it holds no figure"),
        (
            MetricRow("/a", date(1999, 12, 31), views=1),
            r"\.day: 1999-12-31 is not a date from 2000-01-01 to 2026",
        ),
        (MetricRow("/a", DAY, views=-1), r"\.views: -1 is not a whole number from 0 to 1000000000000"),
        (MetricRow("/a", DAY, clicks=10**13), r"\.clicks: 1"),
        (MetricRow("/a", DAY, clicks=5, impressions=4), r"\.clicks: 5 is more than the impressions, 4"),
        (MetricRow("/a", DAY, position=0.5), r"\.position: 0\.5 is not a number from 1"),
        (MetricRow("/a", DAY, revenue_usd=Decimal("1e308")), r"\.revenue_usd"),
    ],
)
def test_a_row_that_is_not_allowed_is_named_with_field_and_value(
    db: Database, row: MetricRow, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        put(db, row)
    with pytest.raises(InvalidInput, match="/a on 2026-11-01: views is given twice, 1 and 2"):
        put(db, MetricRow("/a", DAY, views=1), MetricRow("/a", DAY, views=2))
    same = {"page": "/a", "day": "2026-11-01", "views": 1}
    with pytest.raises(InvalidInput, match="/a on 2026-11-01, 2 times is not allowed; a row a page and day"):
        db.call("import_page_metrics", site="s", rows=[same, same], current_time=NOON)
    assert rows(db) == []


def test_metrics_and_outcomes_are_pruned_by_their_own_time(db: Database) -> None:
    put(db, MetricRow("/old", DAY - timedelta(days=810), views=1), MetricRow("/new", DAY, views=1))
    experiment, _ = revenue.create_experiment(db, "s", "e", "headline", "/a", VARIANTS, {}, current_time=NOON)
    for days in (801, 1):
        revenue.record_outcomes(
            db, experiment, [Outcome("b", 10, 1)], current_time=NOON - timedelta(days=days)
        )
    step = operations.prune_history(db, keep=timedelta(days=7), current_time=NOON)
    assert (step.deleted["page_metric"], step.deleted["experiment_outcome"]) == (1, 1)
    assert [row["page"] for row in rows(db)] == ["/new"]
    (left,) = revenue.list_experiments(db)
    assert left.variants[1].exposures == 20, "totals outlive what they were summed up from"


def test_an_experiment_lives_from_its_creation_to_its_end(db: Database) -> None:
    number, created = revenue.create_experiment(
        db, "s", "title", "headline", "/a", VARIANTS, {"minimum_exposures": 100}, current_time=NOON
    )
    assert created
    again = revenue.create_experiment(
        db, "s", "title", "headline", "/a", VARIANTS, {"minimum_exposures": 100}, current_time=NOON
    )
    assert again == (number, False)
    with pytest.raises(InvalidInput, match="it names another experiment"):
        revenue.create_experiment(db, "s", "title", "placement", "/a", VARIANTS, {}, current_time=NOON)
    seen = [Outcome("control", 100, 5), Outcome("b", 100, 9)]
    assert revenue.record_outcomes(db, number, seen, key="monday", current_time=NOON)
    assert not revenue.record_outcomes(db, number, seen, key="monday", current_time=NOON)
    assert revenue.record_outcomes(db, number, [Outcome("b", 50, 1)], current_time=NOON + timedelta(hours=1))
    assert revenue.decide_experiment(db, number, shares={"control": 0.2, "b": 0.8}, current_time=NOON)
    (found,) = revenue.list_experiments(db, site="s", status="running")
    assert [(v.name, v.share, v.exposures, v.successes) for v in found.variants] == [
        ("control", 0.2, 100, 5),
        ("b", 0.8, 150, 10),
    ]
    assert [(o.variant, o.exposures) for o in revenue.list_outcomes(db, number)] == [
        ("b", 100),
        ("control", 100),
        ("b", 50),
    ]
    assert revenue.decide_experiment(
        db, number, stop=True, winner="b", reason="it is better", current_time=NOON
    )
    assert not revenue.decide_experiment(db, number, stop=True, reason="again", current_time=NOON)
    (ended,) = revenue.list_experiments(db)
    assert (ended.status, ended.winner, ended.reason) == ("stopped", "b", "it is better")
    assert not revenue.record_outcomes(db, number, seen, key="monday", current_time=NOON), (
        "known all the same"
    )
    with pytest.raises(InvalidInput, match="it was stopped at"):
        revenue.record_outcomes(db, number, seen, current_time=NOON)


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ([Outcome("c", 1, 0)], "a variant of this experiment is needed: control, b"),
        ([Outcome("b", 1, 0), Outcome("b", 1, 1)], "each variant may stand there once"),
        ([Outcome("b", 1, 2)], r"p_outcomes\[0\]\.successes: 2 is not allowed; a whole number from 0 to 1"),
        ([Outcome("b", -1, 0)], r"p_outcomes\[0\]\.exposures: -1"),
        ([], "an array of 1 to 10 objects"),
    ],
)
def test_outcomes_that_are_not_allowed_leave_no_trace(
    db: Database, outcomes: list[Outcome], message: str
) -> None:
    number, _ = revenue.create_experiment(db, "s", "e", "headline", "/a", VARIANTS, {}, current_time=NOON)
    with pytest.raises(InvalidInput, match=message):
        revenue.record_outcomes(db, number, outcomes, current_time=NOON)
    assert revenue.list_outcomes(db, number) == []
    with pytest.raises(NotFound):
        revenue.record_outcomes(db, number + 1, [Outcome("b", 1, 0)], current_time=NOON)


def test_an_experiment_holds_so_many_records_and_says_how_to_record(db: Database) -> None:
    number, _ = revenue.create_experiment(db, "s", "e", "headline", "/a", VARIANTS, {}, current_time=NOON)
    db.execute(
        "INSERT INTO lead.experiment_outcome (experiment_id, variant, recorded_at, exposures, successes)"
        " SELECT %s, 'b', %s, 1, 0 FROM generate_series(1, 19999)",
        [number, NOON],
    )
    assert revenue.record_outcomes(db, number, [Outcome("b", 1, 0)], current_time=NOON)
    with pytest.raises(InvalidInput, match="by the hour or the day"):
        revenue.record_outcomes(db, number, [Outcome("b", 1, 0)], current_time=NOON)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "p_name"),
        ({"kind": "colour"}, "headline or placement"),
        ({"page": "a"}, "p_page"),
        ({"variants": VARIANTS[:1]}, "1 variants is not allowed"),
        ({"variants": [("a", "x"), ("a", "y")]}, "a name of its own"),
        ({"variants": [("a", "x"), ("b c", "y")]}, r"p_variants\[1\]"),
        ({"rules": {"luck": 1}}, "p_rules: luck"),
        ({"rules": {"error_rate": 0}}, r"p_rules\.error_rate: 0 is not allowed"),
    ],
)
def test_an_experiment_that_is_not_allowed_is_refused(
    db: Database, change: dict[str, object], message: str
) -> None:
    right = {"site": "s", "name": "e", "kind": "headline", "page": "/a", "variants": VARIANTS, "rules": {}}
    with pytest.raises(InvalidInput, match=message):
        revenue.create_experiment(db, **{**right, **change}, current_time=NOON)
    assert revenue.list_experiments(db) == []


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        ({"shares": {"control": 1}}, "a share for each variant is needed: control, b"),
        ({"shares": {"control": 0.5, "b": 0.6}}, "together they must be 1"),
        ({"shares": {"control": -1, "b": 2}}, r"p_shares\.control: -1"),
        ({"winner": "b"}, "p_winner"),
        ({"stop": True, "winner": "c", "reason": "x"}, "p_winner"),
        ({"stop": True}, "p_reason"),
    ],
)
def test_a_decision_that_is_not_allowed_is_refused(
    db: Database, decision: dict[str, object], message: str
) -> None:
    number, _ = revenue.create_experiment(db, "s", "e", "headline", "/a", VARIANTS, {}, current_time=NOON)
    with pytest.raises(InvalidInput, match=message):
        revenue.decide_experiment(db, number, **decision, current_time=NOON)
    (found,) = revenue.list_experiments(db)
    assert (found.status, found.variants[0].share) == ("running", 0.5)
