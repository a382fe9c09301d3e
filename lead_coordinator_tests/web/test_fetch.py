"""The fetcher against a server that answers whatever the test wants, byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from lead_coordinator.web.fetch import Fetcher, FetchFailed, FetchPolicy
from lead_coordinator_tests.web.server import Asked, WireServer, answer, redirect

LOCAL = FetchPolicy(
    allow_private_addresses=True, per_host_delay_seconds=0, max_bytes=100_000, total_seconds=20
)


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer().running() as running:
        yield running


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    async with Fetcher(LOCAL) as fetcher:
        yield fetcher


async def failure(fetcher: Fetcher, url: str, **options: object) -> FetchFailed:
    with pytest.raises(FetchFailed) as caught:
        await fetcher.get(url, **options)
    return caught.value


async def test_a_page_comes_with_its_headers_and_unpacked(server: WireServer, fetcher: Fetcher) -> None:
    server.routes["/"] = answer("<p>héllo</p>" * 50, compress=True, X_Robots_Tag="noindex", etag='"v1"')
    got = await fetcher.get(server.url)
    assert got.body.decode() == "<p>héllo</p>" * 50
    assert (got.status, got.ok, got.final_url) == (200, True, server.url + "/")
    assert got.headers["x-robots-tag"] == "noindex", "header names are in lower case"
    assert got.received_bytes < len(got.body), "received_bytes counts what was sent"
    assert server.asked[-1].headers["user-agent"].startswith("LeadCoordinator/")


async def test_an_error_status_is_an_answer(server: WireServer, fetcher: Fetcher) -> None:
    got = await fetcher.get(server.url + "/nothing")
    assert (got.status, got.ok, got.body) == (404, False, b"not here")


async def test_redirects_are_followed_and_told(server: WireServer, fetcher: Fetcher) -> None:
    server.routes |= {"/a": redirect("/b"), "/b": redirect("c?x=1", "302 Found"), "/c?x=1": answer("there")}
    got = await fetcher.get(server.url + "/a")
    assert got.body == b"there"
    assert [(hop.url.rpartition("/")[2], hop.status) for hop in got.hops] == [("a", 301), ("b", 302)]
    assert got.hops[-1].location == got.final_url == server.url + "/c?x=1"


@pytest.mark.parametrize(
    ("routes", "kind"),
    [
        ({"/": redirect("/")}, "redirect_loop"),
        ({"/": redirect("/b"), "/b": redirect("/")}, "redirect_loop"),
        (
            {"/": redirect("/1")} | {f"/{n}": redirect(f"/{n + 1}") for n in range(1, 40)},
            "too_many_redirects",
        ),
        ({"/": redirect("javascript:alert(1)")}, "forbidden_scheme"),
        ({"/": redirect("file:///etc/passwd")}, "forbidden_scheme"),
        ({"/": redirect("http://169.254.169.254/latest/meta-data/")}, "forbidden_address"),
        ({"/": redirect("http://[::]/")}, "forbidden_address"),
        ({"/": redirect("http://h:0/")}, "invalid_url"),
        ({"/": redirect("http://user:secret@example.org/")}, "invalid_url"),
    ],
)
async def test_redirects_that_lead_nowhere(
    server: WireServer, fetcher: Fetcher, routes: dict[str, bytes], kind: str
) -> None:
    server.routes |= routes
    error = await failure(fetcher, server.url)
    assert error.kind == kind
    assert error.hops or kind in ("forbidden_scheme", "invalid_url"), "the way there is told"
    assert len(server.asked) <= LOCAL.max_redirects + 2, "it stops asking"


async def test_a_private_address_is_refused_before_anything_is_sent(server: WireServer) -> None:
    async with Fetcher(replace(LOCAL, allow_private_addresses=False)) as fetcher:
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"):
            assert (await failure(fetcher, f"http://{host}:{server.port}/")).kind == "forbidden_address", host
    assert server.asked == []


async def test_the_address_that_was_checked_is_the_one_connected_to(server: WireServer) -> None:
    """DNS rebinding: the second look-up would point at this machine."""
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    connected: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        return answers.pop(0)

    async with Fetcher(replace(LOCAL, allow_private_addresses=False, obey_robots=False)) as fetcher:
        network = fetcher._network

        class Recorder:
            async def connect_tcp(self, host: str, port: int, **options: object) -> object:
                connected.append(host)
                import httpcore2

                raise httpcore2.ConnectError("refused")

        network._resolve, network._inner = resolve, Recorder()
        assert (await failure(fetcher, f"http://rebind.example:{server.port}/")).kind == "connection"
        assert connected == ["93.184.216.34"], "connected to the number, not to the name"
        assert (await failure(fetcher, f"http://rebind.example:{server.port}/")).kind == "forbidden_address"
        assert connected == ["93.184.216.34"]
    assert server.asked == []


async def test_one_forbidden_address_forbids_the_host(server: WireServer) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.216.34", "10.0.0.1"]

    async with Fetcher(replace(LOCAL, allow_private_addresses=False), resolve=resolve) as fetcher:
        assert (await failure(fetcher, "http://mixed.example/")).kind == "forbidden_address"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (answer("x" * 100_001), "too_large"),
        (answer("x" * 10, content_length="999999999999"), "too_large"),
        (answer("x" * 3_000_000, compress=True), "too_large"),
        (answer(b"\x1f\x8bnot gzip at all", content_encoding="gzip"), "decoding"),
        (answer(b"xx", content_encoding="br"), "decoding"),
        (answer(b"xx", content_encoding="gzip, gzip"), "decoding"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 50\r\n\r\nshort", "connection"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000 + b"\r\n\r\n", "connection"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 60_000 + b"\r\n", "connection"),
        (b"this is no HTTP\r\n\r\n", "connection"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZZZ\r\n", "connection"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_bodies_and_heads_that_are_refused(
    server: WireServer, fetcher: Fetcher, body: bytes, kind: str
) -> None:
    async def say(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(body)
        await writer.drain()

    server.routes["/"] = say
    error = await failure(fetcher, server.url)
    assert error.kind == kind, str(error)
    assert server.url in str(error), "the sentence names the address"


async def test_truncate_takes_the_beginning(server: WireServer, fetcher: Fetcher) -> None:
    server.routes |= {"/": answer("x" * 500_000, compress=True), "/plain": answer("y" * 500_000)}
    for path, letter in (("/", b"x"), ("/plain", b"y")):
        got = await fetcher.get(server.url + path, max_bytes=1000, truncate=True)
        assert (got.body, got.truncated) == (letter * 1000, True)


async def test_a_slow_loris_is_left_when_the_time_is_over(server: WireServer) -> None:
    """A byte now and then keeps any timeout between two bytes from coming: the whole has one."""
    done = asyncio.Event()

    async def drip(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n")
        while not done.is_set():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.005)

    async def drip_head(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while not done.is_set():
            writer.write(b"x: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.005)

    server.routes |= {"/body": drip, "/head": drip_head}
    async with Fetcher(replace(LOCAL, total_seconds=0.3, obey_robots=False)) as fetcher:
        for path in ("/body", "/head"):
            assert (await failure(fetcher, server.url + path)).kind == "timeout"
    done.set()


async def test_conditional_requests(server: WireServer, fetcher: Fetcher) -> None:
    async def page(asked: Asked, writer: asyncio.StreamWriter) -> None:
        same = asked.headers.get("if-none-match") == '"v1"'
        writer.write(answer(b"", "304 Not Modified", etag='"v1"') if same else answer("new", etag='"v1"'))
        await writer.drain()

    server.routes["/"] = page
    first = await fetcher.get(server.url)
    assert (first.body, first.not_modified) == (b"new", False)
    again = await fetcher.get(
        server.url, etag=first.headers["etag"], last_modified="Tue, 01 Jan 2030 00:00:00 GMT"
    )
    assert (again.status, again.body, again.not_modified, again.ok) == (304, b"", True, True)
    assert server.asked[-1].headers["if-modified-since"] == "Tue, 01 Jan 2030 00:00:00 GMT"
    await fetcher.get(server.url, etag='"a"\r\nX-Evil: 1')
    assert "x-evil" not in server.asked[-1].headers, "a validator can't bring a header of its own"


async def test_head_asks_without_a_body(server: WireServer, fetcher: Fetcher) -> None:
    server.routes["/big"] = answer("x" * 200_000)
    got = await fetcher.get(server.url + "/big", head=True)
    assert (got.status, got.body, got.headers["content-length"]) == (200, b"", "200000")


# ---- robots.txt and politeness ---------------------------------------------------------------------------


async def test_robots_are_obeyed_and_asked_for_once(server: WireServer, fetcher: Fetcher) -> None:
    server.routes |= {
        "/robots.txt": answer("User-agent: *\nDisallow: /private", content_type="text/plain"),
        "/": answer("open"),
        "/to-private": redirect("/private/x"),
    }
    await asyncio.gather(*(fetcher.get(server.url) for _ in range(5)))
    assert (await failure(fetcher, server.url + "/private/x")).kind == "robots"
    assert (await failure(fetcher, server.url + "/to-private")).kind == "robots", "a redirect obeys them too"
    assert server.targets().count("/robots.txt") == 1
    assert "/private/x" not in server.targets()


@pytest.mark.parametrize(
    ("robots", "allowed"),
    [
        (answer("", "404 Not Found"), True),
        (answer("", "403 Forbidden"), True),
        (answer("", "503 Service Unavailable"), False),
        (answer("User-agent: *\nDisallow: /\n\nUser-agent: LeadCoordinator\nAllow: /"), True),
        (answer("User-agent: LeadCoordinator\nDisallow: /"), False),
        (answer(b"\xff\xfe\x00garbage\n\0\0Disallow /"), True),
        (redirect("/elsewhere.txt"), False),
    ],
)
async def test_what_robots_say(server: WireServer, fetcher: Fetcher, robots: bytes, allowed: bool) -> None:
    server.routes |= {
        "/robots.txt": robots,
        "/": answer("page"),
        "/elsewhere.txt": answer("User-agent: *\nDisallow: /"),
    }
    if allowed:
        assert (await fetcher.get(server.url)).body == b"page"
    else:
        assert (await failure(fetcher, server.url)).kind == "robots"


async def test_where_nothing_answers_the_failure_says_so(server: WireServer, fetcher: Fetcher) -> None:
    port = server.port
    async with WireServer().running() as gone:
        port = gone.port
    assert (await failure(fetcher, f"http://127.0.0.1:{port}/")).kind == "connection"


async def test_no_more_at_once_than_is_polite(server: WireServer) -> None:
    gate = asyncio.Event()

    async def wait(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if server.at_once == 3:
            gate.set()
        await gate.wait()
        writer.write(answer("done"))
        await writer.drain()

    server.routes["/"] = wait
    async with Fetcher(replace(LOCAL, per_host_concurrency=3, obey_robots=False)) as fetcher:
        await asyncio.gather(*(fetcher.get(server.url) for _ in range(9)))
    assert server.most_at_once == 3


async def test_the_pause_between_two_requests_follows_robots(server: WireServer) -> None:
    server.routes |= {"/robots.txt": answer("User-agent: *\nCrawl-delay: 7"), "/": answer("x")}
    clock = [100.0]
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    policy = replace(LOCAL, per_host_delay_seconds=2.0, per_host_concurrency=1)
    async with Fetcher(policy, now=lambda: clock[0], sleep=sleep) as fetcher:
        for _ in range(3):
            await fetcher.get(server.url)
    assert slept == [2.0, 7.0, 7.0], "two seconds after robots.txt itself, then what it asks for"


async def test_a_host_that_asks_for_a_pause_gets_it(server: WireServer) -> None:
    server.routes |= {
        "/busy": answer("", "429 Too Many Requests", retry_after="7"),
        "/odd": answer("", "503 Service Unavailable", retry_after="Tue, 01 Jan 2030 00:00:00 GMT"),
        "/long": answer("", "429 Too Many Requests", retry_after="86400"),
        "/": answer("x"),
    }
    clock = [100.0]
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    async with Fetcher(replace(LOCAL, obey_robots=False), now=lambda: clock[0], sleep=sleep) as fetcher:
        for path in ("/busy", "/", "/odd", "/", "/long", "/"):
            await fetcher.get(server.url + path)
    assert slept == [7.0, 30.0], "at most 30 s: nobody may stop a crawl for a day"


async def test_a_fetcher_outside_its_context_says_so() -> None:
    with pytest.raises(AssertionError, match="async with"):
        await Fetcher(replace(LOCAL, obey_robots=False)).get("http://127.0.0.1/")
