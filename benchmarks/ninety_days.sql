-- A quarter of a day in the statements that the platform would use, so that it leaves the dead rows which real work leaves.
-- p_number makes ids; p_tasks tasks are spread over six hours from p_from. Read by ninety_days.py.
CREATE FUNCTION pg_temp.work_a_quarter(p_from timestamptz, p_tasks integer, p_number integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_run text := 'content-' || p_number || '-';
    v_runs integer := greatest(1, p_tasks / 10);
    v_ids bigint[];
    v_calls bigint[];
    v_executions bigint[];
    v_states bigint[];
BEGIN
    -- Submitted, with a key each.
    WITH submitted AS (
        INSERT INTO lead.task (task_type, payload, priority_base, idempotency_key, value_usd, queued_at, created_at)
        SELECT 'content_generation', jsonb_build_object('title', 'Article ' || n, 'brief', repeat('words ', 60)),
            n % 101, v_run || n, n % 50, p_from + n * interval '6 hours' / p_tasks, p_from + n * interval '6 hours' / p_tasks
        FROM generate_series(1, p_tasks) AS n
        RETURNING id, idempotency_key, created_at
    ), keyed AS (
        INSERT INTO lead.submission (idempotency_key, task_id, submitted_at)
        SELECT s.idempotency_key, s.id, s.created_at FROM submitted AS s
    )
    SELECT array_agg(s.id ORDER BY s.id) INTO v_ids FROM submitted AS s;

    -- Executions: reserved, started, three heartbeats, ended; each with its three states.
    WITH reserved AS (
        INSERT INTO public.workflow_orchestration (
            execution_id, workflow_type, worker_id, batch_size, created_at, scheduled_at, reserved_at, budget_day, envelope_usd
        )
        SELECT v_run || n, 'content_pipeline', 'simulation', 10, t.at, t.at, t.at, t.at::date, 0.9
        FROM generate_series(1, v_runs) AS n, LATERAL (SELECT p_from + n * interval '6 hours' / v_runs AS at) AS t
        RETURNING id
    )
    SELECT array_agg(r.id) INTO v_executions FROM reserved AS r;
    WITH entered AS (
        INSERT INTO public.workflow_states (execution_id, state, entered_at)
        SELECT v_run || n, s.state, p_from + n * interval '6 hours' / v_runs
        FROM generate_series(1, v_runs) AS n, unnest(ARRAY['DISPATCHING', 'MONITORING', 'COMPLETED']) AS s (state)
        RETURNING id
    )
    SELECT array_agg(e.id) INTO v_states FROM entered AS e;
    UPDATE public.workflow_states AS s SET duration_ms = 1000 WHERE s.id = ANY (v_states) AND s.state <> 'COMPLETED';
    UPDATE public.workflow_orchestration AS w SET status = 'running', started_at = w.created_at, fence = nextval('lead.fence')
    WHERE w.id = ANY (v_executions);

    UPDATE lead.task AS t
    SET status = 'processing', execution_id = v_run || (1 + (t.id - v_ids[1]) % v_runs), claimed_at = t.queued_at
    WHERE t.id = ANY (v_ids);

    -- Three calls a task: reserved, sent, settled.
    WITH reserved AS (
        INSERT INTO lead.api_call (
            execution_id, fence, task_id, attempt, step, provider, model, status, budget_day, max_cost_usd, slot_no, use_by,
            reserved_at
        )
        SELECT t.execution_id, 1, t.id, 1, s.step, 'gemini', 'gemini-2.5-flash-lite', 'reserved', t.created_at::date, 0.004, 1,
            t.created_at, t.created_at
        FROM lead.task AS t, unnest(ARRAY['outline', 'draft', 'edit_and_check']) AS s (step)
        WHERE t.id = ANY (v_ids)
        RETURNING id
    )
    SELECT array_agg(r.id) INTO v_calls FROM reserved AS r;
    UPDATE lead.api_call AS c SET status = 'sent', sent_at = c.reserved_at WHERE c.id = ANY (v_calls);
    UPDATE lead.api_call AS c
    SET status = 'settled', outcome = 'ok', cost_usd = 0.001, settled_at = c.reserved_at, output_tokens = 900
    WHERE c.id = ANY (v_calls);
    FOR beat IN 1..3 LOOP
        UPDATE public.workflow_orchestration AS w
        SET heartbeat_at = w.created_at + beat * interval '5 seconds', updated_at = w.created_at
        WHERE w.id = ANY (v_executions);
    END LOOP;

    -- One in a hundred dies, the others complete.
    INSERT INTO lead.task_attempt (task_id, attempt, execution_id, started_at, ended_at, outcome, cost_usd)
    SELECT t.id, 1, t.execution_id, t.claimed_at, t.claimed_at,
        CASE WHEN t.id % 100 = 0 THEN 'dead_letter' ELSE 'completed' END, 0.003
    FROM lead.task AS t WHERE t.id = ANY (v_ids);
    INSERT INTO lead.dead_letter (task_id, task_type, reason, error_class, error_message, created_at)
    SELECT t.id, t.task_type, 'the input can not be worked on', 'invalid_input', 'title: is missing', t.claimed_at
    FROM lead.task AS t WHERE t.id = ANY (v_ids) AND t.id % 100 = 0;
    UPDATE lead.task AS t
    SET status = CASE WHEN t.id % 100 = 0 THEN 'dead_letter' ELSE 'completed' END,
        processed_at = t.claimed_at + interval '1 minute', result = '{"score": 87, "words": 900}'
    WHERE t.id = ANY (v_ids);
    UPDATE public.workflow_orchestration AS w
    SET status = 'completed', completed_at = w.created_at + interval '2 minutes', actual_cost = 0.03, tasks_completed = 10,
        output_result = '{"articles": 10}'
    WHERE w.id = ANY (v_executions);

    -- A tick every five minutes with its decision and the coordinator's states; usage beside it.
    INSERT INTO lead.tick (tick_id, worker_id, decided_at, outcome, decision)
    SELECT 'tick-' || p_number || '-' || n, 'simulation', p_from + n * interval '5 minutes', 'dispatched',
        jsonb_build_object('candidates', repeat('a reason with numbers, ', 60))
    FROM generate_series(1, 72) AS n;
    INSERT INTO public.workflow_states (execution_id, state, entered_at, duration_ms)
    SELECT 'coordinator', s.state, p_from + n * interval '5 minutes', 500
    FROM generate_series(1, 72) AS n, unnest(ARRAY['ANALYZING', 'DISPATCHING', 'MONITORING', 'IDLE']) AS s (state);
    INSERT INTO public.resource_usage (timestamp, resource_type, used_amount, total_capacity)
    SELECT p_from + n * interval '5 minutes', u.kind, n, 100
    FROM generate_series(1, 72) AS n, unnest(ARRAY['api_calls', 'api_calls', 'budget', 'connections', 'memory']) AS u (kind);
    PERFORM lead.fold_queue_depth();
END;
$$
