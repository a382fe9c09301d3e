"""The briefing as Markdown, as HTML, and as files.

Everything in it that a feed said is text. In HTML jinja2 escapes it, and the page allows no script, image or
request (Content-Security-Policy); in Markdown every character that could begin markup is escaped. Links are
http or https only.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from lead_coordinator.pipelines.intelligence.briefing import Briefing, Link

if TYPE_CHECKING:
    from jinja2 import Template

# What Markdown lets a backslash take the meaning from, everywhere; the rest becomes a character reference.
_ESCAPED = re.compile(r"([\\`*_{}\[\]#!])")
_REFERENCES = str.maketrans({mark: f"&#{ord(mark)};" for mark in "<>|~@"})
_ENTITY = re.compile(r"&(?=[\\#\w])")
_LIST_MARK = re.compile(r"^(\d{0,9})([-+.)=])")


# ---- Markdown ----------------------------------------------------------------------------------------------


def as_markdown(briefing: Briefing) -> str:
    """The report as Markdown."""
    lines = [f"# {escaped(briefing.title)}", ""]
    if briefing.opening:
        lines += [escaped(briefing.opening), ""]
    lines += [escaped(briefing.figures), "", "## Proposed topics", ""]
    for topic in briefing.topics:
        status = f" ({topic.status})" if topic.status else ""
        lines += [f"### {escaped(f'{topic.title}: {topic.value}{status}')}", ""]
        lines += [escaped(topic.summary), ""] if topic.summary else []
        lines += [f"- {escaped(reason)}" for reason in topic.reasons]
        lines += [f"- Value: {escaped(topic.basis)}.", *map(_markdown_link, topic.links), ""]
    lines += [] if briefing.topics else [escaped(briefing.no_topics), ""]
    lines += ["## Rising terms", "", *_rising_lines(briefing), "", "## Stories", ""]
    for story in briefing.stories:
        lines += [f"### {escaped(story.title)}", ""]
        lines += [escaped(story.summary), ""] if story.summary else []
        lines += [escaped(story.about), "", *map(_markdown_link, story.links), ""]
    lines += [] if briefing.stories else ["No story of the last days has an item.", ""]
    if briefing.unread:
        lines += ["## Feeds that could not be read", ""]
        lines += [f"- {escaped(line)}" for line in briefing.unread]
    return "\n".join(lines).rstrip() + "\n"


def escaped(text: str) -> str:
    """Text that no Markdown parser takes for anything else, on one line."""
    line = _ESCAPED.sub(r"\\\1", " ".join(text.split()))
    line = _ENTITY.sub("&#38;", line).translate(_REFERENCES)
    return _LIST_MARK.sub(_list_mark, line.replace("://", "&#58;//"))


def _list_mark(match: re.Match[str]) -> str:
    """A sign at the beginning of a line, or after a number there, that would begin a list or a heading."""
    return f"{match[1]}&#{ord(match[2])};"


def _rising_lines(briefing: Briefing) -> Sequence[str]:
    if not briefing.rising:
        return [escaped(briefing.no_rising)]
    rows = [
        f"| {escaped(row.term)} | {row.today} | {row.expected} | {row.lift} | {row.q_value} |"
        for row in briefing.rising
    ]
    return [
        "| term | today | expected | times | false-alarm rate |",
        "| --- | --: | --: | --: | --: |",
        *rows,
    ]


def _markdown_link(link: Link) -> str:
    text = escaped(link.text) or "item"
    url = safe_url(link.url)
    shown = f"[{text}](<{url}>)" if url else text
    return f"- {escaped(link.source)}, {link.when}: {shown}"


def safe_url(url: str) -> str:
    """The address where it is http or https, with what could end a link escaped; else ""."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    return quote(url, safe="%/:?#[]@!$&*+,;=~-._")


# ---- HTML --------------------------------------------------------------------------------------------------


def as_html(briefing: Briefing) -> str:
    """The report as a page of its own."""
    return _template().render(briefing=briefing, anchor=_anchor)


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lead_coordinator.pipelines.intelligence"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("briefing.html.j2")


def _anchor(link: Link) -> str:
    from markupsafe import Markup

    url = safe_url(link.url)
    text = link.text or "item"
    if not url:
        return text
    return Markup('<a href="{}" rel="noopener noreferrer nofollow">{}</a>').format(url, text)


# ---- files -------------------------------------------------------------------------------------------------


def write_briefing(home: Path, site: str, day: datetime, briefing: Briefing) -> Path:
    """Writes `briefings/<site>/<day>.md` and `.html` under the platform's home, each whole or not at all.

    `site` must be fit for a folder's name (a profile's name is). Answers the HTML file.
    """
    folder = home / "briefings" / site
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{day:%Y-%m-%d}.html"
    _replace(folder / f"{day:%Y-%m-%d}.md", as_markdown(briefing))
    _replace(page, as_html(briefing))
    return page


def _replace(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        scratch.write_text(text, encoding="utf-8", errors="replace")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
