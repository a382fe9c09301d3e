"""The briefing says what was found, and nothing in it is markup of a feed's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown import markdown
from selectolax.lexbor import LexborHTMLParser

from lead_coordinator.pipelines.intelligence.briefing import (
    Briefing,
    Link,
    RisingEntry,
    StoryEntry,
    TopicEntry,
    make_briefing,
)
from lead_coordinator.pipelines.intelligence.naming import StoryName
from lead_coordinator.pipelines.intelligence.pages import (
    as_html,
    as_markdown,
    escaped,
    safe_url,
    write_briefing,
)
from lead_coordinator.pipelines.intelligence.round import hold_round
from lead_coordinator.pipelines.intelligence.settings import FeedSource, IntelligenceSettings
from lead_coordinator.pipelines.intelligence.state import SiteState
from lead_coordinator_tests.pipelines.intelligence.material import NOON, parsed, read
from lead_coordinator_tests.pipelines.intelligence.test_hostile import check_html

EXTENSIONS = ["tables", "fenced_code"]
PIECES = [*"[]()!<>*_`#|~&:\\-+.1= \n\"'", "javascript:", "http://x", "<b>", "&#60;", "\\<"]
URLS = ["https://a.example/(x)", "javascript:alert(1)", "https://a.example/>](javascript:x)", ""]


def briefing_with(text: str, url: str = "https://a.example/") -> Briefing:
    link = Link(text, "24 November", text, url)
    return Briefing(
        title=text,
        opening=text,
        figures=text,
        topics=(TopicEntry(text, text, text, text, text, (text,), (link,)),),
        no_topics=text,
        rising=(RisingEntry(text, 3, "1.0", "3.0", "0.01"),),
        no_rising=text,
        stories=(StoryEntry(text, text, text, (link,)),),
        unread=(text,),
    )


def shown(html: str) -> str:
    body = LexborHTMLParser(html).body
    assert body is not None
    return " ".join(body.text(separator=" ").split())


@settings(deadline=None, max_examples=150)
@given(
    st.text(max_size=60) | st.lists(st.sampled_from(PIECES)).map("".join),
    st.sampled_from(URLS),
)
def test_nothing_that_a_feed_says_is_markup(text: str, url: str) -> None:
    briefing = briefing_with(text, url)
    check_html(as_html(briefing))
    made = markdown(as_markdown(briefing), extensions=EXTENSIONS)
    check_html(made)
    for node in LexborHTMLParser(made).css("a"):
        assert (node.attributes["href"] or "").startswith("https://a.example/")


@pytest.mark.parametrize(
    "text",
    [
        "plain words, a full stop. And a hyphen-ated one",
        "* not a list",
        "# no heading",
        "1. no number",
        "- no dash",
        "=== no line",
        "[no](link) ![no](image) <no@mail.example> <https://no.example>",
        "| no | table | &amp; no entity",
        "`no code` ~~~ --- === > no quotation",
        "**no** _emphasis_ \\* backslash",
    ],
)
def test_markdown_shows_the_text_as_it_is(text: str) -> None:
    assert shown(markdown(escaped(text), extensions=EXTENSIONS)) == " ".join(text.split())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example/x?y=1&z=(2)#t", "https://a.example/x?y=1&z=%282%29#t"),
        ("HTTP://a.example/", "HTTP://a.example/"),
        ("javascript:alert(1)", ""),
        ("//a.example", ""),
        ("https://a.example/>x\"'<", "https://a.example/%3Ex%22%27%3C"),
        ("https://[::1", ""),
    ],
)
def test_safe_url(url: str, expected: str) -> None:
    assert safe_url(url) == expected


SOURCES = [FeedSource(url=f"https://{name}.example/feed", name=name.title()) for name in ("alpha", "beta")]


def example_briefing(*, names: bool = False) -> Briefing:
    polls = [
        read(SOURCES[0], [parsed("Peat compost ban confirmed", hours=3), parsed("Tram opens", hours=5)]),
        read(SOURCES[1], [parsed("Peat compost ban worries growers", hours=2)]),
    ]
    found = hold_round(SiteState(), SOURCES, polls, IntelligenceSettings(feeds=tuple(SOURCES)), NOON)
    (proposal,) = found.proposals
    named = {proposal.story_id: StoryName("A named title", "What happened.")} if names else {}
    return make_briefing("main", found, named, {proposal.story_id: NOON}, opening="An opening.")


def test_a_briefing_says_what_was_found() -> None:
    briefing = example_briefing()
    assert briefing.title == "Briefing for main, 24 November 2026"
    assert briefing.figures.startswith("3 new items; 3 items of 2 feeds in 2 stories;")
    (topic,) = briefing.topics
    assert (topic.value, topic.status) == ("no value can be given", "submitted on 24 November")
    assert topic.basis.startswith("too little data")
    assert briefing.no_rising.startswith("Nothing can be said yet: 0 days of history")
    assert [story.about for story in briefing.stories] == [
        "2 items of 2 feeds, last at 24 November, 10:00.",
        "1 item of 1 feed, last at 24 November, 07:00.",
    ]
    html, text = shown(as_html(briefing)), as_markdown(briefing)
    for said in ("An opening.", topic.title, "Alpha, 24 November"):
        assert said in html
        assert escaped(said) in text


def test_names_of_a_model_are_shown() -> None:
    briefing = example_briefing(names=True)
    assert briefing.topics[0].title == briefing.stories[0].title == "A named title"
    assert briefing.stories[0].summary == "What happened."


def test_an_empty_round_has_a_briefing_too() -> None:
    found = hold_round(SiteState(), SOURCES, [], IntelligenceSettings(), NOON)
    html = as_html(make_briefing("main", found, {}, {}))
    assert "No story of the last days has an item." in html
    assert "No story is carried by enough feeds" in html


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    page = write_briefing(tmp_path, "main", NOON, briefing_with("first \ud800"))
    again = write_briefing(tmp_path, "main", NOON, briefing_with("second"))
    assert page == again == tmp_path / "briefings" / "main" / "2026-11-24.html"
    assert "second" in page.read_text()
    assert "first" not in page.read_text()
    assert sorted(path.name for path in page.parent.iterdir()) == ["2026-11-24.html", "2026-11-24.md"]
