"""What a search result shows: title and description."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from lead_coordinator.pipelines.seo.facts import Page, PageFacts
from lead_coordinator.pipelines.seo.index import Known
from lead_coordinator.pipelines.seo.rules.base import Evidence, Rules, View, samples

RULES = Rules("head")


@RULES.html(
    "title-missing",
    "critical",
    "The page has no title",
    "Write a title of 20 to 60 characters that says what this page, and no other, is about.",
)
def title_missing(html: PageFacts, page: Page, view: View) -> Evidence | None:
    return {} if not any(html.titles) else None


@RULES.html(
    "title-multiple",
    "error",
    "The page has several titles",
    "Keep one title element in the head.",
)
def title_multiple(html: PageFacts, page: Page, view: View) -> Evidence | None:
    return samples(html.titles) if len(html.titles) > 1 else None


@RULES.html(
    "title-short",
    "warning",
    "The title is shorter than the settings ask for",
    "Say what the page is about, in words that people search for.",
)
def title_short(html: PageFacts, page: Page, view: View) -> Evidence | None:
    title = html.titles[0] if html.titles else ""
    if not title or len(title) >= view.settings.title_min:
        return None
    return {"title": title, "characters": len(title), "allowed": view.settings.title_min}


@RULES.html(
    "title-long",
    "warning",
    "The title is longer than search results show",
    "Shorten it to what fits, the important words first.",
)
def title_long(html: PageFacts, page: Page, view: View) -> Evidence | None:
    title = html.titles[0] if html.titles else ""
    if len(title) <= view.settings.title_max:
        return None
    return {"title": title[:200], "characters": len(title), "allowed": view.settings.title_max}


@RULES.html(
    "description-missing",
    "warning",
    "The page has no meta description",
    "Write one of 80 to 160 characters: what the reader will find here.",
)
def description_missing(html: PageFacts, page: Page, view: View) -> Evidence | None:
    return {} if not any(html.descriptions) else None


@RULES.html(
    "description-short",
    "notice",
    "The meta description is shorter than the settings ask for",
    "Use the room: say what the reader will find, and why it is worth the click.",
)
def description_short(html: PageFacts, page: Page, view: View) -> Evidence | None:
    said = html.descriptions[0] if html.descriptions else ""
    if not said or len(said) >= view.settings.description_min:
        return None
    return {"characters": len(said), "allowed": view.settings.description_min}


@RULES.html(
    "description-long",
    "notice",
    "The meta description is longer than search results show",
    "Shorten it to what fits, the important words first.",
)
def description_long(html: PageFacts, page: Page, view: View) -> Evidence | None:
    said = html.descriptions[0] if html.descriptions else ""
    if len(said) <= view.settings.description_max:
        return None
    return {"characters": len(said), "allowed": view.settings.description_max}


@RULES.site(
    "title-duplicate",
    "warning",
    "Other pages have the same title",
    "Give each page a title of its own.",
)
def title_duplicate(view: View) -> Iterable[tuple[str, Evidence]]:
    return _shared(view, lambda page: page.title)


@RULES.site(
    "description-duplicate",
    "notice",
    "Other pages have the same meta description",
    "Give each page a description of its own.",
)
def description_duplicate(view: View) -> Iterable[tuple[str, Evidence]]:
    return _shared(view, lambda page: page.description)


def _shared(view: View, text: Callable[[Known], str]) -> Iterator[tuple[str, Evidence]]:
    """Each indexable page whose text others have too, with up to ten of them."""
    groups: dict[str, list[str]] = defaultdict(list)
    for page in view.index.pages():
        if page.is_indexable and text(page):
            groups[text(page)].append(page.url)
    for group in groups.values():
        if len(group) > 1:
            for url in group:
                others = [other for other in group[:12] if other != url][:10]
                yield url, {"count": len(group) - 1, "samples": others}
