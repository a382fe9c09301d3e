"""Addresses: canonical, resolved, refused."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lead_coordinator.web.addresses import refusal
from lead_coordinator.web.failures import FetchFailed
from lead_coordinator.web.urls import canonical, host_of, origin_of, resolve

# No test looks at the clock, not even by Hypothesis's own deadline.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTP://Example.ORG", "http://example.org/"),
        ("https://example.org:443/a/../b/./c", "https://example.org/b/c"),
        ("http://example.org:8080/%7euser/%e4", "http://example.org:8080/~user/%E4"),
        ("http://example.org/a b?q=ä#part", "http://example.org/a%20b?q=%C3%A4"),
        ("http://example.org/100%", "http://example.org/100%25"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("  http://exa\nmple.org/\t", "http://example.org/"),
        ("http://example.org//a//b", "http://example.org//a//b"),
        ("http://[::1]:80/", "http://[::1]/"),
        ("http://example.org/../..", "http://example.org/"),
    ],
)
def test_canonical(url: str, expected: str) -> None:
    assert canonical(url) == expected


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("javascript:alert(1)", "forbidden_scheme"),
        ("file:///etc/passwd", "forbidden_scheme"),
        ("gopher://example.org/", "forbidden_scheme"),
        ("//example.org/", "forbidden_scheme"),
        ("http:///path", "invalid_url"),
        ("http://example.org:99999/", "invalid_url"),
        ("http://example.org:0/", "invalid_url"),
        ("http://user@example.org/", "invalid_url"),
        ("http://[::1", "invalid_url"),
        ("http://exa mple.org/", "invalid_url"),
        ("http://example.org/" + "a" * 5000, "invalid_url"),
        ("http://" + "é" * 300 + ".org/", "invalid_url"),
        ("x" * 100_000, "invalid_url"),
    ],
)
def test_what_is_no_address_is_refused(url: str, kind: str) -> None:
    with pytest.raises(FetchFailed) as caught:
        canonical(url)
    assert caught.value.kind == kind
    assert len(str(caught.value)) < 1000, "the sentence stays readable"


@UNHURRIED
@given(st.text(max_size=80))
def test_canonical_is_stable_and_never_fails_otherwise(text: str) -> None:
    for url in (text, f"http://example.org/{text}"):
        try:
            once = canonical(url)
        except FetchFailed:
            continue
        assert canonical(once) == once
        assert once.isascii()
        assert once.startswith(origin_of(once))
        assert host_of(once) in once


@UNHURRIED
@given(st.text(max_size=60))
def test_resolve_gives_an_address_or_a_failure(reference: str) -> None:
    try:
        assert canonical(resolve("http://example.org/a/b", reference)).startswith("http")
    except FetchFailed:
        pass


@pytest.mark.parametrize(
    ("address", "public", "private"),
    [
        ("93.184.216.34", True, True),
        ("2606:2800:220:1::1", True, True),
        ("127.0.0.1", False, True),
        ("::1", False, True),
        ("10.1.2.3", False, True),
        ("192.168.0.1", False, True),
        ("100.64.0.1", False, True),
        ("fd00::1", False, True),
        ("::ffff:10.0.0.1", False, True),
        ("2002:7f00:1::", False, True),
        ("64:ff9b::a00:1", False, True),
        ("::7f00:1", False, True),
        ("169.254.169.254", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("fe80::1%eth0", False, False),
        ("0.0.0.0", False, False),
        ("::", False, False),
        ("224.0.0.1", False, False),
        ("168.63.129.16", False, False),
        ("255.255.255.255", False, True),
        ("localhost", False, False),
    ],
)
def test_which_addresses_are_for_us(address: str, public: bool, private: bool) -> None:
    assert (refusal(address) is None) == public, refusal(address)
    assert (refusal(address, allow_private=True) is None) == private
