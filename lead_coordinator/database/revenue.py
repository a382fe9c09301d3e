"""The revenue optimiser's records: daily page metrics, what pages cost, experiments.

Synchronous functions serve the command line, those that begin with `a` a pipeline run. What decides or writes
is one SQL function; what only reads are SELECTs of ours. Money is US dollars.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

from psycopg.types.json import Jsonb

from lead_coordinator.database.connection import AsyncDatabase, Database, given
from lead_coordinator.errors import InvalidInput

# What import_page_metrics takes in one call.
ROWS_A_CALL = 10_000
Kind = Literal["headline", "placement"]
FIGURES = ("clicks", "impressions", "position", "views", "sessions", "conversions", "revenue_usd")


@dataclass(frozen=True, slots=True)
class MetricRow:
    """A page's figures of one day. None: not counted; what is in the table then stays.

    `page` is a path (`/articles/roses.html`), `position` the mean place among the results (1 is the top).
    """

    page: str
    day: date
    clicks: int | None = None
    impressions: int | None = None
    position: float | None = None
    views: int | None = None
    sessions: int | None = None
    conversions: Decimal | None = None
    revenue_usd: Decimal | None = None


@dataclass(frozen=True)
class Imported:
    inserted: int
    updated: int


@dataclass(frozen=True)
class Variant:
    """One arm of an experiment: `share` of the visitors (0 to 1) and what became of those it had."""

    name: str
    content: str
    share: float
    exposures: int
    successes: int


@dataclass(frozen=True)
class Experiment:
    """A headline or placement test; the first variant is the control. `rules` as they were agreed."""

    experiment_id: int
    site: str
    name: str
    kind: Kind
    page: str
    status: Literal["running", "stopped"]
    rules: Mapping[str, Any]
    winner: str | None
    reason: str | None
    created_at: datetime
    stopped_at: datetime | None
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Outcome:
    """Visitors who saw a variant since the last time, and how many of them did what was hoped for."""

    variant: str
    exposures: int
    successes: int
    recorded_at: datetime | None = None


# ---- metrics -----------------------------------------------------------------------------------------------


def import_page_metrics(
    db: Database, site: str, rows: Sequence[MetricRow], *, current_time: datetime | None = None
) -> Imported:
    """Writes rows, in the order of their key and in one transaction: all or none.

    Figures that are given replace those of the same page and day. Rows of both sources may come together.
    Raises `InvalidInput`.
    """
    ordered = joined_rows(rows)
    inserted = updated = 0
    with db.connection() as connection, connection.transaction():
        for start in range(0, len(ordered), ROWS_A_CALL):
            part = [_as_json(row) for row in ordered[start : start + ROWS_A_CALL]]
            answer = db.call(
                "import_page_metrics", site=site, rows=Jsonb(part), **given(current_time=current_time)
            )
            inserted += answer["inserted"]
            updated += answer["updated"]
    return Imported(inserted, updated)


def joined_rows(rows: Iterable[MetricRow]) -> list[MetricRow]:
    """One row a page and day, in that order: figures of several sources together. Raises `InvalidInput` where
    two of them give the same figure."""
    found: dict[tuple[str, date], MetricRow] = {}
    for row in rows:
        before = found.get((row.page, row.day))
        if before is None:
            found[row.page, row.day] = row
            continue
        new = {name: value for name in FIGURES if (value := getattr(row, name)) is not None}
        if twice := next((name for name in new if getattr(before, name) is not None), None):
            raise InvalidInput(
                f"{row.page[:200]} on {row.day}: {twice} is given twice, "
                f"{getattr(before, twice)} and {new[twice]}"
            )
        found[row.page, row.day] = replace(before, **new)
    return [found[key] for key in sorted(found)]


def _as_json(row: MetricRow) -> dict[str, Any]:
    return given(
        page=row.page,
        day=row.day,
        clicks=row.clicks,
        impressions=row.impressions,
        position=row.position,
        views=row.views,
        sessions=row.sessions,
        conversions=row.conversions,
        revenue_usd=row.revenue_usd,
    )


_PAGES = """
    SELECT m.page FROM lead.page_metric AS m WHERE m.site = %(site)s AND m.day BETWEEN %(since)s AND %(until)s
    GROUP BY m.page
    ORDER BY greatest(coalesce(sum(m.impressions), 0), coalesce(sum(m.views), 0)) DESC, m.page LIMIT %(limit)s
"""
_DAYS = """
    SELECT m.day, count(m.impressions) + count(m.clicks) > 0 AS search,
        count(m.views) + count(m.sessions) + count(m.conversions) + count(m.revenue_usd) > 0 AS analytics
    FROM lead.page_metric AS m WHERE m.site = %(site)s AND m.day BETWEEN %(since)s AND %(until)s
    GROUP BY m.day ORDER BY m.day
"""
_ROWS = """
    SELECT m.page, m.day, m.clicks, m.impressions, m.search_position::float8 AS position, m.views, m.sessions,
        m.conversions, m.revenue_usd
    FROM lead.page_metric AS m
    WHERE m.site = %(site)s AND m.page = ANY (%(pages)s) AND m.day BETWEEN %(since)s AND %(until)s
    ORDER BY m.page, m.day
"""


async def alatest_day(db: AsyncDatabase, site: str, until: date) -> date | None:
    """The last day, not after `until`, of which the site has metrics."""
    row = await db.row(
        "SELECT max(m.day) AS day FROM lead.page_metric AS m WHERE m.site = %s AND m.day <= %s", [site, until]
    )
    return None if row is None else row["day"]


async def alist_pages(db: AsyncDatabase, site: str, since: date, until: date, limit: int) -> list[str]:
    """Pages with metrics between two days (both included), those seen most first."""
    rows = await db.rows(_PAGES, {"site": site, "since": since, "until": until, "limit": limit})
    return [row["page"] for row in rows]


async def acounted_days(
    db: AsyncDatabase, site: str, since: date, until: date
) -> tuple[frozenset[date], frozenset[date]]:
    """The days of which the site has figures of the search engine, and of analytics."""
    rows = await db.rows(_DAYS, {"site": site, "since": since, "until": until})
    return (
        frozenset(row["day"] for row in rows if row["search"]),
        frozenset(row["day"] for row in rows if row["analytics"]),
    )


async def apage_metrics(
    db: AsyncDatabase, site: str, pages: Sequence[str], since: date, until: date
) -> list[MetricRow]:
    """Rows of these pages between two days (both included), in the order of page and day."""
    rows = await db.rows(_ROWS, {"site": site, "pages": list(pages), "since": since, "until": until})
    return [MetricRow(**row) for row in rows]


# ---- what pages cost, and what is known about them ---------------------------------------------------------

# A publication keeps the task that wrote it, each revision the one that made it. Where a task is pruned, its
# revision still says what it cost.
_COSTS = r"""
    SELECT p.slug, p.url, p.title, c.cost_usd, c.is_known
    FROM lead.publication AS p
    CROSS JOIN LATERAL (
        SELECT sum(coalesce(t.cost_usd, x.kept_usd)) AS cost_usd,
            bool_and(coalesce(t.cost_usd, x.kept_usd) IS NOT NULL) AS is_known
        FROM (
            SELECT w.task_id, max(w.kept_usd) AS kept_usd FROM (
                SELECT p.task_id, NULL::numeric AS kept_usd
                UNION ALL
                SELECT a.task_id, CASE WHEN a.details ->> 'cost_usd' ~ '^[0-9]{1,9}([.][0-9]{1,12})?$'
                    THEN (a.details ->> 'cost_usd')::numeric END
                FROM lead.article AS a WHERE a.publication_id = p.id
            ) AS w GROUP BY w.task_id
        ) AS x
        LEFT JOIN lead.task AS t ON t.id = x.task_id
    ) AS c
    WHERE p.site = %(site)s AND p.status = 'published'
    ORDER BY p.id DESC LIMIT %(limit)s
"""


@dataclass(frozen=True)
class PublishedPage:
    """One of our own articles. `cost_usd`: the ledger's, of writing and refreshing; None: pruned."""

    slug: str
    url: str
    title: str
    cost_usd: Decimal | None


async def apublished_pages(db: AsyncDatabase, site: str, limit: int) -> list[PublishedPage]:
    rows = await db.rows(_COSTS, {"site": site, "limit": limit})
    return [
        PublishedPage(
            row["slug"], row["url"] or "", row["title"], row["cost_usd"] if row["is_known"] else None
        )
        for row in rows
    ]


async def asubmitted_keys(db: AsyncDatabase, keys: Iterable[str]) -> frozenset[str]:
    """Which of these idempotency keys have been submitted, ever."""
    rows = await db.rows(
        "SELECT s.idempotency_key FROM lead.submission AS s WHERE s.idempotency_key = ANY (%s)", [list(keys)]
    )
    return frozenset(row["idempotency_key"] for row in rows)


# What the SEO monitor keeps; the two pipelines meet here.
FINDINGS_A_PAGE = 20
_FINDINGS = """
    SELECT f.url, f.rule FROM lead.seo_finding AS f WHERE f.site = %s AND f.status = 'open'
    ORDER BY array_position(ARRAY['critical', 'error', 'warning', 'notice'], f.severity), f.url, f.rule
    LIMIT 50000
"""


async def aopen_findings(db: AsyncDatabase, site: str) -> dict[str, list[str]]:
    """Rules that the SEO monitor has found broken and nobody mended yet, by address, the gravest first."""
    found: dict[str, list[str]] = {}
    for row in await db.rows(_FINDINGS, [site]):
        listed = found.setdefault(row["url"], [])
        if len(listed) < FINDINGS_A_PAGE:
            listed.append(row["rule"])
    return found


# ---- experiments -------------------------------------------------------------------------------------------


def create_experiment(
    db: Database,
    site: str,
    name: str,
    kind: Kind,
    page: str,
    variants: Sequence[tuple[str, str]],
    rules: Mapping[str, Any],
    *,
    current_time: datetime | None = None,
) -> tuple[int, bool]:
    """Begins an experiment; `variants` are (name, content), the control first. Answers its id, and whether it
    is new.

    Raises `InvalidInput`, also where the name stands for another experiment of the site.
    """
    answer = db.call(
        "create_experiment",
        site=site,
        name=name,
        kind=kind,
        page=page,
        variants=Jsonb([{"variant": variant, "content": content} for variant, content in variants]),
        rules=Jsonb(rules),
        **given(current_time=current_time),
    )
    return answer["experiment_id"], answer["created"]


def record_outcomes(
    db: Database,
    experiment_id: int,
    outcomes: Sequence[Outcome],
    *,
    key: str | None = None,
    current_time: datetime | None = None,
) -> bool:
    """Adds what happened to visitors since the last time. False: this key was recorded before.

    Raises `InvalidInput` and `NotFound`.
    """
    rows = [{"variant": o.variant, "exposures": o.exposures, "successes": o.successes} for o in outcomes]
    return bool(
        db.call(
            "record_outcomes",
            experiment_id=experiment_id,
            outcomes=Jsonb(rows),
            **given(key=key, current_time=current_time),
        )
    )


def decide_experiment(
    db: Database,
    experiment_id: int,
    *,
    shares: Mapping[str, float] | None = None,
    stop: bool = False,
    winner: str | None = None,
    reason: str | None = None,
    current_time: datetime | None = None,
) -> bool:
    """Sets the shares of traffic, or ends the experiment. False: it had ended before."""
    return bool(
        db.call("decide_experiment", **_decision(experiment_id, shares, stop, winner, reason, current_time))
    )


async def adecide_experiment(
    db: AsyncDatabase,
    experiment_id: int,
    *,
    shares: Mapping[str, float] | None = None,
    stop: bool = False,
    winner: str | None = None,
    reason: str | None = None,
    current_time: datetime | None = None,
) -> bool:
    """See `decide_experiment`."""
    parameters = _decision(experiment_id, shares, stop, winner, reason, current_time)
    return bool(await db.call("decide_experiment", **parameters))


def _decision(
    experiment_id: int,
    shares: Mapping[str, float] | None,
    stop: bool,
    winner: str | None,
    reason: str | None,
    current_time: datetime | None,
) -> dict[str, Any]:
    return {
        "experiment_id": experiment_id,
        "stop": stop,
        **given(
            shares=None if shares is None else Jsonb(shares),
            winner=winner,
            reason=reason,
            current_time=current_time,
        ),
    }


def list_experiments(
    db: Database, *, site: str | None = None, status: str | None = None, limit: int | None = None
) -> list[Experiment]:
    """Newest first."""
    rows = db.call_rows("list_experiments", **given(site=site, status=status, limit=limit))
    return [_experiment(row) for row in rows]


async def alist_experiments(
    db: AsyncDatabase, *, site: str | None = None, status: str | None = None, limit: int | None = None
) -> list[Experiment]:
    """See `list_experiments`."""
    rows = await db.call_rows("list_experiments", **given(site=site, status=status, limit=limit))
    return [_experiment(row) for row in rows]


def _experiment(row: Mapping[str, Any]) -> Experiment:
    variants = tuple(
        Variant(v["variant"], v["content"], float(v["share"]), v["exposures"], v["successes"])
        for v in row["variants"]
    )
    return Experiment(**{**row, "variants": variants})


_OUTCOMES = """
    SELECT o.variant, o.recorded_at, sum(o.exposures)::bigint AS exposures,
        sum(o.successes)::bigint AS successes
    FROM lead.experiment_outcome AS o WHERE o.experiment_id = %s
    GROUP BY o.recorded_at, o.variant ORDER BY o.recorded_at, o.variant
"""


def list_outcomes(db: Database, experiment_id: int) -> list[Outcome]:
    """What was recorded, in the order of time; the database takes no more than 20,000 rows."""
    return [Outcome(**row) for row in db.rows(_OUTCOMES, [experiment_id])]


async def alist_outcomes(db: AsyncDatabase, experiment_id: int) -> list[Outcome]:
    """See `list_outcomes`."""
    return [Outcome(**row) for row in await db.rows(_OUTCOMES, [experiment_id])]
