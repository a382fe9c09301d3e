"""Sections of RESULTS.md that a benchmark writes itself: each between two markers, the rest left as it is."""

from __future__ import annotations

import os
import platform
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import psutil

from lead_coordinator import __version__

RESULTS = Path(__file__).with_name("RESULTS.md")


def machine(postgresql: str) -> str:
    """One sentence: date, processor, memory, versions, and how loaded the machine is at this moment."""
    today = datetime.now(UTC)
    return (
        f"{today.day} {today:%B %Y}, version {__version__}; {os.cpu_count()} cores ({_processor()}),"
        f" {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()}"
        f" {'.'.join(platform.release().split('.')[:2])}, Python {platform.python_version()},"
        f" PostgreSQL {postgresql}; load {os.getloadavg()[0]:.1f}."
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


def paragraph(*sentences: str) -> str:
    """Sentences as lines of the page's width."""
    return textwrap.fill(" ".join(sentences), 120, break_long_words=False, break_on_hyphens=False)


def table(*rows: tuple[str, ...]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def write_section(name: str, text: str, page: Path = RESULTS) -> None:
    """Replaces the section `name` of the page, or appends it."""
    begin, end = f"<!-- {name}: written by its benchmark -->", f"<!-- end of {name} -->"
    section = f"{begin}\n{text.strip()}\n{end}"
    old = page.read_text(encoding="utf-8")
    before, found, rest = old.partition(begin)
    new = before + section + rest.partition(end)[2] if found else f"{old.rstrip()}\n\n{section}\n"
    partial = page.with_suffix(".partial")
    partial.write_text(new, encoding="utf-8")
    partial.replace(page)
