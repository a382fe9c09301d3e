"""The language of a page, and its translations (hreflang)."""

from __future__ import annotations

from collections.abc import Iterable

from lead_coordinator.pipelines.seo.facts import Page, PageFacts
from lead_coordinator.pipelines.seo.rules.base import Evidence, Rules, View, samples
from lead_coordinator.pipelines.seo.rules.codes import tag_problem

RULES = Rules("languages")
DEFAULT = "x-default"


@RULES.html(
    "lang-invalid",
    "warning",
    "The page doesn't say its language, or not by a valid code",
    'Write the language into the html element, such as <html lang="en"> or <html lang="pt-BR">.',
    needs="html",
)
def lang_invalid(html: PageFacts, page: Page, view: View) -> Evidence | None:
    if not (html.language or "").strip():
        return {"reason": "there is no lang attribute"}
    problem = tag_problem((html.language or "").strip())
    return None if problem is None else {"reason": problem}


@RULES.html(
    "hreflang-invalid",
    "error",
    "A translation is named with a wrong code, without an address, or twice",
    "Use ISO codes (en, en-GB, x-default), one full address each.",
    needs="html",
)
def hreflang_invalid(html: PageFacts, page: Page, view: View) -> Evidence | None:
    problems: list[str] = []
    seen: dict[str, str] = {}
    for language, url in html.alternates:
        code = language.lower()
        problem = None if code == DEFAULT else tag_problem(language)
        if problem is not None:
            problems.append(problem)
        elif not url:
            problems.append(f"{language} has no address")
        elif seen.setdefault(code, url) != url:
            problems.append(f"{language} has two addresses")
    return samples(problems)


@RULES.site(
    "hreflang-no-return",
    "error",
    "A page is named as a translation and doesn't name the page in return",
    "Let each translation name all others, and itself.",
)
def hreflang_no_return(view: View) -> Iterable[tuple[str, Evidence]]:
    for page in view.index.pages():
        missing = []
        for _, url in page.alternates:
            other = view.known(url)
            # What answers with an error is a broken translation, not one that forgot us.
            if other is None or url == page.url or not other.is_html or not other.ok:
                continue
            if page.url not in {back for _, back in other.alternates}:
                missing.append(url)
        evidence = samples(list(dict.fromkeys(missing)))
        if evidence is not None:
            yield page.url, evidence


@RULES.html(
    "hreflang-no-self",
    "warning",
    "The page names translations and not itself among them",
    "Add an hreflang link with the page's own language and address.",
    needs="html",
)
def hreflang_no_self(html: PageFacts, page: Page, view: View) -> Evidence | None:
    named = {url for _, url in html.alternates}
    return {"translations": len(named)} if named and page.url not in named else None


@RULES.html(
    "hreflang-no-default",
    "notice",
    "The page names translations and no x-default for everybody else",
    'Add hreflang="x-default" with the page for readers of other languages.',
    needs="html",
)
def hreflang_no_default(html: PageFacts, page: Page, view: View) -> Evidence | None:
    codes = {language.lower() for language, _ in html.alternates}
    return {"languages": sorted(codes)[:10]} if codes and DEFAULT not in codes else None
