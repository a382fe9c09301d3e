"""Text is cut into words the same way, whatever its case, script and punctuation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead_coordinator.text.words import MAX_CHARS, MAX_WORD, content_words, phrases, singular, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The City's heat-pump plan: 40% off!", ["the", "city", "heat", "pump", "plan", "40", "off"]),
        ("Don’t panic", ["don't", "panic"]),
        ("STRASSE Straße", ["strasse", "strasse"]),
        ("ﬁne １２", ["fine", "12"]),
        ("東京 tower", ["東", "京", "tower"]),
        ("snake_case", ["snake", "case"]),
        ("the dogs' bowls", ["the", "dogs", "bowls"]),
        ("<>&!? ...", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_content_words_leave_out_what_says_nothing() -> None:
    found = content_words("The 12 new batteries of a city are not what they were: I saw 3 classes of glass")
    assert found == ["battery", "city", "saw", "classe", "glass"]


@pytest.mark.parametrize(
    ("plural", "expected"),
    [
        ("batteries", "battery"),
        ("pumps", "pump"),
        ("houses", "house"),
        ("shoes", "shoe"),
        ("bees", "bee"),
        ("campus", "campus"),
        ("grass", "grass"),
        ("gas", "gas"),
        ("rueß", "rueß"),
    ],
)
def test_singular(plural: str, expected: str) -> None:
    assert singular(plural) == expected


def test_phrases_are_neighbours() -> None:
    assert list(phrases(["heat", "pump", "price"])) == ["heat pump", "pump price"]
    assert list(phrases(["heat"])) == []


@given(st.text(max_size=400))
def test_words_are_clean_and_stable(text: str) -> None:
    found = words(text)
    assert all(word and len(word) <= MAX_WORD and not any(c.isspace() for c in word) for word in found)
    assert words(" ".join(found)) == found or any("'" in word for word in found), (
        "cutting again what was cut changes nothing"
    )


def test_a_huge_text_is_cut() -> None:
    assert len(words("a " * MAX_CHARS)) == MAX_CHARS // 2
    assert words("a" * 1_000_000) == ["a" * MAX_WORD]
    assert len(words("a'" * MAX_CHARS)[0]) <= MAX_WORD
