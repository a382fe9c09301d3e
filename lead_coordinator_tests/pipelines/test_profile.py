"""A site's profile: read strictly, stored without defaults, the same again when it is read back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lead_coordinator.database.sites import StoredSite
from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.profile import SiteProfile, SiteProfiles

FULL = {
    "url": "https://example.org/",
    "language": "pt-BR",
    "timezone": "Europe/Berlin",
    "content": {"policy": "review", "cost_cap_usd": "0.05", "voice": {"name": "Garden"}},
    "intelligence": {"feeds": [{"url": "https://example.org/feed.xml", "competitor": True}]},
}


def test_a_site_without_a_profile_has_every_default() -> None:
    profile = SiteProfiles().of("main")
    assert profile == SiteProfile(name="main")
    assert (profile.url, profile.language, profile.timezone) == (None, "en", "UTC")
    assert profile.stored() == {}


def test_what_is_stored_is_what_was_set_and_reads_back_the_same() -> None:
    profile = SiteProfile.read("main", FULL)
    assert profile.stored() == FULL, "no default is stored"
    assert SiteProfile.read("main", profile.stored()) == profile
    assert profile.content.policy == "review"


def test_profiles_are_read_when_they_are_asked_for() -> None:
    now = datetime.now(UTC)
    sites = SiteProfiles([StoredSite("bad", {"colour": "red"}, now), StoredSite("main", FULL, now)])
    assert sites.names == ("bad", "main")
    assert sites.of("main") is sites.of("main")
    with pytest.raises(InvalidInput, match="site bad: colour is no setting"):
        sites.of("bad")


@pytest.mark.parametrize(
    ("name", "profile", "sentence"),
    [
        ("main", {"language": "english, please"}, "site main: language: english, please given: "),
        (
            "main",
            {"timezone": "Mars/Base"},
            "site main: timezone: Mars/Base given: must be an IANA time zone",
        ),
        ("main", {"url": "ftp://x"}, "site main: url: ftp://x given: must be a web address"),
        ("main", {"content": {"policy": "maybe"}}, "site main: content.policy: maybe given: "),
        ("main", {"content": {"voice": {"colour": 1}}}, "site main: content.voice.colour is no setting"),
        ("main", {"intelligence": {"feeds": [{}]}}, "site main: intelligence.feeds.0.url is needed"),
        ("main", ["url"], "site main: ['url'] given, a table of settings is needed"),
        ("Main Site", {}, "site Main Site: name: Main Site given: "),
        (7, {}, "site 7: name: 7 given: "),
        ("x" * 5000, {}, "site xxx"),
    ],
)
def test_what_is_wrong_is_named(name: Any, profile: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        SiteProfile.read(name, profile)
    assert str(caught.value).startswith(sentence)
    assert len(str(caught.value)) < 600, "whatever was given"
    assert str(caught.value).isprintable()


def test_a_profile_can_not_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SiteProfile(name="main").url = "https://example.org/"  # type: ignore[misc]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
SECTIONS = st.sampled_from(["url", "language", "timezone", "content", "seo", "revenue", "intelligence", "x"])


@given(st.dictionaries(SECTIONS, JSON, max_size=4))
def test_whatever_is_given_is_a_profile_or_a_sentence(profile: dict[str, Any]) -> None:
    try:
        read = SiteProfile.read("main", profile)
    except InvalidInput:
        return
    assert SiteProfile.read("main", read.stored()) == read


def test_every_setting_of_every_section_says_what_it_is() -> None:
    unsaid: list[str] = []

    def look(model: type, where: str) -> None:
        for name, field in model.model_fields.items():
            kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
            groups = [kind for kind in kinds if hasattr(kind, "model_fields")]
            for group in groups:
                look(group, f"{where}.{name}")
            if len(field.description or "") < 5 and not groups:
                unsaid.append(f"{where}.{name}")

    look(SiteProfile, "site")
    assert unsaid == []
