"""A room imports only from rooms below it, and pipelines not from each other: they meet in the database."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import lead_coordinator

ROOT = Path(lead_coordinator.__file__).parent
PIPELINES = ("content", "seo", "revenue", "intelligence")
FLOORS = {
    "cli": 3,
    "definitions": 3,
    "coordinator": 2,
    "pipelines": 2,
    "observability": 2,
    "providers": 1,
    "web": 1,
    "text": 1,
}  # whatever isn't named is on the ground


def imports(path: Path) -> Iterator[str]:
    """Our modules that a file imports, wherever in it: a late import is an import."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lead_coordinator"):
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("lead_coordinator"))


def files() -> list[Path]:
    found = sorted(ROOT.rglob("*.py"))
    assert len(found) > 100
    return found


def room(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py") if parts else ""


def test_a_room_imports_only_from_rooms_below_it() -> None:
    wrong = []
    for path in files():
        here = room(path.relative_to(ROOT).parts)
        for name in imports(path):
            there = room(tuple(name.split(".")[1:]))
            if FLOORS.get(there, 0) > FLOORS.get(here, 0):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_pipelines_do_not_import_each_other() -> None:
    wrong = []
    for path in files():
        parts = path.relative_to(ROOT).parts
        if parts[0] != "pipelines" or len(parts) < 3:
            continue
        others = tuple(f"lead_coordinator.pipelines.{name}." for name in PIPELINES if name != parts[1])
        wrong += [f"{'/'.join(parts)} imports {name}" for name in imports(path) if name.startswith(others)]
    assert wrong == []
