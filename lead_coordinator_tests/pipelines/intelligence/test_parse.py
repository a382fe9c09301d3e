"""Feeds are read whatever their dialect and state."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lead_coordinator.pipelines.intelligence.parse import NotAFeed, ParsedItem, parse_feed

URL = "https://news.example/feed"


def rss(items: str, version: str = "2.0") -> bytes:
    return f'<rss version="{version}"><channel><title>News</title>{items}</channel></rss>'.encode()


DIALECTS = {
    "RSS 0.91": '<rss version="0.91"><channel><title>News</title><item>{parts}</item></channel></rss>',
    "RSS 1.0": '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/"'
    ' xmlns:dc="http://purl.org/dc/elements/1.1/"><channel><title>News</title></channel>'
    '<item rdf:about="https://a.example/1">{parts}</item></rdf:RDF>',
    "RSS 2.0": '<rss version="2.0" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    ' xmlns:content="http://purl.org/rss/1.0/modules/content/"><channel><title>News</title>'
    "<item>{parts}</item></channel></rss>",
    "Atom 0.3": '<feed version="0.3" xmlns="http://purl.org/atom/ns#"><title>News</title>'
    "<entry>{parts}</entry></feed>",
    "Atom 1.0": '<feed xmlns="http://www.w3.org/2005/Atom"><title>News</title><entry>{parts}</entry></feed>',
}
TITLE = "<title>One</title>"
LINK = "<link>https://a.example/1</link>"
HREF = '<link rel="alternate" href="https://a.example/1"/>'


@pytest.mark.parametrize(
    ("dialect", "parts"),
    [
        ("RSS 0.91", f"{TITLE}{LINK}<description>Said</description>"),
        ("RSS 1.0", f"{TITLE}{LINK}<description>Said</description><dc:date>2026-11-24T08:00:00Z</dc:date>"),
        ("RSS 2.0", f"{TITLE}{LINK}<description>Said</description><dc:date>2026-11-24T08:00Z</dc:date>"),
        (
            "RSS 2.0",
            f"{TITLE}{LINK}<description/><content:encoded><![CDATA[<b>Said</b>]]></content:encoded>"
            "<pubDate>24 Nov 2026 03:00 EST</pubDate>",
        ),
        ("Atom 0.3", f"{TITLE}{HREF}<content>Said</content><issued>2026-11-24T09:00:00+01:00</issued>"),
        ("Atom 1.0", f"{TITLE}{HREF}<summary>Said</summary><updated>2026-11-24T08:00:00.5Z</updated>"),
        (
            "Atom 1.0",
            f'{TITLE}{HREF}<content type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml"><p>Said</p></div>'
            "</content><published>2026-11-24T08:00:00Z</published><updated>2026-11-25T08:00:00Z</updated>",
        ),
    ],
)
def test_every_dialect_is_read(dialect: str, parts: str) -> None:
    feed = parse_feed(DIALECTS[dialect].format(parts=parts).encode(), URL)
    assert (feed.kind, feed.title, feed.malformed) == (dialect.partition(" ")[0].lower(), "News", "")
    (item,) = feed.items
    assert (item.title, item.url, item.text) == ("One", "https://a.example/1", "Said")
    dated = dialect != "RSS 0.91"
    assert item.published == (datetime(2026, 11, 24, 8, tzinfo=UTC) if dated else None)


def test_rss_items_have_all_their_parts() -> None:
    feed = parse_feed(
        rss(
            "<item><title>Peat &amp;amp; &lt;b&gt;soil&lt;/b&gt;</title><link>/a?x=1#top</link>"
            '<guid isPermaLink="false">g-1</guid><pubDate>Tue, 24 Nov 2026 08:30:00 +0100</pubDate>'
            "<category>Garden</category><category>Garden</category><description>&lt;p&gt;One&lt;/p&gt;"
            "&lt;script&gt;x&lt;/script&gt;&lt;p&gt;two&lt;/p&gt;</description></item>"
        ),
        URL,
    )
    assert feed.items == (
        ParsedItem(
            guid="g-1",
            url="https://news.example/a?x=1",
            title="Peat & soil",
            text="One two",
            published=datetime(2026, 11, 24, 7, 30, tzinfo=UTC),
            categories=("Garden",),
        ),
    )
    assert (feed.kind, feed.title, feed.malformed) == ("rss", "News", "")


def test_the_longest_text_of_an_item_counts() -> None:
    feed = parse_feed(
        b'<feed xmlns="http://www.w3.org/2005/Atom"><title>A</title><entry><id>1</id><title>T</title>'
        b'<summary>Short.</summary><content type="html">&lt;p&gt;The whole text.&lt;/p&gt;</content>'
        b"</entry></feed>",
        URL,
    )
    assert feed.kind == "atom"
    assert feed.items[0].text == "The whole text."


def test_json_feed() -> None:
    entry = {
        "id": 7,
        "url": "/seven",
        "title": "Seven",
        "content_html": "<p>Text</p>",
        "date_published": "2026-11-24T08:00:00+02:00",
        "tags": ["a", "a", 3],
    }
    body = json.dumps({"version": "https://jsonfeed.org/version/1.1", "title": "J", "items": [entry, 5]})
    feed = parse_feed(b"\xef\xbb\xbf " + body.encode(), URL)
    assert (feed.kind, feed.title, feed.malformed) == ("json", "J", "")
    assert feed.items == (
        ParsedItem(
            "7",
            "https://news.example/seven",
            "Seven",
            "Text",
            datetime(2026, 11, 24, 6, tzinfo=UTC),
            ("a",),
        ),
    )


@pytest.mark.parametrize("kind", ["rss", "atom"])
def test_only_so_many_items_are_read_and_the_rest_isnt_malformed(kind: str) -> None:
    if kind == "rss":
        body = rss("".join(f"<item><title>n {n}</title></item>" for n in range(50)))
    else:
        entries = "".join(f"<a:entry><a:title>n {n}</a:title></a:entry>" for n in range(50))
        body = f'<a:feed xmlns:a="http://www.w3.org/2005/Atom">{entries}</a:feed>'.encode()
    feed = parse_feed(body, URL, max_items=10)
    assert [item.title for item in feed.items] == [f"n {n}" for n in range(10)]
    assert feed.malformed == ""
    assert len(parse_feed(body, URL, max_items=50).items) == 50


def test_a_malformed_feed_is_read_and_said_to_be_malformed() -> None:
    feed = parse_feed(b"<rss><channel><item><title>Salt & pepper</title></item><item><title>Next", URL)
    assert feed.malformed
    assert "Salt & pepper" in [item.title for item in feed.items]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b" \n\xef\xbb\xbf", "empty"),
        (b"<!DOCTYPE html><html><body>x</body></html>", "an HTML page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "neither RSS nor Atom"),
        (b"just text", "neither XML nor JSON"),
        (b"{", "begins like JSON"),
        (b"[1]", "without a list of items"),
        (b'{"items": {}}', "without a list of items"),
    ],
)
def test_what_is_no_feed_says_what_it_is(body: bytes, reason: str) -> None:
    with pytest.raises(NotAFeed, match=reason):
        parse_feed(body, URL)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("javascript:alert(1)", ""),
        ("mailto:x@y.example", ""),
        ("https://user:pw@evil.example/", ""),
        ("//other.example/x", "https://other.example/x"),
        ('https://a.example/"x', "https://a.example/%22x"),
        ("https://[::1", ""),
        ("https://a.example/" + "x" * 3000, ""),
        ("", ""),
    ],
)
def test_links_are_http_or_nothing(link: str, expected: str) -> None:
    body = json.dumps({"items": [{"title": "t", "url": link}]}).encode()
    assert parse_feed(body, URL).items[0].url == expected


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_feed_or_said_to_be_none(body: bytes) -> None:
    try:
        feed = parse_feed(body, URL)
    except NotAFeed:
        return
    assert all(item.title or item.text for item in feed.items)


@settings(deadline=None, max_examples=100)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["items", "title", "id", "url", "tags", "content_html", "date_published"]),
                inner,
            )
        ),
        max_leaves=20,
    )
)
def test_any_json_is_a_feed_or_said_to_be_none(value: object) -> None:
    try:
        feed = parse_feed(json.dumps({"items": [value], "title": value}).encode(), URL)
    except NotAFeed:
        return
    for item in feed.items:
        assert ParsedItem.from_json(json.loads(json.dumps(item.as_json()))) == item
