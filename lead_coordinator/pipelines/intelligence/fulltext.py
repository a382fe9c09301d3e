"""The text of the pages that new items link to, where a feed says little more than a title.

Only where the site asks for it (`poll.page_texts`): a page is fetched once, when its item is new, politely
and within bounds; one that can't be read leaves the item with what the feed said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from lead_coordinator.pipelines.intelligence.feeds import Fetches, Poll
from lead_coordinator.pipelines.intelligence.items import identity_of
from lead_coordinator.pipelines.intelligence.parse import MAX_TEXT, ParsedItem
from lead_coordinator.pipelines.intelligence.settings import PollSettings
from lead_coordinator.text.plain import one_line
from lead_coordinator.web.failures import FetchFailed
from lead_coordinator.web.page import is_html, main_text, text_of

# A text shorter than this says little more than its title, in characters.
THIN = 280
MAX_PAGE_BYTES = 2_000_000


async def with_page_texts(
    polls: Sequence[Poll],
    known: Collection[str],
    settings: PollSettings,
    fetcher: Fetches,
    since: datetime,
) -> list[Poll]:
    """The polls with the texts of up to `settings.page_texts` pages, those of the newest items.

    `known`: identities of items that are no news; `since`: older items are left alone. What isn't fetched
    within `settings.page_seconds` is given up.
    """
    wanted = _wanted(polls, known, settings.page_texts, since)
    if not wanted:
        return list(polls)
    places = asyncio.Semaphore(settings.concurrency)

    async def one(item: ParsedItem) -> str:
        async with places:
            return await page_text(fetcher, item.url)

    running = {name: asyncio.ensure_future(one(item)) for name, item in wanted.items()}
    try:
        await asyncio.wait(running.values(), timeout=settings.page_seconds)
        texts = {name: task.result() for name, task in running.items() if task.done()}
    finally:
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)
    return [
        replace(poll, items=tuple(_with(item, texts.get(_name(poll, item), "")) for item in poll.items))
        for poll in polls
    ]


async def page_text(fetcher: Fetches, url: str) -> str:
    """The text that a page is about, on one line; "" where it can't be read."""
    try:
        answer = await fetcher.get(url, max_bytes=MAX_PAGE_BYTES)
    except FetchFailed:
        return ""
    if not 200 <= answer.status < 300 or not is_html(answer.headers, answer.body):
        return ""
    html = text_of(answer.headers, answer.body)
    return one_line(await asyncio.to_thread(main_text, html, answer.final_url), MAX_TEXT)


def _wanted(
    polls: Sequence[Poll], known: Collection[str], limit: int, since: datetime
) -> dict[str, ParsedItem]:
    """The newest of the new items with a thin text and an address, by identity."""
    thin = {
        _name(poll, item): item
        for poll in polls
        for item in poll.items
        if item.url and len(item.text) < THIN and (item.published is None or item.published >= since)
    }
    names = sorted(
        thin.keys() - set(known),
        key=lambda name: (-(thin[name].published or since).timestamp(), name),
    )
    return {name: thin[name] for name in names[:limit]}


def _name(poll: Poll, item: ParsedItem) -> str:
    return identity_of(item, poll.source.url)


def _with(item: ParsedItem, text: str) -> ParsedItem:
    return replace(item, text=text) if len(text) > len(item.text) else item
