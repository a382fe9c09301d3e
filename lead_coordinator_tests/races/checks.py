"""What must be true after a race. Each check answers sentences that name what is wrong; none: all is well.

The database is held against itself (each figure that is kept twice) and against the journals, which know
nothing of it but what its answers said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any

from lead_coordinator_tests.races.evidence import Evidence
from lead_coordinator_tests.races.observer import ACCOUNTS, QUEUE, wrong_accounts
from lead_coordinator_tests.races.scenario import MARGIN_MS, MAX_CONCURRENT, PROVIDERS, WORKFLOWS

WINDOW_SECONDS = 60.0
Wrong = Iterator[str]


# ---- tasks -------------------------------------------------------------------------------------------------


def every_task_is_completed_once(race: Evidence) -> Wrong:
    """One row each in `lead.task`, completed, with one completed attempt, of the execution that it names."""
    for row in race.db.rows(
        "SELECT count(*) AS tasks, count(DISTINCT idempotency_key) AS keys,"
        " count(*) FILTER (WHERE status = 'completed') AS completed FROM lead.task"
    ):
        if set(row.values()) != {race.scenario.tasks}:
            yield f"{race.scenario.tasks} tasks were submitted, there are {row}"
    for row in race.db.rows(
        "SELECT t.id, t.status, t.execution_id, count(a.*) AS completions,"
        " max(a.execution_id) AS completed_by FROM lead.task AS t"
        " LEFT JOIN lead.task_attempt AS a ON a.task_id = t.id AND a.outcome = 'completed'"
        " GROUP BY t.id HAVING count(a.*) <> 1 OR max(a.execution_id) IS DISTINCT FROM t.execution_id"
        " LIMIT 20"
    ):
        yield "task {id} ({status} by {execution_id}): {completions} completions, by {completed_by}".format(
            **row
        )
    for row in race.db.rows("SELECT task_id, depends_on FROM lead.task_dependency LIMIT 20"):
        yield f"task {row['task_id']} still waits for {row['depends_on']}"
    for row in race.db.rows("SELECT task_id FROM lead.dead_letter WHERE resolution IS NULL LIMIT 20"):
        yield f"the dead letter of task {row['task_id']} is still open"


def every_completion_is_what_its_client_believes(race: Evidence) -> Wrong:
    """An acknowledged completion is the database's; the database's was asked for by the holder of the lease;
    only a client that was killed never heard of its completion; no task was given out after one was."""
    completed = {
        row["task_id"]: (row["execution_id"], row["fence"])
        for row in race.db.rows(
            "SELECT a.task_id, a.execution_id, w.fence FROM lead.task_attempt AS a"
            " INNER JOIN workflow_orchestration AS w ON w.execution_id = a.execution_id"
            " WHERE a.outcome = 'completed'"
        )
    }
    asked: dict[int, dict[tuple[str, int], str]] = defaultdict(dict)
    acknowledged: dict[int, float] = {}
    for entry in race.said("completing", "completed"):
        lease = (entry["execution"], entry["fence"])
        for task in entry["tasks"]:
            if entry.did == "completing":
                asked[task][lease] = entry.who
            elif completed.get(task) != lease:
                yield f"{entry.who} completed task {task} as {lease}, the database says {completed.get(task)}"
            elif task in acknowledged:
                yield f"the completion of task {task} was acknowledged twice"
            else:
                acknowledged[task] = entry.at
    for task, lease in completed.items():
        if lease not in asked[task]:
            yield f"task {task} was completed as {lease}, and nobody who held that asked for it"
        elif task not in acknowledged and asked[task][lease] not in race.killed:
            yield f"{asked[task][lease]} lives, and never heard that it completed task {task}"
    for entry in race.said("claimed"):
        for task in entry["tasks"]:
            if entry["asked_at"] > acknowledged.get(task, entry["asked_at"]):
                yield f"task {task} was given to {entry.who} after its completion was acknowledged"


def no_lease_is_given_twice(race: Evidence) -> Wrong:
    """No two clients got the same fencing number, and no execution started twice."""
    for what in ("fence", "execution"):
        holders: dict[Any, str] = {}
        for entry in race.said("claimed"):
            if entry[what] in holders:
                yield f"{what} {entry[what]} was given to {holders[entry[what]]} and to {entry.who}"
            holders[entry[what]] = entry.who


def queue_counts_are_real(race: Evidence) -> Wrong:
    """Depth log, ready list and due list agree with the tasks."""
    for row in race.db.rows(QUEUE):
        yield f"queue: {row['difference']}"


# ---- money -------------------------------------------------------------------------------------------------


def ledger_equals_its_calls(race: Evidence) -> Wrong:
    """Accounts, executions, attempts and tasks all say what the calls say, and nothing is held any more."""
    rows = race.db.rows(ACCOUNTS)
    yield from wrong_accounts(rows)
    for row in rows:
        if row["held"]:
            yield f"account {row['scope']} {row['key']}: {row['held']} still held"
    for row in race.db.rows("SELECT * FROM lead.plan_reservation"):
        yield f"reservation {row['execution_id']} was left"
    for what, query in {
        "execution": "SELECT w.execution_id AS name, w.actual_cost AS kept,"
        " sum(coalesce(c.cost_usd, 0)) AS due"
        " FROM workflow_orchestration AS w LEFT JOIN lead.api_call AS c ON c.execution_id = w.execution_id"
        " GROUP BY w.id HAVING w.actual_cost <> sum(coalesce(c.cost_usd, 0)) OR w.calls_held_usd <> 0"
        " OR w.envelope_usd <> 0 LIMIT 20",
        "task": "SELECT t.id AS name, t.cost_usd AS kept, sum(coalesce(c.cost_usd, 0)) AS due"
        " FROM lead.task AS t LEFT JOIN lead.api_call AS c ON c.task_id = t.id"
        " GROUP BY t.id HAVING t.cost_usd <> sum(coalesce(c.cost_usd, 0)) LIMIT 20",
        "attempts of task": "SELECT a.task_id AS name, a.cost_usd AS kept, coalesce(c.cost_usd, 0) AS due"
        " FROM (SELECT task_id, sum(cost_usd) AS cost_usd FROM lead.task_attempt GROUP BY task_id) AS a"
        " LEFT JOIN (SELECT task_id, sum(cost_usd) AS cost_usd FROM lead.api_call GROUP BY task_id) AS c"
        " ON c.task_id = a.task_id WHERE a.cost_usd <> coalesce(c.cost_usd, 0) LIMIT 20",
    }.items():
        for row in race.db.rows(query):
            yield f"{what} {row['name']}: {row['kept']} kept, {row['due']} by its calls"


def calls_cost_what_the_journals_say(race: Evidence) -> Wrong:
    """An answered call costs what its client was told; one without an answer its maximum, and only where its
    client was killed or had lost its lease. What was sent is never released, what was released never sent."""
    excused = race.killed | {entry.who for entry in race.said("refused")}
    holders = {entry["execution"]: entry.who for entry in race.said("claimed")}
    sent = {entry["call"]: entry for entry in race.said("sent")}
    asked = {entry["call"]: entry for entry in race.said("settling")}
    told = {entry["call"]: entry for entry in race.said("settled")}
    for call_id, call in race.calls.items():
        name = f"call {call_id} ({call['status']} {call['outcome']})"
        most: Decimal = call["max_cost_usd"]
        if call["status"] not in ("settled", "released"):
            yield f"{name} was never resolved"
            continue
        if call["status"] == "released":
            if call["cost_usd"] or call["sent_at"] or call_id in sent:
                yield f"{name} was released, but sent, or paid for"
            continue
        if call_id in told and told[call_id].dollars("cost") != call["cost_usd"]:
            yield f"{name} costs {call['cost_usd']}, {told[call_id].who} was told {told[call_id]['cost']}"
        price = asked[call_id].facts["price"] if call_id in asked else None
        answered = most if price is None else Decimal(price)
        if call["outcome"] == "unanswered":
            if call["cost_usd"] != most:
                yield f"{name} costs {call['cost_usd']}, its maximum is {most}"
            # A client that was killed may not have come to note what it had claimed.
            if (holder := holders.get(call["execution_id"])) is not None and holder not in excused:
                yield f"{name}: {holder} lives and never lost its lease"
        elif call_id not in asked:
            yield f"{name}: nobody reported how it ended"
        elif call["cost_usd"] != answered:
            yield f"{name} costs {call['cost_usd']}, the provider said {answered}"
    for call_id, entry in sent.items():
        if call_id not in race.calls:
            yield f"{entry.who} sent call {call_id}, which is not in the ledger"
        elif race.calls[call_id]["max_cost_usd"] != entry.dollars("most"):
            yield f"call {call_id} may cost {race.calls[call_id]['max_cost_usd']}, not {entry['most']}"
    for entry in race.said("released"):
        if entry["gave_back"] != (race.calls[entry["call"]]["status"] == "released"):
            yield f"{entry.who} was told {entry['gave_back']} when it gave back call {entry['call']}"


def no_budget_is_passed_by_the_journals(race: Evidence) -> Wrong:
    """From the journals alone: what was committed (the maximum from the sending, the price from the answer,
    the maximum for ever where none came) never passes the limit that was in force."""
    raised = {(entry["scope"], entry["key"]): entry.at for entry in race.said("raises")}
    asked = {entry["call"]: entry for entry in race.said("settling")}
    for limit in race.scenario.limits:
        moves: list[tuple[float, Decimal]] = []
        for entry in race.said("sent"):
            scopes = {
                "provider": entry["provider"],
                "tenant": entry["tenant"],
                "workflow": WORKFLOWS[entry["task_type"]],
                "total": "all",
            }
            if scopes[limit.scope] != limit.key:
                continue
            moves.append((entry.at, entry.dollars("most")))
            answer = asked.get(entry["call"])
            if answer is not None and answer.facts["price"] is not None:
                moves.append((answer.at, answer.dollars("price") - entry.dollars("most")))
        committed, highest = Decimal(0), Decimal(0)
        for at, dollars in sorted(moves):
            committed += dollars
            in_force = limit.first if at < raised.get((limit.scope, limit.key), at + 1) else limit.then
            if committed > in_force and committed > highest:
                highest = committed
                yield f"{limit.scope} {limit.key}: {committed} committed at {at}, the limit is {in_force}"


# ---- limits ------------------------------------------------------------------------------------------------


def over_the_window(moments: Iterable[float], limit: int) -> list[float]:
    """Moments from which more than `limit` lie within 60 seconds."""
    ordered = sorted(moments)
    return [
        first
        for first, later in zip(ordered, ordered[limit:], strict=False)
        if later - first < WINDOW_SECONDS
    ]


def no_minute_holds_more_calls_than_allowed(race: Evidence) -> Wrong:
    """Any 60 seconds, at the provider (journals) and at the database. A process that the machine kept waiting
    for longer than the stated margin counts as if it had arrived at the margin's end."""
    for provider in PROVIDERS:
        arrivals = [
            min(entry.at, entry["marked_at"] + MARGIN_MS / 1000)
            for entry in race.said("sent")
            if entry["provider"] == provider
        ]
        marked = [
            call["sent_at"].timestamp()
            for call in race.calls.values()
            if call["provider"] == provider and call["sent_at"] is not None
        ]
        for where, moments in (("arrived at", arrivals), ("were marked for", marked)):
            for first in over_the_window(moments, race.scenario.calls_a_minute)[:5]:
                yield f"over {race.scenario.calls_a_minute} {where} {provider} in the minute from {first}"


def no_slot_is_leaked(race: Evidence) -> Wrong:
    """Every rate slot is free, or taken by the call that was sent with it for 60 seconds and the margin;
    every execution has ended; no breaker waits for a probe that nobody makes."""
    for row in race.db.rows(
        "SELECT s.provider, s.slot_no, s.free_at, c.id, c.status, c.sent_at FROM lead.rate_slot AS s"
        " LEFT JOIN lead.api_call AS c ON c.id = s.call_id"
        " WHERE s.free_at > '-infinity' AND (s.call_id IS NOT NULL OR s.free_at > clock_timestamp())"
        " AND (c.id IS NULL OR c.status <> 'settled' OR c.slot_no <> s.slot_no OR c.provider <> s.provider"
        " OR s.free_at <> c.sent_at + make_interval(secs => 60 + %s / 1000.0)) LIMIT 20",
        [MARGIN_MS],
    ):
        yield f"slot {row}"
    for row in race.db.rows(
        "SELECT r.provider, r.requests_per_minute, count(s.*) AS slots FROM api_rate_limits AS r"
        " LEFT JOIN lead.rate_slot AS s ON s.provider = r.provider GROUP BY r.provider"
        " HAVING count(s.*) <> r.requests_per_minute"
    ):
        yield f"{row['provider']} has {row['slots']} slots, {row['requests_per_minute']} a minute are allowed"
    for row in race.db.rows(
        "SELECT execution_id, status FROM workflow_orchestration WHERE completed_at IS NULL LIMIT 20"
    ):
        yield f"execution {row['execution_id']} is {row['status']}"
    for row in race.db.rows(
        "SELECT name, probes_started, probes_succeeded FROM lead.circuit_breaker"
        " WHERE state = 'half_open' AND probes_started <> probes_succeeded"
    ):
        yield f"breaker {row['name']}: {row['probes_started']} probes, {row['probes_succeeded']} succeeded"


def runs_at_once_stay_within_the_limit(race: Evidence) -> Wrong:
    """From the journals: from the start's answer until the end was asked for, at most so many at once."""
    started = {entry["execution"]: entry.at for entry in race.said("claimed") if entry["platform"]}
    moves = [(entry.at, -1) for entry in race.said("finishing") if entry["execution"] in started]
    ends = {entry["execution"] for entry in race.said("finishing")}
    moves += [(at, 1) for execution, at in started.items() if execution in ends]
    at_once = 0
    for at, step in sorted(moves):
        at_once += step
        if at_once > MAX_CONCURRENT:
            yield f"{at_once} runs at {at}, {MAX_CONCURRENT} are allowed"


# ---- the whole ---------------------------------------------------------------------------------------------


def history_counts_every_execution_once(race: Evidence) -> Wrong:
    """The hourly rows add up to the executions, and each execution's figures to its attempts."""
    for row in race.db.rows(
        "SELECT w.workflow_type, w.executions, w.completed, h.executions AS executions_counted,"
        " h.completed AS completed_counted FROM ("
        "  SELECT workflow_type, count(*) AS executions, sum(tasks_completed) AS completed"
        "  FROM workflow_orchestration WHERE reserved_at IS NOT NULL GROUP BY workflow_type"
        " ) AS w LEFT JOIN ("
        "  SELECT workflow_type, sum(total_executions) AS executions, sum(tasks_completed) AS completed"
        "  FROM execution_history GROUP BY workflow_type"
        " ) AS h ON h.workflow_type = w.workflow_type"
        " WHERE (w.executions, w.completed) IS DISTINCT FROM (h.executions, h.completed)"
    ):
        yield f"history of {row['workflow_type']}: {row}"
    for row in race.db.rows(
        "SELECT w.execution_id, w.tasks_completed, w.metrics ->> 'completed' AS noted,"
        " count(a.*) AS completions FROM workflow_orchestration AS w LEFT JOIN lead.task_attempt AS a"
        " ON a.execution_id = w.execution_id AND a.outcome = 'completed' WHERE w.reserved_at IS NOT NULL"
        " GROUP BY w.id HAVING count(a.*) <> w.tasks_completed"
        " OR (w.metrics ->> 'completed')::bigint IS DISTINCT FROM w.tasks_completed LIMIT 20"
    ):
        yield f"execution {row['execution_id']}: {row}"


def nothing_went_wrong_on_the_way(race: Evidence) -> Wrong:
    """No error that a client should never meet, no client that got stuck or fell over, every sample right."""
    for entry in race.said("error"):
        yield f"{entry.who}: {entry['kind']}: {entry['why']}"
    for entry in race.said("wrong"):
        yield f"seen during the race: {entry['what']}"
    for entry in race.said("stuck", "unfinished", "never_settled_down"):
        yield f"{entry.did}: {entry.facts}"
    for entry in race.said("over"):
        if entry["code"] not in (0, -9):
            yield f"{entry['who']} ended with {entry['code']}"
    for entry in race.said("ended"):
        if entry["observer"] != 0:
            yield f"the observer ended with {entry['observer']}"


def the_race_was_one(race: Evidence) -> Wrong:
    """What has to have happened, or the other checks would say little."""
    figures = race.figures()
    bound = set(figures["limits that bound"])
    for limit in race.scenario.limits:
        if f"{limit.scope} {limit.key}" not in bound:
            yield f"the limit of {limit.scope} {limit.key} never bound"
    for what, happened in {
        "clients were killed": figures["killed"] >= 10,
        "tasks were lost with a client": figures["attempts"].get("stalled"),
        "tasks were deferred": figures["attempts"].get("deferred"),
        "calls went unanswered": figures["calls"].get("settled unanswered"),
        "calls waited for the rate limit": figures["calls blocked"].get("rate_limited"),
        "calls waited for money": figures["calls blocked"].get("budget"),
        "the platform worked a twentieth of the tasks": figures["completed by"].get("platform", 0)
        >= race.scenario.tasks / 20,
        "all slots were in use": any(entry["active"] == MAX_CONCURRENT for entry in race.said("sample")),
        "a breaker opened": race.db.row(
            "SELECT 1 FROM lead.circuit_breaker WHERE name = 'provider:openai' AND times_opened > 0"
        ),
        "a frozen client met its stale lease": {entry.who for entry in race.said("freezes")}
        & {entry.who for entry in race.said("refused")},
        "a minute was full and the next one began": any(
            sum(1 for call in race.calls.values() if call["provider"] == provider and call["sent_at"])
            > race.scenario.calls_a_minute
            for provider in PROVIDERS
        ),
    }.items():
        if not happened:
            yield f"not seen: {what}"


Check = Callable[[Evidence], Wrong]
CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        every_task_is_completed_once,
        every_completion_is_what_its_client_believes,
        no_lease_is_given_twice,
        queue_counts_are_real,
        ledger_equals_its_calls,
        calls_cost_what_the_journals_say,
        no_budget_is_passed_by_the_journals,
        no_minute_holds_more_calls_than_allowed,
        no_slot_is_leaked,
        runs_at_once_stay_within_the_limit,
        history_counts_every_execution_once,
        nothing_went_wrong_on_the_way,
        the_race_was_one,
    )
}
