-- Lead Coordinator, file 3 of 4: watching. Health, resources, metrics, dashboard, recommendations, alerts, validation.
--
--   psql … -f sql/monitoring-functions.sql        after sql/resource-management.sql
--
-- Re-runnable. Nothing here decides: it reads what happened (real outcomes, never predictions) and says it in numbers. The
-- only writers are record_health_metric, refresh_resource_usage, record_orchestration_metrics and log_orchestration_error.
-- Thresholds are rows of lead.setting. A figure that two functions show is computed once, in a lead.watch_… function.
\set ON_ERROR_STOP on
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL lock_timeout = '10s';

DO $$
BEGIN
    IF to_regproc('public.orchestrate_workflow_execution') IS NULL OR to_regproc('lead.schema_version') IS NULL THEN
        RAISE EXCEPTION 'sql/resource-management.sql is not deployed here: apply it first, then sql/monitoring-functions.sql';
    END IF;
    IF lead.schema_version() <> '0.3.0' THEN
        RAISE EXCEPTION 'version: sql/database-schema.sql is deployed in %, this file is of 0.3.0', lead.schema_version()
            USING ERRCODE = 'LC006', HINT = 'apply the four files of one version, sql/database-schema.sql first';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('lead_coordinator.deploy', 0));
END;
$$;

INSERT INTO lead.setting (name, value, minimum, maximum, unit, description) VALUES
('health_window_minutes', '60', 1, 1440, 'minutes', 'Health and alerts judge the outcomes of this long'),
('health_check_seconds', '300', 1, 3600, 'seconds', 'A healthy system is checked again after this'),
('health_recheck_seconds', '30', 1, 3600, 'seconds', 'A system that is not healthy is checked again after this'),
('failure_rate_warning_percent', '20', 0, 100, 'percent', 'Failed executions that make a warning'),
('failure_rate_critical_percent', '50', 0, 100, 'percent', 'Failed executions that make a critical alert'),
('failure_rate_minimum', '5', 1, 10000, 'executions', 'With fewer ended executions in the window no rate is judged'),
('budget_warning_percent', '70', 0, 100, 'percent', 'Share of the daily budget, held or spent, that makes a first warning'),
('budget_alert_percent', '85', 0, 100, 'percent', 'Share of the daily budget, held or spent, that makes a second warning'),
('resource_warning_percent', '80', 0, 100, 'percent', 'Share of the connections or the memory that makes a warning'),
('queue_depth_warning', '10000', 1, 1000000000, 'tasks', 'Waiting tasks that make a warning'),
('response_time_warning_ms', '30000', 1, 600000, 'ms', 'Mean answer time of the providers that makes a warning'),
('slowdown_warning_percent', '50', 1, 10000, 'percent', 'Mean duration above that of the last seven days that makes a warning'),
('tick_overdue_minutes', '15', 1, 1440, 'minutes', 'Tasks that wait with no tick for this long are a system failure'),
('recovery_overdue_seconds', '120', 10, 3600, 'seconds', 'A lease that ended this long ago unrecovered is a system failure'),
('transaction_age_warning_seconds', '300', 1, 86400, 'seconds', 'A transaction open for this long slows the queue down')
ON CONFLICT (name) DO NOTHING;

-- Secrets --------------------------------------------------------------------------------------------------------------
-- Masks what looks like a secret (by its shape) and what is called one (by its name), then keeps 4,000 characters. Text
-- beyond 20,000 characters is cut first, at a blank, so that half a secret never survives the cut.
CREATE OR REPLACE FUNCTION lead.sanitise(p_text text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_text text := p_text;
    v_named constant text :=
        '((?:api[_-]?key|secret|token|password|passwd|passphrase|pwd|private[_-]?key|access[_-]?key|role[_-]?key'
        '|credentials?|cookie|\mkey)\\*["'']?\s*(?:=>|[:=])\s*)(\\*"[^"]*"?|\\*''[^'']*''?|[^\s,;&"''}\])]+)';
BEGIN
    IF length(v_text) > 20000 THEN
        v_text := regexp_replace(left(v_text, 20000), '\S*$', '');
    END IF;
    -- Most texts have nothing that any of the patterns below begins with.
    IF v_text !~ '[:=./]|-----|eyJ|sk-|AIza|xox|xapp-|gh[pousr]_|sb[ps]?_|AKIA' AND v_text !~* 'bearer' THEN
        RETURN CASE WHEN length(v_text) > 4000 OR length(p_text) > 20000 THEN left(v_text, 3990) || ' […]' ELSE v_text END;
    END IF;
    v_text := regexp_replace(v_text, '(://[^/?#\s:@]*):[^/?#\s]*@', '\1:***@', 'g');
    v_text := regexp_replace(v_text, '(hooks\.slack\.com/[a-z]+)/[^\s"'']+', '\1/***', 'gi');
    v_text := regexp_replace(v_text, '(-----BEGIN [A-Z ]*PRIVATE KEY-----)[^-]*', '\1 *** ', 'g');
    v_text := regexp_replace(v_text,
        '(authorization\\*["'']?\s*[:=]\s*\\*["'']?)(?:(?:basic|bearer|digest|token)\s+)?[^\s"'',;}]+', '\1***', 'gi');
    v_text := regexp_replace(v_text, '\m(bearer\s+)[A-Za-z0-9._~+/=-]{6,}', '\1***', 'gi');
    v_text := regexp_replace(v_text, v_named, '\1***', 'gi');
    v_text := regexp_replace(v_text, '\meyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?', '***', 'g');
    v_text := regexp_replace(v_text,
        '\m(?:sk-[A-Za-z0-9_-]{8,}|AIza[A-Za-z0-9_-]{10,}|xox[a-z]-[A-Za-z0-9-]{8,}|xapp-[A-Za-z0-9-]{8,}'
        '|gh[pousr]_[A-Za-z0-9]{16,}|sb[ps]?_[A-Za-z0-9_]{16,}|AKIA[A-Z0-9]{12,})', '***', 'g');
    IF length(v_text) > 4000 OR length(p_text) > 20000 THEN
        v_text := left(v_text, 3990) || ' […]';
    END IF;
    RETURN v_text;
END;
$$;

-- The same for a document: values under a secret's name are masked whatever their shape; 12 levels, 200 items a level.
CREATE OR REPLACE FUNCTION lead.sanitise(p_json jsonb, p_level integer DEFAULT 1) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_secret_name constant text :=
        '(api[_-]?key|secret|passw(or)?d|passphrase|private[_-]?key|access[_-]?key|role[_-]?key|credential|authorization|cookie)'
        '|(^|[_-])(token|pwd)$|^key$';
    v_clean jsonb;
    v_left_out bigint;
BEGIN
    IF jsonb_typeof(p_json) = 'string' THEN
        RETURN to_jsonb(lead.sanitise(p_json #>> '{}'));
    ELSIF jsonb_typeof(p_json) = 'object' AND p_level <= 12 THEN
        SELECT
            coalesce(jsonb_object_agg(lead.sanitise(left(e.key, 200)), CASE
                WHEN e.key ~* v_secret_name AND jsonb_typeof(e.value) <> 'null' THEN '"***"'::jsonb
                ELSE lead.sanitise(e.value, p_level + 1)
            END) FILTER (WHERE e.position <= 200), '{}'),
            count(*) - 200
        INTO v_clean, v_left_out
        FROM jsonb_each(p_json) WITH ORDINALITY AS e (key, value, position);
        RETURN v_clean || CASE WHEN v_left_out > 0 THEN jsonb_build_object('…', v_left_out || ' keys left out') ELSE '{}' END;
    ELSIF jsonb_typeof(p_json) = 'array' AND p_level <= 12 THEN
        SELECT
            coalesce(jsonb_agg(lead.sanitise(e.value, p_level + 1) ORDER BY e.position) FILTER (WHERE e.position <= 200), '[]'),
            count(*) - 200
        INTO v_clean, v_left_out
        FROM jsonb_array_elements(p_json) WITH ORDINALITY AS e (value, position);
        RETURN v_clean || CASE WHEN v_left_out > 0 THEN to_jsonb(v_left_out || ' items left out') ELSE '[]' END;
    ELSIF jsonb_typeof(p_json) IN ('object', 'array') THEN
        RETURN to_jsonb('[too deep]'::text);
    END IF;
    RETURN p_json;
END;
$$;

-- Small helpers ----------------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION lead.dollars(p_amount numeric) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, public, lead, pg_temp
AS $$ SELECT to_char(p_amount, 'FM9999999990.00') $$;

-- A number out of a document that somebody else wrote: NULL where there is none.
CREATE OR REPLACE FUNCTION lead.number_at(p_json jsonb, VARIADIC p_path text[]) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, public, lead, pg_temp
AS $$ SELECT CASE WHEN jsonb_typeof(p_json #> p_path) = 'number' THEN (p_json #>> p_path)::numeric END $$;

CREATE OR REPLACE FUNCTION lead.percent_of(p_part numeric, p_whole numeric) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, public, lead, pg_temp
AS $$ SELECT CASE WHEN p_whole > 0 THEN round(100 * p_part / p_whole, 2) END $$;

-- What is going on: each figure once ---------------------------------------------------------------------------------------
-- The day's money. An execution's promise stands in held_usd until it ends; what its calls have really cost is already spent.
CREATE OR REPLACE FUNCTION lead.watch_budget(p_current_time timestamptz)
RETURNS TABLE (budget_day date, limit_usd numeric, spent_usd numeric, held_usd numeric)
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT
        today.budget_day,
        lead.setting_number('daily_budget_usd')::numeric(20, 10),
        (coalesce(a.spent_usd, 0) + live.cost_usd)::numeric(20, 10),
        greatest(coalesce(a.held_usd, 0) - live.cost_usd, 0)::numeric(20, 10)
    FROM (SELECT lead.budget_day(p_current_time) AS budget_day) AS today
    LEFT JOIN lead.budget_account AS a ON a.budget_day = today.budget_day AND a.scope = 'total'
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(w.actual_cost), 0) AS cost_usd
        FROM public.workflow_orchestration AS w
        WHERE w.status IN ('pending', 'analyzing', 'dispatching', 'running') AND w.budget_day = today.budget_day
    ) AS live;
$$;

-- The day's accounts besides the total: what workflows (promised and spent), providers and tenants (open calls and spent) have used
-- of their own limits, where they have one. At most 50 of each kind, the busiest first.
CREATE OR REPLACE FUNCTION lead.watch_accounts(p_current_time timestamptz)
RETURNS TABLE (scope text, scope_key text, spent_usd numeric, held_usd numeric, limit_usd numeric, utilization_percent numeric)
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT r.scope, r.scope_key, r.spent_usd, r.held_usd, r.limit_usd, lead.percent_of(r.spent_usd + r.held_usd, r.limit_usd)
    FROM (
        SELECT a.scope, a.scope_key, a.spent_usd, a.held_usd,
            coalesce(p.daily_cost_limit_usd, l.daily_cost_limit, t.daily_cost_limit_usd) AS limit_usd,
            row_number() OVER (PARTITION BY a.scope ORDER BY a.spent_usd + a.held_usd DESC, a.scope_key) AS place
        FROM lead.budget_account AS a
        LEFT JOIN lead.workflow_policy AS p ON a.scope = 'workflow' AND p.workflow_type = a.scope_key
        LEFT JOIN public.api_rate_limits AS l ON a.scope = 'provider' AND l.provider = a.scope_key
        LEFT JOIN lead.tenant AS t ON a.scope = 'tenant' AND t.tenant = a.scope_key
        WHERE a.budget_day = lead.budget_day(p_current_time) AND a.scope <> 'total'
    ) AS r
    WHERE r.place <= 50
    ORDER BY r.scope, r.place;
$$;

-- How long the coordinator was in each state, over its newest 1,000 changes of state: so few, so that a busy day costs no more.
CREATE OR REPLACE FUNCTION lead.watch_states(p_from timestamptz, p_until timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT coalesce(jsonb_object_agg(g.state, g.figures), '{}')
    FROM (
        SELECT s.state, jsonb_build_object('times', count(*), 'total_ms', sum(s.duration_ms), 'avg_ms', round(avg(s.duration_ms), 1),
            'max_ms', max(s.duration_ms)) AS figures
        FROM (
            SELECT w.state, w.entered_at, w.duration_ms FROM public.workflow_states AS w
            WHERE w.execution_id = 'coordinator' ORDER BY w.id DESC LIMIT 1000
        ) AS s
        WHERE s.entered_at > p_from AND s.entered_at <= p_until AND s.duration_ms IS NOT NULL
        GROUP BY s.state
    ) AS g;
$$;

-- Connections are counted by our application_name: a hosted database has its own besides.
CREATE OR REPLACE FUNCTION lead.watch_connections()
RETURNS TABLE (ours integer, total integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT (count(*) FILTER (WHERE s.application_name LIKE 'lead-coordinator%'))::integer, count(*)::integer
    FROM pg_stat_activity AS s
    WHERE s.datname = current_database();
$$;

-- How executions ended in a stretch of time, by workflow type. LATERAL keeps it on the index however long the past is.
CREATE OR REPLACE FUNCTION lead.watch_outcomes(p_from timestamptz, p_until timestamptz)
RETURNS TABLE (
    workflow_type text, completed integer, failed integer, timed_out integer, cancelled integer, mean_duration_ms numeric
)
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT
        p.workflow_type,
        (count(*) FILTER (WHERE w.status = 'completed'))::integer,
        (count(*) FILTER (WHERE w.status = 'failed'))::integer,
        (count(*) FILTER (WHERE w.status = 'timeout'))::integer,
        (count(*) FILTER (WHERE w.status = 'cancelled'))::integer,
        round(avg(extract(EPOCH FROM w.completed_at - w.started_at) * 1000) FILTER (WHERE w.status = 'completed'), 1)
    FROM lead.workflow_policy AS p
    CROSS JOIN LATERAL (
        SELECT o.status, o.started_at, o.completed_at
        FROM public.workflow_orchestration AS o
        WHERE o.workflow_type = p.workflow_type AND o.completed_at > p_from AND o.completed_at <= p_until
    ) AS w
    GROUP BY p.workflow_type;
$$;

-- Each provider: its limit and use, its breaker, and whether a call could go out now (a probe counts), else why not.
CREATE OR REPLACE FUNCTION lead.watch_providers(p_current_time timestamptz)
RETURNS TABLE (
    provider text, limit_per_minute integer, adaptive_limit integer, used_last_60s integer, breaker_state text,
    usable boolean, reason text, usable_at timestamptz
)
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT
        l.provider,
        l.requests_per_minute,
        l.adaptive_limit,
        used.calls,
        coalesce(b.state, 'closed'),
        why.reason IS NULL,
        why.reason,
        CASE WHEN l.is_available THEN greatest(b.retry_at, l.blocked_until) END
    FROM public.api_rate_limits AS l
    LEFT JOIN lead.circuit_breaker AS b ON b.name = 'provider:' || l.provider
    CROSS JOIN LATERAL (
        -- A call is sent within grant_seconds (60 at most) of its reservation: 60 s of sending, two minutes of reserving.
        SELECT count(*)::integer AS calls
        FROM lead.api_call AS c
        WHERE c.provider = l.provider
            AND c.reserved_at > p_current_time - interval '2 minutes' AND c.reserved_at <= p_current_time
            AND c.status <> 'released'
            AND coalesce(c.sent_at, c.reserved_at) > p_current_time - interval '60 seconds'
            AND coalesce(c.sent_at, c.reserved_at) <= p_current_time
    ) AS used
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN NOT l.is_available THEN format('%s is switched off', l.provider)
            WHEN b.state = 'open' AND b.retry_at > p_current_time
                THEN format('%s: breaker open for another %s s', l.provider,
                    ceil(extract(EPOCH FROM b.retry_at - p_current_time)))
            WHEN l.blocked_until > p_current_time
                THEN format('%s asked for a pause of another %s s', l.provider,
                    ceil(extract(EPOCH FROM l.blocked_until - p_current_time)))
        END AS reason
    ) AS why;
$$;

-- The most executions that ran at once, of those created in a stretch of time. One that ends at the moment another starts does
-- not overlap with it.
CREATE OR REPLACE FUNCTION lead.watch_peak_concurrency(p_from timestamptz, p_until timestamptz) RETURNS integer
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT coalesce(max(running.executions), 0)::integer
    FROM (
        SELECT sum(e.step) OVER (ORDER BY e.happened_at, e.step) AS executions
        FROM public.workflow_orchestration AS w
        CROSS JOIN LATERAL (VALUES (w.started_at, 1), (coalesce(w.completed_at, 'infinity'), -1)) AS e (happened_at, step)
        WHERE w.created_at > p_from AND w.created_at <= p_until AND w.started_at IS NOT NULL
    ) AS running;
$$;

-- Seconds that tasks waited for their first attempt, and seconds until they were done, over the newest 1,000 tasks completed
-- in a stretch of time. Waiting starts when a task may start: a task that was put off on purpose does not wait till then.
CREATE OR REPLACE FUNCTION lead.watch_tasks(p_from timestamptz, p_until timestamptz)
RETURNS TABLE (
    completed integer, wait_p50 numeric, wait_p95 numeric, latency_p50 numeric, latency_p95 numeric, cost_per_article_usd numeric
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
-- A thousand look-ups by key, whatever the planner believes about the size of the queue.
SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    v_from timestamptz := p_from;
    v_hours integer;
BEGIN
    -- As far back as the last thousand need, so that a busy day isn't read whole.
    FOREACH v_hours IN ARRAY ARRAY[1, 4, 24] LOOP
        IF (
            SELECT count(*) FROM (
                SELECT 1 FROM lead.task_attempt AS a
                WHERE a.ended_at > greatest(p_from, p_until - make_interval(hours => v_hours)) AND a.ended_at <= p_until
                    AND a.outcome = 'completed'
                LIMIT 1000
            ) AS enough
        ) = 1000 THEN
            v_from := greatest(p_from, p_until - make_interval(hours => v_hours));
            EXIT;
        END IF;
        EXIT WHEN p_until - make_interval(hours => v_hours) <= p_from;
    END LOOP;
    RETURN QUERY
    WITH done AS (
        SELECT a.task_id, a.attempt, a.started_at, a.ended_at
        FROM lead.task_attempt AS a
        WHERE a.ended_at > v_from AND a.ended_at <= p_until AND a.outcome = 'completed'
        ORDER BY a.ended_at DESC
        LIMIT 1000
    ), timed AS (
        SELECT
            t.task_type,
            t.cost_usd,
            extract(EPOCH FROM first.started_at - ready.at) AS wait_seconds,
            extract(EPOCH FROM d.ended_at - ready.at) AS latency_seconds
        FROM done AS d
        INNER JOIN lead.task AS t ON t.id = d.task_id
        CROSS JOIN LATERAL (
            SELECT min(a.started_at) AS started_at FROM lead.task_attempt AS a WHERE a.task_id = d.task_id
        ) AS first
        CROSS JOIN LATERAL (
            SELECT CASE WHEN t.queued_at <= first.started_at THEN t.queued_at ELSE least(t.created_at, first.started_at) END AS at
        ) AS ready
    )
    SELECT
        count(*)::integer,
        round((percentile_cont(0.50) WITHIN GROUP (ORDER BY m.wait_seconds))::numeric, 3),
        round((percentile_cont(0.95) WITHIN GROUP (ORDER BY m.wait_seconds))::numeric, 3),
        round((percentile_cont(0.50) WITHIN GROUP (ORDER BY m.latency_seconds))::numeric, 3),
        round((percentile_cont(0.95) WITHIN GROUP (ORDER BY m.latency_seconds))::numeric, 3),
        (avg(m.cost_usd) FILTER (WHERE m.task_type = 'content_generation'))::numeric(20, 10)
    FROM timed AS m;
END;
$$;

-- Health -----------------------------------------------------------------------------------------------------------------
-- Every reason carries its numbers. critical: nothing may start until it is gone. A full house is no illness: it is a warning,
-- and can_proceed is false all the same. A high failure rate only warns here (what stops work is the circuit breaker, which also
-- lets it try again); check_coordinator_alerts calls it critical.
CREATE OR REPLACE FUNCTION public.check_system_health_comprehensive(p_current_time timestamptz DEFAULT now())
RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp SET jit = off
AS $$
DECLARE
    v_critical text[] := ARRAY[]::text[];
    v_warnings text[] := ARRAY[]::text[];
    v_full text;
    v_text text;
    v_window interval := make_interval(mins => lead.setting_number('health_window_minutes')::integer);
    v_ended integer;
    v_failures integer;
    v_failure_rate numeric;
    v_queue_depth bigint;
    v_response_ms numeric;
    v_budget record;
    v_capacity record;
    v_connections record;
    v_share numeric;
    v_unusable text[];
    v_providers integer;
    v_next_try timestamptz;
    v_status text;
    v_can_proceed boolean;
BEGIN
    PERFORM lead.valid_time('p_current_time', p_current_time);
    SELECT * INTO v_capacity FROM lead.capacity(p_current_time);
    IF v_capacity.active >= v_capacity.max_concurrent THEN
        v_full := format('%s of %s slots busy', v_capacity.active, v_capacity.max_concurrent);
        v_warnings := v_warnings || v_full;
    END IF;

    SELECT * INTO v_budget FROM lead.watch_budget(p_current_time);
    v_share := lead.percent_of(v_budget.spent_usd + v_budget.held_usd, v_budget.limit_usd);
    IF v_budget.spent_usd + v_budget.held_usd >= v_budget.limit_usd THEN
        v_critical := v_critical || format('budget %s of %s USD held or spent',
            lead.dollars(v_budget.spent_usd + v_budget.held_usd), lead.dollars(v_budget.limit_usd));
    ELSIF v_share >= lead.setting_number('budget_warning_percent') THEN
        v_warnings := v_warnings || format('budget %s of %s USD held or spent (%s %%)',
            lead.dollars(v_budget.spent_usd + v_budget.held_usd), lead.dollars(v_budget.limit_usd), round(v_share));
    END IF;

    v_share := lead.percent_of(v_capacity.connections_used, v_capacity.connection_limit);
    v_text := format('%s of %s database connections in use', v_capacity.connections_used, v_capacity.connection_limit);
    IF v_capacity.connections_used >= v_capacity.connection_limit THEN
        v_critical := v_critical || v_text;
    ELSIF v_share >= lead.setting_number('resource_warning_percent') THEN
        v_warnings := v_warnings || v_text;
    END IF;

    v_share := lead.percent_of(v_capacity.memory_used_mb, v_capacity.memory_limit_mb);
    v_text := format('memory %s of %s MB in use', v_capacity.memory_used_mb, v_capacity.memory_limit_mb);
    IF v_capacity.memory_used_mb >= v_capacity.memory_limit_mb THEN
        v_critical := v_critical || v_text;
    ELSIF v_share >= lead.setting_number('resource_warning_percent') THEN
        v_warnings := v_warnings || v_text;
    END IF;

    SELECT count(*), coalesce(array_agg(p.reason ORDER BY p.provider) FILTER (WHERE NOT p.usable), '{}'), min(p.usable_at)
    INTO v_providers, v_unusable, v_next_try
    FROM lead.watch_providers(p_current_time) AS p;
    IF cardinality(v_unusable) = v_providers THEN
        v_critical := v_critical || format('0 of %s providers can be called: %s', v_providers,
            coalesce(nullif(array_to_string(v_unusable, '; '), ''), 'api_rate_limits has no rows'));
    ELSE
        v_warnings := v_warnings || v_unusable;
    END IF;

    SELECT coalesce(sum(o.completed + o.failed + o.timed_out), 0), coalesce(sum(o.failed + o.timed_out), 0)
    INTO v_ended, v_failures
    FROM lead.watch_outcomes(p_current_time - v_window, p_current_time) AS o;
    v_failure_rate := coalesce(lead.percent_of(v_failures, v_ended), 0);
    IF v_ended >= lead.setting_number('failure_rate_minimum')
        AND v_failure_rate >= lead.setting_number('failure_rate_warning_percent') THEN
        v_warnings := v_warnings || format('%s of %s executions failed in the last %s minutes', v_failures, v_ended,
            round(extract(EPOCH FROM v_window) / 60));
    END IF;

    SELECT coalesce(sum(d.tasks), 0) INTO v_queue_depth FROM lead.queue_depth_delta AS d WHERE d.status = 'queued';
    IF v_queue_depth >= lead.setting_number('queue_depth_warning') THEN
        v_warnings := v_warnings || format('%s tasks waiting', v_queue_depth);
    END IF;

    -- From a request's leaving to its answer, of the calls that were answered.
    SELECT round(avg(extract(EPOCH FROM c.settled_at - c.sent_at) * 1000), 1) INTO v_response_ms
    FROM lead.api_call AS c
    WHERE c.reserved_at > p_current_time - v_window AND c.reserved_at <= p_current_time AND c.outcome = 'ok';
    IF v_response_ms >= lead.setting_number('response_time_warning_ms') THEN
        v_warnings := v_warnings || format('providers answer in %s ms on average', round(v_response_ms));
    END IF;

    SELECT * INTO v_connections FROM lead.watch_connections();
    v_can_proceed := cardinality(v_critical) = 0 AND v_full IS NULL;
    v_status := CASE
        WHEN cardinality(v_critical) > 0 THEN 'critical' WHEN cardinality(v_warnings) > 0 THEN 'warning' ELSE 'healthy'
    END;
    RETURN jsonb_build_object(
        'can_proceed', v_can_proceed,
        'overall_status', v_status,
        'metrics', jsonb_build_object(
            'database_connections', v_capacity.connections_used,
            'active_executions', v_capacity.active,
            'recent_failures', v_failures,
            'queue_depth', v_queue_depth,
            'avg_response_time_ms', coalesce(v_response_ms, 0),
            'max_concurrent_limit', v_capacity.max_concurrent,
            'failure_rate_percent', v_failure_rate,
            'ended_executions', v_ended,
            'database_connections_total', v_connections.total,
            'database_connection_limit', v_capacity.connection_limit,
            'memory_used_mb', v_capacity.memory_used_mb,
            'memory_limit_mb', v_capacity.memory_limit_mb,
            'budget_limit_usd', v_budget.limit_usd,
            'budget_spent_usd', v_budget.spent_usd,
            'budget_held_usd', v_budget.held_usd,
            'providers_usable', v_providers - cardinality(v_unusable)
        ),
        'critical_issues', to_jsonb(v_critical),
        'warnings', to_jsonb(v_warnings),
        'reason', CASE WHEN NOT v_can_proceed THEN array_to_string(v_critical || v_full, '; ') END,
        'timestamp', p_current_time,
        'next_check_in_seconds', CASE
            WHEN v_status = 'healthy' THEN lead.setting_number('health_check_seconds')::integer
            WHEN cardinality(v_unusable) > 0 AND v_next_try > p_current_time THEN least(
                lead.setting_number('health_recheck_seconds'), ceil(extract(EPOCH FROM v_next_try - p_current_time)))::integer
            ELSE lead.setting_number('health_recheck_seconds')::integer
        END
    );
END;
$$;

-- Metrics ----------------------------------------------------------------------------------------------------------------
-- One row a name. change_rate: percent against the value before (NULL where that was 0 or absent). A NULL threshold keeps the
-- row's. Where the warning lies above the critical threshold, small values are the bad ones (free disk, say).
CREATE OR REPLACE FUNCTION lead.metric_is_healthy(p_value numeric, p_warning numeric, p_critical numeric) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT CASE WHEN p_warning > p_critical THEN p_value > p_warning
        ELSE p_value < coalesce(p_warning, p_critical, 'infinity') END
$$;

CREATE OR REPLACE FUNCTION public.record_health_metric(
    p_name text, p_value numeric, p_unit text, p_source text DEFAULT 'coordinator', p_warning numeric DEFAULT NULL,
    p_critical numeric DEFAULT NULL, p_tags jsonb DEFAULT '{}', p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_limit constant numeric := 1e13;
    v_checked record;
BEGIN
    PERFORM lead.valid_time('p_current_time', p_current_time);
    IF p_name IS NULL OR p_name !~ '^[a-z][a-z0-9_.:-]{0,99}$' THEN
        PERFORM lead.refuse('p_name', p_name, '1 to 100 of a-z, 0-9, _ . : - with a letter first are needed');
    END IF;
    FOR v_checked IN
        SELECT c.field, c.value, c.optional
        FROM (VALUES ('p_value', p_value, false), ('p_warning', p_warning, true), ('p_critical', p_critical, true))
            AS c (field, value, optional)
        WHERE c.value = 'NaN' OR abs(c.value) > v_limit OR (c.value IS NULL AND NOT c.optional)
    LOOP
        PERFORM lead.refuse(v_checked.field, v_checked.value::text, 'a number from -1e13 to 1e13 is needed');
    END LOOP;
    IF jsonb_typeof(p_tags) <> 'object' THEN
        PERFORM lead.refuse('p_tags', p_tags::text, 'a JSON object is needed');
    END IF;

    INSERT INTO public.system_health AS h (
        metric_name, metric_value, metric_unit, threshold_warning, threshold_critical, is_healthy, source, tags, last_updated
    ) VALUES (
        p_name, p_value, left(lead.sanitise(p_unit), 40), p_warning, p_critical, lead.metric_is_healthy(p_value, p_warning, p_critical),
        left(lead.sanitise(coalesce(p_source, 'coordinator')), 100), lead.sanitise(coalesce(p_tags, '{}')), p_current_time
    )
    ON CONFLICT (metric_name) DO UPDATE SET
        metric_value = excluded.metric_value,
        metric_unit = coalesce(excluded.metric_unit, h.metric_unit),
        threshold_warning = coalesce(excluded.threshold_warning, h.threshold_warning),
        threshold_critical = coalesce(excluded.threshold_critical, h.threshold_critical),
        is_healthy = lead.metric_is_healthy(excluded.metric_value, coalesce(excluded.threshold_warning, h.threshold_warning),
            coalesce(excluded.threshold_critical, h.threshold_critical)),
        source = excluded.source,
        tags = excluded.tags,
        last_updated = excluded.last_updated,
        previous_value = h.metric_value,
        trend_direction = CASE
            WHEN excluded.metric_value > h.metric_value THEN 'up'
            WHEN excluded.metric_value < h.metric_value THEN 'down'
            ELSE 'stable'
        END,
        change_rate = least(greatest(
            100 * (excluded.metric_value - h.metric_value) / nullif(abs(h.metric_value), 0), -v_limit), v_limit);
END;
$$;

-- Writes one row a resource, and what outsiders read in api_rate_limits, from the truth.
CREATE OR REPLACE FUNCTION public.refresh_resource_usage(p_current_time timestamptz DEFAULT clock_timestamp())
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp SET jit = off
AS $$
DECLARE
    v_today date := lead.budget_day(lead.valid_time('p_current_time', p_current_time));
    v_day_ends timestamptz := (v_today + 1)::timestamp AT TIME ZONE lead.setting_text('coordinator_timezone');
    v_soft numeric := lead.setting_number('resource_warning_percent') / 100;
    v_budget record;
    v_capacity record;
    v_connections record;
    v_answer jsonb;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    SELECT * INTO v_budget FROM lead.watch_budget(p_current_time);
    SELECT * INTO v_connections FROM lead.watch_connections();
    SELECT * INTO v_capacity FROM lead.capacity(p_current_time);

    UPDATE public.api_rate_limits AS l
    SET requests_used_current_minute = p.used_last_60s,
        -- The moment at which the next slot is free again; slots are taken for 60 s each, not for a calendar minute.
        minute_reset_at = coalesce((
            SELECT min(s.free_at) FROM lead.rate_slot AS s WHERE s.provider = l.provider AND s.free_at > p_current_time
        ), p_current_time),
        daily_cost_used = coalesce((
            SELECT a.spent_usd FROM lead.budget_account AS a
            WHERE a.budget_day = v_today AND a.scope = 'provider' AND a.scope_key = l.provider
        ), 0),
        day_reset_at = v_day_ends,
        updated_at = p_current_time
    FROM lead.watch_providers(p_current_time) AS p
    WHERE p.provider = l.provider;

    WITH measured (resource_type, provider, used_amount, total_capacity, soft_limit, metadata) AS (
        SELECT 'api_calls', p.provider, p.used_last_60s, p.limit_per_minute::numeric, p.adaptive_limit * v_soft,
            jsonb_build_object('window_seconds', 60, 'adaptive_limit', p.adaptive_limit, 'breaker_state', p.breaker_state)
        FROM lead.watch_providers(p_current_time) AS p
        UNION ALL
        SELECT 'budget', NULL, v_budget.spent_usd + v_budget.held_usd, v_budget.limit_usd,
            v_budget.limit_usd * lead.setting_number('budget_warning_percent') / 100,
            jsonb_build_object('spent_usd', v_budget.spent_usd, 'held_usd', v_budget.held_usd, 'day', v_budget.budget_day)
        UNION ALL
        SELECT 'database_connections', NULL, v_capacity.connections_used, v_capacity.connection_limit,
            v_capacity.connection_limit * v_soft, jsonb_build_object('total', v_connections.total)
        UNION ALL
        SELECT 'memory', NULL, v_capacity.memory_used_mb, v_capacity.memory_limit_mb, v_capacity.memory_limit_mb * v_soft,
            jsonb_build_object('unit', 'MB', 'remaining_mb', v_capacity.memory_remaining_mb)
    ), written AS (
        INSERT INTO public.resource_usage (
            timestamp, resource_type, used_amount, total_capacity, soft_limit, hard_limit, provider, metadata
        )
        SELECT p_current_time, m.resource_type, m.used_amount, m.total_capacity, m.soft_limit, m.total_capacity, m.provider,
            m.metadata
        FROM measured AS m
        RETURNING resource_type, provider, used_amount, total_capacity, utilization_percent, metadata
    )
    SELECT jsonb_build_object('timestamp', p_current_time)
        || jsonb_object_agg(w.resource_type, jsonb_build_object(
            'used', w.used_amount, 'capacity', w.total_capacity, 'utilization_percent', w.utilization_percent) || w.metadata)
        FILTER (WHERE w.provider IS NULL)
        || jsonb_build_object('api_calls', coalesce(jsonb_object_agg(w.provider, jsonb_build_object(
            'used', w.used_amount::integer, 'capacity', w.total_capacity::integer,
            'utilization_percent', w.utilization_percent) || w.metadata)
        FILTER (WHERE w.provider IS NOT NULL), '{}'))
    INTO v_answer
    FROM written AS w;
    RETURN v_answer;
END;
$$;

-- Keeps a tick's decision and the health it saw as metrics. Keys that are missing leave their metric as it was.
CREATE OR REPLACE FUNCTION public.record_orchestration_metrics(
    p_execution_plan jsonb, p_system_health jsonb, p_timestamp timestamptz
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_metric record;
    v_metrics jsonb := coalesce(p_system_health -> 'metrics', '{}');
BEGIN
    PERFORM lead.valid_time('p_timestamp', coalesce(p_timestamp, clock_timestamp()));
    IF jsonb_typeof(p_execution_plan) NOT IN ('object', 'null') THEN
        PERFORM lead.refuse('p_execution_plan', p_execution_plan::text, 'a JSON object or NULL is needed');
    END IF;
    IF jsonb_typeof(p_system_health) NOT IN ('object', 'null') THEN
        PERFORM lead.refuse('p_system_health', p_system_health::text, 'a JSON object or NULL is needed');
    END IF;
    FOR v_metric IN
        SELECT m.name, m.value, m.unit, m.warning, m.critical
        FROM (VALUES
            ('workflows_planned', coalesce(
                lead.number_at(p_execution_plan, 'total_workflows'),
                CASE WHEN jsonb_typeof(p_execution_plan -> 'workflows_to_execute') = 'array'
                    THEN jsonb_array_length(p_execution_plan -> 'workflows_to_execute') END
            ), 'executions', NULL, NULL),
            ('database_connections', lead.number_at(v_metrics, 'database_connections'), 'connections',
                round(lead.setting_number('database_connection_limit') * lead.setting_number('resource_warning_percent') / 100),
                lead.setting_number('database_connection_limit')),
            ('active_executions', lead.number_at(v_metrics, 'active_executions'), 'executions', NULL,
                lead.setting_number('max_concurrent_workflows') + 1),
            ('recent_failures', lead.number_at(v_metrics, 'recent_failures'), 'executions', NULL, NULL),
            ('queue_depth', lead.number_at(v_metrics, 'queue_depth'), 'tasks', lead.setting_number('queue_depth_warning'), NULL),
            ('avg_response_time_ms', lead.number_at(v_metrics, 'avg_response_time_ms'), 'ms',
                lead.setting_number('response_time_warning_ms'), NULL),
            ('failure_rate_percent', lead.number_at(v_metrics, 'failure_rate_percent'), 'percent',
                lead.setting_number('failure_rate_warning_percent'), lead.setting_number('failure_rate_critical_percent')),
            ('memory_used_mb', lead.number_at(v_metrics, 'memory_used_mb'), 'MB',
                round(lead.setting_number('memory_limit_mb') * lead.setting_number('resource_warning_percent') / 100),
                lead.setting_number('memory_limit_mb')),
            ('budget_spent_usd', lead.number_at(v_metrics, 'budget_spent_usd'), 'US dollars', NULL, NULL),
            ('budget_held_usd', lead.number_at(v_metrics, 'budget_held_usd'), 'US dollars', NULL, NULL)
        ) AS m (name, value, unit, warning, critical)
        WHERE m.value IS NOT NULL
    LOOP
        PERFORM public.record_health_metric(v_metric.name, v_metric.value, v_metric.unit, 'coordinator', v_metric.warning,
            v_metric.critical, '{}', coalesce(p_timestamp, clock_timestamp()));
    END LOOP;
END;
$$;

CREATE OR REPLACE FUNCTION public.log_orchestration_error(
    p_error_code text, p_error_message text, p_execution_context jsonb, p_worker_id text,
    p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    INSERT INTO lead.error_log (occurred_at, error_code, error_message, context, worker_id)
    VALUES (
        -- An error is kept, whatever the caller believes to be the time.
        CASE WHEN p_current_time BETWEEN '2000-01-01 00:00:00+00' AND '2200-01-01 00:00:00+00' THEN p_current_time
            ELSE clock_timestamp() END,
        left(lead.sanitise(coalesce(nullif(p_error_code, ''), 'unknown')), 200),
        lead.sanitise(coalesce(p_error_message, '')),
        lead.sanitise(coalesce(p_execution_context, '{}')),
        left(lead.sanitise(p_worker_id), 200)
    );
$$;

-- The live view ------------------------------------------------------------------------------------------------------------
-- Asked twice a second, so it reads counters, one budget day and the newest thousand tasks, never the whole past. Windows:
-- the queue, published and dead letters are as they stand; executions, retries, waits and costs are those of the last 24 hours;
-- what ends in _today belongs to the current budget day.
CREATE OR REPLACE FUNCTION public.get_platform_status(p_current_time timestamptz DEFAULT now()) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp SET jit = off
AS $$
DECLARE
    v_since timestamptz := lead.valid_time('p_current_time', p_current_time) - interval '24 hours';
    v_queue jsonb;
    v_totals jsonb;
    v_executions jsonb;
    v_budget record;
    v_day_started timestamptz;
    v_providers jsonb;
    v_tasks record;
    v_connections record;
BEGIN
    WITH depth AS (
        SELECT p.task_type, s.status, coalesce(sum(d.tasks), 0) AS tasks
        FROM lead.workflow_policy AS p
        CROSS JOIN unnest(
            ARRAY['queued', 'processing', 'deferred', 'completed', 'dead_letter', 'failed', 'cancelled']
        ) AS s (status)
        LEFT JOIN lead.queue_depth_delta AS d ON d.task_type = p.task_type AND d.status = s.status
        GROUP BY p.task_type, s.status
    ), by_type AS (
        SELECT d.task_type, jsonb_object_agg(d.status, d.tasks) AS counts FROM depth AS d GROUP BY d.task_type
    ), by_status AS (
        SELECT d.status, sum(d.tasks) AS tasks FROM depth AS d GROUP BY d.status
    )
    SELECT (SELECT jsonb_object_agg(t.task_type, t.counts) FROM by_type AS t),
        (SELECT jsonb_object_agg(s.status, s.tasks) FROM by_status AS s)
    INTO v_queue, v_totals;

    SELECT jsonb_build_object(
        'pending', coalesce(sum(e.executions) FILTER (WHERE e.status = 'pending'), 0),
        'running', coalesce(sum(e.executions) FILTER (WHERE e.status IN ('analyzing', 'dispatching', 'running')), 0),
        'completed', coalesce(sum(e.executions) FILTER (WHERE e.status = 'completed'), 0),
        'failed', coalesce(sum(e.executions) FILTER (WHERE e.status = 'failed'), 0),
        'timeout', coalesce(sum(e.executions) FILTER (WHERE e.status = 'timeout'), 0),
        'cancelled', coalesce(sum(e.executions) FILTER (WHERE e.status = 'cancelled'), 0)
    ) INTO v_executions
    FROM (
        -- Two index ranges; an OR over both would read every execution there ever was.
        SELECT w.status, count(*) AS executions
        FROM public.workflow_orchestration AS w
        WHERE w.status IN ('pending', 'analyzing', 'dispatching', 'running')
        GROUP BY w.status
        UNION ALL
        SELECT w.status, count(*)
        FROM public.workflow_orchestration AS w
        WHERE w.created_at > v_since AND w.created_at <= p_current_time
            AND w.status IN ('completed', 'failed', 'timeout', 'cancelled')
        GROUP BY w.status
    ) AS e;

    SELECT * INTO v_budget FROM lead.watch_budget(p_current_time);
    v_day_started := v_budget.budget_day::timestamp AT TIME ZONE lead.setting_text('coordinator_timezone');

    SELECT jsonb_object_agg(p.provider, jsonb_build_object(
        'limit_per_minute', p.limit_per_minute,
        'adaptive_limit', p.adaptive_limit,
        'used_last_60s', p.used_last_60s,
        'calls_today', today.calls,
        'refused_429_today', today.refused,
        'spent_usd_today', coalesce(a.spent_usd, 0)::numeric(20, 10),
        'breaker_state', p.breaker_state,
        'available', p.usable,
        'reason', p.reason
    )) INTO v_providers
    FROM lead.watch_providers(p_current_time) AS p
    LEFT JOIN lead.budget_account AS a
        ON a.budget_day = v_budget.budget_day AND a.scope = 'provider' AND a.scope_key = p.provider
    LEFT JOIN (
        SELECT c.provider, count(*) AS calls, count(*) FILTER (WHERE c.outcome = 'rate_limited') AS refused
        FROM lead.api_call AS c
        WHERE c.reserved_at >= v_day_started AND c.reserved_at <= p_current_time AND c.status IN ('sent', 'settled')
        GROUP BY c.provider
    ) AS counted ON counted.provider = p.provider
    CROSS JOIN LATERAL (SELECT coalesce(counted.calls, 0) AS calls, coalesce(counted.refused, 0) AS refused) AS today;

    SELECT * INTO v_tasks FROM lead.watch_tasks(v_since, p_current_time);
    SELECT * INTO v_connections FROM lead.watch_connections();

    RETURN jsonb_build_object(
        'generated_at', p_current_time,
        'coordinator_state', (SELECT c.state FROM lead.coordinator AS c),
        'queue', v_queue,
        'enabled_types', (
            SELECT coalesce(jsonb_agg(p.task_type ORDER BY p.task_type) FILTER (WHERE p.enabled), '[]')
            FROM lead.workflow_policy AS p
        ),
        'totals', v_totals,
        'executions', v_executions || jsonb_build_object(
            'max_concurrent', lead.setting_number('max_concurrent_workflows')::integer,
            'peak_concurrent', lead.watch_peak_concurrency(v_since, p_current_time)
        ),
        'budget', jsonb_build_object('limit_usd', v_budget.limit_usd, 'spent_usd', v_budget.spent_usd,
            'held_usd', v_budget.held_usd, 'day', v_budget.budget_day),
        'providers', coalesce(v_providers, '{}'),
        'published', (SELECT count(*) FROM lead.publication AS p WHERE p.status = 'published'),
        'retries', (
            SELECT count(*) FROM lead.task_attempt AS a
            WHERE a.ended_at > v_since AND a.ended_at <= p_current_time AND a.outcome = 'retried'
        ),
        'dead_letters', v_totals -> 'dead_letter',
        'wait_seconds', jsonb_build_object('p50', v_tasks.wait_p50, 'p95', v_tasks.wait_p95),
        'latency_seconds', jsonb_build_object('p50', v_tasks.latency_p50, 'p95', v_tasks.latency_p95),
        'cost_per_article_usd', v_tasks.cost_per_article_usd,
        'connections', jsonb_build_object('ours', v_connections.ours, 'total', v_connections.total)
    );
END;
$$;

-- Recommendations --------------------------------------------------------------------------------------------------------
-- Reads the three documents of the dashboard. A key that is missing makes no recommendation. Each: category, priority (high,
-- medium, low), message (what was seen), action (what to do), metric_value, threshold; the most urgent first.
CREATE OR REPLACE FUNCTION public.generate_coordinator_recommendations(
    p_execution_stats jsonb, p_resource_stats jsonb, p_health_stats jsonb
) RETURNS jsonb[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_found jsonb[] := ARRAY[]::jsonb[];
    v_total numeric := lead.number_at(p_execution_stats, 'total_executions');
    v_failed numeric := lead.number_at(p_execution_stats, 'failed_executions');
    v_failure_rate numeric := coalesce(
        lead.percent_of(v_failed, v_total),
        100 - coalesce(lead.number_at(p_execution_stats, 'success_rate_percent'),
            lead.number_at(p_execution_stats, 'success_rate'))
    );
    v_waiting numeric := lead.number_at(p_health_stats, 'queue_depth');
    v_limit numeric;
    v_used numeric;
    v_entry record;
BEGIN
    v_limit := lead.setting_number('failure_rate_warning_percent');
    IF v_failure_rate >= v_limit AND coalesce(v_total, v_limit) >= lead.setting_number('failure_rate_minimum') THEN
        v_found := v_found || jsonb_build_object('category', 'reliability', 'priority', 'high',
            'message', format('%s %% of the executions failed', round(v_failure_rate, 1)),
            'action', 'look for what the failed rows of coordinator_monitoring (error_details) and the dead letters share',
            'metric_value', v_failure_rate, 'threshold', v_limit);
    END IF;

    v_used := lead.number_at(p_resource_stats, 'budget', 'utilization_percent');
    IF v_used >= lead.setting_number('budget_warning_percent') THEN
        v_limit := lead.setting_number('budget_warning_percent');
        v_found := v_found || jsonb_build_object('category', 'budget',
            'priority', CASE WHEN v_used >= lead.setting_number('budget_alert_percent') THEN 'high' ELSE 'medium' END,
            'message', format('%s %% of the daily budget is held or spent', round(v_used, 1)),
            'action', 'raise daily_budget_usd, or lower the priority of what can wait until tomorrow',
            'metric_value', v_used, 'threshold', v_limit);
    END IF;

    v_limit := lead.setting_number('resource_warning_percent');
    FOR v_entry IN
        SELECT r.name, lead.number_at(p_resource_stats, r.name, 'utilization_percent') AS used, r.action
        FROM (VALUES
            ('database_connections',
                'give fewer processes a connection, or raise database_connection_limit if the server allows it'),
            ('memory', 'lower max_concurrent_workflows, or raise memory_limit_mb if the machine has more')
        ) AS r (name, action)
    LOOP
        IF v_entry.used >= v_limit THEN
            v_found := v_found || jsonb_build_object('category', v_entry.name, 'priority', 'medium',
                'message', format('%s %% of the %s in use', round(v_entry.used, 1), replace(v_entry.name, '_', ' ')),
                'action', v_entry.action, 'metric_value', v_entry.used, 'threshold', v_limit);
        END IF;
    END LOOP;

    IF jsonb_typeof(p_resource_stats -> 'api_limits') = 'object' THEN
        FOR v_entry IN
            SELECT l.key AS provider, l.value ->> 'breaker_state' AS state, lead.number_at(l.value, 'utilization_percent') AS used
            FROM jsonb_each(p_resource_stats -> 'api_limits') AS l
            ORDER BY l.key
        LOOP
            IF v_entry.state IN ('open', 'half_open') THEN
                v_found := v_found || jsonb_build_object('category', 'provider', 'priority', 'high',
                    'message', format('the circuit breaker of %s is %s', v_entry.provider, replace(v_entry.state, '_', '-')),
                    'action', format('look at the status page and the key of %s; work goes to the other providers meanwhile',
                        v_entry.provider),
                    'metric_value', NULL, 'threshold', NULL);
            ELSIF v_entry.used >= v_limit AND v_waiting > 0 THEN
                v_found := v_found || jsonb_build_object('category', 'provider', 'priority', 'low',
                    'message', format('%s tasks wait and %s is used at %s %% of its limit', v_waiting, v_entry.provider,
                        round(v_entry.used)),
                    'action', format('a higher quota at %s would make the queue shorter', v_entry.provider),
                    'metric_value', v_entry.used, 'threshold', v_limit);
            END IF;
        END LOOP;
    END IF;

    IF lead.number_at(p_health_stats, 'dead_letters') > 0 THEN
        v_found := v_found || jsonb_build_object('category', 'dead_letters', 'priority', 'medium',
            'message', format('%s tasks lie in the dead-letter queue', lead.number_at(p_health_stats, 'dead_letters')),
            'action', 'read list_dead_letters(): each row has its reason and whole context; replay_dead_letters and discard_dead_letters empty it',
            'metric_value', lead.number_at(p_health_stats, 'dead_letters'), 'threshold', 0);
    END IF;
    IF v_waiting > 0 AND v_total = 0 AND coalesce(lead.number_at(p_execution_stats, 'active_executions'), 0) = 0 THEN
        v_found := v_found || jsonb_build_object('category', 'coordinator', 'priority', 'high',
            'message', format('%s tasks wait and nothing ran', v_waiting),
            'action', 'see that coordinator_schedule and dispatch_sensor are running', 'metric_value', v_waiting, 'threshold', 0);
    END IF;
    RETURN ARRAY(
        SELECT f.entry
        FROM unnest(v_found) WITH ORDINALITY AS f (entry, position)
        ORDER BY array_position(ARRAY['high', 'medium', 'low'], f.entry ->> 'priority'), f.position
    );
END;
$$;

-- Dashboard --------------------------------------------------------------------------------------------------------------
-- Past executions come from the hourly rows of execution_history, which stay few however many executions there were. The range is
-- whole hours: the current one and those that began within p_hours_back hours.
CREATE OR REPLACE FUNCTION lead.watch_history(p_hours_back integer, p_current_time timestamptz) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now timestamp := date_trunc('hour', p_current_time AT TIME ZONE lead.setting_text('coordinator_timezone'));
    v_from timestamp := v_now - make_interval(hours => p_hours_back);
    v_stats jsonb;
BEGIN
    WITH hours AS (
        SELECT h.*
        FROM lead.workflow_policy AS p
        CROSS JOIN LATERAL (
            SELECT e.*
            FROM public.execution_history AS e
            WHERE e.workflow_type = p.workflow_type AND e.execution_date BETWEEN v_from::date AND v_now::date
                AND e.execution_date + make_interval(hours => e.hour_of_day) BETWEEN v_from AND v_now
        ) AS h
    ), summed AS (
        SELECT
            CASE WHEN grouping(h.workflow_type) = 0 THEN h.workflow_type END AS workflow_type,
            jsonb_build_object(
                'total_executions', coalesce(sum(h.total_executions), 0),
                'successful_executions', coalesce(sum(h.successful_executions), 0),
                'failed_executions', coalesce(sum(h.failed_executions), 0),
                'success_rate_percent', lead.percent_of(sum(h.successful_executions), sum(h.total_executions)),
                'avg_duration_ms', round(sum(h.avg_duration_ms * h.total_executions) / nullif(sum(h.total_executions), 0), 1),
                'avg_batch_size', round(sum(h.avg_batch_size * h.total_executions) / nullif(sum(h.total_executions), 0), 2),
                'api_calls', coalesce(round(sum(h.avg_api_calls * h.total_executions)), 0),
                'total_cost_usd', coalesce(sum(h.total_cost), 0)::numeric(20, 10),
                'items_processed', coalesce(sum(h.content_items_processed), 0),
                'tasks_completed', coalesce(sum(h.tasks_completed), 0),
                'tasks_failed', coalesce(sum(h.tasks_failed), 0),
                'peak_concurrent_executions', coalesce(max(h.peak_concurrent_executions), 0),
                'revenue_usd', coalesce(sum(h.revenue_generated), 0)::numeric(20, 10)
            ) AS figures
        FROM hours AS h
        GROUP BY GROUPING SETS ((h.workflow_type), ())
    ), hourly AS (
        SELECT h.execution_date, h.hour_of_day, jsonb_build_object(
            'hour', (h.execution_date + make_interval(hours => h.hour_of_day))
                AT TIME ZONE lead.setting_text('coordinator_timezone'),
            'total', sum(h.total_executions),
            'failed', sum(h.failed_executions), 'cost_usd', sum(h.total_cost), 'items', sum(h.content_items_processed)
        ) AS figures
        FROM hours AS h
        GROUP BY h.execution_date, h.hour_of_day
    )
    SELECT (SELECT s.figures FROM summed AS s WHERE s.workflow_type IS NULL) || jsonb_build_object(
        'by_workflow', coalesce(
            (SELECT jsonb_object_agg(s.workflow_type, s.figures) FROM summed AS s WHERE s.workflow_type IS NOT NULL), '{}'),
        'by_hour', coalesce(
            (SELECT jsonb_agg(h.figures ORDER BY h.execution_date, h.hour_of_day) FROM hourly AS h), '[]')
    ) INTO v_stats;
    RETURN v_stats;
END;
$$;

CREATE OR REPLACE FUNCTION public.get_coordinator_dashboard(
    p_hours_back integer DEFAULT 24, p_current_time timestamptz DEFAULT now()
) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp SET jit = off
AS $$
DECLARE
    v_since timestamptz := lead.valid_time('p_current_time', p_current_time) - make_interval(hours => least(p_hours_back, 2161));
    v_health jsonb;
    v_budget record;
    v_capacity record;
    v_tasks record;
    v_executions jsonb;
    v_resources jsonb;
    v_performance jsonb;
    v_health_stats jsonb;
BEGIN
    IF p_hours_back IS NULL OR p_hours_back NOT BETWEEN 1 AND 2160 THEN
        PERFORM lead.refuse('p_hours_back', p_hours_back::text, '1 to 2160 hours are allowed');
    END IF;
    v_health := public.check_system_health_comprehensive(p_current_time);
    SELECT * INTO v_budget FROM lead.watch_budget(p_current_time);
    SELECT * INTO v_capacity FROM lead.capacity(p_current_time);
    SELECT * INTO v_tasks FROM lead.watch_tasks(v_since, p_current_time);

    v_executions := lead.watch_history(p_hours_back, p_current_time) || (
        SELECT jsonb_build_object(
            'active_executions', count(*),
            'pending_executions', count(*) FILTER (WHERE w.status = 'pending'),
            'running_executions', count(*) FILTER (WHERE w.status = 'running')
        )
        FROM public.workflow_orchestration AS w
        WHERE w.status IN ('pending', 'analyzing', 'dispatching', 'running')
    );

    v_resources := jsonb_build_object(
        'budget', jsonb_build_object('limit_usd', v_budget.limit_usd, 'spent_usd', v_budget.spent_usd, 'held_usd',
            v_budget.held_usd,
            'day', v_budget.budget_day,
            'utilization_percent', lead.percent_of(v_budget.spent_usd + v_budget.held_usd, v_budget.limit_usd),
            'accounts', (SELECT coalesce(jsonb_agg(to_jsonb(a)), '[]') FROM lead.watch_accounts(p_current_time) AS a)),
        'database_connections', jsonb_build_object('used', v_capacity.connections_used, 'limit', v_capacity.connection_limit,
            'utilization_percent', lead.percent_of(v_capacity.connections_used, v_capacity.connection_limit)),
        'memory', jsonb_build_object('used_mb', v_capacity.memory_used_mb, 'limit_mb', v_capacity.memory_limit_mb,
            'utilization_percent', lead.percent_of(v_capacity.memory_used_mb, v_capacity.memory_limit_mb)),
        'api_limits', (
            SELECT coalesce(jsonb_object_agg(p.provider, jsonb_build_object('limit_per_minute', p.limit_per_minute,
                'used_last_60s', p.used_last_60s, 'utilization_percent', lead.percent_of(p.used_last_60s, p.limit_per_minute),
                'breaker_state', p.breaker_state, 'available', p.usable, 'reason', p.reason)), '{}')
            FROM lead.watch_providers(p_current_time) AS p
        ),
        'peak_utilization_percent', (
            SELECT coalesce(jsonb_object_agg(m.resource, m.peak), '{}')
            FROM (
                SELECT coalesce(u.resource_type || ':' || u.provider, u.resource_type) AS resource,
                    max(u.utilization_percent) AS peak
                FROM public.resource_usage AS u
                WHERE u.timestamp > v_since AND u.timestamp <= p_current_time
                GROUP BY 1
            ) AS m
        )
    );

    v_performance := jsonb_build_object(
        'avg_response_time_ms', lead.number_at(v_health, 'metrics', 'avg_response_time_ms'),
        'queue_depth', lead.number_at(v_health, 'metrics', 'queue_depth'),
        'wait_seconds', jsonb_build_object('p50', v_tasks.wait_p50, 'p95', v_tasks.wait_p95),
        'latency_seconds', jsonb_build_object('p50', v_tasks.latency_p50, 'p95', v_tasks.latency_p95),
        'cost_per_article_usd', v_tasks.cost_per_article_usd,
        'items_per_hour', round((v_executions ->> 'items_processed')::numeric / p_hours_back, 2),
        'state_durations', lead.watch_states(v_since, p_current_time),
        'decisions', (
            SELECT jsonb_build_object('total', count(*), 'dispatched', count(*) FILTER (WHERE t.outcome = 'dispatched'),
                'refused', count(*) FILTER (WHERE t.outcome = 'refused'), 'avg_ms', round(avg(t.duration_ms), 3),
                'max_ms', max(t.duration_ms), 'last_at', max(t.decided_at))
            FROM lead.tick AS t
            WHERE t.decided_at > v_since AND t.decided_at <= p_current_time
        )
    );

    v_health_stats := jsonb_build_object(
        'overall_status', v_health -> 'overall_status',
        'can_proceed', v_health -> 'can_proceed',
        'reason', v_health -> 'reason',
        'critical_issues', v_health -> 'critical_issues',
        'warnings', v_health -> 'warnings',
        'queue_depth', v_health #> '{metrics,queue_depth}',
        'dead_letters', (SELECT coalesce(sum(d.tasks), 0) FROM lead.queue_depth_delta AS d WHERE d.status = 'dead_letter'),
        'errors_logged', (
            SELECT count(*) FROM lead.error_log AS e WHERE e.occurred_at > v_since AND e.occurred_at <= p_current_time
        ),
        'unhealthy_metrics', (
            SELECT coalesce(jsonb_object_agg(h.metric_name, h.metric_value), '{}')
                FROM public.system_health AS h WHERE NOT h.is_healthy
        ),
        'breakers', (SELECT coalesce(jsonb_object_agg(b.name, b.state), '{}') FROM lead.circuit_breaker AS b)
    ) || (
        SELECT jsonb_build_object('coordinator_state', c.state, 'state_since', c.state_entered_at,
            'state_duration_ms', greatest(0, round(1000 * extract(EPOCH FROM p_current_time - c.state_entered_at))))
        FROM lead.coordinator AS c
    );

    RETURN jsonb_build_object('coordinator_dashboard', jsonb_build_object(
        'generated_at', p_current_time,
        'time_range_hours', p_hours_back,
        'execution_stats', v_executions,
        'resource_stats', v_resources,
        'performance_stats', v_performance,
        'health_stats', v_health_stats,
        'recommendations', to_jsonb(public.generate_coordinator_recommendations(v_executions, v_resources, v_health_stats))
    ));
END;
$$;

-- Alerts -----------------------------------------------------------------------------------------------------------------
-- critical: system_failure, budget_exceeded, high_error_rate. warning: a resource near its limit, performance falling. info:
-- daily_summary (always), advice. metric_value and threshold are in the unit that the message names.
CREATE OR REPLACE FUNCTION public.check_coordinator_alerts(p_current_time timestamptz DEFAULT now())
RETURNS TABLE (alert_type text, severity text, message text, metric_value numeric, threshold numeric)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp SET jit = off
AS $$
DECLARE
    v_window_minutes integer := lead.setting_number('health_window_minutes')::integer;
    v_since timestamptz := lead.valid_time('p_current_time', p_current_time) - make_interval(mins => v_window_minutes);
    v_minimum numeric := lead.setting_number('failure_rate_minimum');
    v_near numeric := lead.setting_number('resource_warning_percent');
    v_waiting bigint;
    v_last_tick timestamptz;
    v_limit numeric;
    v_value numeric;
    v_budget record;
    v_capacity record;
    v_row record;
BEGIN
    -- System failure ------------------------------------------------------------------------------------------------------
    SELECT coalesce(sum(d.tasks), 0) INTO v_waiting FROM lead.queue_depth_delta AS d WHERE d.status = 'queued';
    SELECT greatest(c.state_entered_at, (SELECT max(t.decided_at) FROM lead.tick AS t)) INTO v_last_tick
        FROM lead.coordinator AS c;
    v_limit := lead.setting_number('tick_overdue_minutes');
    v_value := round(extract(EPOCH FROM p_current_time - v_last_tick) / 60, 1);
    IF v_waiting > 0 AND v_value >= v_limit THEN
        RETURN QUERY SELECT 'system_failure', 'critical',
            format('%s tasks wait and the coordinator has not decided for %s minutes', v_waiting, round(v_value)), v_value,
                v_limit;
    END IF;

    v_limit := lead.setting_number('recovery_overdue_seconds');
    SELECT count(*) AS lost, round(max(extract(EPOCH FROM p_current_time - w.lease_expires_at))) AS oldest INTO v_row
    FROM public.workflow_orchestration AS w
    WHERE w.status = 'running' AND w.lease_expires_at < p_current_time - make_interval(secs => v_limit::double precision);
    IF v_row.lost > 0 THEN
        RETURN QUERY SELECT 'system_failure', 'critical',
            format('%s executions lost their lease up to %s s ago and nothing recovered them', v_row.lost, v_row.oldest),
                v_row.oldest, v_limit;
    END IF;

    SELECT count(*) AS providers, count(*) FILTER (WHERE p.usable) AS usable,
        string_agg(p.reason, '; ' ORDER BY p.provider) AS reasons
    INTO v_row
    FROM lead.watch_providers(p_current_time) AS p;
    IF v_row.usable = 0 THEN
        RETURN QUERY SELECT 'system_failure', 'critical',
            format('0 of %s providers can be called: %s', v_row.providers,
                coalesce(v_row.reasons, 'api_rate_limits has no rows')), 0::numeric, 1::numeric;
    END IF;

    -- Budget ----------------------------------------------------------------------------------------------------------------
    SELECT * INTO v_budget FROM lead.watch_budget(p_current_time);
    v_value := lead.percent_of(v_budget.spent_usd + v_budget.held_usd, v_budget.limit_usd);
    IF v_budget.spent_usd + v_budget.held_usd >= v_budget.limit_usd THEN
        RETURN QUERY SELECT 'budget_exceeded', 'critical', format('budget %s of %s USD held or spent: nothing more starts today',
            lead.dollars(v_budget.spent_usd + v_budget.held_usd), lead.dollars(v_budget.limit_usd)),
            v_budget.spent_usd + v_budget.held_usd, v_budget.limit_usd;
    ELSIF v_value >= lead.setting_number('budget_warning_percent') THEN
        v_limit := CASE WHEN v_value >= lead.setting_number('budget_alert_percent')
            THEN lead.setting_number('budget_alert_percent')
            ELSE lead.setting_number('budget_warning_percent') END;
        RETURN QUERY SELECT 'budget_near_limit', 'warning', format('budget %s of %s USD held or spent (%s %%)',
            lead.dollars(v_budget.spent_usd + v_budget.held_usd), lead.dollars(v_budget.limit_usd), round(v_value)), v_value,
                v_limit;
    END IF;

    RETURN QUERY
    SELECT CASE WHEN a.utilization_percent >= 100 THEN 'account_exceeded' ELSE 'account_near_limit' END, 'warning',
        format('budget of %s %s: %s of %s USD held or spent (%s %%)%s', a.scope, a.scope_key,
            lead.dollars(a.spent_usd + a.held_usd), lead.dollars(a.limit_usd), round(a.utilization_percent),
            CASE WHEN a.utilization_percent >= 100 THEN ': it pays nothing more today' ELSE '' END),
        a.utilization_percent,
        CASE WHEN a.utilization_percent >= 100 THEN 100
            WHEN a.utilization_percent >= lead.setting_number('budget_alert_percent') THEN lead.setting_number('budget_alert_percent')
            ELSE lead.setting_number('budget_warning_percent') END
    FROM lead.watch_accounts(p_current_time) AS a
    WHERE a.utilization_percent >= lead.setting_number('budget_warning_percent');

    -- Outcomes --------------------------------------------------------------------------------------------------------------
    SELECT coalesce(sum(o.completed + o.failed + o.timed_out), 0) AS ended, coalesce(sum(o.failed + o.timed_out), 0) AS failed
        INTO v_row
    FROM lead.watch_outcomes(v_since, p_current_time) AS o;
    v_value := lead.percent_of(v_row.failed, v_row.ended);
    IF v_row.ended >= v_minimum AND v_value >= lead.setting_number('failure_rate_warning_percent') THEN
        v_limit := lead.setting_number('failure_rate_critical_percent');
        RETURN QUERY SELECT
            CASE WHEN v_value >= v_limit THEN 'high_error_rate' ELSE 'error_rate_rising' END,
            CASE WHEN v_value >= v_limit THEN 'critical' ELSE 'warning' END,
            format('%s of %s executions failed in the last %s minutes', v_row.failed, v_row.ended, v_window_minutes),
            v_value,
            CASE WHEN v_value >= v_limit THEN v_limit ELSE lead.setting_number('failure_rate_warning_percent') END;
    END IF;

    v_limit := lead.setting_number('slowdown_warning_percent');
    RETURN QUERY
    SELECT 'performance_degraded', 'warning', format('%s takes %s s on average, %s s in the seven days before', o.workflow_type,
        round(o.mean_duration_ms / 1000, 1), round(past.mean_ms / 1000, 1)), o.mean_duration_ms,
            round(past.mean_ms * (1 + v_limit / 100), 1)
    FROM lead.watch_outcomes(v_since, p_current_time) AS o
    CROSS JOIN LATERAL (
        SELECT sum(h.avg_duration_ms * h.total_executions) / nullif(sum(h.total_executions), 0) AS mean_ms
        FROM public.execution_history AS h
        WHERE h.workflow_type = o.workflow_type AND h.execution_date BETWEEN lead.budget_day(v_since) - 7
            AND lead.budget_day(v_since) - 1
    ) AS past
    WHERE o.completed >= v_minimum AND o.mean_duration_ms > past.mean_ms * (1 + v_limit / 100)
    ORDER BY o.workflow_type;

    v_limit := lead.setting_number('response_time_warning_ms');
    SELECT round(avg(extract(EPOCH FROM c.settled_at - c.sent_at) * 1000), 1) INTO v_value
    FROM lead.api_call AS c
    WHERE c.reserved_at > v_since AND c.reserved_at <= p_current_time AND c.outcome = 'ok';
    IF v_value >= v_limit THEN
        RETURN QUERY SELECT 'performance_degraded', 'warning', format('providers answer in %s ms on average', round(v_value)),
            v_value, v_limit;
    END IF;

    -- Resources ---------------------------------------------------------------------------------------------------------------
    SELECT * INTO v_capacity FROM lead.capacity(p_current_time);
    RETURN QUERY
    SELECT 'resource_near_limit', 'warning', format('%s of %s %s in use', r.used, r.capacity, r.unit), r.used::numeric,
        round(r.capacity * v_near / 100, 1)
    FROM (VALUES
        (v_capacity.connections_used, v_capacity.connection_limit, 'database connections'),
        (v_capacity.memory_used_mb, v_capacity.memory_limit_mb, 'MB of memory')
    ) AS r (used, capacity, unit)
    WHERE r.used >= r.capacity * v_near / 100;

    RETURN QUERY
    SELECT 'circuit_breaker_open', 'warning',
        format('the circuit breaker of %s is %s after %s failures: %s', replace(b.name, ':', ' '),
        replace(b.state, '_', '-'), b.consecutive_failures, coalesce(left(b.last_error, 200), 'no error was kept')),
        b.consecutive_failures::numeric, lead.setting_number('breaker_failures')
    FROM lead.circuit_breaker AS b
    WHERE b.state <> 'closed'
    ORDER BY b.name;

    v_limit := lead.setting_number('queue_depth_warning');
    IF v_waiting >= v_limit THEN
        RETURN QUERY SELECT 'queue_backlog', 'warning', format('%s tasks waiting', v_waiting), v_waiting::numeric, v_limit;
    END IF;

    SELECT count(*) INTO v_value
    FROM lead.task_attempt AS a
    WHERE a.ended_at > v_since AND a.ended_at <= p_current_time AND a.outcome = 'dead_letter';
    IF v_value > 0 THEN
        RETURN QUERY SELECT 'dead_letters', 'warning',
            format('%s tasks went to the dead-letter queue in the last %s minutes', v_value, v_window_minutes), v_value,
                0::numeric;
    END IF;

    -- A snapshot held open keeps dead rows alive and makes every claim slower.
    v_limit := lead.setting_number('transaction_age_warning_seconds');
    SELECT round(max(extract(EPOCH FROM p_current_time - s.xact_start))) INTO v_value
    FROM pg_stat_activity AS s
    WHERE s.datname = current_database() AND s.backend_type = 'client backend' AND s.pid <> pg_backend_pid();
    IF v_value >= v_limit THEN
        RETURN QUERY SELECT 'long_transaction', 'warning', format('a transaction has been open for %s s', v_value), v_value,
            v_limit;
    END IF;

    -- For information -------------------------------------------------------------------------------------------------------
    RETURN QUERY
    SELECT 'daily_summary', 'info',
        format('%s: %s executions, %s failed; %s tasks completed; %s of %s USD spent', v_budget.budget_day,
        coalesce(sum(h.total_executions), 0), coalesce(sum(h.failed_executions), 0), coalesce(sum(h.tasks_completed), 0),
        lead.dollars(v_budget.spent_usd), lead.dollars(v_budget.limit_usd)), coalesce(sum(h.total_executions), 0)::numeric,
            NULL::numeric
    FROM public.execution_history AS h
    WHERE h.execution_date = v_budget.budget_day;

    RETURN QUERY
    SELECT 'advice', 'info', format('%s: %s', r.advice ->> 'message', r.advice ->> 'action'),
        lead.number_at(r.advice, 'metric_value'),
        lead.number_at(r.advice, 'threshold')
    FROM jsonb_array_elements(public.get_coordinator_dashboard(24,
        p_current_time) #> '{coordinator_dashboard,recommendations}') AS r (advice);
END;
$$;

-- Validation -------------------------------------------------------------------------------------------------------------
DROP FUNCTION IF EXISTS lead.object_fingerprints();
DROP FUNCTION IF EXISTS lead.record_deployed_objects();

-- Everything the files define, in words that are the same on every server version, the owner's name left out.
CREATE OR REPLACE FUNCTION lead.object_definitions() RETURNS TABLE (kind text, name text, definition text)
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    WITH ours AS (
        SELECT o.oid, o.relkind, format('%I.%I', o.schema_name, o.relation_name) AS name FROM lead.our_relations() AS o
    )
    SELECT CASE o.relkind WHEN 'r' THEN 'table' ELSE 'view' END, o.name,
        -- Without layout and table aliases, which servers print differently.
        CASE o.relkind WHEN 'v' THEN concat_ws(' ',
            (SELECT string_agg(v.option, ',' ORDER BY v.option) FROM unnest(c.reloptions) AS v (option)),
            (SELECT string_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)), ',' ORDER BY a.attnum)
                FROM pg_attribute AS a WHERE a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped),
            regexp_replace(regexp_replace(pg_get_viewdef(o.oid), '\m[a-z]+\.', '', 'g'), '[\s()]+', ' ', 'g')) ELSE '' END
    FROM ours AS o
    INNER JOIN pg_class AS c ON c.oid = o.oid
    UNION ALL
    SELECT 'row security', o.name, concat_ws(' ', CASE WHEN c.relrowsecurity THEN 'enabled' ELSE 'off' END,
        CASE WHEN c.relforcerowsecurity THEN 'forced' ELSE 'not forced' END)
    FROM ours AS o
    INNER JOIN pg_class AS c ON c.oid = o.oid
    WHERE o.relkind = 'r'
    UNION ALL
    SELECT 'storage', o.name, (SELECT string_agg(v.option, ', ' ORDER BY v.option) FROM unnest(c.reloptions) AS v (option))
    FROM ours AS o
    INNER JOIN pg_class AS c ON c.oid = o.oid
    WHERE o.relkind = 'r' AND c.reloptions IS NOT NULL
    UNION ALL
    SELECT 'column', format('%s.%I', o.name, a.attname), concat_ws(' ', format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attnotnull THEN 'NOT NULL' END,
        CASE a.attidentity WHEN 'a' THEN 'GENERATED ALWAYS' WHEN 'd' THEN 'GENERATED BY DEFAULT' END,
        CASE a.attgenerated WHEN 's' THEN 'STORED' END, 'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid))
    FROM ours AS o
    INNER JOIN pg_attribute AS a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef AS d ON d.adrelid = o.oid AND d.adnum = a.attnum
    WHERE o.relkind = 'r'
    UNION ALL
    SELECT 'constraint', format('%s.%I', o.name, c.conname), concat_ws(' ', pg_get_constraintdef(c.oid),
        CASE WHEN NOT c.convalidated AND pg_get_constraintdef(c.oid) NOT LIKE '%NOT VALID' THEN 'NOT VALID' END)
    FROM ours AS o
    INNER JOIN pg_constraint AS c ON c.conrelid = o.oid AND c.contype IN ('p', 'u', 'f', 'c')
    UNION ALL
    SELECT 'index', format('%I.%I', n.nspname, c.relname),
        concat_ws(' ', pg_get_indexdef(i.indexrelid), CASE WHEN NOT i.indisvalid THEN 'INVALID' END)
    FROM ours AS o
    INNER JOIN pg_index AS i ON i.indrelid = o.oid
    INNER JOIN pg_class AS c ON c.oid = i.indexrelid
    INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
    UNION ALL
    SELECT 'trigger', format('%s.%I', o.name, t.tgname), concat_ws(' ', pg_get_triggerdef(t.oid),
        CASE t.tgenabled WHEN 'O' THEN NULL WHEN 'D' THEN 'DISABLED' ELSE 'ENABLED ' || t.tgenabled::text END)
    FROM ours AS o
    INNER JOIN pg_trigger AS t ON t.tgrelid = o.oid AND NOT t.tgisinternal
    UNION ALL
    SELECT 'policy', format('%s.%I', o.name, p.polname), concat_ws(' ',
        CASE p.polcmd WHEN '*' THEN 'ALL' WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' ELSE 'DELETE' END,
        'TO', CASE WHEN 0 = ANY (p.polroles) THEN 'PUBLIC' ELSE (
            SELECT string_agg(CASE WHEN r.oid = c.relowner THEN 'the owner' ELSE r.rolname END, ', ' ORDER BY r.rolname)
            FROM pg_roles AS r WHERE r.oid = ANY (p.polroles)
        ) END, 'USING ' || pg_get_expr(p.polqual, p.polrelid), 'WITH CHECK ' || pg_get_expr(p.polwithcheck, p.polrelid),
        CASE WHEN NOT p.polpermissive THEN 'RESTRICTIVE' END)
    FROM ours AS o
    INNER JOIN pg_class AS c ON c.oid = o.oid
    INNER JOIN pg_policy AS p ON p.polrelid = o.oid
    UNION ALL
    SELECT 'sequence', format('%I.%I', n.nspname, c.relname), ''
    FROM pg_class AS c
    INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind = 'S' AND n.nspname = 'lead'
        AND NOT EXISTS (
            SELECT 1 FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'i'
        )
    UNION ALL
    SELECT 'function', f.name, lead.function_definition(f.oid)
    FROM lead.our_functions() AS f;
$$;

-- What is wrong with the objects: each that is missing, altered or of somebody else's making, by name. Tables and what hangs on
-- them are compared with lead.expected_objects (generated from a fresh deployment into the last file), functions with what was
-- recorded when their file was applied.
CREATE OR REPLACE FUNCTION lead.object_problems() RETURNS TABLE (is_error boolean, message text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH found AS (
        SELECT d.kind, d.name, d.definition,
            CASE d.kind WHEN 'function' THEN encode(sha256(convert_to(d.definition, 'UTF8')), 'hex')
                ELSE left(encode(sha256(convert_to(d.definition, 'UTF8')), 'hex'), 12) END AS fingerprint
        FROM lead.object_definitions() AS d
    ), wanted AS (
        SELECT e.kind, e.name, coalesce(e.fingerprint, r.fingerprint) AS fingerprint
        FROM lead.expected_objects() AS e
        LEFT JOIN lead.deployed_object AS r ON r.kind = e.kind AND r.name = e.name
    )
    SELECT coalesce(w.kind, f.kind) <> 'storage' AND (w.name IS NOT NULL OR f.kind IN ('policy', 'trigger')),
        CASE
            WHEN f.name IS NULL THEN format('%s %s is missing', w.kind, w.name)
            WHEN w.name IS NULL THEN format('%s %s was added by somebody else', f.kind, f.name)
            WHEN f.kind = 'row security' AND f.definition LIKE 'off%' THEN format('table %s has no row-level security', f.name)
            WHEN f.kind = 'row security' THEN format('table %s does not force row-level security on its owner', f.name)
            WHEN f.kind IN ('function', 'view') THEN format('%s %s is altered', f.kind, f.name)
            ELSE format('%s %s is altered: %s', f.kind, f.name, f.definition)
        END
    FROM wanted AS w
    FULL JOIN found AS f ON f.kind = w.kind AND f.name = w.name
    WHERE f.fingerprint IS DISTINCT FROM w.fingerprint
        AND NOT (w.name IS NULL AND f.kind = 'function' AND f.name = ANY (lead.outgoing_functions()))
    UNION ALL
    SELECT true, format('%s %s belongs to %s, not to %s, the owner of schema lead', o.kind, o.name, o.owner::regrole,
        n.nspowner::regrole)
    FROM (
        SELECT CASE r.relkind WHEN 'r' THEN 'table' ELSE 'view' END AS kind,
            format('%I.%I', r.schema_name, r.relation_name) AS name, c.relowner AS owner
        FROM lead.our_relations() AS r INNER JOIN pg_class AS c ON c.oid = r.oid
        UNION ALL
        SELECT 'function', f.name, p.proowner FROM lead.our_functions() AS f INNER JOIN pg_proc AS p ON p.oid = f.oid
    ) AS o
    INNER JOIN pg_namespace AS n ON n.nspname = 'lead' AND n.nspowner <> o.owner;
END;
$$;

-- What outsiders rely on, said once more and independently of the files' own record: tables with columns, functions with
-- parameters. A record can be altered together with the object; this list can't.
CREATE OR REPLACE FUNCTION lead.contract() RETURNS TABLE (kind text, name text, parts text[])
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT 'relation', c.name, string_to_array(c.parts, ' ')
    FROM (VALUES
        ('workflow_orchestration',
            'id execution_id workflow_type status priority_score scheduled_at started_at completed_at timeout_at '
            'batch_size estimated_cost actual_cost api_calls_allocated memory_allocated_mb input_context output_result '
            'error_details metrics '
            'parent_execution_id worker_id retry_count max_retries created_at updated_at'),
        ('task_queue', 'id task_type priority_base priority_calculated age_minutes payload dependencies '
            'estimated_duration_ms estimated_cost status deferred_until defer_reason predicted_success_rate complexity_score '
            'created_at processed_at'),
        ('workflow_states', 'id execution_id state previous_state transition_reason entered_at duration_ms state_data '
            'cpu_usage_percent memory_usage_mb active_connections'),
        ('resource_usage', 'id timestamp resource_type used_amount total_capacity utilization_percent soft_limit hard_limit '
            'threshold_alert_sent execution_id workflow_type provider metadata'),
        ('api_rate_limits', 'provider requests_per_minute requests_used_current_minute minute_reset_at daily_cost_limit '
            'daily_cost_used day_reset_at is_available last_error_at consecutive_errors burst_capacity burst_used '
            'adaptive_limit updated_at'),
        ('system_health', 'id metric_name metric_value metric_unit threshold_warning threshold_critical is_healthy '
            'previous_value trend_direction change_rate source tags last_updated'),
        ('execution_history', 'workflow_type execution_date hour_of_day total_executions successful_executions failed_executions '
            'avg_duration_ms total_cost avg_api_calls avg_memory_mb avg_batch_size peak_concurrent_executions avg_success_rate '
            'avg_quality_score content_items_processed revenue_generated'),
        ('coordinator_monitoring', 'execution_id duration_ms current_state')
    ) AS c (name, parts)
    UNION ALL
    SELECT 'function', c.name, string_to_array(c.parts, ' ')
    FROM (VALUES
        ('orchestrate_workflow_execution', 'p_worker_id p_current_time p_max_concurrent p_debug_mode'),
        ('check_system_health_comprehensive', ''),
        ('get_intelligent_scheduled_tasks', 'p_current_time p_max_concurrent'),
        ('check_comprehensive_resource_availability', 'p_scheduled_tasks'),
        ('create_optimal_execution_plan', 'p_scheduled_tasks p_resource_status p_worker_id p_current_time'),
        ('reserve_execution_resources', 'p_execution_plan'),
        ('create_execution_records', 'p_execution_plan p_worker_id'),
        ('update_coordinator_state', 'p_state p_execution_plan p_worker_id'),
        ('record_orchestration_metrics', 'p_execution_plan p_system_health p_timestamp'),
        ('log_orchestration_error', 'p_error_code p_error_message p_execution_context p_worker_id'),
        ('get_coordinator_dashboard', 'p_hours_back'),
        ('generate_coordinator_recommendations', 'p_execution_stats p_resource_stats p_health_stats'),
        ('check_coordinator_alerts', ''),
        ('validate_coordinator_deployment', ''),
        ('run_coordinator_test_suite', ''),
        ('analyze_test_results', ''),
        ('benchmark_coordinator_performance', 'p_iterations')
    ) AS c (name, parts);
$$;

-- What would make grants and row-level security mean nothing: attributes of the roles, who is a member of whom, and a setting that
-- switches triggers off. (On Supabase service_role has BYPASSRLS, and its grants are what holds it.)
CREATE OR REPLACE FUNCTION lead.role_problems() RETURNS TABLE (message text)
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    WITH owner AS (
        SELECT n.nspowner AS oid FROM pg_namespace AS n WHERE n.nspname = 'lead'
    ), ours AS (
        SELECT r.oid, r.rolname::text AS name, r.rolsuper, r.rolbypassrls FROM pg_roles AS r
        WHERE r.rolname IN ('anon', 'authenticated', 'service_role', 'lead_application', 'lead_dashboard')
    )
    SELECT format('role %s is a superuser', o.name) FROM ours AS o WHERE o.rolsuper
    UNION ALL
    SELECT format('role %s passes by row-level security (BYPASSRLS)', o.name)
    FROM ours AS o WHERE o.rolbypassrls AND NOT o.rolsuper AND o.name <> 'service_role'
    UNION ALL
    SELECT format('role %s may act as %s', o.name, m.rolname)
    FROM ours AS o
    INNER JOIN pg_roles AS m ON m.oid <> o.oid AND (
        m.oid IN (SELECT w.oid FROM owner AS w)
        OR m.rolname = 'service_role'
        OR (m.rolname = 'lead_application' AND o.name <> 'service_role')
        OR (m.rolname = 'lead_dashboard' AND o.name IN ('anon', 'authenticated'))
    )
    WHERE NOT o.rolsuper AND o.oid NOT IN (SELECT w.oid FROM owner AS w) AND pg_has_role(o.oid, m.oid, 'MEMBER')
    UNION ALL
    SELECT format('%s is set to %s for %s: triggers are off', split_part(c.setting, '=', 1), split_part(c.setting, '=', 2),
        coalesce('role ' || s.setrole::regrole, 'the database'))
    FROM (SELECT d.setdatabase, nullif(d.setrole, 0) AS setrole, d.setconfig FROM pg_db_role_setting AS d) AS s
    CROSS JOIN unnest(s.setconfig) AS c (setting)
    WHERE c.setting LIKE 'session_replication_role=%' AND c.setting NOT LIKE '%=origin'
        AND s.setdatabase IN (0, (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))
        AND (s.setrole IS NULL OR s.setrole IN (SELECT o.oid FROM ours AS o UNION ALL SELECT w.oid FROM owner AS w));
$$;

CREATE OR REPLACE FUNCTION public.validate_coordinator_deployment(p_current_time timestamptz DEFAULT now()) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_errors text[];
    v_warnings text[];
BEGIN
    PERFORM lead.valid_time('p_current_time', p_current_time);
    WITH our_functions AS (
        SELECT p.oid, n.nspname, p.proname, p.prosecdef, p.proargnames,
            format('%I.%I(%s)', n.nspname, p.proname, oidvectortypes(p.proargtypes)) AS name
        FROM pg_proc AS p
        INNER JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = 'lead'
            OR (n.nspname = 'public' AND p.proconfig @> ARRAY['search_path=pg_catalog, public, lead, pg_temp'])
    ), problems (rank, message) AS (
        SELECT 1, format('role %s is missing', w.name)
        FROM unnest(ARRAY['anon', 'authenticated', 'service_role', 'lead_application', 'lead_dashboard']) AS w (name)
        WHERE NOT EXISTS (SELECT 1 FROM pg_roles AS r WHERE r.rolname = w.name)
        UNION ALL
        SELECT 2, format('%s public.%s is missing', k.kind, k.name)
        FROM lead.contract() AS k
        WHERE (k.kind = 'relation' AND to_regclass('public.' || k.name) IS NULL)
            OR (k.kind = 'function'
                AND NOT EXISTS (SELECT 1 FROM our_functions AS f WHERE f.nspname = 'public' AND f.proname = k.name))
        UNION ALL
        SELECT 3, format('column public.%s.%s is missing', k.name, c.column_name)
        FROM lead.contract() AS k
        CROSS JOIN unnest(k.parts) AS c (column_name)
        WHERE k.kind = 'relation' AND to_regclass('public.' || k.name) IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM pg_attribute AS a
            WHERE a.attrelid = to_regclass('public.' || k.name) AND a.attname = c.column_name AND NOT a.attisdropped
        )
        UNION ALL
        SELECT 4, format('function %s is altered: its parameters should begin with (%s)', f.name, array_to_string(k.parts, ', '))
        FROM lead.contract() AS k
        INNER JOIN our_functions AS f ON f.nspname = 'public' AND f.proname = k.name
        WHERE k.kind = 'function' AND coalesce(f.proargnames [:cardinality(k.parts)], '{}') <> k.parts
        UNION ALL
        SELECT 5, format('function public.%s exists %s times: calls are ambiguous', f.proname, count(*))
        FROM our_functions AS f WHERE f.nspname = 'public' GROUP BY f.proname HAVING count(*) > 1
        UNION ALL
        SELECT 6, o.message
        FROM lead.object_problems() AS o
        WHERE o.is_error AND EXISTS (SELECT 1 FROM lead.deployed_object)
            -- Said already, by the contract.
            AND NOT EXISTS (
                SELECT 1 FROM lead.contract() AS k
                WHERE k.kind = 'function' AND o.message LIKE format('function public.%s(%%) is missing', k.name)
                    AND NOT EXISTS (SELECT 1 FROM our_functions AS f WHERE f.nspname = 'public' AND f.proname = k.name)
            )
        UNION ALL
        SELECT 8, 'no object is recorded in lead.deployed_object: apply the four files again'
        WHERE NOT EXISTS (SELECT 1 FROM lead.deployed_object)
        UNION ALL
        SELECT 8, format('version: the files are %s and lead.deployment says %s: apply the four files again',
            lead.schema_version(), coalesce(newest.version, 'nothing'))
        FROM (VALUES (1)) AS one
        LEFT JOIN LATERAL (
            SELECT d.version FROM lead.deployment AS d ORDER BY lead.version_number(d.version) DESC LIMIT 1
        ) AS newest ON true
        WHERE newest.version IS DISTINCT FROM lead.schema_version()
        UNION ALL
        SELECT 10, format('grant missing: %s on %s for %s', e.privilege, regexp_replace(e.object, '^(TABLE|FUNCTION) ', ''),
            e.role_name)
        FROM lead.expected_grants() AS e
        WHERE NOT EXISTS (
            SELECT 1 FROM lead.actual_grants() AS a
            WHERE a.object = e.object AND a.role_name = e.role_name AND a.privilege = e.privilege
        ) AND EXISTS (SELECT 1 FROM pg_roles AS r WHERE r.rolname = e.role_name)
        UNION ALL
        SELECT 11, format('grant too many: %s on %s for %s', a.privilege, regexp_replace(a.object, '^(TABLE|FUNCTION) ', ''),
            a.role_name)
        FROM lead.actual_grants() AS a
        LEFT JOIN lead.expected_grants() AS e ON e.object = a.object AND e.role_name = a.role_name AND e.privilege = a.privilege
        WHERE e.object IS NULL OR a.with_option
        UNION ALL
        SELECT 12, format('function %s is not SECURITY DEFINER', f.name)
        FROM our_functions AS f WHERE f.nspname = 'public' AND NOT f.prosecdef
        UNION ALL
        SELECT 13, format('provider row %s is missing in api_rate_limits', w.provider)
        FROM unnest(ARRAY['gemini', 'openai']) AS w (provider)
        WHERE NOT EXISTS (SELECT 1 FROM public.api_rate_limits AS l WHERE l.provider = w.provider)
        UNION ALL
        SELECT 13, format('provider %s has %s rate slots, its limit is %s', l.provider, count(s.slot_no), l.requests_per_minute)
        FROM public.api_rate_limits AS l
        LEFT JOIN lead.rate_slot AS s ON s.provider = l.provider AND s.slot_no <= l.requests_per_minute
        GROUP BY l.provider, l.requests_per_minute
        HAVING count(s.slot_no) <> l.requests_per_minute
        UNION ALL
        SELECT 13, format('circuit breaker %s is missing', w.name)
        FROM (
            SELECT 'provider:' || l.provider AS name FROM public.api_rate_limits AS l
            UNION ALL
            SELECT 'pipeline:' || p.workflow_type FROM lead.workflow_policy AS p
        ) AS w
        WHERE NOT EXISTS (SELECT 1 FROM lead.circuit_breaker AS b WHERE b.name = w.name)
        UNION ALL
        SELECT 14, format('policy row %s is missing in lead.workflow_policy', w.name)
        FROM unnest(ARRAY['content_pipeline', 'seo_monitor', 'revenue_optimizer', 'intelligence_engine']) AS w (name)
        WHERE NOT EXISTS (SELECT 1 FROM lead.workflow_policy AS p WHERE p.workflow_type = w.name)
        UNION ALL
        SELECT 14, 'the row of lead.coordinator is missing'
        WHERE NOT EXISTS (SELECT 1 FROM lead.coordinator)
        UNION ALL
        SELECT 14, format('state transition missing: %s from %s to %s', t.subject, t.from_state, t.to_state)
        FROM lead.expected_transitions() AS t
        WHERE NOT EXISTS (
            SELECT 1 FROM lead.state_transition AS s
            WHERE s.subject = t.subject AND s.from_state = t.from_state AND s.to_state = t.to_state
        )
        UNION ALL
        -- Read from the bodies, so that no list of names has to be kept.
        SELECT 14, format('setting %s has no row in lead.setting: deploy again', used.name)
        FROM (
            SELECT DISTINCT m.found[1] AS name
            FROM our_functions AS f
            CROSS JOIN LATERAL regexp_matches(lead.function_definition(f.oid), 'setting_(?:text|number)[(]''([a-z_]+)', 'g') AS m (found)
        ) AS used
        WHERE NOT EXISTS (SELECT 1 FROM lead.setting AS s WHERE s.name = used.name)
        UNION ALL
        SELECT 15, r.message FROM lead.role_problems() AS r
    )
    SELECT coalesce(array_agg(DISTINCT p.message ORDER BY p.message), '{}') INTO v_errors FROM problems AS p;

    SELECT coalesce(array_agg(w.message ORDER BY w.message), '{}') INTO v_warnings
    FROM (
        SELECT format('provider %s is switched off (is_available = false)', l.provider) AS message
        FROM public.api_rate_limits AS l WHERE NOT l.is_available
        UNION ALL
        SELECT 'scratch_database is true: any p_current_time is accepted; a production database must say false'
        WHERE lead.setting_text('scratch_database') = 'true'
        UNION ALL
        SELECT format('state transition added by somebody else: %s from %s to %s', s.subject, s.from_state, s.to_state)
        FROM lead.state_transition AS s
        WHERE NOT EXISTS (
            SELECT 1 FROM lead.expected_transitions() AS t
            WHERE t.subject = s.subject AND t.from_state = s.from_state AND t.to_state = s.to_state
        )
        UNION ALL
        SELECT o.message FROM lead.object_problems() AS o WHERE NOT o.is_error AND EXISTS (SELECT 1 FROM lead.deployed_object)
        UNION ALL
        SELECT 'everybody may create objects in schema public: REVOKE CREATE ON SCHEMA public FROM PUBLIC'
        FROM pg_namespace AS n
        CROSS JOIN LATERAL aclexplode(n.nspacl) AS a
        WHERE n.nspname = 'public' AND a.grantee = 0 AND a.privilege_type = 'CREATE'
    ) AS w;

    RETURN jsonb_build_object(
        'deployment_valid', cardinality(v_errors) = 0,
        'status', CASE WHEN cardinality(v_errors) = 0 THEN 'READY' ELSE 'FAILED' END,
        'errors', to_jsonb(v_errors),
        'warnings', to_jsonb(v_warnings),
        'timestamp', p_current_time
    );
END;
$$;

DO $$
BEGIN
    PERFORM lead.record_functions();
    PERFORM lead.apply_security();
END;
$$;
COMMIT;
