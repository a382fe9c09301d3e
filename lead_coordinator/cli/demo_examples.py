"""The examples as the demo uses them: laid out to be served, profiles with the real addresses, figures and
feeds moved to today, and what is planted in them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from lead_coordinator.files import product_file

if TYPE_CHECKING:
    from lead_coordinator.database.revenue import MetricRow
    from lead_coordinator.pipelines.content.topics import TopicRow
    from lead_coordinator.pipelines.profile import SiteProfile

ARTICLES_SITE = "main"
PLANTED_SITE = "example-site"
# The address that examples/site.yaml gives the example site and the feeds.
EXAMPLE_ORIGIN = "http://127.0.0.1:8010"
EXAMPLE_PORT = 8010
ARTICLES_PORT = 8011
# Hosts of the feeds' items; each becomes a folder of the server, so that sources can be read.
_NEWS_HOSTS = ("gardenpost", "warmhome", "citylife", "plotnotes")


def truth(name: str) -> dict[str, Any]:
    """What is planted, as examples/NAME.yaml says it."""
    read: dict[str, Any] = yaml.safe_load(product_file(f"examples/{name}.yaml").read_text(encoding="utf-8"))
    return read


@dataclass(frozen=True)
class Planted:
    """What is planted in the examples. `faults`: (path, rule); `refresh`: pages that decay."""

    topics: int
    items: int
    rising: frozenset[str]
    faults: frozenset[tuple[str, str]]
    refresh: frozenset[str]


def planted(places: Mapping[str, str] | None = None) -> Planted:
    """`places`: page in the metrics' files → page on the site, where it is another."""
    feeds, metrics = truth("feeds-truth"), truth("metrics-truth")
    return Planted(
        topics=int(feeds["proposals"]),
        items=int(feeds["items"]),
        rising=frozenset(feeds["rising"]),
        faults=frozenset(
            (path, rule) for path, rules in truth("site-faults")["faults"].items() for rule in rules
        ),
        refresh=frozenset(
            (places or {}).get(page, page)
            for page, one in metrics["pages"].items()
            if "refresh" in one["to_do"]
        ),
    )


def lay_out(folder: Path, now: datetime) -> None:
    """Fills a folder for the server: the example site, and under `feeds/` and `news/` the feeds as they would
    stand at `now`, with a page for each of their items."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(product_file("examples/site"), folder)
    recorded = truth("feeds-truth")["anchor"]
    (folder / "feeds").mkdir()
    for path in sorted(product_file("examples/feeds").iterdir()):
        text = served_feed(path.read_text(encoding="utf-8"), recorded, now)
        (folder / "feeds" / path.name).write_text(text, encoding="utf-8")
        _write_news(folder, text)


def served_feed(text: str, recorded: datetime, now: datetime) -> str:
    """A feed with its dates moved to `now` and its items at the server's own address (`{{origin}}`)."""
    from lead_coordinator.pipelines.intelligence.replay import as_of

    for host in _NEWS_HOSTS:
        text = text.replace(f"https://{host}.example/", f"{{{{origin}}}}/news/{host}/")
    return as_of(text, recorded, now)


def _write_news(folder: Path, feed: str) -> None:
    from lead_coordinator.pipelines.intelligence.parse import parse_feed

    for item in parse_feed(feed.replace("{{origin}}", EXAMPLE_ORIGIN).encode(), EXAMPLE_ORIGIN).items:
        path = urlsplit(item.url).path
        if not path.startswith("/news/"):
            continue  # the malformed feed's last item has no address
        page = folder / f"{path.lstrip('/')}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(_news_page(item.title, item.text), encoding="utf-8")


def _news_page(title: str, text: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title></head>'
        f"<body><article><h1>{escape(title)}</h1><p>{escape(text)}</p>"
        "<p>This page is part of the example feeds; every name and figure on it is invented.</p>"
        "</article></body></html>"
    )


def profiles(origin: str) -> list[SiteProfile]:
    """The profiles of examples/site.yaml, with the address at which the example site is served."""
    from lead_coordinator.cli.site_file import profiles as read

    text = product_file("examples/site.yaml").read_text(encoding="utf-8")
    return read(text.replace(EXAMPLE_ORIGIN, origin).encode())


def metrics(today: date, places: Mapping[str, str]) -> list[list[MetricRow]]:
    """The page metrics of examples/, a list a file, moved by whole days so that they end yesterday, and to
    the pages where the articles are. `places`: page in the files → page on the site."""
    from lead_coordinator.pipelines.revenue.exports import read_metrics

    last_day: date = truth("metrics-truth")["last_day"]
    shift = today - timedelta(days=1) - last_day
    files = []
    for name in ("metrics-search-console", "metrics-analytics"):
        read = read_metrics(product_file(f"examples/{name}.csv"), today=max(today, last_day))
        files.append(
            [replace(row, day=row.day + shift, page=places.get(row.page, row.page)) for row in read.rows]
        )
    return files


def with_metrics(rows: Sequence[TopicRow]) -> list[TopicRow]:
    """Those of the topics whose pages the example metrics speak of."""
    pages = truth("metrics-truth")["pages"]
    return [row for row in rows if metrics_page(row) in pages]


def metrics_page(row: TopicRow) -> str | None:
    """The page of a topic in the example metrics: its title. (An article's address is the model's choice.)"""
    from lead_coordinator.pipelines.content.text import slugify

    return page_of(slugify(row.brief.title)) if row.brief.title else None


def page_of(slug: str) -> str:
    """The page of an article in the metrics."""
    return f"/articles/{slug}.html"
