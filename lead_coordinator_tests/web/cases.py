"""Hostile cases: YAML files that say what a server answers (lead_coordinator_tests/hostile/README.md)."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lead_coordinator_tests.web.server import Asked, WireServer

HOSTILE = Path(__file__).parents[1] / "hostile"
PIECE = 64 * 1024


@dataclass(frozen=True)
class Case:
    name: str
    about: str
    routes: dict[str, dict[str, Any]]
    expect: Any
    most_mb: int
    ask: str = "/"
    settings: dict[str, Any] | None = None


def cases(folder: str) -> list[Case]:
    found = sorted((HOSTILE / folder).glob("*.yaml"))
    return [Case(name=path.stem, **yaml.safe_load(path.read_text())) for path in found]


def serve(case: Case, server: WireServer) -> None:
    """Lets the server answer as the case says."""

    def handler(route: dict[str, Any]) -> Any:
        async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
            await _answer(route, server.url, asked, writer)

        return answer

    for path, route in case.routes.items():
        server.routes[path] = handler(route)
    if "*" in case.routes:
        server.missing = handler(case.routes["*"])


async def _answer(route: dict[str, Any], origin: str, asked: Asked, writer: asyncio.StreamWriter) -> None:
    headers = {"content-type": "text/html; charset=utf-8"} | route.get("headers", {})
    if route.get("gzip"):
        headers["content-encoding"] = "gzip"
    lines = [f"HTTP/1.1 {route.get('status', '200 OK')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()] + ["connection: close"]
    head = (
        "\r\n".join([*lines, "", ""])
        .replace("{{origin}}", origin)
        .replace("{{target}}", asked.target.rstrip("/"))
    )
    writer.write(head.encode("latin-1"))
    if asked.method != "HEAD":
        packer = zlib.compressobj(wbits=31) if route.get("gzip") else None
        for piece in _pieces(route, origin, asked.target):
            data = piece if packer is None else packer.compress(piece)
            if data:
                writer.write(data)
                await writer.drain()
        if packer is not None:
            writer.write(packer.flush())
    await writer.drain()
    writer.close()


def _pieces(route: dict[str, Any], origin: str, target: str) -> Iterator[bytes]:
    def filled(text: str) -> bytes:
        return text.replace("{{origin}}", origin).replace("{{target}}", target.rstrip("/")).encode()

    if "before" in route:
        yield filled(route["before"])
    if "hex" in route:
        yield bytes.fromhex(route["hex"])
    if "gzip_hex" in route:
        yield gzip.decompress(bytes.fromhex(route["gzip_hex"]))
    if "text" in route:
        yield filled(route["text"])
    if "repeat" in route:
        one = filled(route["repeat"])
        block = one * max(1, PIECE // len(one))
        while route.get("endless"):
            yield block
        for start in range(0, route.get("bytes", 0), len(block)):
            yield block[: route["bytes"] - start]
    if "after" in route:
        yield filled(route["after"])


class Peak:
    """The most memory that this process held while a block ran, over what it held before (Linux)."""

    def __enter__(self) -> Peak:
        # Resets the high-water mark, so that what earlier tests took doesn't hide this one.
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _status_kb("VmRSS")
        self.mb = 0.0
        return self

    def __exit__(self, *error: object) -> None:
        self.mb = max(0, _status_kb("VmHWM") - self._before) / 1024


def _status_kb(name: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1])
