"""`metrics import`: what is read goes in, all of it or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lead_coordinator.database.connection import Database
from lead_coordinator_tests.cli.conftest import Run
from lead_coordinator_tests.pipelines.revenue.material import EXAMPLES

SEARCH = "Date,Page,Clicks,Impressions,CTR,Position\n2026-11-01,https://www.e.org/a,3,10,30%,2\n"
ANALYTICS = "Date,Page path,Views,Total revenue\n20261101,/a,7,1.50\n20261101,/b,2,0\n,,9,1.5\n"


def rows(db: Database) -> list[tuple[object, ...]]:
    found = db.rows(
        "SELECT page, clicks, views, revenue_usd::text AS usd FROM lead.page_metric ORDER BY page"
    )
    return [(row["page"], row["clicks"], row["views"], row["usd"]) for row in found]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "search.csv", tmp_path / "analytics.csv"]
    for path, text in zip(paths, (SEARCH, ANALYTICS), strict=True):
        path.write_text(text)
    return [str(path) for path in paths]


def test_exports_of_both_kinds_meet_in_one_row(
    run: Run, files: list[str], database_url: str, db: Database
) -> None:
    done = run("metrics", "import", *files, "--site", "main", DATABASE_URL=database_url)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        "search.csv: 1 rows of 1 pages, 2026-11-01 to 2026-11-01 (clicks, impressions, position): "
        "1 new, 0 replaced.",
        "analytics.csv: 2 rows of 2 pages, 2026-11-01 to 2026-11-01 (views, revenue_usd): 1 new, 1 replaced.",
        "  left out: 1 rows of sums",
    ]
    assert rows(db) == [("/a", 3, 7, "1.5000000000"), ("/b", None, 2, "0.0000000000")]


def test_a_bad_cell_in_the_second_file_leaves_nothing_of_the_first(
    run: Run, files: list[str], database_url: str, db: Database
) -> None:
    Path(files[1]).write_text(ANALYTICS.replace(",7,", ",7x,"))
    done = run("metrics", "import", *files, "--site", "main", DATABASE_URL=database_url)
    assert done.exit_code == 2
    assert done.output == "lead-coordinator: row 2, 'Views': '7x' isn't a whole number\n"
    assert rows(db) == []


def test_a_dry_run_writes_nothing_and_json_says_everything(
    run: Run, files: list[str], database_url: str, db: Database
) -> None:
    done = run(
        "metrics", "import", files[0], "--site", "main", "--dry-run", "--json", DATABASE_URL=database_url
    )
    (answer,) = json.loads(done.output)
    assert answer == {
        "file": files[0], "rows": 1, "pages": 1, "first_day": "2026-11-01", "last_day": "2026-11-01",
        "measures": ["clicks", "impressions", "position"], "left_out": {}, "inserted": None, "updated": None,
    }  # fmt: skip
    assert rows(db) == []


def test_the_sites_own_host_decides_which_pages_are_its(
    run: Run, files: list[str], database_url: str, db: Database
) -> None:
    db.call("set_site", site="main", profile={"url": "https://e.org/"})
    Path(files[0]).write_text(SEARCH + "2026-11-01,https://shop.e.org/x,1,2,50%,1\n")
    done = run("metrics", "import", files[0], "--site", "main", DATABASE_URL=database_url)
    assert "left out: 1 pages of another host than e.org" in done.output
    assert [row[0] for row in rows(db)] == ["/a"]
    other = run(
        "metrics", "import", files[0], "--site", "x", "--host", "shop.e.org", DATABASE_URL=database_url
    )
    assert "1 rows of 1 pages" in other.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--day", "yesterday"], "--day: 'yesterday' given, a date such as 2026-11-24 is needed"),
        (["no.csv"], "No such file"),
        (["--site", "Main Site"], "name: Main Site given"),
    ],
)
def test_wrong_usage_ends_in_one_sentence(
    run: Run, files: list[str], database_url: str, arguments: list[str], message: str
) -> None:
    done = run("metrics", "import", files[0], "--site", "main", *arguments, DATABASE_URL=database_url)
    assert done.exit_code == 2
    assert message in done.output
    assert len(done.output.splitlines()) == 1


def test_the_examples_go_in(run: Run, database_url: str, db: Database) -> None:
    names = [str(EXAMPLES / f"metrics-{name}.csv") for name in ("search-console", "analytics")]
    assert run("metrics", "import", *names, "--site", "main", DATABASE_URL=database_url).exit_code == 0
    assert run("metrics", "import", *names, "--site", "main", DATABASE_URL=database_url).exit_code == 0
    (found,) = db.rows(
        "SELECT count(*) AS n, count(DISTINCT page) AS pages, sum(conversions)::text AS conversions"
        " FROM lead.page_metric"
    )
    assert (found["n"], found["pages"], found["conversions"]) == (1680, 14, "3904.0000")
