"""A small web site on this machine, served by a thread: a few pages, a sitemap, a feed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOPICS = ["Heat pumps in old houses", "Rain gardens for clay soil", "Repairing a bicycle wheel"]
TEXT = "A patient owner looks at the house first, measures what it loses, and asks three firms for a quote. "


def page(title: str, url: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><link rel="canonical" href="{url}"></head>'
        f"<body><h1>{title}</h1><p>{TEXT * 15}{title}.</p>"
        '<p><a href="/">All articles of this small site</a></p></body></html>'
    )


def feed(base: str) -> str:
    items = "".join(
        f"<item><title>{title}</title><link>{base}news/{number}</link><guid>{number}</guid>"
        f"<pubDate>{format_datetime(datetime.now(UTC) - timedelta(hours=number))}</pubDate>"
        f"<description>{title}. {TEXT * 3}</description></item>"
        for number, title in enumerate(TOPICS, 1)
    )
    return f'<?xml version="1.0"?><rss version="2.0"><channel><title>News</title>{items}</channel></rss>'


def contents(base: str) -> dict[str, tuple[str, str]]:
    """Path to content type and text."""
    paths = [f"a{number}" for number in range(1, 4)]
    links = "".join(f'<a href="/{path}">Article number {path} of this site</a> ' for path in paths)
    home = page("A small site about houses", base).replace("</body>", f"<p>{links}</p></body>")
    locations = "".join(f"<url><loc>{base}{path}</loc></url>" for path in ("", *paths))
    return {
        "/": ("text/html", home),
        **{f"/{path}": ("text/html", page(f"About {path} and houses", base + path)) for path in paths},
        "/robots.txt": ("text/plain", f"User-agent: *\nAllow: /\nSitemap: {base}sitemap.xml\n"),
        "/sitemap.xml": (
            "application/xml",
            f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{locations}</urlset>',
        ),
        "/feed.xml": ("application/rss+xml", feed(base)),
    }


@contextmanager
def small_site(published: Path | None = None) -> Iterator[str]:
    """The site's address, while it is served. `published`: a folder of pages that are on it too."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer()

        def do_HEAD(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = self.path.partition("?")[0]
            found = contents(base).get(path)
            if found is None and published is not None and path.endswith(".html"):
                file = published / path.lstrip("/")
                found = ("text/html", file.read_text()) if file.is_file() else None
            kind, text = found or ("text/plain", "not here")
            body = text.encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    base = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield base
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def profile(base: str) -> dict[str, object]:
    """A site profile by which the pipelines have standing work; page metrics belong to it."""
    return {
        "url": base,
        "seo": {"allow_private_addresses": True, "delay_seconds": 0},
        "intelligence": {
            "feeds": [{"url": f"{base}feed.xml", "name": "News"}],
            "poll": {"allow_private_addresses": True},
        },
    }
