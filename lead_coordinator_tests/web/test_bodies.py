"""Bodies within a bound, robots.txt within reason, and pages as text."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lead_coordinator.web.decoding import BoundedBody, TooLarge, Undecodable
from lead_coordinator.web.page import charset, content_type, is_html, main_text, text_of
from lead_coordinator.web.robots import product_token, read_robots

# No test looks at the clock, not even by Hypothesis's own deadline.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@UNHURRIED
@given(
    body=st.binary(max_size=5000),
    cut=st.integers(1, 700),
    how=st.sampled_from(["", "identity", "gzip", "deflate", "bare deflate", "two members"]),
    spare=st.integers(0, 50),
)
def test_a_body_comes_out_as_it_went_in(body: bytes, cut: int, how: str, spare: int) -> None:
    bare = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": lambda: gzip.compress(body),
        "deflate": lambda: zlib.compress(body),
        "bare deflate": lambda: bare.compress(body) + bare.flush(),
        "two members": lambda: gzip.compress(body[:99]) + gzip.compress(body[99:]),
    }.get(how, lambda: body)()
    name = {"bare deflate": "deflate", "two members": "gzip"}.get(how, how)
    collected = BoundedBody(name, max(len(body), len(packed)) + spare)
    for start in range(0, len(packed), cut):
        collected.feed(packed[start : start + cut])
    assert collected.finish() == body
    assert collected.received_bytes == len(packed)


@UNHURRIED
@given(body=st.binary(min_size=1, max_size=3000), short=st.integers(1, 3000), packed=st.booleans())
def test_what_is_longer_is_refused_or_cut(body: bytes, short: int, packed: bool) -> None:
    most = max(0, len(body) - short)
    sent, name = (gzip.compress(body), "gzip") if packed else (body, "")
    with pytest.raises(TooLarge):
        BoundedBody(name, most).feed(sent)
    cut = BoundedBody(name, most, truncate=True)
    cut.feed(sent)
    assert (cut.finish(), cut.full) == (body[:most], True)


@pytest.mark.parametrize("sent", [b"garbage", gzip.compress(b"x" * 100, mtime=0)[:-9]])
def test_what_isnt_gzip_is_undecodable(sent: bytes) -> None:
    def unpack() -> bytes:
        collected = BoundedBody("gzip", 1000)
        collected.feed(sent)
        return collected.finish()

    with pytest.raises(Undecodable):
        unpack()


# ---- robots.txt ------------------------------------------------------------------------------------------


def test_ten_thousand_agents_with_ten_thousand_rules_are_few_rules() -> None:
    text = "\n".join(f"User-agent{':' if n % 2 else ''} bot{n}" for n in range(10_000))
    text += "\n" + "\n".join(f"Disallow: /{n}" for n in range(10_000)) + "\nUser-agent: *\nDisallow: /mine"
    robots = read_robots("http://h/robots.txt", "LeadCoordinator/1", 200, text.encode())
    assert robots._rules is not None
    assert len(robots._rules._user_agents) <= 2, "agents that aren't us share one set of rules"
    assert robots.allows("http://h/7")
    assert not robots.allows("http://h/mine/x")


def test_our_own_group_wins_over_everybodys() -> None:
    text = b"User-agent: *\nDisallow: /\n\nUser-Agent: other\nUSER AGENT: leadcoordinator # us\n"
    text += b"Allow: /\nCrawl-delay: 3"
    robots = read_robots("http://h/robots.txt", "LeadCoordinator/1.2 (+x)", 200, text)
    assert robots.allows("http://h/a")
    assert robots.crawl_delay == 3


@UNHURRIED
@given(st.binary(max_size=400))
def test_no_robots_txt_fails(body: bytes) -> None:
    robots = read_robots("http://h/robots.txt", "LeadCoordinator/1", 200, body)
    assert robots.allows("http://h/page") in (True, False)
    assert robots.allows("http://h/robots.txt")


def test_the_product_token() -> None:
    assert product_token("LeadCoordinator/0.3 (+https://example.org)") == "leadcoordinator"


# ---- pages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "body", "codec"),
    [
        ("text/html; charset=utf-8", b"x", "utf-8"),
        ("text/html; charset=ISO-8859-1", b"x", "cp1252"),
        ("text/html", b"\xef\xbb\xbfx", "utf-8"),
        ("text/html", b"\xff\xfex\0", "utf-16-le"),
        ("text/html", b'<meta charset="shift_jis">', "cp932"),
        ("text/html", b'<meta charset="utf-16">', "utf-8"),
        ("text/html", b'<?xml version="1.0" encoding="koi8-r"?>', "koi8-r"),
        ("text/html", "é".encode(), "utf-8"),
        ("text/html", b"\xe9t\xe9 is not UTF-8", "cp1252"),
        ("text/html; charset=utf-7", b"x", "utf-8"),
        ("text/html; charset=rot13", b"x", "utf-8"),
        ("text/html; charset=zlib_codec", b"x", "utf-8"),
        ("text/html; charset=../../etc", b"x", "utf-8"),
    ],
)
def test_the_charset(header: str, body: bytes, codec: str) -> None:
    assert charset({"content-type": header}, body) == codec


@UNHURRIED
@given(st.binary(max_size=200), st.text(max_size=60))
def test_any_body_is_text(body: bytes, header: str) -> None:
    assert isinstance(text_of({"content-type": header}, body), str)
    assert isinstance(content_type({"content-type": header}), str)
    assert is_html({}, body) in (True, False)


def test_the_main_text_leaves_the_furniture_out() -> None:
    article = "<p>" + "Tomatoes want warm soil and a deep drink of water once a week in summer. " * 8 + "</p>"
    page = "<html><body><nav><a href=/>Home</a> <a href=/x>Menu entry</a></nav><article><h1>Tomatoes</h1>"
    page += f"{article}</article><footer>Imprint</footer></body></html>"
    text = main_text(page, "http://example.org/a")
    assert "Tomatoes want warm soil" in text
    assert "Menu entry" not in text


@pytest.mark.parametrize(
    "page",
    [
        "",
        "   ",
        "\0\0\0",
        "<" * 50_000,
        "<div>" * 20_000 + "deep",
        "<!-- " + "x" * 50_000,
        "<p " + "a=b " * 20_000,
    ],
    ids=["empty", "blank", "nulls", "brackets", "deep", "comment", "attributes"],
)
def test_the_main_text_of_what_is_none(page: str) -> None:
    assert isinstance(main_text(page, "http://example.org/"), str)
