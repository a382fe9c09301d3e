"""What strangers send to the fetcher: each case ends in a clear failure or a safe answer, in flat memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lead_coordinator.web.fetch import Fetcher, FetchFailed
from lead_coordinator.web.page import main_text, text_of
from lead_coordinator_tests.web.cases import Case, Peak, cases, serve
from lead_coordinator_tests.web.server import WireServer
from lead_coordinator_tests.web.test_fetch import LOCAL

CASES = cases("web")


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 8


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_what_strangers_send(case: Case) -> None:
    # What the extractor and the client load once isn't the case's.
    main_text("<p>warm</p>", "http://h/")
    async with WireServer().running() as server, Fetcher(replace(LOCAL, max_bytes=2_000_000)) as fetcher:
        serve(case, server)
        with Peak() as peak:
            try:
                got = await fetcher.get(server.url + case.ask)
            except FetchFailed as error:
                outcome: object = error.kind
                said = str(error)
            else:
                outcome, said = got.status, "an answer"
                assert len(got.body) <= 2_000_000
                text = text_of(got.headers, got.body)
                assert isinstance(main_text(text, got.final_url), str)
        assert outcome == case.expect, case.about
        assert 0 < len(said) < 1500, "a failure is a readable sentence"
        assert peak.mb < case.most_mb, f"{case.about}: {peak.mb:.0f} MB"
        assert len(server.asked) < 30, "it doesn't ask for ever"
