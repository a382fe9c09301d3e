"""A web server that answers exactly what a test tells it to, byte by byte, however wrong that is."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Asked:
    method: str
    target: str
    headers: dict[str, str]


Handler = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]
Answer = bytes | Handler


def answer(
    body: bytes | str = b"", status: str = "200 OK", *, compress: bool = False, **headers: str
) -> bytes:
    """A well-formed answer. Header names are written with underscores."""
    raw = body.encode() if isinstance(body, str) else body
    named = {"content-type": "text/html; charset=utf-8"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    if compress:
        raw = gzip.compress(raw)
        named["content-encoding"] = "gzip"
    named.setdefault("content-length", str(len(raw)))
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + raw


def redirect(location: str, status: str = "301 Moved Permanently") -> bytes:
    return answer("", status, location=location)


@dataclass
class WireServer:
    """`routes`: targets (path and query) to answers; others get `missing`. `asked`: what came in."""

    routes: dict[str, Answer] = field(default_factory=dict)
    missing: Answer = field(default_factory=lambda: answer("not here", "404 Not Found"))
    asked: list[Asked] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    port: int = 0
    ssl_context: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def targets(self) -> list[str]:
        return [one.target for one in self.asked]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[WireServer]:
        tasks: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                with suppress(OSError, asyncio.IncompleteReadError):
                    await self._serve(reader, writer)
            except asyncio.CancelledError:
                pass
            finally:
                tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=self.ssl_context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            method, target, _ = first.split(" ", 2)
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            asked = Asked(method, target, headers)
            self.asked.append(asked)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                found = self.routes.get(target, self.missing)
                if isinstance(found, bytes):
                    head_only = found.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
                    writer.write(head_only if method == "HEAD" else found)
                    await writer.drain()
                else:
                    await found(asked, writer)
                    return
            finally:
                self.at_once -= 1
