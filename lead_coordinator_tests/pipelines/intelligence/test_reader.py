"""The child that reads a feed has limits, no secrets, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os

import psutil
import pytest

from lead_coordinator.pipelines.intelligence import reader as reader_module
from lead_coordinator.pipelines.intelligence.parse import NotAFeed, parse_feed
from lead_coordinator.pipelines.intelligence.reader import FeedReader, ReadLimits, child
from lead_coordinator_tests.pipelines.intelligence.material import FEEDS

pytestmark = pytest.mark.anyio
URL = "https://news.example/feed"


@pytest.mark.parametrize("name", sorted(path.name for path in FEEDS.iterdir()))
async def test_the_child_reads_what_the_parser_reads(name: str) -> None:
    body = (FEEDS / name).read_bytes()
    assert await FeedReader().read(body, URL, "text/xml") == parse_feed(body, URL, content_type="text/xml")


async def test_what_is_no_feed_comes_back_as_the_same_sentence() -> None:
    with pytest.raises(NotAFeed, match="it is an HTML page, not a feed"):
        await FeedReader().read(b"<html><body></body></html>", URL)


async def test_memory_is_bounded() -> None:
    body = b'{"items": [' + b",".join([b'{"a":[[[[]]]]}'] * 300_000) + b"]}"
    with pytest.raises(NotAFeed, match="96 MB of memory"):
        await FeedReader(ReadLimits(seconds=10, memory_mb=96)).read(body, URL)


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


async def test_a_cancelled_read_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before = children()
    slow = b"<rss version='2.0'><channel><item><title>" + b"<a>" * 700_000
    reading = asyncio.ensure_future(FeedReader(ReadLimits(seconds=30)).read(slow, URL))
    while not children() - before:
        await asyncio.sleep(0.01)
        assert not reading.done(), "the feed was expected to take its time"
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert children() == before


async def test_the_child_has_no_secret_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "secret-of-ours")
    given = {}
    real = asyncio.create_subprocess_exec

    async def watched(*arguments: str, **options: object):
        given.update(options)
        return await real(*arguments, **options)

    monkeypatch.setattr(reader_module.asyncio, "create_subprocess_exec", watched)
    await FeedReader().read((FEEDS / "city-life.json").read_bytes(), URL)
    assert "secret-of-ours" in os.environ.values()
    assert "secret-of-ours" not in given["env"].values()


def test_a_request_is_its_head_and_its_body() -> None:
    head = {"url": URL, "content_type": "", "max_items": 1, "seconds": 1, "memory_mb": 128}
    answer = child(json.dumps(head).encode() + b"\n" + (FEEDS / "city-life.json").read_bytes())
    assert (answer["kind"], answer["title"], len(answer["items"])) == ("json", "City Life", 1)
