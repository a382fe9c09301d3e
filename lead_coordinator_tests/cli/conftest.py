"""Running commands in this process, against a database of the test's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lead_coordinator.cli.app import app

Run = Callable[..., Result]

_OURS = (
    "DATABASE_URL",
    "LEAD_",
    "SUPABASE_",
    "GEMINI_",
    "OPENAI_",
    "SANDBOX_",
    "SLACK_",
    "DAILY_",
    "MAX_CONCURRENT",
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, home: Path) -> Run:
    """`run("submit", "--title", "x", DATABASE_URL=…)`: a command in a clean environment."""
    for name in list(os.environ):
        if name.startswith(_OURS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LEAD_HOME", str(home))

    def call(*arguments: str, **environ: str) -> Result:
        return CliRunner().invoke(app, list(arguments), env=environ, prog_name="lead-coordinator")

    return call
