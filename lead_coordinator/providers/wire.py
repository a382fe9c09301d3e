"""From a pydantic model to the JSON schema that a provider takes, and an upper bound of what a prompt weighs.

Providers take a subset of JSON Schema, and refuse (or choke on) the rest: OpenAI's strict mode wants every
property required and no additional ones; Gemini refuses schemas whose bounds make "too many states". So
references are inlined, optional becomes nullable, and the bounds that a provider doesn't take as keywords are
said in the description, "(80 to 160 characters)". The answer is validated against the pydantic model itself,
with every bound, whatever the provider promised.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel

Dialect = Literal["gemini", "openai"]

# Chat templates add some tokens to each message, and to the request as a whole; these are generous.
TOKENS_PER_MESSAGE = 32
TOKENS_PER_REQUEST = 256

_SCALARS = ("string", "integer", "number", "boolean")


class UnsupportedSchema(ValueError):
    """A pydantic model that no provider can be asked to answer in; the sentence names the place."""


@lru_cache(maxsize=128)
def answer_schema(model: type[BaseModel], dialect: Dialect) -> dict[str, Any]:
    """The schema of `model` as `dialect` takes it. The result is shared: don't change it.

    Raises `UnsupportedSchema` for recursive models, free-form dicts and untyped fields.
    """
    whole = model.model_json_schema()
    return _Converter(dialect, whole.get("$defs", {})).convert(whole, model.__name__, ())


@lru_cache(maxsize=128)
def schema_bytes(model: type[BaseModel], dialect: Dialect) -> int:
    """Length of the schema in compact JSON, bytes."""
    return len(json.dumps(answer_schema(model, dialect), separators=(",", ":")).encode())


def input_token_bound(texts: tuple[str, ...], model: type[BaseModel], dialect: Dialect) -> int:
    """The most tokens that `texts` and the schema can be.

    Both providers' tokenizers fall back to single bytes, so a token is at least one byte of UTF-8: the byte
    count is a strict upper bound (English prose has about four bytes a token).
    """
    content = sum(len(text.encode("utf-8", errors="surrogatepass")) for text in texts)
    return content + schema_bytes(model, dialect) + TOKENS_PER_MESSAGE * len(texts) + TOKENS_PER_REQUEST


class _Converter:
    def __init__(self, dialect: Dialect, definitions: Mapping[str, Any]) -> None:
        self._dialect = dialect
        self._definitions = definitions

    def convert(
        self, node: Mapping[str, Any], path: str, open_refs: tuple[str, ...], depth: int = 0
    ) -> dict[str, Any]:
        if "$ref" in node:
            name = str(node["$ref"]).rsplit("/", 1)[-1]
            if name in open_refs:
                raise UnsupportedSchema(
                    f"{path}: {name} contains itself; a recursive model can't be asked for"
                )
            beside = {key: value for key, value in node.items() if key != "$ref"}
            return self.convert({**self._definitions[name], **beside}, path, (*open_refs, name), depth)
        options = node.get("anyOf") or node.get("oneOf") or node.get("allOf")
        if options is not None:
            return self._union(node, options, path, open_refs, depth)
        if "const" in node or "enum" in node:
            return self._enumeration(node, [node["const"]] if "const" in node else list(node["enum"]), path)
        match node.get("type"):
            case "object":
                return self._object(node, path, open_refs, depth)
            case "array":
                return self._array(node, path, open_refs, depth)
            case kind if kind in _SCALARS:
                return self._scalar(node, str(kind))
        raise UnsupportedSchema(
            f"{path}: a field needs a type that JSON Schema can say, not {dict(node)!r}"[:300]
        )

    def _enumeration(self, node: Mapping[str, Any], values: list[Any], path: str) -> dict[str, Any]:
        kind = _type_of(values[0], path)
        if self._dialect == "gemini" and kind != "string":  # its enumerations hold text only
            return self._described({"type": kind}, node, [f"one of {', '.join(map(str, values))}"])
        return self._described({"type": kind, "enum": values}, node, [])

    def _union(
        self, node: Mapping[str, Any], options: list[Any], path: str, open_refs: tuple[str, ...], depth: int
    ) -> dict[str, Any]:
        kinds = [self.convert(o, path, open_refs, depth) for o in options if o.get("type") != "null"]
        nullable = len(kinds) < len(options)
        if len(kinds) == 1:
            only = dict(kinds[0])
            if node.get("description"):
                only["description"] = " ".join(
                    filter(None, (node["description"], kinds[0].get("description")))
                )
            if not nullable:
                return only
            if self._dialect == "gemini":
                return {**only, "nullable": True}
            kinds = [only]
        united: dict[str, Any] = {"anyOf": kinds}
        if nullable and self._dialect == "gemini":
            united["nullable"] = True
        elif nullable:
            united["anyOf"] = [*kinds, {"type": "null"}]
        return self._described(united, node, []) if len(kinds) > 1 else united

    def _object(
        self, node: Mapping[str, Any], path: str, open_refs: tuple[str, ...], depth: int
    ) -> dict[str, Any]:
        properties = node.get("properties")
        if not properties:
            raise UnsupportedSchema(f"{path}: a free-form object can't be asked for; name its fields")
        if isinstance(node.get("additionalProperties"), Mapping) or node.get("additionalProperties") is True:
            raise UnsupportedSchema(f"{path}: additional properties can't be asked for; name the fields")
        converted: dict[str, Any] = {
            "type": "object",
            "properties": {
                name: self.convert(child, f"{path}.{name}", open_refs, depth + 1)
                for name, child in properties.items()
            },
            "required": list(properties),
        }
        if self._dialect == "openai":
            converted["additionalProperties"] = False
        else:
            converted["propertyOrdering"] = list(properties)
        return self._described(converted, node, [])

    def _array(
        self, node: Mapping[str, Any], path: str, open_refs: tuple[str, ...], depth: int
    ) -> dict[str, Any]:
        items = node.get("items")
        if not isinstance(items, Mapping):
            raise UnsupportedSchema(f"{path}: a list needs one type of item")
        converted: dict[str, Any] = {
            "type": "array",
            "items": self.convert(items, f"{path}[]", open_refs, depth + 1),
        }
        # Gemini multiplies the states of nested bounds, so only the outermost stay keywords there.
        if self._dialect == "openai" or depth <= 1:
            converted.update({key: node[key] for key in ("minItems", "maxItems") if key in node})
        return self._described(converted, node, [_range(node, "minItems", "maxItems", "items")])

    def _scalar(self, node: Mapping[str, Any], kind: str) -> dict[str, Any]:
        converted: dict[str, Any] = {"type": kind}
        said = [
            _range(node, "minLength", "maxLength", "characters"),
            _range(node, "minimum", "maximum", ""),
            f"over {node['exclusiveMinimum']}" if "exclusiveMinimum" in node else "",
            f"under {node['exclusiveMaximum']}" if "exclusiveMaximum" in node else "",
            f"in steps of {node['multipleOf']}" if "multipleOf" in node else "",
            f"matching {node['pattern']}" if "pattern" in node else "",
            f"as {node['format']}" if "format" in node else "",
        ]
        if kind in ("integer", "number"):
            converted.update({key: node[key] for key in ("minimum", "maximum") if key in node})
        return self._described(converted, node, said)

    @staticmethod
    def _described(converted: dict[str, Any], node: Mapping[str, Any], said: list[str]) -> dict[str, Any]:
        bounds = ", ".join(filter(None, said))
        description = " ".join(filter(None, (node.get("description", ""), f"({bounds})" if bounds else "")))
        if description:
            converted["description"] = description
        return converted


def _range(node: Mapping[str, Any], low_key: str, high_key: str, unit: str) -> str:
    low, high = node.get(low_key), node.get(high_key)
    if low is None and high is None:
        return ""
    if low is None:
        text = f"at most {high}"
    elif high is None:
        text = f"at least {low}"
    elif low == high:
        text = f"exactly {low}"
    else:
        text = f"{low} to {high}"
    return f"{text} {unit}".strip()


def _type_of(value: object, path: str) -> str:
    match value:
        case bool():
            return "boolean"
        case str():
            return "string"
        case int():
            return "integer"
        case float():
            return "number"
    raise UnsupportedSchema(f"{path}: {value!r} can't be one of an enumeration")
