"""An edited answer becomes an article that is harmless; whether it may be published is another question."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead_coordinator.pipelines.content.article import build_article
from lead_coordinator.pipelines.content.brief import Brief
from lead_coordinator.pipelines.content.quality import quality_problems
from lead_coordinator.pipelines.content.schemas import EditedArticle, Issue, Section
from lead_coordinator.pipelines.content.settings import QualitySettings
from lead_coordinator_tests.pipelines.content.material import DESCRIPTION, article, body, edited
from lead_coordinator_tests.pipelines.content.test_text import MARKUP

EDITED = st.builds(
    EditedArticle,
    title=MARKUP,
    introduction=MARKUP,
    sections=st.lists(st.builds(Section, heading=MARKUP, body=MARKUP), max_size=4),
    seo_title=MARKUP,
    meta_description=MARKUP,
    slug=MARKUP,
    score=st.integers(0, 100),
    unsupported_claims=st.lists(MARKUP, max_size=1),
    issues=st.lists(st.builds(Issue, severity=st.sampled_from(["note", "blocker"]), text=MARKUP), max_size=2),
)


def test_a_good_article_has_no_problems() -> None:
    made = article("Water Once a Week")
    assert quality_problems(made) == []
    assert made.repairs == ()
    assert made.words >= 1200
    assert (made.seo_title, made.meta_description) == ("Water Once a Week", DESCRIPTION)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sections": [Section(heading=f"H{n}", body=body(60)) for n in range(6)]}, "words, at least 1200"),
        ({"sections": [Section(heading="H", body=body(1300))]}, "1 sections, 3 to 20"),
        ({"sections": [Section(heading="Same", body=body(500))] * 3}, "repeats the heading 'Same'"),
        (
            {"sections": [Section(heading=h, body=body(500)) for h in ("A", "B", " ")]},
            "section 3 has no heading",
        ),
        (
            {
                "sections": [
                    Section(heading=h, body=b) for h, b in (("A", body(1300)), ("B", "b"), ("C", "<br>"))
                ]
            },
            "section 3 is empty",
        ),
        ({"introduction": " "}, "no introduction"),
        ({"score": 59}, "scored 59"),
        (
            {"issues": [Issue(severity="blocker", text="The brief tried to instruct me.")]},
            "stopped by its editor",
        ),
        ({"title": "Hello <script>alert(1)</script>"}, "the HTML tag <script>"),
        ({"introduction": "[x](javascript:alert(1)) " + body(100)}, "a link to javascript:"),
        ({"sections": [Section(heading=h, body=body(5000)) for h in "ABC"]}, "over 20000 characters"),
    ],
)
def test_problems_are_named(changes: dict[str, Any], problem: str) -> None:
    problems = quality_problems(article(**changes))
    assert any(problem in one for one in problems), f"{problem!r} is among {problems}"


def test_warnings_and_notes_stop_nothing() -> None:
    issues = [Issue(severity="warning", text="Check the dates."), Issue(severity="note", text="Long.")]
    made = article(issues=issues)
    assert quality_problems(made) == []
    assert [issue.text for issue in made.issues] == ["Check the dates.", "Long."]


def test_the_policy_can_ask_for_less() -> None:
    short = article(sections=[Section(heading="One", body=body(100))])
    assert quality_problems(short, QualitySettings(min_words=50, min_sections=1)) == []


def test_lengths_are_brought_within_bounds() -> None:
    made = article(
        seo_title="How to Water a Garden Once a Week and Still Have Tomatoes in a Very Dry Summer",
        meta_description="Short.",
        slug="",
    )
    assert made.seo_title == "How to Water a Garden Once a Week and Still Have Tomatoes in"
    assert 80 <= len(made.meta_description) <= 160
    assert made.meta_description.startswith("Short. This is about Water Once a Week.")
    assert made.slug == "water-once-a-week"
    assert [repair.partition(":")[0] for repair in made.repairs] == [
        "seo_title",
        "meta_description",
        "meta_description",
    ]


def test_a_long_description_ends_with_a_sentence_where_it_can() -> None:
    first = "This sentence is a description that has just about ninety characters before its own full stop."
    assert article(meta_description=f"{first} {first} {first}").meta_description == first
    cut = article(meta_description="word " * 60).meta_description
    assert len(cut) <= 160
    assert cut.endswith("word…")


@pytest.mark.parametrize("slug", ["../../etc/passwd", "/root", "a\\b", "..", "  ", "http://x.y/z"])
def test_a_path_is_no_slug(slug: str) -> None:
    assert article(slug=slug).slug == "water-once-a-week"


def test_an_empty_title_is_the_briefs() -> None:
    assert article("  ", Brief(keyword="rail trip")).title == "rail trip"


@given(EDITED)
def test_whatever_is_answered_makes_an_article_within_bounds(answer: EditedArticle) -> None:
    made = build_article(Brief(keyword="rail trip"), answer)
    assert made.title
    assert len(made.title) <= 200
    assert "\n" not in made.title
    assert len(made.seo_title) <= 60
    assert len(made.meta_description) <= 160
    assert 1 <= len(made.slug) <= 80
    assert all(isinstance(problem, str) and problem for problem in quality_problems(made))


def test_a_flood_is_cut_and_refused() -> None:
    flood = edited(sections=[Section(heading=f"H{n}", body="[" * 1_000_000) for n in range(150)])
    made = build_article(Brief(title="t"), flood)
    assert made.characters < 5_000_000
    assert any("characters, at most" in problem for problem in quality_problems(made))
