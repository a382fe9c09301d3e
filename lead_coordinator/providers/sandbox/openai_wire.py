# ruff: noqa: E501 - the service's own sentences
"""OpenAI's chat completions on the wire, as `openai` 3.54 sends and reads them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from lead_coordinator.providers.sandbox.exchange import Answer, BadRequest, Question, Reply

NAME = "openai"
_REASONING = re.compile(r"^(gpt-[5-9]|gpt-\d\d|o\d)")
_EFFORTS = {"none": 0.0, "minimal": 0.0, "low": 0.15, "medium": 0.5, "high": 1.0, "xhigh": 1.5, "max": 2.0}


def key_of(headers: Mapping[str, str]) -> str | None:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def question(body: object) -> Question:
    """Raises `BadRequest` as the service would."""
    if not isinstance(body, Mapping):
        raise BadRequest("We could not parse the JSON body of your request.")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("you must provide a model parameter")
    if not re.match(r"(gpt-|o\d)", model):
        raise BadRequest(
            f"The model `{model}` does not exist or you do not have access to it.",
            status=404,
            code="model_not_found",
        )
    messages = [m for m in body.get("messages") or [] if isinstance(m, Mapping)]
    texts = tuple(_text(m) for m in messages if m.get("role") == "user")
    if not any(texts):
        raise BadRequest("Invalid 'messages': empty array.", code="empty_array", param="messages")
    if body.get("stream"):
        raise BadRequest("The sandbox provider doesn't stream.", code="unsupported_value", param="stream")
    reasoning = bool(_REASONING.match(model))
    _check_parameters(body, reasoning)
    schema, schema_text = _schema(body.get("response_format"))
    return Question(
        model=model,
        system="\n".join(_text(m) for m in messages if m.get("role") in ("system", "developer")),
        texts=texts,
        schema=schema,
        schema_text=schema_text,
        max_output_tokens=_limit(body),
        thinking=_EFFORTS.get(str(body.get("reasoning_effort") or "medium"), 0.5) if reasoning else 0.0,
    )


def answered(asked: Question, answer: Answer, request_id: str, created: int) -> Reply:
    completion = answer.output_tokens + answer.thinking_tokens
    usage = {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": completion,
        "total_tokens": answer.input_tokens + completion,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": answer.thinking_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []},
        "logprobs": None,
        "finish_reason": "length" if answer.truncated else "stop",
    }
    return Reply(
        200,
        {
            "id": f"chatcmpl-{request_id}",
            "object": "chat.completion",
            "created": created,
            "model": asked.model,
            "choices": [choice],
            "usage": usage,
            "service_tier": "default",
            "system_fingerprint": None,
        },
        {"x-request-id": f"req_{request_id}"},
    )


def rate_limited(model: str, limit: int, retry_after_seconds: float | None) -> Reply:
    headers = {"x-ratelimit-limit-requests": str(limit), "x-ratelimit-remaining-requests": "0"}
    wait = ""
    if retry_after_seconds is not None:
        wait = f" Please try again in {retry_after_seconds:.3f}s."
        headers |= {
            "x-ratelimit-reset-requests": f"{retry_after_seconds:.3f}s",
            "retry-after-ms": str(math.ceil(retry_after_seconds * 1000)),
            "retry-after": str(math.ceil(retry_after_seconds)),
        }
    return _error(
        429,
        f"Rate limit reached for {model} in organization org-sandbox on requests per min (RPM): Limit {limit}, "
        f"Used {limit}, Requested 1.{wait} Visit https://platform.openai.com/account/rate-limits to learn more.",
        "requests",
        "rate_limit_exceeded",
        headers=headers,
    )


def refused(error: BadRequest) -> Reply:
    return _error(error.status, error.message, "invalid_request_error", error.code, error.param)


def server_error() -> Reply:
    return _error(
        500,
        "The server had an error while processing your request. Sorry about that!",
        "server_error",
        None,
    )


def overloaded() -> Reply:
    return _error(
        503,
        "The engine is currently overloaded, please try again later.",
        "server_error",
        "service_unavailable",
    )


def bad_key(missing: bool = False) -> Reply:
    if missing:
        return _error(
            401,
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer "
            "auth (i.e. Authorization: Bearer YOUR_KEY).",
            "invalid_request_error",
            None,
        )
    return _error(
        401,
        "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys.",
        "invalid_request_error",
        "invalid_api_key",
    )


def billing_stop() -> Reply:
    return _error(
        429,
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        "error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
        "insufficient_quota",
        "insufficient_quota",
    )


def _error(
    status: int,
    message: str,
    kind: str,
    code: str | None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    return Reply(
        status, {"error": {"message": message, "type": kind, "param": param, "code": code}}, headers or {}
    )


def _check_parameters(body: Mapping[str, Any], reasoning: bool) -> None:
    if reasoning and body.get("max_tokens") is not None:
        raise BadRequest(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            code="unsupported_parameter",
            param="max_tokens",
        )
    temperature = body.get("temperature")
    if reasoning and temperature not in (None, 1):
        raise BadRequest(
            f"Unsupported value: 'temperature' does not support {temperature} with this model. "
            "Only the default (1) value is supported.",
            code="unsupported_value",
            param="temperature",
        )
    effort = body.get("reasoning_effort")
    if effort is not None and effort not in _EFFORTS:
        raise BadRequest(
            f"Unsupported value: 'reasoning_effort' does not support '{effort}' with this model.",
            code="unsupported_value",
            param="reasoning_effort",
        )


def _limit(body: Mapping[str, Any]) -> int | None:
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise BadRequest(
            f"Invalid 'max_completion_tokens': expected a positive integer, got {limit!r}.",
            code="integer_below_min_value",
            param="max_completion_tokens",
        )
    return limit


def _schema(response_format: object) -> tuple[Mapping[str, Any] | None, str]:
    if not isinstance(response_format, Mapping) or response_format.get("type") != "json_schema":
        return None, ""
    given = response_format.get("json_schema")
    if not isinstance(given, Mapping) or not isinstance(given.get("schema"), Mapping):
        raise BadRequest(
            "Missing required parameter: 'response_format.json_schema'.", param="response_format.json_schema"
        )
    schema = given["schema"]
    if given.get("strict"):
        _check_strict(str(given.get("name")), schema, (), 0)
    return schema, json.dumps(schema)


def _check_strict(name: str, node: object, context: tuple[str, ...], depth: int) -> None:
    """What strict mode asks of every object: no additional properties, and every property required."""
    if depth > 20 or not isinstance(node, Mapping):
        return
    properties = node.get("properties")
    if node.get("type") == "object" or isinstance(properties, Mapping):
        place = f"Invalid schema for response_format '{name}': In context={context!r}, "
        if node.get("additionalProperties") is not False:
            raise BadRequest(
                f"{place}'additionalProperties' is required to be supplied and to be false.",
                param="response_format",
            )
        missing = [key for key in properties or {} if key not in (node.get("required") or [])]
        if missing:
            raise BadRequest(
                f"{place}'required' is required to be supplied and to be an array including every key in properties. "
                f"Missing '{missing[0]}'.",
                param="response_format",
            )
        for key, child in (properties or {}).items():
            _check_strict(name, child, (*context, "properties", key), depth + 1)
    for key in ("items", *(k for k in ("$defs", "definitions") if k in node)):
        child = node.get(key)
        children = child.items() if key != "items" and isinstance(child, Mapping) else [("", child)]
        for label, one in children:
            _check_strict(name, one, (*context, key, *filter(None, (label,))), depth + 1)
    for branch in node.get("anyOf") or []:
        _check_strict(name, branch, (*context, "anyOf"), depth + 1)


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""
