"""The small server of misbehaving pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from lead_coordinator.errors import SettingsError
from lead_coordinator.web.fetch import Fetcher
from lead_coordinator.web.serve import SiteServer, read_routes
from lead_coordinator_tests.web.test_fetch import LOCAL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "site"
    (made / "sub").mkdir(parents=True)
    (made / "index.html").write_text("<p>{{origin}} and {{other}}</p>")
    (made / "a.html").write_text("<p>a</p>")
    (made / "sub" / "index.html").write_text("<p>sub</p>")
    (made / "robots.txt").write_text("User-agent: *\n")
    (made / "feed.atom").write_text("<link>{{origin}}/a</link>")
    (tmp_path / "secret.txt").write_text("secret")
    (made / "_routes.yaml").write_text(
        "routes:\n"
        "  /old: {redirect: /a, status: 308}\n"
        "  /broken: {status: 503, body: down}\n"
        "  /big: {type: image/png, repeat: 'xy', bytes: 1001}\n"
        "  /many: {before: '<', repeat: '{{origin}} ', times: 3, after: '>'}\n"
        "  /double//slash: {file: a.html, headers: {X-Robots-Tag: noindex}}\n"
    )
    return made


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/a", 200, "<p>a</p>"),
        ("/a.html", 200, "<p>a</p>"),
        ("/sub/", 200, "<p>sub</p>"),
        ("/sub", 200, "<p>sub</p>"),
        ("/old", 200, "<p>a</p>"),
        ("/double//slash", 200, "<p>a</p>"),
        ("/broken", 503, "down"),
        ("/nothing", 404, "<h1>Not here</h1>"),
        ("/_routes.yaml", 404, "<h1>Not here</h1>"),
        ("/..%2fsecret.txt", 404, "<h1>Not here</h1>"),
        ("/%00", 404, "<h1>Not here</h1>"),
        ("/sub/..%2f..%2fsecret.txt", 404, "<h1>Not here</h1>"),
    ],
)
async def test_paths(folder: Path, path: str, status: int, body: str) -> None:
    async with SiteServer(folder).running() as server, Fetcher(LOCAL) as fetcher:
        got = await fetcher.get(server.origin + path)
    assert (got.status, got.body.decode()) == (status, body)


async def test_what_a_route_says(folder: Path) -> None:
    async with SiteServer(folder).running() as server, Fetcher(LOCAL) as fetcher:
        home = await fetcher.get(server.origin)
        assert home.body.decode() == f"<p>{server.origin} and http://localhost:{server.port}</p>"
        assert len((await fetcher.get(server.origin + "/big")).body) == 1001
        feed = await fetcher.get(server.origin + "/feed.atom")
        assert feed.body.decode() == f"<link>{server.origin}/a</link>"
        many = await fetcher.get(server.origin + "/many")
        assert many.body.decode() == f"<{(server.origin + ' ') * 3}>"
        marked = await fetcher.get(server.origin + "/double//slash")
        assert marked.headers["x-robots-tag"] == "noindex"
        again = await fetcher.get(server.origin, etag=home.headers["etag"])
        assert again.not_modified
        assert server.unchanged == 1


@pytest.mark.parametrize(
    "text", ["routes: {/x: {colour: red}}", "routes: {x: {}}", "routes: [", "routes: {/x: {status: 99}}"]
)
def test_routes_that_are_none_are_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "_routes.yaml").write_text(text)
    with pytest.raises(SettingsError, match=r"_routes\.yaml"):
        read_routes(tmp_path)
