"""The sandbox answers any schema it is asked in, from the brief, the same for the same seed and prompt."""

import json
import random
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, create_model

from lead_coordinator.providers.sandbox.brief import read_prompt
from lead_coordinator.providers.sandbox.prose import Prose, count_words
from lead_coordinator.providers.sandbox.schema import BadSchema
from lead_coordinator.providers.sandbox.writer import Writer, slug
from lead_coordinator.providers.wire import Dialect, answer_schema
from lead_coordinator_tests.providers.answers import BRIEF, Article, Plan, question

NAMES = [
    "title",
    "heading",
    "body",
    "score",
    "keywords",
    "meta_description",
    "issues",
    "points",
    "thing",
    "slug_text",
]


def _write(schema: Any, texts: list[str], seed: int = 1) -> Any:
    return Writer(schema, Prose(read_prompt(texts), random.Random(seed))).answer()


def _prompt(brief: object = BRIEF, **blocks: object) -> list[str]:
    tags = [f"<{name}>\n{json.dumps(value)}\n</{name}>" for name, value in {"brief": brief, **blocks}.items()]
    return ["System text.", "\n".join(tags) + "\nAt least 1,200 words."]


@pytest.mark.parametrize("dialect", ["gemini", "openai"])
def test_an_article_is_long_enough_and_marked(dialect: Dialect) -> None:
    article = Article.model_validate(_write(answer_schema(Article, dialect), _prompt()))
    words = count_words(article.introduction) + sum(count_words(s.body) for s in article.sections)
    assert words >= 1200, f"an article must have 1,200 words, not {words}"
    assert "Sandbox text." in article.introduction
    assert article.title == BRIEF["title"]
    assert len({section.heading for section in article.sections}) == len(article.sections), "no heading twice"
    assert sum("standing desk" in s.body for s in article.sections) >= 3, (
        "the subject of the brief is what it is about"
    )


@pytest.mark.parametrize("dialect", ["gemini", "openai"])
def test_outline_draft_edit_hang_together(dialect: Dialect) -> None:
    plan = _write(answer_schema(Plan, dialect), _prompt())
    draft = _write(answer_schema(Article, dialect), _prompt(outline=plan))
    assert [s["heading"] for s in draft["sections"]] == [s["heading"] for s in plan["sections"]]
    edited = _write(answer_schema(Article, dialect), _prompt(draft=draft), seed=99)
    assert edited["sections"] == draft["sections"], "an edit returns the draft it was given"


def test_the_same_prompt_gives_the_same_text_and_another_seed_another() -> None:
    schema = answer_schema(Article, "gemini")
    assert _write(schema, _prompt()) == _write(schema, _prompt())
    assert _write(schema, _prompt(), seed=2)["sections"] != _write(schema, _prompt())["sections"]


def test_different_briefs_give_different_articles() -> None:
    schema = answer_schema(Article, "gemini")
    other = _write(schema, _prompt({"title": "What to pack for a week of hiking"}), seed=3)
    assert other["title"] == "What to pack for a week of hiking"
    assert other["slug"] != _write(schema, _prompt())["slug"]


def test_a_brief_in_lines_is_found_too() -> None:
    brief = read_prompt(
        ["Title: Growing tomatoes on a balcony\nAudience: beginners\nNotes: mention pots; and water"]
    )
    assert brief.title == "Growing tomatoes on a balcony"
    assert brief.audience == "beginners"
    assert brief.notes == ("mention pots", "and water")


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "{",
        "{" * 5000,
        "[" * 100_000,
        '{"title": ' * 3000,
        '<brief>{"title": "<script>alert(1)</script>"}</brief>',
        "\ud800",
    ],
)
def test_a_hostile_prompt_is_only_text(prompt: str) -> None:
    answer = _write(answer_schema(Plan, "openai"), [prompt])
    Plan.model_validate(answer)
    assert "<script" not in json.dumps(answer)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}},
        {
            "type": "array",
            "minItems": 10**9,
            "items": {"type": "array", "minItems": 10**9, "items": {"type": "string"}},
        },
        {"type": "object", "properties": {"a": "text"}},
    ],
)
def test_a_hostile_schema_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(BadSchema):
        _write(schema, _prompt())


def _strings() -> st.SearchStrategy[Any]:
    low = st.integers(0, 120)
    return st.builds(
        lambda low, more, lower, upper: (
            str,
            Field(min_length=low if lower else None, max_length=low + more if upper else None),
        ),
        low,
        st.integers(20, 200),
        st.booleans(),
        st.booleans(),
    )


def _integers() -> st.SearchStrategy[Any]:
    return st.builds(
        lambda low, more: (int, Field(ge=low, le=low + more)), st.integers(-50, 200), st.integers(0, 100)
    )


def _floats() -> st.SearchStrategy[Any]:
    return st.builds(
        lambda low, more: (float, Field(gt=low, lt=low + more)), st.integers(-5, 5), st.integers(1, 9)
    )


def _others() -> st.SearchStrategy[Any]:
    return st.sampled_from([(bool, ...), (Literal["x", "y"], ...), (str | None, None), (Literal[3, 4], ...)])


def _models(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(NAMES), children, min_size=1, max_size=5).map(
        lambda fields: (create_model("Nested", **fields), ...)
    )


def _lists(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def build(child: Any, low: int, more: int, bounded: bool) -> Any:
        # The bounds of the items must survive: Annotated carries a Field into a list.
        kind, field = child
        item = kind if field in (..., None) else Annotated[kind, field]
        return (list[item], Field(min_length=low, max_length=low + more) if bounded else ...)  # type: ignore[valid-type]

    return st.builds(build, children, st.integers(0, 4), st.integers(0, 5), st.booleans())


fields = st.recursive(
    st.one_of(_strings(), _integers(), _floats(), _others()),
    lambda children: st.one_of(_models(children), _lists(children)),
    max_leaves=8,
)
models = st.dictionaries(st.sampled_from(NAMES), fields, min_size=1, max_size=6).map(
    lambda chosen: create_model("Asked", **chosen)
)


@settings(deadline=None, max_examples=150)
@given(models, st.sampled_from(["gemini", "openai"]), st.integers(0, 1000))
def test_any_schema_is_satisfied(model: type[BaseModel], dialect: Dialect, seed: int) -> None:
    value = _write(answer_schema(model, dialect), [*question().user_texts], seed)
    model.model_validate_json(json.dumps(value))


@given(st.text(max_size=200))
def test_a_slug_is_a_slug(title: str) -> None:
    words = slug(title).split("-")
    assert 3 <= len(words) <= 8
    assert all(word.isascii() and word.isalnum() and word == word.lower() for word in words)


class Named(BaseModel):
    id: str
    title: str
    summary: str = Field(description="At most 120 characters")


class NamedList(BaseModel):
    stories: list[Named]


@pytest.mark.parametrize("dialect", ["gemini", "openai"])
def test_what_has_an_id_in_the_prompt_gets_an_answer_each(dialect: Dialect) -> None:
    given_ = [{"id": "a1", "title": "Peat ban"}, {"id": "b2", "title": "Balcony solar"}]
    texts = ["System.", f"Name these:\n<stories>\n{json.dumps({'stories': given_})}\n</stories>"]
    answer = NamedList.model_validate(_write(answer_schema(NamedList, dialect), texts))
    assert [(one.id, one.title) for one in answer.stories] == [("a1", "Peat ban"), ("b2", "Balcony solar")]
    assert "Peat ban" in answer.stories[0].summary
    assert all(0 < len(one.summary) <= 120 for one in answer.stories)
