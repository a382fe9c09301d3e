"""What a deployment would change: the catalogs before and after, compared.

`deploy(…, dry_run=True)` applies the four files in a transaction that is rolled back; this module looks
before and after, and says the difference. Both looks use the definitions in `sql/` itself
(lead.object_definitions and what it needs, made in pg_temp for the first look), so that an older database is
seen with today's eyes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg.rows import DictRow

from lead_coordinator.database.control import Difference
from lead_coordinator.database.scripts import statements

__all__ = ["Change", "DeployPlan", "compare", "look_after", "look_before"]

Action = Literal["added", "changed", "dropped"]
Catalog = Mapping[tuple[str, str], str]

EYES = ("our_relations", "our_functions", "function_definition", "actual_grants", "object_definitions")
_EYE = re.compile(rf"\blead\.({'|'.join(EYES)})\(")
KINDS = (
    "role",
    "schema",
    "table",
    "row security",
    "storage",
    "column",
    "constraint",
    "index",
    "sequence",
    "view",
    "trigger",
    "policy",
    "function",
    "grant",
    "setting",
    "workflow policy",
    "rate limit",
    "state transition",
    "version",
)
ROLES = ["anon", "authenticated", "service_role", "lead_application", "lead_dashboard"]
# Rows that every deployment has: kind, table, and how a row is named and shown.
ROWS = (
    ("setting", "lead.setting", "name", "value"),
    ("workflow policy", "lead.workflow_policy", "workflow_type", "(to_jsonb(x) - 'updated_at')::text"),
    ("rate limit", "public.api_rate_limits", "provider", "requests_per_minute || ' a minute'"),
    (
        "state transition",
        "lead.state_transition",
        "concat_ws(' ', subject, from_state, 'to', to_state)",
        "''",
    ),
    ("version", "lead.deployment", "version", "''"),
)


@dataclass(frozen=True)
class Change:
    """One object or row that would be added, changed or dropped; `before` and `after` are its definitions."""

    action: Action
    kind: str
    name: str
    before: str | None = None
    after: str | None = None

    def __str__(self) -> str:
        text = f"{self.kind} {self.name}"
        if self.kind == "function":  # a body is too long to show
            return text
        if self.action == "changed":
            return f"{text}: {self.before} -> {self.after}"
        return f"{text}: {self.after}" if self.after else text


@dataclass(frozen=True)
class DeployPlan:
    """What `deploy` would do to a database.

    `version_before`: the version that is deployed there, None on a database without the control plane (one
    deployed by 0.1.0 through psql kept no version and is called 0.1.0). `differing`: rows that would win over
    the environment. Nothing has been changed.
    """

    server_version: str
    version_before: str | None
    version_after: str
    changes: tuple[Change, ...]
    differing: tuple[Difference, ...] = ()

    @property
    def changes_nothing(self) -> bool:
        return not self.changes

    def count(self, action: Action) -> int:
        return sum(change.action == action for change in self.changes)

    def as_json(self) -> dict[str, Any]:
        """All of it, with the definitions before and after."""
        return {
            "server_version": self.server_version,
            "version_before": self.version_before,
            "version_after": self.version_after,
            "changes_nothing": self.changes_nothing,
            "counts": {action: self.count(action) for action in ("added", "changed", "dropped")},
            "changes": [asdict(change) for change in self.changes],
            "differing": [asdict(difference) for difference in self.differing],
        }

    def __str__(self) -> str:
        """Readable: a headline, then the changes by kind; a new database lists only how many of each."""
        return "\n".join([*self._changes(), *(str(difference) for difference in self.differing)])

    def _changes(self) -> list[str]:
        if self.changes_nothing:
            return [f"Version {self.version_after} is deployed already: nothing would change."]
        counts = ", ".join(
            f"{count} {action}" for action in ("added", "changed", "dropped") if (count := self.count(action))
        )
        if self.version_before is None:
            kinds = ", ".join(
                f"{len(group)} × {kind}"
                for kind in KINDS
                if (group := [change for change in self.changes if change.kind == kind])
            )
            return [f"A new deployment of version {self.version_after} would be made: {kinds}."]
        way = (
            f"Version {self.version_after} again"
            if self.version_before == self.version_after
            else f"From version {self.version_before} to {self.version_after}"
        )
        signs = {"added": "+", "changed": "~", "dropped": "-"}
        return [f"{way}: {counts}.", *(f"  {signs[change.action]} {change}" for change in self.changes)]


def compare(before: Catalog, after: Catalog) -> tuple[Change, ...]:
    """The differences, by kind (tables first, rows last) and name."""

    def differences() -> Iterator[Change]:
        for kind, name in before.keys() | after.keys():
            was, is_now = before.get((kind, name)), after.get((kind, name))
            if was != is_now:
                action: Action = "added" if was is None else "dropped" if is_now is None else "changed"
                yield Change(action, kind, name, was, is_now)

    return tuple(sorted(differences(), key=lambda change: (KINDS.index(change.kind), change.name)))


def look_before(connection: psycopg.Connection[DictRow], files: Sequence[Path]) -> Catalog:
    """The catalogs as they are, whatever version is deployed; in a transaction that will be rolled back."""
    for path in files:
        for statement in statements(path.read_text(encoding="utf-8")):
            if re.match(rf"CREATE OR REPLACE FUNCTION lead\.({'|'.join(EYES)})\(", statement.text):
                connection.execute(_EYE.sub(r"pg_temp.\1(", statement.text).encode())
    return _look(connection, "pg_temp")


def look_after(connection: psycopg.Connection[DictRow]) -> Catalog:
    """The catalogs once the files are applied."""
    return _look(connection, "lead")


def _look(connection: psycopg.Connection[DictRow], schema: str) -> Catalog:
    found: dict[tuple[str, str], str] = {}
    # Built from this module's constants only.
    queries = [
        f"SELECT kind, name, coalesce(definition, '') AS text FROM {schema}.object_definitions()",  # noqa: S608
        "SELECT 'grant' AS kind, concat(privilege, ' on ', object, ' for ', role_name) AS name, '' AS text"  # noqa: S608
        f" FROM {schema}.actual_grants()",
        "SELECT 'role' AS kind, rolname::text AS name, '' AS text FROM pg_roles"
        " WHERE rolname = ANY (%(roles)s)",
        "SELECT 'schema' AS kind, nspname::text AS name, '' AS text FROM pg_namespace"
        " WHERE nspname IN ('lead', 'dagster')",
    ]
    for kind, table, name, text in ROWS:
        if connection.execute("SELECT to_regclass(%s) AS it", [table]).fetchone() != {"it": None}:
            queries.append(f"SELECT '{kind}' AS kind, {name} AS name, {text} AS text FROM {table} AS x")  # noqa: S608
    for query in queries:
        for row in connection.execute(query.encode(), {"roles": ROLES}):
            found[row["kind"], row["name"]] = row["text"]
    return found
