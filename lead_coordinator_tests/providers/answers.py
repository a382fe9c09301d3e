"""Questions that the tests ask. The shapes are those of the content pipeline, and some nastier ones."""

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from lead_coordinator.providers.base import CallRequest, Message

BRIEF = {
    "title": "How to choose a standing desk for a small flat",
    "keyword": "standing desk",
    "audience": "people who work from home",
    "notes": "Measure the corner first; say nothing about brands",
}


class PlannedSection(BaseModel):
    heading: str = Field(description="Heading of the section")
    points: list[str] = Field(description="3 to 5 points")


class Plan(BaseModel):
    title: str
    sections: list[PlannedSection] = Field(description="5 to 8 sections in reading order")


class WrittenSection(BaseModel):
    heading: str = Field(min_length=3, max_length=110)
    body: str = Field(description="Markdown")


class Article(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: str = Field(min_length=5, max_length=200)
    introduction: str
    sections: list[WrittenSection] = Field(min_length=4, max_length=9)
    seo_title: str = Field(max_length=60)
    meta_description: str = Field(min_length=80, max_length=160)
    slug: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    keywords: list[str] = Field(min_length=2, max_length=5)
    score: int = Field(ge=0, le=100)
    share: float = Field(gt=0, lt=1)
    verdict: Literal["publish", "revise"]
    note: str | None = None
    rating: Literal[1, 2, 3] = 1


def question(
    schema: type[BaseModel] = Plan, max_output_tokens: int = 8000, brief: object = BRIEF
) -> CallRequest:
    return CallRequest(
        step="plan",
        messages=(
            Message("system", "You plan articles."),
            Message("user", f"Plan one.\n<brief>\n{json.dumps(brief)}\n</brief>\nAt least 1,200 words."),
        ),
        schema=schema,
        max_output_tokens=max_output_tokens,
    )
