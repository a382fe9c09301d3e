"""A small web server for a folder of pages, with the misbehaviour that a file alone can't have.

`/x` is the file x, x.html or x/index.html. `_routes.yaml` in the folder says how other paths answer:

    routes:
      /old: {redirect: /new, status: 301}
      /broken: {status: 500, body: <h1>It broke</h1>}
      /slow: {file: slow.html, delay_ms: 900, headers: {X-Robots-Tag: noindex}}
      /big.png: {type: image/png, repeat: "pixels ", bytes: 600000}
      /list.xml: {before: <urlset>, repeat: <url/>, times: 50001, after: </urlset>, type: application/xml}

In texts, `{{origin}}` becomes the server's own address and `{{other}}` the same server under another host
name, as another site. Answers carry an ETag, and are 304 where it still fits. For examples and tests, on this
machine only: `python -m lead_coordinator.web.serve examples/site --port 8080`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import mimetypes
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lead_coordinator.errors import SettingsError

ROUTES_FILE = "_routes.yaml"
HOST = "127.0.0.1"
OTHER_HOST = "localhost"
MAX_BODY = 200_000_000
# Beginnings of the types in which {{origin}} is filled in.
_TEXT = (
    "text/",
    "image/svg",
    "application/xml",
    "application/json",
    "application/atom+xml",
    "application/rss+xml",
    "application/feed+json",
)


class Route(BaseModel):
    """How a path answers. Sizes in bytes, times in milliseconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Annotated[int, Field(ge=200, le=599)] | None = None
    redirect: str | None = None
    file: str | None = None
    body: str | None = None
    type: str | None = None
    headers: Mapping[str, str] = {}
    delay_ms: Annotated[int, Field(ge=0, le=60_000)] = 0
    before: str = ""
    repeat: Annotated[str, Field(min_length=1)] | None = None
    times: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    bytes: Annotated[int, Field(ge=0, le=MAX_BODY)] | None = None
    after: str = ""


class Routes(BaseModel):
    """The file of routes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    routes: Mapping[Annotated[str, Field(pattern=r"^/")], Route] = {}


def read_routes(folder: Path) -> Mapping[str, Route]:
    """The folder's routes; none where it has no file of them. Raises `SettingsError`."""
    path = folder / ROUTES_FILE
    if not path.is_file():
        return {}
    try:
        return Routes.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {}).routes
    except (yaml.YAMLError, ValidationError) as error:
        first = str(error).splitlines()
        raise SettingsError(f"{path}: {' '.join(first[:3])[:300]}") from None


@dataclass
class SiteServer:
    """The server of one folder. `asked`: the paths that were asked for, in order, where `record` is set.
    `unchanged`: how many answers were 304."""

    folder: Path
    port: int = 0
    record: bool = False
    asked: list[str] = field(default_factory=list)
    unchanged: int = 0
    _routes: Mapping[str, Route] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        self._routes = read_routes(self.folder)

    @property
    def origin(self) -> str:
        return f"http://{HOST}:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[SiteServer]:
        """Serves until the context is left. A port of 0 becomes one that is free."""
        import uvicorn

        listener = socket.create_server((HOST, self.port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self, log_level="warning", lifespan="off", access_log=False, server_header=False
        )
        server = uvicorn.Server(config)
        task = asyncio.ensure_future(server.serve(sockets=[listener]))
        try:
            while not server.started:
                if task.done():
                    task.result()
                    raise OSError(f"the server of {self.folder} didn't start")
                await asyncio.sleep(0.01)
            yield self
        finally:
            server.should_exit = True
            server.force_exit = True
            await asyncio.gather(task, return_exceptions=True)
            listener.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        path = scope["raw_path"].decode("latin-1").partition("?")[0]
        if self.record:
            self.asked.append(path)
        route = self._routes.get(path)
        if route is not None and route.delay_ms:
            await asyncio.sleep(route.delay_ms / 1000)
        response = self._answer(path, route)
        tag = response.headers.get("etag")
        if tag is not None and request.headers.get("if-none-match") == tag:
            response = Response(status_code=304, headers={"etag": tag})
            self.unchanged += 1
        if request.method not in ("GET", "HEAD"):
            response = Response("only GET and HEAD are answered", status_code=405)
        await response(scope, receive, send)

    def _answer(self, path: str, route: Route | None) -> Response:
        if route is None:
            found = self._file(path)
            return self._missing() if found is None else self._of(found.read_bytes(), _type(found), 200, {})
        headers = {name: self._filled(value) for name, value in route.headers.items()}
        if route.redirect is not None:
            headers["location"] = self._filled(route.redirect)
            return Response(status_code=route.status or 301, headers=headers)
        if route.repeat is not None:
            body = self._repeated(route)
            return self._of(body, route.type or "text/html", route.status or 200, headers)
        if route.file is not None:
            found = self._file("/" + route.file)
            if found is None:
                return self._missing()
            return self._of(found.read_bytes(), route.type or _type(found), route.status or 200, headers)
        body = (route.body or "").encode()
        return self._of(body, route.type or "text/html", route.status or 200, headers)

    def _of(self, body: bytes, kind: str, status: int, headers: dict[str, str]) -> Response:
        if kind.startswith(_TEXT):
            body = self._filled(body.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        made = {"etag": f'"{hashlib.sha256(body).hexdigest()[:16]}"'} if status == 200 else {}
        return Response(body, status_code=status, media_type=kind, headers=made | headers)

    def _missing(self) -> Response:
        return Response("<h1>Not here</h1>", status_code=404, media_type="text/html")

    def _repeated(self, route: Route) -> bytes:
        assert route.repeat is not None
        piece = self._filled(route.repeat)
        times = route.times or (0 if route.bytes is None else route.bytes // len(piece) + 1)
        times = min(times, MAX_BODY // len(piece))
        body = (self._filled(route.before) + piece * times + self._filled(route.after)).encode()
        return body if route.bytes is None else body[: route.bytes]

    def _filled(self, text: str) -> str:
        return text.replace("{{origin}}", self.origin).replace(
            "{{other}}", f"http://{OTHER_HOST}:{self.port}"
        )

    def _file(self, path: str) -> Path | None:
        """The file of a path, within the folder whatever the path says."""
        name = unquote(path).lstrip("/")
        if "\0" in name or Path(name).name.startswith("_"):
            return None
        for candidate in (name, f"{name}.html", f"{name.rstrip('/')}/index.html".lstrip("/")):
            found = (self.folder / candidate).resolve()
            if found.is_relative_to(self.folder) and found.is_file():
                return found
        return None


def _type(path: Path) -> str:
    if path.name == "robots.txt":
        return "text/plain"
    known: str | None = mimetypes.guess_type(path.name)[0]
    # What the machine's own tables say differs.
    fixed: dict[str, str] = {".xml": "application/xml", ".svg": "image/svg+xml", ".css": "text/css"}
    return fixed.get(path.suffix) or known or "application/octet-stream"


def main(arguments: list[str] | None = None) -> Literal[0]:
    parser = argparse.ArgumentParser(description="Serves a folder of pages on this machine, until Ctrl-C.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8080)
    given: Any = parser.parse_args(arguments)

    async def serve() -> None:
        async with SiteServer(given.folder, given.port).running() as server:
            print(f"{server.folder} at {server.origin}", flush=True)  # noqa: T201
            await asyncio.Event().wait()

    try:
        asyncio.run(serve())
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
