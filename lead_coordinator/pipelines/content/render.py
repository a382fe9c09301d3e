"""An article as Markdown with front matter and as a page of HTML. Safe whatever the model wrote.

Three walls stand between a model's text and a reader's browser: raw HTML is no Markdown here (it is shown as
text), the HTML that Markdown makes passes a whitelist (nh3), and everything else reaches the page through an
autoescaping template. The page's own Content-Security-Policy, which allows no script at all, is the fourth.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import markdown
import nh3
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor
from markupsafe import Markup, escape

from lead_coordinator.pipelines.content.article import Article
from lead_coordinator.pipelines.content.links import linked
from lead_coordinator.pipelines.content.text import safe_link, slugify

if TYPE_CHECKING:
    from markdown import Markdown

_TAGS = {
    "p", "br", "hr", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "em", "strong",
    "a", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
_ATTRIBUTES = {"a": {"href", "title", "rel"}, "ol": {"start"}}
# Markdown takes time in the square of them (20,000: 79 s). No section of an article has more; where one
# has, they become parentheses.
_BRACKETS_MAX = 500
FURTHER = "Read next"
SOURCES = "Sources"
_MARKDOWN_SPECIAL = str.maketrans(
    {c: f"\\{c}" for c in "\\`*_[]#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


@dataclass(frozen=True)
class Page:
    """An article where it is published.

    `home` is the way from the page to the root of its site, such as `../`. `sandbox` marks text that no
    language model wrote. `provenance` goes into the front matter: what made the article. `updated_at`: when
    this revision came out.
    """

    article: Article
    task_id: int
    slug: str
    url: str
    site_title: str
    home: str
    published_at: datetime
    sandbox: bool
    provenance: Mapping[str, Any] = field(default_factory=dict)
    updated_at: datetime | None = None

    @property
    def modified_at(self) -> datetime:
        """When its content last changed."""
        return self.updated_at or self.published_at


def render_markdown(page: Page) -> str:
    """The article as Markdown behind YAML front matter."""
    article = page.article
    matter = {
        "title": article.title,
        "seo_title": article.seo_title,
        "description": article.meta_description,
        "slug": page.slug,
        "url": page.url,
        "date": page.published_at.isoformat(timespec="seconds"),
        "modified": page.modified_at.isoformat(timespec="seconds"),
        "lang": article.language,
        "keyword": article.keyword,
        "words": article.words,
        "score": article.score,
        "task_id": page.task_id,
        "sandbox": page.sandbox,
        **page.provenance,
    }
    front = yaml.dump(matter, Dumper=_FrontMatter, allow_unicode=True, sort_keys=False, width=1000)
    parts = [f"---\n{front}---", f"# {_escape_markdown(article.title)}"]
    if page.sandbox:
        parts.append("> Sandbox text: made by the local sandbox provider, not by a language model.")
    parts.append(article.introduction)
    for section in article.sections:
        parts += [f"## {_escape_markdown(section.heading)}", section.body]
    for name, entries in (
        (FURTHER, [f"- [{_escape_markdown(one.title)}]({one.url})" for one in article.further]),
        (SOURCES, [f"- <{url}>" for url in article.sources if safe_link(url)]),
    ):
        if entries:
            parts += [f"## {name}", "\n".join(entries)]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_html(page: Page) -> str:
    """The article as a whole HTML page."""
    article = page.article
    anchors = _anchors([section.heading for section in article.sections])
    own = own_links(article)
    return (
        environment()
        .get_template("article.html.j2")
        .render(
            page=page,
            article=article,
            introduction=_safe_html(article.introduction, own),
            sections=[
                {"heading": s.heading, "anchor": anchor, "body": _safe_html(s.body, own)}
                for s, anchor in zip(article.sections, anchors, strict=True)
            ],
            minutes=max(1, round(article.words / 220)),
            further=[one for one in article.further if safe_link(one.url)],
            sources=[url for url in article.sources if safe_link(url)],
            further_title=FURTHER,
            sources_title=SOURCES,
            structured_data=_script_json(structured_data(page)),
        )
    )


def structured_data(page: Page) -> dict[str, Any]:
    """schema.org Article, as search engines read it."""
    article = page.article
    publisher = {"@type": "Organization", "name": page.site_title}
    moment = page.published_at.isoformat(timespec="seconds")
    data: dict[str, Any] = {
        "@context": "https://schema.org",
        "@type": "Article",
        "headline": article.title[:110],
        "description": article.meta_description,
        "inLanguage": article.language,
        "datePublished": moment,
        "dateModified": page.modified_at.isoformat(timespec="seconds"),
        "mainEntityOfPage": {"@type": "WebPage", "@id": page.url},
        "url": page.url,
        "wordCount": article.words,
        "author": publisher,
        "publisher": publisher,
    }
    if article.keyword:
        data["keywords"] = article.keyword
    if article.sources:
        data["citation"] = list(article.sources)
    return data


def body_html(article: Article) -> str:
    """The article alone, without a page around it, for a target that has its own."""
    own = own_links(article)
    parts = [markdown_to_html(article.introduction, own)]
    for section in article.sections:
        parts += [f"<h2>{escape(section.heading)}</h2>", markdown_to_html(section.body, own)]
    for name, entries in (
        (FURTHER, [(one.url, one.title) for one in article.further]),
        (SOURCES, [(url, url) for url in article.sources]),
    ):
        items = [
            f'<li><a href="{escape(url)}">{escape(text)}</a></li>' for url, text in entries if safe_link(url)
        ]
        if items:
            parts.append(f"<h2>{name}</h2>\n<ul>{''.join(items)}</ul>")
    return "\n".join(parts)


def markdown_to_html(text: str, own: Collection[str] = ()) -> str:
    """Markdown as HTML of a small set of tags. HTML within the text is shown, not obeyed.

    `own`: the addresses that links may lead to as to the site's own articles.
    """
    if text.count("[") > _BRACKETS_MAX:
        text = text.replace("\\[", "(").replace("[", "(")
    html = markdown.markdown(
        text, extensions=[_Plain(own), "tables", "sane_lists", "fenced_code"], output_format="html"
    )
    return nh3.clean(
        html,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        url_relative="deny",
        link_rel=None,  # the Markdown sets it, and no HTML gets through it
        strip_comments=True,
    )


@cache
def environment() -> Environment:
    """The templates of the site, autoescaped."""
    return Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def template_version(name: str) -> str:
    """A digest of a template and the one it extends."""
    loader = PackageLoader(__package__, "templates")
    sources = [loader.get_source(environment(), part)[0] for part in (name, "base.html.j2")]
    return hashlib.sha256("".join(sources).encode()).hexdigest()


class _FrontMatter(yaml.SafeDumper):
    """YAML of plain values; a Decimal (a number as the database answers it) is a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _number(dumper: yaml.SafeDumper, value: Decimal) -> yaml.Node:
    return dumper.represent_int(int(value)) if value == int(value) else dumper.represent_float(float(value))


_FrontMatter.add_representer(Decimal, _number)


class _LowerHeadings(Treeprocessor):
    """The page has its h1 and h2 already, and no level is left out below them."""

    def run(self, root: Element) -> None:
        before = 2
        for element in root.iter():
            if re.fullmatch("h[1-6]", element.tag):
                before = max(3, min(int(element.tag[1]), before + 1))
                element.tag = f"h{before}"


class _MarkOutside(Treeprocessor):
    """Links that lead out of the site say so; ours don't."""

    def __init__(self, md: Markdown, own: Collection[str]) -> None:
        super().__init__(md)
        self._own = own

    def run(self, root: Element) -> None:
        for element in root.iter("a"):
            if element.get("href") not in self._own:
                element.set("rel", "noopener noreferrer nofollow")


class _Plain(Extension):
    """Markdown without raw HTML and without images. `own`: addresses of the site's own articles."""

    def __init__(self, own: Collection[str] = ()) -> None:
        super().__init__()
        self._own = own

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802, the library's name
        md.preprocessors.deregister("html_block")
        for pattern in ("html", "image_link", "image_reference", "short_image_ref"):
            md.inlinePatterns.deregister(pattern)
        md.treeprocessors.register(_LowerHeadings(md), "lower_headings", 5)
        md.treeprocessors.register(_MarkOutside(md, self._own), "mark_outside", 4)


def _escape_markdown(text: str) -> str:
    return text.translate(_MARKDOWN_SPECIAL)


def own_links(article: Article) -> set[str]:
    """The addresses in its text that are of our own articles: no others but its sources are kept in one."""
    return linked([article.introduction, *(s.body for s in article.sections)]) - set(article.sources)


def _safe_html(text: str, own: Collection[str]) -> Markup:
    return Markup(markdown_to_html(text, own))  # noqa: S704, it comes from nh3


def _script_json(value: object) -> Markup:
    """JSON that can't leave a <script> element."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704, see above


def _anchors(headings: list[str]) -> list[str]:
    anchors: list[str] = []
    for heading in headings:
        anchor = base = slugify(heading, limit=60)
        number = 1
        while anchor in anchors:
            number += 1
            anchor = f"{base}-{number}"
        anchors.append(anchor)
    return anchors
