"""Schemas as the services take them, and the upper bound of a prompt."""

import json
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from lead_coordinator.providers.wire import UnsupportedSchema, answer_schema, input_token_bound
from lead_coordinator_tests.providers.answers import Article, Plan


def _objects(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, dict):
        inner = [found for value in node.values() for found in _objects(value)]
        return [node, *inner] if node.get("type") == "object" else inner
    return [found for value in node for found in _objects(value)] if isinstance(node, list) else []


def test_openai_gets_strict_objects() -> None:
    schema = answer_schema(Article, "openai")
    for one in _objects(schema):
        assert one["additionalProperties"] is False
        assert one["required"] == list(one["properties"])
    text = json.dumps(schema)
    for keyword in ("minLength", "maxLength", "pattern", "default", "$ref", "exclusiveMinimum", 'title": "T'):
        assert keyword not in text, f"{keyword} isn't taken in strict mode everywhere"
    assert schema["properties"]["sections"]["minItems"] == 4
    assert schema["properties"]["note"]["anyOf"][1] == {"type": "null"}


def test_gemini_gets_openapi() -> None:
    schema = answer_schema(Article, "gemini")
    text = json.dumps(schema)
    for keyword in ("additionalProperties", "minLength", "pattern", "exclusive", "$ref", "anyOf", "default"):
        assert keyword not in text
    assert schema["properties"]["note"]["nullable"] is True
    assert schema["propertyOrdering"] == list(Article.model_fields)


def test_bounds_are_said_where_they_can_not_be_keywords() -> None:
    properties = answer_schema(Article, "openai")["properties"]
    assert "(80 to 160 characters)" in properties["meta_description"]["description"]
    assert "at most 60 characters" in properties["seo_title"]["description"]
    assert "over 0" in properties["share"]["description"]
    assert "^[a-z0-9]+" in properties["slug"]["description"]


def test_what_can_not_be_asked_for_is_named() -> None:
    class Tree(BaseModel):
        children: list["Tree"]

    class Free(BaseModel):
        extra: dict[str, str]

    class Anything(BaseModel):
        thing: Any

    with pytest.raises(UnsupportedSchema, match="Tree contains itself"):
        answer_schema(Tree, "gemini")
    with pytest.raises(UnsupportedSchema, match=r"Free\.extra"):
        answer_schema(Free, "openai")
    with pytest.raises(UnsupportedSchema, match=r"Anything\.thing"):
        answer_schema(Anything, "openai")


def test_a_union_keeps_its_branches() -> None:
    class Either(BaseModel):
        one: int | str = Field(description="either")
        kind: Literal["a"]

    schema = answer_schema(Either, "openai")
    assert [branch["type"] for branch in schema["properties"]["one"]["anyOf"]] == ["integer", "string"]
    assert schema["properties"]["kind"]["enum"] == ["a"]


@given(st.lists(st.text(max_size=300), max_size=5))
def test_a_token_is_at_least_a_byte(texts: list[str]) -> None:
    content = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    bound = input_token_bound(tuple(texts), Plan, "openai")
    assert bound >= content + len(json.dumps(answer_schema(Plan, "openai"), separators=(",", ":")))
