"""What an intelligence task asks for: {"site": name, "feeds"?: [addresses or feeds], "standing"?: true}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.intelligence.settings import MAX_FEEDS, FeedSource, IntelligenceSettings

DEFAULT_SITE = "main"


@dataclass(frozen=True)
class Assignment:
    """What a task asks for. `forced`: poll these feeds now, whether they are due or not."""

    site: str
    sources: tuple[FeedSource, ...]
    forced: bool


def read_payload(payload: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
    """The site and the feeds that a payload names. Raises `InvalidInput`."""
    site = payload.get("site", DEFAULT_SITE)
    if not isinstance(site, str):
        raise InvalidInput(f"site: {site!r:.80} given, the name of a site is needed")
    feeds = payload.get("feeds", [])
    if not isinstance(feeds, list) or len(feeds) > MAX_FEEDS:
        raise InvalidInput(f"feeds: {feeds!r:.80} given, a list of up to {MAX_FEEDS} addresses is needed")
    return site, tuple(feeds)


def assign(site: str, feeds: Sequence[Any], settings: IntelligenceSettings) -> Assignment:
    """What is to be polled. Raises `InvalidInput`, also where there is nothing to poll."""
    configured = {source.url: source for source in settings.feeds}
    sources: dict[str, FeedSource] = {}
    for number, feed in enumerate(feeds):
        if isinstance(feed, str) and feed in configured:
            source = configured[feed]
        else:
            try:
                source = FeedSource.model_validate({"url": feed} if isinstance(feed, str) else feed)
            except ValidationError as error:
                first = error.errors(include_url=False, include_context=False)[0]
                raise InvalidInput(
                    f"feeds[{number}]: {feed!r:.80} given: {first['msg'].removeprefix('Value error, ')}"
                ) from None
        sources[source.url] = source
    if not sources and not configured:
        raise InvalidInput(
            f"feeds: site {site} watches none; give it some with `lead-coordinator site apply` "
            "(intelligence.feeds), or name them in the task"
        )
    return Assignment(site, tuple(sources.values()) or settings.feeds, bool(sources))
