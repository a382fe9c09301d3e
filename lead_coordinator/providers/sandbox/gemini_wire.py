# ruff: noqa: E501 - the service's own sentences
"""Gemini's generateContent on the wire, as `google-genai` 3.4 sends and reads it.

The SDK writes the schema of `response_schema` with upper-case types and snake_case bounds, and that of
`response_json_schema` as it is; keys of nested messages come in either case, as protobuf's JSON allows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from lead_coordinator.providers.sandbox.exchange import Answer, BadRequest, Question, Reply

NAME = "gemini"
HELP = {
    "@type": "type.googleapis.com/google.rpc.Help",
    "links": [
        {
            "description": "Learn more about Gemini API quotas",
            "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
        }
    ],
}


def key_of(headers: Mapping[str, str], query: Mapping[str, str]) -> str | None:
    return headers.get("x-goog-api-key") or query.get("key")


def question(model: str, body: object) -> Question:
    """Raises `BadRequest` as the service would."""
    if not isinstance(body, Mapping):
        raise BadRequest("Invalid JSON payload received. Root element must be a message.")
    if not model.startswith("gemini-"):
        raise BadRequest(
            f"models/{model} is not found for API version v1, or is not supported for generateContent. "
            "Call ModelService.ListModels to see the list of available models and their supported methods.",
            status=404,
        )
    contents = body.get("contents")
    texts = tuple(text for content in _list(contents) for text in _texts(content))
    if not texts:
        raise BadRequest("* GenerateContentRequest.contents: contents is not specified\n")
    config = _mapping(_either(body, "generationConfig"))
    schema = _either(config, "responseJsonSchema")
    schema = _either(config, "responseSchema") if schema is None else schema
    if schema is not None and not isinstance(schema, Mapping):
        raise BadRequest("Invalid value at 'generation_config.response_schema'")
    if schema is not None and _either(config, "responseMimeType") != "application/json":
        raise BadRequest(
            "* GenerateContentRequest.generation_config.response_schema: "
            "only allowed when response_mime_type is application/json\n"
        )
    limit = _either(config, "maxOutputTokens")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise BadRequest("* GenerateContentRequest.generation_config.max_output_tokens: must be positive\n")
    thinking, budget = _thinking(model, _mapping(_either(config, "thinkingConfig")))
    return Question(
        model=model,
        system="\n".join(_texts(_either(body, "systemInstruction"))),
        texts=texts,
        schema=schema,
        schema_text=json.dumps(schema) if schema is not None else "",
        max_output_tokens=limit,
        thinking=thinking,
        max_thinking_tokens=budget,
    )


def answered(asked: Question, answer: Answer, request_id: str) -> Reply:
    usage: dict[str, Any] = {
        "promptTokenCount": answer.input_tokens,
        "candidatesTokenCount": answer.output_tokens,
        "totalTokenCount": answer.input_tokens + answer.output_tokens + answer.thinking_tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": answer.input_tokens}],
    }
    if answer.cached_tokens:
        usage["cachedContentTokenCount"] = answer.cached_tokens
        usage["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": answer.cached_tokens}]
    if answer.thinking_tokens:
        usage["thoughtsTokenCount"] = answer.thinking_tokens
    candidate = {
        "content": {"parts": [{"text": answer.text}], "role": "model"},
        "finishReason": "MAX_TOKENS" if answer.truncated else "STOP",
        "index": 0,
    }
    return Reply(
        200,
        {
            "candidates": [candidate],
            "usageMetadata": usage,
            "modelVersion": asked.model,
            "responseId": request_id,
        },
    )


def rate_limited(model: str, limit: int, retry_after_seconds: float | None) -> Reply:
    """429. `retry_after_seconds` None: without RetryInfo, as the service sometimes sends it."""
    violation = {
        "quotaMetric": "generativelanguage.googleapis.com/generate_requests_per_model",
        "quotaId": "GenerateRequestsPerMinutePerProjectPerModel",
        "quotaDimensions": {"location": "global", "model": model},
        "quotaValue": str(limit),
    }
    details: list[dict[str, Any]] = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]},
        HELP,
    ]
    message = (
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        "error, head to: https://ai.google.dev/gemini-api/docs/rate-limits. \n* Quota exceeded for metric: "
        f"generativelanguage.googleapis.com/generate_requests_per_model, limit: {limit}, model: {model}"
    )
    if retry_after_seconds is not None:
        message += f"\nPlease retry in {retry_after_seconds:.9f}s."
        retry = {
            "@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retryDelay": f"{math.ceil(retry_after_seconds)}s",
        }
        details.append(retry)
    return _error(429, "RESOURCE_EXHAUSTED", message, details)


def refused(error: BadRequest) -> Reply:
    return _error(error.status, "NOT_FOUND" if error.status == 404 else "INVALID_ARGUMENT", error.message)


def server_error() -> Reply:
    return _error(
        500,
        "INTERNAL",
        "An internal error has occurred. Please retry or report in "
        "https://developers.generativeai.google/guide/troubleshooting",
    )


def overloaded() -> Reply:
    return _error(503, "UNAVAILABLE", "The model is overloaded. Please try again later.")


def bad_key(missing: bool = False) -> Reply:
    if missing:
        return _error(
            403,
            "PERMISSION_DENIED",
            "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or "
            "other form of API consumer identity to call this API.",
        )
    message = "API key not valid. Please pass a valid API key."
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
        "metadata": {"service": "generativelanguage.googleapis.com"},
    }
    localized = {
        "@type": "type.googleapis.com/google.rpc.LocalizedMessage",
        "locale": "en-US",
        "message": message,
    }
    return _error(400, "INVALID_ARGUMENT", message, [info, localized])


def billing_stop() -> Reply:
    return _error(
        429,
        "RESOURCE_EXHAUSTED",
        "Your prepayment credits are depleted. Please go to AI Studio at https://ai.studio/projects to manage your "
        "project and billing.",
    )


def _error(code: int, status: str, message: str, details: list[dict[str, Any]] | None = None) -> Reply:
    error: dict[str, Any] = {"code": code, "message": message, "status": status}
    if details:
        error["details"] = details
    return Reply(code, {"error": error})


def _thinking(model: str, config: Mapping[str, Any]) -> tuple[float, int | None]:
    """Share of thinking, and its cap in tokens."""
    budget, level = _either(config, "thinkingBudget"), _either(config, "thinkingLevel")
    if isinstance(budget, int) and budget >= 0:
        return (0.0, 0) if budget == 0 else (0.5, budget)
    if level is not None:
        return {"MINIMAL": 0.0, "LOW": 0.15, "MEDIUM": 0.5}.get(str(level).upper(), 1.0), None
    return (0.0, 0) if "flash-lite" in model else (0.6, None)


def _either(body: Mapping[str, Any], name: str) -> Any:
    """A field by its JSON name or its protobuf name."""
    if name in body:
        return body[name]
    return body.get("".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name))


def _texts(content: object) -> list[str]:
    parts = _list(_mapping(content).get("parts"))
    return [part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str)]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    if isinstance(value, list):
        return value
    return [value] if isinstance(value, Mapping) else []
