"""What a race leaves behind: the journals of its processes and the rows of its database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lead_coordinator.database.connection import Database
from lead_coordinator_tests.races import journal
from lead_coordinator_tests.races.journal import Entry
from lead_coordinator_tests.races.scenario import Scenario

Row = dict[str, Any]


@dataclass
class Evidence:
    """Journals and database of a race that is over. Nothing in here trusts the one for the other."""

    scenario: Scenario
    db: Database
    entries: list[Entry]

    @classmethod
    def of(cls, scenario: Scenario, db: Database, folder: Path) -> Evidence:
        return cls(scenario, db, journal.read(folder))

    def said(self, *did: str) -> Iterator[Entry]:
        return (entry for entry in self.entries if entry.did in did)

    @cached_property
    def killed(self) -> set[str]:
        """Clients that ended by SIGKILL, from outside or by their own hand."""
        return {entry["who"] for entry in self.said("over") if entry["code"] == -9}

    @cached_property
    def calls(self) -> dict[int, Row]:
        return {row["id"]: row for row in self.db.rows("SELECT * FROM lead.api_call")}

    def figures(self) -> dict[str, Any]:
        """What the race was like."""
        outcomes = self.db.rows("SELECT outcome, count(*) AS n FROM lead.task_attempt GROUP BY outcome")
        ways = self.db.rows(
            "SELECT CASE WHEN w.is_external THEN 'external' ELSE 'platform' END AS way,"
            " count(*) FILTER (WHERE a.outcome = 'completed') AS n FROM lead.task_attempt AS a"
            " INNER JOIN workflow_orchestration AS w ON w.execution_id = a.execution_id GROUP BY 1"
        )
        clients = [entry.at for entry in self.entries if entry.who not in ("race", "observer")]
        return {
            "seconds": round(max(clients) - min(clients), 1),
            "clients": len({entry.who for entry in self.entries}) - 2,
            "killed": len(self.killed),
            "attempts": {row["outcome"]: row["n"] for row in outcomes},
            "completed by": {row["way"]: row["n"] for row in ways},
            "calls": dict(Counter(f"{call['status']} {call['outcome']}" for call in self.calls.values())),
            "calls blocked": dict(
                Counter(reason for entry in self.said("blocked") for reason in entry["providers"].values())
            ),
            "live runs reported as failed": sum(not entry["answer"] for entry in self.said("reported")),
            "stale leases refused": sum(1 for _ in self.said("refused")),
            "dead letters replayed": sum(len(entry["tasks"]) for entry in self.said("replayed")),
            "samples": sum(1 for _ in self.said("sample")),
            "limits that bound": [f"{entry['scope']} {entry['key']}" for entry in self.said("raises")],
        }
