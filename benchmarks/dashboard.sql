-- Past work as the platform leaves it: executions over p_days, evenly, each with a task that it completed, the attempt and one call;
-- a tick and a look at the resources every five minutes; and the hourly rows, added up from the executions the way
-- lead.roll_up_execution adds each as it ends. One execution in fifty failed. Read by dashboard.py.
CREATE FUNCTION pg_temp.fill_the_past(p_first integer, p_last integer, p_executions integer, p_days integer, p_now timestamptz) RETURNS void
LANGUAGE sql AS $$
    WITH past AS (
        SELECT n, p_now - (1 - n::float8 / p_executions) * make_interval(days => p_days) AS at,
            (ARRAY['content_pipeline', 'seo_monitor', 'revenue_optimizer', 'intelligence_engine'])[1 + mod(n, 4)] AS workflow_type,
            (ARRAY['content_generation', 'seo_analysis', 'revenue_optimization', 'intelligence_analysis'])[1 + mod(n, 4)] AS task_type
        FROM generate_series(p_first, p_last) AS n
    ), executions AS (
        INSERT INTO public.workflow_orchestration (
            execution_id, workflow_type, status, worker_id, batch_size, created_at, scheduled_at, started_at, completed_at, reserved_at,
            budget_day, actual_cost, tasks_completed, tasks_failed, memory_peak_mb
        )
        SELECT 'past-' || p.n, p.workflow_type, CASE WHEN mod(p.n, 50) = 0 THEN 'failed' ELSE 'completed' END, 'past', 1,
            p.at - interval '30 seconds', p.at - interval '30 seconds', p.at - interval '25 seconds', p.at, p.at - interval '30 seconds',
            (p.at AT TIME ZONE 'UTC')::date, 0.003, (mod(p.n, 50) <> 0)::integer, (mod(p.n, 50) = 0)::integer, 200 + mod(p.n, 100)
        FROM past AS p
    ), tasks AS (
        INSERT INTO lead.task (task_type, payload, status, attempts, created_at, queued_at, claimed_at, processed_at, execution_id, cost_usd)
        SELECT p.task_type, '{"title": "A past article"}', 'completed', 1, p.at - interval '1 minute', p.at - interval '1 minute',
            p.at - interval '25 seconds', p.at, 'past-' || p.n, 0.003
        FROM past AS p
        RETURNING id, execution_id, claimed_at, processed_at
    ), attempts AS (
        INSERT INTO lead.task_attempt (task_id, attempt, execution_id, started_at, ended_at, outcome, cost_usd)
        SELECT t.id, 1, t.execution_id, t.claimed_at, t.processed_at, 'completed', 0.003 FROM tasks AS t
    )
    INSERT INTO lead.api_call (
        execution_id, fence, task_id, attempt, step, provider, model, status, outcome, budget_day, max_cost_usd, cost_usd, slot_no, use_by,
        reserved_at, sent_at, settled_at
    )
    SELECT t.execution_id, 1, t.id, 1, 'draft', 'gemini', 'gemini-2.5-flash-lite', 'settled', 'ok', (t.processed_at AT TIME ZONE 'UTC')::date,
        0.004, 0.003, 1, t.claimed_at, t.claimed_at, t.claimed_at, t.processed_at
    FROM tasks AS t;
$$;

CREATE FUNCTION pg_temp.fill_what_goes_with_it(p_days integer, p_now timestamptz) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO lead.tick (tick_id, worker_id, decided_at, duration_ms, outcome, workflows_dispatched, decision)
    SELECT 'tick-' || n, 'past', p_now - n * interval '5 minutes', 12, 'dispatched', 3,
        jsonb_build_object('candidates', repeat('a reason with numbers, ', 60))
    FROM generate_series(0, p_days * 288) AS n;
    INSERT INTO public.resource_usage (timestamp, resource_type, used_amount, total_capacity)
    SELECT p_now - n * interval '5 minutes', u.kind, mod(n, 100), 100
    FROM generate_series(0, p_days * 288) AS n, unnest(ARRAY['api_calls', 'api_calls', 'budget', 'connections', 'memory']) AS u (kind);
    INSERT INTO lead.budget_account (budget_day, scope, scope_key, spent_usd)
    SELECT w.budget_day, s.scope, s.key, sum(w.actual_cost)
    FROM public.workflow_orchestration AS w, LATERAL (VALUES ('total', 'all'), ('workflow', w.workflow_type), ('provider', 'gemini')) AS s (scope, key)
    GROUP BY w.budget_day, s.scope, s.key;
    INSERT INTO public.execution_history (
        workflow_type, execution_date, hour_of_day, total_executions, successful_executions, failed_executions, avg_duration_ms, total_cost,
        avg_api_calls, avg_memory_mb, avg_batch_size, peak_concurrent_executions, avg_success_rate, content_items_processed, tasks_completed,
        tasks_failed
    )
    SELECT w.workflow_type, l.ended::date, extract(HOUR FROM l.ended), count(*), count(*) FILTER (WHERE w.status = 'completed'),
        count(*) FILTER (WHERE w.status <> 'completed'), avg(1000 * extract(EPOCH FROM w.completed_at - w.started_at)), sum(w.actual_cost),
        1, avg(w.memory_peak_mb), 1, 3, avg(w.tasks_completed), sum(w.tasks_completed), sum(w.tasks_completed), sum(w.tasks_failed)
    FROM public.workflow_orchestration AS w, LATERAL (SELECT w.completed_at AT TIME ZONE 'UTC' AS ended) AS l
    GROUP BY w.workflow_type, l.ended::date, extract(HOUR FROM l.ended);
    SELECT lead.fold_queue_depth();
$$;
