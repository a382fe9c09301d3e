-- Lead Coordinator, file 2 of 4: what must be atomic. The queue, executions and their leases, calls to providers (limits,
-- breakers, budget), and the decision: orchestrate_workflow_execution.
--
--   psql … -f sql/resource-management.sql        (after sql/database-schema.sql)
--
-- Order of locks, the same everywhere: coordinator row, execution row, task rows, breaker, provider account, total account,
-- workflow account. Two processes that follow it can wait for each other, but never in a circle.
--
-- Errors: 22023 invalid input (field, value, what is allowed), LC001 task type disabled, LC002 stale lease,
-- LC003 illegal state transition, LC004 clock off, LC005 unknown task, call or execution.
\set ON_ERROR_STOP on
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL lock_timeout = '10s';

DO $$
BEGIN
    IF to_regclass('lead.coordinator') IS NULL THEN
        RAISE EXCEPTION 'sql/database-schema.sql is not deployed: run it first';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('lead_coordinator.deploy', 0));
END;
$$;

-- Arguments and time -----------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION lead.refuse(p_field text, p_value text, p_allowed text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '%: % is not allowed; %', p_field, coalesce(left(p_value, 200), 'NULL'), p_allowed USING ERRCODE = '22023';
END;
$$;

CREATE OR REPLACE FUNCTION lead.check_name(p_field text, p_value text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    IF p_value IS NULL OR length(p_value) NOT BETWEEN 1 AND 200 OR p_value ~ '[[:cntrl:]]' THEN
        PERFORM lead.refuse(p_field, p_value, 'text of 1 to 200 characters without control characters is needed');
    END IF;
END;
$$;

-- Else tomorrow's budget could be opened today.
CREATE OR REPLACE FUNCTION lead.check_clock(p_current_time timestamptz) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_off_seconds numeric := abs(extract(EPOCH FROM p_current_time - clock_timestamp()));
BEGIN
    IF p_current_time IS NULL THEN
        PERFORM lead.refuse('p_current_time', NULL, 'a time is needed');
    END IF;
    IF v_off_seconds > lead.setting_number('clock_tolerance_seconds') AND lead.setting_text('scratch_database') <> 'true' THEN
        RAISE EXCEPTION 'p_current_time: % is % seconds off this server''s clock; % are allowed (more only on a scratch database)',
            p_current_time, round(v_off_seconds), lead.setting_text('clock_tolerance_seconds') USING ERRCODE = 'LC004';
    END IF;
END;
$$;

CREATE OR REPLACE FUNCTION lead.budget_day(p_current_time timestamptz) RETURNS date
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
RETURN (p_current_time AT TIME ZONE lead.setting_text('coordinator_timezone'))::date;

CREATE OR REPLACE FUNCTION lead.seconds(p_seconds numeric) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN make_interval(secs => p_seconds::double precision);

CREATE OR REPLACE FUNCTION lead.milliseconds_until(p_then timestamptz, p_current_time timestamptz) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN least(86400000, greatest(1, ceil(1000 * extract(EPOCH FROM p_then - p_current_time))))::integer;

-- Exponential backoff, base × 2^(n − 1) up to a maximum, with jitter. The jitter is a hash of what is retried, so that a
-- replay with the same rows gives the same times.
CREATE OR REPLACE FUNCTION lead.backoff(p_base_seconds numeric, p_number integer, p_task_id bigint) RETURNS interval
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_wait numeric := least(
        lead.setting_number('retry_max_seconds'), p_base_seconds * power(2::numeric, least(greatest(p_number, 1), 30) - 1)
    );
    v_jitter numeric := lead.setting_number('retry_jitter_seconds');
    v_unit numeric := mod(abs(hashint8extended(p_task_id, p_number)::numeric), 2001) / 1000 - 1;  -- −1 to 1
BEGIN
    RETURN lead.seconds(greatest(0, v_wait + least(v_jitter, v_wait / 2) * v_unit));
END;
$$;

-- Counting ---------------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION lead.fold_queue_depth() RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    WITH folded AS (
        DELETE FROM lead.queue_depth_delta AS d
        WHERE d.ctid = ANY (ARRAY(SELECT f.ctid FROM lead.queue_depth_delta AS f LIMIT 50000 FOR UPDATE SKIP LOCKED))
            AND (SELECT count(*) FROM (SELECT 1 FROM lead.queue_depth_delta LIMIT 129) AS noted) > 128
        RETURNING d.task_type, d.status, d.tasks
    )
    INSERT INTO lead.queue_depth_delta (task_type, status, tasks)
    SELECT f.task_type, f.status, sum(f.tasks)::integer FROM folded AS f GROUP BY f.task_type, f.status HAVING sum(f.tasks) <> 0;
$$;

CREATE OR REPLACE FUNCTION lead.queue_depth(p_task_type text, p_status text) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
RETURN (
    SELECT coalesce(sum(d.tasks), 0) FROM lead.queue_depth_delta AS d
    WHERE d.task_type = p_task_type AND d.status = p_status
);

-- One probe a score instead of a scan over all that wait.
CREATE OR REPLACE FUNCTION lead.oldest_queued(p_task_type text) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
RETURN (
    SELECT min(oldest.queued_at)
    FROM generate_series(0, 100) AS s (score),
    LATERAL (
        SELECT t.queued_at FROM lead.task AS t
        WHERE t.task_type = p_task_type AND t.status = 'queued' AND t.score = s.score::smallint
        ORDER BY t.queued_at, t.id LIMIT 1
    ) AS oldest
);

-- Submitting -------------------------------------------------------------------------------------------------------
-- The first thing wrong with a task, as "field: value …", or NULL.
CREATE OR REPLACE FUNCTION lead.task_problem(p_task jsonb, p_current_time timestamptz) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_unknown text;
    v_field text;
    v_most numeric;
BEGIN
    IF jsonb_typeof(p_task) IS DISTINCT FROM 'object' THEN
        RETURN format(': %s is not a JSON object', coalesce(left(p_task::text, 100), 'NULL'));
    END IF;
    SELECT k INTO v_unknown FROM jsonb_object_keys(p_task) AS k
    WHERE k NOT IN ('task_type', 'payload', 'priority', 'idempotency_key', 'value_usd', 'deadline', 'not_before', 'dependencies', 'tenant',
        'estimated_duration_ms', 'estimated_cost', 'predicted_success_rate', 'complexity_score')
    LIMIT 1;
    IF v_unknown IS NOT NULL THEN
        RETURN format('.%s: is not a field of a task', left(v_unknown, 100));
    END IF;
    IF NOT EXISTS (SELECT 1 FROM lead.workflow_policy AS p WHERE p.task_type = p_task ->> 'task_type') THEN
        RETURN format('.task_type: %s is not one of %s', coalesce(left(p_task ->> 'task_type', 100), 'NULL'),
            (SELECT string_agg(p.task_type, ', ' ORDER BY p.task_type) FROM lead.workflow_policy AS p));
    END IF;
    IF jsonb_typeof(p_task -> 'payload') IS DISTINCT FROM 'object' THEN
        RETURN format('.payload: %s is not a JSON object', coalesce(left(p_task ->> 'payload', 100), 'NULL'));
    END IF;
    IF octet_length((p_task -> 'payload')::text) > 262144 THEN
        RETURN format('.payload: %s bytes is too large, 262144 are allowed', octet_length((p_task -> 'payload')::text));
    END IF;
    IF coalesce(p_task -> 'priority', 'null') <> 'null' AND (
        jsonb_typeof(p_task -> 'priority') <> 'number' OR (p_task ->> 'priority')::numeric <> trunc((p_task ->> 'priority')::numeric)
        OR (p_task ->> 'priority')::numeric NOT BETWEEN 0 AND 100
    ) THEN
        RETURN format('.priority: %s is not a whole number from 0 to 100', left(p_task ->> 'priority', 100));
    END IF;
    FOREACH v_field IN ARRAY ARRAY['value_usd', 'estimated_cost', 'estimated_duration_ms', 'predicted_success_rate', 'complexity_score'] LOOP
        CONTINUE WHEN coalesce(p_task -> v_field, 'null') = 'null';
        IF jsonb_typeof(p_task -> v_field) <> 'number' THEN
            RETURN format('.%s: %s is not a number', v_field, left(p_task ->> v_field, 100));
        END IF;
        v_most := CASE v_field
            WHEN 'predicted_success_rate' THEN 1 WHEN 'estimated_duration_ms' THEN 86400000 WHEN 'complexity_score' THEN 100 ELSE 1000000
        END;
        IF (p_task ->> v_field)::numeric NOT BETWEEN 0 AND v_most THEN
            RETURN format('.%s: %s is out of range, 0 to %s are allowed', v_field, left(p_task ->> v_field, 100), v_most);
        END IF;
    END LOOP;
    FOREACH v_field IN ARRAY ARRAY['idempotency_key', 'tenant'] LOOP
        CONTINUE WHEN coalesce(p_task -> v_field, 'null') = 'null';
        IF jsonb_typeof(p_task -> v_field) <> 'string' OR length(p_task ->> v_field) NOT BETWEEN 1 AND 200 OR (p_task ->> v_field) ~ '[[:cntrl:]]' THEN
            RETURN format('.%s: %s is not text of 1 to 200 characters without control characters', v_field, left(p_task ->> v_field, 100));
        END IF;
    END LOOP;
    FOREACH v_field IN ARRAY ARRAY['deadline', 'not_before'] LOOP
        CONTINUE WHEN coalesce(p_task -> v_field, 'null') = 'null';
        BEGIN
            IF v_field = 'deadline' AND (p_task ->> v_field)::timestamptz <= p_current_time THEN
                RETURN format('.deadline: %s has passed, a time after %s is needed', left(p_task ->> v_field, 100), p_current_time);
            END IF;
            IF (p_task ->> v_field)::timestamptz = 'infinity' THEN
                RETURN format('.%s: %s is not a point in time', v_field, left(p_task ->> v_field, 100));
            END IF;
        EXCEPTION WHEN invalid_datetime_format OR datetime_field_overflow OR invalid_parameter_value THEN
            RETURN format('.%s: %s is not a time, for example 2030-01-31T12:00:00Z', v_field, left(p_task ->> v_field, 100));
        END;
    END LOOP;
    IF coalesce(p_task -> 'dependencies', 'null') <> 'null' THEN
        IF jsonb_typeof(p_task -> 'dependencies') <> 'array' OR jsonb_array_length(p_task -> 'dependencies') > 100
            OR EXISTS (SELECT 1 FROM jsonb_array_elements(p_task -> 'dependencies') AS d WHERE d::text !~ '^[1-9][0-9]{0,17}$') THEN
            RETURN format('.dependencies: %s is not a list of at most 100 task ids', left(p_task ->> 'dependencies', 100));
        END IF;
        SELECT d INTO v_unknown FROM jsonb_array_elements_text(p_task -> 'dependencies') AS d
        WHERE NOT EXISTS (SELECT 1 FROM lead.task AS t WHERE t.id = d::bigint) LIMIT 1;
        IF v_unknown IS NOT NULL THEN
            RETURN format('.dependencies: there is no task %s', v_unknown);
        END IF;
    END IF;
    RETURN NULL;
END;
$$;

CREATE OR REPLACE FUNCTION public.submit_tasks(p_tasks jsonb, p_current_time timestamptz DEFAULT now()) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_problem text;
    v_disabled record;
    v_new_keys jsonb;
    v_tasks jsonb;
    v_created bigint;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    IF jsonb_typeof(p_tasks) IS DISTINCT FROM 'array' OR jsonb_array_length(p_tasks) NOT BETWEEN 1 AND 10000 THEN
        PERFORM lead.refuse('p_tasks', p_tasks::text, 'a JSON array of 1 to 10000 tasks is needed');
    END IF;
    SELECT format('tasks[%s]%s', g.place - 1, lead.task_problem(g.task, p_current_time)) INTO v_problem
    FROM jsonb_array_elements(p_tasks) WITH ORDINALITY AS g (task, place)
    WHERE lead.task_problem(g.task, p_current_time) IS NOT NULL
    LIMIT 1;
    IF v_problem IS NOT NULL THEN
        RAISE EXCEPTION '%', v_problem USING ERRCODE = '22023';
    END IF;
    SELECT p.task_type, p.workflow_type, p.disabled_reason INTO v_disabled
    FROM lead.workflow_policy AS p
    WHERE NOT p.enabled AND p.task_type IN (SELECT t ->> 'task_type' FROM jsonb_array_elements(p_tasks) AS t)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'task_type: % is disabled by policy: %', v_disabled.task_type,
            coalesce(v_disabled.disabled_reason, 'an operator switched ' || v_disabled.workflow_type || ' off') USING ERRCODE = 'LC001';
    END IF;

    -- A key is taken before its task exists; whoever comes second waits here for the first to commit. Sorted, so that two
    -- submitters with the same keys can't wait for each other.
    WITH taken AS (
        INSERT INTO lead.submission (idempotency_key, task_id, submitted_at)
        SELECT n.key, n.task_id, p_current_time
        FROM (
            SELECT k.key, nextval(pg_get_serial_sequence('lead.task', 'id')) AS task_id
            FROM (
                SELECT g.task ->> 'idempotency_key' AS key, min(g.place) AS place
                FROM jsonb_array_elements(p_tasks) WITH ORDINALITY AS g (task, place)
                WHERE g.task ->> 'idempotency_key' IS NOT NULL GROUP BY 1 ORDER BY 2
            ) AS k
        ) AS n
        ORDER BY n.key
        ON CONFLICT (idempotency_key) DO NOTHING
        RETURNING idempotency_key, task_id
    )
    SELECT coalesce(jsonb_object_agg(n.idempotency_key, n.task_id), '{}') INTO v_new_keys FROM taken AS n;

    WITH given AS (
        SELECT g.place, g.task, g.task ->> 'idempotency_key' AS key,
            row_number() OVER (PARTITION BY g.task ->> 'idempotency_key' ORDER BY g.place) = 1 AS is_first
        FROM jsonb_array_elements(p_tasks) WITH ORDINALITY AS g (task, place)
    ), found AS (
        SELECT g.place, g.task, g.key, (g.key IS NULL OR (g.is_first AND v_new_keys ? g.key)) AS is_new,
            coalesce((v_new_keys ->> g.key)::bigint, s.task_id) AS task_id
        FROM given AS g
        LEFT JOIN lead.submission AS s ON s.idempotency_key = g.key AND NOT v_new_keys ? g.key
        ORDER BY g.place
    ), placed AS (
        -- Numbered in the order given: among equals the lower id goes first.
        SELECT f.place, f.task, f.key, f.is_new, coalesce(f.task_id, nextval(pg_get_serial_sequence('lead.task', 'id'))) AS task_id
        FROM found AS f
    ), inserted AS (
        INSERT INTO lead.task (
            id, task_type, payload, priority_base, idempotency_key, value_usd, deadline_at, tenant, dependencies, status, deferred_until,
            defer_reason, not_before, estimated_duration_ms, estimated_cost, predicted_success_rate, complexity_score, queued_at, created_at
        )
        SELECT p.task_id, p.task ->> 'task_type', p.task -> 'payload', coalesce((p.task ->> 'priority')::integer, 50), p.key,
            (p.task ->> 'value_usd')::numeric, (p.task ->> 'deadline')::timestamptz, p.task ->> 'tenant',
            CASE WHEN jsonb_typeof(p.task -> 'dependencies') = 'array'
                THEN ARRAY(SELECT DISTINCT d::bigint FROM jsonb_array_elements_text(p.task -> 'dependencies') AS d) ELSE '{}' END,
            CASE WHEN (p.task ->> 'not_before')::timestamptz > p_current_time THEN 'deferred' ELSE 'queued' END,
            CASE WHEN (p.task ->> 'not_before')::timestamptz > p_current_time THEN (p.task ->> 'not_before')::timestamptz END,
            CASE WHEN (p.task ->> 'not_before')::timestamptz > p_current_time THEN 'not before ' || (p.task ->> 'not_before') END,
            (p.task ->> 'not_before')::timestamptz,
            (p.task ->> 'estimated_duration_ms')::numeric::integer, (p.task ->> 'estimated_cost')::numeric,
            (p.task ->> 'predicted_success_rate')::numeric, (p.task ->> 'complexity_score')::numeric, p_current_time, p_current_time
        FROM placed AS p WHERE p.is_new ORDER BY p.place
        RETURNING id
    )
    SELECT jsonb_agg(jsonb_build_object('task_id', p.task_id, 'created', p.is_new) ORDER BY p.place), (SELECT count(*) FROM inserted)
    INTO v_tasks, v_created
    FROM placed AS p;

    RETURN jsonb_build_object('submitted', v_created, 'duplicates', jsonb_array_length(p_tasks) - v_created, 'tasks', v_tasks);
END;
$$;

CREATE OR REPLACE FUNCTION public.submit_task(
    p_task_type text, p_payload jsonb, p_priority integer DEFAULT 50, p_idempotency_key text DEFAULT NULL,
    p_value_usd numeric DEFAULT NULL, p_deadline timestamptz DEFAULT NULL, p_not_before timestamptz DEFAULT NULL,
    p_dependencies bigint[] DEFAULT '{}', p_tenant text DEFAULT NULL, p_current_time timestamptz DEFAULT now()
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_task jsonb := jsonb_build_object(
        'task_type', p_task_type, 'payload', p_payload, 'priority', p_priority, 'idempotency_key', p_idempotency_key,
        'value_usd', p_value_usd, 'deadline', p_deadline, 'not_before', p_not_before, 'dependencies', to_jsonb(p_dependencies),
        'tenant', p_tenant
    );
    v_problem text := lead.task_problem(v_task, p_current_time);
    v_result jsonb;
BEGIN
    IF v_problem IS NOT NULL THEN
        RAISE EXCEPTION '%', ltrim(v_problem, '.: ') USING ERRCODE = '22023';
    END IF;
    v_result := submit_tasks(jsonb_build_array(v_task), p_current_time) #> '{tasks,0}';
    RETURN v_result || jsonb_build_object(
        'status', (SELECT t.status FROM lead.task AS t WHERE t.id = (v_result ->> 'task_id')::bigint)
    );
END;
$$;

CREATE OR REPLACE FUNCTION public.cancel_task(p_task_id bigint, p_reason text, p_current_time timestamptz DEFAULT now()) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_status text;
BEGIN
    PERFORM lead.check_name('p_reason', p_reason);
    SELECT t.status INTO v_status FROM lead.task AS t WHERE t.id = p_task_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_task_id: there is no task %', p_task_id USING ERRCODE = 'LC005';
    END IF;
    -- What is being worked on is left to end; its calls are paid for already.
    IF v_status NOT IN ('queued', 'deferred') THEN
        RETURN false;
    END IF;
    UPDATE lead.task AS t
    SET status = 'cancelled', processed_at = p_current_time, deferred_until = NULL, defer_reason = NULL, last_error_message = lead.sanitise(p_reason)
    WHERE t.id = p_task_id;
    RETURN true;
END;
$$;

CREATE OR REPLACE FUNCTION public.get_task(p_task_id bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_task jsonb;
BEGIN
    SELECT to_jsonb(q) INTO v_task FROM public.task_queue AS q WHERE q.id = p_task_id;
    IF v_task IS NULL THEN
        RAISE EXCEPTION 'p_task_id: there is no task %', p_task_id USING ERRCODE = 'LC005';
    END IF;
    RETURN v_task || jsonb_build_object(
        'task_attempts', (SELECT coalesce(jsonb_agg(to_jsonb(a) ORDER BY a.ended_at), '[]') FROM lead.task_attempt AS a WHERE a.task_id = p_task_id),
        'calls', (SELECT coalesce(jsonb_agg(to_jsonb(c) ORDER BY c.id), '[]') FROM lead.api_call AS c WHERE c.task_id = p_task_id),
        'publication', (SELECT to_jsonb(p) FROM lead.publication AS p WHERE p.task_id = p_task_id ORDER BY p.id DESC LIMIT 1),
        'dead_letter', (SELECT to_jsonb(d) FROM lead.dead_letter AS d WHERE d.task_id = p_task_id)
    );
END;
$$;

-- Taking tasks -----------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION public.promote_due_tasks(
    p_current_time timestamptz DEFAULT now(), p_limit integer DEFAULT 10000
) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_promoted integer;
BEGIN
    UPDATE lead.task AS t
    SET status = 'queued', queued_at = greatest(t.deferred_until, t.created_at), deferred_until = NULL, defer_reason = NULL
    WHERE t.id = ANY (ARRAY(
        SELECT d.id FROM lead.task AS d
        WHERE d.status = 'deferred' AND d.deferred_until <= p_current_time
        ORDER BY d.deferred_until LIMIT p_limit FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS v_promoted = ROW_COUNT;
    RETURN v_promoted;
END;
$$;

-- The best p_limit tasks of a type, locked. The effective score of a task is its score, and starvation_points more once it has
-- waited starvation_minutes. For each effective score from the top two ranges of one index are probed: those who starve, and
-- those who do not; it ends as soon as the batch is full. Exact for any time, and nothing is sorted or written.
CREATE OR REPLACE FUNCTION lead.pick_tasks(p_task_type text, p_limit integer, p_current_time timestamptz) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
DECLARE
    v_points integer := lead.setting_number('starvation_points');
    v_starving_since timestamptz := p_current_time - lead.seconds(60 * lead.setting_number('starvation_minutes'));
    v_isolated_from integer := greatest(1, lead.setting_number('stall_limit')::integer - 1);
    v_picked bigint[];
    v_alone boolean;
BEGIN
    v_picked := ARRAY(
        SELECT picked.id
        FROM generate_series(100 + v_points, 0, -1) AS e (effective_score),
        LATERAL (VALUES
            (e.effective_score - v_points, '-infinity'::timestamptz, v_starving_since),
            (e.effective_score, v_starving_since + interval '1 microsecond', 'infinity'::timestamptz)
        ) AS range (score, queued_from, queued_to),
        LATERAL (
            SELECT t.id
            FROM lead.task AS t
            WHERE range.score BETWEEN 0 AND 100
                AND t.task_type = p_task_type AND t.status = 'queued' AND t.score = range.score::smallint
                AND t.queued_at BETWEEN range.queued_from AND range.queued_to
            ORDER BY t.queued_at, t.id
            LIMIT p_limit
            FOR UPDATE OF t SKIP LOCKED
        ) AS picked
        LIMIT p_limit
    );
    -- A task that was lost with its run again and again may be what kills the run: it goes alone, so that it takes no other along.
    SELECT t.stalls >= v_isolated_from INTO v_alone FROM lead.task AS t WHERE t.id = v_picked[1];
    IF v_alone THEN
        RETURN v_picked[1:1];
    END IF;
    RETURN ARRAY(
        SELECT p.id FROM unnest(v_picked) WITH ORDINALITY AS p (id, place)
        INNER JOIN lead.task AS t ON t.id = p.id
        WHERE t.stalls < v_isolated_from
        ORDER BY p.place
    );
END;
$$;

CREATE OR REPLACE FUNCTION lead.claim_tasks(
    p_execution_id text, p_task_type text, p_limit integer, p_current_time timestamptz
) RETURNS integer
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    -- Picked once, before the UPDATE: in its WHERE clause a volatile function would be called for every row.
    v_picked bigint[] := lead.pick_tasks(p_task_type, p_limit, p_current_time);
    v_claimed integer;
BEGIN
    UPDATE lead.task AS t
    SET status = 'processing', execution_id = p_execution_id, claimed_at = p_current_time
    WHERE t.id = ANY (v_picked);
    GET DIAGNOSTICS v_claimed = ROW_COUNT;
    RETURN v_claimed;
END;
$$;

-- Circuit breakers -------------------------------------------------------------------------------------------------
-- May a call or a run go? Closed: yes. Open: not before its time; then half-open, which lets 1, 2, 4 … probes through.
CREATE OR REPLACE FUNCTION lead.breaker_admit(
    p_name text, p_current_time timestamptz, OUT admitted boolean, OUT is_probe boolean, OUT wait_ms integer
)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_breaker lead.circuit_breaker;
BEGIN
    admitted := true;
    is_probe := false;
    SELECT b.* INTO v_breaker FROM lead.circuit_breaker AS b WHERE b.name = p_name;
    IF NOT FOUND OR v_breaker.state = 'closed' THEN
        RETURN;
    END IF;
    SELECT b.* INTO v_breaker FROM lead.circuit_breaker AS b WHERE b.name = p_name FOR UPDATE;
    IF v_breaker.state = 'open' AND v_breaker.retry_at <= p_current_time THEN
        UPDATE lead.circuit_breaker AS b
        SET state = 'half_open', probe_limit = 1, probes_started = 0, probes_succeeded = 0, updated_at = p_current_time
        WHERE b.name = p_name
        RETURNING b.* INTO v_breaker;
    END IF;
    IF v_breaker.state = 'half_open' AND v_breaker.probes_started < v_breaker.probe_limit THEN
        UPDATE lead.circuit_breaker AS b SET probes_started = b.probes_started + 1, updated_at = p_current_time WHERE b.name = p_name;
        is_probe := true;
    ELSIF v_breaker.state <> 'closed' THEN
        admitted := false;
        -- Half-open: the probes under way decide, which takes a call's time.
        wait_ms := CASE v_breaker.state WHEN 'open' THEN lead.milliseconds_until(v_breaker.retry_at, p_current_time) ELSE 500 END;
    END IF;
END;
$$;

-- Every ending of a call or run comes here: success, failure, or neutral (it says nothing about the destination).
CREATE OR REPLACE FUNCTION lead.breaker_record(
    p_name text, p_ending text, p_is_probe boolean, p_at_once boolean, p_error text, p_current_time timestamptz
) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_breaker lead.circuit_breaker;
    v_was text;
BEGIN
    SELECT b.* INTO v_breaker FROM lead.circuit_breaker AS b WHERE b.name = p_name;
    IF NOT FOUND OR (NOT p_is_probe AND (p_ending = 'neutral' OR (p_ending = 'success' AND v_breaker.consecutive_failures = 0))) THEN
        RETURN v_breaker.state;
    END IF;
    SELECT b.* INTO v_breaker FROM lead.circuit_breaker AS b WHERE b.name = p_name FOR UPDATE;
    v_was := v_breaker.state;
    v_breaker.updated_at := p_current_time;
    IF p_ending = 'failure' THEN
        v_breaker.consecutive_failures := v_breaker.consecutive_failures + 1;
        v_breaker.last_error := left(lead.sanitise(p_error), 500);
        v_breaker.last_error_at := p_current_time;
    END IF;

    IF p_is_probe AND v_was = 'half_open' THEN
        CASE p_ending
            WHEN 'success' THEN
                v_breaker.probes_succeeded := v_breaker.probes_succeeded + 1;
                IF v_breaker.probes_succeeded >= v_breaker.probe_limit THEN
                    IF v_breaker.probe_limit >= lead.setting_number('breaker_last_probes') THEN
                        v_breaker.state := 'closed';
                        v_breaker.consecutive_failures := 0;
                        v_breaker.opened_at := NULL;
                        v_breaker.retry_at := NULL;
                    END IF;
                    v_breaker.probe_limit := CASE v_breaker.state WHEN 'closed' THEN 0 ELSE v_breaker.probe_limit * 2 END;
                    v_breaker.probes_started := 0;
                    v_breaker.probes_succeeded := 0;
                END IF;
            WHEN 'failure' THEN
                v_breaker.state := 'open';
                v_breaker.retry_at := p_current_time + lead.seconds(lead.setting_number('breaker_probe_wait_seconds'));
            ELSE
                v_breaker.probes_started := greatest(0, v_breaker.probes_started - 1);
        END CASE;
    ELSIF v_was = 'closed' THEN
        IF p_ending = 'success' THEN
            v_breaker.consecutive_failures := 0;
        ELSIF p_ending = 'failure' AND (p_at_once OR v_breaker.consecutive_failures >= lead.setting_number('breaker_failures')) THEN
            v_breaker.state := 'open';
            v_breaker.opened_at := p_current_time;
            v_breaker.retry_at := p_current_time + lead.seconds(lead.setting_number('breaker_cooldown_seconds'));
            v_breaker.times_opened := v_breaker.times_opened + 1;
        END IF;
    END IF;

    UPDATE lead.circuit_breaker AS b
    SET state = v_breaker.state, consecutive_failures = v_breaker.consecutive_failures, opened_at = v_breaker.opened_at,
        retry_at = v_breaker.retry_at, probe_limit = v_breaker.probe_limit, probes_started = v_breaker.probes_started,
        probes_succeeded = v_breaker.probes_succeeded, times_opened = v_breaker.times_opened, last_error = v_breaker.last_error,
        last_error_at = v_breaker.last_error_at, updated_at = v_breaker.updated_at
    WHERE b.name = p_name;
    IF v_was = 'half_open' AND p_is_probe AND p_ending = 'success' THEN
        -- The destination answers again: what waits for it is due now. SKIP LOCKED, since it may be taken at this moment.
        UPDATE lead.task AS t SET deferred_until = p_current_time
        WHERE t.id = ANY (ARRAY(
            SELECT d.id FROM lead.task AS d
            WHERE d.status = 'deferred' AND d.last_error_class = 'destination_down' AND d.defer_reason = 'destination_down'
                AND d.deferred_until > p_current_time
            ORDER BY d.deferred_until LIMIT 10000 FOR UPDATE SKIP LOCKED
        ));
    END IF;
    RETURN v_breaker.state;
END;
$$;

-- Budget -----------------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION lead.budget_hold(
    p_day date, p_scope text, p_key text, p_amount numeric, p_limit numeric
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    INSERT INTO lead.budget_account (budget_day, scope, scope_key) VALUES (p_day, p_scope, p_key) ON CONFLICT DO NOTHING;
    -- The row is locked and read again by the UPDATE itself, so that no two holds can pass the limit together.
    UPDATE lead.budget_account AS a
    SET held_usd = a.held_usd + p_amount
    WHERE a.budget_day = p_day AND a.scope = p_scope AND a.scope_key = p_key
        AND (p_limit IS NULL OR a.spent_usd + a.held_usd + p_amount <= p_limit);
    RETURN FOUND;
END;
$$;

CREATE OR REPLACE FUNCTION lead.budget_settle(
    p_day date, p_scope text, p_key text, p_held numeric, p_spent numeric
) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    UPDATE lead.budget_account AS a
    SET held_usd = a.held_usd - p_held, spent_usd = a.spent_usd + p_spent
    WHERE a.budget_day = p_day AND a.scope = p_scope AND a.scope_key = p_key;
$$;

-- Holds an amount for an execution in the total and in its workflow's account, both or neither.
CREATE OR REPLACE FUNCTION lead.execution_hold(p_day date, p_workflow_type text, p_amount numeric) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    IF NOT lead.budget_hold(p_day, 'total', 'all', p_amount, lead.setting_number('daily_budget_usd')) THEN
        RETURN false;
    END IF;
    IF NOT lead.budget_hold(p_day, 'workflow', p_workflow_type, p_amount,
        (SELECT p.daily_cost_limit_usd FROM lead.workflow_policy AS p WHERE p.workflow_type = p_workflow_type)) THEN
        PERFORM lead.budget_settle(p_day, 'total', 'all', p_amount, 0);
        RETURN false;
    END IF;
    RETURN true;
END;
$$;

CREATE OR REPLACE FUNCTION lead.execution_settle(p_day date, p_workflow_type text, p_held numeric, p_spent numeric) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT lead.budget_settle(p_day, 'total', 'all', p_held, p_spent);
    SELECT lead.budget_settle(p_day, 'workflow', p_workflow_type, p_held, p_spent);
$$;

-- Capacity: what a decision may use ----------------------------------------------------------------------------------
-- What a run of a type needs: the most its last twenty runs took and a tenth, or the policy's figure while nothing is known.
CREATE OR REPLACE FUNCTION lead.run_memory_mb(p_workflow_type text) RETURNS integer
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
RETURN coalesce(
    (
        SELECT ceil(1.1 * max(recent.memory_peak_mb))::integer
        FROM (
            SELECT w.memory_peak_mb FROM public.workflow_orchestration AS w
            WHERE w.workflow_type = p_workflow_type AND w.completed_at IS NOT NULL
            ORDER BY w.completed_at DESC LIMIT 20
        ) AS recent
    ),
    (SELECT p.memory_mb FROM lead.workflow_policy AS p WHERE p.workflow_type = p_workflow_type)
);

CREATE OR REPLACE FUNCTION lead.capacity(
    p_current_time timestamptz,
    OUT max_concurrent integer, OUT active integer, OUT free_slots integer,
    OUT budget_limit_usd numeric, OUT budget_committed_usd numeric, OUT budget_remaining_usd numeric,
    OUT memory_limit_mb integer, OUT memory_used_mb integer, OUT memory_remaining_mb integer,
    OUT connection_limit integer, OUT connections_used integer, OUT connections_remaining integer
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_reserved_memory integer;
BEGIN
    max_concurrent := lead.setting_number('max_concurrent_workflows');
    SELECT count(*), coalesce(sum(w.memory_allocated_mb), 0) INTO active, memory_used_mb
    FROM public.workflow_orchestration AS w
    WHERE w.status IN ('pending', 'analyzing', 'dispatching', 'running') AND w.reserved_at IS NOT NULL;
    SELECT active + count(*), coalesce(sum(r.memory_mb), 0) INTO active, v_reserved_memory FROM lead.plan_reservation AS r;
    free_slots := greatest(0, max_concurrent - active);

    budget_limit_usd := lead.setting_number('daily_budget_usd');
    SELECT coalesce(sum(a.held_usd + a.spent_usd), 0) INTO budget_committed_usd
    FROM lead.budget_account AS a
    WHERE a.budget_day = lead.budget_day(p_current_time) AND a.scope = 'total';
    budget_remaining_usd := greatest(0, budget_limit_usd - budget_committed_usd);

    memory_limit_mb := lead.setting_number('memory_limit_mb');
    memory_used_mb := memory_used_mb + v_reserved_memory + coalesce(
        (
            SELECT h.metric_value::integer FROM public.system_health AS h
            WHERE h.metric_name = 'platform_baseline_memory_mb' AND h.last_updated > p_current_time - interval '5 minutes'
        ),
        lead.setting_number('memory_baseline_mb')::integer
    );
    memory_remaining_mb := greatest(0, memory_limit_mb - memory_used_mb);

    connection_limit := lead.setting_number('database_connection_limit');
    SELECT count(*) INTO connections_used
    FROM pg_stat_activity AS s
    WHERE s.datname = current_database() AND s.application_name LIKE 'lead-coordinator%';
    connections_remaining := greatest(0, connection_limit - connections_used);
END;
$$;

-- The decision, step by step -------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION public.get_intelligent_scheduled_tasks(
    p_current_time timestamptz, p_max_concurrent integer DEFAULT 3
) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_policy record;
    v_local timestamp;
    v_hour integer;
    v_is_weekend boolean;
    v_is_business boolean;
    v_is_peak boolean;
    v_starving_since timestamptz;
    v_pending bigint;
    v_oldest timestamptz;
    v_last timestamptz;
    v_past record;
    v_breaker record;
    v_priority integer;
    v_points integer;
    v_reasoning text[];
    v_execute boolean;
    v_batch integer;
    v_tasks jsonb := '[]';
    v_analyzed bigint := 0;
    v_ready bigint := 0;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    IF p_max_concurrent IS NULL OR p_max_concurrent NOT BETWEEN 1 AND 10 THEN
        PERFORM lead.refuse('p_max_concurrent', p_max_concurrent::text, '1 to 10 are allowed');
    END IF;
    v_local := p_current_time AT TIME ZONE lead.setting_text('coordinator_timezone');
    v_hour := extract(HOUR FROM v_local);
    v_is_weekend := extract(ISODOW FROM v_local) >= 6;
    v_is_business := NOT v_is_weekend
        AND v_hour >= lead.setting_number('business_hours_start') AND v_hour < lead.setting_number('business_hours_end');
    v_is_peak := NOT v_is_weekend
        AND v_hour >= lead.setting_number('peak_hours_start') AND v_hour < lead.setting_number('peak_hours_end');
    v_starving_since := p_current_time - lead.seconds(60 * lead.setting_number('starvation_minutes'));

    FOR v_policy IN SELECT p.* FROM lead.workflow_policy AS p ORDER BY p.base_priority DESC, p.workflow_type LOOP
        v_pending := lead.queue_depth(v_policy.task_type, 'queued');
        v_oldest := CASE WHEN v_pending > 0 THEN lead.oldest_queued(v_policy.task_type) END;
        SELECT max(w.created_at) INTO v_last FROM (
            SELECT e.created_at FROM public.workflow_orchestration AS e
            WHERE e.workflow_type = v_policy.workflow_type AND e.completed_at IS NOT NULL
            ORDER BY e.completed_at DESC LIMIT 1
        ) AS w;
        SELECT
            coalesce(sum(h.tasks_completed), 0) AS completed, coalesce(sum(h.tasks_failed), 0) AS failed,
            sum(h.total_cost) / nullif(sum(h.tasks_completed + h.tasks_failed), 0) AS cost_per_item,
            sum(h.avg_duration_ms * h.total_executions) / nullif(sum(h.total_executions), 0) AS duration_ms
        INTO v_past
        FROM public.execution_history AS h
        WHERE h.workflow_type = v_policy.workflow_type AND h.execution_date >= (v_local::date - 7);
        SELECT b.state, b.retry_at INTO v_breaker FROM lead.circuit_breaker AS b WHERE b.name = 'pipeline:' || v_policy.workflow_type;

        v_priority := v_policy.base_priority;
        v_reasoning := ARRAY[format('base priority %s', v_policy.base_priority)];
        v_points := least(10, floor(3 * ln(1 + v_pending::double precision / v_policy.max_batch)));
        IF v_points > 0 THEN
            v_priority := v_priority + v_points;
            v_reasoning := v_reasoning || format('+%s queue pressure: %s wait, a batch holds %s', v_points, v_pending, v_policy.max_batch);
        END IF;
        IF v_oldest <= v_starving_since THEN
            v_priority := v_priority + lead.setting_number('starvation_points')::integer;
            v_reasoning := v_reasoning || format('+%s the oldest has waited %s minutes', lead.setting_text('starvation_points'),
                floor(extract(EPOCH FROM p_current_time - v_oldest) / 60));
        END IF;
        IF v_is_peak AND v_policy.workflow_type = 'content_pipeline' THEN
            v_priority := v_priority + 5;
            v_reasoning := v_reasoning || '+5 peak hours: readers are there'::text;
        ELSIF NOT v_is_business AND v_policy.workflow_type <> 'content_pipeline' THEN
            v_priority := v_priority + 5;
            v_reasoning := v_reasoning || '+5 outside business hours: standing work disturbs no one'::text;
        END IF;
        v_priority := least(100, v_priority);

        v_execute := false;
        IF NOT v_policy.enabled THEN
            v_reasoning := v_reasoning || format('not now: disabled by policy (%s)', coalesce(v_policy.disabled_reason, 'by an operator'));
        ELSIF v_pending = 0 THEN
            v_reasoning := v_reasoning || 'not now: nothing waits'::text;
        ELSIF v_breaker.state = 'open' AND v_breaker.retry_at > p_current_time THEN
            v_reasoning := v_reasoning || format('not now: its circuit breaker is open until %s', v_breaker.retry_at);
        ELSE
            v_execute := true;
        END IF;
        v_batch := least(v_policy.max_batch, greatest(1, v_pending));
        v_analyzed := v_analyzed + v_pending;
        v_ready := v_ready + CASE WHEN v_execute THEN v_pending ELSE 0 END;

        v_tasks := v_tasks || jsonb_build_object(
            'workflow_type', v_policy.workflow_type,
            'task_type', v_policy.task_type,
            'priority', v_priority,
            'should_execute', v_execute,
            'batch_size', v_batch,
            'estimated_duration_ms', coalesce(round(v_past.duration_ms), v_policy.expected_seconds * 1000),
            'estimated_cost', round(v_batch * coalesce(v_past.cost_per_item, v_policy.item_cost_limit_usd), 10),
            -- Beta-Binomial with the policy's target worth twenty past tasks.
            'predicted_success_rate', round(
                (v_past.completed + 20 * v_policy.target_success_rate) / (v_past.completed + v_past.failed + 20), 4
            ),
            'pending_items', v_pending,
            'minutes_since_last', floor(extract(EPOCH FROM p_current_time - v_last) / 60),
            'oldest_wait_seconds', round(extract(EPOCH FROM p_current_time - v_oldest)),
            'reasoning', to_jsonb(v_reasoning)
        );
    END LOOP;

    RETURN jsonb_build_object(
        'tasks', (SELECT jsonb_agg(t ORDER BY (t ->> 'should_execute')::boolean DESC, (t ->> 'priority')::integer DESC) FROM jsonb_array_elements(v_tasks) AS t),
        'analysis_context', jsonb_build_object(
            'current_time', p_current_time, 'hour_of_day', v_hour, 'is_weekend', v_is_weekend, 'is_business_hours', v_is_business,
            'is_peak_hours', v_is_peak, 'time_zone', lead.setting_text('coordinator_timezone'), 'max_concurrent', p_max_concurrent
        ),
        'total_tasks_analyzed', v_analyzed,
        'tasks_ready_to_execute', v_ready
    );
END;
$$;

CREATE OR REPLACE FUNCTION public.check_comprehensive_resource_availability(
    p_scheduled_tasks jsonb, p_current_time timestamptz DEFAULT now()
) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_capacity record;
    v_provider record;
    v_limits jsonb := '{}';
    v_advice text[] := '{}';
    v_status text := 'healthy';
    v_reachable integer := 0;
    v_can boolean;
    v_provider_status text;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    IF jsonb_typeof(p_scheduled_tasks -> 'tasks') IS DISTINCT FROM 'array' THEN
        PERFORM lead.refuse('p_scheduled_tasks', p_scheduled_tasks::text, 'an object with an array "tasks" is needed, for example {"tasks": []}');
    END IF;
    SELECT c.* INTO v_capacity FROM lead.capacity(p_current_time) AS c;

    FOR v_provider IN
        SELECT r.provider, least(r.adaptive_limit, r.requests_per_minute) AS per_minute, r.daily_cost_limit, r.is_available, r.blocked_until,
            b.state AS breaker, b.retry_at, used.requests, used.next_free, coalesce(a.spent_usd + a.held_usd, 0) AS committed
        FROM public.api_rate_limits AS r
        LEFT JOIN lead.circuit_breaker AS b ON b.name = 'provider:' || r.provider
        LEFT JOIN lead.budget_account AS a
            ON a.scope = 'provider' AND a.scope_key = r.provider AND a.budget_day = lead.budget_day(p_current_time)
        CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE s.free_at > p_current_time) AS requests, min(s.free_at) AS next_free
            FROM lead.rate_slot AS s
            WHERE s.provider = r.provider AND s.slot_no <= r.adaptive_limit
        ) AS used
        ORDER BY r.provider
    LOOP
        v_provider_status := CASE
            WHEN NOT v_provider.is_available THEN 'switched_off'
            WHEN v_provider.breaker = 'open' AND v_provider.retry_at > p_current_time THEN 'breaker_open'
            WHEN v_provider.committed >= v_provider.daily_cost_limit THEN 'budget_exhausted'
            WHEN v_provider.blocked_until > p_current_time OR v_provider.requests >= v_provider.per_minute THEN 'rate_limited'
            WHEN v_provider.requests >= 0.85 * v_provider.per_minute THEN 'warning'
            ELSE 'healthy'
        END;
        IF v_provider_status NOT IN ('switched_off', 'breaker_open', 'budget_exhausted') THEN
            v_reachable := v_reachable + 1;
        END IF;
        IF v_provider_status <> 'healthy' THEN
            v_status := 'warning';
            v_advice := v_advice || format('%s is %s: %s of %s requests used in the last minute', v_provider.provider,
                replace(v_provider_status, '_', ' '), v_provider.requests, v_provider.per_minute);
        END IF;
        v_limits := v_limits || jsonb_build_object(v_provider.provider, jsonb_build_object(
            'available', v_provider_status IN ('healthy', 'warning'),
            'requests_remaining', greatest(0, v_provider.per_minute - v_provider.requests),
            'budget_remaining', greatest(0, least(coalesce(v_provider.daily_cost_limit, 'infinity') - v_provider.committed, v_capacity.budget_remaining_usd)),
            'rate_utilization_percent', round(100.0 * v_provider.requests / v_provider.per_minute, 1),
            'budget_utilization_percent', CASE
                WHEN v_provider.daily_cost_limit > 0 THEN round(100 * v_provider.committed / v_provider.daily_cost_limit, 1) ELSE 0
            END,
            'status', v_provider_status,
            'next_reset', CASE WHEN v_provider.next_free > p_current_time THEN v_provider.next_free ELSE p_current_time END
        ));
    END LOOP;

    v_can := v_capacity.free_slots > 0 AND v_capacity.budget_remaining_usd > 0 AND v_capacity.connections_remaining >= 2 AND v_reachable > 0;
    IF NOT v_can THEN
        v_status := 'constrained';
        v_advice := v_advice || CASE
            WHEN v_capacity.free_slots = 0 THEN format('%s of %s slots are busy: wait for a run to end', v_capacity.active, v_capacity.max_concurrent)
            WHEN v_capacity.budget_remaining_usd = 0
                THEN format('budget %s of %s USD is held or spent: wait for the next day or raise daily_budget_usd',
                    round(v_capacity.budget_committed_usd, 2), round(v_capacity.budget_limit_usd, 2))
            WHEN v_capacity.connections_remaining < 2
                THEN format('%s of %s database connections are open', v_capacity.connections_used, v_capacity.connection_limit)
            ELSE 'no provider can be called'
        END;
    ELSIF v_capacity.budget_committed_usd >= 0.85 * v_capacity.budget_limit_usd THEN
        v_status := 'warning';
        v_advice := v_advice || format('budget %s of %s USD is held or spent', round(v_capacity.budget_committed_usd, 2), round(v_capacity.budget_limit_usd, 2));
    END IF;

    RETURN jsonb_build_object(
        'overall_status', v_status,
        'api_limits', v_limits,
        'system_resources', jsonb_build_object(
            'database_connections', jsonb_build_object(
                'used', v_capacity.connections_used, 'limit', v_capacity.connection_limit, 'remaining', v_capacity.connections_remaining,
                'utilization_percent', round(100.0 * v_capacity.connections_used / v_capacity.connection_limit, 1)
            ),
            'memory', jsonb_build_object(
                'used_mb', v_capacity.memory_used_mb, 'limit_mb', v_capacity.memory_limit_mb, 'remaining_mb', v_capacity.memory_remaining_mb,
                'utilization_percent', round(100.0 * v_capacity.memory_used_mb / v_capacity.memory_limit_mb, 1)
            )
        ),
        'constraints', jsonb_build_object(
            'max_concurrent', v_capacity.max_concurrent, 'active_executions', v_capacity.active, 'free_slots', v_capacity.free_slots,
            'budget_limit_usd', v_capacity.budget_limit_usd, 'budget_committed_usd', v_capacity.budget_committed_usd,
            'budget_remaining_usd', v_capacity.budget_remaining_usd, 'memory_remaining_mb', v_capacity.memory_remaining_mb,
            'connections_remaining', v_capacity.connections_remaining, 'providers_reachable', v_reachable
        ),
        'recommendations', to_jsonb(v_advice),
        'can_proceed', v_can,
        'timestamp', p_current_time
    );
END;
$$;

-- Slots go one by one to the type that holds the least for its weight; ties to the higher priority. A batch is as large as the
-- policy, the budget and what waits allow: a run works its batch concurrently, and starting one costs seconds of CPU.
CREATE OR REPLACE FUNCTION public.create_optimal_execution_plan(
    p_scheduled_tasks jsonb, p_resource_status jsonb, p_worker_id text, p_current_time timestamptz
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_plan_id text := 'plan-' || to_char(p_current_time AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS') || '-' || left(gen_random_uuid()::text, 8);
    v_capacity record;
    v_constraints jsonb := coalesce(p_resource_status -> 'constraints', '{}');
    v_free integer;
    v_budget numeric;
    v_memory integer;
    v_memory_left integer;
    v_others_enabled boolean;
    v_slots jsonb := '{}';
    v_type record;
    v_number integer := 0;
    v_slot integer;
    v_left bigint;
    v_batch integer;
    v_affordable integer;
    v_workflows jsonb := '[]';
    v_passed_over jsonb := '[]';
    v_short text;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_worker_id', p_worker_id);
    IF jsonb_typeof(p_scheduled_tasks -> 'tasks') IS DISTINCT FROM 'array' THEN
        PERFORM lead.refuse('p_scheduled_tasks', p_scheduled_tasks::text, 'an object with an array "tasks" is needed');
    END IF;
    IF jsonb_typeof(p_resource_status) IS DISTINCT FROM 'object' THEN
        PERFORM lead.refuse('p_resource_status', p_resource_status::text, 'an object is needed, for example {"overall_status": "healthy", "constraints": {}}');
    END IF;
    SELECT c.* INTO v_capacity FROM lead.capacity(p_current_time) AS c;
    v_free := least(v_capacity.free_slots, coalesce((v_constraints ->> 'free_slots')::integer, v_capacity.free_slots));
    v_budget := least(v_capacity.budget_remaining_usd, coalesce((v_constraints ->> 'budget_remaining_usd')::numeric, v_capacity.budget_remaining_usd));
    v_memory := least(v_capacity.memory_remaining_mb, coalesce((v_constraints ->> 'memory_remaining_mb')::integer, v_capacity.memory_remaining_mb));
    v_memory_left := v_memory;
    SELECT count(*) > 1 INTO v_others_enabled FROM lead.workflow_policy AS p WHERE p.enabled;

    FOR v_type IN
        SELECT t ->> 'workflow_type' AS workflow_type FROM jsonb_array_elements(p_scheduled_tasks -> 'tasks') AS t
        WHERE NOT EXISTS (SELECT 1 FROM lead.workflow_policy AS p WHERE p.workflow_type = t ->> 'workflow_type')
    LOOP
        PERFORM lead.refuse('p_scheduled_tasks.workflow_type', v_type.workflow_type,
            (SELECT 'one of ' || string_agg(p.workflow_type, ', ' ORDER BY p.workflow_type) || ' is needed' FROM lead.workflow_policy AS p));
    END LOOP;

    -- Slots -------------------------------------------------------------------------------------------------------
    FOR v_slot IN 1..v_free LOOP
        SELECT c.workflow_type, c.run_memory_mb INTO v_type
        FROM (
            SELECT p.workflow_type, p.fair_weight, p.max_batch, (t ->> 'priority')::integer AS priority,
                coalesce((t ->> 'pending_items')::bigint, 0) AS pending,
                coalesce((v_slots ->> p.workflow_type)::integer, 0) AS given,
                lead.run_memory_mb(p.workflow_type) AS run_memory_mb,
                (
                    SELECT count(*) FROM public.workflow_orchestration AS w
                    WHERE w.workflow_type = p.workflow_type AND w.status IN ('pending', 'analyzing', 'dispatching', 'running')
                        AND w.reserved_at IS NOT NULL
                ) AS running
            FROM jsonb_array_elements(p_scheduled_tasks -> 'tasks') AS t
            INNER JOIN lead.workflow_policy AS p ON p.workflow_type = t ->> 'workflow_type'
            WHERE (t ->> 'should_execute')::boolean
        ) AS c
        INNER JOIN lead.circuit_breaker AS b ON b.name = 'pipeline:' || c.workflow_type
        WHERE c.pending > c.given * c.max_batch
            AND c.run_memory_mb <= v_memory_left
            -- The last free slot never goes to a type that holds all others, if another type may need it.
            AND NOT (
                v_others_enabled AND v_capacity.max_concurrent > 1 AND v_slot = v_capacity.free_slots
                AND c.running + c.given >= v_capacity.max_concurrent - 1
            )
            -- A half-open pipeline breaker lets its probes through, and no more.
            AND (b.state = 'closed' OR c.given + c.running < greatest(1, b.probe_limit))
        ORDER BY (c.running + c.given) / c.fair_weight, c.priority DESC, c.workflow_type
        LIMIT 1;
        EXIT WHEN NOT FOUND;
        v_memory_left := v_memory_left - v_type.run_memory_mb;
        v_slots := v_slots || jsonb_build_object(v_type.workflow_type, coalesce((v_slots ->> v_type.workflow_type)::integer, 0) + 1);
    END LOOP;

    -- Batches -----------------------------------------------------------------------------------------------------
    FOR v_type IN
        SELECT p.*, t AS task, coalesce((t ->> 'priority')::integer, p.base_priority) AS priority, coalesce((v_slots ->> p.workflow_type)::integer, 0) AS slots,
            coalesce((t ->> 'pending_items')::bigint, 0) AS pending, lead.run_memory_mb(p.workflow_type) AS run_memory_mb
        FROM jsonb_array_elements(p_scheduled_tasks -> 'tasks') AS t
        INNER JOIN lead.workflow_policy AS p ON p.workflow_type = t ->> 'workflow_type'
        ORDER BY (t ->> 'priority')::integer DESC NULLS LAST, p.workflow_type
    LOOP
        v_left := v_type.pending;
        IF v_type.slots = 0 THEN
            v_passed_over := v_passed_over || jsonb_build_object('workflow_type', v_type.workflow_type, 'waiting', v_type.pending, 'reason', CASE
                WHEN NOT (v_type.task ->> 'should_execute')::boolean THEN v_type.task #>> '{reasoning,-1}'
                WHEN v_free = 0 THEN format('%s of %s slots are busy', v_capacity.active, v_capacity.max_concurrent)
                WHEN v_type.run_memory_mb > v_memory THEN format('a run needs %s MB and %s of %s MB are free', v_type.run_memory_mb, v_memory,
                    v_capacity.memory_limit_mb)
                ELSE 'other types come first in their fair share'
            END);
        END IF;
        FOR v_slot IN 1..v_type.slots LOOP
            v_affordable := CASE WHEN v_type.item_cost_limit_usd > 0
                THEN least(v_type.max_batch, floor(v_budget / v_type.item_cost_limit_usd))::integer ELSE v_type.max_batch END;
            v_batch := least(v_type.max_batch, v_left, v_affordable);
            v_short := CASE
                WHEN v_batch < 1 THEN format('budget %s of %s USD held or spent; %s of %s waiting tasks fit', round(v_capacity.budget_limit_usd - v_budget, 2),
                    round(v_capacity.budget_limit_usd, 2), v_affordable, v_type.pending)
                WHEN v_type.run_memory_mb > v_memory THEN format('a run needs %s MB and %s of %s MB are free', v_type.run_memory_mb, v_memory,
                    v_capacity.memory_limit_mb)
            END;
            IF v_short IS NOT NULL THEN
                v_passed_over := v_passed_over || jsonb_build_object('workflow_type', v_type.workflow_type, 'waiting', v_left, 'reason', v_short);
                EXIT;
            END IF;
            v_number := v_number + 1;
            v_left := v_left - v_batch;
            v_budget := v_budget - v_batch * v_type.item_cost_limit_usd;
            v_memory := v_memory - v_type.run_memory_mb;
            v_workflows := v_workflows || jsonb_build_object(
                'execution_id', split_part(v_type.workflow_type, '_', 1) || '-' || substr(v_plan_id, 6) || '-' || v_number,
                'workflow_type', v_type.workflow_type,
                'task_type', v_type.task_type,
                'priority', least(100, v_type.priority),
                'batch_size', v_batch,
                'estimated_cost', round(v_batch * v_type.item_cost_limit_usd, 10),
                'estimated_duration_ms', coalesce((v_type.task ->> 'estimated_duration_ms')::numeric, v_type.expected_seconds * 1000),
                'predicted_success_rate', coalesce((v_type.task ->> 'predicted_success_rate')::numeric, v_type.target_success_rate),
                'api_calls', v_batch * v_type.calls_per_item,
                'memory_mb', v_type.run_memory_mb,
                'reasoning', coalesce(v_type.task -> 'reasoning', '[]') || to_jsonb(ARRAY[format('%s of %s waiting tasks in this batch', v_batch, v_type.pending)])
            );
        END LOOP;
    END LOOP;

    RETURN jsonb_build_object(
        'plan_id', v_plan_id,
        'created_at', p_current_time,
        'worker_id', p_worker_id,
        'workflows_to_execute', v_workflows,
        'execution_sequence', (SELECT coalesce(jsonb_agg(w ->> 'execution_id'), '[]') FROM jsonb_array_elements(v_workflows) AS w),
        'resource_allocation', (
            SELECT jsonb_build_object(
                'cost_usd', coalesce(sum((w ->> 'estimated_cost')::numeric), 0), 'memory_mb', coalesce(sum((w ->> 'memory_mb')::integer), 0),
                'api_calls', coalesce(sum((w ->> 'api_calls')::integer), 0), 'slots', count(*)
            ) FROM jsonb_array_elements(v_workflows) AS w
        ),
        'total_workflows', v_number,
        'execution_strategy', CASE WHEN v_number > 1 THEN 'parallel' WHEN v_number = 1 THEN 'single' ELSE 'none' END,
        'estimated_completion_time', (
            SELECT p_current_time + lead.seconds(max((w ->> 'estimated_duration_ms')::numeric) / 1000) FROM jsonb_array_elements(v_workflows) AS w
        ),
        'risk_assessment', (
            SELECT jsonb_build_object(
                'level', CASE WHEN min((w ->> 'predicted_success_rate')::numeric) < 0.8 THEN 'high'
                    WHEN min((w ->> 'predicted_success_rate')::numeric) < 0.95 THEN 'medium' ELSE 'low' END,
                'lowest_predicted_success_rate', min((w ->> 'predicted_success_rate')::numeric),
                'budget_after_percent', CASE WHEN v_capacity.budget_limit_usd > 0
                    THEN round(100 * (1 - v_budget / v_capacity.budget_limit_usd), 2) ELSE 100 END
            ) FROM jsonb_array_elements(v_workflows) AS w
        ),
        'passed_over', v_passed_over
    );
END;
$$;

CREATE OR REPLACE FUNCTION lead.check_plan(p_execution_plan jsonb) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_workflow jsonb;
BEGIN
    PERFORM lead.check_name('p_execution_plan.plan_id', p_execution_plan ->> 'plan_id');
    IF jsonb_typeof(p_execution_plan -> 'workflows_to_execute') IS DISTINCT FROM 'array' THEN
        PERFORM lead.refuse('p_execution_plan.workflows_to_execute', p_execution_plan ->> 'workflows_to_execute', 'an array is needed');
    END IF;
    FOR v_workflow IN SELECT w FROM jsonb_array_elements(p_execution_plan -> 'workflows_to_execute') AS w LOOP
        PERFORM lead.check_name('p_execution_plan.execution_id', v_workflow ->> 'execution_id');
        IF NOT EXISTS (SELECT 1 FROM lead.workflow_policy AS p WHERE p.workflow_type = v_workflow ->> 'workflow_type') THEN
            PERFORM lead.refuse('p_execution_plan.workflow_type', v_workflow ->> 'workflow_type', 'a workflow type of lead.workflow_policy is needed');
        END IF;
        IF coalesce(v_workflow ->> 'batch_size', '') !~ '^[1-9][0-9]{0,3}$' THEN
            PERFORM lead.refuse('p_execution_plan.batch_size', v_workflow ->> 'batch_size', '1 to 9999 are allowed');
        END IF;
    END LOOP;
END;
$$;

CREATE OR REPLACE FUNCTION public.reserve_execution_resources(
    p_execution_plan jsonb, p_current_time timestamptz DEFAULT now()
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_capacity record;
    v_wanted record;
    v_workflow record;
    v_day date := lead.budget_day(p_current_time);
    v_admitted record;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_plan(p_execution_plan);
    -- Lock first, count in the next statement: only then does the count see what a rival has just committed.
    PERFORM 1 FROM lead.coordinator AS c FOR UPDATE;
    SELECT c.* INTO v_capacity FROM lead.capacity(p_current_time) AS c;
    SELECT count(*) AS slots, coalesce(sum(lead.run_memory_mb(w ->> 'workflow_type')), 0) AS memory_mb
    INTO v_wanted
    FROM jsonb_array_elements(p_execution_plan -> 'workflows_to_execute') AS w;
    IF v_wanted.slots = 0 OR v_wanted.slots > v_capacity.free_slots OR v_wanted.memory_mb > v_capacity.memory_remaining_mb
        OR v_capacity.connections_remaining < 2
        OR EXISTS (
            SELECT 1 FROM jsonb_array_elements(p_execution_plan -> 'workflows_to_execute') AS w
            WHERE EXISTS (SELECT 1 FROM public.workflow_orchestration AS o WHERE o.execution_id = w ->> 'execution_id')
                OR EXISTS (SELECT 1 FROM lead.plan_reservation AS r WHERE r.execution_id = w ->> 'execution_id')
        ) THEN
        RETURN false;
    END IF;
    BEGIN
        FOR v_workflow IN
            SELECT w ->> 'execution_id' AS execution_id, p.workflow_type, least((w ->> 'batch_size')::integer, p.max_batch) * p.item_cost_limit_usd AS amount,
                lead.run_memory_mb(p.workflow_type) AS memory_mb, p.enabled
            FROM jsonb_array_elements(p_execution_plan -> 'workflows_to_execute') AS w
            INNER JOIN lead.workflow_policy AS p ON p.workflow_type = w ->> 'workflow_type'
        LOOP
            SELECT a.* INTO v_admitted FROM lead.breaker_admit('pipeline:' || v_workflow.workflow_type, p_current_time) AS a;
            IF NOT v_workflow.enabled OR NOT v_admitted.admitted
                OR NOT lead.execution_hold(v_day, v_workflow.workflow_type, v_workflow.amount) THEN
                RAISE EXCEPTION 'does not fit' USING ERRCODE = 'LC000';
            END IF;
            INSERT INTO lead.plan_reservation (plan_id, execution_id, workflow_type, budget_day, amount_usd, memory_mb, is_probe, reserved_at)
            VALUES (p_execution_plan ->> 'plan_id', v_workflow.execution_id, v_workflow.workflow_type, v_day, v_workflow.amount, v_workflow.memory_mb,
                v_admitted.is_probe, p_current_time);
        END LOOP;
    EXCEPTION
        -- All or nothing: what was held so far is undone with this block.
        WHEN SQLSTATE 'LC000' OR unique_violation THEN RETURN false;
    END;
    RETURN true;
END;
$$;

CREATE OR REPLACE FUNCTION lead.release_reservation(p_reservation lead.plan_reservation, p_current_time timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    PERFORM lead.breaker_record('pipeline:' || p_reservation.workflow_type, 'neutral', p_reservation.is_probe, false, NULL, p_current_time);
    PERFORM lead.execution_settle(p_reservation.budget_day, p_reservation.workflow_type, p_reservation.amount_usd, 0);
    DELETE FROM lead.plan_reservation AS r WHERE r.execution_id = p_reservation.execution_id;
END;
$$;

CREATE OR REPLACE FUNCTION lead.record_execution_state(
    p_execution_id text, p_state text, p_reason text, p_data jsonb, p_current_time timestamptz
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_previous record;
BEGIN
    SELECT s.id, s.state, s.entered_at INTO v_previous
    FROM public.workflow_states AS s WHERE s.execution_id = p_execution_id ORDER BY s.id DESC LIMIT 1;
    IF FOUND AND NOT EXISTS (
        SELECT 1 FROM lead.state_transition AS t
        WHERE t.subject = 'execution' AND t.from_state = v_previous.state AND t.to_state = p_state
    ) THEN
        RAISE EXCEPTION 'state: execution % cannot go from % to %', p_execution_id, v_previous.state, p_state USING ERRCODE = 'LC003';
    END IF;
    UPDATE public.workflow_states AS s
    SET duration_ms = greatest(0, round(1000 * extract(EPOCH FROM p_current_time - s.entered_at)))
    WHERE s.id = v_previous.id;
    INSERT INTO public.workflow_states (execution_id, state, previous_state, transition_reason, entered_at, state_data)
    VALUES (p_execution_id, p_state, v_previous.state, p_reason, p_current_time, coalesce(p_data, '{}'));
END;
$$;

CREATE OR REPLACE FUNCTION public.create_execution_records(
    p_execution_plan jsonb, p_worker_id text, p_current_time timestamptz DEFAULT now()
) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_reservation lead.plan_reservation;
    v_workflow jsonb;
    v_policy lead.workflow_policy;
    v_claimed integer;
    v_amount numeric;
    v_created integer := 0;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_plan(p_execution_plan);
    PERFORM lead.check_name('p_worker_id', p_worker_id);
    PERFORM 1 FROM lead.coordinator AS c FOR UPDATE;
    -- A plan that nobody reserved is reserved now, or makes no record.
    IF NOT EXISTS (SELECT 1 FROM lead.plan_reservation AS r WHERE r.plan_id = p_execution_plan ->> 'plan_id')
        AND NOT reserve_execution_resources(p_execution_plan, p_current_time) THEN
        RETURN 0;
    END IF;
    FOR v_reservation IN
        SELECT r.* FROM lead.plan_reservation AS r WHERE r.plan_id = p_execution_plan ->> 'plan_id' ORDER BY r.execution_id FOR UPDATE
    LOOP
        SELECT w INTO v_workflow FROM jsonb_array_elements(p_execution_plan -> 'workflows_to_execute') AS w
        WHERE w ->> 'execution_id' = v_reservation.execution_id;
        SELECT p.* INTO v_policy FROM lead.workflow_policy AS p WHERE p.workflow_type = v_reservation.workflow_type;
        v_claimed := lead.claim_tasks(
            v_reservation.execution_id, v_policy.task_type, least((v_workflow ->> 'batch_size')::integer, v_policy.max_batch), p_current_time
        );
        IF coalesce(v_claimed, 0) = 0 THEN
            PERFORM lead.release_reservation(v_reservation, p_current_time);
            CONTINUE;
        END IF;
        v_amount := v_claimed * v_policy.item_cost_limit_usd;
        PERFORM lead.execution_settle(v_reservation.budget_day, v_reservation.workflow_type, v_reservation.amount_usd - v_amount, 0);
        INSERT INTO public.workflow_orchestration (
            execution_id, workflow_type, status, priority_score, scheduled_at, batch_size, estimated_cost, api_calls_allocated, memory_allocated_mb,
            input_context, parent_execution_id, worker_id, created_at, updated_at, reserved_at, budget_day, envelope_usd, is_probe
        ) VALUES (
            v_reservation.execution_id, v_reservation.workflow_type, 'pending',
            least(100, greatest(0, coalesce((v_workflow ->> 'priority')::numeric::integer, v_policy.base_priority))),
            p_current_time, v_claimed, v_amount, v_claimed * v_policy.calls_per_item, v_reservation.memory_mb,
            jsonb_build_object('plan_id', v_reservation.plan_id, 'reasoning', coalesce(v_workflow -> 'reasoning', '[]')),
            p_execution_plan ->> 'tick_id', p_worker_id, p_current_time, p_current_time, p_current_time, v_reservation.budget_day, v_amount,
            v_reservation.is_probe
        );
        PERFORM lead.record_execution_state(v_reservation.execution_id, 'DISPATCHING', format('%s tasks reserved', v_claimed), NULL, p_current_time);
        DELETE FROM lead.plan_reservation AS r WHERE r.execution_id = v_reservation.execution_id;
        v_created := v_created + 1;
    END LOOP;
    RETURN v_created;
END;
$$;

CREATE OR REPLACE FUNCTION public.update_coordinator_state(
    p_state text, p_execution_plan jsonb, p_worker_id text, p_current_time timestamptz DEFAULT now()
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_coordinator lead.coordinator;
    v_row_id bigint;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_worker_id', p_worker_id);
    IF p_state IS NULL OR p_state NOT IN ('IDLE', 'ANALYZING', 'DISPATCHING', 'MONITORING', 'ERROR_RECOVERY') THEN
        PERFORM lead.refuse('p_state', p_state, 'IDLE, ANALYZING, DISPATCHING, MONITORING or ERROR_RECOVERY is needed');
    END IF;
    SELECT c.* INTO v_coordinator FROM lead.coordinator AS c FOR UPDATE;
    IF NOT EXISTS (
        SELECT 1 FROM lead.state_transition AS t
        WHERE t.subject = 'coordinator' AND t.from_state = v_coordinator.state AND t.to_state = p_state
    ) THEN
        RAISE EXCEPTION 'p_state: the coordinator cannot go from % to %; from % it may go to %', v_coordinator.state, p_state, v_coordinator.state,
            (SELECT string_agg(t.to_state, ', ' ORDER BY t.to_state) FROM lead.state_transition AS t
                WHERE t.subject = 'coordinator' AND t.from_state = v_coordinator.state) USING ERRCODE = 'LC003';
    END IF;
    UPDATE public.workflow_states AS s
    SET duration_ms = greatest(0, round(1000 * extract(EPOCH FROM p_current_time - s.entered_at)))
    WHERE s.id = v_coordinator.state_row_id;
    INSERT INTO public.workflow_states (execution_id, state, previous_state, transition_reason, entered_at, state_data)
    VALUES ('coordinator', p_state, v_coordinator.state, coalesce(p_execution_plan ->> 'transition_reason', 'by ' || p_worker_id), p_current_time,
        jsonb_strip_nulls(jsonb_build_object('worker_id', p_worker_id, 'plan_id', p_execution_plan ->> 'plan_id',
            'tick_id', p_execution_plan ->> 'tick_id', 'total_workflows', p_execution_plan -> 'total_workflows')))
    RETURNING id INTO v_row_id;
    UPDATE lead.coordinator AS c SET state = p_state, state_entered_at = p_current_time, state_row_id = v_row_id WHERE c.singleton;
    RETURN true;
END;
$$;

CREATE OR REPLACE FUNCTION public.acquire_coordinator_lease(
    p_worker_id text, p_ttl_seconds integer DEFAULT 60, p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_coordinator lead.coordinator;
    v_free boolean;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_worker_id', p_worker_id);
    IF p_ttl_seconds IS NULL OR p_ttl_seconds NOT BETWEEN 1 AND 3600 THEN
        PERFORM lead.refuse('p_ttl_seconds', p_ttl_seconds::text, '1 to 3600 seconds are allowed');
    END IF;
    SELECT c.* INTO v_coordinator FROM lead.coordinator AS c FOR UPDATE;
    v_free := v_coordinator.lease_holder IS NULL OR v_coordinator.lease_holder = p_worker_id OR v_coordinator.lease_expires_at <= p_current_time;
    IF v_free THEN
        UPDATE lead.coordinator AS c
        SET lease_holder = p_worker_id, lease_expires_at = p_current_time + lead.seconds(p_ttl_seconds), lease_fence = nextval('lead.fence')
        RETURNING c.* INTO v_coordinator;
    END IF;
    RETURN jsonb_build_object('acquired', v_free, 'fence', CASE WHEN v_free THEN v_coordinator.lease_fence END,
        'holder', v_coordinator.lease_holder, 'expires_at', v_coordinator.lease_expires_at);
END;
$$;

CREATE OR REPLACE FUNCTION public.release_coordinator_lease(p_worker_id text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    UPDATE lead.coordinator AS c SET lease_holder = NULL, lease_expires_at = NULL WHERE c.lease_holder = p_worker_id;
    RETURN FOUND;
END;
$$;

CREATE OR REPLACE FUNCTION public.orchestrate_workflow_execution(
    p_worker_id text, p_current_time timestamptz DEFAULT now(), p_max_concurrent integer DEFAULT 3, p_debug_mode boolean DEFAULT false
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_started timestamptz := clock_timestamp();
    v_tick_id text;
    v_coordinator lead.coordinator;
    v_health jsonb;
    v_tasks jsonb;
    v_resources jsonb;
    v_plan jsonb;
    v_dispatched integer := 0;
    v_outcome text := 'nothing_to_do';
    v_reason text;
    v_action text;
    v_note jsonb;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_worker_id', p_worker_id);
    IF p_max_concurrent IS NULL OR p_max_concurrent NOT BETWEEN 1 AND 10 THEN
        PERFORM lead.refuse('p_max_concurrent', p_max_concurrent::text, '1 to 10 are allowed');
    END IF;
    v_tick_id := 'tick-' || to_char(p_current_time AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS') || '-' || left(gen_random_uuid()::text, 8);
    v_note := jsonb_build_object('tick_id', v_tick_id);

    -- One decides at a time. A transaction's lock, since a session's would leak behind a pooler.
    IF NOT pg_try_advisory_xact_lock(hashtextextended('lead_coordinator.decide', 0)) THEN
        RETURN jsonb_build_object('execution_id', v_tick_id, 'worker_id', p_worker_id, 'timestamp', p_current_time, 'success', false,
            'reason', 'another coordinator is deciding at this moment', 'action', 'leave it the decision; the next call comes by itself',
            'workflows_dispatched', 0);
    END IF;
    SELECT c.* INTO v_coordinator FROM lead.coordinator AS c FOR UPDATE;
    IF v_coordinator.lease_holder <> p_worker_id AND v_coordinator.lease_expires_at > p_current_time THEN
        RETURN jsonb_build_object('execution_id', v_tick_id, 'worker_id', p_worker_id, 'timestamp', p_current_time, 'success', false,
            'reason', format('%s holds the lease until %s', v_coordinator.lease_holder, v_coordinator.lease_expires_at),
            'action', 'leave it the decision; its lease ends by itself', 'coordinator_state', v_coordinator.state, 'workflows_dispatched', 0);
    END IF;

    IF v_coordinator.state IN ('ANALYZING', 'DISPATCHING') THEN
        PERFORM update_coordinator_state('ERROR_RECOVERY', v_note || jsonb_build_object('transition_reason',
            format('a tick ended early in %s', v_coordinator.state)), p_worker_id, p_current_time);
    ELSIF v_coordinator.state = 'MONITORING' THEN
        PERFORM update_coordinator_state('IDLE', v_note || '{"transition_reason": "the next tick begins"}', p_worker_id, p_current_time);
    END IF;
    PERFORM update_coordinator_state('ANALYZING', v_note, p_worker_id, p_current_time);
    PERFORM lead.fold_queue_depth();
    PERFORM promote_due_tasks(p_current_time, 10000);

    v_health := check_system_health_comprehensive(p_current_time);
    v_tasks := get_intelligent_scheduled_tasks(p_current_time, p_max_concurrent);
    v_resources := check_comprehensive_resource_availability(v_tasks, p_current_time);
    v_resources := jsonb_set(v_resources, '{constraints,free_slots}', to_jsonb(greatest(0, least(
        (v_resources #>> '{constraints,free_slots}')::integer, p_max_concurrent - (v_resources #>> '{constraints,active_executions}')::integer
    ))));
    IF NOT (v_health ->> 'can_proceed')::boolean THEN
        v_reason := coalesce(v_health ->> 'reason', 'the system health check says stop');
        v_action := 'see critical_issues; nothing was reserved';
        v_outcome := 'refused';
    ELSIF NOT (v_resources ->> 'can_proceed')::boolean THEN
        v_reason := v_resources #>> '{recommendations,-1}';
        v_action := 'wait; nothing was reserved';
        v_outcome := 'refused';
    ELSE
        v_plan := create_optimal_execution_plan(v_tasks, v_resources, p_worker_id, p_current_time) || v_note;
        IF (v_plan ->> 'total_workflows')::integer > 0 THEN
            PERFORM update_coordinator_state('DISPATCHING', v_plan, p_worker_id, p_current_time);
            IF reserve_execution_resources(v_plan, p_current_time) THEN
                v_dispatched := create_execution_records(v_plan, p_worker_id, p_current_time);
            END IF;
            v_outcome := CASE WHEN v_dispatched > 0 THEN 'dispatched' ELSE 'nothing_to_do' END;
            PERFORM update_coordinator_state('MONITORING', v_plan, p_worker_id, p_current_time);
            PERFORM record_orchestration_metrics(v_plan, v_health, p_current_time);
        ELSE
            v_reason := coalesce((
                SELECT string_agg(format('%s: %s', o ->> 'workflow_type', o ->> 'reason'), '; ')
                FROM jsonb_array_elements(v_plan -> 'passed_over') AS o WHERE (o ->> 'waiting')::bigint > 0
            ), 'nothing waits');
        END IF;
    END IF;
    IF v_dispatched = 0 AND (SELECT c.state FROM lead.coordinator AS c) <> 'IDLE' THEN
        PERFORM update_coordinator_state('IDLE', v_note || jsonb_build_object('transition_reason', coalesce(v_reason, 'nothing to dispatch')),
            p_worker_id, p_current_time);
    END IF;

    INSERT INTO lead.tick (tick_id, worker_id, decided_at, duration_ms, outcome, reason, workflows_dispatched, decision)
    VALUES (v_tick_id, p_worker_id, p_current_time, round(1000 * extract(EPOCH FROM clock_timestamp() - v_started), 3), v_outcome, v_reason, v_dispatched,
        jsonb_build_object('candidates', v_tasks -> 'tasks', 'constraints', v_resources -> 'constraints',
            'chosen', coalesce(v_plan -> 'workflows_to_execute', '[]'), 'passed_over', coalesce(v_plan -> 'passed_over', '[]')));

    RETURN jsonb_build_object(
        'execution_id', v_tick_id,
        'worker_id', p_worker_id,
        'timestamp', p_current_time,
        'success', v_outcome <> 'refused',
        'coordinator_state', (SELECT c.state FROM lead.coordinator AS c),
        'system_health', v_health,
        'scheduled_tasks', v_tasks,
        'resource_status', v_resources,
        'execution_plan', v_plan,
        'workflows_dispatched', v_dispatched
    ) || CASE WHEN v_reason IS NULL THEN '{}' ELSE jsonb_build_object('reason', v_reason, 'action', coalesce(v_action, 'none is needed')) END
    || CASE WHEN p_debug_mode THEN jsonb_build_object('passed_over', coalesce(v_plan -> 'passed_over', (
            SELECT jsonb_agg(jsonb_build_object('workflow_type', t ->> 'workflow_type', 'waiting', t -> 'pending_items', 'reason', v_reason))
            FROM jsonb_array_elements(v_tasks -> 'tasks') AS t
        ))) ELSE '{}' END;
END;
$$;

-- Executions ---------------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION public.launchable_executions(
    p_limit integer DEFAULT 10, p_current_time timestamptz DEFAULT now()
) RETURNS TABLE (
    execution_id text, workflow_type text, launch_number integer, run_key text, batch_size integer, priority_score integer,
    retry_count integer, created_at timestamptz, stale boolean
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT w.execution_id, w.workflow_type, w.launch_number, w.execution_id || ':' || w.launch_number, w.batch_size, w.priority_score,
        w.retry_count, w.created_at,
        w.scheduled_at + lead.seconds(lead.setting_number('launch_timeout_seconds')) <= p_current_time
    FROM public.workflow_orchestration AS w
    WHERE w.status = 'pending' AND w.reserved_at IS NOT NULL AND w.scheduled_at <= p_current_time
    ORDER BY w.priority_score DESC, w.id
    LIMIT p_limit;
$$;

-- The execution if this lease still holds it, locked; else LC002. Who was given up for dead and wakes later fails here.
CREATE OR REPLACE FUNCTION lead.held_execution(p_execution_id text, p_fence bigint) RETURNS public.workflow_orchestration
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_execution public.workflow_orchestration;
BEGIN
    SELECT w.* INTO v_execution FROM public.workflow_orchestration AS w WHERE w.execution_id = p_execution_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_execution_id: there is no execution %', quote_nullable(left(p_execution_id, 200)) USING ERRCODE = 'LC005';
    END IF;
    IF v_execution.status <> 'running' OR v_execution.fence IS DISTINCT FROM p_fence THEN
        RAISE EXCEPTION 'p_fence: % no longer holds execution % (status %, fence %)', coalesce(p_fence::text, 'NULL'), p_execution_id,
            v_execution.status, v_execution.fence USING ERRCODE = 'LC002';
    END IF;
    RETURN v_execution;
END;
$$;

CREATE OR REPLACE FUNCTION public.start_execution(
    p_execution_id text, p_launch_number integer, p_run_id text, p_memory_mb integer DEFAULT NULL,
    p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_execution public.workflow_orchestration;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_run_id', p_run_id);
    SELECT w.* INTO v_execution FROM public.workflow_orchestration AS w WHERE w.execution_id = p_execution_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_execution_id: there is no execution %; submit a task and the coordinator makes one', quote_nullable(left(p_execution_id, 200))
            USING ERRCODE = 'LC005';
    END IF;
    IF v_execution.status <> 'pending' OR v_execution.reserved_at IS NULL OR v_execution.launch_number IS DISTINCT FROM p_launch_number THEN
        RAISE EXCEPTION 'p_execution_id: execution % can not be started by launch % (status %, launch %, %)', p_execution_id,
            coalesce(p_launch_number::text, 'NULL'), v_execution.status, v_execution.launch_number,
            CASE WHEN v_execution.reserved_at IS NULL THEN 'not reserved' ELSE 'reserved' END USING ERRCODE = 'LC002';
    END IF;
    UPDATE public.workflow_orchestration AS w
    SET status = 'running', started_at = p_current_time, run_id = p_run_id, fence = nextval('lead.fence'), heartbeat_at = p_current_time,
        lease_expires_at = p_current_time + lead.seconds(lead.setting_number('lease_seconds')),
        timeout_at = p_current_time + lead.seconds(60 * lead.setting_number('execution_timeout_minutes')),
        memory_peak_mb = greatest(w.memory_peak_mb, p_memory_mb), updated_at = p_current_time
    WHERE w.id = v_execution.id
    RETURNING w.* INTO v_execution;
    PERFORM lead.record_execution_state(p_execution_id, 'MONITORING', 'run ' || p_run_id || ' started', NULL, p_current_time);
    RETURN jsonb_build_object(
        'execution_id', v_execution.execution_id,
        'workflow_type', v_execution.workflow_type,
        'fence', v_execution.fence,
        'lease_expires_at', v_execution.lease_expires_at,
        'timeout_at', v_execution.timeout_at,
        'heartbeat_seconds', lead.setting_number('heartbeat_seconds'),
        'item_cost_limit_usd', (SELECT p.item_cost_limit_usd FROM lead.workflow_policy AS p WHERE p.workflow_type = v_execution.workflow_type),
        'tasks', (
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'task_id', t.id, 'task_type', t.task_type, 'payload', t.payload, 'attempt', t.attempts + 1, 'value_usd', t.value_usd,
                'deadline_at', t.deadline_at, 'tenant', t.tenant, 'submitted_at', t.created_at
            ) ORDER BY t.score DESC, t.queued_at, t.id), '[]')
            FROM lead.task AS t WHERE t.execution_id = p_execution_id AND t.status = 'processing'
        )
    );
END;
$$;

CREATE OR REPLACE FUNCTION public.heartbeat_execution(
    p_execution_id text, p_fence bigint, p_memory_mb integer DEFAULT NULL, p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_execution public.workflow_orchestration;
    v_reason text;
BEGIN
    v_execution := lead.held_execution(p_execution_id, p_fence);
    v_reason := CASE
        WHEN v_execution.stop_requested IS NOT NULL THEN v_execution.stop_requested
        WHEN v_execution.timeout_at <= p_current_time THEN format('timed out at %s', v_execution.timeout_at)
        WHEN p_memory_mb > 2 * v_execution.memory_allocated_mb THEN format('uses %s MB, twice its allocation of %s MB is allowed', p_memory_mb,
            v_execution.memory_allocated_mb)
    END;
    UPDATE public.workflow_orchestration AS w
    SET heartbeat_at = p_current_time, lease_expires_at = p_current_time + lead.seconds(lead.setting_number('lease_seconds')),
        memory_peak_mb = greatest(w.memory_peak_mb, p_memory_mb), updated_at = p_current_time
    WHERE w.id = v_execution.id
    RETURNING w.* INTO v_execution;
    RETURN jsonb_build_object('lease_expires_at', v_execution.lease_expires_at, 'stop', v_reason IS NOT NULL, 'reason', v_reason);
END;
$$;

-- A task that this execution works on, locked.
CREATE OR REPLACE FUNCTION lead.held_task(p_task_id bigint, p_execution_id text) RETURNS lead.task
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_task lead.task;
BEGIN
    SELECT t.* INTO v_task FROM lead.task AS t WHERE t.id = p_task_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_task_id: there is no task %', coalesce(p_task_id::text, 'NULL') USING ERRCODE = 'LC005';
    END IF;
    IF v_task.status <> 'processing' OR v_task.execution_id IS DISTINCT FROM p_execution_id THEN
        RAISE EXCEPTION 'p_task_id: execution % does not hold task % (status %, execution %)', p_execution_id, p_task_id, v_task.status,
            coalesce(v_task.execution_id, 'none') USING ERRCODE = 'LC002';
    END IF;
    RETURN v_task;
END;
$$;

-- One row for the attempt that ends now, with what its calls cost.
CREATE OR REPLACE FUNCTION lead.end_attempt(
    p_task lead.task, p_outcome text, p_error_class text, p_error_message text, p_current_time timestamptz
) RETURNS numeric
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_cost numeric;
BEGIN
    SELECT coalesce(sum(c.cost_usd), 0) INTO v_cost
    FROM lead.api_call AS c WHERE c.task_id = p_task.id AND c.execution_id = p_task.execution_id AND c.status = 'settled';
    INSERT INTO lead.task_attempt (task_id, attempt, execution_id, started_at, ended_at, outcome, error_class, error_message, cost_usd)
    VALUES (p_task.id, p_task.attempts + 1, p_task.execution_id, p_task.claimed_at, p_current_time, p_outcome, p_error_class, p_error_message, v_cost);
    RETURN v_cost;
END;
$$;

CREATE OR REPLACE FUNCTION lead.bury_task(
    p_task lead.task, p_reason text, p_error_class text, p_error_message text, p_context jsonb, p_current_time timestamptz
) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    INSERT INTO lead.dead_letter (task_id, task_type, tenant, reason, error_class, error_message, context, created_at)
    VALUES (p_task.id, p_task.task_type, p_task.tenant, p_reason, p_error_class, p_error_message,
        coalesce(p_context, '{}') || jsonb_build_object(
            'execution_id', p_task.execution_id, 'attempts', p_task.attempts, 'stalls', p_task.stalls, 'deferrals', p_task.deferrals,
            'history', (SELECT coalesce(jsonb_agg(to_jsonb(a) - 'task_id' ORDER BY a.ended_at), '[]') FROM lead.task_attempt AS a WHERE a.task_id = p_task.id)
        ), p_current_time)
    ON CONFLICT (task_id) DO UPDATE
    SET reason = excluded.reason, error_class = excluded.error_class, error_message = excluded.error_message, context = excluded.context,
        created_at = excluded.created_at;
$$;

CREATE OR REPLACE FUNCTION public.complete_task(
    p_task_id bigint, p_execution_id text, p_fence bigint, p_result jsonb DEFAULT '{}', p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_execution public.workflow_orchestration;
    v_task lead.task;
    v_cost numeric;
    v_quality numeric;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    IF jsonb_typeof(p_result) IS DISTINCT FROM 'object' THEN
        PERFORM lead.refuse('p_result', p_result::text, 'a JSON object is needed');
    END IF;
    v_execution := lead.held_execution(p_execution_id, p_fence);
    -- Said again by the same lease, after an answer that got lost: it is done already.
    IF EXISTS (SELECT 1 FROM lead.task AS t WHERE t.id = p_task_id AND t.status = 'completed' AND t.execution_id = p_execution_id) THEN
        RETURN;
    END IF;
    v_task := lead.held_task(p_task_id, p_execution_id);
    v_cost := lead.end_attempt(v_task, 'completed', NULL, NULL, p_current_time);
    UPDATE lead.task AS t
    SET status = 'completed', processed_at = p_current_time, result = p_result, cost_usd = t.cost_usd + v_cost, defer_reason = NULL
    WHERE t.id = p_task_id;
    v_quality := CASE WHEN jsonb_typeof(p_result -> 'score') = 'number' THEN least(100, greatest(0, (p_result ->> 'score')::numeric)) END;
    UPDATE public.workflow_orchestration AS w
    SET tasks_completed = w.tasks_completed + 1, updated_at = p_current_time,
        quality_scores = w.quality_scores + (v_quality IS NOT NULL)::integer, quality_sum = w.quality_sum + coalesce(v_quality, 0)
    WHERE w.id = v_execution.id;

    WITH freed AS (
        DELETE FROM lead.task_dependency AS d WHERE d.depends_on = p_task_id RETURNING d.task_id
    )
    UPDATE lead.task AS t
    SET status = CASE WHEN t.not_before > p_current_time THEN 'deferred' ELSE 'queued' END, queued_at = p_current_time,
        deferred_until = CASE WHEN t.not_before > p_current_time THEN t.not_before END,
        defer_reason = CASE WHEN t.not_before > p_current_time THEN 'not before ' || t.not_before END
    FROM freed AS f
    WHERE t.id = f.task_id AND t.status = 'deferred' AND t.deferred_until IS NULL
        AND NOT EXISTS (SELECT 1 FROM lead.task_dependency AS o WHERE o.task_id = t.id AND o.depends_on <> p_task_id);
END;
$$;

CREATE OR REPLACE FUNCTION public.fail_task(
    p_task_id bigint, p_execution_id text, p_fence bigint, p_error_class text, p_error_message text,
    p_error_context jsonb DEFAULT '{}', p_retry_after_ms integer DEFAULT NULL, p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_execution public.workflow_orchestration;
    v_task lead.task;
    v_outcome text;
    v_retry_at timestamptz;
    v_message text := left(coalesce(lead.sanitise(p_error_message), 'no message was given'), 4000);
    v_context jsonb := lead.sanitise(coalesce(p_error_context, '{}'));
    v_reason text;
    v_cost numeric;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    IF p_error_class IS NULL OR p_error_class NOT IN ('task_error', 'invalid_input', 'destination_down', 'rate_limited', 'budget_exhausted') THEN
        PERFORM lead.refuse('p_error_class', p_error_class, 'task_error, invalid_input, destination_down, rate_limited or budget_exhausted is needed');
    END IF;
    IF p_retry_after_ms NOT BETWEEN 0 AND 86400000 THEN
        PERFORM lead.refuse('p_retry_after_ms', p_retry_after_ms::text, '0 to 86400000 ms are allowed');
    END IF;
    v_execution := lead.held_execution(p_execution_id, p_fence);
    v_task := lead.held_task(p_task_id, p_execution_id);

    v_outcome := CASE
        WHEN p_error_class = 'invalid_input' THEN 'dead_letter'
        WHEN p_error_class <> 'task_error' THEN 'deferred'
        WHEN v_task.attempts >= lead.setting_number('retry_limit') THEN 'dead_letter'
        ELSE 'retried'
    END;
    -- The task's own error doubles its wait with each attempt; a destination that is down spends no attempt.
    v_retry_at := CASE v_outcome
        WHEN 'retried' THEN p_current_time + greatest(
            lead.backoff(lead.setting_number('retry_base_seconds'), v_task.attempts + 1, p_task_id), lead.seconds(coalesce(p_retry_after_ms, 0) / 1000.0)
        )
        WHEN 'deferred' THEN p_current_time + CASE
            WHEN p_retry_after_ms IS NOT NULL
                THEN least(lead.seconds(p_retry_after_ms / 1000.0), lead.seconds(lead.setting_number('retry_max_seconds')))
            ELSE lead.backoff(lead.setting_number('retry_base_seconds') / 2, v_task.deferrals + 1, p_task_id)
        END
    END;
    v_cost := lead.end_attempt(v_task, v_outcome, p_error_class, v_message, p_current_time);
    UPDATE lead.task AS t
    SET status = CASE v_outcome WHEN 'dead_letter' THEN 'dead_letter' ELSE 'deferred' END,
        attempts = t.attempts + (v_outcome <> 'deferred')::integer,
        deferrals = least(30000, t.deferrals + (v_outcome = 'deferred')::integer),
        deferred_until = v_retry_at, defer_reason = CASE v_outcome WHEN 'dead_letter' THEN NULL WHEN 'retried' THEN 'retry' ELSE p_error_class END,
        processed_at = CASE v_outcome WHEN 'dead_letter' THEN p_current_time END,
        cost_usd = t.cost_usd + v_cost, last_error_class = p_error_class, last_error_message = v_message, execution_id = NULL, claimed_at = NULL
    WHERE t.id = p_task_id;
    IF v_outcome = 'dead_letter' THEN
        v_reason := CASE p_error_class
            WHEN 'invalid_input' THEN 'the input can not be worked on' ELSE format('failed %s times', v_task.attempts + 1)
        END;
        v_task.attempts := v_task.attempts + 1;
        PERFORM lead.bury_task(v_task, v_reason, p_error_class, v_message, v_context, p_current_time);
    END IF;
    UPDATE public.workflow_orchestration AS w
    SET tasks_failed = w.tasks_failed + (v_outcome <> 'deferred')::integer, updated_at = p_current_time
    WHERE w.id = v_execution.id;
    RETURN jsonb_build_object('status', CASE v_outcome WHEN 'dead_letter' THEN 'dead_letter' ELSE 'deferred' END, 'retry_at', v_retry_at,
        'attempts', v_task.attempts + (v_outcome = 'retried')::integer,
        'defer_reason', CASE v_outcome WHEN 'dead_letter' THEN NULL WHEN 'retried' THEN 'retry' ELSE p_error_class END);
END;
$$;

-- Hourly rows, kept up to date as executions end.
CREATE OR REPLACE FUNCTION lead.roll_up_execution(
    p_execution public.workflow_orchestration, p_calls bigint, p_current_time timestamptz
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_local timestamp := p_current_time AT TIME ZONE lead.setting_text('coordinator_timezone');
    v_duration numeric := coalesce(extract(EPOCH FROM p_execution.completed_at - p_execution.started_at) * 1000, 0);
    v_ok integer := (p_execution.status = 'completed')::integer;
    v_active integer;
BEGIN
    SELECT count(*) INTO v_active FROM public.workflow_orchestration AS w WHERE w.status = 'running' AND w.workflow_type = p_execution.workflow_type;
    INSERT INTO public.execution_history AS h (
        workflow_type, execution_date, hour_of_day, total_executions, successful_executions, failed_executions, avg_duration_ms, total_cost,
        avg_api_calls, avg_memory_mb, avg_batch_size, peak_concurrent_executions, avg_success_rate, avg_quality_score, content_items_processed,
        tasks_completed, tasks_failed, quality_scores
    ) VALUES (
        p_execution.workflow_type, v_local::date, extract(HOUR FROM v_local), 1, v_ok, 1 - v_ok, v_duration, p_execution.actual_cost, p_calls,
        coalesce(p_execution.memory_peak_mb, 0), p_execution.batch_size, v_active + 1,
        coalesce(p_execution.tasks_completed::numeric / nullif(p_execution.tasks_completed + p_execution.tasks_failed, 0), 0),
        p_execution.quality_sum / nullif(p_execution.quality_scores, 0), p_execution.tasks_completed,
        p_execution.tasks_completed, p_execution.tasks_failed, p_execution.quality_scores
    )
    ON CONFLICT (workflow_type, execution_date, hour_of_day) DO UPDATE
    SET total_executions = h.total_executions + 1,
        successful_executions = h.successful_executions + excluded.successful_executions,
        failed_executions = h.failed_executions + excluded.failed_executions,
        avg_duration_ms = (h.avg_duration_ms * h.total_executions + excluded.avg_duration_ms) / (h.total_executions + 1),
        total_cost = h.total_cost + excluded.total_cost,
        avg_api_calls = (h.avg_api_calls * h.total_executions + excluded.avg_api_calls) / (h.total_executions + 1),
        avg_memory_mb = (h.avg_memory_mb * h.total_executions + excluded.avg_memory_mb) / (h.total_executions + 1),
        avg_batch_size = (h.avg_batch_size * h.total_executions + excluded.avg_batch_size) / (h.total_executions + 1),
        peak_concurrent_executions = greatest(h.peak_concurrent_executions, excluded.peak_concurrent_executions),
        avg_success_rate = coalesce((h.tasks_completed + excluded.tasks_completed)::numeric
            / nullif(h.tasks_completed + excluded.tasks_completed + h.tasks_failed + excluded.tasks_failed, 0), 0),
        avg_quality_score = (coalesce(h.avg_quality_score, 0) * h.quality_scores + coalesce(excluded.avg_quality_score, 0) * excluded.quality_scores)
            / nullif(h.quality_scores + excluded.quality_scores, 0),
        content_items_processed = h.content_items_processed + excluded.content_items_processed,
        tasks_completed = h.tasks_completed + excluded.tasks_completed,
        tasks_failed = h.tasks_failed + excluded.tasks_failed,
        quality_scores = h.quality_scores + excluded.quality_scores;
END;
$$;

-- The end of an execution, however it came. What was not sent is released, what was sent without an answer is settled at its
-- maximum, tasks still held go back to the queue at once: as given back, or as lost with the run (stalled).
CREATE OR REPLACE FUNCTION lead.end_execution(
    p_execution public.workflow_orchestration, p_status text, p_reason text, p_stalled boolean, p_output jsonb, p_error jsonb,
    p_current_time timestamptz
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_execution public.workflow_orchestration := p_execution;
    v_task lead.task;
    v_call lead.api_call;
    v_settled integer := 0;
    v_released integer := 0;
    v_returned integer := 0;
    v_parked integer := 0;
    v_cost numeric;
    v_calls bigint;
BEGIN
    FOR v_call IN
        SELECT c.* FROM lead.api_call AS c
        WHERE c.execution_id = p_execution.execution_id AND c.status IN ('reserved', 'sent') ORDER BY c.provider, c.id FOR UPDATE
    LOOP
        IF v_call.status = 'reserved' THEN
            PERFORM lead.release_call(v_call, p_current_time);
            v_released := v_released + 1;
        ELSE
            UPDATE lead.api_call AS c SET status = 'settled', outcome = 'unanswered', cost_usd = c.max_cost_usd, settled_at = p_current_time
            WHERE c.id = v_call.id;
            PERFORM lead.breaker_record('provider:' || v_call.provider, 'neutral', v_call.is_probe, false, NULL, p_current_time);
            PERFORM lead.budget_settle(v_call.budget_day, 'provider', v_call.provider, v_call.max_cost_usd, v_call.max_cost_usd);
            v_settled := v_settled + 1;
        END IF;
    END LOOP;
    SELECT coalesce(sum(c.cost_usd) FILTER (WHERE c.status = 'settled'), 0), count(*) FILTER (WHERE c.status = 'settled') INTO v_cost, v_calls
    FROM lead.api_call AS c WHERE c.execution_id = p_execution.execution_id;

    FOR v_task IN
        SELECT t.* FROM lead.task AS t
        WHERE t.execution_id = p_execution.execution_id AND t.status = 'processing' ORDER BY t.id FOR UPDATE
    LOOP
        IF p_stalled AND v_task.stalls + 1 >= lead.setting_number('stall_limit') THEN
            PERFORM lead.end_attempt(v_task, 'dead_letter', 'stalled', p_reason, p_current_time);
            UPDATE lead.task AS t
            SET status = 'dead_letter', stalls = t.stalls + 1, processed_at = p_current_time, last_error_class = 'stalled', last_error_message = p_reason,
                execution_id = NULL, claimed_at = NULL
            WHERE t.id = v_task.id;
            v_task.stalls := v_task.stalls + 1;
            PERFORM lead.bury_task(v_task, format('lost with its run %s times', v_task.stalls), 'stalled', p_reason, '{}', p_current_time);
            v_parked := v_parked + 1;
        ELSE
            PERFORM lead.end_attempt(v_task, CASE WHEN p_stalled THEN 'stalled' ELSE 'returned' END, NULL, p_reason, p_current_time);
            UPDATE lead.task AS t
            SET status = 'queued', stalls = t.stalls + p_stalled::integer, execution_id = NULL, claimed_at = NULL,
                cost_usd = t.cost_usd + (SELECT coalesce(sum(c.cost_usd), 0) FROM lead.api_call AS c
                    WHERE c.task_id = v_task.id AND c.execution_id = p_execution.execution_id AND c.status = 'settled')
            WHERE t.id = v_task.id;
            v_returned := v_returned + 1;
        END IF;
    END LOOP;

    UPDATE public.workflow_orchestration AS w
    SET status = p_status, completed_at = p_current_time, updated_at = p_current_time, lease_expires_at = NULL, actual_cost = v_cost, calls_held_usd = 0,
        envelope_usd = 0, output_result = coalesce(p_output, w.output_result),
        error_details = CASE WHEN p_status = 'completed' THEN w.error_details ELSE jsonb_build_object('reason', p_reason) || coalesce(p_error, '{}') END,
        metrics = w.metrics || jsonb_build_object('completed', w.tasks_completed, 'failed', w.tasks_failed, 'returned', v_returned, 'parked', v_parked,
            'api_calls', v_calls)
    WHERE w.id = p_execution.id
    RETURNING w.* INTO v_execution;
    PERFORM lead.record_execution_state(
        p_execution.execution_id, CASE WHEN p_status = 'completed' THEN 'COMPLETED' WHEN p_status = 'cancelled' THEN 'COOLDOWN' ELSE 'ERROR_RECOVERY' END,
        p_reason, NULL, p_current_time
    );
    PERFORM lead.roll_up_execution(v_execution, v_calls, p_current_time);
    PERFORM lead.breaker_record(
        'pipeline:' || v_execution.workflow_type,
        CASE p_status WHEN 'completed' THEN 'success' WHEN 'cancelled' THEN 'neutral' ELSE 'failure' END,
        v_execution.is_probe, false, p_reason, p_current_time
    );
    PERFORM lead.execution_settle(p_execution.budget_day, p_execution.workflow_type, p_execution.envelope_usd, v_cost);
    RETURN jsonb_build_object(
        'execution_id', v_execution.execution_id, 'workflow_type', v_execution.workflow_type, 'status', p_status, 'reason', p_reason,
        'completed', v_execution.tasks_completed, 'failed', v_execution.tasks_failed, 'returned', v_returned, 'tasks_requeued', v_returned,
        'tasks_parked', v_parked, 'calls_settled', v_settled, 'calls_released', v_released, 'actual_cost', v_cost, 'run_id', v_execution.run_id
    );
END;
$$;

CREATE OR REPLACE FUNCTION public.finish_execution(
    p_execution_id text, p_fence bigint, p_status text, p_output jsonb DEFAULT '{}', p_error jsonb DEFAULT NULL,
    p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    PERFORM lead.check_clock(p_current_time);
    IF p_status IS NULL OR p_status NOT IN ('completed', 'failed', 'cancelled') THEN
        PERFORM lead.refuse('p_status', p_status, 'completed, failed or cancelled is needed');
    END IF;
    RETURN lead.end_execution(lead.held_execution(p_execution_id, p_fence), p_status, 'run ended as ' || p_status, false,
        lead.sanitise(p_output), lead.sanitise(p_error), p_current_time);
END;
$$;

CREATE OR REPLACE FUNCTION public.relaunch_execution(
    p_execution_id text, p_launch_number integer, p_current_time timestamptz DEFAULT now()
) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_execution public.workflow_orchestration;
BEGIN
    SELECT w.* INTO v_execution FROM public.workflow_orchestration AS w WHERE w.execution_id = p_execution_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_execution_id: there is no execution %', quote_nullable(left(p_execution_id, 200)) USING ERRCODE = 'LC005';
    END IF;
    IF v_execution.status <> 'pending' OR v_execution.launch_number <> p_launch_number THEN
        RETURN v_execution.launch_number;
    END IF;
    IF v_execution.retry_count >= v_execution.max_retries THEN
        PERFORM lead.end_execution(v_execution, 'failed', format('no run started in %s launches', v_execution.launch_number), false, NULL, NULL, p_current_time);
        RETURN v_execution.launch_number;
    END IF;
    UPDATE public.workflow_orchestration AS w
    SET launch_number = w.launch_number + 1, retry_count = w.retry_count + 1, scheduled_at = p_current_time, updated_at = p_current_time
    WHERE w.id = v_execution.id
    RETURNING w.* INTO v_execution;
    RETURN v_execution.launch_number;
END;
$$;

CREATE OR REPLACE FUNCTION public.report_run_failure(
    p_execution_id text, p_run_id text, p_reason text, p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_execution public.workflow_orchestration;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    SELECT w.* INTO v_execution FROM public.workflow_orchestration AS w WHERE w.execution_id = p_execution_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN jsonb_build_object('ignored', 'there is no such execution');
    END IF;
    IF v_execution.status <> 'running' OR v_execution.run_id IS DISTINCT FROM p_run_id THEN
        RETURN jsonb_build_object('ignored', format('execution is %s and belongs to run %s', v_execution.status, coalesce(v_execution.run_id, 'none')));
    END IF;
    RETURN lead.end_execution(v_execution, 'failed', left(coalesce(lead.sanitise(p_reason), 'the run failed'), 500), true, NULL, NULL, p_current_time);
END;
$$;

CREATE OR REPLACE FUNCTION public.recover_executions(p_current_time timestamptz DEFAULT clock_timestamp()) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_execution public.workflow_orchestration;
    v_reservation lead.plan_reservation;
    v_recovered jsonb := '[]';
BEGIN
    PERFORM lead.check_clock(p_current_time);
    FOR v_execution IN
        SELECT w.* FROM public.workflow_orchestration AS w
        WHERE w.status = 'running' AND w.reserved_at IS NOT NULL AND (w.lease_expires_at <= p_current_time OR w.timeout_at <= p_current_time)
        ORDER BY w.id FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        v_recovered := v_recovered || CASE
            WHEN v_execution.timeout_at <= p_current_time
                THEN lead.end_execution(v_execution, 'timeout', format('timed out at %s', v_execution.timeout_at), true, NULL, NULL, p_current_time)
            ELSE lead.end_execution(v_execution, 'failed', format('no heartbeat since %s', v_execution.heartbeat_at), true, NULL, NULL, p_current_time)
        END;
    END LOOP;
    FOR v_reservation IN
        SELECT r.* FROM lead.plan_reservation AS r
        WHERE r.reserved_at + lead.seconds(lead.setting_number('reservation_seconds')) <= p_current_time
        ORDER BY r.execution_id FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM lead.release_reservation(v_reservation, p_current_time);
    END LOOP;
    -- Nothing left to monitor: the coordinator rests. SKIP LOCKED, since whoever decides holds that row before any execution.
    IF EXISTS (SELECT 1 FROM lead.coordinator AS c WHERE c.state = 'MONITORING')
        AND NOT EXISTS (SELECT 1 FROM public.workflow_orchestration AS w WHERE w.status IN ('pending', 'running') AND w.reserved_at IS NOT NULL)
        AND EXISTS (SELECT 1 FROM lead.coordinator AS c WHERE c.state = 'MONITORING' FOR UPDATE SKIP LOCKED) THEN
        PERFORM update_coordinator_state('IDLE', '{"transition_reason": "no execution is left to monitor"}', 'recovery', p_current_time);
    END IF;
    RETURN jsonb_build_object(
        'recovered', v_recovered,
        'requeued', (SELECT coalesce(sum((r ->> 'tasks_requeued')::integer), 0) FROM jsonb_array_elements(v_recovered) AS r),
        'parked', (SELECT coalesce(sum((r ->> 'tasks_parked')::integer), 0) FROM jsonb_array_elements(v_recovered) AS r)
    );
END;
$$;

-- A row that an outsider inserts is reserved, or refused with its reason; one there is no room for yet waits for the next tick.
CREATE OR REPLACE FUNCTION public.adopt_executions(p_current_time timestamptz DEFAULT now()) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_execution public.workflow_orchestration;
    v_policy lead.workflow_policy;
    v_capacity record;
    v_memory integer;
    v_claimed integer;
    v_amount numeric;
    v_reason text;
    v_day date := lead.budget_day(p_current_time);
    v_adopted jsonb := '[]';
    v_refused jsonb := '[]';
    v_waiting jsonb := '[]';
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM 1 FROM lead.coordinator AS c FOR UPDATE;
    FOR v_execution IN
        SELECT w.* FROM public.workflow_orchestration AS w
        WHERE w.status = 'pending' AND w.reserved_at IS NULL ORDER BY w.priority_score DESC, w.id LIMIT 100 FOR UPDATE SKIP LOCKED
    LOOP
        SELECT p.* INTO v_policy FROM lead.workflow_policy AS p WHERE p.workflow_type = v_execution.workflow_type;
        SELECT c.* INTO v_capacity FROM lead.capacity(p_current_time) AS c;
        v_memory := lead.run_memory_mb(v_execution.workflow_type);
        v_amount := least(greatest(v_execution.batch_size, 1), v_policy.max_batch) * v_policy.item_cost_limit_usd;
        v_reason := CASE
            WHEN NOT v_policy.enabled THEN format('%s is disabled by policy: %s', v_policy.workflow_type, coalesce(v_policy.disabled_reason, 'by an operator'))
            WHEN lead.queue_depth(v_policy.task_type, 'queued') = 0 THEN format('no %s task waits', v_policy.task_type)
        END;
        IF v_reason IS NULL AND (v_capacity.free_slots = 0 OR v_capacity.memory_remaining_mb < v_memory
            OR NOT lead.execution_hold(v_day, v_execution.workflow_type, v_amount)) THEN
            v_waiting := v_waiting || jsonb_build_object('execution_id', v_execution.execution_id, 'reason', format(
                '%s of %s slots busy, %s MB and %s USD left', v_capacity.active, v_capacity.max_concurrent, v_capacity.memory_remaining_mb,
                round(v_capacity.budget_remaining_usd, 2)));
            CONTINUE;
        END IF;
        IF v_reason IS NULL THEN
            v_claimed := lead.claim_tasks(
                v_execution.execution_id, v_policy.task_type, least(greatest(v_execution.batch_size, 1), v_policy.max_batch), p_current_time
            );
            PERFORM lead.execution_settle(v_day, v_execution.workflow_type, v_amount - v_claimed * v_policy.item_cost_limit_usd, 0);
            v_amount := v_claimed * v_policy.item_cost_limit_usd;
            IF v_claimed = 0 THEN
                v_reason := format('no %s task waits', v_policy.task_type);
            END IF;
        END IF;
        IF v_reason IS NOT NULL THEN
            UPDATE public.workflow_orchestration AS w
            SET status = 'cancelled', completed_at = p_current_time, updated_at = p_current_time,
                error_details = jsonb_build_object('reason', 'refused: ' || v_reason)
            WHERE w.id = v_execution.id;
            v_refused := v_refused || jsonb_build_object('execution_id', v_execution.execution_id, 'reason', v_reason);
            CONTINUE;
        END IF;
        UPDATE public.workflow_orchestration AS w
        SET reserved_at = p_current_time, scheduled_at = p_current_time, updated_at = p_current_time, budget_day = v_day, envelope_usd = v_amount,
            estimated_cost = v_amount, batch_size = v_claimed, memory_allocated_mb = v_memory, api_calls_allocated = v_claimed * v_policy.calls_per_item
        WHERE w.id = v_execution.id;
        PERFORM lead.record_execution_state(v_execution.execution_id, 'DISPATCHING', format('adopted with %s tasks', v_claimed), NULL, p_current_time);
        v_adopted := v_adopted || to_jsonb(v_execution.execution_id);
    END LOOP;
    RETURN jsonb_build_object('adopted', v_adopted, 'refused', v_refused, 'waiting', v_waiting);
END;
$$;

-- Calls to providers -------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION lead.release_call(p_call lead.api_call, p_current_time timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    UPDATE lead.api_call AS c SET status = 'released', outcome = 'not_sent', cost_usd = 0, settled_at = p_current_time WHERE c.id = p_call.id;
    UPDATE lead.rate_slot AS s SET free_at = p_current_time, call_id = NULL
    WHERE s.provider = p_call.provider AND s.slot_no = p_call.slot_no AND s.call_id = p_call.id;
    UPDATE public.workflow_orchestration AS w SET calls_held_usd = greatest(0, w.calls_held_usd - p_call.max_cost_usd)
    WHERE w.execution_id = p_call.execution_id;
    PERFORM lead.breaker_record('provider:' || p_call.provider, 'neutral', p_call.is_probe, false, NULL, p_current_time);
    PERFORM lead.budget_settle(p_call.budget_day, 'provider', p_call.provider, p_call.max_cost_usd, 0);
END;
$$;

CREATE OR REPLACE FUNCTION public.begin_api_call(
    p_execution_id text, p_fence bigint, p_task_id bigint, p_step text, p_candidates jsonb,
    p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_execution public.workflow_orchestration;
    v_attempt integer;
    v_item_limit numeric;
    v_item_committed numeric;
    v_candidate jsonb;
    v_provider public.api_rate_limits;
    v_max numeric;
    v_extra numeric;
    v_admitted record;
    v_slot_no integer;
    v_next_free timestamptz;
    v_call_id bigint;
    v_grant_seconds numeric := lead.setting_number('grant_seconds');
    v_reason text;
    v_wait_ms integer;
    v_blocked jsonb := '[]';
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_step', p_step);
    IF jsonb_typeof(p_candidates) IS DISTINCT FROM 'array' OR jsonb_array_length(p_candidates) NOT BETWEEN 1 AND 20 THEN
        PERFORM lead.refuse('p_candidates', p_candidates::text, 'an array of 1 to 20 candidates is needed');
    END IF;
    v_execution := lead.held_execution(p_execution_id, p_fence);
    SELECT t.attempts + 1 INTO v_attempt FROM lead.task AS t
    WHERE t.id = p_task_id AND t.status = 'processing' AND t.execution_id = p_execution_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_task_id: execution % does not hold task %', p_execution_id, coalesce(p_task_id::text, 'NULL') USING ERRCODE = 'LC002';
    END IF;
    SELECT p.item_cost_limit_usd INTO v_item_limit FROM lead.workflow_policy AS p WHERE p.workflow_type = v_execution.workflow_type;
    SELECT coalesce(sum(coalesce(c.cost_usd, c.max_cost_usd)), 0) INTO v_item_committed
    FROM lead.api_call AS c WHERE c.task_id = p_task_id AND c.execution_id = p_execution_id;

    FOR v_candidate IN SELECT g.candidate FROM jsonb_array_elements(p_candidates) WITH ORDINALITY AS g (candidate, place) ORDER BY g.place LOOP
        SELECT r.* INTO v_provider FROM public.api_rate_limits AS r WHERE r.provider = v_candidate ->> 'provider';
        IF NOT FOUND THEN
            PERFORM lead.refuse('p_candidates.provider', v_candidate ->> 'provider',
                (SELECT 'one of ' || string_agg(r.provider, ', ' ORDER BY r.provider) || ' is needed' FROM public.api_rate_limits AS r));
        END IF;
        PERFORM lead.check_name('p_candidates.model', v_candidate ->> 'model');
        IF coalesce(v_candidate ->> 'max_cost_usd', '') !~ '^[0-9]{1,6}(\.[0-9]{1,20})?(e-[0-9]{1,2})?$' THEN
            PERFORM lead.refuse('p_candidates.max_cost_usd', v_candidate ->> 'max_cost_usd', 'US dollars, 0 to 999999, are needed');
        END IF;
        -- Up, so that what is held is never less than what may be spent.
        v_max := ceil((v_candidate ->> 'max_cost_usd')::numeric * 10000000000) / 10000000000;
        v_extra := greatest(0, v_execution.actual_cost + v_execution.calls_held_usd + v_max - v_execution.envelope_usd);
        v_reason := NULL;
        v_wait_ms := NULL;

        IF NOT v_provider.is_available THEN
            v_reason := 'breaker_open';
            v_wait_ms := 60000;
        ELSIF v_item_committed + v_max > v_item_limit THEN
            v_reason := 'item_cost_limit';
        ELSIF v_provider.blocked_until > p_current_time THEN
            v_reason := 'rate_limited';
            v_wait_ms := lead.milliseconds_until(v_provider.blocked_until, p_current_time);
        ELSE
            SELECT a.* INTO v_admitted FROM lead.breaker_admit('provider:' || v_provider.provider, p_current_time) AS a;
            IF NOT v_admitted.admitted THEN
                v_reason := 'breaker_open';
                v_wait_ms := v_admitted.wait_ms;
            ELSE
                SELECT s.slot_no INTO v_slot_no FROM lead.rate_slot AS s
                WHERE s.provider = v_provider.provider AND s.slot_no <= v_provider.adaptive_limit AND s.free_at <= p_current_time
                ORDER BY s.free_at LIMIT 1 FOR UPDATE SKIP LOCKED;
                IF NOT FOUND THEN
                    v_reason := 'rate_limited';
                    SELECT min(s.free_at) INTO v_next_free FROM lead.rate_slot AS s
                    WHERE s.provider = v_provider.provider AND s.slot_no <= v_provider.adaptive_limit;
                    -- A slot that is free and locked is being taken or given back at this moment.
                    v_wait_ms := greatest(20, lead.milliseconds_until(v_next_free, p_current_time));
                ELSIF NOT lead.budget_hold(v_execution.budget_day, 'provider', v_provider.provider, v_max, v_provider.daily_cost_limit) THEN
                    v_reason := 'budget';
                ELSIF v_extra > 0 AND NOT lead.execution_hold(v_execution.budget_day, v_execution.workflow_type, v_extra) THEN
                    v_reason := 'budget';
                    PERFORM lead.budget_settle(v_execution.budget_day, 'provider', v_provider.provider, v_max, 0);
                END IF;
                IF v_reason IS NOT NULL THEN
                    PERFORM lead.breaker_record('provider:' || v_provider.provider, 'neutral', v_admitted.is_probe, false, NULL, p_current_time);
                END IF;
            END IF;
        END IF;
        IF v_reason IS NOT NULL THEN
            v_blocked := v_blocked || jsonb_build_object('provider', v_provider.provider, 'reason', v_reason, 'wait_ms', v_wait_ms);
            CONTINUE;
        END IF;

        INSERT INTO lead.api_call (
            execution_id, fence, task_id, attempt, step, provider, model, status, budget_day, max_cost_usd, input_tokens, is_probe, slot_no, use_by,
            reserved_at
        ) VALUES (
            p_execution_id, p_fence, p_task_id, v_attempt, p_step, v_provider.provider, v_candidate ->> 'model', 'reserved', v_execution.budget_day, v_max,
            (v_candidate ->> 'input_tokens')::numeric::integer, v_admitted.is_probe, v_slot_no, p_current_time + lead.seconds(v_grant_seconds),
            p_current_time
        ) RETURNING id INTO v_call_id;
        UPDATE lead.rate_slot AS s
        SET call_id = v_call_id, free_at = p_current_time + lead.seconds(60 + lead.setting_number('rate_margin_ms') / 1000)
        WHERE s.provider = v_provider.provider AND s.slot_no = v_slot_no;
        UPDATE public.workflow_orchestration AS w
        SET calls_held_usd = w.calls_held_usd + v_max, envelope_usd = w.envelope_usd + v_extra
        WHERE w.id = v_execution.id;
        RETURN jsonb_build_object('granted', true, 'call_id', v_call_id, 'provider', v_provider.provider, 'model', v_candidate ->> 'model',
            'use_by_ms', (1000 * v_grant_seconds)::integer, 'probe', v_admitted.is_probe);
    END LOOP;

    -- The reason of whoever may be free first; if no wait helps anywhere, the first candidate's.
    SELECT b ->> 'reason', (b ->> 'wait_ms')::integer INTO v_reason, v_wait_ms
    FROM jsonb_array_elements(v_blocked) WITH ORDINALITY AS g (b, place) ORDER BY (b ->> 'wait_ms')::integer NULLS LAST, place LIMIT 1;
    RETURN jsonb_build_object('granted', false, 'reason', v_reason, 'wait_ms', v_wait_ms, 'blocked', v_blocked);
END;
$$;

-- The last thing before the request leaves. The slot's 60 seconds begin anew, so that only the way from here to the provider must
-- fit into the margin.
CREATE OR REPLACE FUNCTION public.mark_api_call_sent(
    p_call_id bigint, p_fence bigint, p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_execution_id text;
    v_call lead.api_call;
BEGIN
    SELECT c.execution_id INTO v_execution_id FROM lead.api_call AS c WHERE c.id = p_call_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_call_id: there is no call %', coalesce(p_call_id::text, 'NULL') USING ERRCODE = 'LC005';
    END IF;
    PERFORM lead.held_execution(v_execution_id, p_fence);
    SELECT c.* INTO v_call FROM lead.api_call AS c WHERE c.id = p_call_id FOR UPDATE;
    IF v_call.status <> 'reserved' THEN
        RETURN jsonb_build_object('ok', false, 'reason', 'the call is ' || v_call.status);
    END IF;
    IF v_call.use_by <= p_current_time THEN
        PERFORM lead.release_call(v_call, p_current_time);
        RETURN jsonb_build_object('ok', false, 'reason', 'the grant had to be used by ' || v_call.use_by);
    END IF;
    UPDATE lead.api_call AS c SET status = 'sent', sent_at = p_current_time WHERE c.id = p_call_id;
    UPDATE lead.rate_slot AS s SET free_at = p_current_time + lead.seconds(60 + lead.setting_number('rate_margin_ms') / 1000)
    WHERE s.provider = v_call.provider AND s.slot_no = v_call.slot_no AND s.call_id = p_call_id;
    RETURN jsonb_build_object('ok', true, 'reason', NULL);
END;
$$;

CREATE OR REPLACE FUNCTION public.release_api_call(
    p_call_id bigint, p_fence bigint, p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_call lead.api_call;
BEGIN
    SELECT c.* INTO v_call FROM lead.api_call AS c WHERE c.id = p_call_id;
    PERFORM 1 FROM public.workflow_orchestration AS w WHERE w.execution_id = v_call.execution_id FOR NO KEY UPDATE;
    SELECT c.* INTO v_call FROM lead.api_call AS c WHERE c.id = p_call_id AND c.fence = p_fence AND c.status = 'reserved' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM lead.release_call(v_call, p_current_time);
    RETURN true;
END;
$$;

CREATE OR REPLACE FUNCTION public.settle_api_call(
    p_call_id bigint, p_outcome text, p_cost_usd numeric, p_usage jsonb DEFAULT '{}', p_http_status integer DEFAULT NULL,
    p_retry_after_ms integer DEFAULT NULL, p_error text DEFAULT NULL, p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_call lead.api_call;
    v_cost numeric;
    v_ending text;
    v_state text;
    v_retry_after interval := lead.seconds(least(coalesce(p_retry_after_ms, 1000), 120000) / 1000.0);
BEGIN
    IF p_outcome IS NULL OR p_outcome NOT IN ('ok', 'rate_limited', 'server_error', 'timeout', 'connection_error', 'bad_response', 'client_error',
        'auth_error', 'billing_stop', 'cancelled') THEN
        PERFORM lead.refuse('p_outcome', p_outcome, 'ok, rate_limited, server_error, timeout, connection_error, bad_response, client_error, auth_error, '
            || 'billing_stop or cancelled is needed');
    END IF;
    IF p_cost_usd < 0 OR p_cost_usd > 1000000 THEN
        PERFORM lead.refuse('p_cost_usd', p_cost_usd::text, 'US dollars, 0 to 1000000, or NULL for unknown, are needed');
    END IF;
    SELECT c.* INTO v_call FROM lead.api_call AS c WHERE c.id = p_call_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_call_id: there is no call %', coalesce(p_call_id::text, 'NULL') USING ERRCODE = 'LC005';
    END IF;
    PERFORM 1 FROM public.workflow_orchestration AS w WHERE w.execution_id = v_call.execution_id FOR NO KEY UPDATE;
    SELECT c.* INTO v_call FROM lead.api_call AS c WHERE c.id = p_call_id FOR UPDATE;
    IF v_call.status IN ('settled', 'released') THEN
        -- Settling is idempotent; a run that was given up for dead finds its calls resolved already.
        RETURN jsonb_build_object('cost_usd', v_call.cost_usd, 'already_settled', true,
            'breaker_state', (SELECT b.state FROM lead.circuit_breaker AS b WHERE b.name = 'provider:' || v_call.provider));
    END IF;
    IF v_call.status = 'reserved' THEN
        RAISE EXCEPTION 'p_call_id: call % was never marked as sent; release it instead', p_call_id USING ERRCODE = '22023';
    END IF;

    -- Half up at the ledger's tenth digit; an unknown cost counts as the maximum, since it may have been billed.
    v_cost := round(coalesce(p_cost_usd, v_call.max_cost_usd), 10);
    UPDATE lead.api_call AS c
    SET status = 'settled', outcome = p_outcome, cost_usd = v_cost, settled_at = p_current_time, http_status = p_http_status,
        error_message = left(lead.sanitise(p_error), 2000),
        input_tokens = coalesce((p_usage ->> 'input_tokens')::numeric::integer, c.input_tokens),
        output_tokens = (p_usage ->> 'output_tokens')::numeric::integer,
        thinking_tokens = (p_usage ->> 'thinking_tokens')::numeric::integer,
        cached_tokens = (p_usage ->> 'cached_tokens')::numeric::integer
    WHERE c.id = p_call_id;
    UPDATE public.workflow_orchestration AS w
    SET calls_held_usd = greatest(0, w.calls_held_usd - v_call.max_cost_usd), actual_cost = w.actual_cost + v_cost, updated_at = p_current_time
    WHERE w.execution_id = v_call.execution_id;

    v_ending := CASE
        WHEN p_outcome = 'ok' THEN 'success'
        -- A 429 is back-pressure, a 400 is ours, a cancelled call says nothing.
        WHEN p_outcome IN ('rate_limited', 'client_error', 'cancelled') THEN 'neutral'
        ELSE 'failure'
    END;
    v_state := lead.breaker_record('provider:' || v_call.provider, v_ending, v_call.is_probe, p_outcome IN ('auth_error', 'billing_stop'), p_error,
        p_current_time);
    PERFORM lead.budget_settle(v_call.budget_day, 'provider', v_call.provider, v_call.max_cost_usd, v_cost);

    UPDATE public.api_rate_limits AS r
    SET requests_used_current_minute = (SELECT count(*) FROM lead.rate_slot AS s WHERE s.provider = r.provider AND s.free_at > p_current_time),
        minute_reset_at = p_current_time + interval '60 seconds',
        daily_cost_used = (
            SELECT coalesce(sum(a.spent_usd), 0) FROM lead.budget_account AS a
            WHERE a.budget_day = lead.budget_day(p_current_time) AND a.scope = 'provider' AND a.scope_key = r.provider
        ),
        last_error_at = CASE WHEN p_outcome = 'ok' THEN r.last_error_at ELSE p_current_time END,
        consecutive_errors = CASE WHEN p_outcome = 'ok' THEN 0 ELSE r.consecutive_errors + 1 END,
        blocked_until = CASE WHEN p_outcome = 'rate_limited' THEN greatest(r.blocked_until, p_current_time + v_retry_after) ELSE r.blocked_until END,
        -- A tenth less after a 429, at most every ten seconds and never under half; one more every five seconds without.
        adaptive_limit = CASE
            WHEN p_outcome = 'rate_limited' AND (r.adapted_at IS NULL OR r.adapted_at <= p_current_time - interval '10 seconds')
                THEN greatest(ceil(r.requests_per_minute / 2.0)::integer, floor(0.9 * r.adaptive_limit)::integer, 1)
            WHEN p_outcome = 'ok' AND r.adaptive_limit < r.requests_per_minute AND r.adapted_at <= p_current_time - interval '5 seconds'
                THEN r.adaptive_limit + 1
            ELSE least(r.adaptive_limit, r.requests_per_minute)
        END,
        adapted_at = CASE
            WHEN p_outcome = 'rate_limited' AND (r.adapted_at IS NULL OR r.adapted_at <= p_current_time - interval '10 seconds') THEN p_current_time
            WHEN p_outcome = 'ok' AND r.adaptive_limit < r.requests_per_minute AND r.adapted_at <= p_current_time - interval '5 seconds' THEN p_current_time
            ELSE r.adapted_at
        END,
        updated_at = p_current_time
    WHERE r.provider = v_call.provider;
    RETURN jsonb_build_object('cost_usd', v_cost, 'breaker_state', v_state);
END;
$$;

-- Publications: the intent is a row, taken with the fence, before anything leaves the database ---------------------------
CREATE OR REPLACE FUNCTION public.begin_publication(
    p_task_id bigint, p_execution_id text, p_fence bigint, p_site text, p_slug text, p_title text,
    p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_publication lead.publication;
    v_slug text;
    v_number integer := 1;
BEGIN
    PERFORM lead.check_name('p_site', p_site);
    PERFORM lead.check_name('p_title', p_title);
    IF p_slug IS NULL OR p_slug !~ '^[a-z0-9]+(-[a-z0-9]+)*$' OR length(p_slug) > 190 THEN
        PERFORM lead.refuse('p_slug', p_slug, 'lower-case letters, digits and single hyphens, at most 190 characters, are needed');
    END IF;
    PERFORM lead.held_execution(p_execution_id, p_fence);
    PERFORM lead.held_task(p_task_id, p_execution_id);
    UPDATE lead.publication AS p
    SET execution_id = p_execution_id, fence = p_fence, title = CASE p.status WHEN 'published' THEN p.title ELSE p_title END
    WHERE p.site = p_site AND p.task_id = p_task_id
    RETURNING p.* INTO v_publication;
    WHILE v_publication.id IS NULL LOOP
        v_slug := CASE v_number WHEN 1 THEN p_slug ELSE p_slug || '-' || v_number END;
        INSERT INTO lead.publication (task_id, site, slug, title, status, execution_id, fence, created_at)
        VALUES (p_task_id, p_site, v_slug, p_title, 'intended', p_execution_id, p_fence, p_current_time)
        ON CONFLICT (site, slug) DO NOTHING
        RETURNING * INTO v_publication;
        v_number := v_number + 1;
    END LOOP;
    RETURN jsonb_build_object('publication_id', v_publication.id, 'slug', v_publication.slug,
        'already_published', v_publication.status = 'published', 'url', v_publication.url);
END;
$$;

CREATE OR REPLACE FUNCTION public.confirm_publication(
    p_publication_id bigint, p_execution_id text, p_fence bigint, p_url text, p_content_sha256 text, p_details jsonb DEFAULT '{}',
    p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    IF p_url IS NULL OR length(p_url) NOT BETWEEN 1 AND 2000 THEN
        PERFORM lead.refuse('p_url', p_url, 'a URL of 1 to 2000 characters is needed');
    END IF;
    IF p_content_sha256 IS NULL OR p_content_sha256 !~ '^[0-9a-f]{64}$' THEN
        PERFORM lead.refuse('p_content_sha256', p_content_sha256, '64 hexadecimal digits are needed');
    END IF;
    PERFORM lead.held_execution(p_execution_id, p_fence);
    UPDATE lead.publication AS p
    SET status = 'published', url = p_url, content_sha256 = p_content_sha256, details = coalesce(p_details, '{}'),
        published_at = coalesce(p.published_at, p_current_time)
    WHERE p.id = p_publication_id AND p.execution_id = p_execution_id AND p.fence = p_fence;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_publication_id: execution % does not hold publication %', p_execution_id, coalesce(p_publication_id::text, 'NULL')
            USING ERRCODE = 'LC002';
    END IF;
END;
$$;

CREATE OR REPLACE FUNCTION public.list_publications(p_site text, p_limit integer DEFAULT 1000) RETURNS TABLE (
    publication_id bigint, task_id bigint, slug text, title text, url text, published_at timestamptz, details jsonb
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT p.id, p.task_id, p.slug, p.title, p.url, p.published_at, p.details
    FROM lead.publication AS p
    WHERE p.site = p_site AND p.status = 'published'
    ORDER BY p.published_at DESC, p.id DESC
    LIMIT p_limit;
$$;

-- The environment seeds rows; a row that is there wins, and whoever deploys is told where the two differ. ------------------
CREATE OR REPLACE FUNCTION public.configure_platform(p_settings jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_given record;
    v_row record;
    v_provider text;
    v_seeded jsonb := '[]';
    v_differing jsonb := '[]';
BEGIN
    IF jsonb_typeof(p_settings) IS DISTINCT FROM 'object' THEN
        PERFORM lead.refuse('p_settings', p_settings::text, 'an object of settings and their values is needed');
    END IF;
    FOR v_given IN SELECT g.key, g.value FROM jsonb_each_text(p_settings) AS g ORDER BY g.key LOOP
        v_provider := substring(v_given.key FROM '^([a-z][a-z0-9_]*)_rate_limit_per_minute$');
        IF v_provider IS NULL THEN
            SELECT s.value, s.seeded_at INTO v_row FROM lead.setting AS s WHERE s.name = v_given.key FOR UPDATE;
        ELSE
            SELECT r.requests_per_minute::text AS value, r.seeded_at INTO v_row FROM public.api_rate_limits AS r WHERE r.provider = v_provider FOR UPDATE;
        END IF;
        IF NOT FOUND THEN
            PERFORM lead.refuse('p_settings', v_given.key, 'it is no setting and no provider''s limit');
        END IF;
        IF v_row.seeded_at IS NOT NULL THEN
            IF v_row.value <> v_given.value AND NOT (
                v_row.value ~ '^[0-9]+(\.[0-9]+)?$' AND v_given.value ~ '^[0-9]+(\.[0-9]+)?$' AND v_row.value::numeric = v_given.value::numeric
            ) THEN
                v_differing := v_differing || jsonb_build_object('name', v_given.key, 'row', v_row.value, 'environment', v_given.value);
            END IF;
            CONTINUE;
        END IF;
        IF v_provider IS NULL THEN
            UPDATE lead.setting AS s SET value = v_given.value, seeded_at = clock_timestamp() WHERE s.name = v_given.key;
        ELSE
            UPDATE public.api_rate_limits AS r SET requests_per_minute = v_given.value::integer, seeded_at = clock_timestamp()
            WHERE r.provider = v_provider;
        END IF;
        v_seeded := v_seeded || to_jsonb(v_given.key);
    END LOOP;
    RETURN jsonb_build_object('seeded', v_seeded, 'differing', v_differing);
END;
$$;

DO $$
BEGIN
    PERFORM lead.apply_security();
END;
$$;
COMMIT;
