"""The files of versions that are out there, as they were: what `deploy` must bring forward."""

from __future__ import annotations

from pathlib import Path

from lead_coordinator.database.deploy import SQL_FILES

VERSIONS = ("0.1.0", "0.2.0")


def older_files(version: str) -> list[Path]:
    return [Path(__file__).parent / version / Path(name).name for name in SQL_FILES]
