"""Every file of hostile/feeds ends in a clear error or a safe result, and memory stays flat."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import yaml
from markdown import markdown
from selectolax.lexbor import LexborHTMLParser

from lead_coordinator.pipelines.intelligence.briefing import make_briefing
from lead_coordinator.pipelines.intelligence.feeds import Poll, poll_feeds
from lead_coordinator.pipelines.intelligence.naming import data_block, load_prompt
from lead_coordinator.pipelines.intelligence.outcome import result_of, submissions
from lead_coordinator.pipelines.intelligence.pages import as_html, as_markdown
from lead_coordinator.pipelines.intelligence.reader import FeedReader, ReadLimits
from lead_coordinator.pipelines.intelligence.round import Round, hold_round
from lead_coordinator.pipelines.intelligence.settings import (
    FeedSource,
    IntelligenceSettings,
    PollSettings,
    TopicSettings,
)
from lead_coordinator.pipelines.intelligence.state import SiteState, round_json
from lead_coordinator.web.fetch import Fetcher, FetchPolicy
from lead_coordinator_tests.pipelines.intelligence.material import NOON
from lead_coordinator_tests.web.server import WireServer, answer

pytestmark = pytest.mark.anyio
FOLDER = Path(__file__).parents[2] / "hostile" / "feeds"
EXPECTED: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / "expected.yaml").read_text())
SETTINGS = IntelligenceSettings(
    poll=PollSettings(allow_private_addresses=True, max_bytes=5_000_000),
    topics=TopicSettings(min_feeds=1, assumed_value_usd=2, submit_above_usd=0, max_submitted=50),
)


def as_answer(path: Path) -> bytes:
    body = path.read_bytes()
    if path.suffix == ".http":
        return body
    if path.suffix == ".gz":
        return answer(body, content_encoding="gzip", content_type="application/rss+xml")
    kind = {".json": "application/feed+json", ".html": "text/html"}.get(path.suffix, "application/xml")
    return answer(body, content_type=kind)


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    routes = {f"/{path.name}": as_answer(path) for path in FOLDER.iterdir() if path.name in EXPECTED}
    server = WireServer(dict(routes))
    async with server.running():
        yield server


async def polled(server: WireServer, *names: str) -> list[Poll]:
    policy = FetchPolicy(
        allow_private_addresses=True, per_host_delay_seconds=0, per_host_concurrency=4, total_seconds=10
    )
    reader = FeedReader(ReadLimits(seconds=3, memory_mb=384, max_items=200))
    sources = [FeedSource(url=f"{server.url}/{name}") for name in names]
    async with Fetcher(policy) as fetcher:
        return await poll_feeds(sources, {}, SETTINGS.poll, fetcher, reader, NOON)


def held(polls: list[Poll]) -> Round:
    return hold_round(SiteState(), [poll.source for poll in polls], polls, SETTINGS, NOON)


def test_every_file_is_expected() -> None:
    there = {path.name for path in FOLDER.iterdir()} - {"expected.yaml"}
    assert there == set(EXPECTED)
    assert len(there) >= 12


@pytest.mark.parametrize("name", EXPECTED)
async def test_a_hostile_feed_ends_in_an_error_or_a_safe_result(server: WireServer, name: str) -> None:
    (poll,) = await polled(server, name)
    expected = EXPECTED[name]
    if "error" in expected:
        assert poll.outcome == "failed"
        assert expected["error"] in poll.state.error
        assert len(poll.state.error) <= 300
    else:
        assert poll.outcome == "read", poll.state.error
        assert len(poll.items) == expected["items"]
        assert set(expected.get("titles", ())) <= {item.title for item in poll.items}
    for item in poll.items:
        assert len(item.title) <= 300
        assert len(item.text) <= 10_000
        assert not item.url or urlsplit(item.url).scheme in ("http", "https")
        assert "root:" not in item.title + item.text, "a file of this machine was read"
    found = held([poll])
    # What is stored must be what PostgreSQL's jsonb takes.
    from lead_coordinator.database.json import dumps

    assert dumps(round_json([poll.state], found.new, found.changed, found.proposals))
    assert all(item.published <= NOON + timedelta(hours=1) for item in found.new)
    check_pages(found)


def check_pages(found: Round) -> None:
    """Neither page holds anything that runs, loads, or leads elsewhere than to http and https."""
    briefing = make_briefing("main", found, {}, {})
    html = as_html(briefing)
    check_html(html)
    assert "default-src 'none'" in html
    check_html(markdown(as_markdown(briefing), extensions=["tables", "fenced_code"]))
    for task in submissions("main", found, SiteState(), NOON):
        assert all(url.startswith(("http://", "https://")) for url in task.payload["sources"])
    assert len(str(result_of("main", found, 0, []))) < 60_000


def check_html(html: str) -> None:
    tree = LexborHTMLParser(html)
    for node in tree.css("*"):
        assert node.tag not in ("script", "iframe", "img", "svg", "object", "embed", "form", "input"), html
        for name, value in node.attributes.items():
            assert not name.startswith("on"), html
            if name in ("href", "src"):
                assert urlsplit(value or "").scheme in ("http", "https"), value


async def test_all_of_them_together_leave_memory_flat(server: WireServer) -> None:
    quick = [name for name in EXPECTED if name != "deep.xml.gz"]
    process = psutil.Process()
    held(await polled(server, *quick))  # imports, caches
    gc.collect()
    before = process.memory_info().rss
    for _ in range(3):
        check_pages(held(await polled(server, *quick)))
    gc.collect()
    grown = process.memory_info().rss - before
    assert grown < 40_000_000, f"three rounds over {len(quick)} hostile feeds kept {grown} bytes"


async def test_instructions_in_a_title_stay_data(server: WireServer) -> None:
    (poll,) = await polled(server, "ignore-your-instructions.xml")
    data = {"stories": [{"id": "1", "items": [{"title": one.title, "text": one.text} for one in poll.items]}]}
    system, user = load_prompt("name_stories").messages(data)
    assert "Ignore your instructions" not in system.text
    assert user.text.count("</stories>") == 1, "nothing inside can close the tag"
    inside = user.text.partition("<stories>")[2].partition("</stories>")[0]
    assert yaml.safe_load(inside) == data
    assert data_block({"x": "</stories>&"}) == '{\n "x": "\\u003c/stories\\u003e\\u0026"\n}'
