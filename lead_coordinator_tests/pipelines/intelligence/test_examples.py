"""What is planted in examples/feeds/ is found, all of it, and nothing else."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from runpy import run_path

import pytest

from lead_coordinator.cli.site_file import read_profiles
from lead_coordinator.pipelines.intelligence.coverage import Article
from lead_coordinator.pipelines.intelligence.parse import parse_feed
from lead_coordinator.pipelines.intelligence.replay import as_of
from lead_coordinator.pipelines.intelligence.round import Round, hold_round
from lead_coordinator.pipelines.intelligence.settings import (
    FeedSource,
    IntelligenceSettings,
    TopicSettings,
)
from lead_coordinator.pipelines.intelligence.state import SiteState, StoredProposal
from lead_coordinator_tests.pipelines.intelligence.material import (
    COMPETITORS,
    EXAMPLES,
    FEEDS,
    NOON,
    read,
    truth,
)

OURS = Article("Greenhouse bubble wrap: what it saves", "https://ours.example/", "", NOON)
SETTINGS = IntelligenceSettings(topics=TopicSettings(assumed_value_usd=2))


def example_round(now: datetime, state: SiteState | None = None) -> Round:
    sources, polls = [], []
    for path in sorted(FEEDS.iterdir()):
        source = FeedSource(url=f"https://feeds.example/{path.name}", competitor=path.name in COMPETITORS)
        feed = parse_feed(as_of(path.read_text(), NOON, now).encode(), source.url)
        assert bool(feed.malformed) == (path.name in truth()["malformed"])
        sources.append(source)
        polls.append(read(source, feed.items))
    return hold_round(state or SiteState(articles=(OURS,)), sources, polls, SETTINGS, now)


@pytest.mark.parametrize(
    "now",
    [NOON, datetime(2027, 3, 1, 0, 5, tzinfo=UTC), datetime(2028, 2, 29, 23, 58, tzinfo=UTC)],
    ids=["as recorded", "just after midnight", "just before midnight"],
)
def test_all_that_is_planted_is_found_and_nothing_else(now: datetime) -> None:
    found, expected = example_round(now), truth()
    assert len(found.new) == expected["items"]
    assert sorted(burst.term for burst in found.bursts.bursts) == sorted(expected["rising"])

    several = [one for one in found.covered if len(one.items) > 1]
    assert len(several) == len(expected["stories"])
    for planted in expected["stories"]:
        (one,) = (one for one in several if set(planted["words"]) <= set(one.story.words))
        assert [len(one.feeds), len(one.items), one.gap] == [planted[k] for k in ("feeds", "items", "gap")]

    titles = {item.identity: item.title for item in found.new}
    pairs = [[titles[item.duplicate_of], item.title] for item in found.new if item.duplicate_of]
    assert pairs == expected["near_duplicates"]

    covered = [one for one in found.covered if one.covered]
    assert [one.items[0].title for one in covered] == ["Greenhouse bubble wrap compared with fleece"]
    assert len(found.proposals) == expected["proposals"]
    assert all(proposal.submit for proposal in found.proposals)
    assert found.proposals[0].title == "Peat compost: what is known so far"


def test_a_round_is_the_same_each_time() -> None:
    assert example_round(NOON) == example_round(NOON)


def test_a_story_that_was_submitted_is_never_submitted_again() -> None:
    first = example_round(NOON)
    stored = {
        one.story_id: StoredProposal(one.story_id, one.title, one.value_usd, {}, NOON)
        for one in first.proposals
    }
    state = SiteState(items=first.new, stories=first.changed, proposals=stored, articles=(OURS,))
    later = example_round(NOON, state)
    assert later.new == ()
    assert [one.story_id for one in later.proposals] == [one.story_id for one in first.proposals]
    assert Counter(one.submit for one in later.proposals) == {False: len(stored)}


def test_only_so_many_are_submitted_a_round_the_best_first() -> None:
    limited = IntelligenceSettings(topics=TopicSettings(assumed_value_usd=2, max_submitted=1))
    first = example_round(NOON)
    found = hold_round(
        SiteState(articles=(OURS,)), [p.source for p in first.polls], first.polls, limited, NOON
    )
    assert [one.submit for one in found.proposals] == [True, False, False]


def test_what_is_older_than_the_window_is_left_alone() -> None:
    found = example_round(NOON)
    late = hold_round(
        SiteState(), [p.source for p in found.polls], found.polls, SETTINGS, NOON + timedelta(days=60)
    )
    assert (late.new, late.covered, late.proposals) == ((), (), ())


def test_the_example_profile_watches_these_feeds() -> None:
    profile = read_profiles(EXAMPLES / "site.yaml")[0]
    watched = {feed.url.rpartition("/")[2]: feed.competitor for feed in profile.intelligence.feeds}
    assert watched == {path.name: path.name in COMPETITORS for path in FEEDS.iterdir()}
    assert profile.intelligence.topics.assumed_value_usd == 2


def test_the_examples_are_what_their_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run_path(str(EXAMPLES / "make_feeds.py"))
    monkeypatch.setitem(made["main"].__globals__, "FOLDER", tmp_path)
    made["main"]()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        path.name: path.read_text() for path in FEEDS.iterdir()
    }
