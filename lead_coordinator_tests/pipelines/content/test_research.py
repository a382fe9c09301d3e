"""Sources are read by the guarded fetcher, from a server of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lead_coordinator.pipelines.content.links import OwnArticle
from lead_coordinator.pipelines.content.research import NoSource, Notes, SourceNote, is_prose, read_sources
from lead_coordinator.pipelines.content.settings import ResearchSettings
from lead_coordinator.web.fetch import Fetcher, FetchPolicy

pytestmark = pytest.mark.anyio
TEXT = "The pump moves heat from the ground into the house, and it needs little power for that. "
PAGES: Mapping[str, tuple[int, str, str]] = {
    "/good": (
        200,
        "text/html",
        f"<html><body><nav>Menu</nav><article><p>{TEXT * 60}</p></article></body></html>",
    ),
    "/plain": (200, "text/plain; charset=utf-8", TEXT * 5),
    "/gone": (410, "text/html", "gone"),
    "/thin": (200, "text/html", "<html><body><p>Too little.</p></body></html>"),
    "/image": (200, "image/png", "PNG"),
}


@pytest.fixture
def origin() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            status, kind, text = PAGES.get(self.path, (404, "text/plain", "no"))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def fetcher(*, private: bool = True) -> Fetcher:
    return Fetcher(FetchPolicy(allow_private_addresses=private, per_host_delay_seconds=0))


async def test_sources_become_notes_and_the_rest_is_named(origin: str) -> None:
    paths = ("/good", "/gone", "/plain", "/good")
    async with fetcher() as reader:
        notes, unread = await read_sources(reader, [origin + path for path in paths], ResearchSettings())
    assert [note.url for note in notes] == [f"{origin}/good", f"{origin}/plain"], "each once, in order"
    assert notes[0].text.startswith("The pump moves heat")
    assert "Menu" not in notes[0].text
    assert 2800 < len(notes[0].text) <= 3000
    assert unread == ((f"{origin}/gone", "HTTP 410"),)


async def test_an_article_whose_sources_all_fail_is_not_written(origin: str) -> None:
    paths = ("/thin", "/image", "/nothing")
    async with fetcher() as reader:
        with pytest.raises(NoSource) as caught:
            await read_sources(reader, [origin + path for path in paths], ResearchSettings())
    said = str(caught.value)
    assert "none of 3 could be read" in said
    for reason in ("11 characters of text", "image/png is no text", "HTTP 404"):
        assert reason in said
    assert caught.value.error_class == "task_error", "it is tried again, and then a person looks"


async def test_private_addresses_are_refused_unless_the_site_allows_them(origin: str) -> None:
    async with fetcher(private=False) as reader:
        with pytest.raises(NoSource, match="forbidden_address"):
            await read_sources(reader, [f"{origin}/good"], ResearchSettings())


async def test_no_more_sources_than_the_site_wants(origin: str) -> None:
    settings = ResearchSettings(max_sources=1)
    async with fetcher() as reader:
        notes, unread = await read_sources(reader, [f"{origin}/plain", f"{origin}/good"], settings)
        assert ([note.url for note in notes], unread) == ([f"{origin}/plain"], ())
        assert await read_sources(reader, [], settings) == ((), ())


async def test_who_does_not_answer_in_time_is_left_out(origin: str) -> None:
    @dataclass
    class Slow:
        reader: Fetcher

        async def get(self, url: str, *, max_bytes: int | None = None) -> object:
            if url.endswith("/good"):
                import asyncio

                await asyncio.Event().wait()
            return await self.reader.get(url, max_bytes=max_bytes)

    limits = ResearchSettings().model_copy(update={"seconds": 0.5})
    async with fetcher() as reader:
        notes, unread = await read_sources(Slow(reader), [f"{origin}/good", f"{origin}/plain"], limits)
    assert [note.url for note in notes] == [f"{origin}/plain"]
    assert unread == ((f"{origin}/good", "no answer within 0.5 s"),)


def test_notes_are_kept_and_read_back() -> None:
    notes = Notes((SourceNote("u", "t"),), (OwnArticle("T", "v", "d"),), (("w", "HTTP 404"),))
    assert Notes.from_json(notes.as_json()) == notes
    assert notes.for_prompt() == {
        "sources": [{"number": 1, "url": "u", "text": "t"}],
        "our_articles": [{"title": "T", "url": "v"}],
    }


def test_bytes_are_no_prose() -> None:
    assert is_prose("Wärme, 20 °C – und mehr.")
    assert not is_prose("ÿØÿà\ufffd\ufffd\ufffd\ufffd ÷÷÷÷")
    assert not is_prose("")


def test_a_broken_installation_is_not_a_page_without_text(monkeypatch: pytest.MonkeyPatch) -> None:
    from lead_coordinator.pipelines.content.research import source_text
    from lead_coordinator.web import page

    def broken(html: object, url: str) -> str:
        raise ImportError("lxml_html_clean is missing")

    monkeypatch.setattr(page, "main_text", broken)
    with pytest.raises(ImportError, match="lxml_html_clean"):
        source_text({"content-type": "text/html"}, b"<p>text</p>", "http://a.example/", 1000)
