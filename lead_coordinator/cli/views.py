"""How the platform's figures look on a terminal: `status` and the demo's live view (rich)."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lead_coordinator.database.reports import Alert

SHORT = {"processing": "in work", "completed": "done", "dead_letter": "dead"}
ALERT_STYLES = {"critical": "bold red", "warning": "yellow"}
BREAKER_STYLES = {"closed": "green", "half_open": "yellow", "open": "red"}


def dollars(value: Any, digits: int = 2) -> str:
    """Dollars as a person reads them; a dash where there is nothing to say."""
    return "–" if value is None else f"${float(value):,.{digits}f}"


def seconds(value: Any) -> str:
    """A span in the unit that fits it."""
    if value is None:
        return "–"
    number = float(value)
    if number < 120:
        return f"{number:.1f} s"
    return f"{number / 60:.1f} min" if number < 7200 else f"{number / 3600:.1f} h"


def provider_table(providers: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for name in ("provider", "calls a minute", "today", "429s", "spent", "breaker"):
        table.add_column(name)
    for name, provider in sorted(providers.items()):
        state = str(provider.get("breaker_state", "–"))
        table.add_row(
            name,
            f"{provider.get('used_last_60s', 0)} of {provider.get('limit_per_minute', '–')}",
            str(provider.get("calls_today", 0)),
            str(provider.get("refused_429_today", 0)),
            dollars(provider.get("spent_usd_today"), 4),
            Text(state.replace("_", "-"), style=BREAKER_STYLES.get(state, "")),
        )
    return table


def alert_lines(alerts: Sequence[Alert]) -> list[RenderableType]:
    """What a person should look at: critical first, then warnings; the rest is advice and stays out."""
    return [
        Text.assemble((f"{alert.severity}  ", style), alert.message)
        for severity, style in ALERT_STYLES.items()
        for alert in alerts
        if alert.severity == severity
    ]


def status_view(status: Mapping[str, Any], where: str, alerts: Sequence[Alert] = ()) -> RenderableType:
    """One screen: queue by type, executions, money, times, providers, and alerts where there are any."""
    queue = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    states = ("queued", "processing", "deferred", "completed", "dead_letter", "cancelled")
    queue.add_column("task type", no_wrap=True)
    for state in states:
        queue.add_column(SHORT.get(state, state), justify="right")
    for task_type, counts in sorted(status.get("queue", {}).items()):
        queue.add_row(task_type, *(str(counts.get(state, 0)) for state in states))
    return Group(
        Text.assemble(
            ("Lead Coordinator ", "bold"),
            (f"{status.get('coordinator_state', '')}  ", "cyan"),
            (where, "dim"),
        ),
        Text(),
        queue,
        Text(),
        figures(status),
        Text(),
        provider_table(status.get("providers", {})),
        *([Text(), *lines] if (lines := alert_lines(alerts)) else []),
    )


def figures(status: Mapping[str, Any]) -> Table:
    executions, budget = status.get("executions", {}), status.get("budget", {})
    wait, latency = status.get("wait_seconds") or {}, status.get("latency_seconds") or {}
    table = Table.grid(padding=(0, 2, 0, 0))
    rows = {
        "executions": f"{executions.get('running', 0)} running of at most {executions.get('max_concurrent')},"
        f" {executions.get('pending', 0)} pending, {executions.get('completed', 0)} completed,"
        f" {executions.get('failed', 0)} failed, {executions.get('timeout', 0)} timed out",
        "published": f"{status.get('published', 0)}, each {dollars(status.get('cost_per_article_usd'), 4)};"
        f" {status.get('retries', 0)} retries, {status.get('dead_letters', 0)} dead letters",
        "budget": f"{dollars(budget.get('spent_usd'), 4)} spent, {dollars(budget.get('held_usd'), 4)} held"
        f" of {dollars(budget.get('limit_usd'))} ({budget.get('day', 'today')})",
        "waiting": f"p50 {seconds(wait.get('p50'))}, p95 {seconds(wait.get('p95'))}",
        "until done": f"p50 {seconds(latency.get('p50'))}, p95 {seconds(latency.get('p95'))}",
    }
    for name, text in rows.items():
        table.add_row(Text(name, style="dim"), text)
    return table
