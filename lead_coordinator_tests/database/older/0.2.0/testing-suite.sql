-- Lead Coordinator, file 4 of 4: tests and benchmark that run inside the database.
--
--   psql … -f sql/testing-suite.sql        after sql/monitoring-functions.sql
--   SELECT * FROM run_coordinator_test_suite();
--
-- Re-runnable. A test is a function lead.test_<category>__<name>() that raises where something is not as it should be, and
-- answers
-- what it has shown. Each runs in a subtransaction of its own that is always rolled back, so it leaves no trace (only gaps in
-- sequences), on a production database too.
--
-- Nothing live is disturbed. lead.stage() moves the test to 1 January 2001, a Monday: no live lease, retry, budget day or rate
-- slot
-- lies before it, so none is touched. Staged tasks are older and better than any live one, so a test claims its own. Locks are
-- held
-- for the few milliseconds of one test; a test that would wait for a live decision longer than two seconds is tried again.
\set ON_ERROR_STOP on
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL lock_timeout = '10s';

DO $$
BEGIN
    IF to_regproc('public.check_coordinator_alerts') IS NULL OR to_regproc('lead.schema_version') IS NULL THEN
        RAISE EXCEPTION 'sql/monitoring-functions.sql is not deployed here: apply it first, then sql/testing-suite.sql';
    END IF;
    IF lead.schema_version() <> '0.2.0' THEN
        RAISE EXCEPTION 'version: sql/database-schema.sql is deployed in %, this file is of 0.2.0', lead.schema_version()
            USING ERRCODE = 'LC006', HINT = 'apply the four files of one version, sql/database-schema.sql first';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('lead_coordinator.deploy', 0));
END;
$$;

-- A test that an earlier version had and this one has not would go on running.
DO $$
DECLARE
    v_function record;
BEGIN
    FOR v_function IN
        SELECT p.oid::regprocedure AS signature
        FROM pg_proc AS p
        WHERE p.pronamespace = 'lead'::regnamespace AND p.proname LIKE 'test\_%\_\_%'
    LOOP
        EXECUTE format('DROP FUNCTION %s', v_function.signature);
    END LOOP;
END;
$$;

INSERT INTO lead.setting (name, value, minimum, maximum, unit, description) VALUES
('suite_limit_ms', '1000', 1, 600000, 'ms', 'Longest that a performance test of the suite may take')
ON CONFLICT (name) DO NOTHING;

-- Assertions ---------------------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION lead.expect(p_what text, p_found anycompatible, p_expected anycompatible) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    IF p_found IS DISTINCT FROM p_expected THEN
        RAISE EXCEPTION '%: % expected, % found', p_what, coalesce(p_expected::text, 'NULL'), coalesce(p_found::text, 'NULL')
            USING ERRCODE = 'LC998';
    END IF;
END;
$$;

CREATE OR REPLACE FUNCTION lead.expect_true(p_what text, p_found boolean) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, public, lead, pg_temp
AS $$ SELECT lead.expect(p_what, p_found, true) $$;

CREATE OR REPLACE FUNCTION lead.expect_between(p_what text, p_found numeric, p_low numeric, p_high numeric) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    IF p_found IS NULL OR p_found NOT BETWEEN p_low AND p_high THEN
        RAISE EXCEPTION '%: % to % expected, % found', p_what, p_low, p_high,
            coalesce(p_found::text, 'NULL') USING ERRCODE = 'LC998';
    END IF;
END;
$$;

CREATE OR REPLACE FUNCTION lead.expect_error(p_what text, p_sql text, p_sqlstate text, p_part text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_state text;
    v_message text;
BEGIN
    BEGIN
        EXECUTE p_sql;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS v_state = RETURNED_SQLSTATE, v_message = MESSAGE_TEXT;
    END;
    PERFORM lead.expect(p_what || ': SQLSTATE', v_state, p_sqlstate);
    IF position(p_part IN v_message) = 0 THEN
        RAISE EXCEPTION '%: an error that contains % expected, % found', p_what, quote_literal(p_part), quote_literal(v_message)
            USING ERRCODE = 'LC998';
    END IF;
END;
$$;

-- The stage ----------------------------------------------------------------------------------------------------------------
-- Settings and policy as the files define them, limits that live use can't reach, a provider of its own, a coordinator at rest.
CREATE OR REPLACE FUNCTION lead.stage() RETURNS timestamptz
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now constant timestamptz := timestamptz '2001-01-01 12:00:00+00';
    v_live record;
BEGIN
    -- Waits for a live decision to end, and keeps live ones away while the coordinator's row is changed.
    PERFORM pg_advisory_xact_lock(hashtextextended('lead_coordinator.decide', 0));
    UPDATE lead.coordinator AS c SET state = 'IDLE', state_row_id = NULL, lease_holder = NULL, lease_expires_at = NULL;
    SELECT c.active, c.memory_used_mb INTO v_live FROM lead.capacity(clock_timestamp()) AS c;
    IF v_live.active > 7 THEN
        RAISE EXCEPTION 'the test needs 3 of 10 slots, and % are busy: run it again when fewer are',
            v_live.active USING ERRCODE = 'LC998';
    END IF;
    UPDATE lead.setting AS s
    SET maximum = CASE WHEN d.value ~ '^[0-9]+$' THEN greatest(s.maximum, d.value::numeric) ELSE s.maximum END, value = d.value
    FROM (VALUES
        ('scratch_database', 'true'), ('coordinator_timezone', 'UTC'), ('max_concurrent_workflows', (v_live.active + 3)::text),
        ('daily_budget_usd', '500'), ('memory_limit_mb', (v_live.memory_used_mb + 100000)::text),
            ('database_connection_limit', '1000'),
        ('business_hours_start', '9'), ('business_hours_end', '17'), ('peak_hours_start', '10'), ('peak_hours_end', '16'),
        ('execution_timeout_minutes', '5'), ('lease_seconds', '15'), ('heartbeat_seconds', '5'),
            ('launch_timeout_seconds', '120'),
        ('reservation_seconds', '60'), ('starvation_minutes', '30'), ('starvation_points', '50'), ('retry_base_seconds', '60'),
        ('retry_max_seconds', '960'), ('retry_jitter_seconds', '30'), ('retry_limit', '3'), ('stall_limit', '3'),
        ('breaker_failures', '5'), ('breaker_cooldown_seconds', '300'), ('breaker_probe_wait_seconds', '30'),
        ('breaker_last_probes', '4'), ('rate_margin_ms', '500'), ('grant_seconds', '5'), ('health_window_minutes', '60'),
        ('failure_rate_warning_percent', '20'), ('failure_rate_critical_percent', '50'), ('failure_rate_minimum', '5'),
        ('budget_warning_percent', '70'), ('budget_alert_percent', '85'), ('resource_warning_percent', '80'),
        ('queue_depth_warning', '1000000000'), ('response_time_warning_ms', '30000')
    ) AS d (name, value)
    WHERE s.name = d.name AND s.value <> d.value;
    UPDATE lead.workflow_policy AS p
    SET enabled = p.workflow_type = 'content_pipeline', base_priority = 90, fair_weight = 1, max_batch = 10,
        item_cost_limit_usd = 0.09,
        calls_per_item = 3, memory_mb = 512, target_success_rate = 0.85, daily_cost_limit_usd = NULL
    WHERE p.workflow_type = 'content_pipeline' OR p.enabled;
    UPDATE lead.circuit_breaker AS b
    SET state = 'closed', consecutive_failures = 0, retry_at = NULL
    WHERE b.name LIKE 'pipeline:%' AND (b.state <> 'closed' OR b.consecutive_failures > 0);
    INSERT INTO public.api_rate_limits (provider, requests_per_minute) VALUES ('suite_provider', 3);
    RETURN v_now;
END;
$$;

-- Tasks that any claim takes first: the best score, and waiting for longer than any live task (their ids, in order).
CREATE OR REPLACE FUNCTION lead.stage_tasks(p_now timestamptz, p_count integer, p_task_type text DEFAULT 'content_generation')
RETURNS bigint[]
LANGUAGE sql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT array_agg((t.task ->> 'task_id')::bigint ORDER BY t.place)
    FROM jsonb_array_elements(public.submit_tasks((
        SELECT jsonb_agg(jsonb_build_object('task_type', p_task_type, 'payload', jsonb_build_object('suite', n), 'priority', 100)
            ORDER BY n)
        FROM generate_series(1, p_count) AS g (n)
    ), p_now - interval '1 hour') -> 'tasks') WITH ORDINALITY AS t (task, place);
$$;

-- A plan of one execution, suite-1.
CREATE OR REPLACE FUNCTION lead.suite_plan(p_batch integer) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT jsonb_build_object('plan_id', 'suite', 'workflows_to_execute', jsonb_build_array(jsonb_build_object(
        'execution_id', 'suite-1', 'workflow_type', 'content_pipeline', 'batch_size', p_batch)))
$$;

-- A running execution over the next p_batch tasks.
CREATE OR REPLACE FUNCTION lead.stage_run(
    p_now timestamptz, p_batch integer, OUT execution_id text, OUT fence bigint, OUT task_ids bigint[]
)
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_started jsonb;
BEGIN
    execution_id := 'suite-' || nextval('lead.fence');
    PERFORM lead.expect('executions created', public.create_execution_records(jsonb_build_object(
        'plan_id', 'plan-' || execution_id, 'workflows_to_execute', jsonb_build_array(jsonb_build_object(
            'execution_id', execution_id, 'workflow_type', 'content_pipeline', 'batch_size', p_batch
        ))), 'suite', p_now), 1);
    v_started := public.start_execution(execution_id, 1, 'run-' || execution_id, 100, p_now);
    fence := (v_started ->> 'fence')::bigint;
    task_ids := ARRAY(SELECT (t ->> 'task_id')::bigint FROM jsonb_array_elements(v_started -> 'tasks') AS t ORDER BY 1);
END;
$$;

CREATE OR REPLACE FUNCTION lead.stage_execution(
    p_now timestamptz, p_tasks integer, OUT execution_id text, OUT fence bigint, OUT task_ids bigint[]
)
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_staged bigint[] := lead.stage_tasks(p_now, p_tasks);
BEGIN
    SELECT r.execution_id, r.fence, r.task_ids INTO execution_id, fence, task_ids FROM lead.stage_run(p_now, p_tasks) AS r;
    PERFORM lead.expect('tasks claimed', task_ids, ARRAY(SELECT i FROM unnest(v_staged) AS i ORDER BY 1));
END;
$$;

-- One call to the suite's own provider, which has three slots a minute: the answer of begin_api_call.
CREATE OR REPLACE FUNCTION lead.stage_call(
    p_execution_id text, p_fence bigint, p_task_id bigint, p_now timestamptz, p_max_cost_usd numeric DEFAULT 0.01
) RETURNS jsonb
LANGUAGE sql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT public.begin_api_call(p_execution_id, p_fence, p_task_id, 'suite', jsonb_build_array(jsonb_build_object(
        'provider', 'suite_provider', 'model', 'suite', 'max_cost_usd', p_max_cost_usd, 'input_tokens', 1, 'max_output_tokens', 1
    )), p_now)
$$;

CREATE OR REPLACE FUNCTION lead.stage_sent_call(p_execution_id text, p_fence bigint, p_task_id bigint,
    p_now timestamptz) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_call_id bigint := (lead.stage_call(p_execution_id, p_fence, p_task_id, p_now) ->> 'call_id')::bigint;
BEGIN
    PERFORM lead.expect('mark_api_call_sent', public.mark_api_call_sent(v_call_id, p_fence, p_now) -> 'ok', to_jsonb(true));
    RETURN v_call_id;
END;
$$;

-- A test of speed asserts its results; the time has a generous limit, so that only a lost index or a scan of everything fails it.
CREATE OR REPLACE FUNCTION lead.expect_quick(p_what text, p_started timestamptz) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_ms numeric := round(extract(EPOCH FROM clock_timestamp() - p_started) * 1000, 3);
BEGIN
    PERFORM lead.expect_between(p_what || ', milliseconds', v_ms, 0, lead.setting_number('suite_limit_ms'));
    RETURN format('in %s ms', v_ms);
END;
$$;

-- Core ---------------------------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION lead.test_core__submit_makes_a_queued_task() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_answer jsonb;
    v_task record;
BEGIN
    v_answer := public.submit_task('content_generation', '{"topic": "suite"}', 40, 'suite-key', 100, p_current_time => v_now);
    SELECT t.* INTO v_task FROM lead.task AS t WHERE t.id = (v_answer ->> 'task_id')::bigint;
    PERFORM lead.expect('created', v_answer -> 'created', to_jsonb(true));
    PERFORM lead.expect('status', v_task.status, 'queued');
    PERFORM lead.expect('payload', v_task.payload, '{"topic": "suite"}');
    -- 40 and floor(3 ln(101)) = 13 for the value
    PERFORM lead.expect('score', v_task.score::integer, 53);
    RETURN 'a task worth 100 USD at base priority 40 waits with score 53';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_core__same_key_is_the_same_task() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_first jsonb;
    v_second jsonb;
BEGIN
    v_first := public.submit_task('content_generation', '{}', p_idempotency_key => 'suite-key', p_current_time => v_now);
    v_second := public.submit_task('content_generation', '{"other": 1}', p_idempotency_key => 'suite-key',
        p_current_time => v_now);
    PERFORM lead.expect('task_id', v_second -> 'task_id', v_first -> 'task_id');
    PERFORM lead.expect('created', v_second -> 'created', to_jsonb(false));
    PERFORM lead.expect('tasks with the key', (
        SELECT count(*) FROM lead.task AS t WHERE t.idempotency_key = 'suite-key'), 1::bigint);
    RETURN 'the second submission with a key makes nothing and names the first task';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_core__bulk_is_all_or_nothing() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_before bigint;
BEGIN
    SELECT count(*) INTO v_before FROM lead.task AS t WHERE t.queued_at = v_now;
    PERFORM lead.expect_error('a list with one bad task', format('SELECT public.submit_tasks(%L, %L)',
        '[{"task_type": "content_generation", "payload": {}}, '
        '{"task_type": "content_generation", "payload": {}, "priority": 101}]',
        v_now), '22023', 'tasks[1].priority: 101');
    PERFORM lead.expect('tasks made', (SELECT count(*) FROM lead.task AS t WHERE t.queued_at = v_now), v_before);
    RETURN 'a bad second task names its place and field, and the first is not taken either';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_core__disabled_type_is_refused() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
BEGIN
    PERFORM lead.expect_error('a task of a disabled type', format(
        'SELECT public.submit_task(%L, %L, p_current_time => %L)', 'seo_analysis', '{}', v_now), 'LC001',
            'seo_analysis is disabled');
    RETURN 'seo_analysis is disabled by policy and refused with LC001';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_core__bare_insert_works() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_task record;
BEGIN
    INSERT INTO public.task_queue (task_type, payload) VALUES ('content_generation', '{"suite": true}')
    RETURNING id, status, priority_base, priority_calculated, age_minutes INTO v_task;
    PERFORM lead.expect('status', v_task.status, 'queued');
    PERFORM lead.expect('priority_base', v_task.priority_base, 50);
    PERFORM lead.expect('priority_calculated', v_task.priority_calculated, 50);
    PERFORM lead.expect('age_minutes', v_task.age_minutes, 0);
    RETURN 'INSERT INTO task_queue (task_type, payload) makes a queued task of priority 50';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_core__best_then_oldest_first() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_ids bigint[];
    v_late bigint;
BEGIN
    v_ids := lead.stage_tasks(v_now, 3);
    v_late := (public.submit_task('content_generation', '{}', 100, p_current_time => v_now) ->> 'task_id')::bigint;
    PERFORM lead.expect('order', (lead.take_out_tasks('content_generation', 4, v_now)).task_ids, v_ids || v_late);
    RETURN 'of four tasks with one score the three that starve come first, in the order they came';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_core__complete_task_ends_the_attempt() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_task record;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 1);
    PERFORM public.complete_task(v_run.task_ids[1], v_run.execution_id, v_run.fence, '{"score": 80}',
        v_now + interval '20 seconds');
    SELECT t.status, t.result, a.attempt, a.outcome, a.ended_at - a.started_at AS took INTO v_task
    FROM lead.task AS t INNER JOIN lead.task_attempt AS a ON a.task_id = t.id WHERE t.id = v_run.task_ids[1];
    PERFORM lead.expect('status', v_task.status, 'completed');
    PERFORM lead.expect('result', v_task.result, '{"score": 80}');
    PERFORM lead.expect('attempt', v_task.attempt, 1);
    PERFORM lead.expect('outcome', v_task.outcome, 'completed');
    PERFORM lead.expect('took', v_task.took, interval '20 seconds');
    RETURN 'one attempt row of 20 s with outcome completed, and the result on the task';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_core__own_errors_retry_three_times() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_now_at timestamptz;
    v_answer jsonb;
    v_wait numeric;
    v_minutes integer[] := ARRAY[1, 2, 4];
BEGIN
    PERFORM lead.stage_tasks(v_now, 1);
    v_now_at := v_now;
    FOR v_attempt IN 1..4 LOOP
        SELECT * INTO v_run FROM lead.stage_run(v_now_at, 1);
        v_answer := public.fail_task(v_run.task_ids[1], v_run.execution_id, v_run.fence, 'task_error', 'suite',
            p_current_time => v_now_at);
        PERFORM public.finish_execution(v_run.execution_id, v_run.fence, 'completed', p_current_time => v_now_at);
        EXIT WHEN v_attempt = 4;
        PERFORM lead.expect('status', v_answer ->> 'status', 'deferred');
        v_wait := extract(EPOCH FROM (v_answer ->> 'retry_at')::timestamptz - v_now_at);
        PERFORM lead.expect_between(format('wait before retry %s', v_attempt), v_wait,
            v_minutes [v_attempt] * 60 - 30, v_minutes [v_attempt] * 60 + 30);
        v_now_at := (v_answer ->> 'retry_at')::timestamptz;
        PERFORM lead.expect('promoted', public.promote_due_tasks(v_now_at), 1);
    END LOOP;
    PERFORM lead.expect('status', v_answer ->> 'status', 'dead_letter');
    PERFORM lead.expect('history in the dead letter', (
        SELECT jsonb_array_length(d.context -> 'history') FROM lead.dead_letter AS d WHERE d.task_id = v_run.task_ids[1]), 4);
    RETURN 'retries after 1, 2 and 4 minutes, give or take 30 s, then the dead-letter queue with all four attempts';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_core__outage_spends_no_attempt() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_answer jsonb;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 1);
    v_answer := public.fail_task(v_run.task_ids[1], v_run.execution_id, v_run.fence, 'destination_down', 'suite',
        p_current_time => v_now);
    PERFORM lead.expect('status', v_answer ->> 'status', 'deferred');
    PERFORM lead.expect('attempts', v_answer -> 'attempts', to_jsonb(0));
    PERFORM lead.expect('defer_reason', v_answer ->> 'defer_reason', 'destination_down');
    PERFORM lead.expect('deferrals', (SELECT t.deferrals::integer FROM lead.task AS t WHERE t.id = v_run.task_ids[1]), 1);
    RETURN 'a task whose destination is down is deferred and keeps all its attempts';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_core__invalid_input_is_buried_at_once() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_answer jsonb;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 1);
    v_answer := public.fail_task(v_run.task_ids[1], v_run.execution_id, v_run.fence, 'invalid_input', 'no title',
        '{"api_key": "x"}',
        p_current_time => v_now);
    PERFORM lead.expect('status', v_answer ->> 'status', 'dead_letter');
    PERFORM lead.expect('message', (SELECT d.error_message FROM lead.dead_letter AS d WHERE d.task_id = v_run.task_ids[1]),
        'no title');
    PERFORM lead.expect('secret in the context', (
        SELECT d.context ->> 'api_key' FROM lead.dead_letter AS d WHERE d.task_id = v_run.task_ids[1]), '***');
    RETURN 'invalid input goes to the dead-letter queue after one attempt, its context without secrets';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_core__old_lease_can_not_write() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 1);
    PERFORM lead.expect_error('complete_task', format('SELECT public.complete_task(%s, %L, %s, %L, %L)', v_run.task_ids[1],
        v_run.execution_id, v_run.fence - 1, '{}', v_now), 'LC002', 'no longer holds');
    PERFORM lead.expect_error('heartbeat_execution', format('SELECT public.heartbeat_execution(%L, %s, NULL, %L)',
        v_run.execution_id, v_run.fence - 1, v_now), 'LC002', 'no longer holds');
    PERFORM lead.expect_error('finish_execution', format('SELECT public.finish_execution(%L, %s, %L, p_current_time => %L)',
        v_run.execution_id, v_run.fence - 1, 'completed', v_now), 'LC002', 'no longer holds');
    PERFORM lead.expect('status', (SELECT t.status FROM lead.task AS t WHERE t.id = v_run.task_ids[1]), 'processing');
    RETURN 'completing, heartbeat and finishing with an old fence are refused with LC002 and change nothing';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_core__starts_once() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 1);
    PERFORM lead.expect_error('a second start',
        format('SELECT public.start_execution(%L, 1, %L, NULL, %L)', v_run.execution_id, 'other', v_now),
        'LC002', 'can not be started');
    PERFORM lead.expect('run', (
        SELECT w.run_id FROM public.workflow_orchestration AS w WHERE w.execution_id = v_run.execution_id),
            'run-' || v_run.execution_id);
    RETURN 'a second run of one launch is refused with LC002';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_core__lost_work_is_queued_again() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_answer jsonb;
    v_task record;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 2);
    PERFORM public.complete_task(v_run.task_ids[1], v_run.execution_id, v_run.fence, '{}', v_now);
    PERFORM lead.expect('recovered before the lease ends',
        public.recover_executions(v_now + interval '14 seconds') -> 'recovered', '[]');
    v_answer := public.recover_executions(v_now + interval '16 seconds');
    PERFORM lead.expect('requeued', v_answer -> 'requeued', to_jsonb(1));
    SELECT t.status, t.stalls, t.attempts INTO v_task FROM lead.task AS t WHERE t.id = v_run.task_ids[2];
    PERFORM lead.expect('status', v_task.status, 'queued');
    PERFORM lead.expect('stalls', v_task.stalls::integer, 1);
    PERFORM lead.expect('attempts', v_task.attempts::integer, 0);
    PERFORM lead.expect('the completed one', (SELECT t.status FROM lead.task AS t WHERE t.id = v_run.task_ids[1]), 'completed');
    PERFORM lead.expect('execution', (
        SELECT w.status FROM public.workflow_orchestration AS w WHERE w.execution_id = v_run.execution_id), 'failed');
    RETURN '16 s after the last heartbeat the unfinished task waits again without a spent attempt; the finished one stays';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_core__poison_is_parked() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_at timestamptz;
BEGIN
    PERFORM lead.stage_tasks(v_now, 1);
    FOR v_round IN 1..3 LOOP
        v_at := v_now + v_round * interval '1 minute';
        SELECT * INTO v_run FROM lead.stage_run(v_at, 1);
        PERFORM public.recover_executions(v_at + interval '16 seconds');
    END LOOP;
    PERFORM lead.expect('status', (SELECT t.status FROM lead.task AS t WHERE t.id = v_run.task_ids[1]), 'dead_letter');
    PERFORM lead.expect('error class', (SELECT d.error_class FROM lead.dead_letter AS d WHERE d.task_id = v_run.task_ids[1]),
        'stalled');
    RETURN 'a task that was lost with three runs lies in the dead-letter queue';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_core__timeout_ends_a_run() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 1);
    PERFORM public.heartbeat_execution(v_run.execution_id, v_run.fence, 100, v_now + interval '299 seconds');
    PERFORM public.recover_executions(v_now + interval '301 seconds');
    PERFORM lead.expect('execution', (
        SELECT w.status FROM public.workflow_orchestration AS w WHERE w.execution_id = v_run.execution_id), 'timeout');
    RETURN 'a run that still beats after five minutes is ended as timeout';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_core__dependent_waits() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_second bigint;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 1);
    v_second := (public.submit_task('content_generation', '{}', p_dependencies => v_run.task_ids,
        p_current_time => v_now) ->> 'task_id')::bigint;
    PERFORM lead.expect('before', (SELECT t.status FROM lead.task AS t WHERE t.id = v_second), 'deferred');
    PERFORM public.complete_task(v_run.task_ids[1], v_run.execution_id, v_run.fence, '{}', v_now);
    PERFORM lead.expect('after', (SELECT t.status FROM lead.task AS t WHERE t.id = v_second), 'queued');
    RETURN 'a task that depends on another is queued the moment the other completes';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_core__cancel_takes_what_waits() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_ids bigint[];
BEGIN
    v_ids := lead.stage_tasks(v_now, 1);
    PERFORM lead.expect('cancelled', public.cancel_task(v_ids[1], 'suite', 'suite', v_now), true);
    PERFORM lead.expect('status', (SELECT t.status FROM lead.task AS t WHERE t.id = v_ids[1]), 'cancelled');
    PERFORM lead.expect('again', public.cancel_task(v_ids[1], 'suite', 'suite', v_now), false);
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 1);
    PERFORM lead.expect('in work', public.cancel_task(v_run.task_ids[1], 'suite', 'suite', v_now), false);
    RETURN 'a waiting task is cancelled once; one in work is left to end';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_core__illegal_transition_is_named() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
BEGIN
    PERFORM lead.expect_error('IDLE to DISPATCHING',
        format('SELECT public.update_coordinator_state(%L, %L, %L, %L)', 'DISPATCHING', '{}',
        'suite', v_now), 'LC003', 'from IDLE to DISPATCHING');
    PERFORM public.update_coordinator_state('ANALYZING', '{}', 'suite', v_now);
    PERFORM public.update_coordinator_state('IDLE', '{}', 'suite', v_now + interval '2 seconds');
    PERFORM lead.expect('duration of ANALYZING', (
        SELECT s.duration_ms FROM public.workflow_states AS s
        WHERE s.execution_id = 'coordinator' AND s.state = 'ANALYZING' ORDER BY s.id DESC LIMIT 1), 2000::bigint);
    RETURN 'IDLE to DISPATCHING is refused by name; the history shows that ANALYZING lasted 2000 ms';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_core__one_publication_a_task() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_first jsonb;
    v_again jsonb;
    v_other jsonb;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 2);
    v_first := public.begin_publication(v_run.task_ids[1], v_run.execution_id, v_run.fence, 'suite', 'a-title', 'A title');
    PERFORM public.confirm_publication((v_first ->> 'publication_id')::bigint, v_run.execution_id, v_run.fence,
        'http://localhost/a-title',
        repeat('0', 64));
    v_again := public.begin_publication(v_run.task_ids[1], v_run.execution_id, v_run.fence, 'suite', 'another-title', 'Another');
    v_other := public.begin_publication(v_run.task_ids[2], v_run.execution_id, v_run.fence, 'suite', 'a-title', 'A title');
    PERFORM lead.expect('the same row', v_again -> 'publication_id', v_first -> 'publication_id');
    PERFORM lead.expect('already published', v_again -> 'already_published', to_jsonb(true));
    PERFORM lead.expect('slug of the other', v_other ->> 'slug', 'a-title-2');
    RETURN 'a task keeps its one publication; another with the same title becomes a-title-2';
END;
$$;

-- Health -------------------------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION lead.test_health__rested_system_may_proceed() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_health jsonb;
BEGIN
    v_health := public.check_system_health_comprehensive(v_now);
    PERFORM lead.expect('can_proceed', v_health -> 'can_proceed', to_jsonb(true));
    PERFORM lead.expect('critical_issues', v_health -> 'critical_issues', '[]');
    PERFORM lead.expect('reason', v_health ->> 'reason', NULL::text);
    PERFORM lead.expect('recent_failures', v_health #> '{metrics,recent_failures}', to_jsonb(0));
    PERFORM lead.expect('contract keys that are missing', ARRAY(
        SELECT k FROM unnest(ARRAY['can_proceed', 'overall_status', 'metrics', 'critical_issues', 'warnings', 'timestamp',
            'next_check_in_seconds']) AS k WHERE NOT v_health ? k
        UNION ALL
        SELECT k FROM unnest(ARRAY['database_connections', 'active_executions', 'recent_failures', 'queue_depth',
            'avg_response_time_ms',
            'max_concurrent_limit', 'failure_rate_percent']) AS k WHERE jsonb_typeof(v_health #> ARRAY['metrics', k]) IS DISTINCT
                FROM 'number'
    ), '{}');
    RETURN 'nothing critical, may proceed, every metric of the contract is a number';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_health__full_house_stops() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_health jsonb;
    v_slots integer;
BEGIN
    PERFORM lead.stage_execution(v_now, 1);
    SELECT c.active INTO v_slots FROM lead.capacity(v_now) AS c;
    UPDATE lead.setting AS s SET value = v_slots::text WHERE s.name = 'max_concurrent_workflows';
    v_health := public.check_system_health_comprehensive(v_now);
    PERFORM lead.expect('can_proceed', v_health -> 'can_proceed', to_jsonb(false));
    PERFORM lead.expect('reason', v_health ->> 'reason', format('%s of %s slots busy', v_slots, v_slots));
    PERFORM lead.expect('active_executions', v_health #> '{metrics,active_executions}', to_jsonb(v_slots));
    PERFORM lead.expect('critical_issues', v_health -> 'critical_issues', '[]');
    RETURN 'with every slot busy it may not proceed and says how many of how many; that is no illness';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_health__spent_budget_is_critical() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_health jsonb;
BEGIN
    PERFORM lead.budget_hold(lead.budget_day(v_now), 'total', 'all', 500, 500);
    v_health := public.check_system_health_comprehensive(v_now);
    PERFORM lead.expect('overall_status', v_health ->> 'overall_status', 'critical');
    PERFORM lead.expect('can_proceed', v_health -> 'can_proceed', to_jsonb(false));
    PERFORM lead.expect('reason', v_health ->> 'reason', 'budget 500.00 of 500.00 USD held or spent');
    RETURN 'budget 500.00 of 500.00 USD held or spent is critical';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_health__budget_warns_at_seventy_percent() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_health jsonb;
BEGIN
    PERFORM lead.budget_hold(lead.budget_day(v_now), 'total', 'all', 349, 500);
    v_health := public.check_system_health_comprehensive(v_now);
    PERFORM lead.expect('warned at 69.8 %', v_health ->> 'warnings' LIKE '%budget%', false);
    PERFORM lead.budget_hold(lead.budget_day(v_now), 'total', 'all', 1, 500);
    v_health := public.check_system_health_comprehensive(v_now);
    PERFORM lead.expect_true('warned at 70 %', v_health -> 'warnings' ? 'budget 350.00 of 500.00 USD held or spent (70 %)');
    PERFORM lead.expect('can_proceed', v_health -> 'can_proceed', to_jsonb(true));
    RETURN 'no warning at 349 USD of 500, one at 350, and work goes on';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_health__failure_rate_warns() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_health jsonb;
BEGIN
    INSERT INTO public.workflow_orchestration (execution_id, workflow_type, worker_id, status, created_at, started_at,
        completed_at)
    SELECT 'suite-' || n, 'content_pipeline', 'suite', CASE WHEN n <= 2 THEN 'failed' ELSE 'completed' END,
        v_now - interval '10 minutes',
        v_now - interval '10 minutes', v_now - interval '5 minutes'
    FROM generate_series(1, 5) AS g (n);
    v_health := public.check_system_health_comprehensive(v_now);
    PERFORM lead.expect('recent_failures', v_health #> '{metrics,recent_failures}', to_jsonb(2));
    PERFORM lead.expect('failure_rate_percent', v_health #> '{metrics,failure_rate_percent}', to_jsonb(40));
    PERFORM lead.expect_true('warning', v_health -> 'warnings' ? '2 of 5 executions failed in the last 60 minutes');
    PERFORM lead.expect('later',
        public.check_system_health_comprehensive(v_now + interval '56 minutes') #> '{metrics,recent_failures}', to_jsonb(0));
    RETURN '2 of 5 failed is 40 % and a warning; an hour later it is forgotten';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_health__no_provider_is_critical() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_health jsonb;
    v_providers bigint;
BEGIN
    UPDATE public.api_rate_limits AS l SET is_available = false WHERE l.is_available;
    SELECT count(*) INTO v_providers FROM public.api_rate_limits;
    v_health := public.check_system_health_comprehensive(v_now);
    PERFORM lead.expect('can_proceed', v_health -> 'can_proceed', to_jsonb(false));
    PERFORM lead.expect_true('reason',
        v_health ->> 'reason' LIKE format('0 of %s providers can be called: %%suite_provider is switched off%%', v_providers));
    RETURN 'with every provider switched off nothing starts, and the reason names them';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_health__open_breaker_is_named_until_its_probe() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
BEGIN
    UPDATE lead.circuit_breaker AS b SET state = 'open', retry_at = v_now + interval '120 seconds'
    WHERE b.name = 'provider:suite_provider';
    PERFORM lead.expect_true('while it cools down',
        public.check_system_health_comprehensive(v_now)::text LIKE '%suite_provider: breaker open for another 120 s%');
    PERFORM lead.expect('when a probe may go',
        public.check_system_health_comprehensive(v_now + interval '120 seconds')::text LIKE '%suite_provider%', false);
    RETURN 'an open breaker is named and counted down, and no longer once a probe may go';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_health__connections_at_the_limit_are_critical() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_health jsonb;
BEGIN
    PERFORM set_config('application_name', 'lead-coordinator-suite', true), pg_stat_clear_snapshot();
    UPDATE lead.setting AS s SET value = '1' WHERE s.name = 'database_connection_limit';
    v_health := public.check_system_health_comprehensive(v_now);
    PERFORM lead.expect('overall_status', v_health ->> 'overall_status', 'critical');
    PERFORM lead.expect_true('reason', v_health ->> 'reason' LIKE '% of 1 database connections in use%');
    PERFORM lead.expect_between('database_connections', (v_health #>> '{metrics,database_connections}')::numeric, 1, 10000);
    RETURN 'connections are counted by our application_name, and the limit is critical';
END;
$$;

-- Resources ----------------------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION lead.test_resources__limit_holds_for_any_sixty_seconds() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_answer jsonb;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 1);
    FOR v_call IN 0..2 LOOP
        PERFORM lead.stage_sent_call(v_run.execution_id, v_run.fence, v_run.task_ids[1], v_now + v_call * interval '1 second');
    END LOOP;
    v_answer := lead.stage_call(v_run.execution_id, v_run.fence, v_run.task_ids[1], v_now + interval '10 seconds');
    PERFORM lead.expect('granted', v_answer -> 'granted', to_jsonb(false));
    PERFORM lead.expect('reason', v_answer ->> 'reason', 'rate_limited');
    -- The first slot was taken at second 0, for 60 s and the margin of 0.5 s.
    PERFORM lead.expect('wait_ms', v_answer -> 'wait_ms', to_jsonb(50500));
    v_answer := lead.stage_call(v_run.execution_id, v_run.fence, v_run.task_ids[1], v_now + interval '60.5 seconds');
    PERFORM lead.expect('granted after the wait', v_answer -> 'granted', to_jsonb(true));
    v_answer := lead.stage_call(v_run.execution_id, v_run.fence, v_run.task_ids[1], v_now + interval '60.6 seconds');
    PERFORM lead.expect('granted once', v_answer -> 'granted', to_jsonb(false));
    RETURN 'three calls a minute, the fourth is told to wait 50500 ms, and then exactly one goes';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_resources__released_slot_is_free_again() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_answer jsonb;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 1);
    FOR v_call IN 1..5 LOOP
        v_answer := lead.stage_call(v_run.execution_id, v_run.fence, v_run.task_ids[1], v_now);
        PERFORM lead.expect('granted', v_answer -> 'granted', to_jsonb(true));
        PERFORM lead.expect('released', public.release_api_call((v_answer ->> 'call_id')::bigint, v_run.fence, v_now), true);
    END LOOP;
    PERFORM lead.expect('held for calls', (
        SELECT w.calls_held_usd FROM public.workflow_orchestration AS w WHERE w.execution_id = v_run.execution_id), 0::numeric);
    RETURN 'five calls that never left used none of three slots and no dollar';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_resources__late_grant_is_void() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_call_id bigint;
    v_answer jsonb;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 1);
    v_call_id := (lead.stage_call(v_run.execution_id, v_run.fence, v_run.task_ids[1], v_now) ->> 'call_id')::bigint;
    v_answer := public.mark_api_call_sent(v_call_id, v_run.fence, v_now + interval '6 seconds');
    PERFORM lead.expect('ok', v_answer -> 'ok', to_jsonb(false));
    PERFORM lead.expect('status', (SELECT c.status FROM lead.api_call AS c WHERE c.id = v_call_id), 'released');
    RETURN 'a grant that was not used within 5 s is given back, and the call must not go';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_resources__plan_over_budget_reserves_nothing() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
BEGIN
    UPDATE lead.setting AS s SET value = '1' WHERE s.name = 'daily_budget_usd';
    PERFORM lead.stage_tasks(v_now, 20);
    -- Two batches of ten cost 0.90 USD each at most: one would fit, both don't.
    PERFORM lead.expect('reserved',
        public.reserve_execution_resources(jsonb_build_object('plan_id', 'suite', 'workflows_to_execute', (
        SELECT jsonb_agg(jsonb_build_object('execution_id', 'suite-' || n, 'workflow_type', 'content_pipeline', 'batch_size', 10))
        FROM generate_series(1, 2) AS g (n))), v_now), false);
    PERFORM lead.expect('held',
        (SELECT coalesce(sum(a.held_usd), 0) FROM lead.budget_account AS a WHERE a.budget_day = lead.budget_day(v_now)),
        0::numeric);
    PERFORM lead.expect('reservations', (SELECT count(*) FROM lead.plan_reservation AS r WHERE r.plan_id = 'suite'), 0::bigint);
    RETURN 'of 1.80 USD on a budget of 1.00 nothing is reserved, not even the half that would fit';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_resources__settling_gives_back_the_rest() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_call_id bigint;
    v_budget record;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 1);
    SELECT * INTO v_budget FROM lead.watch_budget(v_now);
    PERFORM lead.expect('held for the execution', v_budget.held_usd, 0.09);
    v_call_id := lead.stage_sent_call(v_run.execution_id, v_run.fence, v_run.task_ids[1], v_now);
    PERFORM public.settle_api_call(v_call_id, 'ok', 0.0012345678, p_current_time => v_now);
    SELECT * INTO v_budget FROM lead.watch_budget(v_now);
    PERFORM lead.expect('spent while it runs', v_budget.spent_usd, 0.0012345678);
    PERFORM lead.expect('held while it runs', v_budget.held_usd, 0.0887654322);
    PERFORM public.complete_task(v_run.task_ids[1], v_run.execution_id, v_run.fence, '{}', v_now);
    PERFORM public.finish_execution(v_run.execution_id, v_run.fence, 'completed', p_current_time => v_now);
    SELECT * INTO v_budget FROM lead.watch_budget(v_now);
    PERFORM lead.expect('spent', v_budget.spent_usd, 0.0012345678);
    PERFORM lead.expect('held', v_budget.held_usd, 0::numeric);
    RETURN 'of 0.09 USD held, 0.0012345678 are spent to the last digit and the rest is free again';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_resources__unknown_cost_counts_in_full() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_call_id bigint;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 1);
    v_call_id := lead.stage_sent_call(v_run.execution_id, v_run.fence, v_run.task_ids[1], v_now);
    PERFORM public.settle_api_call(v_call_id, 'timeout', NULL, p_current_time => v_now);
    PERFORM lead.expect('cost', (SELECT c.cost_usd FROM lead.api_call AS c WHERE c.id = v_call_id), 0.01);
    PERFORM lead.expect('settled again', public.settle_api_call(v_call_id, 'ok', 0, p_current_time => v_now) -> 'cost_usd',
        to_jsonb(0.0100000000));
    RETURN 'a call that timed out costs its maximum, and settling it again changes nothing';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_resources__dead_run_pays_for_what_it_sent() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_answer jsonb;
    v_budget record;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 1);
    PERFORM lead.stage_sent_call(v_run.execution_id, v_run.fence, v_run.task_ids[1], v_now);
    PERFORM lead.stage_call(v_run.execution_id, v_run.fence, v_run.task_ids[1], v_now);
    v_answer := public.recover_executions(v_now + interval '16 seconds') #> '{recovered,0}';
    PERFORM lead.expect('calls settled', v_answer -> 'calls_settled', to_jsonb(1));
    PERFORM lead.expect('calls released', v_answer -> 'calls_released', to_jsonb(1));
    SELECT * INTO v_budget FROM lead.watch_budget(v_now);
    PERFORM lead.expect('spent', v_budget.spent_usd, 0.01);
    PERFORM lead.expect('held', v_budget.held_usd, 0::numeric);
    RETURN 'a call that was sent without an answer is settled at its maximum, one that was only reserved is released';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_resources__item_cost_limit_stops_a_call() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_answer jsonb;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 1);
    v_answer := lead.stage_call(v_run.execution_id, v_run.fence, v_run.task_ids[1], v_now, 0.0900000001);
    PERFORM lead.expect('reason', v_answer ->> 'reason', 'item_cost_limit');
    v_answer := lead.stage_call(v_run.execution_id, v_run.fence, v_run.task_ids[1], v_now, 0.09);
    PERFORM lead.expect('at the limit', v_answer -> 'granted', to_jsonb(true));
    RETURN 'an item may cost 0.09 USD and not 0.0900000001';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_resources__breaker_opens_and_closes_by_probes() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_admitted record;
    v_at timestamptz;
    v_name text := 'provider:suite_provider';
BEGIN
    FOR v_number IN 1..5 LOOP
        PERFORM lead.expect(format('state before failure %s', v_number), (
            SELECT b.state FROM lead.circuit_breaker AS b WHERE b.name = v_name), 'closed');
        PERFORM lead.breaker_record(v_name, 'failure', false, false, 'suite', v_now);
    END LOOP;
    SELECT * INTO v_admitted FROM lead.breaker_admit(v_name, v_now + interval '299 seconds');
    PERFORM lead.expect('admitted after 299 s', v_admitted.admitted, false);
    PERFORM lead.expect('wait_ms', v_admitted.wait_ms, 1000);
    v_at := v_now + interval '300 seconds';
    SELECT * INTO v_admitted FROM lead.breaker_admit(v_name, v_at);
    PERFORM lead.expect('probe after 300 s', v_admitted.is_probe, true);
    SELECT * INTO v_admitted FROM lead.breaker_admit(v_name, v_at);
    PERFORM lead.expect('a second probe at once', v_admitted.admitted, false);
    PERFORM lead.breaker_record(v_name, 'failure', true, false, 'suite', v_at);
    SELECT * INTO v_admitted FROM lead.breaker_admit(v_name, v_at + interval '29 seconds');
    PERFORM lead.expect('29 s after a failed probe', v_admitted.admitted, false);
    v_at := v_at + interval '30 seconds';
    -- One, two, then four probes succeed.
    FOR v_number IN 1..7 LOOP
        SELECT * INTO v_admitted FROM lead.breaker_admit(v_name, v_at);
        PERFORM lead.expect(format('probe %s', v_number), v_admitted.is_probe, true);
        PERFORM lead.breaker_record(v_name, 'success', true, false, NULL, v_at);
    END LOOP;
    PERFORM lead.expect('state', (SELECT b.state FROM lead.circuit_breaker AS b WHERE b.name = v_name), 'closed');
    RETURN 'open after 5 failures for 300 s; a failed probe waits 30 s; 1 + 2 + 4 good probes close it';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_resources__back_pressure_is_no_failure() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_call_id bigint;
    v_at timestamptz;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 1);
    FOR v_number IN 0..5 LOOP
        v_at := v_now + v_number * interval '2 minutes';
        PERFORM public.heartbeat_execution(v_run.execution_id, v_run.fence, 100, v_at);
        v_call_id := lead.stage_sent_call(v_run.execution_id, v_run.fence, v_run.task_ids[1], v_at);
        PERFORM public.settle_api_call(v_call_id, 'rate_limited', 0, p_http_status => 429, p_retry_after_ms => 7000,
            p_current_time => v_at);
    END LOOP;
    PERFORM lead.expect('breaker', (SELECT b.state FROM lead.circuit_breaker AS b WHERE b.name = 'provider:suite_provider'),
        'closed');
    PERFORM lead.expect('Retry-After is kept',
        lead.stage_call(v_run.execution_id, v_run.fence, v_run.task_ids[1], v_at) -> 'wait_ms', to_jsonb(7000));
    RETURN 'six 429s leave the breaker closed, and Retry-After: 7 makes the next call wait 7000 ms';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_resources__availability_names_every_provider() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_status jsonb;
    v_limit jsonb;
BEGIN
    v_status := public.check_comprehensive_resource_availability('{"tasks": []}', v_now);
    v_limit := v_status #> '{api_limits,suite_provider}';
    PERFORM lead.expect('contract keys that are missing', ARRAY(
        SELECT k FROM unnest(ARRAY['available', 'requests_remaining', 'budget_remaining', 'rate_utilization_percent',
            'budget_utilization_percent', 'status', 'next_reset']) AS k WHERE NOT v_limit ? k
        UNION ALL
        SELECT k FROM unnest(ARRAY['overall_status', 'api_limits', 'system_resources', 'constraints', 'recommendations',
            'can_proceed',
            'timestamp']) AS k WHERE NOT v_status ? k
    ), '{}');
    PERFORM lead.expect('requests_remaining', v_limit -> 'requests_remaining', to_jsonb(3));
    PERFORM lead.expect('can_proceed', v_status -> 'can_proceed', to_jsonb(true));
    PERFORM lead.expect_error('no tasks at all',
        format('SELECT public.check_comprehensive_resource_availability(%L, %L)', '{}', v_now),
        '22023', 'p_scheduled_tasks');
    RETURN '{"tasks": []} is answered: 3 requests remain with an unused provider of 3 a minute';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_resources__usage_rows_tell_the_truth() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_answer jsonb;
    v_row record;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 1);
    PERFORM lead.stage_sent_call(v_run.execution_id, v_run.fence, v_run.task_ids[1], v_now);
    v_answer := public.refresh_resource_usage(v_now + interval '1 second');
    PERFORM lead.expect('api calls in the answer', v_answer #> '{api_calls,suite_provider,used}', to_jsonb(1));
    SELECT u.used_amount, u.total_capacity, u.utilization_percent INTO v_row FROM public.resource_usage AS u
    WHERE u.timestamp = v_now + interval '1 second' AND u.provider = 'suite_provider';
    PERFORM lead.expect('used_amount', v_row.used_amount, 1::numeric);
    PERFORM lead.expect('total_capacity', v_row.total_capacity, 3::numeric);
    PERFORM lead.expect('utilization_percent', v_row.utilization_percent, 33.333);
    PERFORM lead.expect('budget', (
        SELECT u.used_amount FROM public.resource_usage AS u
        WHERE u.timestamp = v_now + interval '1 second' AND u.resource_type = 'budget'), 0.09);
    PERFORM lead.expect('requests_used_current_minute', (
        SELECT l.requests_used_current_minute FROM public.api_rate_limits AS l WHERE l.provider = 'suite_provider'), 1);
    RETURN 'one call of three and 0.09 of 500 USD are in resource_usage and api_rate_limits';
END;
$$;

-- Scheduling ---------------------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION lead.test_scheduling__tick_fills_the_free_slots() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_answer jsonb;
    v_ids bigint[];
BEGIN
    UPDATE lead.workflow_policy AS p SET max_batch = 2 WHERE p.workflow_type = 'content_pipeline';
    v_ids := lead.stage_tasks(v_now, 6);
    v_answer := public.orchestrate_workflow_execution('suite', v_now, 10);
    PERFORM lead.expect('success', v_answer -> 'success', to_jsonb(true));
    PERFORM lead.expect('workflows_dispatched', v_answer -> 'workflows_dispatched', to_jsonb(3));
    PERFORM lead.expect('tasks in work', (
        SELECT count(*) FROM lead.task AS t WHERE t.id = ANY (v_ids) AND t.status = 'processing'), 6::bigint);
    PERFORM lead.expect('coordinator_state', v_answer ->> 'coordinator_state', 'MONITORING');
    v_answer := public.orchestrate_workflow_execution('suite', v_now, 10);
    PERFORM lead.expect('dispatched with no slot free', v_answer -> 'workflows_dispatched', to_jsonb(0));
    PERFORM lead.expect('success with no slot free', v_answer -> 'success', to_jsonb(false));
    PERFORM lead.expect_true('reason', v_answer ->> 'reason' LIKE '%slots busy%');
    RETURN 'six tasks in batches of two take the three free slots; the next tick starts nothing and says why';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_scheduling__max_concurrent_of_the_call_holds() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_answer jsonb;
    v_active integer;
BEGIN
    UPDATE lead.workflow_policy AS p SET max_batch = 2 WHERE p.workflow_type = 'content_pipeline';
    PERFORM lead.stage_tasks(v_now, 6);
    SELECT c.active INTO v_active FROM lead.capacity(v_now) AS c;
    v_answer := public.orchestrate_workflow_execution('suite', v_now, v_active + 1);
    PERFORM lead.expect('workflows_dispatched', v_answer -> 'workflows_dispatched', to_jsonb(1));
    PERFORM lead.expect_error('p_max_concurrent 11',
        format('SELECT public.orchestrate_workflow_execution(%L, %L, 11)', 'suite', v_now),
        '22023', 'p_max_concurrent: 11');
    RETURN 'one slot asked for, one used; 11 is out of range';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_scheduling__lease_of_another_is_respected() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_answer jsonb;
BEGIN
    PERFORM lead.expect('acquired', public.acquire_coordinator_lease('other', 60, v_now) -> 'acquired', to_jsonb(true));
    v_answer := public.orchestrate_workflow_execution('suite', v_now + interval '59 seconds', 10);
    PERFORM lead.expect('success', v_answer -> 'success', to_jsonb(false));
    PERFORM lead.expect_true('reason', v_answer ->> 'reason' LIKE 'other holds the lease until%');
    PERFORM lead.expect('after its end',
        public.acquire_coordinator_lease('suite', 60, v_now + interval '60 seconds') -> 'acquired', to_jsonb(true));
    RETURN 'while another holds the lease a tick leaves and names the holder; after its end the lease changes hands';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_scheduling__plan_takes_a_bare_resource_status() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_plan jsonb;
    v_tasks jsonb;
BEGIN
    PERFORM lead.stage_tasks(v_now, 3);
    v_tasks := public.get_intelligent_scheduled_tasks(v_now, 10);
    v_plan := public.create_optimal_execution_plan(v_tasks, '{"overall_status": "healthy", "constraints": {}}', 'suite', v_now);
    PERFORM lead.expect('contract keys that are missing', ARRAY(
        SELECT k FROM unnest(ARRAY['plan_id', 'created_at', 'worker_id', 'workflows_to_execute', 'execution_sequence',
            'resource_allocation',
            'total_workflows', 'execution_strategy', 'estimated_completion_time', 'risk_assessment']) AS k WHERE NOT v_plan ? k),
                '{}');
    PERFORM lead.expect_between('total_workflows', (v_plan ->> 'total_workflows')::numeric, 1, 3);
    PERFORM lead.expect('sequence', jsonb_array_length(v_plan -> 'execution_sequence'), (v_plan ->> 'total_workflows')::integer);
    PERFORM lead.expect('reservations made by planning', (
        SELECT count(*) FROM lead.plan_reservation AS r WHERE r.plan_id = v_plan ->> 'plan_id'), 0::bigint);
    RETURN 'a plan is made of a status without constraints, and planning reserves nothing';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_scheduling__reservation_becomes_one_execution() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_plan jsonb;
    v_ids bigint[];
BEGIN
    v_ids := lead.stage_tasks(v_now, 2);
    v_plan := lead.suite_plan(2);
    PERFORM lead.expect('reserved', public.reserve_execution_resources(v_plan, v_now), true);
    PERFORM lead.expect('reserved twice', public.reserve_execution_resources(v_plan, v_now), false);
    PERFORM lead.expect('records', public.create_execution_records(v_plan, 'suite', v_now), 1);
    PERFORM lead.expect('records again', public.create_execution_records(v_plan, 'suite', v_now), 0);
    PERFORM lead.expect('tasks', (SELECT count(*) FROM lead.task AS t WHERE t.execution_id = 'suite-1' AND t.id = ANY (v_ids)),
        2::bigint);
    PERFORM lead.expect('state',
        (SELECT m.current_state FROM public.coordinator_monitoring AS m WHERE m.execution_id = 'suite-1'), 'DISPATCHING');
    RETURN 'a plan is reserved once and becomes one execution with its two tasks, however often it is asked for';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_scheduling__forgotten_reservation_is_released() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_plan jsonb;
BEGIN
    PERFORM lead.stage_tasks(v_now, 2);
    v_plan := lead.suite_plan(2);
    PERFORM public.reserve_execution_resources(v_plan, v_now);
    PERFORM lead.expect('held', (SELECT b.held_usd FROM lead.watch_budget(v_now) AS b), 0.18);
    PERFORM public.recover_executions(v_now + interval '61 seconds');
    PERFORM lead.expect('held after a minute', (SELECT b.held_usd FROM lead.watch_budget(v_now) AS b), 0::numeric);
    RETURN 'a reservation of 0.18 USD that nobody made an execution of is free again after a minute';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_scheduling__types_share_the_slots() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_answer jsonb;
    v_types text[];
BEGIN
    UPDATE lead.workflow_policy AS p SET enabled = true, max_batch = 2, fair_weight = 1, memory_mb = 1, base_priority = 50
    WHERE p.workflow_type IN ('content_pipeline', 'seo_monitor');
    PERFORM lead.stage_tasks(v_now, 20);
    PERFORM lead.stage_tasks(v_now, 1, 'seo_analysis');
    v_answer := public.orchestrate_workflow_execution('suite', v_now, 10);
    SELECT array_agg(DISTINCT w ->> 'workflow_type' ORDER BY w ->> 'workflow_type') INTO v_types
    FROM jsonb_array_elements(v_answer #> '{execution_plan,workflows_to_execute}') AS w;
    PERFORM lead.expect('types', v_types, ARRAY['content_pipeline', 'seo_monitor']);
    RETURN 'twenty content tasks don''t keep the one SEO task from its slot';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_scheduling__hours_follow_the_time_zone() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_context jsonb;
BEGIN
    PERFORM lead.stage();
    v_context := public.get_intelligent_scheduled_tasks('2001-01-01 12:00+00', 3) -> 'analysis_context';
    PERFORM lead.expect('Monday noon, business', v_context -> 'is_business_hours', to_jsonb(true));
    PERFORM lead.expect('Monday noon, peak', v_context -> 'is_peak_hours', to_jsonb(true));
    v_context := public.get_intelligent_scheduled_tasks('2001-01-06 12:00+00', 3) -> 'analysis_context';
    PERFORM lead.expect('Saturday noon, business', v_context -> 'is_business_hours', to_jsonb(false));
    PERFORM lead.expect('Saturday noon, weekend', v_context -> 'is_weekend', to_jsonb(true));
    UPDATE lead.setting AS s SET value = 'Asia/Tokyo' WHERE s.name = 'coordinator_timezone';
    v_context := public.get_intelligent_scheduled_tasks('2001-01-01 12:00+00', 3) -> 'analysis_context';
    PERFORM lead.expect('hour in Tokyo', v_context -> 'hour_of_day', to_jsonb(21));
    PERFORM lead.expect('business in Tokyo', v_context -> 'is_business_hours', to_jsonb(false));
    RETURN 'Monday noon is business in UTC and 21 o''clock in Tokyo; Saturday is a weekend';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_scheduling__starving_type_gains_fifty() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_task jsonb;
BEGIN
    UPDATE lead.workflow_policy AS p SET base_priority = 40 WHERE p.workflow_type = 'content_pipeline';
    PERFORM lead.stage_tasks(v_now, 1);
    SELECT t INTO v_task FROM jsonb_array_elements(public.get_intelligent_scheduled_tasks(v_now, 10) -> 'tasks') AS t
    WHERE t ->> 'workflow_type' = 'content_pipeline';
    PERFORM lead.expect('should_execute', v_task -> 'should_execute', to_jsonb(true));
    PERFORM lead.expect_true('reasoning', v_task ->> 'reasoning' LIKE '%+50 the oldest has waited 60 minutes%');
    PERFORM lead.expect_between('priority', (v_task ->> 'priority')::numeric, 90, 100);
    RETURN 'after an hour of waiting a base priority of 40 becomes 90 or more, and the reasoning says so';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_scheduling__unstarted_execution_is_launched_again() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_plan jsonb;
BEGIN
    PERFORM lead.stage_tasks(v_now, 1);
    v_plan := lead.suite_plan(1);
    PERFORM public.create_execution_records(v_plan, 'suite', v_now);
    PERFORM lead.expect('stale after 119 s', (
        SELECT l.stale FROM public.launchable_executions(1000, v_now + interval '119 seconds') AS l
            WHERE l.execution_id = 'suite-1'), false);
    PERFORM lead.expect('stale after 120 s', (
        SELECT l.stale FROM public.launchable_executions(1000, v_now + interval '120 seconds') AS l
            WHERE l.execution_id = 'suite-1'), true);
    PERFORM lead.expect('next launch', public.relaunch_execution('suite-1', 1, v_now + interval '120 seconds'), 2);
    PERFORM lead.expect('told twice', public.relaunch_execution('suite-1', 1, v_now + interval '120 seconds'), 2);
    PERFORM lead.expect('run_key', (
        SELECT l.run_key FROM public.launchable_executions(1000, v_now + interval '121 seconds') AS l
            WHERE l.execution_id = 'suite-1'), 'suite-1:2');
    RETURN 'after 120 s without a start the run key becomes suite-1:2, once';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_scheduling__outsiders_row_is_adopted() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_answer jsonb;
BEGIN
    PERFORM lead.stage_tasks(v_now, 1);
    INSERT INTO public.workflow_orchestration (execution_id, workflow_type, worker_id, priority_score) VALUES
    ('suite-outsider', 'content_pipeline', 'suite', 100), ('suite-disabled', 'seo_monitor', 'suite', 100);
    v_answer := public.adopt_executions(v_now);
    PERFORM lead.expect_true('adopted', v_answer -> 'adopted' ? 'suite-outsider');
    PERFORM lead.expect_true('refused', EXISTS (
        SELECT 1 FROM jsonb_array_elements(v_answer -> 'refused') AS r
        WHERE r ->> 'execution_id' = 'suite-disabled' AND r ->> 'reason' LIKE 'seo_monitor is disabled%'));
    PERFORM lead.expect('status of the refused', (
        SELECT w.status FROM public.workflow_orchestration AS w WHERE w.execution_id = 'suite-disabled'), 'cancelled');
    RETURN 'a bare execution row is reserved; one of a disabled type is cancelled with the reason';
END;
$$;

-- Monitoring ---------------------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION lead.test_monitoring__metric_knows_its_trend() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_row record;
BEGIN
    PERFORM public.record_health_metric('suite_metric', 40, 'MB', 'suite', 50, 60, p_current_time => v_now);
    PERFORM public.record_health_metric('suite_metric', 50, 'MB', 'suite', p_current_time => v_now);
    SELECT h.* INTO v_row FROM public.system_health AS h WHERE h.metric_name = 'suite_metric';
    PERFORM lead.expect('previous_value', v_row.previous_value, 40::numeric);
    PERFORM lead.expect('trend_direction', v_row.trend_direction, 'up');
    PERFORM lead.expect('change_rate', v_row.change_rate, 25::numeric);
    PERFORM lead.expect('is_healthy at the warning threshold', v_row.is_healthy, false);
    PERFORM lead.expect('threshold kept', v_row.threshold_critical, 60::numeric);
    PERFORM lead.expect_error('NaN', format('SELECT public.record_health_metric(%L, %L, %L)', 'suite_metric', 'NaN', 'MB'),
        '22023', 'p_value: NaN');
    RETURN 'from 40 to 50 is up by 25 % and no longer healthy at a warning threshold of 50';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_monitoring__secrets_are_masked() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_secret text;
BEGIN
    FOREACH v_secret IN ARRAY ARRAY[
        'sk-proj-abcdefgh12345678', 'AIzaSyA1234567890abcdefghijklmnopqrstuv', 'xoxb-123456789012-abcdefghij',
            'Bearer abcdef.123456',
        'eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZSJ9.c2lnbmF0dXJl', 'postgresql://user:hunter2secret@host/db',
            'password=hunter2secret',
        '"api_key": "hunter2secret"', 'https://example.org/?key=hunter2secret&x=1', 'Authorization: Basic aHVudGVyMnNlY3JldA=='
    ] LOOP
        PERFORM lead.expect(format('masked %s…', left(v_secret, 12)), lead.sanitise('before ' || v_secret || ' after')
            ~ 'hunter2secret|abcdefgh1234|1234567890abc|abcdefghij|abcdef\.123456|eyJhbGci|aHVudGVy', false);
    END LOOP;
    PERFORM lead.expect('document', lead.sanitise('{"a": [{"token": "x", "max_tokens": 5, "idempotency_key": "k"}]}'::jsonb),
        '{"a": [{"token": "***", "max_tokens": 5, "idempotency_key": "k"}]}');
    PERFORM lead.expect('innocent text', lead.sanitise('risk-assessment of 3 tasks: Key (id)=(5) already exists'),
        'risk-assessment of 3 tasks: Key (id)=(5) already exists');
    PERFORM lead.expect_between('length', length(lead.sanitise(repeat('word ', 100000))), 1, 4000);
    RETURN 'ten kinds of secrets are masked in text, named ones in documents, innocent text is left alone';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_monitoring__logged_errors_hold_no_secret() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_row record;
BEGIN
    PERFORM public.log_orchestration_error('SUITE', 'refused sk-abcdefgh12345678', '{"password": "hunter2"}', 'suite', v_now);
    SELECT e.* INTO v_row FROM lead.error_log AS e WHERE e.error_code = 'SUITE' AND e.occurred_at = v_now;
    PERFORM lead.expect('message', v_row.error_message, 'refused ***');
    PERFORM lead.expect('context', v_row.context, '{"password": "***"}');
    RETURN 'the log keeps code, message and context without the key and the password';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_monitoring__ended_execution_is_rolled_up() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_row record;
    v_dashboard jsonb;
BEGIN
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 2);
    PERFORM public.complete_task(v_run.task_ids[1], v_run.execution_id, v_run.fence, '{"score": 70}', v_now);
    PERFORM public.complete_task(v_run.task_ids[2], v_run.execution_id, v_run.fence, '{"score": 90}', v_now);
    PERFORM public.finish_execution(v_run.execution_id, v_run.fence, 'completed',
        p_current_time => v_now + interval '10 seconds');
    SELECT h.* INTO v_row FROM public.execution_history AS h
    WHERE h.workflow_type = 'content_pipeline' AND h.execution_date = '2001-01-01' AND h.hour_of_day = 12;
    PERFORM lead.expect('total_executions', v_row.total_executions, 1);
    PERFORM lead.expect('avg_duration_ms', v_row.avg_duration_ms, 10000::numeric);
    PERFORM lead.expect('content_items_processed', v_row.content_items_processed, 2);
    PERFORM lead.expect('avg_quality_score', v_row.avg_quality_score, 80::numeric);
    v_dashboard := public.get_coordinator_dashboard(1, v_now + interval '1 minute') #> '{coordinator_dashboard,execution_stats}';
    PERFORM lead.expect('dashboard, executions', v_dashboard -> 'total_executions', to_jsonb(1));
    PERFORM lead.expect('dashboard, duration', v_dashboard -> 'avg_duration_ms', to_jsonb(10000.0));
    RETURN 'a run of 10 s with scores 70 and 90 is one execution of 10000 ms and quality 80, in the history and on the dashboard';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_monitoring__dashboard_sums_the_hours() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_stats jsonb;
BEGIN
    INSERT INTO public.execution_history (workflow_type, execution_date, hour_of_day, total_executions, successful_executions,
        failed_executions, avg_duration_ms, total_cost, content_items_processed) VALUES
    ('content_pipeline', '2001-01-01', 12, 3, 2, 1, 100, 0.5, 20), ('content_pipeline', '2001-01-01', 10, 1, 1, 0, 500, 0.25, 10),
    ('seo_monitor', '2001-01-01', 11, 4, 4, 0, 50, 0.125, 40), ('content_pipeline', '2001-01-01', 9, 100, 0, 100, 1, 1, 0);
    v_stats := public.get_coordinator_dashboard(2, v_now) #> '{coordinator_dashboard,execution_stats}';
    PERFORM lead.expect('total_executions', v_stats -> 'total_executions', to_jsonb(8));
    PERFORM lead.expect('success_rate_percent', v_stats -> 'success_rate_percent', to_jsonb(87.50));
    PERFORM lead.expect('avg_duration_ms', v_stats -> 'avg_duration_ms', to_jsonb(125.0));
    PERFORM lead.expect('total_cost_usd', v_stats -> 'total_cost_usd', to_jsonb(0.8750000000));
    PERFORM lead.expect('content', v_stats #> '{by_workflow,content_pipeline,items_processed}', to_jsonb(30));
    PERFORM lead.expect_error('0 hours', 'SELECT public.get_coordinator_dashboard(0)', '22023', 'p_hours_back: 0');
    RETURN 'three rows of the last two hours make 8 executions, 87.50 % good, of 125 ms and 0.875 USD; the older is left out';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_monitoring__peak_counts_overlaps() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_then timestamptz := timestamptz '2999-01-01 00:00:00+00';
BEGIN
    INSERT INTO public.workflow_orchestration (execution_id, workflow_type, worker_id, status, created_at, started_at,
        completed_at)
    SELECT 'suite-' || g.n, 'content_pipeline', 'suite', 'completed', v_then + interval '1 second',
        v_then + g.s * interval '1 minute',
        v_then + g.e * interval '1 minute'
    FROM (VALUES (1, 0, 10), (2, 5, 15), (3, 10, 20), (4, 12, 13)) AS g (n, s, e);
    PERFORM lead.expect('peak', lead.watch_peak_concurrency(v_then, v_then + interval '1 hour'), 3);
    PERFORM lead.expect('of nothing', lead.watch_peak_concurrency(v_then + interval '1 hour', v_then + interval '2 hours'), 0);
    RETURN 'of four runs at most three overlap; one that ends as another starts does not';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_monitoring__status_counts_the_queue() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_before jsonb;
    v_after jsonb;
BEGIN
    v_before := public.get_platform_status(v_now);
    PERFORM lead.stage_tasks(v_now, 3);
    v_after := public.get_platform_status(v_now);
    PERFORM lead.expect('queued',
        (v_after #>> '{queue,content_generation,queued}')::integer - (v_before #>> '{queue,content_generation,queued}')::integer,
        3);
    PERFORM lead.expect('total', (v_after #>> '{totals,queued}')::integer - (v_before #>> '{totals,queued}')::integer, 3);
    PERFORM lead.expect('limit', v_after #> '{providers,suite_provider,limit_per_minute}', to_jsonb(3));
    PERFORM lead.expect('day', v_after #>> '{budget,day}', '2001-01-01');
    RETURN 'three tasks more are three more, by type and in total';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_monitoring__alerts_name_the_budget() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_alert record;
BEGIN
    PERFORM lead.budget_hold(lead.budget_day(v_now), 'total', 'all', 430, 500);
    SELECT a.* INTO v_alert FROM public.check_coordinator_alerts(v_now) AS a WHERE a.alert_type LIKE 'budget%';
    PERFORM lead.expect('severity at 86 %', v_alert.severity, 'warning');
    PERFORM lead.expect('threshold at 86 %', v_alert.threshold, 85::numeric);
    PERFORM lead.budget_hold(lead.budget_day(v_now), 'total', 'all', 70, 500);
    SELECT a.* INTO v_alert FROM public.check_coordinator_alerts(v_now) AS a WHERE a.alert_type LIKE 'budget%';
    PERFORM lead.expect('alert at 100 %', v_alert.alert_type, 'budget_exceeded');
    PERFORM lead.expect('severity at 100 %', v_alert.severity, 'critical');
    PERFORM lead.expect('metric_value', v_alert.metric_value, 500::numeric);
    RETURN '430 of 500 USD is a warning with threshold 85 %, 500 is critical: budget_exceeded';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_monitoring__alerts_name_failures_and_lost_leases() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_alert record;
BEGIN
    INSERT INTO public.workflow_orchestration (execution_id, workflow_type, worker_id, status, created_at, started_at,
        completed_at)
    SELECT 'suite-' || n, 'content_pipeline', 'suite', CASE WHEN n <= 3 THEN 'failed' ELSE 'completed' END, v_now, v_now, v_now
    FROM generate_series(1, 5) AS g (n);
    SELECT a.* INTO v_alert FROM public.check_coordinator_alerts(v_now) AS a WHERE a.alert_type = 'high_error_rate';
    PERFORM lead.expect('severity', v_alert.severity, 'critical');
    PERFORM lead.expect('metric_value', v_alert.metric_value, 60::numeric);
    PERFORM lead.stage_execution(v_now, 1);
    SELECT a.* INTO v_alert FROM public.check_coordinator_alerts(v_now + interval '140 seconds') AS a
    WHERE a.alert_type = 'system_failure' AND a.message LIKE '%lost their lease%';
    PERFORM lead.expect('severity of a lease lost for 125 s', v_alert.severity, 'critical');
    PERFORM lead.expect('age of the lease', v_alert.metric_value, 125::numeric);
    PERFORM lead.expect('daily summary', (
        SELECT count(*) FROM public.check_coordinator_alerts(v_now) AS a WHERE a.alert_type = 'daily_summary'
            AND a.severity = 'info'), 1::bigint);
    RETURN '3 of 5 failed is critical, and so is a lease that ended 125 s ago unrecovered; the daily summary is always there';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_monitoring__advice_follows_the_figures() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_found jsonb[];
BEGIN
    v_found := public.generate_coordinator_recommendations('{"total_executions": 10, "failed_executions": 6}',
        '{"budget": {"utilization_percent": 72}, "memory": {"utilization_percent": 10}}', '{"dead_letters": 2}');
    PERFORM lead.expect('advice', ARRAY(SELECT f ->> 'category' FROM unnest(v_found) AS f),
        ARRAY['reliability', 'budget', 'dead_letters']);
    PERFORM lead.expect('priority of failures', v_found[1] ->> 'priority', 'high');
    PERFORM lead.expect('without figures', cardinality(public.generate_coordinator_recommendations('{}', '{}', NULL)), 0);
    RETURN '60 % failures come first, then the budget at 72 %, then two dead letters; without figures there is no advice';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_monitoring__validation_names_what_is_wrong() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_found jsonb;
    v_before jsonb := public.validate_coordinator_deployment();
BEGIN
    PERFORM lead.expect('deployment as it is', v_before -> 'errors', '[]');
    PERFORM lead.expect('status', v_before ->> 'status', 'READY');
    GRANT EXECUTE ON FUNCTION public.get_platform_status(timestamptz) TO anon;
    REVOKE EXECUTE ON FUNCTION public.get_platform_status(timestamptz) FROM service_role;
    EXECUTE 'CREATE OR REPLACE FUNCTION lead.dollars(p_amount numeric) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE '
        'SET search_path = pg_catalog, public, lead, pg_temp AS ''SELECT NULL::text''';
    EXECUTE 'DROP FUNCTION public.analyze_test_results()';
    v_found := public.validate_coordinator_deployment();
    PERFORM lead.expect('deployment_valid', v_found -> 'deployment_valid', to_jsonb(false));
    PERFORM lead.expect('errors', v_found -> 'errors', jsonb_build_array(
        'function lead.dollars(numeric) is altered',
        'function public.analyze_test_results is missing',
        'grant missing: EXECUTE on public.get_platform_status(timestamp with time zone) for service_role',
        'grant too many: EXECUTE on public.get_platform_status(timestamp with time zone) for anon'));
    RETURN 'READY as deployed; an altered body, a missing function, a missing and a surplus grant are each named';
END;
$$;

-- Performance --------------------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION lead.test_performance__decision_is_quick() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_started timestamptz;
    v_dispatched integer;
BEGIN
    UPDATE lead.workflow_policy AS p SET max_batch = 2 WHERE p.workflow_type = 'content_pipeline';
    PERFORM lead.stage_tasks(v_now, 6);
    v_started := clock_timestamp();
    v_dispatched := (public.orchestrate_workflow_execution('suite', v_now, 10) ->> 'workflows_dispatched')::integer;
    RETURN format('%s executions decided, reserved and written, %s', v_dispatched, lead.expect_quick('the decision', v_started));
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_performance__bulk_submission_is_counted_by_statement() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_started timestamptz;
    v_before bigint;
    v_depth bigint;
BEGIN
    SELECT count(*), coalesce(sum(d.tasks) FILTER (WHERE d.task_type = 'content_generation' AND d.status = 'queued'), 0)
        INTO v_before, v_depth
    FROM lead.queue_depth_delta AS d;
    v_started := clock_timestamp();
    PERFORM lead.stage_tasks(v_now, 1000);
    PERFORM lead.expect('counter rows for 1000 tasks', (SELECT count(*) FROM lead.queue_depth_delta) - v_before, 1::bigint);
    PERFORM lead.expect('depth', lead.queue_depth('content_generation', 'queued') - v_depth, 1000::bigint);
    RETURN format('1000 tasks submitted, one row counts them, %s', lead.expect_quick('submitting', v_started));
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_performance__claim_of_a_hundred_is_quick() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_started timestamptz;
    v_ids bigint[];
    v_picked bigint[];
BEGIN
    v_ids := lead.stage_tasks(v_now, 100);
    v_started := clock_timestamp();
    v_picked := (lead.take_out_tasks('content_generation', 100, v_now)).task_ids;
    PERFORM lead.expect('picked', v_picked, v_ids);
    RETURN format('the best 100 found in order, %s', lead.expect_quick('picking', v_started));
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_performance__reserve_and_settle_is_quick() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_run record;
    v_started timestamptz;
BEGIN
    UPDATE public.api_rate_limits AS l SET requests_per_minute = 100 WHERE l.provider = 'suite_provider';
    SELECT * INTO v_run FROM lead.stage_execution(v_now, 1);
    v_started := clock_timestamp();
    FOR v_number IN 1..20 LOOP
        PERFORM public.settle_api_call(lead.stage_sent_call(v_run.execution_id, v_run.fence, v_run.task_ids[1], v_now), 'ok',
            0.0001,
            p_current_time => v_now);
    END LOOP;
    PERFORM lead.expect('spent', (
        SELECT w.actual_cost FROM public.workflow_orchestration AS w WHERE w.execution_id = v_run.execution_id), 0.0020);
    RETURN format('20 calls reserved, sent and settled, %s', lead.expect_quick('20 calls', v_started));
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_performance__watching_is_quick() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_started timestamptz := clock_timestamp();
BEGIN
    PERFORM lead.expect('health', jsonb_typeof(public.check_system_health_comprehensive() -> 'metrics'), 'object');
    PERFORM lead.expect('status', jsonb_typeof(public.get_platform_status() -> 'queue'), 'object');
    PERFORM lead.expect('dashboard', public.get_coordinator_dashboard(24) #> '{coordinator_dashboard,time_range_hours}',
        to_jsonb(24));
    RETURN format('health, status and dashboard of the live data, %s', lead.expect_quick('all three', v_started));
END;
$$;

-- Security -----------------------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION lead.test_security__outsiders_have_nothing() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_found text;
BEGIN
    SELECT string_agg(format('%s on %s', p.privilege, c.oid::regclass), ', ') INTO v_found
    FROM pg_class AS c
    INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
    CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS p (privilege)
    CROSS JOIN unnest(ARRAY['anon', 'authenticated']) AS r (role_name)
    WHERE c.relkind IN ('r', 'v')
        AND (n.nspname = 'lead' OR c.oid = ANY (ARRAY(SELECT to_regclass('public.' || k.name)
            FROM lead.contract() AS k WHERE k.kind = 'relation')))
        AND has_table_privilege(r.role_name, c.oid, p.privilege);
    PERFORM lead.expect('privileges on tables', v_found, NULL::text);
    SELECT string_agg(p.oid::regprocedure::text, ', ') INTO v_found
    FROM pg_proc AS p
    INNER JOIN pg_namespace AS n ON n.oid = p.pronamespace
    CROSS JOIN unnest(ARRAY['anon', 'authenticated']) AS r (role_name)
    WHERE (n.nspname = 'lead' OR (n.nspname = 'public' AND p.proconfig @> ARRAY['search_path=pg_catalog, public, lead, pg_temp']))
        AND has_function_privilege(r.role_name, p.oid, 'EXECUTE');
    PERFORM lead.expect('functions', v_found, NULL::text);
    RETURN 'anon and authenticated can read, write and call nothing';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_security__every_table_has_forced_row_security() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_found text;
    v_tables bigint;
BEGIN
    SELECT string_agg(c.oid::regclass::text, ', ') FILTER (WHERE NOT (c.relrowsecurity AND c.relforcerowsecurity)), count(*)
    INTO v_found, v_tables
    FROM pg_class AS c
    INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND (n.nspname = 'lead' OR c.oid = ANY (ARRAY(
        SELECT to_regclass('public.' || k.name) FROM lead.contract() AS k WHERE k.kind = 'relation')));
    PERFORM lead.expect('tables without it', v_found, NULL::text);
    PERFORM lead.expect_between('tables', v_tables, 20, 1000);
    RETURN format('row-level security is enabled and forced on all %s tables', v_tables);
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_security__functions_pin_their_search_path() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_found text;
    v_functions bigint;
BEGIN
    SELECT string_agg(k.name, ', ') FILTER (WHERE p.oid IS NULL), count(p.oid) INTO v_found, v_functions
    FROM lead.contract() AS k
    LEFT JOIN pg_proc AS p ON p.proname = k.name AND p.pronamespace = 'public'::regnamespace AND p.prosecdef
        AND p.proconfig @> ARRAY['search_path=pg_catalog, public, lead, pg_temp']
    WHERE k.kind = 'function';
    PERFORM lead.expect('functions that don''t', v_found, NULL::text);
    PERFORM lead.expect('functions', v_functions, 17::bigint);
    RETURN 'all 17 functions of the contract are SECURITY DEFINER with a pinned search path, each exactly once';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_security__application_role_is_enough() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_found text;
BEGIN
    SELECT string_agg(p.oid::regprocedure::text, ', ') INTO v_found
    FROM pg_proc AS p
    WHERE p.pronamespace = 'public'::regnamespace AND p.proconfig @> ARRAY['search_path=pg_catalog, public, lead, pg_temp']
        AND NOT (has_function_privilege('service_role', p.oid, 'EXECUTE')
            AND has_function_privilege('lead_application', p.oid, 'EXECUTE'));
    PERFORM lead.expect('functions it may not call', v_found, NULL::text);
    PERFORM lead.expect('service_role may insert tasks', has_table_privilege('service_role', 'public.task_queue', 'INSERT'),
        true);
    PERFORM lead.expect('lead_dashboard may read',
        has_table_privilege('lead_dashboard', 'public.coordinator_monitoring', 'SELECT'), true);
    PERFORM lead.expect('lead_dashboard may submit',
        has_function_privilege('lead_dashboard', 'public.submit_tasks(jsonb, timestamptz)', 'EXECUTE'), false);
    PERFORM lead.expect('lead_application may write the ledger',
        has_table_privilege('lead_application', 'lead.budget_account', 'UPDATE'), false);
    RETURN 'service_role and lead_application call everything, lead_dashboard only reads, and nobody writes the ledger by hand';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_security__bad_input_is_named() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamptz := lead.stage();
    v_bad record;
BEGIN
    FOR v_bad IN
        SELECT b.call, b.part FROM (VALUES
            ('public.submit_task(''content_generation'', ''[]'', p_current_time => $1)', 'payload: []'),
            ('public.submit_task(''content_generation'', ''{}'', 101, p_current_time => $1)', 'priority: 101'),
            ('public.submit_task(''content_generation'', ''{}'', p_value_usd => -1, p_current_time => $1)', 'value_usd: -1'),
            ('public.submit_task(''poetry'', ''{}'', p_current_time => $1)', 'task_type: poetry'),
            ('public.submit_task(''content_generation'', ''{}'', p_tenant => E''a\nb'', p_current_time => $1)', 'tenant'),
            ('public.submit_tasks(''{}'', $1)', 'p_tasks'),
            ('public.orchestrate_workflow_execution('''', $1)', 'p_worker_id'),
            ('public.record_health_metric(''a b'', 1, ''MB'')', 'p_name: a b')
        ) AS b (call, part)
    LOOP
        PERFORM lead.expect_error(v_bad.call, 'SELECT ' || replace(v_bad.call, '$1', quote_literal(v_now)), '22023', v_bad.part);
    END LOOP;
    RETURN 'eight kinds of bad input are refused with 22023 and name the field and the value';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_security__settings_guard_their_range() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    PERFORM lead.expect_error('99 slots',
        'UPDATE lead.setting SET value = ''99'', maximum = 10 WHERE name = ''max_concurrent_workflows''', '22023',
        'max_concurrent_workflows: 99');
    PERFORM lead.expect_error('a budget of abc', 'UPDATE lead.setting SET value = ''abc'' WHERE name = ''daily_budget_usd''',
        '22023', 'daily_budget_usd');
    PERFORM lead.expect_error('a zone of nowhere',
        'UPDATE lead.setting SET value = ''Nowhere'' WHERE name = ''coordinator_timezone''', '22023', 'Nowhere');
    RETURN 'max_concurrent_workflows = 99, daily_budget_usd = abc and a zone called Nowhere are refused';
END;
$$;

CREATE OR REPLACE FUNCTION lead.test_security__clock_is_guarded() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    UPDATE lead.setting AS s SET value = 'false' WHERE s.name = 'scratch_database' AND s.value <> 'false';
    UPDATE lead.setting AS s SET value = '300' WHERE s.name = 'clock_tolerance_seconds' AND s.value <> '300';
    PERFORM lead.expect_error('a tick tomorrow', format('SELECT public.orchestrate_workflow_execution(%L, %L)', 'suite',
        clock_timestamp() + interval '1 day'), 'LC004', 'p_current_time');
    PERFORM lead.expect_error('usage tomorrow',
        format('SELECT public.refresh_resource_usage(%L)', clock_timestamp() + interval '1 day'),
        'LC004', 'p_current_time');
    RETURN 'on a production database tomorrow''s budget can''t be opened today';
END;
$$;

-- Running them -----------------------------------------------------------------------------------------------------------
-- One test in its subtransaction, which always ends in an error: that is what rolls it back, whatever it wrote.
CREATE OR REPLACE FUNCTION lead.run_test(
    p_function text, OUT status text, OUT execution_time_ms numeric, OUT summary text, OUT detail jsonb
)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_started timestamptz;
    v_state text;
    v_context text;
BEGIN
    FOR v_try IN 1..3 LOOP
        v_started := clock_timestamp();
        BEGIN
            PERFORM set_config('lock_timeout', '2s', true);
            EXECUTE format('SELECT lead.%I()', p_function) INTO summary;
            RAISE EXCEPTION 'passed' USING ERRCODE = 'LC999';
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS v_state = RETURNED_SQLSTATE, v_context = PG_EXCEPTION_CONTEXT;
            execution_time_ms := round(extract(EPOCH FROM clock_timestamp() - v_started) * 1000, 3);
            IF v_state = 'LC999' THEN
                status := 'PASS';
                detail := jsonb_build_object('tries', v_try);
                RETURN;
            END IF;
            status := 'FAIL';
            summary := sqlerrm;
            detail := jsonb_build_object('tries', v_try, 'sqlstate', v_state, 'context', left(v_context, 2000));
        END;
        -- Live work held a lock for too long, or the two of them waited for each other: neither says anything about the test.
        EXIT WHEN v_state NOT IN ('55P03', '40P01', '40001');
    END LOOP;
END;
$$;

CREATE OR REPLACE FUNCTION public.run_coordinator_test_suite() RETURNS TABLE (
    test_category text, test_name text, status text, execution_time_ms numeric, result_summary text, detailed_result jsonb
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp SET jit = off
AS $$
BEGIN
    RETURN QUERY
    SELECT t.category, t.name, r.status, r.execution_time_ms, r.summary, r.detail
    FROM (
        SELECT p.proname::text AS function_name, split_part(substr(p.proname, 6), '__', 1) AS category,
            split_part(p.proname, '__', 2) AS name
        FROM pg_proc AS p
        WHERE p.pronamespace = 'lead'::regnamespace AND p.proname LIKE 'test\_%\_\_%' AND p.pronargs = 0
        ORDER BY array_position(ARRAY['core', 'health', 'resources', 'scheduling', 'monitoring', 'performance', 'security'],
            split_part(substr(p.proname, 6), '__', 1)), p.proname
    ) AS t
    CROSS JOIN LATERAL lead.run_test(t.function_name) AS r;
END;
$$;

-- Runs the suite (which keeps nothing, so there is nothing else to analyse) and sums it up.
CREATE OR REPLACE FUNCTION public.analyze_test_results() RETURNS TABLE (
    analysis_category text, metric_name text, metric_value numeric, status text, recommendation text
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    RETURN QUERY
    WITH results AS MATERIALIZED (
        SELECT r.* FROM public.run_coordinator_test_suite() AS r
    ), by_category AS (
        SELECT r.test_category, count(*) AS tests, count(*) FILTER (WHERE r.status = 'PASS') AS passed,
            string_agg(r.test_name, ', ' ORDER BY r.test_name) FILTER (WHERE r.status <> 'PASS') AS failed
        FROM results AS r
        GROUP BY r.test_category
    ), rows (place, category, name, value, verdict, advice) AS (
        SELECT 1, 'summary', 'total_tests', count(*)::numeric, 'INFO', NULL FROM results
        UNION ALL
        SELECT 2, 'summary', 'passed_tests', count(*) FILTER (WHERE r.status = 'PASS')::numeric,
            CASE WHEN bool_and(r.status = 'PASS') THEN 'PASS' ELSE 'FAIL' END, NULL
        FROM results AS r
        UNION ALL
        SELECT 3, 'summary', 'success_rate_percent', lead.percent_of(count(*) FILTER (WHERE r.status = 'PASS'), count(*)),
            CASE WHEN bool_and(r.status = 'PASS') THEN 'PASS' ELSE 'FAIL' END,
            CASE WHEN bool_and(r.status = 'PASS') THEN 'nothing to do' ELSE 'read result_summary of the rows with status FAIL' END
        FROM results AS r
        UNION ALL
        SELECT 4, c.test_category, 'success_rate_percent', lead.percent_of(c.passed, c.tests),
            CASE WHEN c.failed IS NULL THEN 'PASS' ELSE 'FAIL' END, coalesce('look at ' || c.failed, 'nothing to do')
        FROM by_category AS c
        UNION ALL
        SELECT 5, 'time', 'total_ms', sum(r.execution_time_ms), 'INFO', NULL FROM results AS r
        UNION ALL
        SELECT 6, 'time', 'slowest_ms', slowest.execution_time_ms,
            CASE WHEN slowest.execution_time_ms > lead.setting_number('suite_limit_ms') THEN 'WARNING' ELSE 'PASS' END,
            format('%s/%s took longest', slowest.test_category, slowest.test_name)
        FROM (SELECT r.* FROM results AS r ORDER BY r.execution_time_ms DESC LIMIT 1) AS slowest
    )
    SELECT r.category, r.name, r.value, r.verdict, r.advice FROM rows AS r ORDER BY r.place, r.category;
END;
$$;

-- Benchmark ----------------------------------------------------------------------------------------------------------------
-- What is timed, each with its preparation, which is not. Times are the server's own, without the way to the client.
CREATE OR REPLACE FUNCTION lead.benchmarks() RETURNS TABLE (name text, preparation text, statement text, notes text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    VALUES
    ('submit_tasks_100', NULL, 'SELECT lead.stage_tasks($1, 100)', '100 tasks in one call'),
    ('take_out_tasks_100', 'SELECT lead.stage_tasks($1, 100)', 'SELECT lead.take_out_tasks(''content_generation'', 100, $1)',
        'the best 100 of all that wait, locked and taken out'),
    ('orchestrate_workflow_execution', 'SELECT lead.stage_tasks($1, 30)',
        'SELECT public.orchestrate_workflow_execution(''suite'', $1, 10)',
        'health, analysis, plan, reservation and execution records in one transaction'),
    ('check_system_health_comprehensive', NULL, 'SELECT public.check_system_health_comprehensive($1)', NULL),
    ('get_intelligent_scheduled_tasks', NULL, 'SELECT public.get_intelligent_scheduled_tasks($1, 10)', NULL),
    ('check_comprehensive_resource_availability', NULL,
        'SELECT public.check_comprehensive_resource_availability(''{"tasks": []}'', $1)', NULL),
    ('complete_a_batch_of_10', 'SELECT lead.stage_batch($1, 10)', 'SELECT lead.finish_batch($1)',
        'ten tasks completed, execution finished'),
    ('begin_send_settle_call', 'SELECT lead.stage_batch($1, 1)', 'SELECT lead.call_batch($1)',
        'slot, breaker and budget, there and back'),
    ('refresh_resource_usage', NULL, 'SELECT public.refresh_resource_usage($1)', NULL),
    ('get_platform_status', NULL, 'SELECT public.get_platform_status(clock_timestamp())', 'on the live data'),
    ('get_coordinator_dashboard_24', NULL, 'SELECT public.get_coordinator_dashboard(24, clock_timestamp())', 'on the live data'),
    ('check_coordinator_alerts', NULL, 'SELECT count(*) FROM public.check_coordinator_alerts(clock_timestamp())',
        'on the live data')
$$;

CREATE OR REPLACE FUNCTION lead.stage_batch(p_now timestamptz, p_tasks integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    PERFORM lead.stage_execution(p_now, p_tasks);
END;
$$;

CREATE OR REPLACE FUNCTION lead.finish_batch(p_now timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_run record;
BEGIN
    SELECT w.execution_id, w.fence INTO v_run
        FROM public.workflow_orchestration AS w WHERE w.status = 'running' AND w.started_at = p_now;
    PERFORM public.complete_task(t.id, v_run.execution_id, v_run.fence, '{}', p_now)
    FROM lead.task AS t WHERE t.execution_id = v_run.execution_id AND t.status = 'processing';
    PERFORM public.finish_execution(v_run.execution_id, v_run.fence, 'completed', p_current_time => p_now);
END;
$$;

CREATE OR REPLACE FUNCTION lead.call_batch(p_now timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_run record;
BEGIN
    SELECT w.execution_id, w.fence, t.id AS task_id INTO v_run
    FROM public.workflow_orchestration AS w
    INNER JOIN lead.task AS t ON t.execution_id = w.execution_id AND t.status = 'processing'
    WHERE w.status = 'running' AND w.started_at = p_now;
    PERFORM public.settle_api_call(lead.stage_sent_call(v_run.execution_id, v_run.fence, v_run.task_id, p_now), 'ok', 0.001,
        p_current_time => p_now);
END;
$$;

CREATE OR REPLACE FUNCTION public.benchmark_coordinator_performance(p_iterations integer DEFAULT 10) RETURNS TABLE (
    benchmark_name text, iterations integer, avg_execution_time_ms numeric, min_execution_time_ms numeric,
        max_execution_time_ms numeric,
    success_rate numeric, notes text
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp SET jit = off
AS $$
DECLARE
    v_benchmark record;
    v_now timestamptz;
    v_started timestamptz;
    v_ms numeric;
    v_times numeric[];
    v_errors text[];
    v_state text;
BEGIN
    IF p_iterations IS NULL OR p_iterations NOT BETWEEN 1 AND 1000 THEN
        PERFORM lead.refuse('p_iterations', p_iterations::text, '1 to 1000 are allowed');
    END IF;
    FOR v_benchmark IN SELECT b.* FROM lead.benchmarks() AS b LOOP
        v_times := ARRAY[]::numeric[];
        v_errors := ARRAY[]::text[];
        FOR v_iteration IN 1..p_iterations LOOP
            BEGIN
                PERFORM set_config('lock_timeout', '2s', true);
                v_now := lead.stage();
                IF v_benchmark.preparation IS NOT NULL THEN
                    EXECUTE v_benchmark.preparation USING v_now;
                END IF;
                v_started := clock_timestamp();
                EXECUTE v_benchmark.statement USING v_now;
                v_ms := extract(EPOCH FROM clock_timestamp() - v_started) * 1000;
                RAISE EXCEPTION 'timed' USING ERRCODE = 'LC999';
            EXCEPTION WHEN OTHERS THEN
                GET STACKED DIAGNOSTICS v_state = RETURNED_SQLSTATE;
                IF v_state = 'LC999' THEN
                    v_times := v_times || v_ms;
                ELSE
                    v_errors := v_errors || sqlerrm;
                END IF;
            END;
        END LOOP;
        RETURN QUERY
        SELECT v_benchmark.name, p_iterations, round(avg(m.ms), 3), round(min(m.ms), 3), round(max(m.ms), 3),
            round(cardinality(v_times)::numeric / p_iterations, 4),
            concat_ws('; ', v_benchmark.notes, 'failed: ' || left(v_errors[1], 300))
        FROM unnest(v_times) AS m (ms);
    END LOOP;
END;
$$;

-- What a fresh deployment has ---------------------------------------------------------------------------------------------------
-- Generated by `python -m lead_coordinator_tests.database.expected_objects` from a fresh deployment; a test holds it equal to one
-- on every server version. Names are grouped by kind and table; behind the colon the first 12 digits of the SHA-256 of the
-- definition that lead.object_definitions gives. Functions have none: what their file wrote is recorded as it is written.
CREATE OR REPLACE FUNCTION lead.expected_objects() RETURNS TABLE (kind text, name text, fingerprint text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT e.kind, e.prefix || split_part(o, ':', 1), nullif(split_part(o, ':', 2), '')
    FROM (VALUES
        -- generated from here
        ('column', 'lead.api_call.',
            'attempt:8f2b25b0bb9a|budget_day:b783cf4cc344|cached_tokens:2dba2454d800|cost_usd:4d3399302326|'
            'error_message:982d9e3eb996|execution_id:728c20cb6abb|fence:80e2aed42219|http_status:2dba2454d800|'
            'id:734a0df0a797|input_tokens:2dba2454d800|is_probe:dd2d52655272|max_cost_usd:13fb6e3689d1|model:728c20cb6abb|'
            'outcome:982d9e3eb996|output_tokens:2dba2454d800|provider:728c20cb6abb|reserved_at:b01db46455c6|'
            'sent_at:5cb029883f2a|settled_at:5cb029883f2a|slot_no:8f2b25b0bb9a|status:728c20cb6abb|step:728c20cb6abb|'
            'task_id:80e2aed42219|tenant:982d9e3eb996|thinking_tokens:2dba2454d800|use_by:b01db46455c6'),
        ('column', 'lead.audit_log.',
            'action:728c20cb6abb|actor:728c20cb6abb|after:a1bebb5410c4|at:b27ca553d069|before:a1bebb5410c4|'
            'database_role:728c20cb6abb|id:734a0df0a797|reason:982d9e3eb996|subject:728c20cb6abb'),
        ('column', 'lead.budget_account.',
            'budget_day:b783cf4cc344|held_usd:1b32a8fa3544|scope:728c20cb6abb|scope_key:728c20cb6abb|spent_usd:1b32a8fa3544'),
        ('column', 'lead.circuit_breaker.',
            'consecutive_failures:a8e037695ef2|last_error:982d9e3eb996|last_error_at:5cb029883f2a|name:728c20cb6abb|'
            'opened_at:5cb029883f2a|probe_limit:a8e037695ef2|probes_started:a8e037695ef2|probes_succeeded:a8e037695ef2|'
            'retry_at:5cb029883f2a|state:b1736d36038d|times_opened:a8e037695ef2|updated_at:e2f17d3468c3'),
        ('column', 'lead.coordinator.',
            'lease_expires_at:5cb029883f2a|lease_fence:d4ff23f86f64|lease_holder:982d9e3eb996|singleton:4e19adac618c|'
            'state:0d55a5d38dd1|state_entered_at:e2f17d3468c3|state_row_id:75d012fe2865'),
        ('column', 'lead.dead_letter.',
            'context:0e7c955bdad5|created_at:e2f17d3468c3|error_class:728c20cb6abb|error_message:728c20cb6abb|'
            'id:734a0df0a797|reason:728c20cb6abb|resolution:982d9e3eb996|resolution_reason:982d9e3eb996|'
            'resolved_at:5cb029883f2a|resolved_by:982d9e3eb996|task_id:80e2aed42219|task_type:728c20cb6abb|'
            'tenant:982d9e3eb996|times_replayed:a8e037695ef2'),
        ('column', 'lead.deployed_object.',
            'fingerprint:728c20cb6abb|kind:728c20cb6abb|name:728c20cb6abb'),
        ('column', 'lead.deployment.',
            'deployed_at:e2f17d3468c3|deployed_by:d419fbedfd61|fingerprint:982d9e3eb996|version:728c20cb6abb'),
        ('column', 'lead.due.',
            'due_at:b01db46455c6|task_id:80e2aed42219'),
        ('column', 'lead.error_log.',
            'context:0e7c955bdad5|error_code:728c20cb6abb|error_message:728c20cb6abb|id:734a0df0a797|'
            'occurred_at:e2f17d3468c3|worker_id:982d9e3eb996'),
        ('column', 'lead.fair_share.',
            'key:728c20cb6abb|scope:728c20cb6abb|virtual_time:2a30f866573b'),
        ('column', 'lead.plan_reservation.',
            'amount_usd:13fb6e3689d1|budget_day:b783cf4cc344|execution_id:728c20cb6abb|is_probe:dd2d52655272|'
            'memory_mb:8f2b25b0bb9a|plan_id:728c20cb6abb|reserved_at:b01db46455c6|workflow_type:728c20cb6abb'),
        ('column', 'lead.prune_progress.',
            '"position":d7a4624a0916|completed_at:5cb029883f2a|table_name:728c20cb6abb'),
        ('column', 'lead.publication.',
            'content_sha256:982d9e3eb996|created_at:e2f17d3468c3|details:0e7c955bdad5|execution_id:728c20cb6abb|'
            'fence:80e2aed42219|id:734a0df0a797|published_at:5cb029883f2a|site:728c20cb6abb|slug:728c20cb6abb|'
            'status:728c20cb6abb|task_id:80e2aed42219|title:728c20cb6abb|url:982d9e3eb996'),
        ('column', 'lead.queue_depth_delta.',
            'lane:f3304d6987ee|score:ee35b415a0fe|status:728c20cb6abb|task_type:728c20cb6abb|tasks:8f2b25b0bb9a'),
        ('column', 'lead.rate_slot.',
            'call_id:75d012fe2865|free_at:34eab327435f|provider:728c20cb6abb|slot_no:8f2b25b0bb9a'),
        ('column', 'lead.ready.',
            'lane:728c20cb6abb|queued_at:b01db46455c6|score:2b376a83100f|task_id:80e2aed42219|task_type:728c20cb6abb'),
        ('column', 'lead.setting.',
            'description:728c20cb6abb|maximum:15f450a59134|minimum:15f450a59134|name:728c20cb6abb|seeded_at:5cb029883f2a|'
            'unit:728c20cb6abb|updated_at:e2f17d3468c3|value:728c20cb6abb'),
        ('column', 'lead.state_transition.',
            'from_state:728c20cb6abb|subject:728c20cb6abb|to_state:728c20cb6abb'),
        ('column', 'lead.submission.',
            'idempotency_key:728c20cb6abb|submitted_at:e2f17d3468c3|task_id:80e2aed42219'),
        ('column', 'lead.task.',
            'attempts:86e263ceb925|claimed_at:5cb029883f2a|complexity_score:fe36e6585bb0|cost_usd:1b32a8fa3544|'
            'created_at:e2f17d3468c3|deadline_at:5cb029883f2a|defer_reason:982d9e3eb996|deferrals:86e263ceb925|'
            'deferred_until:5cb029883f2a|dependencies:1c1ddd0a5724|estimated_cost:4d3399302326|'
            'estimated_duration_ms:2dba2454d800|execution_id:982d9e3eb996|id:16fd155398b4|idempotency_key:982d9e3eb996|'
            'last_error_class:982d9e3eb996|last_error_message:982d9e3eb996|not_before:5cb029883f2a|payload:0e7c955bdad5|'
            'predicted_success_rate:4343b1b23ecf|priority_base:12a1cdb6b99b|processed_at:5cb029883f2a|queued_at:e2f17d3468c3|'
            'result:a1bebb5410c4|score:d4b637018019|stalls:86e263ceb925|status:69cea59454eb|task_type:728c20cb6abb|'
            'tenant:982d9e3eb996|value_usd:4d3399302326'),
        ('column', 'lead.task_attempt.',
            'attempt:8f2b25b0bb9a|cost_usd:1b32a8fa3544|ended_at:b01db46455c6|error_class:982d9e3eb996|'
            'error_message:982d9e3eb996|execution_id:728c20cb6abb|outcome:728c20cb6abb|started_at:b01db46455c6|'
            'task_id:80e2aed42219'),
        ('column', 'lead.task_dependency.',
            'depends_on:80e2aed42219|task_id:80e2aed42219'),
        ('column', 'lead.tenant.',
            'daily_cost_limit_usd:4d3399302326|fair_weight:efb49975d7cd|mode:38678e73ad3f|tenant:728c20cb6abb|'
            'updated_at:e2f17d3468c3'),
        ('column', 'lead.tick.',
            'decided_at:b01db46455c6|decision:0e7c955bdad5|duration_ms:0bddc0cee466|outcome:728c20cb6abb|reason:982d9e3eb996|'
            'tick_id:728c20cb6abb|worker_id:728c20cb6abb|workflows_dispatched:a8e037695ef2'),
        ('column', 'lead.workflow_policy.',
            'base_priority:8f2b25b0bb9a|calls_per_item:8f2b25b0bb9a|daily_cost_limit_usd:4d3399302326|'
            'disabled_reason:982d9e3eb996|enabled:0d3e88b76c49|expected_seconds:8f2b25b0bb9a|fair_weight:efb49975d7cd|'
            'interval_minutes:8f2b25b0bb9a|item_cost_limit_usd:13fb6e3689d1|max_batch:8f2b25b0bb9a|memory_mb:8f2b25b0bb9a|'
            'mode:38678e73ad3f|target_success_rate:eb96122784d8|task_type:728c20cb6abb|updated_at:e2f17d3468c3|'
            'workflow_type:728c20cb6abb'),
        ('column', 'public.api_rate_limits.',
            'adapted_at:5cb029883f2a|adaptive_limit:6b00d851ac20|blocked_until:5cb029883f2a|burst_capacity:a8e037695ef2|'
            'burst_used:a8e037695ef2|consecutive_errors:a8e037695ef2|daily_cost_limit:4d3399302326|'
            'daily_cost_used:1b32a8fa3544|day_reset_at:e2f17d3468c3|is_available:4e19adac618c|last_error_at:5cb029883f2a|'
            'minute_reset_at:e2f17d3468c3|provider:728c20cb6abb|requests_per_minute:8f2b25b0bb9a|'
            'requests_used_current_minute:a8e037695ef2|seeded_at:5cb029883f2a|updated_at:e2f17d3468c3'),
        ('column', 'public.execution_history.',
            'avg_api_calls:acf4255ab125|avg_batch_size:acf4255ab125|avg_duration_ms:fb60829e163a|avg_memory_mb:7ebc13360fec|'
            'avg_quality_score:be7aae8a3ea9|avg_success_rate:f84fc230640a|content_items_processed:a8e037695ef2|'
            'execution_date:b783cf4cc344|failed_executions:a8e037695ef2|hour_of_day:8f2b25b0bb9a|id:16fd155398b4|'
            'peak_concurrent_executions:a8e037695ef2|quality_scores:a8e037695ef2|revenue_generated:1b32a8fa3544|'
            'successful_executions:a8e037695ef2|tasks_completed:a8e037695ef2|tasks_failed:a8e037695ef2|'
            'total_cost:1b32a8fa3544|total_executions:a8e037695ef2|workflow_type:728c20cb6abb'),
        ('column', 'public.resource_usage.',
            '"timestamp":e2f17d3468c3|execution_id:982d9e3eb996|hard_limit:4d3399302326|id:16fd155398b4|'
            'metadata:0e7c955bdad5|provider:982d9e3eb996|resource_type:728c20cb6abb|soft_limit:4d3399302326|'
            'threshold_alert_sent:dd2d52655272|total_capacity:4d3399302326|used_amount:1b32a8fa3544|'
            'utilization_percent:c81423803dc3|workflow_type:982d9e3eb996'),
        ('column', 'public.system_health.',
            'change_rate:6a5f07522d1c|id:16fd155398b4|is_healthy:4e19adac618c|last_updated:e2f17d3468c3|'
            'metric_name:728c20cb6abb|metric_unit:982d9e3eb996|metric_value:0ff3a463b971|previous_value:6a5f07522d1c|'
            'source:0ba11e027414|tags:0e7c955bdad5|threshold_critical:6a5f07522d1c|threshold_warning:6a5f07522d1c|'
            'trend_direction:0d751dc89d68'),
        ('column', 'public.workflow_orchestration.',
            'actual_cost:1b32a8fa3544|api_calls_allocated:a8e037695ef2|batch_size:6b00d851ac20|budget_day:0e87632cd46b|'
            'calls_held_usd:1b32a8fa3544|completed_at:5cb029883f2a|created_at:e2f17d3468c3|envelope_usd:1b32a8fa3544|'
            'error_details:a1bebb5410c4|estimated_cost:1b32a8fa3544|execution_id:728c20cb6abb|fence:d4ff23f86f64|'
            'heartbeat_at:5cb029883f2a|id:16fd155398b4|input_context:0e7c955bdad5|is_external:dd2d52655272|'
            'is_probe:dd2d52655272|launch_number:6b00d851ac20|lease_expires_at:5cb029883f2a|max_retries:faad34db1d37|'
            'memory_allocated_mb:a8e037695ef2|memory_peak_mb:2dba2454d800|metrics:0e7c955bdad5|output_result:a1bebb5410c4|'
            'parent_execution_id:982d9e3eb996|priority_score:12a1cdb6b99b|quality_scores:a8e037695ef2|'
            'quality_sum:f52363d9451a|reserved_at:5cb029883f2a|retry_count:a8e037695ef2|run_id:982d9e3eb996|'
            'scheduled_at:e2f17d3468c3|started_at:5cb029883f2a|status:ddb9ae87f0e0|stop_requested:982d9e3eb996|'
            'task_ids:1c1ddd0a5724|tasks_completed:a8e037695ef2|tasks_failed:a8e037695ef2|timeout_at:5cb029883f2a|'
            'updated_at:e2f17d3468c3|worker_id:728c20cb6abb|workflow_type:728c20cb6abb'),
        ('column', 'public.workflow_states.',
            'active_connections:2dba2454d800|cpu_usage_percent:1f9b6163f073|duration_ms:75d012fe2865|entered_at:e2f17d3468c3|'
            'execution_id:728c20cb6abb|id:16fd155398b4|memory_usage_mb:2dba2454d800|previous_state:982d9e3eb996|'
            'state:728c20cb6abb|state_data:0e7c955bdad5|transition_reason:982d9e3eb996'),
        ('constraint', 'lead.api_call.',
            'api_call_cost_usd_check:a524cf649e7d|api_call_max_cost_usd_check:8c2411836f7a|api_call_pkey:8c8464f42472|'
            'api_call_status_check:25a879d5f3de'),
        ('constraint', 'lead.audit_log.',
            'audit_log_pkey:8c8464f42472'),
        ('constraint', 'lead.budget_account.',
            'budget_account_held_usd_check:75e8cc35b8ab|budget_account_pkey:c849701169e6|'
            'budget_account_scope_check:af323a70498a|budget_account_spent_usd_check:ac605df9ae82'),
        ('constraint', 'lead.circuit_breaker.',
            'circuit_breaker_pkey:7bae5e355e18|circuit_breaker_state_check:796a325b113f'),
        ('constraint', 'lead.coordinator.',
            'coordinator_pkey:d004b3efcdc4|coordinator_singleton_check:0a780c77dfab'),
        ('constraint', 'lead.dead_letter.',
            'dead_letter_pkey:8c8464f42472|dead_letter_resolution_check:dc0dede44c29|dead_letter_resolved:90f150a4d0d1'),
        ('constraint', 'lead.deployed_object.',
            'deployed_object_pkey:0c481b551893'),
        ('constraint', 'lead.deployment.',
            'deployment_pkey:51b255af1193'),
        ('constraint', 'lead.due.',
            'due_pkey:4d4dd309281b'),
        ('constraint', 'lead.error_log.',
            'error_log_pkey:8c8464f42472'),
        ('constraint', 'lead.fair_share.',
            'fair_share_pkey:fd8e753d4647'),
        ('constraint', 'lead.plan_reservation.',
            'plan_reservation_pkey:69cb7226f683'),
        ('constraint', 'lead.prune_progress.',
            'prune_progress_pkey:654adc397879'),
        ('constraint', 'lead.publication.',
            'publication_pkey:8c8464f42472|publication_site_slug_key:4d713c8c032b|publication_site_task_id_key:02879d4807bc|'
            'publication_slug_check:c59e5779000a|publication_status_check:e5814a55e0d6'),
        ('constraint', 'lead.rate_slot.',
            'rate_slot_pkey:8fc272d2bb1c|rate_slot_provider_fkey:fe15ba168c95'),
        ('constraint', 'lead.setting.',
            'setting_pkey:7bae5e355e18'),
        ('constraint', 'lead.state_transition.',
            'state_transition_pkey:67350e2e196d|state_transition_subject_check:d2e8b64233b1'),
        ('constraint', 'lead.submission.',
            'submission_pkey:c142d9ecdb4f'),
        ('constraint', 'lead.task.',
            'task_estimated_cost_check:016dab938f85|task_estimated_duration_ms_check:0ffa50a7c111|'
            'task_payload_check:204019cde74e|task_pkey:8c8464f42472|task_predicted_success_rate_check:0f319e9093e6|'
            'task_priority_base_check:a261cb970249|task_status_check:63bc61c69ec6|task_task_type_check:7a676a581250|'
            'task_value_usd_check:e5b8b2b823e5'),
        ('constraint', 'lead.task_attempt.',
            'task_attempt_outcome_check:37e7a3e20035'),
        ('constraint', 'lead.task_dependency.',
            'task_dependency_pkey:01679c82e0e2'),
        ('constraint', 'lead.tenant.',
            'tenant_daily_cost_limit_usd_check:c5d23bcf843d|tenant_fair_weight_check:7e6225b48599|'
            'tenant_mode_check:4ad6a5109356|tenant_pkey:b12facc59503|tenant_tenant_check:b825020f3dfe'),
        ('constraint', 'lead.tick.',
            'tick_outcome_check:9bde34c6d063|tick_pkey:9b8a0aa5b565'),
        ('constraint', 'lead.workflow_policy.',
            'workflow_policy_base_priority_check:0d81cd026cab|workflow_policy_calls_per_item_check:99c1a547bb97|'
            'workflow_policy_daily_cost_limit_usd_check:c5d23bcf843d|workflow_policy_expected_seconds_check:3ca95c16b735|'
            'workflow_policy_fair_weight_check:7e6225b48599|workflow_policy_interval_minutes_check:74cfe2a9840f|'
            'workflow_policy_item_cost_limit_usd_check:fcee72052c3e|workflow_policy_max_batch_check:d29f7f77eced|'
            'workflow_policy_memory_mb_check:c2bf39efc4cf|workflow_policy_mode_check:4ad6a5109356|'
            'workflow_policy_pkey:5deba1394a27|workflow_policy_target_success_rate_check:f83f19e2fa72|'
            'workflow_policy_task_type_key:9ff873e2c2b0'),
        ('constraint', 'public.api_rate_limits.',
            'api_rate_limits_adaptive_limit_check:0a735b8b6e41|api_rate_limits_burst_capacity_check:e005c716680f|'
            'api_rate_limits_daily_cost_limit_check:7d40fdfdbf66|api_rate_limits_pkey:963b4708c7f4|'
            'api_rate_limits_provider_check:1ad65efda75c|api_rate_limits_requests_per_minute_check:1e974a79126f'),
        ('constraint', 'public.execution_history.',
            'execution_history_hour_of_day_check:5c6c5228e603|execution_history_pkey:8c8464f42472|'
            'execution_history_workflow_type_check:80583574af5b|'
            'execution_history_workflow_type_execution_date_hour_of_day_key:21ae4f12c173'),
        ('constraint', 'public.resource_usage.',
            'resource_usage_pkey:8c8464f42472'),
        ('constraint', 'public.system_health.',
            'system_health_metric_name_key:950906bf2e8d|system_health_pkey:8c8464f42472|'
            'system_health_trend_direction_check:03182ff3ace0'),
        ('constraint', 'public.workflow_orchestration.',
            'workflow_orchestration_actual_cost_check:d687e26eaa41|'
            'workflow_orchestration_api_calls_allocated_check:d6c5737f9a2b|'
            'workflow_orchestration_batch_size_check:9e6a19e03d5e|workflow_orchestration_estimated_cost_check:016dab938f85|'
            'workflow_orchestration_execution_id_check:6324c15f00be|workflow_orchestration_execution_id_key:303e72ebf18f|'
            'workflow_orchestration_max_retries_check:eb0a3d747e44|'
            'workflow_orchestration_memory_allocated_mb_check:4ae518e0416a|workflow_orchestration_pkey:8c8464f42472|'
            'workflow_orchestration_priority_score_check:483e9ce64b83|workflow_orchestration_retry_count_check:6d2740b258ef|'
            'workflow_orchestration_status_check:7bc437b5ae7d|workflow_orchestration_workflow_type_check:80583574af5b'),
        ('constraint', 'public.workflow_states.',
            'workflow_states_pkey:8c8464f42472|workflow_states_state_check:ac1c4367663a'),
        ('function', 'lead.',
            'act_as(text, text)|actor(text)|actual_grants()|announce_move(text, text, text)|apply_security()|'
            'audit(text, text, jsonb, jsonb, text, text)|audit_row()|backoff(numeric, integer, bigint)|benchmarks()|'
            'breaker_admit(text, timestamp with time zone)|'
            'breaker_record(text, text, boolean, boolean, text, timestamp with time zone)|'
            'budget_day(timestamp with time zone)|budget_hold(date, text, text, numeric, numeric)|'
            'budget_settle(date, text, text, numeric, numeric)|'
            'bury_task(task, text, text, text, jsonb, timestamp with time zone)|call_batch(timestamp with time zone)|'
            'call_hold(date, text, numeric, text, numeric)|call_settle(api_call, numeric)|capacity(timestamp with time zone)|'
            'carry_idle_types(text[], timestamp with time zone)|check_actor(text)|check_clock(timestamp with time zone)|'
            'check_dead_letter_filter(jsonb, boolean)|check_name(text, text)|'
            'check_number_at(text, jsonb, text, numeric, numeric, boolean)|check_plan(jsonb)|'
            'check_range(text, bigint, bigint, bigint)|check_scheduled_tasks(jsonb)|check_setting()|claimable_lanes(text)|'
            'claimed_tasks(text, bigint[])|contract()|count_deleted_tasks()|count_inserted_tasks()|count_updated_tasks()|'
            'dollars(numeric)|end_attempt(task, text, text, text, timestamp with time zone)|'
            'end_execution(workflow_orchestration, text, text, boolean, jsonb, jsonb, timestamp with time zone)|'
            'execution_hold(date, text, numeric)|execution_settle(date, text, numeric, numeric)|'
            'expect(text, anycompatible, anycompatible)|expect_between(text, numeric, numeric, numeric)|'
            'expect_error(text, text, text, text)|expect_quick(text, timestamp with time zone)|expect_true(text, boolean)|'
            'expected_grants()|expected_objects()|expected_transitions()|fill_rate_limit()|'
            'finish_batch(timestamp with time zone)|fold_queue_depth()|follow_rate_limit()|forget_probes(text)|'
            'forget_tasks()|forget_truncated_tasks()|function_definition(oid)|held_execution(text, bigint)|'
            'held_task(bigint, text)|is_within_hours(integer, numeric, numeric)|'
            'matching_dead_letters(jsonb, boolean, integer)|metric_is_healthy(numeric, numeric, numeric)|'
            'milliseconds_until(timestamp with time zone, timestamp with time zone)|number_at(jsonb, text[])|'
            'object_definitions()|object_problems()|oldest_queued(text)|our_functions()|our_relations()|outgoing_functions()|'
            'paced_budget(integer, timestamp with time zone)|percent_of(numeric, numeric)|'
            'pick_from_lane(text, text, integer, integer, timestamp with time zone)|policy_columns()|'
            'provider_sentences(jsonb, timestamp with time zone)|prune_advance(text, bigint, boolean)|prune_position(text)|'
            'queue_depth(text, text)|record_execution_state(text, text, text, jsonb, timestamp with time zone)|'
            'record_functions()|refuse(text, text, text)|refuse_change()|refuse_older_files()|'
            'release_call(api_call, timestamp with time zone)|release_dependants(bigint[], timestamp with time zone)|'
            'release_reservation(plan_reservation, timestamp with time zone)|'
            'resolve_calls(text[], bigint[], boolean, timestamp with time zone)|'
            'resolve_dead_letters(jsonb, text, text, text, integer, timestamp with time zone)|role_problems()|'
            'roll_up_execution(workflow_orchestration, bigint, timestamp with time zone)|run_memory_mb(text)|run_test(text)|'
            'sanitise(jsonb, integer)|sanitise(text)|schema_version()|score_terms(task, timestamp with time zone)|'
            'seconds(numeric)|set_mode(text, text, text, text, text, timestamp with time zone)|setting_number(text)|'
            'setting_text(text)|share_batch(text, integer)|slot_seconds(timestamp with time zone, timestamp with time zone)|'
            'stage()|stage_batch(timestamp with time zone, integer)|'
            'stage_call(text, bigint, bigint, timestamp with time zone, numeric)|'
            'stage_execution(timestamp with time zone, integer)|stage_run(timestamp with time zone, integer)|'
            'stage_sent_call(text, bigint, bigint, timestamp with time zone)|'
            'stage_tasks(timestamp with time zone, integer, text)|static_score(integer, numeric, numeric, numeric)|'
            'suite_plan(integer)|take_out_tasks(text, integer, timestamp with time zone)|'
            'take_overdue_task(text, text, timestamp with time zone)|'
            'take_tasks(text, text, integer, timestamp with time zone)|task_problem(jsonb, timestamp with time zone)|'
            'tasks_before(text, text[], integer, boolean, timestamp with time zone, bigint, integer, timestamp with time zone, integer)|'
            'test_core__bare_insert_works()|test_core__best_then_oldest_first()|test_core__bulk_is_all_or_nothing()|'
            'test_core__cancel_takes_what_waits()|test_core__complete_task_ends_the_attempt()|test_core__dependent_waits()|'
            'test_core__disabled_type_is_refused()|test_core__illegal_transition_is_named()|'
            'test_core__invalid_input_is_buried_at_once()|test_core__lost_work_is_queued_again()|'
            'test_core__old_lease_can_not_write()|test_core__one_publication_a_task()|test_core__outage_spends_no_attempt()|'
            'test_core__own_errors_retry_three_times()|test_core__poison_is_parked()|test_core__same_key_is_the_same_task()|'
            'test_core__starts_once()|test_core__submit_makes_a_queued_task()|test_core__timeout_ends_a_run()|'
            'test_health__budget_warns_at_seventy_percent()|test_health__connections_at_the_limit_are_critical()|'
            'test_health__failure_rate_warns()|test_health__full_house_stops()|test_health__no_provider_is_critical()|'
            'test_health__open_breaker_is_named_until_its_probe()|test_health__rested_system_may_proceed()|'
            'test_health__spent_budget_is_critical()|test_monitoring__advice_follows_the_figures()|'
            'test_monitoring__alerts_name_failures_and_lost_leases()|test_monitoring__alerts_name_the_budget()|'
            'test_monitoring__dashboard_sums_the_hours()|test_monitoring__ended_execution_is_rolled_up()|'
            'test_monitoring__logged_errors_hold_no_secret()|test_monitoring__metric_knows_its_trend()|'
            'test_monitoring__peak_counts_overlaps()|test_monitoring__secrets_are_masked()|'
            'test_monitoring__status_counts_the_queue()|test_monitoring__validation_names_what_is_wrong()|'
            'test_performance__bulk_submission_is_counted_by_statement()|test_performance__claim_of_a_hundred_is_quick()|'
            'test_performance__decision_is_quick()|test_performance__reserve_and_settle_is_quick()|'
            'test_performance__watching_is_quick()|test_resources__availability_names_every_provider()|'
            'test_resources__back_pressure_is_no_failure()|test_resources__breaker_opens_and_closes_by_probes()|'
            'test_resources__dead_run_pays_for_what_it_sent()|test_resources__item_cost_limit_stops_a_call()|'
            'test_resources__late_grant_is_void()|test_resources__limit_holds_for_any_sixty_seconds()|'
            'test_resources__plan_over_budget_reserves_nothing()|test_resources__released_slot_is_free_again()|'
            'test_resources__settling_gives_back_the_rest()|test_resources__unknown_cost_counts_in_full()|'
            'test_resources__usage_rows_tell_the_truth()|test_scheduling__forgotten_reservation_is_released()|'
            'test_scheduling__hours_follow_the_time_zone()|test_scheduling__lease_of_another_is_respected()|'
            'test_scheduling__max_concurrent_of_the_call_holds()|test_scheduling__outsiders_row_is_adopted()|'
            'test_scheduling__plan_takes_a_bare_resource_status()|test_scheduling__reservation_becomes_one_execution()|'
            'test_scheduling__starving_type_gains_fifty()|test_scheduling__tick_fills_the_free_slots()|'
            'test_scheduling__types_share_the_slots()|test_scheduling__unstarted_execution_is_launched_again()|'
            'test_security__application_role_is_enough()|test_security__bad_input_is_named()|'
            'test_security__clock_is_guarded()|test_security__every_table_has_forced_row_security()|'
            'test_security__functions_pin_their_search_path()|test_security__outsiders_have_nothing()|'
            'test_security__settings_guard_their_range()|type_pace(workflow_policy, timestamp with time zone)|'
            'type_service(timestamp with time zone)|valid_time(text, timestamp with time zone)|version_number(text)|'
            'watch_accounts(timestamp with time zone)|watch_budget(timestamp with time zone)|watch_connections()|'
            'watch_history(integer, timestamp with time zone)|'
            'watch_outcomes(timestamp with time zone, timestamp with time zone)|'
            'watch_peak_concurrency(timestamp with time zone, timestamp with time zone)|'
            'watch_providers(timestamp with time zone)|watch_states(timestamp with time zone, timestamp with time zone)|'
            'watch_tasks(timestamp with time zone, timestamp with time zone)|'
            'why_waiting(workflow_policy, text, jsonb, jsonb, timestamp with time zone)'),
        ('function', 'public.',
            'acquire_coordinator_lease(text, integer, timestamp with time zone)|adopt_executions(timestamp with time zone)|'
            'analyze_test_results()|begin_api_call(text, bigint, bigint, text, jsonb, timestamp with time zone)|'
            'begin_api_calls(text, bigint, jsonb, timestamp with time zone)|'
            'begin_publication(bigint, text, bigint, text, text, text, timestamp with time zone)|'
            'benchmark_coordinator_performance(integer)|cancel_execution(text, text, text, timestamp with time zone)|'
            'cancel_task(bigint, text, text, timestamp with time zone)|change_policy(text, jsonb, text, text)|'
            'change_setting(text, text, text, text)|'
            'check_comprehensive_resource_availability(jsonb, timestamp with time zone)|'
            'check_coordinator_alerts(timestamp with time zone)|check_system_health_comprehensive(timestamp with time zone)|'
            'claim_tasks(text, text, integer, integer, timestamp with time zone)|'
            'complete_task(bigint, text, bigint, jsonb, timestamp with time zone)|'
            'complete_tasks(text, bigint, jsonb, boolean, timestamp with time zone)|configure_platform(jsonb)|'
            'confirm_publication(bigint, text, bigint, text, text, jsonb, timestamp with time zone)|'
            'create_execution_records(jsonb, text, timestamp with time zone)|'
            'create_optimal_execution_plan(jsonb, jsonb, text, timestamp with time zone)|'
            'discard_dead_letters(jsonb, text, text, integer, timestamp with time zone)|'
            'drain_queue(text, text, text, text, timestamp with time zone)|estimate_tasks(jsonb, timestamp with time zone)|'
            'explain_task(bigint, timestamp with time zone)|'
            'fail_task(bigint, text, bigint, text, text, jsonb, integer, timestamp with time zone)|'
            'find_sparse_indexes(bigint)|finish_execution(text, bigint, text, jsonb, jsonb, timestamp with time zone)|'
            'generate_coordinator_recommendations(jsonb, jsonb, jsonb)|'
            'get_coordinator_dashboard(integer, timestamp with time zone)|'
            'get_intelligent_scheduled_tasks(timestamp with time zone, integer)|'
            'get_platform_status(timestamp with time zone)|get_task(bigint)|'
            'give_back_tasks(text, bigint, bigint[], text, timestamp with time zone)|'
            'heartbeat_execution(text, bigint, integer, timestamp with time zone)|'
            'launchable_executions(integer, timestamp with time zone)|list_dead_letters(jsonb, integer)|'
            'list_publications(text, integer)|log_orchestration_error(text, text, jsonb, text, timestamp with time zone)|'
            'mark_api_call_sent(bigint, bigint, timestamp with time zone)|'
            'orchestrate_workflow_execution(text, timestamp with time zone, integer, boolean)|'
            'pause_queue(text, text, text, text, timestamp with time zone)|'
            'promote_due_tasks(timestamp with time zone, integer)|prune_history(interval, integer, timestamp with time zone)|'
            'record_health_metric(text, numeric, text, text, numeric, numeric, jsonb, timestamp with time zone)|'
            'record_orchestration_metrics(jsonb, jsonb, timestamp with time zone)|'
            'recover_executions(timestamp with time zone)|refresh_resource_usage(timestamp with time zone)|'
            'relaunch_execution(text, integer, timestamp with time zone)|'
            'release_api_call(bigint, bigint, timestamp with time zone)|release_coordinator_lease(text)|'
            'replay_dead_letters(jsonb, text, text, integer, timestamp with time zone)|'
            'report_run_failure(text, text, text, timestamp with time zone)|'
            'reprioritise_task(bigint, integer, text, text, timestamp with time zone)|'
            'reserve_execution_resources(jsonb, timestamp with time zone)|'
            'reset_breaker(text, text, text, timestamp with time zone)|'
            'resume_queue(text, text, text, text, timestamp with time zone)|run_coordinator_test_suite()|'
            'settle_api_call(bigint, text, numeric, jsonb, integer, integer, text, timestamp with time zone)|'
            'start_execution(text, integer, text, integer, timestamp with time zone)|'
            'submit_task(text, jsonb, integer, text, numeric, timestamp with time zone, timestamp with time zone, bigint[], text, numeric, integer, numeric, numeric, timestamp with time zone)|'
            'submit_tasks(jsonb, timestamp with time zone)|'
            'update_coordinator_state(text, jsonb, text, timestamp with time zone)|'
            'validate_coordinator_deployment(timestamp with time zone)'),
        ('index', 'lead.',
            'api_call_execution:f7f2f8dfa150|api_call_pkey:21d5d4db4b5a|api_call_reserved:d876d003a896|'
            'api_call_task:4e2af96a8f89|audit_log_at:1110009fddce|audit_log_pkey:934d4c52c20a|audit_log_subject:c19d23faa254|'
            'budget_account_pkey:d73062198c47|circuit_breaker_pkey:33a96ee8031c|coordinator_pkey:f9cfcbb92b0d|'
            'dead_letter_open:58bc90fd4752|dead_letter_pkey:20320ba607ae|dead_letter_task:8ed67e2064fc|'
            'dead_letter_waiting:519be139da1e|deployed_object_pkey:e3a6e9f88272|deployment_pkey:ae5dac640e93|'
            'due_pkey:932a7258b709|error_log_pkey:d20471d0bf92|error_log_recent:d25d79943c8b|fair_share_pkey:370ac53ef504|'
            'plan_reservation_pkey:935cec5c9bcf|prune_progress_pkey:b1c6c047fb15|publication_pkey:8d41d2cfae94|'
            'publication_published:8ebf2708f33e|publication_site_slug_key:fdaf896642b9|'
            'publication_site_task_id_key:3c3dda1969a1|rate_slot_free:643cc1d79337|rate_slot_pkey:52e313ea174f|'
            'ready_in_order:a8a170bf6b54|setting_pkey:df75f3df3012|state_transition_pkey:5dd04377a0d9|'
            'submission_pkey:ba2f5e1abdee|task_attempt_ended:980ac98c6ee8|task_attempt_task:49a18368c4e5|'
            'task_dependency_pkey:be980f2c059a|task_dependency_task:6698fef084bb|task_pkey:0fc809c138d3|'
            'tenant_pkey:1f07c57e8f2b|tick_decided:ecea5c3cec67|tick_pkey:3d3f27c04b33|workflow_policy_pkey:04970337bf3f|'
            'workflow_policy_task_type_key:af85af0d6590'),
        ('index', 'public.',
            'api_rate_limits_pkey:03287650883f|execution_history_pkey:58dec6b4f159|'
            'execution_history_workflow_type_execution_date_hour_of_day_key:7bcd69db8442|resource_usage_pkey:cc4084f54797|'
            'resource_usage_recent:f0bd7c34026f|system_health_metric_name_key:c07ec8b460c3|system_health_pkey:b165ff56bd2c|'
            'workflow_orchestration_active:954ea6b1ca30|workflow_orchestration_ended:3af928f6c7c5|'
            'workflow_orchestration_execution_id_key:584705a3b512|workflow_orchestration_parent:f7deb308612f|'
            'workflow_orchestration_pkey:17de385691ab|workflow_orchestration_recent:aec5a1f6ec47|'
            'workflow_states_execution:95435e96fd01|workflow_states_pkey:b8e74857d8cf'),
        ('policy', 'lead.api_call.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.audit_log.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.budget_account.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.circuit_breaker.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.coordinator.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.dead_letter.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.deployed_object.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.deployment.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.due.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.error_log.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.fair_share.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.plan_reservation.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.prune_progress.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.publication.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.queue_depth_delta.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.rate_slot.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.ready.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.setting.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.state_transition.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.submission.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.task.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.task_attempt.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.task_dependency.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.tenant.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.tick.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'lead.workflow_policy.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'public.api_rate_limits.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'public.execution_history.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'public.resource_usage.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'public.system_health.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'public.workflow_orchestration.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('policy', 'public.workflow_states.',
            'owner_all:7ab9266a0bd8|readers:8037b24a7c67|service_all:436ad5ab6382'),
        ('row security', 'lead.',
            'api_call:ab1b5f5a2d26|audit_log:ab1b5f5a2d26|budget_account:ab1b5f5a2d26|circuit_breaker:ab1b5f5a2d26|'
            'coordinator:ab1b5f5a2d26|dead_letter:ab1b5f5a2d26|deployed_object:ab1b5f5a2d26|deployment:ab1b5f5a2d26|'
            'due:ab1b5f5a2d26|error_log:ab1b5f5a2d26|fair_share:ab1b5f5a2d26|plan_reservation:ab1b5f5a2d26|'
            'prune_progress:ab1b5f5a2d26|publication:ab1b5f5a2d26|queue_depth_delta:ab1b5f5a2d26|rate_slot:ab1b5f5a2d26|'
            'ready:ab1b5f5a2d26|setting:ab1b5f5a2d26|state_transition:ab1b5f5a2d26|submission:ab1b5f5a2d26|task:ab1b5f5a2d26|'
            'task_attempt:ab1b5f5a2d26|task_dependency:ab1b5f5a2d26|tenant:ab1b5f5a2d26|tick:ab1b5f5a2d26|'
            'workflow_policy:ab1b5f5a2d26'),
        ('row security', 'public.',
            'api_rate_limits:ab1b5f5a2d26|execution_history:ab1b5f5a2d26|resource_usage:ab1b5f5a2d26|'
            'system_health:ab1b5f5a2d26|workflow_orchestration:ab1b5f5a2d26|workflow_states:ab1b5f5a2d26'),
        ('sequence', 'lead.',
            'fence:e3b0c44298fc'),
        ('storage', 'lead.',
            'api_call:9702739124c7|budget_account:3325ea99ecfb|circuit_breaker:3325ea99ecfb|dead_letter:6a1fe36c31da|'
            'due:29ba36420436|fair_share:3325ea99ecfb|prune_progress:3325ea99ecfb|queue_depth_delta:da5974773079|'
            'rate_slot:ee012e4088a9|ready:29ba36420436|task:2cc6856d23ee|task_attempt:6a1fe36c31da|tick:6a1fe36c31da'),
        ('storage', 'public.',
            'api_rate_limits:3325ea99ecfb|resource_usage:6a1fe36c31da|workflow_orchestration:ea974f0a23db|'
            'workflow_states:1a3a0ba8cc0b'),
        ('table', 'lead.',
            'api_call:e3b0c44298fc|audit_log:e3b0c44298fc|budget_account:e3b0c44298fc|circuit_breaker:e3b0c44298fc|'
            'coordinator:e3b0c44298fc|dead_letter:e3b0c44298fc|deployed_object:e3b0c44298fc|deployment:e3b0c44298fc|'
            'due:e3b0c44298fc|error_log:e3b0c44298fc|fair_share:e3b0c44298fc|plan_reservation:e3b0c44298fc|'
            'prune_progress:e3b0c44298fc|publication:e3b0c44298fc|queue_depth_delta:e3b0c44298fc|rate_slot:e3b0c44298fc|'
            'ready:e3b0c44298fc|setting:e3b0c44298fc|state_transition:e3b0c44298fc|submission:e3b0c44298fc|task:e3b0c44298fc|'
            'task_attempt:e3b0c44298fc|task_dependency:e3b0c44298fc|tenant:e3b0c44298fc|tick:e3b0c44298fc|'
            'workflow_policy:e3b0c44298fc'),
        ('table', 'public.',
            'api_rate_limits:e3b0c44298fc|execution_history:e3b0c44298fc|resource_usage:e3b0c44298fc|'
            'system_health:e3b0c44298fc|workflow_orchestration:e3b0c44298fc|workflow_states:e3b0c44298fc'),
        ('trigger', 'lead.audit_log.',
            'audit_append_only:f90279395182'),
        ('trigger', 'lead.setting.',
            'older_files_refused:7f58cb43ea4c|setting_audited:9a67754c4fbd|setting_checked:1c4ab930acf3'),
        ('trigger', 'lead.task.',
            'task_deleted:00bb22e9a88b|task_forgotten:21cbf7ec5132|task_inserted:6f28e3218080|task_truncated:be7f49647ef7|'
            'task_updated:e1d3d3950cde'),
        ('trigger', 'lead.tenant.',
            'tenant_audited:8e4f6be1b026'),
        ('trigger', 'lead.workflow_policy.',
            'policy_audited:0700e4dcd0fb'),
        ('trigger', 'public.api_rate_limits.',
            'provider_audited:9772a25b8c0a|rate_limit_audited:4434d78b3301|rate_limit_filled:64ec7a570474|'
            'rate_limit_followed:fb5c9a666dd8'),
        ('view', 'public.',
            'coordinator_monitoring:68bc03e9f70d|task_queue:ff908f5df5cc')
        -- generated up to here
    ) AS e (kind, prefix, objects)
    CROSS JOIN LATERAL string_to_table(e.objects, '|') AS o
$$;

-- Objects that a version before had are forgotten, and the deployment is noted.
DO $$
DECLARE
    v_function text;
BEGIN
    FOREACH v_function IN ARRAY lead.outgoing_functions() LOOP
        IF EXISTS (SELECT 1 FROM lead.deployment AS d WHERE d.version = lead.schema_version()) THEN
            EXECUTE format('DROP FUNCTION IF EXISTS %s', v_function);
        END IF;
    END LOOP;
    PERFORM lead.record_functions();
    PERFORM lead.apply_security();
    DELETE FROM lead.deployed_object AS d
    WHERE d.kind <> 'function' OR NOT EXISTS (SELECT 1 FROM lead.expected_objects() AS e WHERE e.kind = d.kind AND e.name = d.name);
    INSERT INTO lead.deployment AS d (version, deployed_at, deployed_by, fingerprint)
    SELECT lead.schema_version(), clock_timestamp(), current_user, encode(sha256(convert_to(
        (SELECT string_agg(concat_ws(' ', o.kind, o.name, o.fingerprint), E'\n' ORDER BY o.kind, o.name) FROM lead.deployed_object AS o)
        || (SELECT p.prosrc FROM pg_proc AS p WHERE p.oid = 'lead.expected_objects()'::regprocedure), 'UTF8')), 'hex')
    ON CONFLICT (version) DO UPDATE
    SET deployed_at = excluded.deployed_at, deployed_by = excluded.deployed_by, fingerprint = excluded.fingerprint
    WHERE d.fingerprint IS DISTINCT FROM excluded.fingerprint;
END;
$$;
COMMIT;
