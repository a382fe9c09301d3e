"""What strangers and models send to the content pipeline: every file of `hostile/content` ends in a clear
error or in something harmless, and costs little memory.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.content.article import build_article
from lead_coordinator.pipelines.content.brief import Brief
from lead_coordinator.pipelines.content.markup import html_problems
from lead_coordinator.pipelines.content.orders import WriteOrder, parse_order
from lead_coordinator.pipelines.content.prompts import instructions
from lead_coordinator.pipelines.content.quality import Evidence, judge
from lead_coordinator.pipelines.content.render import Page, render_html, render_markdown
from lead_coordinator.pipelines.content.research import NoSource, Notes, read_sources
from lead_coordinator.pipelines.content.schemas import EditedArticle, Section
from lead_coordinator.pipelines.content.settings import ResearchSettings
from lead_coordinator.pipelines.content.steps import write_article
from lead_coordinator.providers.base import CallRequest, Message, ProviderError, RawAnswer
from lead_coordinator.providers.judgement import validated
from lead_coordinator_tests.pipelines.content.material import edited
from lead_coordinator_tests.pipelines.content.sandbox import SandboxCaller
from lead_coordinator_tests.pipelines.content.test_render import assert_safe

pytestmark = pytest.mark.anyio
FOLDER = Path(__file__).parents[2] / "hostile" / "content"
CASES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}
MOST_MB = 120
NOW = datetime(2026, 11, 24, tzinfo=UTC)


def cases(kind: str) -> list[Any]:
    return [pytest.param(case, id=name) for name, case in CASES.items() if case["kind"] == kind]


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST_MB * 1_000_000, f"{peak / 1e6:.0f} MB at the peak"


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 15
    assert {case["kind"] for case in CASES.values()} == {"answer", "topic", "source"}
    assert all(case["about"] for case in CASES.values())


# ---- what a model answers ----------------------------------------------------------------------------------


def answer_of(case: Mapping[str, Any]) -> EditedArticle:
    """A good answer with what the case changes of it."""
    changes = dict(case.get("set", {}))
    if grow := case.get("grow"):
        sections = list(edited().sections)
        text = grow.get("text", "") * grow.get("times", 1)
        if "sections" in grow:
            sections = [
                Section(heading=f"Part {n} of it", body=text or "Some words.")
                for n in range(grow["sections"])
            ]
        elif text:
            sections[grow["section"]] = Section(heading="Grown", body=text)
        changes["sections"] = [section.model_dump() for section in sections]
    return EditedArticle.model_validate(edited().model_dump() | changes)


@pytest.mark.parametrize("case", cases("answer"))
def test_answers(case: dict[str, Any]) -> None:
    with little_memory():
        if "raw" in case:
            raw = case["raw"] * case.get("times", 1)
            request = CallRequest("edit_and_check", (Message("user", "x"),), EditedArticle, 100)
            with pytest.raises(ProviderError) as caught:
                validated("gemini", RawAnswer(raw, None, "m", "STOP"), request)
            assert caught.value.outcome == case["expect"]
            assert len(str(caught.value)) < 700, "the error repeats little of what was sent"
            return
        brief = Brief(title=case.get("subject", "Water Once a Week"), keyword=case.get("keyword"))
        made = build_article(brief, answer_of(case))
        judged = judge(made, None, Evidence(subject=brief.subject, instructions=instructions()))
        page = Page(
            made, 1, made.slug, f"https://example.org/articles/{made.slug}.html", "Site", "../", NOW, False
        )
        html, markdown = render_html(page), render_markdown(page)
    assert_safe(html)
    assert html_problems(html) == [] or judged.problems
    for text in case.get("absent", ()):
        assert text not in html + markdown, f"{text!r} must not be published"
    if case["expect"] == "published":
        assert judged.problems == ()
    else:
        assert any(case["expect"] in problem for problem in judged.problems), judged.problems


# ---- what a topic says -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("topic"))
async def test_topics(case: dict[str, Any]) -> None:
    if case["expect"] != "fenced":
        with pytest.raises(InvalidInput, match=case["expect"]) as caught:
            parse_order(case["payload"])
        assert len(str(caught.value)) < 400
        return
    order = parse_order(case["payload"])
    assert isinstance(order, WriteOrder)
    tame, caller = SandboxCaller(), SandboxCaller()
    await write_article(tame, 1, Brief(title="Rain barrels"))
    written = await write_article(caller, 1, order.brief)
    assert [request.system_text for request in caller.requests] == [
        request.system_text for request in tame.requests
    ], "what a topic says changes no instruction"
    assert [request.schema for request in caller.requests] == [request.schema for request in tame.requests]
    for request, model in zip(caller.requests, tame.requests, strict=True):
        (text,), (other,) = request.user_texts, model.user_texts
        for tag in ("brief", "voice", "notes", "outline", "draft"):
            assert text.count(f"<{tag}>") == other.count(f"<{tag}>"), f"no {tag} block is opened by a topic"
            assert text.count(f"</{tag}>") == other.count(f"</{tag}>")
        block = json.loads(text.split("<brief>\n")[1].split("\n</brief>")[0])
        assert block == json.loads(json.dumps(order.brief.for_prompt())), "the data arrives unchanged"
        outside = text.split("<brief>\n")[0] + text.split("\n</brief>")[1].split("<")[0]
        assert order.brief.subject not in outside
    assert 0 < written.article.score < 100, "nor does it set the score"


# ---- what a source holds -----------------------------------------------------------------------------------


@dataclass
class Served:
    """A page as a fetcher gives it."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    final_url: str = "https://source.example/"

    async def get(self, url: str, *, max_bytes: int | None = None) -> Served:
        assert max_bytes is not None
        self.body = self.body[:max_bytes]
        return self


@pytest.mark.parametrize("case", cases("source"))
async def test_sources(case: dict[str, Any]) -> None:
    html = case.get("html", "") + case.get("repeat", "") * case.get("times", 0)
    body = bytes.fromhex(case["hex"]) if "hex" in case else html.encode()
    reader = Served(body, {"content-type": case.get("type", "text/html")})
    settings = ResearchSettings()
    with little_memory():
        if case["expect"] == "unread":
            with pytest.raises(NoSource, match=r"none of 1 could be read \(https://source\.example/"):
                await read_sources(reader, ["https://source.example/"], settings)
            return
        sources, unread = await read_sources(reader, ["https://source.example/"], settings)
    assert unread == ()
    assert 100 <= len(sources[0].text) <= settings.source_characters
    if case["expect"] == "fenced":
        caller = SandboxCaller()
        await write_article(caller, 1, Brief(title="Heat pumps"), notes=Notes(sources))
        for request in caller.requests:
            assert "previous instructions" not in request.system_text
            (text,) = request.user_texts
            before, _, rest = text.partition("<notes>\n")
            assert "previous instructions" in rest.split("\n</notes>")[0], "it is shown as data"
            assert "previous instructions" not in before + rest.split("\n</notes>")[1]
