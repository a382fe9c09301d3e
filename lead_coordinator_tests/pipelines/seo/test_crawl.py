"""The crawl against servers that misbehave politely, sitemaps, and what is kept of what was seen."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.seo.audit import first_pages, live_address, storable
from lead_coordinator.pipelines.seo.crawl import crawl_slice
from lead_coordinator.pipelines.seo.evaluate import Evaluation, Finding
from lead_coordinator.pipelines.seo.facts import Page, Visit, to_json
from lead_coordinator.pipelines.seo.findings import (
    MAX_EVIDENCE,
    MAX_FIXES,
    article_slugs,
    bounded,
    counts,
    fix_tasks,
)
from lead_coordinator.pipelines.seo.parse import parse_page
from lead_coordinator.pipelines.seo.settings import SeoSettings
from lead_coordinator.pipelines.seo.sitemap import read_sitemap
from lead_coordinator.pipelines.seo.visit import Found, Site, Waiting, visit
from lead_coordinator.web.fetch import Fetcher
from lead_coordinator.web.robots import read_robots
from lead_coordinator_tests.pipelines.seo.material import LOCAL, MemoryFrontier, audited, policy
from lead_coordinator_tests.web.server import Asked, WireServer, answer, redirect

# No test looks at the clock, not even by Hypothesis's own deadline.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PAGE = "<html lang=en><head><title>A page of this test site</title></head><body><h1>Page</h1>{}</body></html>"


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer().running() as running:
        yield running


async def visited(server: WireServer, path: str, kind: Any = "page", **settings: Any) -> Any:
    chosen = SeoSettings(**(LOCAL.model_dump() | settings))
    async with Fetcher(policy(chosen)) as fetcher:
        return await visit(fetcher, Site(server.url, chosen), Waiting(1, server.url + path, kind, 0))


# ---- visiting --------------------------------------------------------------------------------------------


async def test_a_page_leads_to_pages_resources_and_elsewhere(server: WireServer) -> None:
    server.routes["/"] = answer(
        PAGE.format(
            '<a href="/a">a</a><a href="/a#part">a again</a><a href="http://localhost:1/x">out</a>'
            '<img src="/i.png"><script src="/s.js"></script><a href="/cart/1">cart</a>'
        )
    )
    one = await visited(server, "/", exclude_paths=("/cart",))
    found = {(item.url.removeprefix(server.url), item.kind) for item in one.found}
    assert found == {
        ("/a", "page"),
        ("http://localhost:1/x", "external"),
        ("/i.png", "image"),
        ("/s.js", "asset"),
    }


@pytest.mark.parametrize("said", ["nofollow", "noindex, nofollow", "none"])
async def test_nofollow_is_obeyed(server: WireServer, said: str) -> None:
    meta = f'<meta name="robots" content="{said}"><a href="/a">a</a>'
    server.routes["/"] = answer(PAGE.format(meta))
    one = await visited(server, "/")
    assert [item.kind for item in one.found] == ["link"], "its links are looked at, not followed"


async def test_a_redirect_is_one_address_and_its_end_another(server: WireServer) -> None:
    server.routes |= {"/old": redirect("/new"), "/new": answer(PAGE)}
    one = await visited(server, "/old")
    assert one.page.html is None
    assert [(item.url.removeprefix(server.url), item.kind) for item in one.found] == [("/new", "page")]


async def test_a_slow_page_is_measured_again_and_the_lowest_counts(server: WireServer) -> None:
    async def page(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if server.targets().count("/") == 1:
            await asyncio.sleep(0.2)
        writer.write(answer(PAGE))
        await writer.drain()

    server.routes["/"] = page
    one = await visited(server, "/", max_ttfb_ms=100)
    assert server.targets().count("/") == 2
    assert one.page.visit.ttfb_ms < 200, "the second answer wasn't slow"


@pytest.mark.parametrize(
    ("routes", "kind", "status", "size", "asked"),
    [
        ({"/x": answer("y" * 900)}, "image", 200, 900, ["HEAD"]),
        ({}, "external", 404, 8, ["HEAD", "GET"]),
    ],
)
async def test_what_is_only_looked_at(
    server: WireServer, routes: dict[str, bytes], kind: Any, status: int, size: int, asked: list[str]
) -> None:
    server.routes |= routes
    one = await visited(server, "/x", kind)
    assert (one.page.visit.status, one.page.visit.bytes) == (status, size)
    assert [request.method for request in server.asked if request.target == "/x"] == asked


async def test_a_server_that_doesnt_speak_head_is_asked_with_get(server: WireServer) -> None:
    async def only_get(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("", "405 Method Not Allowed") if asked.method == "HEAD" else answer("fine"))
        await writer.drain()

    server.routes["/x"] = only_get
    assert (await visited(server, "/x", "external")).page.visit.status == 200


async def test_where_a_site_really_lies(server: WireServer) -> None:
    server.routes |= {"/": redirect("/en/"), "/en/": answer(PAGE), "/out": redirect("http://localhost:1/")}
    async with Fetcher(policy(LOCAL)) as fetcher:
        assert await live_address(fetcher, server.url + "/") == server.url + "/en/"
        assert await live_address(fetcher, server.url + "/out") == server.url + "/out"


# ---- slices ----------------------------------------------------------------------------------------------


async def test_a_slice_that_runs_out_of_time_leaves_the_rest_waiting(server: WireServer) -> None:
    """Two pages answer, two never do: what was finished is kept, what wasn't is asked for again next time."""
    never = asyncio.Event()

    async def hang(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await never.wait()

    for name in ("a", "b"):
        server.routes[f"/{name}"] = answer(PAGE)
        server.routes[f"/{name}-hangs"] = hang
    frontier = MemoryFrontier()
    for path in ("/a", "/a-hangs", "/b", "/b-hangs"):
        frontier.add(Found(server.url + path, "page", 1))
    async with Fetcher(policy(LOCAL)) as fetcher:
        done = await crawl_slice(fetcher, Site(server.url, LOCAL), frontier, seconds_left=lambda: 0.5)
    assert (done.visited, done.waiting) == (2, 2)
    assert sorted(url.removeprefix(server.url) for url in frontier.waiting) == ["/a-hangs", "/b-hangs"]
    for name in ("a", "b"):
        server.routes[f"/{name}-hangs"] = answer(PAGE)
    async with Fetcher(policy(LOCAL)) as fetcher:
        done = await crawl_slice(fetcher, Site(server.url, LOCAL), frontier, seconds_left=lambda: 60.0)
    assert (done.visited, done.waiting) == (2, 0)
    assert server.targets().count("/a") == 1


async def test_robots_are_obeyed_by_a_whole_audit(server: WireServer) -> None:
    server.routes |= {
        "/robots.txt": answer("User-agent: *\nDisallow: /private", content_type="text/plain"),
        "/": answer(PAGE.format('<a href="/private/a">secret</a><a href="/open">open</a>')),
        "/open": answer(PAGE),
    }
    _, frontier = await audited(server.url + "/")
    assert "/private/a" not in server.targets()
    assert frontier.pages[server.url + "/private/a"].visit.failure == "robots"


async def test_an_unreadable_robots_txt_stops_the_audit(server: WireServer) -> None:
    server.routes |= {"/robots.txt": answer("", "503 Service Unavailable"), "/": answer(PAGE)}
    evaluation, _ = await audited(server.url + "/")
    assert {finding.rule for finding in evaluation.findings} == {"robots-invalid"}
    assert evaluation.unread
    assert "robots.txt" in evaluation.reason
    assert set(server.targets()) == {"/robots.txt"}


# ---- the beginning ---------------------------------------------------------------------------------------


def test_an_audit_begins_with_the_home_page_and_its_sitemaps() -> None:
    text = b"Sitemap: https://h.example/a.xml\nSitemap: https://other.example/b.xml\nSitemap: /c.xml"
    robots = read_robots("https://h.example/robots.txt", "x", 200, text)
    begun = first_pages("https://H.example", (), robots)
    assert [(row["url"], row["kind"]) for row in begun.pages] == [
        ("https://h.example/", "page"),
        ("https://h.example/a.xml", "sitemap"),
    ]
    assert [row["url"] for row in first_pages("https://h.example", (), None).pages][1].endswith(
        "/sitemap.xml"
    )


@pytest.mark.parametrize(
    "url",
    ["javascript:x", "https://elsewhere.example/", "https://h.example:0/", "https://h.example/" + "x" * 2001],
)
def test_pages_that_arent_the_sites_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        first_pages("https://h.example/", (url,), None)


# ---- sitemaps --------------------------------------------------------------------------------------------

BASE = "https://h.example/sitemap.xml"


def urlset(*paths: str) -> bytes:
    urls = "".join(f"<url><loc> https://h.example{path} </loc></url>" for path in paths)
    return f'<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{urls}</urlset>'.encode()


def read(body: bytes, **limits: int) -> Any:
    return read_sitemap(body, BASE, **({"max_urls": 100, "max_bytes": 100_000} | limits))


@pytest.mark.parametrize(
    ("body", "pages"),
    [
        (urlset("/a", "/b", "/a"), ["/a", "/b"]),
        (gzip.compress(urlset("/a")), ["/a"]),
        (b"\xef\xbb\xbf" + urlset("/a"), ["/a"]),
        (b"https://h.example/a\nhttps://h.example/b\n", ["/a", "/b"]),
        (urlset("/a").replace(b"https://h.example/a", b"https://elsewhere.example/a"), []),
        (urlset("/a&amp;b"), ["/a&b"]),
    ],
)
def test_sitemaps_that_can_be_read(body: bytes, pages: list[str]) -> None:
    found = read(body)
    assert found.facts.problem == ""
    assert [url.removeprefix("https://h.example") for url in found.pages] == pages


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html></html>",
        b"not a sitemap",
        urlset("/a")[:-20],
        b"\x1f\x8bgarbage",
        b'<!DOCTYPE x [<!ENTITY a "b">]><urlset/>',
        b"<urlset>" + b"<a>" * 50 + b"</a>" * 50 + b"</urlset>",
    ],
)
def test_sitemaps_that_cant(body: bytes) -> None:
    assert read(body).facts.problem


def test_a_sitemap_index_names_sitemaps() -> None:
    body = b"<sitemapindex><sitemap><loc>https://h.example/one.xml</loc></sitemap></sitemapindex>"
    found = read(body)
    assert (found.sitemaps, found.pages, found.facts.is_index) == (["https://h.example/one.xml"], [], True)


def test_a_sitemap_is_read_up_to_its_limit() -> None:
    found = read(urlset(*(f"/{n}" for n in range(500))), max_urls=100)
    assert (len(found.pages), found.facts.urls) == (100, 101)
    packed = gzip.compress(urlset(*(f"/{n}" for n in range(5000))))
    assert read(packed, max_urls=10_000, max_bytes=1000).facts.bytes == 1001, "it is unpacked to the limit"


@UNHURRIED
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"<urlset>", b"<urlset><url><loc>", b"\x1f\x8b", b"http://"]),
)
def test_no_sitemap_fails(body: bytes, start: bytes) -> None:
    found = read(start + body)
    assert all(url.startswith("https://h.example/") for url in found.pages)


# ---- findings --------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=2000),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=9), inner, max_size=5),
    max_leaves=30,
)


@UNHURRIED
@given(st.dictionaries(st.text(max_size=20), json_values, max_size=10), st.lists(json_values, max_size=30))
def test_evidence_is_bounded_whatever_it_is(evidence: dict[str, Any], samples: list[Any]) -> None:
    made = bounded({**evidence, "samples": samples, "count": len(samples)})
    text = json.dumps(made)
    assert len(text) <= MAX_EVIDENCE
    assert "\\u0000" not in text
    json.dumps(made).encode()


@UNHURRIED
@given(json_values)
def test_what_is_stored_has_nothing_that_postgresql_refuses(value: Any) -> None:
    text = json.dumps(storable({"x": value}), ensure_ascii=False)
    assert "\0" not in text
    text.encode()


def critical(number: int, rule: str = "title-missing", opened: int = 1) -> dict[str, Any]:
    return {"finding_id": number, "url": f"https://h.example/a{number}", "rule": rule, "times_opened": opened}


def evaluation(*rules: tuple[int, str, dict[str, Any]]) -> Evaluation:
    found = tuple(
        Finding(f"https://h.example/a{n}", rule, "critical", evidence) for n, rule, evidence in rules
    )
    return Evaluation(found, {}, None, 0, ())


def test_fix_tasks_are_for_articles_that_a_writer_can_mend() -> None:
    articles = article_slugs(
        [("https://h.example/a1/", "a1"), ("http://h.example/a2", "a2"), ("https://h.example/a4", "a4")]
    )
    found = evaluation(
        (1, "title-missing", {}),
        (2, "http-status", {"status": 404}),
        (3, "title-missing", {}),
        (4, "http-status", {"status": 503}),
    )
    new = [critical(1), critical(2, "http-status", 3), critical(3), critical(4, "http-status")]
    tasks = fix_tasks("main", new, articles, found)
    assert [task.idempotency_key for task in tasks] == ["fix:main:1:1", "fix:main:2:3"]
    assert tasks[0].payload["fix"]["slug"] == "a1"
    assert tasks[0].task_type == "content_generation"


def test_fix_tasks_are_bounded() -> None:
    numbers = range(3 * MAX_FIXES)
    articles = article_slugs((f"https://h.example/a{n}", f"a{n}") for n in numbers)
    found = evaluation(*((n, "title-missing", {}) for n in numbers))
    assert len(fix_tasks("main", [critical(n) for n in numbers], articles, found)) == MAX_FIXES


def test_counts_are_by_severity() -> None:
    found = evaluation((1, "title-missing", {}), (2, "http-status", {}))
    assert counts(found)["findings"] == {"critical": 2, "error": 0, "warning": 0, "notice": 0}
    assert replace(found, findings=()).findings == ()


def test_the_facts_of_any_page_fit_into_a_row() -> None:
    many = "".join(
        f'<a href="/{n}/{"x" * 1000}">{"y" * 300}</a><img src="/{n}{"z" * 1000}">' for n in range(900)
    )
    page = parse_page(PAGE.format(many), "https://h.example/")
    assert page.link_count == 900, "all are counted"
    assert page.links, "the first are kept"
    facts = to_json(Page("https://h.example/", "page", Visit("https://h.example/"), page))
    assert len(json.dumps(facts)) < 600_000
