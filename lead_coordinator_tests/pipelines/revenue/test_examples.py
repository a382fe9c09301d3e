"""What is planted in examples/metrics-*.csv is found, and nothing else is reported."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest
import yaml

from lead_coordinator.pipelines.revenue.analysis import SiteReport, analyse
from lead_coordinator.pipelines.revenue.exports import read_metrics
from lead_coordinator_tests.pipelines.revenue.material import EXAMPLES, SETTINGS, example_pages, make_examples

NAMES = ("metrics-search-console.csv", "metrics-analytics.csv", "metrics-truth.yaml")


def found_in(folder: Path) -> SiteReport:
    pages, window = example_pages(folder)
    return analyse(pages, window, SETTINGS, costs={page.page: 0.01 for page in pages})


def check(report: SiteReport, truth: dict[str, dict[str, object]]) -> None:
    assert {page.page for page in report.pages} == truth.keys()
    for page in report.pages:
        planted = truth[page.page]
        assert page.course.verdict == planted["verdict"], f"{page.page}: {page.course.why}"
        to_do = [found.kind for found in page.opportunities]
        assert to_do == planted["to_do"], f"{page.page} has planted: {planted['planted']}"


def test_the_files_are_what_the_script_makes(tmp_path: Path) -> None:
    make_examples(tmp_path, date(2026, 11, 23))
    for name in NAMES:
        assert (tmp_path / name).read_bytes() == (EXAMPLES / name).read_bytes(), (
            f"run the script anew: {name}"
        )


def test_every_planted_case_is_found_and_nothing_else_reported() -> None:
    truth = yaml.safe_load((EXAMPLES / NAMES[2]).read_text())
    report = found_in(EXAMPLES)
    check(report, truth["pages"])
    assert report.window.last == truth["last_day"]
    assert len({page["planted"] for page in truth["pages"].values()}) >= 7, "one of each kind was expected"
    gains = {found.page: found.gain_usd for found in report.opportunities}
    assert all(gain is not None and 0 < gain.low < gain.mean < gain.high for gain in gains.values())


@pytest.mark.parametrize("days", [1, 2, 3, 4, 5, 6, 200])
def test_what_is_found_does_not_depend_on_the_day_it_is_made_for(tmp_path: Path, days: int) -> None:
    """The demo makes the files for the day before it runs; the season of the week then lies elsewhere."""
    make_examples(tmp_path, date(2026, 11, 23) + timedelta(days=days))
    truth = yaml.safe_load((tmp_path / NAMES[2]).read_text())
    check(found_in(tmp_path), truth["pages"])


def test_every_page_of_the_examples_is_one_that_the_briefs_become() -> None:
    """So that a refresh of it can be carried out."""
    import csv

    from lead_coordinator.pipelines.content.text import slugify

    with (EXAMPLES / "topics.csv").open(encoding="utf-8") as file:
        slugs = {slugify(row["title"]) for row in csv.DictReader(file) if row["title"]}
    pages = {row.page for row in read_metrics(EXAMPLES / NAMES[0]).rows}
    assert {page.removeprefix("/articles/").removesuffix(".html") for page in pages} <= slugs


def test_what_has_too_little_data_says_so_and_gives_no_figure() -> None:
    report = found_in(EXAMPLES)
    (page,) = [page for page in report.pages if page.course.verdict == "too little data"]
    assert page.opportunities == ()
    assert page.course.trend is None
    assert page.not_claimed == (
        "trend: 13 clicks in 17 weeks, 100 are needed",
        "title: 235 impressions, 1,000 are needed",
        "placement: 0.8 conversions to be expected, 20 needed",
    )
