"""The static site: atomic, once, never backwards, whoever else writes at the same time."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lead_coordinator.errors import DestinationDown, InvalidInput
from lead_coordinator.pipelines.content import files, site
from lead_coordinator.pipelines.content.site import PublishedRow, StaticSite

WHEN = datetime(2026, 11, 24, 5, 30, tzinfo=UTC)
SPAWN = multiprocessing.get_context("spawn")
ATOM = "{http://www.w3.org/2005/Atom}"
SITEMAP = "{http://www.sitemaps.org/schemas/sitemap/0.9}"


def rows(count: int, start: int = 1) -> list[PublishedRow]:
    return [
        PublishedRow(n, f"article-{n}", f"Article <{n}>", WHEN + timedelta(minutes=n), "A & B", 1200)
        for n in range(start, start + count)
    ]


def listed(path: Path) -> list[int]:
    return [int(n) for n in re.findall(r'href="(?:\.\./)?articles/article-(\d+)\.html"', path.read_text())]


def locations(path: Path) -> list[str]:
    return [node.text or "" for node in ElementTree.parse(path).iter(f"{SITEMAP}loc")]


@pytest.fixture
def garden(tmp_path: Path) -> StaticSite:
    return StaticSite(tmp_path / "site", "https://example.org/blog", "Garden & Home")


def test_an_article_is_two_files_and_an_address(garden: StaticSite) -> None:
    written = garden.write_article("rail-trip", "# text\n", "<p>text é</p>")
    assert written.url == "https://example.org/blog/articles/rail-trip.html"
    assert (garden.root / "articles/rail-trip.html").read_text() == "<p>text é</p>"
    assert (garden.root / "articles/rail-trip.md").read_text() == "# text\n"
    assert len(written.content_sha256) == 64
    assert garden.has_article("rail-trip")
    assert not garden.has_article("other")
    assert garden.write_article("rail-trip", "new", "new").url == written.url
    assert (garden.root / "articles/rail-trip.html").read_text() == "new"
    assert not any((garden.root / ".tmp").iterdir()), "no temporary file stays behind"


@pytest.mark.parametrize(
    "slug",
    [
        "",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "A",
        "a b",
        "a--b",
        "-a",
        "a-",
        "a\n",
        "a.html",
        "é",
        "x" * 121,
        "\x00",
    ],
)
def test_a_slug_never_leaves_the_folder(garden: StaticSite, slug: str) -> None:
    for use in (
        lambda: garden.write_article(slug, "m", "h"),
        lambda: garden.lock_article(slug),
        lambda: garden.url(slug),
    ):
        with pytest.raises(InvalidInput, match="slug"):
            use()
    assert not garden.root.exists(), "nothing was written"


def test_other_sites_live_below(garden: StaticSite) -> None:
    other = garden.for_site("travel")
    assert other.url("rail") == "https://example.org/blog/sites/travel/articles/rail.html"
    assert other.write_article("rail", "m", "h").html_path == garden.root / "sites/travel/articles/rail.html"
    assert garden.for_site("main") is garden
    assert other.for_site("travel") is other
    for name in ("..", "", "a/b", "A", "-a"):
        with pytest.raises(InvalidInput, match="site"):
            garden.for_site(name)


def test_an_empty_site_says_so(garden: StaticSite) -> None:
    garden.rebuild_index(list)
    assert "Nothing is published here yet" in (garden.root / "index.html").read_text()
    assert locations(garden.root / "sitemap.xml") == ["https://example.org/blog/"]
    assert ElementTree.parse(garden.root / "feed.xml").findall(f"{ATOM}entry") == []


@pytest.mark.parametrize("count", [1, 99, 100, 101, 200, 201, 450])
def test_every_article_is_listed_and_reachable(garden: StaticSite, count: int) -> None:
    garden.rebuild_index(lambda: rows(count))
    newest = listed(garden.root / "index.html")
    assert newest == list(range(count, max(0, count - 100), -1)), "the newest hundred, newest first"
    seen, page = set(newest), garden.root / "index.html"
    while older := re.search(r'rel="prev" href="(?:\.\./)?(page/\d+\.html)"', page.read_text()):
        page = garden.root / older[1]
        seen |= set(listed(page))
    assert seen == set(range(1, count + 1)), "following Older from the first page reaches every article"
    assert len(locations(garden.root / "sitemap.xml")) == count + 1
    entries = ElementTree.parse(garden.root / "feed.xml").findall(f"{ATOM}entry")
    assert [entry.findtext(f"{ATOM}title") for entry in entries] == [
        f"Article <{n}>" for n in range(count, max(0, count - 50), -1)
    ]


def test_a_full_page_is_written_once_and_its_neighbour_once_more(garden: StaticSite) -> None:
    garden.rebuild_index(lambda: rows(250))
    before = (garden.root / "page/1.html").stat().st_ino
    changed = garden.rebuild_index(lambda: rows(251))
    assert changed == 3, "one more article changes index, feed and sitemap, not the archive"
    assert (garden.root / "page/1.html").stat().st_ino == before
    assert garden.rebuild_index(lambda: rows(251)) == 0, "the same rows change nothing"


def test_a_shorter_list_takes_its_pages_away(garden: StaticSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "SITEMAP_SIZE", 100)
    garden.rebuild_index(lambda: rows(350))
    parts = sorted(path.name for path in garden.root.glob("sitemap-*.xml"))
    assert parts == ["sitemap-1.xml", "sitemap-2.xml", "sitemap-3.xml", "sitemap-4.xml"]
    assert locations(garden.root / "sitemap.xml") == [f"https://example.org/blog/{name}" for name in parts]
    every = [address for name in parts for address in locations(garden.root / name)]
    assert len(every) == len(set(every)) == 351, "split past the limit, every address stands once"
    garden.rebuild_index(lambda: rows(50))
    assert list(garden.root.glob("sitemap-*.xml")) == list((garden.root / "page").glob("*")) == []
    assert len(locations(garden.root / "sitemap.xml")) == 51


def test_hostile_rows_end_safe(garden: StaticSite) -> None:
    title = "</title><script>x</script>\x00\x0b & ]]>"
    garden.rebuild_index(lambda: [PublishedRow(1, "a", title, WHEN, title, language='en"><script>')])
    html = (garden.root / "index.html").read_text()
    assert "<script>" not in html
    entry = ElementTree.parse(garden.root / "feed.xml").find(f"{ATOM}entry")
    assert entry is not None
    assert entry.findtext(f"{ATOM}title") == "</title><script>x</script> & ]]>"
    with pytest.raises(InvalidInput):
        garden.rebuild_index(lambda: [PublishedRow(1, "../../x", "t", WHEN)])


def test_what_a_dead_process_left_is_swept(garden: StaticSite) -> None:
    scratch = garden.root / ".tmp"
    scratch.mkdir(parents=True)
    old, young = scratch / "1-old", scratch / "2-young"
    old.write_text("half")
    young.write_text("half")
    os.utime(old, (0, 0))
    garden.rebuild_index(list)
    assert not old.exists(), "abandoned long ago"
    assert young.exists(), "another process may be writing it now"


def test_a_failed_write_leaves_the_old_page(garden: StaticSite, monkeypatch: pytest.MonkeyPatch) -> None:
    garden.write_article("a", "old", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        garden.write_article("a", "new", "new")
    assert (garden.root / "articles/a.html").read_text() == "old"
    assert not any((garden.root / ".tmp").iterdir())


# ---- other processes ---------------------------------------------------------------------------------------


def write_often(root: Path, letter: str) -> None:
    mine = StaticSite(root, "https://example.org/")
    for _ in range(40):
        mine.write_article("same", letter * 200_000, letter * 200_000)


def count_up(root: Path, counter: Path, times: int) -> None:
    """Adds a published row, then rebuilds the listings from all rows there are: what each worker does."""
    mine = StaticSite(root, "https://example.org/")
    for _ in range(times):
        with counter.open("ab", buffering=0) as file:
            file.write(b"x")
        mine.rebuild_index(lambda: rows(counter.stat().st_size))


def hold_lock(root: Path, held: Callable[[], None]) -> None:
    lock = StaticSite(root, "https://example.org/").lock_article("same")
    assert lock is not None
    held()
    signal.pause()


def test_a_reader_never_sees_half_a_page(garden: StaticSite) -> None:
    writers = [SPAWN.Process(target=write_often, args=(garden.root, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    page = garden.root / "articles/same.html"
    reads = 0
    while any(writer.is_alive() for writer in writers):
        if page.exists():
            text = page.read_text()
            assert text in ("a" * 200_000, "b" * 200_000), "a page is whole, and of one writer"
            reads += 1
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert reads > 0


def test_the_index_never_goes_backwards(garden: StaticSite, tmp_path: Path) -> None:
    counter = tmp_path / "rows"
    counter.touch()
    workers = [SPAWN.Process(target=count_up, args=(garden.root, counter, 8)) for _ in range(3)]
    for worker in workers:
        worker.start()
    index = garden.root / "index.html"
    shown = 0
    while any(worker.is_alive() for worker in workers):
        if index.exists():
            now = max(listed(index), default=0)
            assert now >= shown, f"the index went from {shown} articles back to {now}"
            shown = now
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 3
    assert max(listed(index)) == counter.stat().st_size == 24, "the last index shows everything"


def test_a_slow_writer_cannot_overwrite_a_newer_index(garden: StaticSite) -> None:
    published = 1

    def slow() -> Sequence[PublishedRow]:
        nonlocal published
        found = rows(published)
        published = 2
        assert files.acquire(garden.root / ".locks" / "index", wait=False) is None, (
            "nobody else can write meanwhile"
        )
        return found

    garden.rebuild_index(slow)
    garden.rebuild_index(lambda: rows(published))
    assert listed(garden.root / "index.html") == [2, 1]


def test_the_lock_of_a_killed_process_is_free(garden: StaticSite) -> None:
    held = SPAWN.Event()
    holder = SPAWN.Process(target=hold_lock, args=(garden.root, held.set))
    holder.start()
    assert held.wait(30)
    assert garden.lock_article("same") is None, "another process holds it"
    other = garden.lock_article("other")
    assert other is not None, "other articles aren't concerned"
    other.release()
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    lock = garden.lock_article("same")
    assert lock is not None, "the kernel freed the lock"
    assert garden.lock_article("same") is None, "within one process too it is held once"
    lock.release()
    lock.release()
    again = garden.lock_article("same")
    assert again is not None
    again.release()
    assert list((garden.root / ".locks").iterdir()) == [], "locks leave no files behind"


@pytest.mark.anyio
async def test_cancelled_the_lock_is_released(garden: StaticSite) -> None:
    reached = asyncio.Event()

    async def never() -> Sequence[PublishedRow]:
        reached.set()
        await asyncio.Event().wait()
        return []

    stuck = asyncio.create_task(garden.rebuild_index_async(never))
    await reached.wait()
    waiting = asyncio.create_task(garden.rebuild_index_async(lambda: asyncio.sleep(0, rows(1))))
    stuck.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stuck
    await waiting
    assert listed(garden.root / "index.html") == [1]


@pytest.mark.anyio
async def test_a_lock_held_too_long_is_a_destination_that_is_down(garden: StaticSite) -> None:
    lock = files.acquire(garden.root / ".locks" / "index", wait=False)
    assert lock is not None
    with pytest.raises(DestinationDown, match="has held its index"):
        await garden.rebuild_index_async(lambda: asyncio.sleep(0, rows(1)), timeout_seconds=0)
    lock.release()
