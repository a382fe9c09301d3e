"""Names of stories and the opening of the briefing by a model, where there is one and money for it.

At most two calls a round. What feeds said goes into a prompt only as JSON between tags, with `<`, `>` and `&`
as escapes, so that no text inside can close the tag; what comes back is cut, cleaned and matched by id. A
round goes on without: titles are then made of the stories' own words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, cast

from pydantic import BaseModel, Field

from lead_coordinator.errors import TaskError
from lead_coordinator.pipelines.intelligence.coverage import Coverage
from lead_coordinator.pipelines.intelligence.topics import Proposal
from lead_coordinator.pipelines.runtime import TaskRun
from lead_coordinator.providers.base import CallRequest, Message
from lead_coordinator.text.plain import one_line

MAX_NAMED = 10
MAX_TITLE = 120
MAX_SUMMARY = 300
MAX_OPENING = 600
MIN_SECONDS = 45.0
_SEPARATOR = "\n=== user ===\n"


class NamedStory(BaseModel):
    """One story's name."""

    id: str = Field(description="Id of the story, as given")
    title: str = Field(description="Working title of 4 to 10 words, plain text")
    summary: str = Field(description="What has happened and who says so, at most 300 characters")


class NamedStories(BaseModel):
    """Answer of the step `name_stories`."""

    stories: list[NamedStory] = Field(description="Every story given, in the order given")


class Opening(BaseModel):
    """Answer of the step `summarise_day`."""

    summary: str = Field(description="Opening of the briefing, 80 to 600 characters, without markup")


@dataclass(frozen=True)
class StoryName:
    """A cleaned name."""

    title: str
    summary: str


@dataclass(frozen=True)
class Prompt:
    """One template and its version, `name@` and eight digits of its SHA-256."""

    version: str
    system: str
    user: str

    def messages(self, data: Mapping[str, Any]) -> tuple[Message, ...]:
        return Message("system", self.system), Message("user", self.user.replace("{data}", data_block(data)))


@cache
def load_prompt(name: str) -> Prompt:
    """The template `prompts/<name>.md`."""
    text = resources.files(__package__).joinpath("prompts", f"{name}.md").read_text(encoding="utf-8")
    system, _, user = text.partition(_SEPARATOR)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Prompt(f"{name}@{digest}", system.strip(), user.strip())


def data_block(value: Mapping[str, Any]) -> str:
    """`value` as JSON that can't close the tag around it."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


async def name_stories(run: TaskRun, wanted: Sequence[tuple[Coverage, str]]) -> dict[str, StoryName]:
    """Names by story id for (story, title made without a model), as many as the model gave; none where it
    couldn't be asked."""
    asked = wanted[:MAX_NAMED]
    if not asked:
        return {}
    data = {"stories": [_story_data(one, title) for one, title in asked]}
    answer = await _ask(run, "name_stories", NamedStories, data, 160 * len(asked) + 400)
    if answer is None:
        return {}
    ids = {one.story.story_id for one, _ in asked}
    named = {}
    for story in cast(NamedStories, answer).stories:
        title, summary = one_line(story.title, MAX_TITLE), one_line(story.summary, MAX_SUMMARY)
        if story.id in ids and title:
            named[story.id] = StoryName(title, summary)
    return named


async def opening(run: TaskRun, title: str, found: Sequence[Coverage], proposals: Sequence[Proposal]) -> str:
    """Two to four sentences on the day; "" where the model couldn't be asked."""
    if not found:
        return ""
    data = {
        "title": title,
        "stories": [
            {"story": one.story.title, "feeds": len(one.feeds), "gap": one.gap} for one in found[:MAX_NAMED]
        ],
        "proposals": [proposal.title for proposal in proposals[:MAX_NAMED]],
    }
    answer = await _ask(run, "summarise_day", Opening, data, 600)
    return "" if answer is None else one_line(cast(Opening, answer).summary, MAX_OPENING)


def _story_data(one: Coverage, title: str) -> dict[str, Any]:
    return {
        "id": one.story.story_id,
        "title": title,
        "items": [{"title": item.title, "text": item.summary[:300]} for item in one.items[:4]],
    }


async def _ask(
    run: TaskRun, step: str, schema: type[BaseModel], data: Mapping[str, Any], tokens: int
) -> BaseModel | None:
    if run.seconds_left() < MIN_SECONDS:
        run.tell("without_model", f"{step}: no time left to ask a model")
        return None
    request = CallRequest(
        step=step,
        messages=load_prompt(step).messages(data),
        schema=schema,
        max_output_tokens=tokens,
        temperature=0.3,
    )
    try:
        result = await run.caller.call(run.task_id, request)
    except TaskError as error:
        # No budget, no provider, no usable answer: names are a convenience, the round is not.
        run.tell("without_model", f"{step}: {error}")
        return None
    return result.value
