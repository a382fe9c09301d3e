"""Pages are read once, where a feed says little, and never stand in the way of a round."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from lead_coordinator.pipelines.intelligence.fulltext import with_page_texts
from lead_coordinator.pipelines.intelligence.items import identity_of
from lead_coordinator.pipelines.intelligence.parse import ParsedItem
from lead_coordinator.pipelines.intelligence.settings import FeedSource, PollSettings
from lead_coordinator.web.failures import failed
from lead_coordinator.web.fetch import Fetched
from lead_coordinator_tests.pipelines.intelligence.material import NOON, parsed, read

pytestmark = pytest.mark.anyio
SOURCE = FeedSource(url="https://a.example/feed")
SINCE = NOON - timedelta(days=14)
TEXT = "The allotment society has opened a seed library in the old pump house, and members bring seed back. "
HTML = f"<html><body><nav>Menu</nav><article><h1>Seeds</h1><p>{TEXT * 5}</p></article></body></html>".encode()


class Fetches:
    def __init__(self, answer: object = None) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def get(self, url: str, **sent: object) -> Fetched:
        self.asked.append(url)
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer == "hang":
            await asyncio.Event().wait()
        if isinstance(self.answer, Fetched):
            return self.answer
        return Fetched(url, url, 200, {"content-type": "text/html"}, HTML)


async def texts(items: list[ParsedItem], fetches: Fetches, known: tuple[str, ...] = (), **knobs: float):
    settings = PollSettings(page_texts=5).model_copy(update=knobs)
    (poll,) = await with_page_texts([read(SOURCE, items)], known, settings, fetches, SINCE)
    return [item.text for item in poll.items]


async def test_a_thin_item_gets_the_text_of_its_page() -> None:
    fetches = Fetches()
    (text,) = await texts([parsed("Seeds", "Short.", url="https://a.example/1")], fetches)
    assert text.count("seed library") == 5
    assert "Menu" not in text
    assert fetches.asked == ["https://a.example/1"]


async def test_what_has_a_text_is_known_or_old_isnt_fetched() -> None:
    long, old, known = parsed("Long", "word " * 100), parsed("Old", hours=24 * 15), parsed("Known")
    nowhere = parsed("Nowhere", url="")
    fetches = Fetches()
    found = await texts([long, old, known, nowhere], fetches, (identity_of(known, SOURCE.url),))
    assert fetches.asked == []
    assert found == [long.text, "", "", ""]


async def test_only_so_many_the_newest_first() -> None:
    items = [parsed(f"n {n}", url=f"https://a.example/{n}", hours=n + 1) for n in range(9)]
    fetches = Fetches()
    await texts(items, fetches, page_texts=2)
    assert sorted(fetches.asked) == ["https://a.example/0", "https://a.example/1"]
    await texts(items, fetches, page_texts=0)
    assert len(fetches.asked) == 2


@pytest.mark.parametrize(
    "answer",
    [
        failed("forbidden_address", "https://a.example/1", "it is this machine"),
        Fetched("u", "u", 404, {"content-type": "text/html"}, HTML),
        Fetched("u", "u", 200, {"content-type": "application/pdf"}, b"%PDF"),
        Fetched("u", "u", 200, {"content-type": "text/html"}, b"<html><body></body></html>"),
        "hang",
    ],
)
async def test_a_page_that_cant_be_read_leaves_what_the_feed_said(answer: object) -> None:
    item = parsed("Seeds", "Short.", url="https://a.example/1")
    assert await texts([item], Fetches(answer), page_seconds=0.05) == ["Short."]
