"""What programs read: JSON-LD and Open Graph."""

from __future__ import annotations

from lead_coordinator.pipelines.seo.facts import Page, PageFacts
from lead_coordinator.pipelines.seo.rules.base import Evidence, Rules, View, samples

RULES = Rules("structured data")
# The four that the protocol requires (ogp.me), of which og:type has a default.
OPEN_GRAPH = ("og:title", "og:image", "og:url")


@RULES.html(
    "jsonld-unparsable",
    "error",
    "Structured data can't be read",
    "Make the script valid JSON: test it with a validator before publishing.",
    needs="html",
)
def jsonld_unparsable(html: PageFacts, page: Page, view: View) -> Evidence | None:
    return samples(html.jsonld_unparsable)


@RULES.html(
    "jsonld-incomplete",
    "warning",
    "Structured data lacks what search engines require of its type",
    "Add the fields named, with what the page really says.",
    needs="html",
)
def jsonld_incomplete(html: PageFacts, page: Page, view: View) -> Evidence | None:
    return samples(html.jsonld_incomplete)


@RULES.html(
    "open-graph-missing",
    "notice",
    "The page lacks Open Graph properties, so shared links look poor",
    "Add og:title, og:image and og:url to the head.",
)
def open_graph_missing(html: PageFacts, page: Page, view: View) -> Evidence | None:
    missing = [name for name in OPEN_GRAPH if name not in html.open_graph]
    return {"missing": missing} if missing else None
