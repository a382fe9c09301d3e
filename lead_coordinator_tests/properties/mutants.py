"""Wrong versions of the SQL functions, each with one promise broken: what the machine has to notice.

`python -m lead_coordinator_tests.properties.mutants` tries all of them and says after how many steps each
was caught; `test_control_plane.py` tries a few. A mutant changes the definition that is deployed, so it
fails loudly where the text that it changes is gone.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from lead_coordinator.database.connection import Database
from lead_coordinator.database.deploy import deploy
from lead_coordinator.settings import Settings
from lead_coordinator_tests.properties.machine import run
from lead_coordinator_tests.properties.tally import Tally
from lead_coordinator_tests.properties.world import prepare
from lead_coordinator_tests.servers import Servers

EXAMPLES = 80


@dataclass(frozen=True)
class Mutant:
    """`old` is looked for in the function's definition, however it is broken into lines, and replaced by
    `new`.
    """

    promise: str
    function: str
    old: str
    new: str

    def changed(self, definition: str) -> str:
        pattern = r"\s+".join(re.escape(word) for word in self.old.split())
        found = re.findall(pattern, definition)
        assert len(found) == 1, f"{self.function} has {self.old!r} {len(found)} times: adapt this mutant"
        return re.sub(pattern, lambda _: self.new, definition)


MUTANTS = {
    # ---- the queue -------------------------------------------------------------------------------------
    "depth forgets what leaves a status": Mutant(
        "depth counters equal real counts", "lead.count_updated_tasks", "m.tasks <> 0", "m.tasks > 0"
    ),
    "ready list keeps what was cancelled": Mutant(
        "a task is in one place", "lead.count_updated_tasks", "IF v_queued > 0 THEN", "IF v_queued > 1 THEN"
    ),
    "folding forgets the oldest": Mutant(
        "no task is older than what the log says",
        "lead.fold_queue_depth",
        "min(f.oldest_from)",
        "max(f.oldest_from)",
    ),
    "who comes back is noted as the youngest": Mutant(
        "no task is older than what the log says",
        "lead.count_updated_tasks",
        "coalesce(min(m.queued_at)",
        "coalesce(max(m.queued_at)",
    ),
    "a paused tenant is served": Mutant(
        "a paused tenant's tasks wait", "lead.claimable_lanes", "t.mode IS DISTINCT FROM 'paused'", "true"
    ),
    "age counts nothing": Mutant(
        "a starving task gains fifty points",
        "lead.take_out_tasks",
        "lead.setting_number('starvation_points')",
        "0",
    ),
    "one dependency is enough": Mutant(
        "a task waits for all that it depends on",
        "lead.release_dependants",
        "AND NOT EXISTS (SELECT 1 FROM lead.task_dependency AS o WHERE o.task_id = t.id)",
        "",
    ),
    "pruning forgets keys": Mutant(
        "idempotency keys outlive pruning",
        "lead.forget_tasks",
        "RETURN NULL;",
        "DELETE FROM lead.submission AS s USING old_tasks AS o WHERE s.task_id = o.id; RETURN NULL;",
    ),
    "suspects go along": Mutant(
        "from the second stall on a task runs alone",
        "lead.take_out_tasks",
        "lead.setting_number('stall_limit')::integer - 1",
        "lead.setting_number('stall_limit')::integer",
    ),
    # ---- attempts --------------------------------------------------------------------------------------
    "an outage spends attempts": Mutant(
        "what is put off spends no attempt",
        "public.fail_task",
        "attempts = t.attempts + (v_outcome <> 'deferred')::integer",
        "attempts = t.attempts + 1",
    ),
    "one retry too many": Mutant(
        "a fourth error of its own is the last",
        "public.fail_task",
        "v_task.attempts >= lead.setting_number('retry_limit')",
        "v_task.attempts > lead.setting_number('retry_limit')",
    ),
    "one stall too many": Mutant(
        "a task lost with three runs is parked",
        "lead.end_execution",
        "v_task.stalls + 1 >= lead.setting_number('stall_limit')",
        "v_task.stalls >= lead.setting_number('stall_limit')",
    ),
    "replayed with old stalls": Mutant(
        "replayed tasks have fresh attempts",
        "public.replay_dead_letters",
        "stalls = 0, deferrals = 0",
        "deferrals = 0",
    ),
    # ---- leases ----------------------------------------------------------------------------------------
    "any fence will do": Mutant(
        "a stale lease is refused",
        "lead.held_execution",
        "OR v_execution.fence IS DISTINCT FROM p_fence",
        "",
    ),
    "any launch will do": Mutant(
        "a launch starts once",
        "public.start_execution",
        "OR v_execution.launch_number IS DISTINCT FROM p_launch_number",
        "",
    ),
    "a beat shortens the lease of a claim": Mutant(
        "a heartbeat extends the lease that was asked for",
        "public.heartbeat_execution",
        "CASE WHEN w.is_external THEN w.lease_expires_at - w.heartbeat_at"
        " ELSE lead.seconds(lead.setting_number('lease_seconds')) END",
        "lead.seconds(lead.setting_number('lease_seconds'))",
    ),
    "timeouts are not looked for": Mutant(
        "what timed out is recovered", "public.recover_executions", "OR w.timeout_at <= p_current_time", ""
    ),
    # ---- money -----------------------------------------------------------------------------------------
    "a cent over the limit": Mutant(
        "no hold passes the limit", "lead.budget_hold", "<= p_limit)", "<= p_limit + 0.01)"
    ),
    "released money stays held": Mutant(
        "a released call gives back its hold", "lead.release_call", "PERFORM lead.call_settle(p_call, 0);", ""
    ),
    "calls draw on the wrong day": Mutant(
        "a hold belongs to the day of its execution",
        "public.begin_api_call",
        "'reserved', v_execution.budget_day",
        "'reserved', lead.budget_day(p_current_time)",
    ),
    "what was spent is forgotten in the envelope": Mutant(
        "a call draws from what is left of the envelope",
        "public.begin_api_call",
        "v_execution.actual_cost + v_execution.calls_held_usd + v_max",
        "v_execution.calls_held_usd + v_max",
    ),
    "pruning takes calls of runs under way": Mutant(
        "what has not ended stays", "public.prune_history", "AND o.completed_at IS NULL", "AND false"
    ),
    # ---- limits ----------------------------------------------------------------------------------------
    "one slot too many": Mutant(
        "no more executions at once than allowed",
        "public.reserve_execution_resources",
        "v_wanted.slots > v_capacity.free_slots",
        "v_wanted.slots > v_capacity.free_slots + 1",
    ),
    "slots are free too early": Mutant(
        "no 60 seconds hold more requests than the limit",
        "public.begin_api_call",
        "f.free_at <= p_current_time",
        "f.free_at <= p_current_time + interval '3 seconds'",
    ),
    "sending does not count": Mutant(
        "a slot's 60 seconds begin anew when the request leaves",
        "public.mark_api_call_sent",
        "SET free_at = p_current_time + lead.seconds(60",
        "SET free_at = s.free_at + lead.seconds(0 * 60",
    ),
    "a lowered limit forgets": Mutant(
        "requests that were made count under another limit too",
        "lead.follow_rate_limit",
        "THEN '-infinity' ELSE clock_timestamp() END",
        "THEN 'infinity' ELSE clock_timestamp() END",
    ),
    # ---- breakers --------------------------------------------------------------------------------------
    "a 429 counts as a failure": Mutant(
        "429 is neutral",
        "public.settle_api_call",
        "'rate_limited', 'client_error', 'cancelled'",
        "'client_error', 'cancelled'",
    ),
    "a success is forgotten": Mutant(
        "failures are counted in a row",
        "lead.breaker_record",
        "IF p_ending = 'success' THEN v_breaker.consecutive_failures := 0;",
        "IF p_ending = 'success' THEN NULL;",
    ),
    "three probes after one": Mutant(
        "one probe, then two, then four",
        "lead.breaker_record",
        "v_breaker.probe_limit * 2",
        "v_breaker.probe_limit * 3",
    ),
    "a neutral probe is lost": Mutant(
        "every ending of a probe is recorded",
        "lead.breaker_record",
        "v_breaker.probes_started := greatest(0, v_breaker.probes_started - 1);",
        "NULL;",
    ),
    "late probes count": Mutant(
        "a probe counts for its own time", "lead.breaker_record", "PERFORM lead.forget_probes(p_name);", ""
    ),
    "more runs are planned than probes": Mutant(
        "a half-open pipeline goes on",
        "public.create_optimal_execution_plan",
        "c.runs < CASE b.state WHEN 'open' THEN 1 ELSE b.probe_limit - b.probes_started END",
        "c.runs + c.running < greatest(1, b.probe_limit)",
    ),
}


def mutate(db: Database, mutant: Mutant) -> str:
    """Deploys the mutant; answers the definition that was there."""
    row = db.row("SELECT pg_get_functiondef(to_regproc(%s)) AS definition", [mutant.function])
    assert row is not None
    definition = str(row["definition"])
    db.execute(mutant.changed(definition))
    return definition


def steps_until_caught(db: Database, same_as: int = 0) -> int | None:
    """How many steps the machine takes until it fails; None: it doesn't."""
    tally = Tally()
    try:
        run(db, tally, EXAMPLES, same_as=same_as, shrink=False)
    except Exception:
        return tally.steps
    return None


def main(wanted: list[str]) -> int:
    servers = Servers()
    missed = 0
    try:
        url = servers.get("embedded").url
        deploy(url, Settings.load({}))
        with Database(url) as db:
            db.execute("UPDATE lead.setting SET value = 'true' WHERE name = 'scratch_database'")
            prepare(db)
            assert steps_until_caught(db) is None, "without a mutant nothing was expected to be caught"
            for name, mutant in MUTANTS.items():
                if wanted and not any(word in name for word in wanted):
                    continue
                definition = mutate(db, mutant)
                steps = steps_until_caught(db)
                db.execute(definition)
                missed += steps is None
                print(f"{'missed' if steps is None else f'{steps:6}'}  {name} ({mutant.promise})", flush=True)
    finally:
        servers.stop()
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
