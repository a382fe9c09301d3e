"""Whatever is given to a public function, the answer is a result or an error that says what is allowed.

An internal error (a constraint, a cast, an overflow) would tell a caller nothing, and is what an attacker
looks for. Each function is called with arguments of the right type and any value: the usual, the absurd,
NULL, and documents that were right until one place of them was changed.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from lead_coordinator.database.connection import Database, connect
from lead_coordinator_tests.database.filled import Filled, fill
from lead_coordinator_tests.sql.play import NOON

# A function. More are drawn at random with LEAD_FUZZ_EXAMPLES=2000.
EXAMPLES = int(os.environ.get("LEAD_FUZZ_EXAMPLES", "150"))
PARTS = 4  # worked on in parallel
ALLOWED = re.compile(r"22023|LC00[1-6]")
# field: value … (what is allowed)
SAYS_WHICH_FIELD = re.compile(r"^[a-zA-Z_][\w.\[\] -]*: ")
# These run for seconds, take no argument that could be wrong but one, and are covered by tests of their own.
TOO_SLOW = {"run_coordinator_test_suite", "analyze_test_results", "benchmark_coordinator_performance"}
FUNCTIONS = (
    "SELECT f.function_name AS name, array_agg(a.name ORDER BY a.place) AS names,"
    " array_agg(format_type(a.type, NULL) ORDER BY a.place) AS types"
    " FROM lead.our_functions() AS f INNER JOIN pg_proc AS p ON p.oid = f.oid"
    " CROSS JOIN LATERAL unnest(p.proargtypes::oid[], p.proargnames[:p.pronargs])"
    "   WITH ORDINALITY AS a (type, name, place)"
    " WHERE f.schema_name = 'public' GROUP BY 1 ORDER BY 1"
)

JSON_LEAVES: list[Any] = [
    *(None, True, 0, -1, 1, 0.5, -0.5, 3, 101, 2147483648, 10**19, Decimal("1e30"), Decimal("1e400")),
    *("", "x", "-1", "1e400", "NaN", "infinity", "2026-13-45", "2026-11-24T12:00:00Z", "a\nb", "x" * 300),
    *([], {}, [[]], [None], [1], {"a": None}, "content_pipeline", "content_generation", "gemini"),
]
TEXTS = [
    "",
    " ",
    "x",
    "a\nb",
    "\x01",
    "x" * 300,
    "x" * 5000,
    "%",
    "'; DROP TABLE lead.task; --",
    "NULL",
    "…",
    "💥",
]
INTEGERS = [0, 1, -1, 2, 10, 11, 100, 101, 10001, 2147483647, -2147483648]
BIGINTS = [*INTEGERS, 2**63 - 1, -(2**63)]
NUMERICS = [
    Decimal(text)
    for text in (
        "0",
        "1",
        "-1",
        "0.00000000001",
        "1e15",
        "-1e15",
        "1e400",
        "NaN",
        "Infinity",
        "-Infinity",
        "0.5",
    )
]
TIMES = [
    NOON,
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    "infinity",
    "-infinity",
    "4713-01-01 00:00:00+00 BC",
    "294276-12-31 23:59:59+00",
]
INTERVALS = ["0", "1 day", "-1 day", "90 days", "1000000 years", "-1000000 years", "1 microsecond"]


class World:
    """A filled database, and what is right to say to it: by parameter name."""

    def __init__(self, filled: Filled, functions: dict[str, dict[str, str]]) -> None:
        self.functions = functions
        self.connection: psycopg.Connection[DictRow] = connect(filled.url)
        run, play, db = filled.run, filled.play, filled.play.db
        scheduled = play.call("get_intelligent_scheduled_tasks", current_time=play.now)
        resources = play.call("check_comprehensive_resource_availability", scheduled_tasks=scheduled)
        plan = play.call(
            "create_optimal_execution_plan",
            scheduled_tasks=scheduled,
            resource_status={"overall_status": "healthy", "constraints": {}},
            worker_id="fuzz",
            current_time=play.now,
        )
        plan["workflows_to_execute"] = [
            {"execution_id": "fuzz-1", "workflow_type": "content_pipeline", "batch_size": 2, "priority": 50}
        ]
        experiment = play.call(
            "create_experiment",
            site="site",
            name="fuzz",
            kind="headline",
            page="/a",
            variants=[{"variant": "control", "content": "A"}, {"variant": "b", "content": "B"}],
            current_time=play.now,
        )["experiment_id"]
        dashboard = play.call("get_coordinator_dashboard")["coordinator_dashboard"]

        def every(query: str) -> list[Any]:
            return [row["it"] for row in db.rows(query)]

        task = {
            "task_type": "content_generation",
            "payload": {"topic": "a"},
            "priority": 50,
            "idempotency_key": "fuzz",
            "value_usd": 3,
            "deadline": "2027-01-01T00:00:00Z",
            "not_before": "2026-12-01T00:00:00Z",
            "dependencies": [1],
            "tenant": "acme",
            "estimated_duration_ms": 5,
            "estimated_cost": 0.1,
            "predicted_success_rate": 0.9,
            "complexity_score": 2,
        }
        self.right: dict[str, list[Any]] = {
            "p_task_id": every("SELECT id AS it FROM lead.task"),
            "p_task_ids": [run.task_ids, [run.task_ids[0]]],
            "p_dependencies": [[], [1], [1, 2]],
            "p_call_id": every("SELECT id AS it FROM lead.api_call"),
            "p_publication_id": [1],
            "p_article_id": [1],
            "p_decision": ["approve", "reject"],
            "p_wish": ["unpublish", "republish"],
            "p_policy": ["auto", "review", "draft"],
            "p_publish_at": [play.now, None],
            "p_asked": ["0" * 64],
            "p_kept": [{"answer": {"title": "A"}}],
            "p_content": [{"title": "A title", "words": 5}],
            "p_details": [{"cost_usd": "0.003"}],
            "p_signature": ["00ff", None],
            "p_execution_id": [run.execution_id] * 3
            + every("SELECT execution_id AS it FROM workflow_orchestration"),
            "p_fence": [run.fence] * 5 + every("SELECT DISTINCT fence AS it FROM lead.api_call"),
            "p_launch_number": [1, 1, 2],
            "p_run_id": every("SELECT run_id AS it FROM workflow_orchestration WHERE run_id IS NOT NULL"),
            "p_worker_id": ["fuzz"],
            "p_actor": ["fuzz"],
            "p_reason": ["because"],
            "p_task_type": ["content_generation", "seo_analysis"],
            "p_workflow_type": ["content_pipeline", "seo_monitor"],
            "p_tenant": ["acme", "other", None, None],
            "p_state": every("SELECT DISTINCT to_state AS it FROM lead.state_transition"),
            "p_status": ["completed", "failed", "cancelled"],
            "p_outcome": ["ok", "rate_limited", "server_error", "cancelled", "auth_error"],
            "p_error_class": ["task_error", "invalid_input", "destination_down", "rate_limited"],
            "p_site": ["site"],
            "p_slug": ["a-slug"],
            "p_title": ["A title"],
            "p_url": ["http://localhost/a"],
            "p_content_sha256": ["0" * 64],
            "p_step": ["draft"],
            "p_name": [
                "queue_depth",
                "provider:gemini",
                "pipeline:content_pipeline",
                *every("SELECT name AS it FROM lead.setting"),
            ],
            "p_value": ["5", "true", "UTC"],
            "p_keep": ["90 days"],
            "p_priority": [50, 70],
            "p_ttl_seconds": [60],
            "p_lease_seconds": [60],
            "p_max_concurrent": [3, 10],
            "p_debug_mode": [True],
            "p_finish": [True, False],
            "p_hours_back": [24],
            "p_memory_mb": [100, None],
            "p_retry_after_ms": [1000, None],
            "p_http_status": [200, None],
            "p_cost_usd": [Decimal("0.001"), None],
            "p_value_usd": [Decimal(5), None],
            "p_warning": [Decimal(5), None],
            "p_critical": [Decimal(9), None],
            "p_limit": [1, 10, 1000],
            "p_current_time": [play.now] * 8,
            "p_timestamp": [play.now],
            "p_payload": [{"topic": "a"}],
            "p_result": [{"score": 90}],
            "p_results": [[{"task_id": task_id, "result": {}} for task_id in run.task_ids]],
            "p_tasks": [[task], [task, {**task, "idempotency_key": "fuzz-2"}]],
            "p_candidates": [
                [{"provider": "gemini", "model": "m", "max_cost_usd": 0.001, "input_tokens": 10,
                  "max_output_tokens": 10}],
            ],
            "p_usage": [{"input_tokens": 1, "output_tokens": 2, "thinking_tokens": 3, "cached_tokens": 0}],
            "p_scheduled_tasks": [scheduled, {"tasks": []}],
            "p_resource_status": [resources, {"overall_status": "healthy", "constraints": {}}],
            "p_execution_plan": [plan, {"plan_id": "p", "workflows_to_execute": []}],
            "p_system_health": [play.call("check_system_health_comprehensive")],
            "p_execution_stats": [dashboard["execution_stats"]],
            "p_resource_stats": [dashboard["resource_stats"]],
            "p_health_stats": [dashboard["health_stats"]],
            "p_kind": ["headline", "placement"],
            "p_page": ["/a", "/articles/roses.html"],
            "p_variants": [[{"variant": "control", "content": "A"}, {"variant": "b", "content": "B"}]],
            "p_rules": [
                {"minimum_exposures": 5, "maximum_days": 9, "maximum_regret": 20.5, "error_rate": 0.1,
                 "minimum_share": 0.2},
                {},
            ],
            "p_experiment_id": [experiment] * 5 + [experiment + 1],
            "p_outcomes": [
                [{"variant": "control", "exposures": 9, "successes": 1},
                 {"variant": "b", "exposures": 8, "successes": 0}]
            ],
            "p_key": ["monday", None],
            "p_shares": [{"control": 0.25, "b": 0.75}, None],
            "p_winner": ["b", None, None],
            "p_stop": [False, True],
            "p_round": [
                {
                    "feeds": [{"url": "https://a.example/f", "title": "A", "etag": None,
                               "last_modified": None, "polled_at": 1.5e9, "changed_at": None,
                               "failures": 0, "error": ""}],
                    "items": [{"identity": "i", "feed_url": "f", "url": "", "title": "t", "summary": "",
                               "published_at": 1.5e9, "words": "w", "signature": "s", "terms": {"a": 1},
                               "duplicate_of": "", "story_id": "s"}],
                    "stories": [{"story_id": "s", "title": "t", "summary": "", "first_at": 1.5e9,
                                 "last_at": 1.5e9, "items": 1, "centroid": {"a": 0.5}}],
                    "proposals": [{"story_id": "s", "title": "t", "value_usd": 2.5, "details": {},
                                   "submit": True}],
                },
                {},
            ],
            "p_rows": [
                [
                    {"page": "/a", "day": "2026-11-01", "clicks": 5, "impressions": 9, "position": 3.5},
                    {"page": "/a", "day": "2026-11-02", "views": 7, "sessions": 6, "conversions": 0.5,
                     "revenue_usd": -2},
                ]
            ],
            "p_settings": [{"daily_budget_usd": "20", "gemini_rate_limit_per_minute": "30"}],
            "p_changes": [{"max_batch": 5, "enabled": True, "mode": "open"}, {"fair_weight": 2}],
            "p_profile": [
                {"url": "https://example.org/", "language": "en", "content": {"policy": "auto"},
                 "intelligence": {"feeds": [{"url": "https://example.org/feed.xml"}]}},
            ],
            "p_filter": [
                {"task_type": "content_generation", "error_class": "invalid_input", "tenant": "acme",
                 "created_after": "2026-01-01T00:00:00Z", "created_before": "2027-01-01T00:00:00Z"},
                {"task_ids": [1, 2]},
                {},
            ],
        }  # fmt: skip

    def call(self, function: str, arguments: dict[str, Any]) -> psycopg.Error | None:
        """The error it ended in, if any; whatever it did is undone."""
        types = self.functions[function]
        statement = sql.SQL("SELECT * FROM public.{}({})").format(
            sql.Identifier(function),
            sql.SQL(", ").join(
                sql.SQL("{} := {}::{}").format(
                    sql.Identifier(name),
                    sql.Placeholder(name),
                    sql.SQL(types[name]),  # type: ignore[arg-type]
                )
                for name in arguments
            ),
        )
        values = {
            name: Jsonb(value) if types[name] == "jsonb" and value is not None else value
            for name, value in arguments.items()
        }
        try:
            with self.connection.transaction(force_rollback=True):
                self.connection.execute("SET LOCAL statement_timeout = '10s'")
                self.connection.execute(statement, values).fetchall()
        except psycopg.Error as error:
            return error
        return None


def changed_somewhere(draw: st.DrawFn, document: Any) -> Any:
    """The document with one place of it replaced, removed or added."""
    document = copy.deepcopy(document)
    places: list[tuple[Any, Any]] = []

    def collect(node: Any, depth: int = 0) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            if depth < 4:
                collect(node[key], depth + 1)

    collect(document)
    if not places:
        return draw(st.sampled_from(JSON_LEAVES))
    node, key = draw(st.sampled_from(places))
    what = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
    if what == "remove":
        del node[key]
    elif what == "add" and isinstance(node, dict):
        node["unknown"] = draw(st.sampled_from(JSON_LEAVES))
    else:
        node[key] = draw(st.sampled_from(JSON_LEAVES))
    return document


@st.composite
def arguments(draw: st.DrawFn, world: World, function: str) -> dict[str, Any]:
    any_value = {
        "text": st.sampled_from(TEXTS),
        "integer": st.sampled_from(INTEGERS),
        "bigint": st.sampled_from(BIGINTS),
        "numeric": st.sampled_from(NUMERICS),
        "boolean": st.booleans(),
        "timestamp with time zone": st.sampled_from(TIMES),
        "interval": st.sampled_from(INTERVALS),
        "jsonb": st.sampled_from(JSON_LEAVES),
        "bigint[]": st.lists(st.sampled_from([*BIGINTS, None]), max_size=3),
        "text[]": st.lists(st.sampled_from([*TEXTS, None]), max_size=3),
    }
    parameters = world.functions[function]
    # At most two are wrong: with more, the first check hides what is behind it.
    wrong = draw(st.lists(st.sampled_from(sorted(parameters)), max_size=2, unique=True)) if parameters else []
    given_now: dict[str, Any] = {}
    for name, kind in parameters.items():
        right = world.right.get(name)
        if name in wrong or right is None:
            how = draw(st.integers(0, 5))
            if how == 0:
                given_now[name] = None
            elif kind == "jsonb" and right and how > 1:
                given_now[name] = changed_somewhere(draw, draw(st.sampled_from(right)))
            else:
                given_now[name] = draw(any_value[kind])
        else:
            given_now[name] = draw(st.sampled_from(right))
    for name, kind in parameters.items():  # p_value is text for one function and a number for another
        if kind == "numeric" and isinstance(given_now[name], str):
            given_now[name] = Decimal(5)
        # p_rules are an experiment's or an audit's
        if kind == "text[]" and isinstance(given_now[name], dict):
            given_now[name] = ["title-missing"]
    return given_now


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    filled = fill(database_url)
    db: Database = filled.play.db
    functions = {
        row["name"]: dict(zip(row["names"], row["types"], strict=True))
        for row in db.rows(FUNCTIONS)
        if row["name"] not in TOO_SLOW
    }
    made = World(filled, functions)
    yield made
    made.connection.close()
    db.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_answer_is_a_result_or_says_what_is_allowed(world: World, part: int) -> None:
    problems: dict[str, str] = {}
    for function in list(world.functions)[part::PARTS]:
        problem = first_problem(world, function)
        if problem is not None:
            problems[function] = problem
    assert problems == {}, "\n".join(f"{name}: {problem}" for name, problem in problems.items())


def first_problem(world: World, function: str) -> str | None:
    found: list[str] = []

    @hypothesis_settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize="LEAD_FUZZ_EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def probe(data: st.DataObject) -> None:
        arguments_now = data.draw(arguments(world, function))
        error = world.call(function, arguments_now)
        if error is None:
            return
        message = error.diag.message_primary or str(error)
        ok = ALLOWED.fullmatch(error.sqlstate or "") and (
            error.sqlstate != "22023" or SAYS_WHICH_FIELD.match(message)
        )
        if not ok:
            where = (error.diag.context or "").splitlines()[:3]
            found.append(f"{error.sqlstate} {message} {where} for {arguments_now!r:.2000}")
        assert ok

    try:
        probe()
    except AssertionError:
        return found[-1]
    return None
