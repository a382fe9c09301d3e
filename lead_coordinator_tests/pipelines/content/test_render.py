"""Pages: safe whatever the model wrote, and complete for readers and search engines."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import markdown
import pytest
import yaml
from hypothesis import example, given, settings
from markdown_it import MarkdownIt

from lead_coordinator.pipelines.content.article import Article, ArticleSection, build_article
from lead_coordinator.pipelines.content.brief import Brief
from lead_coordinator.pipelines.content.links import OwnArticle
from lead_coordinator.pipelines.content.markup import html_problems
from lead_coordinator.pipelines.content.render import (
    Page,
    body_html,
    markdown_to_html,
    render_html,
    render_markdown,
)
from lead_coordinator.pipelines.content.schemas import EditedArticle
from lead_coordinator.pipelines.content.text import clean_markdown
from lead_coordinator_tests.pipelines.content.material import DESCRIPTION, article, body, edited
from lead_coordinator_tests.pipelines.content.test_article import EDITED
from lead_coordinator_tests.pipelines.content.test_text import MARKUP

WHEN = datetime(2026, 11, 24, 5, 30, tzinfo=UTC)
ALLOWED = {
    "html",
    "head",
    "meta",
    "title",
    "link",
    "script",
    "style",
    "body",
    "header",
    "nav",
    "a",
    "main",
    "article",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "p",
    "time",
    "ol",
    "ul",
    "li",
    "footer",
    "blockquote",
    "pre",
    "code",
    "em",
    "strong",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "br",
    "hr",
}


class Tags(HTMLParser):
    """Every tag with its attributes, the text of scripts, and the whole text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self._open = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self._open == "script" else self.text).append(data)

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def attributes(self, tag: str, name: str) -> list[str]:
        return [attrs[name] or "" for t, attrs in self.tags if t == tag and name in attrs]

    def meta(self, key: str, name: str) -> str | None:
        return next((a["content"] for t, a in self.tags if t == "meta" and a.get(key) == name), None)


def page(of: Article | None = None, **changes: Any) -> Page:
    values: dict[str, Any] = {
        "article": of or article(),
        "task_id": 7,
        "slug": "water-once-a-week",
        "url": "https://example.org/articles/water-once-a-week.html",
        "site_title": "Garden & Home",
        "home": "../",
        "published_at": WHEN,
        "sandbox": False,
        "provenance": {"models": ["gemini-2.5-flash-lite"], "cost_usd": "0.0011"},
    }
    return Page(**(values | changes))


def assert_safe(html: str) -> None:
    found = Tags(html)
    assert {tag for tag, _ in found.tags} <= ALLOWED
    scripts = [attrs for tag, attrs in found.tags if tag == "script"]
    assert all(attrs == {"type": "application/ld+json"} for attrs in scripts), (
        "no script but the structured data"
    )
    for tag, attrs in found.tags:
        assert not [
            name for name in attrs if name.startswith("on") or name in ("src", "srcdoc", "formaction")
        ], tag
        href = (attrs.get("href") or "#").lower()
        assert ":" not in href or href.startswith(("http://", "https://", "mailto:")), (
            f"{tag} links to {href}"
        )


def test_a_page_has_what_search_engines_and_readers_need() -> None:
    html = render_html(page())
    found = Tags(html)
    assert_safe(html)
    assert html.startswith("<!doctype html>")
    assert found.attributes("html", "lang") == ["en"]
    assert found.meta("name", "viewport") == "width=device-width, initial-scale=1"
    assert found.meta("name", "description") == DESCRIPTION
    assert found.meta("property", "og:type") == "article"
    assert found.meta("property", "og:url") == "https://example.org/articles/water-once-a-week.html"
    canonical = [a["href"] for t, a in found.tags if t == "link" and a.get("rel") == "canonical"]
    assert canonical == ["https://example.org/articles/water-once-a-week.html"]
    headings = [tag for tag, _ in found.tags if tag in ("h1", "h2", "h3")]
    assert headings == ["h1"] + ["h2"] * 6, "one h1, then the sections"
    anchors = [a for a in found.attributes("a", "href") if a.startswith("#")]
    assert [f"#{anchor}" for anchor in found.attributes("h2", "id")] == anchors
    data = json.loads("".join(found.scripts))
    assert data["@type"] == "Article"
    assert data["headline"] == "Water Once a Week"
    assert data["datePublished"] == "2026-11-24T05:30:00+00:00"
    assert data["wordCount"] == page().article.words
    assert "Sandbox text" not in html


def test_sandbox_text_is_marked_in_both_forms() -> None:
    assert "Sandbox text" in render_html(page(sandbox=True))
    markdown = render_markdown(page(sandbox=True))
    assert "> Sandbox text" in markdown
    assert "\nsandbox: true\n" in markdown


def test_markdown_has_front_matter_that_yaml_reads() -> None:
    title = 'Quotes: "a" #b\u2028'
    markdown = render_markdown(page(replace(article(), title=title, keyword="--- x")))
    _, front, text = markdown.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["title"] == title
    assert matter["keyword"] == "--- x"
    assert matter["slug"] == "water-once-a-week"
    assert matter["task_id"] == 7
    assert matter["cost_usd"] == "0.0011"
    assert matter["date"] == WHEN or matter["date"] == WHEN.isoformat()
    assert text.count("\n## ") == 6
    assert '# Quotes: "a" \\#b' in text


def test_html_in_titles_is_shown_and_not_obeyed() -> None:
    title = '</title><script>alert("1")</script> & <b>'
    html = render_html(
        page(replace(article(), title=title, seo_title=title, sections=(ArticleSection(title, "text"),)))
    )
    assert_safe(html)
    found = Tags(html)
    assert title in found.text, "the h1 shows the title as it was written"
    assert json.loads("".join(found.scripts))["headline"] == title
    markdown = render_markdown(page(replace(article(), title=title)))
    assert "<script>" not in markdown.split("---\n", 2)[2]


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[x](javascript:alert(1))",
        "[x](jav&#x09;ascript:alert(1))",
        "[x](&#106;avascript:alert(1))",
        "[x](//evil.example/x)",
        "<svg><script>1</script></svg>",
        "[x][1]\n\n[1]: data:text/html,<script>1</script>",
        "![x](http://tracker.example/pixel.gif)",
        "</article></main><h1>mine</h1>",
        "<!--\n-->\n<style>*{display:none}</style>",
        "<a href='https://ok.example' onmouseover='x'>y</a>",
        "# mine\n\nmine\n====",
    ],
)
def test_hostile_markdown_ends_safe_even_uncleaned(text: str) -> None:
    hostile = replace(article(), introduction=text, sections=(ArticleSection("One", text),))
    html = render_html(page(hostile))
    assert_safe(html)
    assert [tag for tag, _ in Tags(html).tags].count("h1") == 1


@settings(max_examples=60)
@given(MARKUP)
def test_any_markup_ends_safe(text: str) -> None:
    html = markdown_to_html(text)
    assert_safe(html)
    assert not {"h1", "h2", "img", "script", "style"} & {tag for tag, _ in Tags(html).tags}


@settings(max_examples=300, deadline=None)
@given(MARKUP)
@example("![![]](http://tracker.example/x.png)")
@example("`a\n- <script> ` b")
@example("\\<b></b>`<script>`")
@example("~~~\n```\n~~~\n<script>\n```")
def test_the_markdown_file_is_safe_with_a_parser_that_obeys_html(text: str) -> None:
    cleaned = clean_markdown(text)
    for html in (markdown.markdown(cleaned, extensions=["fenced_code"]), MarkdownIt().render(cleaned)):
        assert_safe(html)
        assert not {"script", "img", "svg", "style"} & {tag for tag, _ in Tags(html).tags}, cleaned


@settings(max_examples=40, deadline=None)
@given(EDITED)
def test_any_answer_ends_in_a_safe_page_and_a_readable_file(answer: EditedArticle) -> None:
    made = page(build_article(Brief(title="t"), answer), slug="t")
    assert_safe(render_html(made))
    front = render_markdown(made).split("---\n", 2)[1]
    assert yaml.safe_load(front)["slug"] == "t"


@pytest.mark.parametrize(
    "text", ["[" * 20_000, "[a](" * 5_000, "> " * 9_000, "*" * 20_000, "`" * 19_999, "![" * 10_000]
)
def test_text_made_to_keep_a_parser_busy_is_rendered_at_once(text: str) -> None:
    # Unbounded, the first takes over a minute: the test's own timeout would end it.
    assert_safe(markdown_to_html(text))


def test_equal_headings_get_anchors_of_their_own() -> None:
    twice = (ArticleSection("Why", "a"), ArticleSection("Why", "b"), ArticleSection("WHY!", "c"))
    assert Tags(render_html(page(replace(article(), sections=twice)))).attributes("h2", "id") == [
        "why",
        "why-2",
        "why-3",
    ]


# ---- links, sources, revisions -----------------------------------------------------------------------------


def with_links() -> Article:
    ours = [
        OwnArticle("Our <first>", "https://our.example/1"),
        OwnArticle("Our *second*", "https://our.example/2"),
    ]
    intro = "Read [ours](https://our.example/1) and [theirs](https://src.example/a). " + body(80, "x")
    return build_article(
        Brief(title="t"), edited(introduction=intro), links=ours, sources=("https://src.example/a",)
    )


def test_links_to_our_own_articles_are_followed_and_others_are_not() -> None:
    html = render_html(page(with_links()))
    assert_safe(html)
    assert html_problems(html) == []
    assert '<a href="https://our.example/1">ours</a>' in html
    assert '<a href="https://src.example/a" rel="noopener noreferrer nofollow">theirs</a>' in html
    assert '<li><a href="https://our.example/2">Our *second*</a></li>' in html, (
        "not used in the text: read next"
    )
    assert "Our &lt;first&gt;" not in html, "used in the text, it isn't told again"
    data = json.loads(html.split('<script type="application/ld+json">')[1].split("</script>")[0])
    assert data["citation"] == ["https://src.example/a"]
    text = render_markdown(page(with_links()))
    assert "## Read next\n\n- [Our \\*second\\*](https://our.example/2)" in text
    assert "## Sources\n\n- <https://src.example/a>" in text


def test_a_revision_says_when_it_changed() -> None:
    later = datetime(2026, 12, 1, 8, tzinfo=UTC)
    html = render_html(page(updated_at=later))
    data = json.loads(html.split('<script type="application/ld+json">')[1].split("</script>")[0])
    assert (data["datePublished"], data["dateModified"]) == (
        "2026-11-24T05:30:00+00:00", "2026-12-01T08:00:00+00:00",
    )  # fmt: skip
    front = yaml.safe_load(render_markdown(page(updated_at=later)).split("---\n")[1])
    assert front["modified"] == "2026-12-01T08:00:00+00:00"


def test_no_level_of_headings_is_left_out() -> None:
    html = markdown_to_html("# A\n\n###### B\n\n## C\n\n#### D\n\n##### E")
    assert re.findall(r"<h(\d)>", html) == ["3", "4", "3", "4", "5"]


def test_the_body_alone_is_for_other_targets() -> None:
    html = body_html(with_links())
    assert html_problems(html, whole_page=False) == []
    assert "<h2>Part 1 of Water Once a Week</h2>" in html
    assert "<html" not in html
    assert '<li><a href="https://our.example/2">Our *second*</a></li>' in html
    hostile = replace(with_links(), further=(OwnArticle("<b>x</b>", 'javascript:alert("1")'),))
    assert "javascript" not in body_html(hostile) + render_html(page(hostile))
