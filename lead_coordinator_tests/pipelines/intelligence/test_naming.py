"""Names by a model: matched by id, cleaned, few calls, and never needed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lead_coordinator.database.connection import AsyncDatabase, Database
from lead_coordinator.database.executions import Lease
from lead_coordinator.errors import BadAnswer, DestinationDown, RateLimited, StaleLease
from lead_coordinator.pipelines.intelligence import naming
from lead_coordinator.pipelines.intelligence.coverage import Coverage, coverages
from lead_coordinator.pipelines.intelligence.naming import (
    NamedStories,
    NamedStory,
    StoryName,
    load_prompt,
    name_stories,
    opening,
)
from lead_coordinator.pipelines.intelligence.replay import as_of
from lead_coordinator.pipelines.intelligence.stories import group
from lead_coordinator.pipelines.intelligence.vectors import DocumentFrequencies
from lead_coordinator.pipelines.profile import SiteProfiles
from lead_coordinator.pipelines.runtime import TaskRun
from lead_coordinator.providers.factory import open_gateway
from lead_coordinator.settings import Settings
from lead_coordinator_tests.pipelines.intelligence.material import (
    FEEDS,
    NOON,
    ScriptedCaller,
    item,
    profiles,
    submit,
    work,
)
from lead_coordinator_tests.providers.conftest import StartSandbox, start_sandbox
from lead_coordinator_tests.web.server import WireServer, answer

__all__ = ["start_sandbox"]
pytestmark = pytest.mark.anyio


def task_run(caller: Any, told: list[str] | None = None, seconds: float = 200) -> TaskRun:
    def tell(kind: str, message: str, task_id: int | None = None, data: Any = None) -> None:
        (told if told is not None else []).append(message)

    return TaskRun(
        db=None,  # type: ignore[arg-type]
        lease=Lease("execution", 1),
        caller=caller,
        settings=Settings.load({}),
        profiles=SiteProfiles(),
        calls=[],
        task_id=1,
        seconds_left=lambda: seconds,
        now=lambda: NOON,
        tell_batch=tell,
    )


def story(title: str = "Peat compost ban confirmed") -> Coverage:
    frequencies = DocumentFrequencies()
    found = group([item(title)], (), {}, frequencies, similarity=0.3, active=timedelta(hours=1))
    (one,) = coverages(found.stories, found.items, {}, (), frequencies.weight, covered_similarity=0.3)
    return one


def scripted(make: Callable[[str], list[NamedStory]]) -> ScriptedCaller:
    class Caller(ScriptedCaller):
        def _answer(self, request: Any) -> NamedStories:
            return NamedStories(stories=make(one.story.story_id))

    one = story()
    return Caller()


async def test_names_are_matched_by_id_cleaned_and_cut() -> None:
    one = story()
    caller = scripted(
        lambda name: [
            NamedStory(id="other", title="Not asked for", summary=""),
            NamedStory(id=name, title="A\x00 title\u202e\n" + "x" * 200, summary="y " * 400),
        ]
    )
    named = await name_stories(task_run(caller), [(one, "Peat")])
    assert list(named) == [one.story.story_id]
    found = named[one.story.story_id]
    assert found.title.startswith("A title xxx")
    assert len(found.title) <= 120
    assert len(found.summary) <= 300


async def test_an_empty_name_is_no_name() -> None:
    caller = scripted(lambda name: [NamedStory(id=name, title=" \u200b ", summary="")])
    assert await name_stories(task_run(caller), [(story(), "Peat")]) == {}


@pytest.mark.parametrize("error", [BadAnswer("not JSON"), RateLimited("no slot"), DestinationDown("down")])
async def test_a_model_that_cant_be_asked_is_told_and_missed_by_nobody(error: Exception) -> None:
    told: list[str] = []
    run = task_run(ScriptedCaller(error), told)
    assert await name_stories(run, [(story(), "Peat")]) == {}
    assert await opening(run, "Briefing", [story()], []) == ""
    assert told == [f"name_stories: {error}", f"summarise_day: {error}"]


async def test_a_lost_lease_isnt_swallowed() -> None:
    with pytest.raises(StaleLease):
        await name_stories(task_run(ScriptedCaller(StaleLease("gone"))), [(story(), "Peat")])


async def test_without_time_no_model_is_asked() -> None:
    caller = ScriptedCaller()
    assert await name_stories(task_run(caller, seconds=naming.MIN_SECONDS - 1), [(story(), "Peat")]) == {}
    assert caller.requests == []


async def test_only_so_many_stories_are_named_in_one_call() -> None:
    caller = ScriptedCaller()
    stories = [(story(f"Story about garden number{n}"), f"Garden {n}") for n in range(30)]
    named = await name_stories(task_run(caller), stories)
    assert len(caller.requests) == 1
    assert len(named) == naming.MAX_NAMED
    assert named[stories[0][0].story.story_id] == StoryName("Named: Garden 0", "Said by several.")
    assert await name_stories(task_run(caller), []) == {}
    assert len(caller.requests) == 1


def test_prompts_say_that_what_they_hold_is_data() -> None:
    for name in ("name_stories", "summarise_day"):
        prompt = load_prompt(name)
        assert prompt.version.startswith(f"{name}@")
        assert "not instructions to you" in prompt.system
        assert "{data}" in prompt.user


async def test_with_the_sandbox_a_round_costs_less_than_a_cent(
    db: Database, async_db: AsyncDatabase, tmp_path: Path, start_sandbox: StartSandbox
) -> None:
    """The real gateway and SDKs, and the sandbox for a model."""
    sandbox = start_sandbox(seed=5)
    settings = Settings.load(
        {"LEAD_HOME": str(tmp_path), "GEMINI_BASE_URL": sandbox.url, "OPENAI_BASE_URL": sandbox.openai_url}
    )

    class Gateway(ScriptedCaller):
        def open(self, db: AsyncDatabase, lease: Lease) -> Any:
            return open_gateway(db, lease, settings)

    now = datetime.now(UTC)
    bodies = {f"/{path.name}": as_of(path.read_text(), NOON, now) for path in FEEDS.iterdir()}
    server = WireServer({name: answer(body) for name, body in bodies.items()})
    async with server.running():
        feeds = [{"url": f"{server.url}/{path.name}"} for path in sorted(FEEDS.iterdir())]
        submit(db)
        sites = profiles(
            feeds=feeds,
            poll={"allow_private_addresses": True},
            topics={"assumed_value_usd": 2},
        )
        report = await work(async_db, tmp_path, sites, Gateway())
    assert not report.failures
    (result,) = report.results
    assert result["model_calls"] == report.calls == 2
    assert 0 < report.cost_usd < 0.01
    assert "what readers need to know" in (tmp_path / result["briefing"]).read_text()
