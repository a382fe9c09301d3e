"""Polling: what is due, what is sent, what is kept, and that nothing a feed does stops a round."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead_coordinator.pipelines.intelligence.feeds import LONGEST_PAUSE, FeedState, due, poll_feeds
from lead_coordinator.pipelines.intelligence.parse import NotAFeed, ParsedFeed
from lead_coordinator.pipelines.intelligence.settings import FeedSource, PollSettings
from lead_coordinator.web.failures import failed
from lead_coordinator.web.fetch import Fetched
from lead_coordinator_tests.pipelines.intelligence.material import NOON, parsed

pytestmark = pytest.mark.anyio
SOURCE = FeedSource(url="https://a.example/feed", name="A")
EVERY = timedelta(minutes=30)


class Fetches:
    """Answers from a script; a callable is called, an exception raised."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers
        self.sent: list[dict[str, object]] = []

    async def get(self, url: str, **sent: object) -> Fetched:
        self.sent.append({"url": url} | sent)
        found = self.answers.get(url.split("/")[2].partition(".")[0])
        if isinstance(found, Exception):
            raise found
        if found == "hang":
            await asyncio.Event().wait()
        assert isinstance(found, Fetched)
        return found


class Reads:
    def __init__(self, found: ParsedFeed | Exception) -> None:
        self.found = found

    async def read(self, body: bytes, url: str, content_type: str = "") -> ParsedFeed:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


FEED = Reads(ParsedFeed("rss", "The Feed", (parsed("One"),)))


def ok(**headers: str) -> Fetched:
    return Fetched("u", "u", 200, headers, b"<rss/>")


async def poll_one(answer: object, state: FeedState | None = None, reader: Reads = FEED):
    fetches = Fetches(a=answer)
    known = {} if state is None else {SOURCE.url: state}
    (poll,) = await poll_feeds([SOURCE], known, PollSettings(), fetches, reader, NOON)
    return poll, fetches.sent[0]


async def test_a_feed_that_changed_gives_its_items_and_new_validators() -> None:
    poll, sent = await poll_one(ok(**{"etag": '"v2"', "last-modified": "Tue, 24 Nov 2026 10:00:00 GMT"}))
    assert sent == {"url": SOURCE.url, "etag": None, "last_modified": None, "max_bytes": 5_000_000}
    assert poll.outcome == "read"
    assert [one.title for one in poll.items] == ["One"]
    assert poll.state == FeedState(
        SOURCE.url,
        "The Feed",
        '"v2"',
        "Tue, 24 Nov 2026 10:00:00 GMT",
        polled_at=NOON,
        changed_at=NOON,
    )


async def test_a_feed_that_did_not_change_keeps_its_validators() -> None:
    before = FeedState(
        SOURCE.url, "T", '"v1"', "yesterday", NOON - EVERY, NOON - EVERY, failures=2, error="x"
    )
    before = FeedState(**{**vars(before), "polled_at": None})
    answer = Fetched("u", "u", 304, {}, not_modified=True)
    poll, sent = await poll_one(answer, before)
    assert (sent["etag"], sent["last_modified"]) == ('"v1"', "yesterday")
    assert (poll.outcome, poll.items) == ("unchanged", ())
    assert (poll.state.etag, poll.state.failures, poll.state.error) == ('"v1"', 0, "")
    assert poll.state.changed_at == before.changed_at


@pytest.mark.parametrize("value", ["bad\nheader", "é", "x" * 501, ""])
async def test_validators_that_cant_be_sent_back_are_dropped(value: str) -> None:
    poll, _ = await poll_one(ok(etag=value))
    assert poll.state.etag is None


@pytest.mark.parametrize(
    ("answer", "reader", "reason"),
    [
        (Fetched("u", "u", 503, {}), FEED, "it answered with status 503"),
        (failed("timeout", SOURCE.url, "no answer in 20 s"), FEED, "no answer in 20 s"),
        (ok(), Reads(NotAFeed("it is an HTML page, not a feed")), "it is an HTML page, not a feed"),
    ],
)
async def test_a_failure_is_counted_and_keeps_the_validators(
    answer: object, reader: Reads, reason: str
) -> None:
    before = FeedState(SOURCE.url, "T", '"v1"', failures=1)
    poll, _ = await poll_one(answer, before, reader)
    assert poll.outcome == "failed"
    assert reason in poll.state.error
    assert (poll.state.failures, poll.state.etag, poll.state.polled_at) == (2, '"v1"', NOON)


async def test_a_feed_that_hangs_costs_the_others_nothing() -> None:
    other = FeedSource(url="https://b.example/feed")
    settings = PollSettings(seconds=5).model_copy(update={"seconds": 0.05})
    slow, quick = await poll_feeds([SOURCE, other], {}, settings, Fetches(a="hang", b=ok()), FEED, NOON)
    assert (slow.outcome, quick.outcome) == ("failed", "read")
    assert "no time left" in slow.state.error


async def test_cancelling_a_round_leaves_nothing_running() -> None:
    before = asyncio.all_tasks()
    running = asyncio.ensure_future(poll_feeds([SOURCE], {}, PollSettings(), Fetches(a="hang"), FEED, NOON))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == before


async def test_what_isnt_due_isnt_asked() -> None:
    fetches = Fetches(a=ok())
    state = FeedState(SOURCE.url, polled_at=NOON - timedelta(minutes=29))
    assert await poll_feeds([SOURCE], {SOURCE.url: state}, PollSettings(), fetches, FEED, NOON) == []
    assert fetches.sent == []


@given(st.integers(0, 10**6), st.integers(1, 10_080), st.integers(0, 4 * 10_080))
def test_the_pause_grows_with_failures_up_to_a_day(failures: int, every: int, since: int) -> None:
    pause = timedelta(minutes=every)
    state = FeedState(SOURCE.url, polled_at=NOON - timedelta(minutes=since), failures=failures)
    longest = max(LONGEST_PAUSE, pause)
    if timedelta(minutes=since) < pause:
        assert not due(state, pause, NOON), "never sooner than the interval"
    if timedelta(minutes=since) >= longest:
        assert due(state, pause, NOON), "never later than a day"
    assert due(state, pause, NOON + longest)
    assert due(None, pause, NOON)
