"""What a page says: headings, length, texts that other pages have too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from lead_coordinator.pipelines.seo.facts import Page, PageFacts
from lead_coordinator.pipelines.seo.rules.base import Evidence, Rules, View
from lead_coordinator.text.similarity import NearDuplicates

RULES = Rules("content")
# Of fewer words two texts are alike by chance.
_LEAST_WORDS = 30


@RULES.html(
    "h1-missing",
    "error",
    "The page has no main heading (h1)",
    "Give the page one h1 that says what it is about.",
)
def h1_missing(html: PageFacts, page: Page, view: View) -> Evidence | None:
    return {} if not any(level == 1 and text for level, text in html.headings) else None


@RULES.html(
    "heading-order",
    "notice",
    "A heading skips a level",
    "Let each heading be at most one level below the one before it: h2 under h1, h3 under h2.",
)
def heading_order(html: PageFacts, page: Page, view: View) -> Evidence | None:
    skipped = []
    before = 0
    for level, text in html.headings:
        if before and level > before + 1:
            skipped.append(f"h{before} is followed by h{level}: {text[:60]}")
        before = level
    if html.headings and html.headings[0][0] > 1 and any(level == 1 for level, _ in html.headings):
        skipped.insert(0, f"the first heading is an h{html.headings[0][0]}")
    return {"count": len(skipped), "samples": skipped[:10]} if skipped else None


@RULES.html(
    "thin-content",
    "warning",
    "The page's main text has fewer words than the settings ask for",
    "Answer the question that brings readers here; or join the page with another.",
)
def thin_content(html: PageFacts, page: Page, view: View) -> Evidence | None:
    if html.cut or html.words >= view.settings.min_words:
        return None
    return {"words": html.words, "allowed": view.settings.min_words}


@RULES.site(
    "duplicate-content",
    "error",
    "Other pages have the same main text",
    "Keep one page; redirect the others to it, or let them name it as canonical.",
)
def duplicate_content(view: View) -> Iterable[tuple[str, Evidence]]:
    for group in _same_text(view):
        if len(group) > 1:
            for url in group:
                others = [other for other in group[:12] if other != url][:10]
                yield url, {"count": len(group) - 1, "samples": others}


@RULES.site(
    "near-duplicate",
    "warning",
    "Another page has nearly the same main text",
    "Give each page what the other hasn't; or keep one, and redirect the other to it.",
)
def near_duplicate(view: View) -> Iterable[tuple[str, Evidence]]:
    near = NearDuplicates(view.settings.near_duplicate)
    sketches = {}
    for group in _same_text(view):
        # Of pages with the very same text one stands for all: that they are the same is said already.
        known = view.known(group[0])
        sketch = None if known is None else known.sketch()
        if sketch is not None:
            sketches[group[0]] = sketch
            near.add(group[0], sketch)
    for url, sketch in sketches.items():
        matches = [match for match in near.find(sketch) if match.key != url]
        if matches:
            shown = [[match.key, round(match.similarity, 3)] for match in matches[:10]]
            yield url, {"count": len(matches), "samples": shown}


def _same_text(view: View) -> list[list[str]]:
    """Indexable pages with enough words, in groups of the same text."""
    groups: dict[str, list[str]] = defaultdict(list)
    for page in view.index.pages():
        if page.is_indexable and page.words >= _LEAST_WORDS and page.digest:
            groups[page.digest].append(page.url)
    return list(groups.values())
