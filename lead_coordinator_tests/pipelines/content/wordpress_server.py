"""A WordPress that fits into a test: posts, Basic auth, slugs, statuses; and what can go wrong."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD = "editor", "abcd efgh ijkl mnop"


class WordPressServer:
    """`posts` by id. `faults`: what the next requests meet, first in, first out: a status, `lost` (done, and
    no answer), `silent` (nothing happens), `garbage`, `flood`, `redirect`.
    """

    def __init__(self) -> None:
        self.posts: dict[int, dict[str, Any]] = {}
        self.faults: list[int | str] = []
        self.requests: list[tuple[str, str]] = []
        self.authorized: list[bool] = []
        self.stopping = threading.Event()
        self.url = ""

    def add(self, slug: str, raw: str = "somebody's", status: str = "publish") -> int:
        number = max(self.posts, default=0) + 1
        self.posts[number] = {"id": number, "slug": slug, "status": status, "content": {"raw": raw}}
        return number

    def public(self, post: dict[str, Any]) -> dict[str, Any]:
        return {**post, "link": f"{self.url}/{post['slug']}/"}

    def find(self, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        # Without status=any only what is published is found, as WordPress does it.
        anything = query.get("status") == ["any"]
        return [
            self.public(post)
            for post in self.posts.values()
            if post["slug"] in query.get("slug", []) and (anything or post["status"] == "publish")
        ]

    def write(self, number: int | None, fields: dict[str, Any]) -> dict[str, Any] | None:
        if number is None:
            taken = {post["slug"] for post in self.posts.values()}
            slug = fields.get("slug", "post")
            while slug in taken:
                slug += "-2"
            number = self.add(slug, status="draft")
        if number not in self.posts:
            return None
        post = self.posts[number]
        post |= {key: value for key, value in fields.items() if key not in ("content", "slug")}
        if "content" in fields:
            post["content"] = {"raw": fields["content"]}
        return self.public(post)


class _Handler(BaseHTTPRequestHandler):
    server_version = "WordPress"
    wordpress: WordPressServer

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("GET", b"")

    def do_POST(self) -> None:
        self._serve("POST", self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _serve(self, method: str, body: bytes) -> None:
        site = self.wordpress
        parts = urlsplit(self.path)
        site.requests.append((method, self.path))
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        site.authorized.append(self.headers.get("Authorization") == expected)
        fault = site.faults.pop(0) if site.faults else None
        if fault == "silent":
            site.stopping.wait(30)
            return None
        if fault == "garbage":
            return self._answer(200, b"<html>maintenance</html>")
        if fault == "flood":
            return self._answer(200, b"[" + b"0," * 4_000_000 + b"0]")
        if fault == "redirect":
            return self._answer(301, b"", {"Location": "https://elsewhere.example/"})
        if isinstance(fault, int):
            headers = {"Retry-After": "7"} if fault in (429, 503) else {}
            said = json.dumps({"code": "rest_made_up", "message": f"with {PASSWORD} in it"}).encode()
            return self._answer(fault, said, headers)
        if not site.authorized[-1]:
            return self._answer(401, b'{"code": "rest_cannot_create"}')
        prefix = "/wp-json/wp/v2/posts"
        if not parts.path.startswith(prefix):
            return self._answer(404, b'{"code": "rest_no_route"}')
        number = parts.path.removeprefix(prefix).strip("/")
        result: Any
        if method == "GET" and not number:
            result = site.find(parse_qs(parts.query))
        elif method == "GET":
            post = site.posts.get(int(number))
            result = None if post is None else site.public(post)
        else:
            result = site.write(int(number) if number else None, json.loads(body))
        if fault == "lost":
            self.close_connection = True
            return None
        if result is None:
            return self._answer(404, b'{"code": "rest_post_invalid_id"}')
        return self._answer(200, json.dumps(result).encode())

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:  # whoever asked has had enough
            self.close_connection = True


@contextmanager
def wordpress_server() -> Iterator[WordPressServer]:
    site = WordPressServer()
    handler = type("Handler", (_Handler,), {"wordpress": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
