"""The HTTP side of the sandbox: routes, the rate window, latency, faults, the call log, the admin API.

The order of a request: arrival is timed first; a bad key or a bad request is refused without touching the
window; then the window; then a fault, if one is due; then the answer, after its latency. Whatever was
admitted stays counted, whatever becomes of it, as with the real services.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from lead_coordinator.providers.sandbox import gemini_wire, openai_wire
from lead_coordinator.providers.sandbox.calllog import CallLog, CallRecord
from lead_coordinator.providers.sandbox.exchange import Answer, BadRequest, Question, Reply
from lead_coordinator.providers.sandbox.faults import FaultPlan, InvalidFaults
from lead_coordinator.providers.sandbox.latency import PROFILES, Latency
from lead_coordinator.providers.sandbox.model import SandboxModel
from lead_coordinator.providers.sandbox.window import SlidingWindow

MAX_REQUEST_BYTES = 4_000_000
# A client that never gives up is let go after this long.
HANG_SECONDS = 600.0
# Refusals and errors come quickly.
ERROR_SECONDS = 0.02
_WIRES: Mapping[str, ModuleType] = {"gemini": gemini_wire, "openai": openai_wire}
_NO_TOKENS = Answer("", False, 0, 0, 0, 0)


@dataclass(frozen=True)
class SandboxConfig:
    """`limits`: requests a minute per provider. `call_log`: a JSONL file that is appended to."""

    latency: str = "fast"
    seed: int = 0
    gemini_limit: int = 60
    openai_limit: int = 50
    window_seconds: float = 60.0
    call_log: Path | None = None


class Sandbox:
    """State and handlers of one server."""

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.latency: Latency = PROFILES[config.latency]
        self.model = SandboxModel(config.seed)
        self.faults = FaultPlan(config.seed)
        self.log = CallLog(config.call_log)
        limits = {"gemini": config.gemini_limit, "openai": config.openai_limit}
        self.windows = {name: SlidingWindow(limit, config.window_seconds) for name, limit in limits.items()}
        self._asked = 0

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/{version:str}/models/{model}:generateContent", self.gemini, methods=["POST"]),
                Route("/v1/chat/completions", self.openai, methods=["POST"]),
                Route("/sandbox/health", self.health, methods=["GET"]),
                Route("/sandbox/stats", self.stats, methods=["GET"]),
                Route("/sandbox/calls", self.calls, methods=["GET"]),
                Route("/sandbox/faults", self.get_faults, methods=["GET"]),
                Route("/sandbox/faults", self.put_faults, methods=["PUT"]),
                Route("/sandbox/faults", self.delete_faults, methods=["DELETE"]),
                Route("/sandbox/reset", self.reset, methods=["POST"]),
            ]
        )

    # -- the two services ------------------------------------------------------------------------------------

    async def gemini(self, request: Request) -> Response:
        model = request.path_params["model"]
        key = gemini_wire.key_of(request.headers, request.query_params)
        return await self._serve(
            request, "gemini", key, model, lambda body: gemini_wire.question(model, body)
        )

    async def openai(self, request: Request) -> Response:
        return await self._serve(
            request, "openai", openai_wire.key_of(request.headers), "", openai_wire.question
        )

    async def _serve(
        self, request: Request, provider: str, key: str | None, model: str, read: Callable[[object], Question]
    ) -> Response:
        body: object
        try:
            body = await _json_body(request)
        except BadRequest as error:
            body = error
        # A request has arrived when it is whole: from here to the window nothing waits, so arrivals come to
        # the window in their order, without which it couldn't be exact.
        call = _Call(provider, model, arrived=time.monotonic())
        self.log.arrived(provider, call.arrived)
        wire = _WIRES[provider]
        if key is None or key.startswith("invalid"):
            return await self._refuse(call, wire.bad_key(missing=key is None))
        try:
            if isinstance(body, BadRequest):
                raise body
            asked = read(body)
            call.model = asked.model
        except BadRequest as error:
            return await self._refuse(call, wire.refused(error))
        admission = self.windows[provider].admit(call.arrived)
        if not admission.admitted:
            call.refused = True
            limit = self.windows[provider].limit
            return await self._refuse(
                call, wire.rate_limited(asked.model, limit, admission.retry_after_seconds)
            )
        self.log.admitted(provider, call.arrived)
        call.fault = self.faults.draw(provider)
        self._asked += 1
        match call.fault:
            case "timeout":
                return await self._hang(request, call)
            case "rate_limited":
                wait = None if self._asked % 5 == 0 else 2.0
                return await self._refuse(
                    call, wire.rate_limited(asked.model, self.windows[provider].limit, wait)
                )
            case "server_error" | "overloaded" | "bad_key" | "billing_stop" as kind:
                return await self._refuse(call, getattr(wire, kind)())
        try:
            answer = self.model.answer(asked)
        except BadRequest as error:
            return await self._refuse(call, wire.refused(error))
        if call.fault == "bad_answer":
            answer = _cut(answer)
        # The call's number is part of the chance, or all repetitions of one question would take equally long.
        await call.until(self.latency.draw(self.model.source(asked, f"latency{self._asked}")))
        return self._answered(call, asked, answer)

    def _answered(self, call: _Call, asked: Question, answer: Answer) -> Response:
        if call.provider == "gemini":
            reply = gemini_wire.answered(asked, answer, call.id)
        else:
            reply = openai_wire.answered(asked, answer, call.id, int(time.time()))
        self._book(call, reply.status, answer)
        if call.fault == "truncated":
            return _TruncatedResponse(json.dumps(reply.body), media_type="application/json")
        if call.fault == "garbage":
            return Response(
                "<html><body><h1>502 Bad Gateway</h1></body></html>\n\x00\xff", media_type="text/html"
            )
        return JSONResponse(reply.body, reply.status, headers=dict(reply.headers))

    async def _refuse(self, call: _Call, reply: Reply) -> Response:
        await call.until(ERROR_SECONDS)
        self._book(call, reply.status, _NO_TOKENS)
        return JSONResponse(reply.body, reply.status, headers=dict(reply.headers))

    async def _hang(self, request: Request, call: _Call) -> Response:
        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        try:
            await asyncio.wait_for(gone(), HANG_SECONDS)
        except TimeoutError:
            pass
        self._book(call, 504, _NO_TOKENS)
        return Response(status_code=504)

    def _book(self, call: _Call, status: int, answer: Answer) -> None:
        self.log.add(
            CallRecord(
                time=call.time,
                id=call.id,
                provider=call.provider,
                model=call.model[:100],
                status=status,
                input_tokens=answer.input_tokens,
                output_tokens=answer.output_tokens + answer.thinking_tokens,
                thinking_tokens=answer.thinking_tokens,
                cached_tokens=answer.cached_tokens,
                latency_ms=round((time.monotonic() - call.arrived) * 1000),
                refused=call.refused,
                fault=call.fault,
            )
        )

    # -- the admin API ---------------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        return JSONResponse({"ok": True, "latency": self.config.latency, "seed": self.config.seed})

    async def stats(self, request: Request) -> Response:
        limits = {name: window.limit for name, window in self.windows.items()}
        return JSONResponse(
            {"providers": self.log.stats(), "limits": limits, "faults": self.faults.as_dict()}
        )

    async def calls(self, request: Request) -> Response:
        limit, provider = request.query_params.get("limit", "1000"), request.query_params.get("provider")
        if not limit.isdigit() or provider not in (None, *_WIRES):
            return _invalid(f"limit={limit} must be a whole number, and provider={provider} gemini or openai")
        return JSONResponse({"calls": self.log.calls(provider, int(limit))})

    async def get_faults(self, request: Request) -> Response:
        return JSONResponse(self.faults.as_dict())

    async def put_faults(self, request: Request) -> Response:
        try:
            self.faults.replace(await _json_body(request))
        except (InvalidFaults, BadRequest) as error:
            return _invalid(str(error))
        return JSONResponse(self.faults.as_dict())

    async def delete_faults(self, request: Request) -> Response:
        self.faults.clear()
        return JSONResponse(self.faults.as_dict())

    async def reset(self, request: Request) -> Response:
        """Forgets counts, calls, faults and the rate windows; the call log's file keeps what it has."""
        self.log.clear()
        self.faults.clear()
        self.model.cache.clear()
        for window in self.windows.values():
            window.clear()
        self._asked = 0
        return JSONResponse({"ok": True})


class _Call:
    """One request on its way through."""

    def __init__(self, provider: str, model: str, arrived: float) -> None:
        self.provider = provider
        self.model = model
        self.arrived = arrived
        self.id = uuid.uuid4().hex[:24]
        self.time = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.refused = False
        self.fault: str | None = None

    async def until(self, seconds: float) -> None:
        """Waits until so long after the arrival."""
        await asyncio.sleep(max(0.0, self.arrived + seconds - time.monotonic()))


class _TruncatedResponse(Response):
    """Announces the whole body, sends half of it, and closes the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send(
            {"type": "http.response.body", "body": bytes(self.body[: len(self.body) // 2]), "more_body": True}
        )
        # Returning now leaves the response unfinished, upon which the server cuts the connection.


def _cut(answer: Answer) -> Answer:
    text = answer.text[: max(1, len(answer.text) * 2 // 3)]
    return Answer(
        text, False, answer.input_tokens, answer.output_tokens, answer.thinking_tokens, answer.cached_tokens
    )


def _invalid(sentence: str) -> Response:
    return JSONResponse({"error": sentence}, 422)


async def _json_body(request: Request) -> Any:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_REQUEST_BYTES:
                raise BadRequest(
                    f"Request payload size exceeds the limit: {MAX_REQUEST_BYTES} bytes.", status=413
                )
    except ClientDisconnect:
        raise BadRequest("The client went away.") from None
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError):
        raise BadRequest("Invalid JSON payload received. Unknown name or unexpected end.") from None
