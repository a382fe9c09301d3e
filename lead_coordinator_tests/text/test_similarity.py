"""Near duplicates are found, and what is different is not."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lead_coordinator.errors import InvalidInput
from lead_coordinator.text.similarity import (
    Match,
    NearDuplicates,
    Signature,
    digest,
    jaccard,
    shingles,
    signature,
)

STORED_SHA256 = "4e9304bc3fc64364c865f672a14131b42cae55a9bb339d6aff9fca72a69fbb92"
TEXT = " ".join(f"word{number}" for number in range(400))


def _changed(text: str, changes: int, seed: int = 1) -> str:
    """`text` with so many of its words replaced."""
    source = random.Random(seed)
    listed = text.split()
    for place in source.sample(range(len(listed)), changes):
        listed[place] = f"other{source.random()}".replace(".", "")
    return " ".join(listed)


def _exact(a: str, b: str) -> float:
    first, second = shingles(a), shingles(b)
    return len(first & second) / len(first | second)


def test_shingles_are_runs_of_five_words() -> None:
    assert shingles("One, two three four FIVE six") == {"one two three four five", "two three four five six"}
    assert shingles("one two") == {"one two"}
    assert shingles("…") == set()


def test_case_and_punctuation_make_no_difference() -> None:
    assert signature("The city opens a heat pump school today.") == signature(
        "THE CITY opens a heat-pump school, today!"
    )
    assert digest("The city opens.") == digest("the City — opens")
    assert digest("The city opens.") != digest("The city closes.")


@pytest.mark.parametrize("changes", [0, 2, 8, 30])
def test_the_estimate_is_near_the_exact_similarity(changes: int) -> None:
    other = _changed(TEXT, changes)
    # Five standard deviations of the estimate, at most sqrt(0.25 / 128) each.
    assert jaccard(signature(TEXT), signature(other)) == pytest.approx(_exact(TEXT, other), abs=0.22)


def test_stored_signatures_come_back_as_they_were() -> None:
    made = signature(TEXT)
    assert Signature.from_bytes(made.to_bytes()) == made
    assert len(made.to_bytes()) == 517


def test_a_signature_stays_the_same_from_version_to_version() -> None:
    """Stored signatures must be comparable with those made later: if this fails, raise FORMAT."""
    stored = signature("the quick brown fox jumps over the lazy dog and runs into the woods").to_bytes()
    assert hashlib.sha256(stored).hexdigest() == STORED_SHA256


@pytest.mark.parametrize("stored", [b"", b"\x01" * 10, b"\x02" + bytes(516), bytes(517)])
def test_other_bytes_are_refused(stored: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"signature: .*must be 517 bytes of format 1"):
        Signature.from_bytes(stored)


def test_near_duplicates_are_found_and_ranked() -> None:
    known = NearDuplicates(0.8)
    known.add("same", signature(TEXT))
    known.add("close", signature(_changed(TEXT, 4)))
    known.add("half", signature(_changed(TEXT, 60)))
    known.add("other", signature(" ".join(f"else{number}" for number in range(400))))
    found = known.find(signature(TEXT))
    assert [match.key for match in found] == ["same", "close"]
    assert found[0] == Match("same", 1.0)
    assert len(known) == 4


def test_a_key_added_again_is_replaced() -> None:
    known = NearDuplicates(0.9)
    known.add("a", signature(TEXT))
    known.add("a", signature("something else entirely, said in other words by others"))
    assert known.find(signature(TEXT)) == []
    assert len(known) == 1


def test_texts_without_words_are_duplicates_of_nothing() -> None:
    known = NearDuplicates(0.5)
    known.add("empty", signature("…"))
    assert known.find(signature("")) == []
    assert jaccard(signature(""), signature("")) == 0.0


@pytest.mark.parametrize("threshold", [0, -1, 1.01, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(InvalidInput, match="must be over 0 and at most 1"):
        NearDuplicates(threshold)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["red", "green", "blue", "sun", "moon"]), max_size=60), st.integers(0, 3))
def test_what_is_found_is_what_comparing_all_finds(listed: list[str], drop: int) -> None:
    """LSH may only miss what is close to the threshold, and never finds what comparing wouldn't."""
    known = NearDuplicates(0.6)
    texts = {"whole": " ".join(listed), "cut": " ".join(listed[drop:]), "twice": " ".join(listed * 2)}
    for key, text in texts.items():
        known.add(key, signature(text))
    wanted = signature(" ".join(listed))
    estimates = {key: jaccard(wanted, signature(text)) for key, text in texts.items()}
    found = {match.key: match.similarity for match in known.find(wanted)}
    assert all(estimates[key] == similarity >= 0.6 for key, similarity in found.items())
    assert {key for key, estimate in estimates.items() if estimate >= 0.8} <= set(found)


def test_similarity_is_symmetric_and_bounded() -> None:
    a, b = signature(TEXT), signature(_changed(TEXT, 20))
    assert jaccard(a, b) == jaccard(b, a)
    assert 0 < jaccard(a, b) < 1
