"""What a browser warns of, and whether a phone can show the page."""

from __future__ import annotations

from lead_coordinator.pipelines.seo.facts import Page, PageFacts
from lead_coordinator.pipelines.seo.rules.base import Evidence, Rules, View, in_the_clear, samples

RULES = Rules("security and phones")


@RULES.html(
    "viewport-missing",
    "error",
    "The page has no viewport, so phones show it small",
    'Add <meta name="viewport" content="width=device-width, initial-scale=1"> to the head.',
    needs="html",
)
def viewport_missing(html: PageFacts, page: Page, view: View) -> Evidence | None:
    said = (html.viewport or "").replace(" ", "").lower()
    return None if "width=" in said or "initial-scale=" in said else {"viewport": html.viewport or ""}


@RULES.html(
    "plain-http",
    "error",
    "The page is served over plain http",
    "Serve it over https, and redirect (301) http addresses there.",
    needs="html",
)
def plain_http(html: PageFacts, page: Page, view: View) -> Evidence | None:
    return {} if in_the_clear(page.url) else None


@RULES.html(
    "mixed-content",
    "error",
    "The page is served over https and loads something over plain http",
    "Load everything over https.",
    needs="html",
)
def mixed_content(html: PageFacts, page: Page, view: View) -> Evidence | None:
    return samples(html.insecure) if page.url.startswith("https:") else None


@RULES.html(
    "insecure-form",
    "error",
    "A form sends what readers write over plain http",
    "Let the form's action begin with https://.",
    needs="html",
)
def insecure_form(html: PageFacts, page: Page, view: View) -> Evidence | None:
    secure = page.url.startswith("https:")
    found = [
        form.url
        for form in html.forms
        if form.url.startswith("http:") and (secure or (in_the_clear(form.url) and _tells(form.url, page)))
    ]
    found += [page.url for form in html.forms if form.has_password and in_the_clear(page.url)]
    return samples(list(dict.fromkeys(found)))


def _tells(url: str, page: Page) -> bool:
    """On a page over plain http, plain-http says that its own forms aren't safe either."""
    return not in_the_clear(page.url) or url.split("/")[2] != page.url.split("/")[2]


@RULES.html(
    "hsts-missing",
    "notice",
    "The home page is served over https without Strict-Transport-Security",
    "Send Strict-Transport-Security: max-age=31536000 with every answer.",
    needs="html",
)
def hsts_missing(html: PageFacts, page: Page, view: View) -> Evidence | None:
    if page.url != view.home or not page.url.startswith("https:"):
        return None
    said = page.visit.hsts.replace(" ", "").lower()
    return None if "max-age=" in said and "max-age=0" not in said.split(";") else {"header": page.visit.hsts}
