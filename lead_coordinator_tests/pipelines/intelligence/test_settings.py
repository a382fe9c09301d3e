"""Settings have defaults, bounds, and errors that name field, value and what is allowed; so have payloads."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.intelligence.assignment import assign, read_payload
from lead_coordinator.pipelines.intelligence.settings import FeedSource, IntelligenceSettings

FEED = "https://a.example/feed"
SETTINGS = IntelligenceSettings(feeds=(FeedSource(url=FEED, name="A", competitor=True),))


def test_every_knob_has_a_default() -> None:
    assert IntelligenceSettings().feeds == ()
    assert IntelligenceSettings.model_validate({}) == IntelligenceSettings()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"feeds": [{"url": FEED}, {"url": FEED}]}, r"feeds\[1\].url: https://a.example/feed is there twice"),
        ({"feeds": [{"url": FEED, "ours": True, "competitor": True}]}, "can't both be true"),
        ({"feeds": [{"url": "ftp://a.example/"}]}, "must be a web address"),
        ({"feeds": [{"url": "https://a.example/\u202e"}]}, "match pattern"),
        ({"bursts": {"false_alarm_rate": 0}}, "greater than 0"),
        ({"topics": {"assumed_value_usd": -1}}, "greater than or equal to 0"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_what_is_wrong_is_refused(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        IntelligenceSettings.model_validate(section)


def test_a_task_without_feeds_polls_those_of_the_profile_that_are_due() -> None:
    found = assign(*read_payload({"site": "main", "standing": True}), SETTINGS)
    assert (found.site, found.sources, found.forced) == ("main", SETTINGS.feeds, False)


def test_a_task_that_names_feeds_polls_them_now() -> None:
    found = assign(*read_payload({"feeds": [FEED, "https://b.example/f"]}), SETTINGS)
    assert found.forced
    assert [source.competitor for source in found.sources] == [True, False], "the profile knows the first"
    found = assign(*read_payload({"feeds": [{"url": FEED, "name": "B"}]}), SETTINGS)
    assert found.sources[0].name == "B"


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"site": 5}, "site: 5 given, the name of a site is needed"),
        ({"feeds": "x"}, "feeds: 'x' given, a list of up to 200 addresses is needed"),
        ({"feeds": [FEED] * 201}, "a list of up to 200 addresses is needed"),
        ({"feeds": ["no address"]}, r"feeds\[0\]: 'no address' given"),
        ({"feeds": [7]}, r"feeds\[0\]: 7 given"),
        ({"feeds": [{"url": FEED, "secret": 1}]}, r"feeds\[0\]: .* given"),
    ],
)
def test_a_payload_that_is_wrong_is_refused(payload: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        assign(*read_payload(payload), SETTINGS)


def test_a_site_that_watches_nothing_says_what_to_do() -> None:
    with pytest.raises(InvalidInput, match="site main watches none; give it some with"):
        assign("main", (), IntelligenceSettings())
