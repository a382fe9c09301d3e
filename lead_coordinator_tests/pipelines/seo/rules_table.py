"""Writes the table of rules into docs/SEO.md.

python -m lead_coordinator_tests.pipelines.seo.rules_table
"""

from __future__ import annotations

from pathlib import Path

from lead_coordinator.pipelines.seo.rules import RULES

PAGE = Path(__file__).parents[3] / "docs" / "SEO.md"
BEGIN = "<!-- rules: written by python -m lead_coordinator_tests.pipelines.seo.rules_table -->\n"
END = "<!-- end of rules -->"


def table() -> str:
    lines = ["| rule | severity | what is wrong | how to mend it |", "|---|---|---|---|"]
    for rule in RULES:
        cells = (rule.about, rule.fix)
        about, fix = (cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells)
        lines.append(f"| `{rule.id}` | {rule.severity} | {about} | {fix} |")
    return "\n".join(lines) + "\n"


def written(text: str) -> str:
    """The page with the table in its place."""
    before, begin, rest = text.partition(BEGIN)
    assert begin, f"{PAGE} has no place for the rules"
    return before + begin + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
