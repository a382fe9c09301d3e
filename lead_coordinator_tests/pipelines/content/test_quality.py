"""The gate's parts: readability, markup, language, claims, links, likeness, and the gate as a whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead_coordinator.pipelines.content.article import as_json, from_json, plain
from lead_coordinator.pipelines.content.brief import Brief
from lead_coordinator.pipelines.content.claims import figures_without_source
from lead_coordinator.pipelines.content.language import common_share, language_problem
from lead_coordinator.pipelines.content.likeness import PublishedTexts
from lead_coordinator.pipelines.content.links import OwnArticle, keep_links, linked, related
from lead_coordinator.pipelines.content.markup import html_problems
from lead_coordinator.pipelines.content.quality import (
    Evidence,
    Likeness,
    judge,
    occurrences,
    quality_problems,
)
from lead_coordinator.pipelines.content.readability import count_syllables, readability
from lead_coordinator.pipelines.content.schemas import Section
from lead_coordinator.pipelines.content.settings import QualitySettings
from lead_coordinator.text.similarity import jaccard, signature
from lead_coordinator_tests.pipelines.content.material import article, body

# ---- readability -------------------------------------------------------------------------------------------


def test_the_formula_is_flesch_s() -> None:
    text = "The cat sat on the mat. It was warm."
    read = readability(text)
    assert (read.sentences, read.words, read.syllables) == (2, 9, 9)
    assert read.ease == pytest.approx(206.835 - 1.015 * 9 / 2 - 84.6 * 9 / 9)
    german = readability("Die Katze liegt auf der Matte. Es ist warm.", "de")
    assert german.ease == pytest.approx(180 - 9 / 2 - 58.5 * german.syllables / 9)
    assert readability("Le chat dort.", "fr").ease is None
    assert readability("", "en").ease is None


@pytest.mark.parametrize(
    ("word", "count"),
    [("cat", 1), ("garden", 2), ("watered", 2), ("baked", 1), ("table", 2), ("makes", 1), ("insulation", 4)],
)
def test_syllables(word: str, count: int) -> None:
    assert count_syllables(word) == count


def test_plain_english_reads_easier_than_officialese() -> None:
    plain_text = "Turn the tap on. Let it run for a while. Then close it and look."
    office = (
        "Notwithstanding the aforementioned considerations regarding infrastructural modernisation, "
        "administrative responsibilities necessitate comprehensive interdepartmental communication."
    )
    easy, hard = readability(plain_text).ease, readability(office).ease
    assert easy is not None
    assert hard is not None
    assert easy > 80 > 0 > hard


def test_abbreviations_end_no_sentence() -> None:
    assert readability("Use a hose, e.g. Dr. Green's, for it. Then stop.").sentences == 2


@given(st.text(max_size=400))
def test_any_text_is_measured(text: str) -> None:
    read = readability(text)
    assert read.syllables >= read.words >= read.sentences
    assert (read.ease is None) == (read.words == 0)


# ---- markup ------------------------------------------------------------------------------------------------

PAGE = "<!doctype html><html><head><title>T</title></head><body><h1>H</h1>{}</body></html>"


@pytest.mark.parametrize(
    ("inside", "problem"),
    [
        ("<p>open", "<p> isn't closed before </body>"),
        ("</em>", "</em> ends nothing"),
        ("<h3>Deep</h3>", "<h3> follows <h1>: a level is left out"),
        ("<h1>Two</h1>", "it has 2 <h1>"),
        ("<p id=a>x</p><p id=a>y</p>", "the id 'a' stands there twice"),
        ("<p><ul><li>x</li></ul></p>", "<ul> stands inside <p>"),
        ("<div><li>x</li></div>", "<li> stands outside"),
        ("<img src=x>", "<img> has no alt"),
        ("<p onclick='x()'>x</p>", "<p> has an event handler"),
        ("<h2> </h2>", "<h2> is empty"),
        ("<center>x</center>", "<center> is obsolete"),
        ("<p class=a class=b>x</p>", "<p> has class twice"),
        ("</br>", "</br> ends an element that has no end"),
        ("<title>Again</title>", "it has 2 <title>"),
    ],
)
def test_faults_of_a_page_are_named(inside: str, problem: str) -> None:
    assert any(problem in one for one in html_problems(PAGE.format(inside))), html_problems(
        PAGE.format(inside)
    )


def test_a_good_page_has_no_problems() -> None:
    good = (
        "<h2>Two</h2><p>x <a href='/a'>y</a><br>z</p>"
        "<table><tbody><tr><td>1</td></tr></tbody></table><img alt=''>"
    )
    assert html_problems(PAGE.format(good)) == []
    assert html_problems("<p>A piece</p>", whole_page=False) == []
    assert any("doctype" in one for one in html_problems("<html></html>"))


@given(st.text(alphabet="<>/ahp1!- ='\"\n", max_size=300))
def test_any_markup_is_judged(html: str) -> None:
    assert len(html_problems(html)) <= 20


# ---- language and claims -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (
            "The water is in the garden and it is not for you, so what can you do with it when it is dry? ",
            "en",
        ),
        ("Das Wasser ist in dem Garten und es ist nicht für dich, aber was kann man mit ihm tun? ", "de"),
        (
            "L'eau est dans le jardin et ce n'est pas pour vous, mais que faire avec elle dans la maison ? ",
            "fr",
        ),
    ],
)
def test_a_language_is_known_by_its_commonest_words(text: str, language: str) -> None:
    assert language_problem(text * 5, language) == []
    for other in {"en", "de", "fr"} - {language}:
        assert language_problem(text * 5, other) == [f"isn't written in {other}, it looks like {language}"]
    assert common_share(text, "ja") is None
    assert language_problem(text * 5, "ja") == [], "a language that we don't know is left alone"
    assert language_problem(text, "en") == [], "a few words prove nothing"


def test_figures_of_studies_need_a_note() -> None:
    text = "A study found that 87 % of gardeners agree. Water for 20 % longer. Experts say it costs $1,200."
    assert figures_without_source(text, "") == [
        "A study found that 87 % of gardeners agree.", "Experts say it costs $1,200.",
    ]  # fmt: skip
    assert figures_without_source(text, "Of those asked, 87 per cent; it was 1.200 dollars.") == []


@given(st.text(max_size=300), st.text(max_size=100))
def test_any_text_is_searched_for_claims(text: str, notes: str) -> None:
    assert len(figures_without_source(text, notes)) <= 20


# ---- links and likeness ------------------------------------------------------------------------------------

OURS = [
    OwnArticle("How to Size a Heat Pump", "https://our.example/1", "Heat loss in plain words"),
    OwnArticle("Raised Beds", "https://our.example/2", "Soil and wood"),
    OwnArticle("Reading a Heat Pump Quote", "https://our.example/3", "What to ask"),
]


def test_related_articles_share_rare_words() -> None:
    found = related("heat pump quotes", OURS, 5)
    assert [one.url[-1] for one in found] == ["3", "1"], "the nearest first, and nothing that shares no word"
    assert [one.url[-1] for one in related("heat pump quotes", OURS, 1)] == ["3"]
    assert [one.url[-1] for one in related("heat pump", OURS, 5, but="https://our.example/3")] == ["1"]
    assert related("the and of", OURS, 5) == related("soil", OURS, 0) == []


def test_only_links_that_were_offered_are_kept() -> None:
    text = (
        "See [ours](https://our.example/1), [theirs](https://spam.example/) and `[code](https://x.example/)`."
    )
    kept, removed = keep_links(text, {"https://our.example/1"})
    assert kept == "See [ours](https://our.example/1), theirs and `[code](https://x.example/)`."
    assert removed == 1
    assert linked([kept]) == {"https://our.example/1"}


def test_what_was_offered_and_not_used_is_further_reading() -> None:
    intro = "Read [this](https://our.example/1) first. " + body(80, "x")
    made = build(intro, OURS[:2])
    assert [one.url for one in made.further] == ["https://our.example/2"]
    assert "https://our.example/1" in made.introduction
    figures = judge(made, None, Evidence(offered=2, wanted_links=2)).figures
    assert figures["internal_links"] == 2
    lonely = build(body(80, "x"), [])
    assert quality_problems(lonely, None, Evidence(offered=3, wanted_links=2)) == [
        "links to 0 of our articles, 2 are asked for"
    ]


def build(introduction: str, links: list[OwnArticle]) -> Any:
    from lead_coordinator.pipelines.content.article import build_article
    from lead_coordinator_tests.pipelines.content.material import edited

    return build_article(Brief(title="t"), edited(introduction=introduction), links=links)


def test_the_nearest_published_text_is_found() -> None:
    one, two = signature(body(300, "one")), signature(body(300, "two"))
    out = PublishedTexts(
        [
            {"publication_id": 1, "url": "u1", "slug": "s1", "signature": one.to_bytes()},
            {"publication_id": 2, "url": None, "slug": "s2", "signature": two.to_bytes()},
            {"publication_id": 3, "url": "u3", "slug": "s3", "signature": b"of another version"},
        ]
    )
    assert len(out) == 2
    assert out.nearest(two) == Likeness("s2", 1.0)
    assert out.nearest(two, but=2) == Likeness("u1", jaccard(one, two))
    assert out.nearest(signature("")) is None
    assert PublishedTexts().nearest(one) is None


# ---- the gate ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "evidence", "problem"),
    [
        (
            {"introduction": "As an AI language model, I like it. " + body(80)},
            {},
            "the forbidden phrase 'as an ai",
        ),
        (
            {"introduction": "It is world-class. " + body(80)},
            {"avoid": ("world-class",)},
            "which the brand avoids",
        ),
        (
            {"unsupported_claims": ["Tomatoes cure colds."]},
            {},
            "claims without support: Tomatoes cure colds.",
        ),
        ({}, {"subject": "Quantum tunnelling diodes"}, "isn't about what was asked for"),
        ({}, {"likeness": Likeness("https://x.example/a", 0.8)}, "is 80% the same as https://x.example/a"),
        ({}, {"html_problems": ("<p> is never closed",)}, "makes a page in which <p> is never closed"),
        (
            {
                "sections": [
                    Section(heading=f"H{n}", body="It is what it is, and that is it. " * 40) for n in range(5)
                ]
            },
            {},
            "repeats itself",
        ),
        (
            {"sections": [Section(heading=f"H{n}", body="word " * 300) for n in range(9)]},
            {},
            "words a sentence, at most 28",
        ),
    ],
)
def test_the_gate_names_what_is_wrong(
    changes: dict[str, Any], evidence: dict[str, Any], problem: str
) -> None:
    problems = quality_problems(article(**changes), None, Evidence(**evidence))
    assert any(problem in one for one in problems), problems


def test_the_figures_are_told_with_the_verdict() -> None:
    judged = judge(article(brief=Brief(title="Water Once a Week", keyword="cool soil")))
    assert judged.problems == ()
    assert judged.figures["words"] == article().words
    assert 0 < judged.figures["keyword_percent"] < 3.5  # type: ignore[operator]
    assert judged.figures["reading_ease"] > 60  # type: ignore[operator]
    assert judged.figures["similarity"] is None


def test_the_site_decides_how_strict_it_is() -> None:
    made = article(unsupported_claims=["One.", "Two."])
    assert len(quality_problems(made)) == 2
    assert quality_problems(made, QualitySettings(max_unsupported_claims=2)) == []
    assert quality_problems(article(), QualitySettings(forbidden=("cool soil",))) == [
        "holds the forbidden phrase 'cool soil'"
    ]


@given(st.lists(st.sampled_from("ab"), max_size=30), st.lists(st.sampled_from("ab"), min_size=1, max_size=3))
def test_occurrences_are_those_that_replacing_finds(text: list[str], phrase: list[str]) -> None:
    assert occurrences(text, phrase) == "".join(text).count("".join(phrase))


def test_an_article_is_stored_and_read_back() -> None:
    made = article(unsupported_claims=["A claim."])
    assert from_json(as_json(made)) == made
    assert plain(made).startswith("Water Once a Week\n\n")
