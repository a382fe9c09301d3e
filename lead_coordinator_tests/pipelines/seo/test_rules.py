"""Every rule by an example that has the fault, and by a page without any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lead_coordinator.pipelines.seo.evaluate import evaluate, how_to_fix
from lead_coordinator.pipelines.seo.facts import Kind, Page, SitemapFacts, Visit, page_from_json, to_json
from lead_coordinator.pipelines.seo.parse import parse_page
from lead_coordinator.pipelines.seo.rules import BY_ID, RULES, SEVERITIES
from lead_coordinator.pipelines.seo.score import WEIGHTS, page_score, site_score
from lead_coordinator.pipelines.seo.settings import SeoSettings
from lead_coordinator.web.robots import read_robots
from lead_coordinator_tests.pipelines.seo import rules_table

# No test looks at the clock, not even by Hypothesis's own deadline.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

HOME = "https://garden.example/"
URL = "https://garden.example/tomatoes"
TEXT = " ".join(f"Tomato number {n} likes warm soil and a deep drink." for n in range(30))
OTHER_TEXT = " ".join(f"Bean number {n} climbs on a thin string in May." for n in range(30))
TITLE = "<title>Tomatoes that ripen in a cold summer</title>"
DESCRIPTION = (
    '<meta name="description" content="How we grow tomatoes outdoors in a cold summer: which sorts, where to '
    'plant them, and what to do in September.">'
)
CANONICAL = '<link rel="canonical" href="https://garden.example/tomatoes">'
VIEWPORT = '<meta name="viewport" content="width=device-width, initial-scale=1">'
GRAPH = "".join(f'<meta property="og:{name}" content="x">' for name in ("title", "image", "url"))
IMAGE = '<img src="/a.png" alt="A ripe tomato" width="10" height="10">'
LINK = '<a href="/">Everything about the garden</a>'
GOOD = (
    f'<!doctype html><html lang="en"><head>{TITLE}{DESCRIPTION}{CANONICAL}{VIEWPORT}{GRAPH}</head>'
    "<body><main>"
    f"<h1>Tomatoes</h1><h2>Why</h2><p>{TEXT}</p>{IMAGE}{LINK}</main></body></html>"
)
HSTS = {"hsts": "max-age=31536000"}


def html_page(html: str = GOOD, url: str = URL, *, in_sitemap: bool = False, **visit: Any) -> Page:
    told = Visit(url=url, final_url=url, status=200, bytes=len(html), content_type="text/html", **HSTS)
    return Page(url, "page", replace(told, **visit), parse_page(html, url), in_sitemap=in_sitemap)


def seen(url: str, kind: Kind = "page", *, in_sitemap: bool = False, **visit: Any) -> Page:
    """An address without a page."""
    return Page(
        url, kind, Visit(url=url, **({"final_url": url, "status": 200} | visit)), in_sitemap=in_sitemap
    )


def home(links: Sequence[str] = (URL,)) -> Page:
    head = GOOD.replace("Tomatoes that ripen in", "The home page of").replace("How we grow", "All about")
    made = head.replace("/tomatoes", "/").replace(TEXT, OTHER_TEXT)
    anchors = "".join(f'<a href="{one}">The way to a page</a>' for one in links)
    return replace(html_page(made.replace("</main>", f"{anchors}</main>"), HOME), wanted=True)


def findings(*pages: Page, robots: str | None = None, **settings: Any) -> set[tuple[str, str]]:
    """(address, rule) of the pages, beside a home page that links to the first."""
    site = list(pages) if any(page.url == HOME for page in pages) else [home(), *pages]
    said = (
        None
        if robots is None
        else read_robots(f"{HOME}robots.txt", "LeadCoordinator/1", 200, robots.encode())
    )
    evaluation = evaluate(lambda: site, HOME, SeoSettings(**settings), robots=said)
    return {(finding.url, finding.rule) for finding in evaluation.findings}


def of(url: str, found: set[tuple[str, str]]) -> set[str]:
    return {rule for one, rule in found if one == url}


def test_a_good_page_has_no_finding() -> None:
    assert findings(html_page()) == set()


@dataclass(frozen=True)
class Example:
    """A page with one fault. `what`: the rules that see it (a fault may be several)."""

    rule: str
    html: str = GOOD
    visit: tuple[tuple[str, Any], ...] = ()
    url: str = URL
    in_sitemap: bool = False
    others: tuple[Page, ...] = ()
    also: tuple[str, ...] = ()


def without(part: str) -> str:
    assert part in GOOD
    return GOOD.replace(part, "")


def with_head(more: str) -> str:
    return GOOD.replace("</head>", f"{more}</head>")


def with_body(more: str) -> str:
    return GOOD.replace("</main>", f"{more}</main>")


def alternate(code: str, url: str = URL) -> str:
    return f'<link rel="alternate" hreflang="{code}" href="{url}">'


BEANS = "https://garden.example/beans"
SELF = alternate("en") + alternate("x-default")
ELSEWHERE = GOOD.replace(CANONICAL, f'<link rel="canonical" href="{BEANS}">')
OTHER = GOOD.replace("/tomatoes", "/beans").replace(TITLE, "<title>Beans that climb on a string</title>")
OTHER = OTHER.replace("How we grow tomatoes", "How we grow beans and peas")
PLAIN = "http://garden.example/tomatoes"

EXAMPLES = [
    Example(
        "noindex",
        with_head('<meta name="robots" content="noindex">'),
        in_sitemap=True,
        also=("sitemap-non-indexable",),
    ),
    Example(
        "noindex",
        visit=(("robots_header", "googlebot: noindex, nofollow"),),
        in_sitemap=True,
        also=("sitemap-non-indexable",),
    ),
    Example("canonical-missing", without(CANONICAL)),
    Example("canonical-multiple", with_head(CANONICAL)),
    Example("canonical-relative", GOOD.replace(CANONICAL, '<link rel="canonical" href="/tomatoes">')),
    Example("canonical-target", ELSEWHERE, others=(seen(BEANS, hops=((BEANS, 301, HOME),), final_url=HOME),)),
    Example("canonical-target", ELSEWHERE, others=(seen(BEANS, status=404),)),
    Example("canonical-target", ELSEWHERE, others=(seen(BEANS, status=None, failure="dns"),), also=()),
    Example(
        "canonical-target",
        ELSEWHERE,
        others=(
            html_page(
                OTHER.replace("</head>", '<meta name="robots" content="none"></head>').replace(
                    TEXT, OTHER_TEXT + " and peas"
                ),
                BEANS,
            ),
        ),
    ),
    Example(
        "canonical-target",
        ELSEWHERE,
        others=(html_page(OTHER.replace('href="https://garden.example/beans"', f'href="{HOME}"'), BEANS),),
    ),
    Example("canonical-conflict", visit=(("link_header", f'<{HOME}>; rel="canonical"'),)),
    Example("sitemap-non-indexable", ELSEWHERE, in_sitemap=True),
    Example("hreflang-invalid", with_head(SELF + alternate("en-UK"))),
    Example("hreflang-invalid", with_head(SELF + alternate("english"))),
    Example("hreflang-invalid", with_head(SELF + '<link rel="alternate" hreflang="de" href="">')),
    Example("hreflang-invalid", with_head(SELF + alternate("en", HOME)), also=("hreflang-no-return",)),
    Example("hreflang-no-return", with_head(SELF + alternate("de", HOME))),
    Example("hreflang-no-self", with_head(alternate("x-default", "https://garden.example/nowhere"))),
    Example("hreflang-no-default", with_head(alternate("en"))),
    Example("lang-invalid", GOOD.replace(' lang="en"', "")),
    Example("lang-invalid", GOOD.replace(' lang="en"', ' lang="en-UK"')),
    Example("lang-invalid", GOOD.replace(' lang="en"', ' lang="xx"')),
    Example("title-missing", without(TITLE)),
    Example("title-missing", GOOD.replace(TITLE, "<title> </title>")),
    Example("title-multiple", with_head("<title>Another title for the page</title>")),
    Example("title-short", GOOD.replace(TITLE, "<title>" + "x" * 19 + "</title>")),
    Example("title-long", GOOD.replace(TITLE, "<title>" + "x" * 61 + "</title>")),
    Example("description-missing", without(DESCRIPTION)),
    Example(
        "description-short", GOOD.replace(DESCRIPTION, f'<meta name="description" content="{"x" * 79}">')
    ),
    Example(
        "description-long", GOOD.replace(DESCRIPTION, f'<meta name="description" content="{"x" * 161}">')
    ),
    Example("h1-missing", GOOD.replace("<h1>Tomatoes</h1>", "")),
    Example("h1-missing", GOOD.replace("<h1>Tomatoes</h1>", "<h1> </h1>")),
    Example("heading-order", with_body("<h4>Deep</h4>")),
    Example("heading-order", GOOD.replace("<h1>Tomatoes</h1><h2>Why</h2>", "<h2>Why</h2><h1>Tomatoes</h1>")),
    Example("thin-content", GOOD.replace(TEXT, "Too little to read. " * 3)),
    Example(
        "broken-internal-link",
        with_body('<a href="/gone">The page that went</a>'),
        others=(seen("https://garden.example/gone", status=404),),
    ),
    Example(
        "broken-internal-link",
        with_body('<a href="/loop">The page in a circle</a>'),
        others=(seen("https://garden.example/loop", "link", status=None, failure="redirect_loop"),),
    ),
    Example(
        "broken-external-link",
        with_body('<a href="https://other.example/gone">Their page</a>'),
        others=(seen("https://other.example/gone", "external", status=410),),
    ),
    Example(
        "broken-external-link",
        with_body('<a href="https://no.example/">Their page</a>'),
        others=(seen("https://no.example/", "external", status=None, failure="dns"),),
    ),
    Example(
        "redirected-link",
        with_body('<a href="/old">The page that moved</a>'),
        others=(
            seen(
                "https://garden.example/old",
                hops=(("https://garden.example/old", 301, HOME),),
                final_url=HOME,
            ),
        ),
    ),
    Example("uncrawlable-link", with_body('<a href="javascript:open()">Open the menu of it</a>')),
    Example("uncrawlable-link", with_body('<a onclick="go()">Go to the garden</a>')),
    Example("uncrawlable-link", with_body('<a href="#" onclick="go()">Go to the garden</a>')),
    Example("generic-anchor", with_body('<a href="/">Click here!</a>')),
    Example(
        "generic-anchor", with_body('<a href="/"><img src="/b.png" alt="More" width="1" height="1"></a>')
    ),
    Example("too-many-links", with_body('<a href="/">The garden again</a>' * 100)),
    Example("no-links", without(LINK)),
    Example("alt-missing", GOOD.replace(' alt="A ripe tomato"', "")),
    Example("alt-long", GOOD.replace("A ripe tomato", "x" * 101)),
    Example("image-large", others=(seen("https://garden.example/a.png", "image", bytes=500_001),)),
    Example("image-dimensions", GOOD.replace(' width="10"', "")),
    Example("jsonld-unparsable", with_body('<script type="application/ld+json">{"@type": </script>')),
    Example(
        "jsonld-unparsable", with_body('<script type="application/ld+json">{"name": "no type"}</script>')
    ),
    Example(
        "jsonld-incomplete",
        with_body('<script type="application/ld+json">{"@graph":[{"@type":"Product","name":"x"}]}</script>'),
    ),
    Example("open-graph-missing", GOOD.replace('<meta property="og:image" content="x">', "")),
    Example("slow-response", visit=(("ttfb_ms", 801),)),
    Example("dom-size", with_body("<i>x</i>" * 1500)),
    Example(
        "page-weight",
        others=(seen("https://garden.example/a.png", "image", bytes=2_600_001),),
        also=("image-large",),
    ),
    Example("viewport-missing", without(VIEWPORT)),
    Example("viewport-missing", GOOD.replace("width=device-width, initial-scale=1", "user-scalable=no")),
    Example("mixed-content", with_body('<script src="http://cdn.example/x.js"></script>')),
    Example("mixed-content", with_body('<iframe src="http://cdn.example/x"></iframe>')),
    Example("insecure-form", with_body('<form action="http://forms.example/x"></form>')),
    Example("plain-http", GOOD.replace("https://garden.example/tomatoes", PLAIN), url=PLAIN),
    Example(
        "url-format", GOOD.replace("/tomatoes", "/red_tomatoes"), url=URL.replace("tomatoes", "red_tomatoes")
    ),
    Example(
        "url-format",
        GOOD.replace("/tomatoes", "/red%20tomatoes"),
        url=URL.replace("tomatoes", "red%20tomatoes"),
    ),
    Example(
        "url-format", GOOD.replace("/tomatoes", "//tomatoes"), url=URL.replace("/tomatoes", "//tomatoes")
    ),
    Example(
        "title-duplicate",
        others=(
            html_page(
                OTHER.replace("<title>Beans that climb on a string</title>", TITLE).replace(
                    TEXT, OTHER_TEXT + " x y z"
                ),
                BEANS,
            ),
        ),
    ),
    Example(
        "description-duplicate",
        others=(
            html_page(
                OTHER.replace("How we grow beans and peas", "How we grow tomatoes").replace(
                    TEXT, "Peas " * 200
                ),
                BEANS,
            ),
        ),
    ),
    Example("duplicate-content", others=(html_page(OTHER, BEANS),)),
    Example("near-duplicate", others=(html_page(OTHER.replace("number 7", "number seven"), BEANS),)),
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.rule)
def test_a_page_with_a_fault_has_that_finding_and_no_other(example: Example) -> None:
    page = html_page(example.html, example.url, in_sitemap=example.in_sitemap, **dict(example.visit))
    site = [home((example.url, BEANS)), page, *example.others]
    found = of(example.url, findings(*site))
    assert found == {example.rule, *example.also}


@pytest.mark.parametrize(
    ("page", "rule"),
    [
        (seen(URL, status=404, in_sitemap=True), "http-status"),
        (seen(URL, status=503), "http-status"),
        (seen(URL, status=None, failure="timeout", reason="slow"), "http-status"),
        (seen(URL, hops=((URL, 301, BEANS), (BEANS, 302, HOME)), final_url=HOME), "redirect-chain"),
        (seen(URL, status=None, failure="redirect_loop"), "redirect-loop"),
        (seen(URL, "link", status=None, failure="too_many_redirects"), "redirect-loop"),
        (seen(URL, status=None, failure="robots", in_sitemap=True), "robots-blocked"),
        (seen(URL, status=None, failure="too_large", bytes=50_000_000), "page-weight"),
        (seen(URL, hops=((URL, 301, HOME),), final_url=HOME, in_sitemap=True), "sitemap-non-indexable"),
        (replace(seen(URL, "sitemap"), sitemap=SitemapFacts(urls=50_001)), "sitemap-too-large"),
        (replace(seen(URL, "sitemap"), sitemap=SitemapFacts(bytes=52_428_801)), "sitemap-too-large"),
        (replace(seen(URL, "sitemap"), sitemap=SitemapFacts(problem="no XML")), "sitemap-invalid"),
        (replace(seen(URL, "sitemap", status=404), wanted=True), "sitemap-invalid"),
    ],
)
def test_an_address_with_a_fault(page: Page, rule: str) -> None:
    assert rule in of(URL, findings(page))


@pytest.mark.parametrize(
    "page",
    [
        seen(URL, status=404),
        seen(URL, "external", status=500),
        seen(URL, "link", status=404),
        seen(URL, hops=((URL, 301, HOME),), final_url=HOME),
        seen(URL, status=None, failure="robots"),
        seen(URL, status=None, failure="forbidden_address"),
        seen(URL, "sitemap", status=404),
        replace(seen(URL, "sitemap"), sitemap=SitemapFacts(urls=50_000, bytes=52_428_800)),
        seen(URL, content_type="application/pdf"),
    ],
)
def test_an_address_without_a_fault(page: Page) -> None:
    assert of(URL, findings(page)) == set()


@pytest.mark.parametrize(
    "html",
    [
        with_head('<meta name="robots" content="noindex">'),  # no sitemap lists it: it may be meant
        GOOD.replace(TITLE, "<title>" + "x" * 20 + "</title>"),
        GOOD.replace(TITLE, "<title>" + "x" * 60 + "</title>"),
        GOOD.replace(DESCRIPTION, f'<meta name="description" content="{"x" * 80}">'),
        GOOD.replace(DESCRIPTION, f'<meta name="description" content="{"x" * 160}">'),
        GOOD.replace("A ripe tomato", ""),
        GOOD.replace("A ripe tomato", "x" * 100),
        with_body("<svg><title>A picture</title></svg>"),
        with_body('<a href="mailto:a@b.example">Write</a><a href="#top">Up</a><a name="top"></a>'),
        with_body('<form action="/search"></form>'),
        with_body('<a href="http://other.example/">Another garden</a>'),
        with_body(
            '<script type="application/ld+json">{"@type":"Organization","name":"x","url":"y"}</script>'
        ),
        with_body("<h3>Below</h3><h2>Back up</h2>"),
        with_head(SELF),
        GOOD.replace(' lang="en"', ' lang="zh-Hant-TW"'),
        GOOD.replace(' width="10" height="10"', ' style="aspect-ratio: 1"'),
    ],
)
def test_what_looks_like_a_fault_and_is_none(html: str) -> None:
    assert of(URL, findings(html_page(html))) == set()


def test_orphans_and_depth() -> None:
    chain = [f"https://garden.example/step{n}" for n in range(1, 7)]

    def step(number: int) -> Page:
        more = f'<a href="{chain[number + 1]}">The next step</a>' if number < 5 else ""
        html = (
            with_body(more)
            .replace("/tomatoes", f"/step{number + 1}")
            .replace("Tomatoes that", f"Step {number} that")
        )
        html = html.replace(TEXT, " ".join(f"Word {number}-{n} is said here." for n in range(60)))
        return html_page(html.replace("How we grow", f"In step {number} we grow"), chain[number])

    alone = html_page(in_sitemap=True)
    found = findings(home((chain[0],)), *(step(number) for number in range(6)), alone)
    assert found == {(URL, "orphan"), (chain[4], "deep-page"), (chain[5], "deep-page")}


def test_an_incomplete_crawl_finds_no_orphans() -> None:
    pages = [home(()), html_page(in_sitemap=True)]
    assert not {f.rule for f in evaluate(lambda: pages, HOME, complete=False).findings}


def test_the_home_page_needs_hsts() -> None:
    bare = replace(home(), visit=replace(home().visit, hsts=""))
    assert of(HOME, findings(bare, html_page())) == {"hsts-missing"}
    zero = replace(home(), visit=replace(home().visit, hsts="max-age=0"))
    assert of(HOME, findings(zero, html_page())) == {"hsts-missing"}


@pytest.mark.parametrize(
    ("text", "faulty"),
    [
        (
            "User-agent: *\nDisallow: /private/\nAllow: /\n\nSitemap: https://garden.example/sitemap.xml\n",
            False,
        ),
        ("# nothing\n", False),
        ("User-agent: *\nDisallow:\nCrawl-delay: 3", False),
        ("Disallow: /", True),
        ("User-agent: *\nDisallow: private", True),
        ("User-agent: *\nDissalow: /x", True),
        ("Sitemap: /sitemap.xml", True),
        ("<html>not here</html>", True),
    ],
)
def test_robots(text: str, faulty: bool) -> None:
    found = of(f"{HOME}robots.txt", findings(html_page(), robots=text))
    assert found == ({"robots-invalid"} if faulty else set())


# ---- settings, scores, shapes ----------------------------------------------------------------------------


def test_a_disabled_rule_finds_nothing_and_thresholds_count() -> None:
    untitled = html_page(without(TITLE))
    assert findings(untitled, disabled_rules=("title-missing",)) == set()
    assert of(URL, findings(html_page(), title_min=50, min_words=1000)) == {"title-short", "thin-content"}


def test_every_rule_says_what_is_wrong_and_how_to_mend_it() -> None:
    assert len(RULES) == len(BY_ID) >= 40, "the names are unique"
    for rule in RULES:
        assert rule.severity in SEVERITIES
        assert (rule.page_check is None) != (rule.site_check is None)
        assert how_to_fix(rule.id) == rule.fix
        assert rule.fix.endswith(".")
        assert not rule.about.endswith(".")
    assert how_to_fix("no-such-rule") == ""


def test_every_rule_has_an_example() -> None:
    tables = {example.rule for example in EXAMPLES}
    elsewhere = {
        "http-status", "redirect-chain", "redirect-loop", "robots-blocked", "sitemap-too-large",
        "sitemap-invalid", "orphan", "deep-page", "hsts-missing", "robots-invalid",
    }  # fmt: skip
    assert {rule.id for rule in RULES} == tables | elsewhere


@UNHURRIED
@given(st.lists(st.sampled_from(SEVERITIES), max_size=30), st.sampled_from(SEVERITIES))
def test_a_further_finding_never_betters_a_score(severities: list[Any], more: Any) -> None:
    before, after = page_score(severities), page_score([*severities, more])
    assert 0 <= after <= before <= 100
    assert after == max(0, 100 - sum(WEIGHTS[one] for one in [*severities, more]))


@UNHURRIED
@given(
    st.dictionaries(st.text(max_size=5), st.integers(0, 100), max_size=20),
    st.lists(st.sampled_from(SEVERITIES), max_size=5),
)
def test_the_site_score_lies_between(pages: dict[str, int], elsewhere: list[Any]) -> None:
    score = site_score(pages, elsewhere)
    if not pages:
        assert score is None
    else:
        assert 0 <= score <= round(max(pages.values()), 1)
        assert site_score(pages) >= score


@UNHURRIED
@given(
    st.text(max_size=300),
    st.lists(
        st.sampled_from(
            [
                "<a href=",
                "<img src=",
                "<title>",
                "</title>",
                "<h1>",
                "<meta name=",
                ">",
                "\0",
                "'",
                '"',
                "<!--",
                "<svg>",
                "é",
                "\ud800",
            ]
        ),
        max_size=40,
    ),
)
def test_any_html_is_parsed_and_its_facts_come_back_as_they_were(text: str, pieces: list[str]) -> None:
    page = html_page(text + "".join(pieces) + text)
    back = page_from_json(URL, "page", to_json(page))
    assert back == page
    findings(page)


@UNHURRIED
@given(
    st.permutations(
        [home(), html_page(), html_page(OTHER, BEANS), seen("https://garden.example/x", status=404)]
    )
)
def test_the_order_of_pages_decides_nothing(pages: list[Page]) -> None:
    found = evaluate(lambda: pages, HOME)
    assert found == evaluate(lambda: sorted(pages, key=lambda one: one.url), HOME)


def test_the_documentation_names_every_rule() -> None:
    text = rules_table.PAGE.read_text(encoding="utf-8")
    command = "python -m lead_coordinator_tests.pipelines.seo.rules_table"
    assert rules_table.written(text) == text, f"docs/SEO.md is behind the rules: {command}"
    for severity, weight in WEIGHTS.items():
        assert f"{severity} {weight}" in text, "the weights as documented"
