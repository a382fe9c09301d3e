-- Lead Coordinator, file 2 of 4: what must be atomic. The queue, executions and their leases, calls to providers (limits,
-- breakers, budget), and the decision: orchestrate_workflow_execution.
--
--   psql … -f sql/resource-management.sql        (after sql/database-schema.sql)
--
-- Order of locks, the same everywhere: coordinator row, execution rows, task rows, providers' breakers, provider accounts, tenant
-- accounts, pipelines' breakers, total account, workflow accounts, history rows; several of a kind in order of id or name. Two
-- processes that follow it can wait for each other, but never in a circle (lead_coordinator_tests/sql/test_lock_order.py).
--
-- Errors: 22023 invalid input (field, value, what is allowed), LC001 task type disabled, LC002 stale lease,
-- LC003 illegal state transition, LC004 clock off, LC005 unknown task, call or execution.
\set ON_ERROR_STOP on
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL lock_timeout = '10s';

DO $$
BEGIN
    IF to_regclass('lead.coordinator') IS NULL OR to_regproc('lead.schema_version') IS NULL THEN
        RAISE EXCEPTION 'sql/database-schema.sql is not deployed: run it first';
    END IF;
    IF lead.schema_version() <> '0.3.0' THEN
        RAISE EXCEPTION 'version: sql/database-schema.sql is deployed in %, this file is of 0.3.0', lead.schema_version()
            USING ERRCODE = 'LC006', HINT = 'apply the four files of one version, sql/database-schema.sql first';
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

-- A point in time that can be reckoned with: what is far off would overflow somewhere, and NULL or infinity decide nothing.
CREATE OR REPLACE FUNCTION lead.valid_time(p_field text, p_time timestamptz) RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    IF p_time IS NULL OR p_time < timestamptz '2000-01-01 00:00:00+00' OR p_time >= timestamptz '2200-01-01 00:00:00+00' THEN
        PERFORM lead.refuse(p_field, p_time::text, 'a time of the years 2000 to 2199 is needed');
    END IF;
    RETURN p_time;
END;
$$;

CREATE OR REPLACE FUNCTION lead.check_range(p_field text, p_value bigint, p_least bigint, p_most bigint) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    IF p_value IS NULL OR p_value NOT BETWEEN p_least AND p_most THEN
        PERFORM lead.refuse(p_field, p_value::text, format('%s to %s are allowed', p_least, p_most));
    END IF;
END;
$$;

-- A number that a document may hold under a key (or leave out).
CREATE OR REPLACE FUNCTION lead.check_number_at(
    p_field text, p_json jsonb, p_key text, p_least numeric, p_most numeric, p_whole boolean DEFAULT false
) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    IF coalesce(p_json -> p_key, 'null') = 'null' THEN
        RETURN;
    END IF;
    IF jsonb_typeof(p_json -> p_key) <> 'number' OR (p_json ->> p_key)::numeric NOT BETWEEN p_least AND p_most
        OR (p_whole AND (p_json ->> p_key)::numeric <> trunc((p_json ->> p_key)::numeric)) THEN
        PERFORM lead.refuse(p_field || '.' || p_key, p_json ->> p_key,
            format('a %snumber from %s to %s is needed', CASE WHEN p_whole THEN 'whole ' ELSE '' END, p_least, p_most));
    END IF;
END;
$$;

-- Else tomorrow's budget could be opened today.
CREATE OR REPLACE FUNCTION lead.check_clock(p_current_time timestamptz) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_off_seconds numeric := abs(extract(EPOCH FROM lead.valid_time('p_current_time', p_current_time) - clock_timestamp()));
BEGIN
    -- No tolerance is less than a second.
    IF v_off_seconds > 1 AND v_off_seconds > lead.setting_number('clock_tolerance_seconds') AND lead.setting_text('scratch_database') <> 'true' THEN
        RAISE EXCEPTION 'p_current_time: % is % seconds off this server''s clock; % are allowed (more only on a scratch database)',
            p_current_time, round(v_off_seconds), lead.setting_text('clock_tolerance_seconds') USING ERRCODE = 'LC004';
    END IF;
END;
$$;

CREATE OR REPLACE FUNCTION lead.budget_day(p_current_time timestamptz) RETURNS date
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    RETURN (p_current_time AT TIME ZONE lead.setting_text('coordinator_timezone'))::date;
END;
$$;

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
-- Folds the log of differences once it is well longer than what it folds to. SKIP LOCKED: two that fold take different rows. Where
-- tasks have gone, what is noted of the oldest one is made exact again. All of it is one statement, and so of one moment: a task that
-- it doesn't see has a difference of its own that it doesn't see either.
CREATE OR REPLACE FUNCTION lead.fold_queue_depth() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    IF (
        SELECT sum(l.noted) >= 256 + 2 * count(*) OR min(l.oldest_from) = '-infinity'
        FROM (
            SELECT count(*) AS noted, min(d.oldest_from) AS oldest_from
            FROM lead.queue_depth_delta AS d GROUP BY d.task_type, d.lane, d.status, d.score
        ) AS l
    ) THEN
        WITH folded AS (
            DELETE FROM lead.queue_depth_delta AS d
            WHERE d.ctid = ANY (ARRAY(SELECT f.ctid FROM lead.queue_depth_delta AS f LIMIT 100000 FOR UPDATE SKIP LOCKED))
            RETURNING d.task_type, d.lane, d.status, d.score, d.tasks, d.oldest_from
        ), summed AS (
            SELECT f.task_type, f.lane, f.status, f.score, sum(f.tasks)::integer AS tasks, min(f.oldest_from) AS oldest_from,
                bool_or(f.tasks <= 0) AS has_removals
            FROM folded AS f GROUP BY f.task_type, f.lane, f.status, f.score
        ), levels AS MATERIALIZED (
            SELECT s.task_type, s.lane, s.status, s.score, s.tasks, CASE
                    WHEN s.status <> 'queued' THEN 'infinity'
                    WHEN s.oldest_from > '-infinity' AND NOT s.has_removals THEN s.oldest_from
                    ELSE coalesce((
                        SELECT r.queued_at FROM lead.ready AS r
                        WHERE r.task_type = s.task_type AND r.lane = s.lane AND r.score = s.score AND r.queued_at >= s.oldest_from
                        ORDER BY r.queued_at LIMIT 1
                    ), 'infinity')
                END AS oldest_from
            FROM summed AS s
        )
        INSERT INTO lead.queue_depth_delta (task_type, lane, status, score, tasks, oldest_from)
        SELECT l.task_type, l.lane, l.status, l.score, l.tasks, l.oldest_from
        -- Rows that another one folds are missing from the sum: where a task waits, its time is kept.
        FROM levels AS l WHERE l.tasks <> 0 OR l.oldest_from < 'infinity';
    END IF;
END;
$$;

-- What may be claimed, by tenant ('' is none): a paused tenant's tasks wait.
CREATE OR REPLACE FUNCTION lead.claimable_lanes(p_task_type text) RETURNS TABLE (lane text, tasks bigint, fair_weight numeric)
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT d.lane, d.tasks, coalesce(t.fair_weight, 1)
    FROM (
        SELECT q.lane, sum(q.tasks) AS tasks FROM lead.queue_depth_delta AS q
        WHERE q.task_type = p_task_type AND q.status = 'queued' GROUP BY q.lane HAVING sum(q.tasks) > 0
    ) AS d
    LEFT JOIN lead.tenant AS t ON t.tenant = d.lane
    WHERE t.mode IS DISTINCT FROM 'paused';
$$;

CREATE OR REPLACE FUNCTION lead.queue_depth(p_task_type text, p_status text) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
RETURN (
    SELECT coalesce(sum(d.tasks), 0) FROM lead.queue_depth_delta AS d
    WHERE d.task_type = p_task_type AND d.status = p_status
);

-- The levels in order of what is noted of their oldest task. Each is probed in lead.ready, until no other can have an older one.
CREATE OR REPLACE FUNCTION lead.oldest_queued(p_task_type text) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_level record;
    v_oldest timestamptz;
BEGIN
    FOR v_level IN
        SELECT q.lane, q.score, min(q.oldest_from) AS oldest_from
        FROM lead.queue_depth_delta AS q
        WHERE q.task_type = p_task_type AND q.status = 'queued'
            AND q.lane NOT IN (SELECT t.tenant FROM lead.tenant AS t WHERE t.mode = 'paused')
        GROUP BY q.lane, q.score HAVING sum(q.tasks) > 0
        ORDER BY 3
    LOOP
        EXIT WHEN v_level.oldest_from >= v_oldest;
        v_oldest := least(v_oldest, (
            SELECT r.queued_at FROM lead.ready AS r
            WHERE r.task_type = p_task_type AND r.lane = v_level.lane AND r.score = v_level.score AND r.queued_at >= v_level.oldest_from
            ORDER BY r.queued_at LIMIT 1
        ));
    END LOOP;
    RETURN v_oldest;
END;
$$;

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

-- The first version's, which took no estimates: beside the new one a call would be ambiguous.
DROP FUNCTION IF EXISTS public.submit_task(
    text, jsonb, integer, text, numeric, timestamptz, timestamptz, bigint[], text, timestamptz
);
CREATE OR REPLACE FUNCTION public.submit_task(
    p_task_type text, p_payload jsonb, p_priority integer DEFAULT 50, p_idempotency_key text DEFAULT NULL,
    p_value_usd numeric DEFAULT NULL, p_deadline timestamptz DEFAULT NULL, p_not_before timestamptz DEFAULT NULL,
    p_dependencies bigint[] DEFAULT '{}', p_tenant text DEFAULT NULL, p_estimated_cost numeric DEFAULT NULL,
    p_estimated_duration_ms integer DEFAULT NULL, p_predicted_success_rate numeric DEFAULT NULL,
    p_complexity_score numeric DEFAULT NULL, p_current_time timestamptz DEFAULT now()
) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_task jsonb := jsonb_build_object(
        'task_type', p_task_type, 'payload', p_payload, 'priority', p_priority, 'idempotency_key', p_idempotency_key,
        'value_usd', p_value_usd, 'deadline', p_deadline, 'not_before', p_not_before, 'dependencies', to_jsonb(p_dependencies),
        'tenant', p_tenant, 'estimated_cost', p_estimated_cost, 'estimated_duration_ms', p_estimated_duration_ms,
        'predicted_success_rate', p_predicted_success_rate, 'complexity_score', p_complexity_score
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

-- The first version's, without p_actor: beside the new one a call with two arguments would be ambiguous.
DROP FUNCTION IF EXISTS public.cancel_task(bigint, text, timestamptz);
CREATE OR REPLACE FUNCTION public.cancel_task(
    p_task_id bigint, p_reason text, p_actor text DEFAULT NULL, p_current_time timestamptz DEFAULT now()
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_status text;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_reason', p_reason);
    PERFORM lead.check_actor(p_actor);
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
    PERFORM lead.audit('cancel_task', 'task:' || p_task_id, jsonb_build_object('status', v_status), '{"status": "cancelled"}', p_reason, p_actor);
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
        'article', (
            SELECT jsonb_build_object('article_id', a.id, 'publication_id', a.publication_id, 'revision', a.revision, 'state', a.state)
            FROM lead.article AS a WHERE a.task_id = p_task_id ORDER BY a.id DESC LIMIT 1
        ),
        'dead_letter', (SELECT to_jsonb(d) FROM lead.dead_letter AS d WHERE d.task_id = p_task_id AND d.resolution IS NULL),
        'dead_letters', (SELECT coalesce(jsonb_agg(to_jsonb(d) ORDER BY d.id), '[]') FROM lead.dead_letter AS d WHERE d.task_id = p_task_id)
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
    PERFORM lead.check_range('p_limit', p_limit, 1, 1000000);
    PERFORM lead.check_clock(p_current_time);
    UPDATE lead.task AS t
    SET status = 'queued', queued_at = greatest(t.deferred_until, t.created_at), deferred_until = NULL, defer_reason = NULL
    WHERE t.id = ANY (ARRAY(
        SELECT w.id FROM lead.due AS d
        INNER JOIN lead.task AS w ON w.id = d.task_id AND w.status = 'deferred' AND w.deferred_until = d.due_at
        WHERE d.due_at <= p_current_time
        ORDER BY d.due_at LIMIT p_limit FOR UPDATE OF w SKIP LOCKED
    ));
    GET DIAGNOSTICS v_promoted = ROW_COUNT;
    RETURN v_promoted;
END;
$$;

-- The best p_limit tasks of a type and tenant, locked. The effective score of a task is its score, and p_points more once it has
-- waited since p_starving_since. For each effective score from the top two ranges of one index are probed: those who starve, and
-- those who do not; it ends as soon as the batch is full. Exact for any time, and nothing is sorted or written. With each task goes
-- where its rows are, so that nothing has to look for them again.
CREATE OR REPLACE FUNCTION lead.pick_from_lane(
    p_task_type text, p_lane text, p_limit integer, p_points integer, p_starving_since timestamptz,
    OUT task_ids bigint[], OUT task_rows tid[], OUT ready_rows tid[], OUT most_stalls integer
)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_memoize = off
SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    SELECT coalesce(array_agg(best.id), '{}'), array_agg(best.task_row), array_agg(best.ready_row), coalesce(max(best.stalls), 0)
    INTO task_ids, task_rows, ready_rows, most_stalls
    FROM (
        SELECT picked.id, picked.task_row, picked.ready_row, picked.stalls
        FROM (
            SELECT range.score, range.queued_from, range.queued_to
            FROM (
                -- Beginning where the oldest may be leads past what was taken and not vacuumed yet.
                SELECT q.score, min(q.oldest_from) AS oldest_from FROM lead.queue_depth_delta AS q
                WHERE q.task_type = p_task_type AND q.lane = p_lane AND q.status = 'queued'
                GROUP BY q.score HAVING sum(q.tasks) > 0
            ) AS level,
            LATERAL (VALUES
                (level.score + p_points, level.score, level.oldest_from, p_starving_since),
                (level.score + 0, level.score, greatest(level.oldest_from, p_starving_since + interval '1 microsecond'), 'infinity'::timestamptz)
            ) AS range (effective_score, score, queued_from, queued_to)
            WHERE range.queued_from <= range.queued_to
            ORDER BY range.effective_score DESC, range.queued_from
        ) AS range,
        LATERAL (
            SELECT t.id, t.ctid AS task_row, r.ctid AS ready_row, t.stalls
            FROM lead.ready AS r
            -- Asked again on the locked row: a rival may have taken it since.
            INNER JOIN lead.task AS t ON t.id = r.task_id AND t.status = 'queued'
            WHERE r.task_type = p_task_type AND r.lane = p_lane AND r.score = range.score
                AND r.queued_at BETWEEN range.queued_from AND range.queued_to
            ORDER BY r.queued_at, r.task_id
            LIMIT p_limit
            FOR NO KEY UPDATE OF t SKIP LOCKED
        ) AS picked
        LIMIT p_limit
    ) AS best;
END;
$$;

-- How many of a batch go to which tenant: each next place to the one whose virtual time would be least after it. Charges them.
CREATE OR REPLACE FUNCTION lead.share_batch(p_task_type text, p_limit integer) RETURNS TABLE (lane text, places integer)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_scope text := 'lane:' || p_task_type;
    v_clock numeric;
BEGIN
    SELECT f.virtual_time INTO v_clock FROM lead.fair_share AS f WHERE f.scope = 'clock' AND f.key = v_scope FOR UPDATE;
    v_clock := coalesce(v_clock, 0);
    RETURN QUERY
    WITH waiting AS (
        SELECT l.lane, l.tasks, l.fair_weight, greatest(v_clock, coalesce(f.virtual_time, v_clock)) AS virtual_time
        FROM lead.claimable_lanes(p_task_type) AS l
        LEFT JOIN lead.fair_share AS f ON f.scope = v_scope AND f.key = l.lane
    ), placed AS (
        SELECT w.lane
        FROM waiting AS w, generate_series(1, least(p_limit, w.tasks)::integer) AS n
        ORDER BY w.virtual_time + n / w.fair_weight, w.lane
        LIMIT p_limit
    ), given AS (
        SELECT p.lane, count(*)::integer AS places FROM placed AS p GROUP BY p.lane
    ), charged AS (
        INSERT INTO lead.fair_share AS f (scope, key, virtual_time)
        SELECT v_scope, w.lane, w.virtual_time + g.places / w.fair_weight
        FROM given AS g INNER JOIN waiting AS w ON w.lane = g.lane ORDER BY w.lane
        ON CONFLICT (scope, key) DO UPDATE SET virtual_time = excluded.virtual_time
    ), clocked AS (
        INSERT INTO lead.fair_share AS f (scope, key, virtual_time)
        SELECT 'clock', v_scope, min(w.virtual_time + coalesce(g.places, 0) / w.fair_weight)
        FROM waiting AS w LEFT JOIN given AS g ON g.lane = w.lane HAVING count(*) > 0
        ON CONFLICT (scope, key) DO UPDATE SET virtual_time = greatest(f.virtual_time, excluded.virtual_time)
    )
    SELECT g.lane, g.places FROM given AS g ORDER BY g.lane;
END;
$$;

-- The best p_limit tasks of a type, locked and taken out of lead.ready: over tenants by fair shares, within a tenant by effective
-- score. The caller's next statement must set their rows to 'processing': that move is announced.
CREATE OR REPLACE FUNCTION lead.take_out_tasks(
    p_task_type text, p_limit integer, p_current_time timestamptz, OUT task_ids bigint[], OUT task_rows tid[]
)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_points integer := lead.setting_number('starvation_points');
    v_starving_since timestamptz := p_current_time - lead.seconds(60 * lead.setting_number('starvation_minutes'));
    v_isolated_from integer := greatest(1, lead.setting_number('stall_limit')::integer - 1);
    v_lanes text[] := ARRAY(SELECT l.lane FROM lead.claimable_lanes(p_task_type) AS l);
    v_share record;
    v_best record;
    v_ready_rows tid[];
    v_most_stalls integer := 0;
    v_removed bigint;
BEGIN
    task_ids := '{}';
    IF cardinality(v_lanes) = 1 THEN
        SELECT b.* INTO v_best FROM lead.pick_from_lane(p_task_type, v_lanes[1], p_limit, v_points, v_starving_since) AS b;
        task_ids := v_best.task_ids;
        task_rows := v_best.task_rows;
        v_ready_rows := v_best.ready_rows;
        v_most_stalls := v_best.most_stalls;
    ELSIF cardinality(v_lanes) > 1 THEN
        FOR v_share IN SELECT s.lane, s.places FROM lead.share_batch(p_task_type, p_limit) AS s LOOP
            SELECT b.* INTO v_best FROM lead.pick_from_lane(p_task_type, v_share.lane, v_share.places, v_points, v_starving_since) AS b;
            task_ids := task_ids || v_best.task_ids;
            task_rows := task_rows || v_best.task_rows;
            v_ready_rows := v_ready_rows || v_best.ready_rows;
            v_most_stalls := greatest(v_most_stalls, v_best.most_stalls);
        END LOOP;
    END IF;
    -- A task that was lost with its run again and again may be what kills the run: it goes alone, so that it takes no other along.
    IF v_most_stalls >= v_isolated_from THEN
        WITH suspects AS (
            SELECT p.place, p.id, p.task_row, p.ready_row, t.stalls >= v_isolated_from AS is_suspect
            FROM unnest(task_ids, task_rows, v_ready_rows) WITH ORDINALITY AS p (id, task_row, ready_row, place)
            INNER JOIN lead.task AS t ON t.id = p.id
        )
        SELECT array_agg(s.id ORDER BY s.place), array_agg(s.task_row ORDER BY s.place), array_agg(s.ready_row ORDER BY s.place)
        INTO task_ids, task_rows, v_ready_rows
        FROM suspects AS s
        WHERE CASE WHEN (SELECT f.is_suspect FROM suspects AS f WHERE f.place = 1) THEN s.place = 1 ELSE NOT s.is_suspect END;
    END IF;
    IF cardinality(task_ids) = 0 THEN
        RETURN;
    END IF;
    DELETE FROM lead.ready AS r WHERE r.ctid = ANY (v_ready_rows);
    GET DIAGNOSTICS v_removed = ROW_COUNT;
    IF v_removed < cardinality(task_ids) THEN
        -- A task was taken and came back between the reading of its entry and the locking of its row: it has a new entry.
        DELETE FROM lead.ready AS r
        USING lead.task AS t
        WHERE t.id = ANY (task_ids) AND r.task_type = t.task_type AND r.lane = coalesce(t.tenant, '') AND r.score = t.score
            AND r.queued_at = t.queued_at AND r.task_id = t.id;
    END IF;
    PERFORM lead.announce_move(p_task_type, 'queued', 'processing');
END;
$$;

CREATE OR REPLACE FUNCTION lead.take_tasks(
    p_execution_id text, p_task_type text, p_limit integer, p_current_time timestamptz
) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_picked record;
BEGIN
    SELECT p.task_ids, p.task_rows INTO v_picked FROM lead.take_out_tasks(p_task_type, p_limit, p_current_time) AS p;
    IF cardinality(v_picked.task_ids) > 0 THEN
        UPDATE lead.task AS t
        SET status = 'processing', execution_id = p_execution_id, claimed_at = p_current_time
        WHERE t.ctid = ANY (v_picked.task_rows);
    END IF;
    RETURN v_picked.task_ids;
END;
$$;

-- Takes the task of a type that has waited longest, if it is overdue: better work may come without end, and a task's score rises
-- only once. NULL: none is. Looked for as in lead.oldest_queued.
CREATE OR REPLACE FUNCTION lead.take_overdue_task(p_execution_id text, p_task_type text, p_current_time timestamptz) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_overdue_since timestamptz := p_current_time - lead.seconds(60 * lead.setting_number('overdue_minutes'));
    v_level record;
    v_found record;
    v_lane text;
    v_score smallint;
    v_oldest timestamptz;
    v_first bigint;
    v_task_id bigint;
BEGIN
    FOR v_level IN
        SELECT q.lane, q.score, min(q.oldest_from) AS oldest_from
        FROM lead.queue_depth_delta AS q
        WHERE q.task_type = p_task_type AND q.status = 'queued'
            AND q.lane NOT IN (SELECT t.tenant FROM lead.tenant AS t WHERE t.mode = 'paused')
        GROUP BY q.lane, q.score HAVING sum(q.tasks) > 0 AND min(q.oldest_from) <= v_overdue_since
        ORDER BY 3
    LOOP
        EXIT WHEN v_level.oldest_from > v_oldest;
        SELECT r.queued_at, r.task_id INTO v_found
        FROM lead.ready AS r
        WHERE r.task_type = p_task_type AND r.lane = v_level.lane AND r.score = v_level.score
            AND r.queued_at BETWEEN v_level.oldest_from AND v_overdue_since
        ORDER BY r.queued_at, r.task_id LIMIT 1;
        IF FOUND AND (v_first IS NULL OR (v_found.queued_at, v_found.task_id) < (v_oldest, v_first)) THEN
            v_lane := v_level.lane;
            v_score := v_level.score;
            v_oldest := v_found.queued_at;
            v_first := v_found.task_id;
        END IF;
    END LOOP;
    IF v_first IS NOT NULL THEN
        -- A rival may have taken it since: then the next one of its level comes.
        UPDATE lead.task AS t
        SET status = 'processing', execution_id = p_execution_id, claimed_at = p_current_time
        WHERE t.id = (
            SELECT w.id FROM lead.ready AS r
            INNER JOIN lead.task AS w ON w.id = r.task_id AND w.status = 'queued'
            WHERE r.task_type = p_task_type AND r.lane = v_lane AND r.score = v_score AND r.queued_at BETWEEN v_oldest AND v_overdue_since
            ORDER BY r.queued_at, r.task_id LIMIT 1 FOR NO KEY UPDATE OF w SKIP LOCKED
        )
        RETURNING t.id INTO v_task_id;
    END IF;
    RETURN v_task_id;
END;
$$;

-- Pausing ------------------------------------------------------------------------------------------------------------
-- A type, or a tenant of all types: exactly one of the two is given.
CREATE OR REPLACE FUNCTION lead.set_mode(
    p_task_type text, p_tenant text, p_mode text, p_actor text, p_reason text, p_current_time timestamptz
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_was text;
    v_acting record;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_actor', p_actor);
    PERFORM lead.check_name('p_reason', p_reason);
    IF (p_task_type IS NULL) = (p_tenant IS NULL) THEN
        PERFORM lead.refuse('p_task_type', p_task_type, 'either p_task_type or p_tenant is needed');
    END IF;
    SELECT * INTO v_acting FROM lead.act_as(p_actor, p_reason);
    IF p_task_type IS NOT NULL THEN
        SELECT p.mode INTO v_was FROM lead.workflow_policy AS p WHERE p.task_type = p_task_type FOR UPDATE;
        IF NOT FOUND THEN
            PERFORM lead.refuse('p_task_type', p_task_type,
                (SELECT 'one of ' || string_agg(p.task_type, ', ' ORDER BY p.task_type) || ' is needed' FROM lead.workflow_policy AS p));
        END IF;
        UPDATE lead.workflow_policy AS p SET mode = p_mode, updated_at = p_current_time WHERE p.task_type = p_task_type AND p.mode <> p_mode;
    ELSE
        PERFORM lead.check_name('p_tenant', p_tenant);
        INSERT INTO lead.tenant (tenant) VALUES (p_tenant) ON CONFLICT (tenant) DO NOTHING;
        SELECT t.mode INTO v_was FROM lead.tenant AS t WHERE t.tenant = p_tenant FOR UPDATE;
        UPDATE lead.tenant AS t SET mode = p_mode, updated_at = p_current_time WHERE t.tenant = p_tenant AND t.mode <> p_mode;
    END IF;
    PERFORM lead.act_as(v_acting.was_actor, v_acting.was_reason);
    RETURN jsonb_build_object('mode', p_mode, 'was', v_was, 'waiting', (
        SELECT coalesce(sum(d.tasks), 0) FROM lead.queue_depth_delta AS d
        WHERE d.status = 'queued' AND (d.task_type = p_task_type OR d.lane = p_tenant)
    ));
END;
$$;

CREATE OR REPLACE FUNCTION public.pause_queue(
    p_task_type text, p_tenant text, p_actor text, p_reason text, p_current_time timestamptz DEFAULT now()
) RETURNS jsonb
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
RETURN lead.set_mode(p_task_type, p_tenant, 'paused', p_actor, p_reason, p_current_time);

CREATE OR REPLACE FUNCTION public.drain_queue(
    p_task_type text, p_tenant text, p_actor text, p_reason text, p_current_time timestamptz DEFAULT now()
) RETURNS jsonb
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
RETURN lead.set_mode(p_task_type, p_tenant, 'draining', p_actor, p_reason, p_current_time);

CREATE OR REPLACE FUNCTION public.resume_queue(
    p_task_type text, p_tenant text, p_actor text, p_reason text, p_current_time timestamptz DEFAULT now()
) RETURNS jsonb
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
RETURN lead.set_mode(p_task_type, p_tenant, 'open', p_actor, p_reason, p_current_time);

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

-- A breaker opens: what is still out of its probes is no probe any more, or its ending would count for those of the next time.
-- SKIP LOCKED, since rows of calls and runs come before a breaker's; whoever holds one to end it finds the breaker open.
CREATE OR REPLACE FUNCTION lead.forget_probes(p_name text) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    UPDATE lead.api_call AS c SET is_probe = false
    WHERE c.id = ANY (ARRAY(
        SELECT o.id FROM public.workflow_orchestration AS w
        INNER JOIN lead.api_call AS o ON o.execution_id = w.execution_id
        WHERE w.status = 'running' AND o.is_probe AND o.status IN ('reserved', 'sent') AND 'provider:' || o.provider = p_name
        ORDER BY o.id FOR UPDATE OF o SKIP LOCKED
    ));
    UPDATE public.workflow_orchestration AS w SET is_probe = false
    WHERE w.id = ANY (ARRAY(
        SELECT o.id FROM public.workflow_orchestration AS o
        WHERE o.status IN ('pending', 'analyzing', 'dispatching', 'running') AND o.is_probe AND 'pipeline:' || o.workflow_type = p_name
        ORDER BY o.id FOR NO KEY UPDATE SKIP LOCKED
    ));
    UPDATE lead.plan_reservation AS r SET is_probe = false
    WHERE r.execution_id = ANY (ARRAY(
        SELECT o.execution_id FROM lead.plan_reservation AS o WHERE o.is_probe AND 'pipeline:' || o.workflow_type = p_name
        ORDER BY o.execution_id FOR UPDATE SKIP LOCKED
    ));
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
    IF v_breaker.state = 'open' AND v_was <> 'open' THEN
        PERFORM lead.forget_probes(p_name);
    END IF;
    IF v_was = 'half_open' AND p_is_probe AND p_ending = 'success' THEN
        -- The destination answers again: what waits for it is due now. SKIP LOCKED, since it may be taken at this moment.
        UPDATE lead.task AS t SET deferred_until = p_current_time
        WHERE t.id = ANY (ARRAY(
            SELECT w.id FROM lead.due AS d
            INNER JOIN lead.task AS w ON w.id = d.task_id AND w.status = 'deferred' AND w.defer_reason = 'destination_down'
            WHERE d.due_at > p_current_time
            ORDER BY d.due_at LIMIT 10000 FOR UPDATE OF w SKIP LOCKED
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
    FOR v_try IN 1..2 LOOP
        -- The row is locked and read again by the UPDATE itself, so that no two holds can pass the limit together.
        UPDATE lead.budget_account AS a
        SET held_usd = a.held_usd + p_amount
        WHERE a.budget_day = p_day AND a.scope = p_scope AND a.scope_key = p_key
            AND (p_limit IS NULL OR a.spent_usd + a.held_usd + p_amount <= p_limit);
        -- Here, since the end of a loop sets FOUND anew.
        IF FOUND THEN
            RETURN true;
        END IF;
        -- The day's first hold makes its account.
        INSERT INTO lead.budget_account (budget_day, scope, scope_key) VALUES (p_day, p_scope, p_key) ON CONFLICT DO NOTHING;
    END LOOP;
    RETURN false;
END;
$$;

CREATE OR REPLACE FUNCTION lead.budget_settle(
    p_day date, p_scope text, p_key text, p_held numeric, p_spent numeric
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    IF p_held <> 0 OR p_spent <> 0 THEN
        UPDATE lead.budget_account AS a
        SET held_usd = a.held_usd - p_held, spent_usd = a.spent_usd + p_spent
        WHERE a.budget_day = p_day AND a.scope = p_scope AND a.scope_key = p_key;
    END IF;
END;
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

-- What of the day's budget work of a priority may use by now: a head start, then with the clock; the higher the priority,
-- the less it is held back. Of the day as it is: 23 or 25 hours twice a year.
CREATE OR REPLACE FUNCTION lead.paced_budget(p_priority integer, p_current_time timestamptz) RETURNS numeric
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_limit numeric := lead.setting_number('daily_budget_usd');
    v_zone text := lead.setting_text('coordinator_timezone');
    v_day date := lead.budget_day(p_current_time);
    v_from timestamptz := v_day::timestamp AT TIME ZONE v_zone;
    v_until timestamptz := (v_day + 1)::timestamp AT TIME ZONE v_zone;
    v_head numeric := lead.setting_number('pacing_head_start_percent') / 100;
    v_free numeric := lead.setting_number('pacing_free_priority');
    v_by_clock numeric;
    v_by_priority numeric;
BEGIN
    IF lead.setting_text('pacing_enabled') <> 'true' THEN
        RETURN v_limit;
    END IF;
    v_by_clock := v_head + (1 - v_head) * extract(EPOCH FROM p_current_time - v_from) / extract(EPOCH FROM v_until - v_from);
    v_by_priority := CASE WHEN v_free >= 100 THEN 0 ELSE greatest(0, least(1, (p_priority - v_free) / (100 - v_free))) END;
    RETURN v_limit * (v_by_clock + (1 - v_by_clock) * v_by_priority);
END;
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
    WHERE w.status IN ('pending', 'analyzing', 'dispatching', 'running') AND w.reserved_at IS NOT NULL AND NOT w.is_external;
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
            WHERE h.metric_name = 'platform_baseline_memory_mb'
                AND h.last_updated > p_current_time - lead.seconds(lead.setting_number('memory_report_seconds'))
        ),
        lead.setting_number('memory_baseline_mb')::integer
    );
    memory_remaining_mb := greatest(0, memory_limit_mb - memory_used_mb);

    connection_limit := lead.setting_number('database_connection_limit');
    SELECT count(*) INTO connections_used
    -- What pg_stat_activity reads, without the names that it looks up.
    FROM pg_stat_get_activity(NULL) AS s
    WHERE s.datid = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
        AND s.application_name LIKE 'lead-coordinator%';
    connections_remaining := greatest(0, connection_limit - connections_used);
END;
$$;

-- From the first hour up to the second; 22 to 6 goes over midnight, and 9 to 9 is never.
CREATE OR REPLACE FUNCTION lead.is_within_hours(p_hour integer, p_from numeric, p_until numeric) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN p_from <= p_until THEN p_hour >= p_from AND p_hour < p_until ELSE p_hour >= p_from OR p_hour < p_until END;

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
    v_tasks jsonb := '[]'::jsonb;
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
        AND lead.is_within_hours(v_hour, lead.setting_number('business_hours_start'), lead.setting_number('business_hours_end'));
    v_is_peak := NOT v_is_weekend
        AND lead.is_within_hours(v_hour, lead.setting_number('peak_hours_start'), lead.setting_number('peak_hours_end'));
    v_starving_since := p_current_time - lead.seconds(60 * lead.setting_number('starvation_minutes'));

    FOR v_policy IN
        SELECT p.*, coalesce(d.tasks, 0) AS claimable_tasks
        FROM lead.workflow_policy AS p
        LEFT JOIN (
            SELECT q.task_type, sum(q.tasks) AS tasks FROM lead.queue_depth_delta AS q
            WHERE q.status = 'queued' AND q.lane NOT IN (SELECT t.tenant FROM lead.tenant AS t WHERE t.mode = 'paused')
            GROUP BY q.task_type
        ) AS d ON d.task_type = p.task_type
        ORDER BY p.base_priority DESC, p.workflow_type
    LOOP
        v_pending := v_policy.claimable_tasks;
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
        ELSIF v_policy.mode = 'paused' THEN
            v_reasoning := v_reasoning || 'not now: paused by an operator'::text;
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
    v_limits jsonb := '{}'::jsonb;
    v_advice text[] := '{}'::text[];
    v_status text := 'healthy';
    v_reachable integer := 0;
    v_can boolean;
    v_provider_status text;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_scheduled_tasks(p_scheduled_tasks);
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

CREATE OR REPLACE FUNCTION lead.check_scheduled_tasks(p_scheduled_tasks jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_task jsonb;
    v_place integer := 0;
    v_field text;
BEGIN
    IF jsonb_typeof(p_scheduled_tasks -> 'tasks') IS DISTINCT FROM 'array' OR jsonb_array_length(p_scheduled_tasks -> 'tasks') > 100 THEN
        PERFORM lead.refuse('p_scheduled_tasks', p_scheduled_tasks::text,
            'an object with an array "tasks" of at most 100 is needed, for example {"tasks": []}');
    END IF;
    FOR v_task IN SELECT t FROM jsonb_array_elements(p_scheduled_tasks -> 'tasks') AS t LOOP
        v_field := format('p_scheduled_tasks.tasks[%s]', v_place);
        v_place := v_place + 1;
        IF jsonb_typeof(v_task) <> 'object' THEN
            PERFORM lead.refuse(v_field, v_task::text, 'an object is needed');
        END IF;
        IF jsonb_typeof(v_task -> 'should_execute') NOT IN ('boolean', 'null') THEN
            PERFORM lead.refuse(v_field || '.should_execute', v_task ->> 'should_execute', 'true or false is needed');
        END IF;
        IF jsonb_typeof(v_task -> 'reasoning') NOT IN ('array', 'null') THEN
            PERFORM lead.refuse(v_field || '.reasoning', v_task ->> 'reasoning', 'an array of sentences is needed');
        END IF;
        PERFORM lead.check_number_at(v_field, v_task, 'priority', -1000, 1000, true),
            lead.check_number_at(v_field, v_task, 'pending_items', 0, 1e12, true),
            lead.check_number_at(v_field, v_task, 'oldest_wait_seconds', -1e12, 1e12),
            lead.check_number_at(v_field, v_task, 'estimated_duration_ms', 0, 1e9),
            lead.check_number_at(v_field, v_task, 'predicted_success_rate', 0, 1);
    END LOOP;
END;
$$;

-- How long a slot has been held; a moment at least, so that runs which take no time take turns too.
CREATE OR REPLACE FUNCTION lead.slot_seconds(p_since timestamptz, p_current_time timestamptz) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN greatest(0.001, extract(EPOCH FROM p_current_time - p_since));

-- What each type has been served for its weight, in slot-seconds: what is booked, what has ended since, and its runs under way up to
-- this moment. A type that was never seen starts where the most served is.
CREATE OR REPLACE FUNCTION lead.type_service(p_current_time timestamptz) RETURNS TABLE (
    workflow_type text, running bigint, booked numeric, served numeric
)
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT p.workflow_type, r.running, b.booked, b.booked + r.seconds / p.fair_weight + coalesce((
        SELECT sum(c.virtual_time) FROM lead.fair_share AS c WHERE c.scope = 'charge:' || p.workflow_type
    ), 0)
    FROM lead.workflow_policy AS p
    CROSS JOIN LATERAL (
        SELECT coalesce(
            (SELECT f.virtual_time FROM lead.fair_share AS f WHERE f.scope = 'type' AND f.key = p.workflow_type),
            (SELECT max(f.virtual_time) FROM lead.fair_share AS f WHERE f.scope = 'type'), 0
        ) AS booked
    ) AS b
    CROSS JOIN LATERAL (
        SELECT count(*) AS running, coalesce(sum(lead.slot_seconds(w.reserved_at, p_current_time)), 0) AS seconds
        FROM public.workflow_orchestration AS w
        WHERE w.workflow_type = p.workflow_type AND w.status IN ('pending', 'analyzing', 'dispatching', 'running')
            AND w.reserved_at IS NOT NULL AND NOT w.is_external
    ) AS r;
$$;

-- Free slots go one by one to the type that has been served least for its weight, in slot-seconds: what it has had, and what the
-- runs just given to it are expected to take. Ties to the higher priority. A type that no task can be afforded for now, or that
-- never fits into memory, is passed over; one that fits once others have ended is waited for, or small runs would keep it out for
-- ever. A batch is as large as the policy, the budget and what waits allow: a run works its batch concurrently, and starting one
-- costs seconds of CPU.
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
    v_memory_when_idle integer;
    v_paced numeric;
    v_others_enabled boolean;
    v_runs jsonb;
    v_given jsonb := '{}'::jsonb;
    v_short jsonb := '{}'::jsonb;
    v_type record;
    v_number integer := 0;
    v_batch integer;
    v_affordable integer;
    v_reason text;
    v_workflows jsonb := '[]'::jsonb;
    v_waited_for text;
    v_passed_over jsonb;
    v_in_line text[];
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_worker_id', p_worker_id);
    IF jsonb_typeof(p_resource_status) IS DISTINCT FROM 'object' THEN
        PERFORM lead.refuse('p_resource_status', p_resource_status::text, 'an object is needed, for example {"overall_status": "healthy", "constraints": {}}');
    END IF;
    PERFORM lead.check_scheduled_tasks(p_scheduled_tasks);
    IF jsonb_typeof(v_constraints) NOT IN ('object', 'null') THEN
        PERFORM lead.refuse('p_resource_status.constraints', v_constraints::text, 'an object is needed');
    END IF;
    PERFORM lead.check_number_at('p_resource_status.constraints', v_constraints, 'free_slots', 0, 1000, true);
    PERFORM lead.check_number_at('p_resource_status.constraints', v_constraints, 'budget_remaining_usd', 0, 1e15);
    PERFORM lead.check_number_at('p_resource_status.constraints', v_constraints, 'memory_remaining_mb', 0, 2147483647, true);
    SELECT c.* INTO v_capacity FROM lead.capacity(p_current_time) AS c;
    v_free := least(v_capacity.free_slots, coalesce((v_constraints ->> 'free_slots')::integer, v_capacity.free_slots));
    v_budget := least(v_capacity.budget_remaining_usd, coalesce((v_constraints ->> 'budget_remaining_usd')::numeric, v_capacity.budget_remaining_usd));
    v_memory := least(v_capacity.memory_remaining_mb, coalesce((v_constraints ->> 'memory_remaining_mb')::integer, v_capacity.memory_remaining_mb));
    SELECT v_memory + coalesce(sum(w.memory_allocated_mb), 0) INTO v_memory_when_idle
    FROM public.workflow_orchestration AS w
    WHERE w.status IN ('pending', 'analyzing', 'dispatching', 'running') AND w.reserved_at IS NOT NULL AND NOT w.is_external;
    SELECT count(*) > 1 INTO v_others_enabled FROM lead.workflow_policy AS p WHERE p.enabled;

    FOR v_type IN
        SELECT t ->> 'workflow_type' AS workflow_type FROM jsonb_array_elements(p_scheduled_tasks -> 'tasks') AS t
        WHERE NOT EXISTS (SELECT 1 FROM lead.workflow_policy AS p WHERE p.workflow_type = t ->> 'workflow_type')
    LOOP
        PERFORM lead.refuse('p_scheduled_tasks.workflow_type', v_type.workflow_type,
            (SELECT 'one of ' || string_agg(p.workflow_type, ', ' ORDER BY p.workflow_type) || ' is needed' FROM lead.workflow_policy AS p));
    END LOOP;

    SELECT jsonb_object_agg(s.workflow_type, jsonb_build_object(
        'running', s.running, 'served', s.served, 'memory_mb', lead.run_memory_mb(s.workflow_type),
        'spent', (
            SELECT sum(a.held_usd + a.spent_usd) FROM lead.budget_account AS a
            WHERE a.budget_day = lead.budget_day(p_current_time) AND a.scope = 'workflow' AND a.scope_key = s.workflow_type
        )
    ))
    INTO v_runs
    FROM lead.type_service(p_current_time) AS s;

    WHILE v_number < v_free LOOP
        SELECT c.* INTO v_type
        FROM (
            SELECT p.*, t AS task, coalesce((t ->> 'priority')::integer, p.base_priority) AS priority,
                coalesce((t ->> 'pending_items')::bigint, 0) AS pending,
                coalesce((v_given #>> ARRAY[p.workflow_type, 'runs'])::integer, 0) AS runs,
                coalesce((v_given #>> ARRAY[p.workflow_type, 'tasks'])::bigint, 0) AS tasks,
                coalesce((t ->> 'estimated_duration_ms')::numeric, p.expected_seconds * 1000) AS estimated_duration_ms,
                (v_runs #>> ARRAY[p.workflow_type, 'served'])::numeric AS served,
                (v_runs #>> ARRAY[p.workflow_type, 'running'])::integer AS running,
                (v_runs #>> ARRAY[p.workflow_type, 'memory_mb'])::integer AS run_memory_mb,
                coalesce((v_runs #>> ARRAY[p.workflow_type, 'spent'])::numeric, 0) AS committed_usd
            FROM jsonb_array_elements(p_scheduled_tasks -> 'tasks') AS t
            INNER JOIN lead.workflow_policy AS p ON p.workflow_type = t ->> 'workflow_type'
            WHERE (t ->> 'should_execute')::boolean
        ) AS c
        INNER JOIN lead.circuit_breaker AS b ON b.name = 'pipeline:' || c.workflow_type
        WHERE c.pending > c.tasks
            AND NOT v_short ? c.workflow_type
            -- The last free slot never goes to a type that holds all others, if another type may need it.
            AND NOT (
                v_others_enabled AND v_capacity.max_concurrent > 1 AND v_number + 1 = v_capacity.free_slots
                AND c.running + c.runs >= v_capacity.max_concurrent - 1
            )
            -- A half-open pipeline breaker lets its probes through, and no more; an open one whose time has come lets one through.
            AND (b.state = 'closed' OR c.runs < CASE b.state WHEN 'open' THEN 1 ELSE b.probe_limit - b.probes_started END)
        ORDER BY c.served + c.runs * c.estimated_duration_ms / 1000 / c.fair_weight, c.priority DESC, c.workflow_type
        LIMIT 1;
        EXIT WHEN NOT FOUND;
        v_paced := greatest(0, lead.paced_budget(v_type.priority, p_current_time) - (v_capacity.budget_limit_usd - v_budget));
        v_affordable := CASE WHEN v_type.item_cost_limit_usd > 0
            THEN least(v_type.max_batch, floor(
                least(v_budget, v_paced, v_type.daily_cost_limit_usd - v_type.committed_usd - v_type.tasks * v_type.item_cost_limit_usd)
                / v_type.item_cost_limit_usd
            ))::integer ELSE v_type.max_batch END;
        v_batch := least(v_type.max_batch, v_type.pending - v_type.tasks, v_affordable);
        v_reason := CASE
            WHEN v_batch < 1 AND least(v_budget, v_paced) >= v_type.item_cost_limit_usd THEN format(
                'budget of %s: %s of %s USD held or spent', v_type.workflow_type, round(v_type.committed_usd, 2),
                round(v_type.daily_cost_limit_usd, 2))
            WHEN v_batch < 1 AND v_budget >= v_type.item_cost_limit_usd THEN format(
                'pacing: %s of %s USD held or spent, %s may be by now at priority %s; %s of %s waiting tasks fit',
                round(v_capacity.budget_limit_usd - v_budget, 2), round(v_capacity.budget_limit_usd, 2),
                round(v_capacity.budget_limit_usd - v_budget + v_paced, 2), v_type.priority, v_affordable, v_type.pending)
            WHEN v_batch < 1 THEN format('budget %s of %s USD held or spent; %s of %s waiting tasks fit', round(v_capacity.budget_limit_usd - v_budget, 2),
                round(v_capacity.budget_limit_usd, 2), v_affordable, v_type.pending)
            WHEN v_type.run_memory_mb > v_memory THEN format('a run needs %s MB and %s of %s MB are free', v_type.run_memory_mb, v_memory,
                v_capacity.memory_limit_mb)
        END;
        IF v_reason IS NOT NULL THEN
            v_short := v_short || jsonb_build_object(v_type.workflow_type, v_reason);
            IF v_batch >= 1 AND v_type.run_memory_mb <= v_memory_when_idle THEN
                v_waited_for := v_type.workflow_type;
                EXIT;
            END IF;
            CONTINUE;
        END IF;
        v_number := v_number + 1;
        v_budget := v_budget - v_batch * v_type.item_cost_limit_usd;
        v_memory := v_memory - v_type.run_memory_mb;
        v_given := v_given || jsonb_build_object(
            v_type.workflow_type, jsonb_build_object('runs', v_type.runs + 1, 'tasks', v_type.tasks + v_batch)
        );
        v_workflows := v_workflows || jsonb_build_object(
            'execution_id', split_part(v_type.workflow_type, '_', 1) || '-' || substr(v_plan_id, 6) || '-' || v_number,
            'workflow_type', v_type.workflow_type,
            'task_type', v_type.task_type,
            'priority', least(100, v_type.priority),
            'batch_size', v_batch,
            'overdue', coalesce((v_type.task ->> 'oldest_wait_seconds')::numeric >= 60 * lead.setting_number('overdue_minutes'), false),
            'estimated_cost', round(v_batch * v_type.item_cost_limit_usd, 10),
            'estimated_duration_ms', v_type.estimated_duration_ms,
            'predicted_success_rate', coalesce((v_type.task ->> 'predicted_success_rate')::numeric, v_type.target_success_rate),
            'api_calls', v_batch * v_type.calls_per_item,
            'memory_mb', v_type.run_memory_mb,
            'reasoning', coalesce(v_type.task -> 'reasoning', '[]') || to_jsonb(ARRAY[format('%s of %s waiting tasks in this batch', v_batch, v_type.pending)])
        );
    END LOOP;

    SELECT coalesce(jsonb_agg(w ORDER BY (w ->> 'priority')::integer DESC, w ->> 'workflow_type', place), '[]') INTO v_workflows
    FROM jsonb_array_elements(v_workflows) WITH ORDINALITY AS g (w, place);
    SELECT coalesce(jsonb_agg(jsonb_build_object('workflow_type', c.workflow_type, 'waiting', c.pending - c.tasks, 'reason', CASE
            WHEN NOT c.should_execute THEN c.because
            WHEN v_free = 0 THEN format('%s of %s slots are busy', v_capacity.active, v_capacity.max_concurrent)
            ELSE coalesce(v_short ->> c.workflow_type, 'other types come first in their fair share')
        END) ORDER BY c.priority DESC NULLS LAST, c.workflow_type) FILTER (WHERE c.tasks = 0 OR v_short ? c.workflow_type), '[]'),
        -- Who waits for nothing but a slot.
        coalesce(array_agg(c.workflow_type) FILTER (WHERE c.should_execute AND c.pending > c.tasks
            AND (NOT v_short ? c.workflow_type OR c.workflow_type = v_waited_for)), '{}')
    INTO v_passed_over, v_in_line
    FROM (
        SELECT t ->> 'workflow_type' AS workflow_type, (t ->> 'priority')::integer AS priority, (t ->> 'should_execute')::boolean AS should_execute,
            t #>> '{reasoning,-1}' AS because, coalesce((t ->> 'pending_items')::bigint, 0) AS pending,
            coalesce((v_given #>> ARRAY[t ->> 'workflow_type', 'tasks'])::bigint, 0) AS tasks
        FROM jsonb_array_elements(p_scheduled_tasks -> 'tasks') AS t
    ) AS c;

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
        'passed_over', v_passed_over,
        'in_line', to_jsonb(v_in_line)
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
                lead.run_memory_mb(p.workflow_type) AS memory_mb, p.enabled AND p.mode <> 'paused' AS may_run
            FROM jsonb_array_elements(p_execution_plan -> 'workflows_to_execute') AS w
            INNER JOIN lead.workflow_policy AS p ON p.workflow_type = w ->> 'workflow_type'
            ORDER BY p.workflow_type
        LOOP
            SELECT a.* INTO v_admitted FROM lead.breaker_admit('pipeline:' || v_workflow.workflow_type, p_current_time) AS a;
            IF NOT v_workflow.may_run OR NOT v_admitted.admitted THEN
                RAISE EXCEPTION 'does not fit' USING ERRCODE = 'LC000';
            END IF;
            INSERT INTO lead.plan_reservation (plan_id, execution_id, workflow_type, budget_day, amount_usd, memory_mb, is_probe, reserved_at)
            VALUES (p_execution_plan ->> 'plan_id', v_workflow.execution_id, v_workflow.workflow_type, v_day, v_workflow.amount, v_workflow.memory_mb,
                v_admitted.is_probe, p_current_time);
        END LOOP;
        -- All breakers before any account, as everywhere.
        FOR v_workflow IN
            SELECT r.workflow_type, r.amount_usd FROM lead.plan_reservation AS r
            WHERE r.execution_id = ANY (ARRAY(SELECT w ->> 'execution_id' FROM jsonb_array_elements(p_execution_plan -> 'workflows_to_execute') AS w))
            ORDER BY r.workflow_type
        LOOP
            IF NOT lead.execution_hold(v_day, v_workflow.workflow_type, v_workflow.amount_usd) THEN
                RAISE EXCEPTION 'does not fit' USING ERRCODE = 'LC000';
            END IF;
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

-- Executions have just been made: books what has ended, and carries idle types along with the least served of those that run or
-- wait (p_in_line), so that idleness earns no credit. A type that holds all the slots it may have falls behind for ever if its
-- weight would give it more: its credit is limited to what all slots can do until a run times out. Under the coordinator's lock.
CREATE OR REPLACE FUNCTION lead.carry_idle_types(p_in_line text[], p_current_time timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_most integer := lead.setting_number('max_concurrent_workflows');
    v_most_credit numeric := v_most * 60 * lead.setting_number('execution_timeout_minutes');
BEGIN
    IF EXISTS (SELECT 1 FROM lead.workflow_policy AS p
        WHERE NOT EXISTS (SELECT 1 FROM lead.fair_share AS f WHERE f.scope = 'type' AND f.key = p.workflow_type)) THEN
        INSERT INTO lead.fair_share (scope, key, virtual_time)
        SELECT 'type', s.workflow_type, s.booked FROM lead.type_service(p_current_time) AS s
        ON CONFLICT (scope, key) DO NOTHING;
    END IF;
    WITH ended AS (
        DELETE FROM lead.fair_share AS c
        WHERE c.scope = ANY (ARRAY(SELECT 'charge:' || p.workflow_type FROM lead.workflow_policy AS p))
        RETURNING c.scope, c.virtual_time
    )
    UPDATE lead.fair_share AS f SET virtual_time = f.virtual_time + e.charged
    FROM (SELECT c.scope, sum(c.virtual_time) AS charged FROM ended AS c GROUP BY c.scope) AS e
    WHERE f.scope = 'type' AND e.scope = 'charge:' || f.key;
    WITH service AS (
        SELECT s.workflow_type, s.served, s.running > 0 OR s.workflow_type = ANY (p_in_line) AS is_active, s.running >= v_most - 1 AS holds_most,
            v_most_credit / p.fair_weight AS most_credit
        FROM lead.type_service(p_current_time) AS s
        INNER JOIN lead.workflow_policy AS p ON p.workflow_type = s.workflow_type
    ), least AS (
        SELECT min(s.served) FILTER (WHERE s.is_active) AS of_active, min(s.served) FILTER (WHERE s.is_active AND NOT s.holds_most) AS of_others
        FROM service AS s
    )
    UPDATE lead.fair_share AS f SET virtual_time = f.virtual_time + behind.served
    FROM (
        SELECT s.workflow_type, CASE WHEN NOT s.is_active THEN l.of_active WHEN s.holds_most THEN l.of_others - s.most_credit END - s.served AS served
        FROM service AS s CROSS JOIN least AS l
    ) AS behind
    WHERE f.scope = 'type' AND f.key = behind.workflow_type AND behind.served > 0;
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
    v_taken bigint[];
    v_batch integer;
    v_overdue bigint;
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
    -- The probe of a breaker that finds nothing to claim is given back: the breaker comes before the accounts.
    PERFORM 1 FROM lead.circuit_breaker AS b
    WHERE b.name = ANY (ARRAY(
        SELECT 'pipeline:' || r.workflow_type FROM lead.plan_reservation AS r WHERE r.plan_id = p_execution_plan ->> 'plan_id' AND r.is_probe
    )) ORDER BY b.name FOR UPDATE;
    FOR v_reservation IN
        SELECT r.* FROM lead.plan_reservation AS r WHERE r.plan_id = p_execution_plan ->> 'plan_id' ORDER BY r.execution_id FOR UPDATE
    LOOP
        SELECT w INTO v_workflow FROM jsonb_array_elements(p_execution_plan -> 'workflows_to_execute') AS w
        WHERE w ->> 'execution_id' = v_reservation.execution_id;
        SELECT p.* INTO v_policy FROM lead.workflow_policy AS p WHERE p.workflow_type = v_reservation.workflow_type;
        v_batch := least((v_workflow ->> 'batch_size')::integer, v_policy.max_batch);
        v_overdue := NULL;
        -- One place of a batch is for what is overdue; where a batch is one task, every other one (a hash of the time, so that a
        -- replay takes the same).
        IF v_workflow -> 'overdue' = 'true'
            AND (v_batch > 1 OR hashint8extended((1000 * extract(EPOCH FROM p_current_time))::bigint, v_created) % 2 = 0) THEN
            v_overdue := lead.take_overdue_task(v_reservation.execution_id, v_policy.task_type, p_current_time);
        END IF;
        v_taken := CASE
            WHEN v_overdue IS NULL THEN lead.take_tasks(v_reservation.execution_id, v_policy.task_type, v_batch, p_current_time)
            -- What may have killed its runs goes alone (lead.take_out_tasks).
            WHEN v_batch = 1 OR (SELECT t.stalls > 0 FROM lead.task AS t WHERE t.id = v_overdue) THEN ARRAY[v_overdue]
            ELSE v_overdue || lead.take_tasks(v_reservation.execution_id, v_policy.task_type, v_batch - 1, p_current_time)
        END;
        IF v_overdue IS NOT NULL AND cardinality(v_taken) = 2 THEN
            -- Such a one that came first among the others is put back: its turn comes without company.
            UPDATE lead.task AS t SET status = 'queued', execution_id = NULL, claimed_at = NULL
            WHERE t.id = v_taken[2] AND t.stalls >= greatest(1, lead.setting_number('stall_limit')::integer - 1);
            v_taken := CASE WHEN FOUND THEN v_taken[1:1] ELSE v_taken END;
        END IF;
        IF cardinality(v_taken) = 0 THEN
            PERFORM lead.release_reservation(v_reservation, p_current_time);
            CONTINUE;
        END IF;
        v_amount := cardinality(v_taken) * v_policy.item_cost_limit_usd;
        PERFORM lead.execution_settle(v_reservation.budget_day, v_reservation.workflow_type, v_reservation.amount_usd - v_amount, 0);
        INSERT INTO public.workflow_orchestration (
            execution_id, workflow_type, status, priority_score, scheduled_at, batch_size, estimated_cost, api_calls_allocated, memory_allocated_mb,
            input_context, parent_execution_id, worker_id, created_at, updated_at, reserved_at, budget_day, envelope_usd, is_probe,
            task_ids
        ) VALUES (
            v_reservation.execution_id, v_reservation.workflow_type, 'pending',
            least(100, greatest(0, coalesce((v_workflow ->> 'priority')::numeric::integer, v_policy.base_priority))),
            p_current_time, cardinality(v_taken), v_amount, cardinality(v_taken) * v_policy.calls_per_item, v_reservation.memory_mb,
            jsonb_build_object('plan_id', v_reservation.plan_id, 'reasoning', coalesce(v_workflow -> 'reasoning', '[]')),
            p_execution_plan ->> 'tick_id', p_worker_id, p_current_time, p_current_time, p_current_time, v_reservation.budget_day, v_amount,
            v_reservation.is_probe, v_taken
        );
        PERFORM lead.record_execution_state(v_reservation.execution_id, 'DISPATCHING', format('%s tasks reserved', cardinality(v_taken)), NULL, p_current_time);
        DELETE FROM lead.plan_reservation AS r WHERE r.execution_id = v_reservation.execution_id;
        v_created := v_created + 1;
    END LOOP;
    IF v_created > 0 THEN
        PERFORM lead.carry_idle_types(ARRAY(
            SELECT i FROM jsonb_array_elements_text(CASE WHEN jsonb_typeof(p_execution_plan -> 'in_line') = 'array' THEN p_execution_plan -> 'in_line'
                ELSE '[]' END) AS i
        ), p_current_time);
    END IF;
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
    VALUES ('coordinator', p_state, v_coordinator.state, coalesce(lead.sanitise(p_execution_plan ->> 'transition_reason'), 'by ' || p_worker_id), p_current_time,
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
    -- Within a decision time goes on as it does on the clock, so that each state has the duration that it had.
    PERFORM update_coordinator_state('ANALYZING', v_note, p_worker_id, p_current_time);
    PERFORM lead.fold_queue_depth();
    PERFORM promote_due_tasks(p_current_time, 10000);
    PERFORM lead.submit_standing_work(p_current_time);

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
            PERFORM update_coordinator_state('DISPATCHING', v_plan, p_worker_id, p_current_time + (clock_timestamp() - v_started));
            IF reserve_execution_resources(v_plan, p_current_time) THEN
                v_dispatched := create_execution_records(v_plan, p_worker_id, p_current_time);
            END IF;
            v_outcome := CASE WHEN v_dispatched > 0 THEN 'dispatched' ELSE 'nothing_to_do' END;
            PERFORM update_coordinator_state('MONITORING', v_plan, p_worker_id, p_current_time + (clock_timestamp() - v_started));
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
            p_worker_id, p_current_time + (clock_timestamp() - v_started));
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
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM lead.valid_time('p_current_time', p_current_time);
    PERFORM lead.check_range('p_limit', p_limit, 1, 10000);
    RETURN QUERY
    SELECT w.execution_id, w.workflow_type, w.launch_number, w.execution_id || ':' || w.launch_number, w.batch_size, w.priority_score,
        w.retry_count, w.created_at,
        w.scheduled_at + lead.seconds(lead.setting_number('launch_timeout_seconds')) <= p_current_time
    FROM public.workflow_orchestration AS w
    WHERE w.status = 'pending' AND w.reserved_at IS NOT NULL AND w.scheduled_at <= p_current_time
    ORDER BY w.priority_score DESC, w.id
    LIMIT p_limit;
END;
$$;

-- The tasks that an execution was made with. Only one that a call of version 0.1.0 made, while the database was brought forward,
-- has none noted: then they are looked for.
CREATE OR REPLACE FUNCTION lead.claimed_tasks(p_execution_id text, p_task_ids bigint[]) RETURNS bigint[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    IF cardinality(p_task_ids) > 0 THEN
        RETURN p_task_ids;
    END IF;
    RETURN ARRAY(
        SELECT t.id FROM lead.task AS t WHERE t.execution_id = p_execution_id AND t.status = 'processing' ORDER BY t.id
    );
END;
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
        memory_peak_mb = greatest(w.memory_peak_mb, p_memory_mb), updated_at = p_current_time,
        task_ids = lead.claimed_tasks(w.execution_id, w.task_ids)
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
            FROM lead.task AS t WHERE t.id = ANY (v_execution.task_ids) AND t.execution_id = p_execution_id AND t.status = 'processing'
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
    PERFORM lead.check_clock(p_current_time);
    v_execution := lead.held_execution(p_execution_id, p_fence);
    v_reason := CASE
        WHEN v_execution.stop_requested IS NOT NULL THEN v_execution.stop_requested
        WHEN v_execution.timeout_at <= p_current_time THEN format('timed out at %s', v_execution.timeout_at)
        WHEN NOT v_execution.is_external AND p_memory_mb > 2 * v_execution.memory_allocated_mb THEN format('uses %s MB, twice its allocation of %s MB is allowed', p_memory_mb,
            v_execution.memory_allocated_mb)
    END;
    UPDATE public.workflow_orchestration AS w
    SET heartbeat_at = p_current_time,
        -- A worker of its own has asked for a lease of a length of its own.
        lease_expires_at = p_current_time + CASE WHEN w.is_external THEN w.lease_expires_at - w.heartbeat_at
            ELSE lead.seconds(lead.setting_number('lease_seconds')) END,
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
    INSERT INTO lead.dead_letter (task_id, task_type, tenant, reason, error_class, error_message, context, times_replayed, created_at)
    VALUES (p_task.id, p_task.task_type, p_task.tenant, p_reason, p_error_class, p_error_message,
        coalesce(p_context, '{}') || jsonb_build_object(
            'execution_id', p_task.execution_id, 'attempts', p_task.attempts, 'stalls', p_task.stalls, 'deferrals', p_task.deferrals,
            'history', (SELECT coalesce(jsonb_agg(to_jsonb(a) - 'task_id' ORDER BY a.ended_at), '[]') FROM lead.task_attempt AS a WHERE a.task_id = p_task.id)
        ),
        (SELECT count(*) FROM lead.dead_letter AS d WHERE d.task_id = p_task.id AND d.resolution = 'replayed'), p_current_time)
    ON CONFLICT (task_id) WHERE resolution IS NULL DO UPDATE
    SET reason = excluded.reason, error_class = excluded.error_class, error_message = excluded.error_message, context = excluded.context,
        created_at = excluded.created_at;
$$;

-- Tasks that waited only for those that have just completed. Locked first, counted in the next statement: of two completions at
-- once, the second sees that nothing but its own was left.
CREATE OR REPLACE FUNCTION lead.release_dependants(p_completed bigint[], p_current_time timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_waiting bigint[] := ARRAY(SELECT DISTINCT d.task_id FROM lead.task_dependency AS d WHERE d.depends_on = ANY (p_completed));
BEGIN
    IF v_waiting = '{}' THEN
        RETURN;
    END IF;
    PERFORM 1 FROM lead.task AS t WHERE t.id = ANY (v_waiting) ORDER BY t.id FOR UPDATE;
    DELETE FROM lead.task_dependency AS d WHERE d.depends_on = ANY (p_completed);
    UPDATE lead.task AS t
    SET status = CASE WHEN t.not_before > p_current_time THEN 'deferred' ELSE 'queued' END, queued_at = p_current_time,
        deferred_until = CASE WHEN t.not_before > p_current_time THEN t.not_before END,
        defer_reason = CASE WHEN t.not_before > p_current_time THEN 'not before ' || t.not_before END
    WHERE t.id = ANY (v_waiting) AND t.status = 'deferred' AND t.deferred_until IS NULL
        AND NOT EXISTS (SELECT 1 FROM lead.task_dependency AS o WHERE o.task_id = t.id);
END;
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

    PERFORM lead.release_dependants(ARRAY[p_task_id], p_current_time);
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
    IF p_error_class IS NULL OR p_error_class NOT IN (
        'task_error', 'invalid_input', 'quality', 'destination_down', 'rate_limited', 'budget_exhausted'
    ) THEN
        PERFORM lead.refuse('p_error_class', p_error_class,
            'task_error, invalid_input, quality, destination_down, rate_limited or budget_exhausted is needed');
    END IF;
    IF p_retry_after_ms NOT BETWEEN 0 AND 86400000 THEN
        PERFORM lead.refuse('p_retry_after_ms', p_retry_after_ms::text, '0 to 86400000 ms are allowed');
    END IF;
    v_execution := lead.held_execution(p_execution_id, p_fence);
    v_task := lead.held_task(p_task_id, p_execution_id);

    v_outcome := CASE
        WHEN p_error_class IN ('invalid_input', 'quality') THEN 'dead_letter'
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
            WHEN 'invalid_input' THEN 'the input can not be worked on'
            WHEN 'quality' THEN 'the result is not good enough: a person has to look at it'
            ELSE format('failed %s times', v_task.attempts + 1)
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
    -- A day at most, whatever the clocks said.
    v_duration numeric := least(86400000, greatest(0, coalesce(
        extract(EPOCH FROM p_execution.completed_at - p_execution.started_at) * 1000, 0
    )));
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

-- Resolves open calls of executions whose rows the caller has locked: what was not sent is released; what was sent (unless only the
-- others are meant) costs its maximum, since it may have been billed. Each breaker and account is changed once, in the order of locks:
-- call by call, two that end together, or one beside a call that begins, would wait for each other in a circle.
CREATE OR REPLACE FUNCTION lead.resolve_calls(
    p_execution_ids text[], p_task_ids bigint[], p_unsent_only boolean, p_current_time timestamptz
) RETURNS TABLE (execution_id text, settled integer, released integer)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_calls lead.api_call[] := ARRAY(
        SELECT c FROM lead.api_call AS c
        WHERE c.execution_id = ANY (p_execution_ids) AND (c.status = 'reserved' OR (c.status = 'sent' AND NOT p_unsent_only))
            AND (p_task_ids IS NULL OR c.task_id = ANY (p_task_ids))
        ORDER BY c.id FOR UPDATE
    );
    v_row record;
BEGIN
    UPDATE lead.api_call AS c
    SET status = CASE o.status WHEN 'sent' THEN 'settled' ELSE 'released' END, settled_at = p_current_time,
        outcome = CASE o.status WHEN 'sent' THEN 'unanswered' ELSE 'not_sent' END,
        cost_usd = CASE o.status WHEN 'sent' THEN o.max_cost_usd ELSE 0 END
    FROM unnest(v_calls) AS o WHERE c.id = o.id;
    UPDATE lead.rate_slot AS s SET free_at = p_current_time, call_id = NULL
    FROM unnest(v_calls) AS o
    WHERE o.status = 'reserved' AND s.provider = o.provider AND s.slot_no = o.slot_no AND s.call_id = o.id;
    UPDATE public.workflow_orchestration AS w
    SET calls_held_usd = greatest(0, w.calls_held_usd - o.held_usd), actual_cost = w.actual_cost + o.spent_usd
    FROM (
        SELECT u.execution_id, sum(u.max_cost_usd) AS held_usd, coalesce(sum(u.max_cost_usd) FILTER (WHERE u.status = 'sent'), 0) AS spent_usd
        FROM unnest(v_calls) AS u GROUP BY u.execution_id
    ) AS o
    WHERE w.execution_id = o.execution_id;
    FOR v_row IN SELECT o.provider FROM unnest(v_calls) AS o WHERE o.is_probe ORDER BY o.provider LOOP
        PERFORM lead.breaker_record('provider:' || v_row.provider, 'neutral', true, false, NULL, p_current_time);
    END LOOP;
    FOR v_row IN
        SELECT o.budget_day, a.scope, a.scope_key, sum(o.max_cost_usd) AS held_usd,
            coalesce(sum(o.max_cost_usd) FILTER (WHERE o.status = 'sent'), 0) AS spent_usd
        FROM unnest(v_calls) AS o
        CROSS JOIN LATERAL (VALUES (1, 'provider', o.provider), (2, 'tenant', o.tenant)) AS a (place, scope, scope_key)
        WHERE a.scope_key IS NOT NULL
        GROUP BY o.budget_day, a.place, a.scope, a.scope_key ORDER BY a.place, a.scope_key, o.budget_day
    LOOP
        PERFORM lead.budget_settle(v_row.budget_day, v_row.scope, v_row.scope_key, v_row.held_usd, v_row.spent_usd);
    END LOOP;
    RETURN QUERY
    SELECT o.execution_id, count(*) FILTER (WHERE o.status = 'sent')::integer, count(*) FILTER (WHERE o.status = 'reserved')::integer
    FROM unnest(v_calls) AS o GROUP BY o.execution_id;
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
    v_settled integer := 0;
    v_released integer := 0;
    v_returned integer := 0;
    v_parked integer := 0;
    v_task_cost numeric;
    v_cost numeric;
    v_calls bigint;
    v_open_calls bigint;
BEGIN
    -- Every change of a call needs the row of its execution, which the caller has locked: the three figures are of one moment.
    SELECT coalesce(sum(c.cost_usd) FILTER (WHERE c.status = 'settled'), 0), count(*) FILTER (WHERE c.status = 'settled'),
        count(*) FILTER (WHERE c.status IN ('reserved', 'sent'))
    INTO v_cost, v_calls, v_open_calls
    FROM lead.api_call AS c WHERE c.execution_id = p_execution.execution_id;
    IF v_open_calls > 0 THEN
        PERFORM 1 FROM lead.task AS t
        WHERE t.id = ANY (lead.claimed_tasks(p_execution.execution_id, p_execution.task_ids))
            AND t.execution_id = p_execution.execution_id AND t.status = 'processing'
        ORDER BY t.id FOR UPDATE;
        SELECT r.settled, r.released INTO v_settled, v_released
        FROM lead.resolve_calls(ARRAY[p_execution.execution_id], NULL, false, p_current_time) AS r;
        SELECT coalesce(sum(c.cost_usd), 0), count(*) INTO v_cost, v_calls
        FROM lead.api_call AS c WHERE c.execution_id = p_execution.execution_id AND c.status = 'settled';
    END IF;

    -- Each of its tasks counts once; when all are counted, none can be under way.
    IF cardinality(p_execution.task_ids) = 0 OR p_execution.tasks_completed + p_execution.tasks_failed < cardinality(p_execution.task_ids) THEN
        FOR v_task IN
            SELECT t.* FROM lead.task AS t
            WHERE t.id = ANY (lead.claimed_tasks(p_execution.execution_id, p_execution.task_ids))
                AND t.execution_id = p_execution.execution_id AND t.status = 'processing'
            ORDER BY t.id FOR UPDATE
        LOOP
            IF p_stalled AND v_task.stalls + 1 >= lead.setting_number('stall_limit') THEN
                v_task_cost := lead.end_attempt(v_task, 'dead_letter', 'stalled', p_reason, p_current_time);
                UPDATE lead.task AS t
                SET status = 'dead_letter', stalls = t.stalls + 1, processed_at = p_current_time, last_error_class = 'stalled', last_error_message = p_reason,
                    execution_id = NULL, claimed_at = NULL, cost_usd = t.cost_usd + v_task_cost
                WHERE t.id = v_task.id;
                v_task.stalls := v_task.stalls + 1;
                PERFORM lead.bury_task(v_task, format('lost with its run %s times', v_task.stalls), 'stalled', p_reason, '{}', p_current_time);
                v_parked := v_parked + 1;
            ELSE
                v_task_cost := lead.end_attempt(v_task, CASE WHEN p_stalled THEN 'stalled' ELSE 'returned' END, NULL, p_reason, p_current_time);
                UPDATE lead.task AS t
                SET status = 'queued', stalls = t.stalls + p_stalled::integer, execution_id = NULL, claimed_at = NULL,
                    cost_usd = t.cost_usd + v_task_cost
                WHERE t.id = v_task.id;
                v_returned := v_returned + 1;
            END IF;
        END LOOP;
    END IF;

    UPDATE public.workflow_orchestration AS w
    SET status = p_status, completed_at = p_current_time, updated_at = p_current_time, lease_expires_at = NULL, actual_cost = v_cost, calls_held_usd = 0,
        tasks_completed = p_execution.tasks_completed,
        envelope_usd = 0, output_result = coalesce(p_output, w.output_result),
        error_details = CASE WHEN p_status = 'completed' THEN w.error_details ELSE jsonb_build_object('reason', p_reason) || coalesce(p_error, '{}') END,
        metrics = w.metrics || jsonb_build_object('completed', p_execution.tasks_completed, 'failed', w.tasks_failed, 'returned', v_returned, 'parked', v_parked,
            'api_calls', v_calls)
    WHERE w.id = p_execution.id
    RETURNING w.* INTO v_execution;
    IF NOT p_execution.is_external THEN
        PERFORM lead.record_execution_state(
            p_execution.execution_id,
            CASE WHEN p_status = 'completed' THEN 'COMPLETED' WHEN p_status = 'cancelled' THEN 'COOLDOWN' ELSE 'ERROR_RECOVERY' END,
            p_reason, NULL, p_current_time
        );
    END IF;
    PERFORM lead.breaker_record(
        'pipeline:' || v_execution.workflow_type,
        CASE p_status WHEN 'completed' THEN 'success' WHEN 'cancelled' THEN 'neutral' ELSE 'failure' END,
        v_execution.is_probe, false, p_reason, p_current_time
    );
    IF p_execution.envelope_usd > 0 OR v_cost > 0 THEN
        PERFORM lead.execution_settle(p_execution.budget_day, p_execution.workflow_type, p_execution.envelope_usd, v_cost);
    END IF;
    PERFORM lead.roll_up_execution(v_execution, v_calls, p_current_time);
    -- A row of its own: who ends an execution waits for nobody. The next decision books it.
    IF p_execution.reserved_at IS NOT NULL AND NOT p_execution.is_external THEN
        INSERT INTO lead.fair_share (scope, key, virtual_time)
        SELECT 'charge:' || p.workflow_type, p_execution.execution_id, lead.slot_seconds(p_execution.reserved_at, p_current_time) / p.fair_weight
        FROM lead.workflow_policy AS p WHERE p.workflow_type = p_execution.workflow_type
        ON CONFLICT (scope, key) DO NOTHING;
    END IF;
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

-- A person calls an execution off. One that waits ends at once; one that runs is told with its next heartbeat, stops, and is
-- recovered: its tasks go back to the queue either way, and no attempt of theirs is spent.
CREATE OR REPLACE FUNCTION public.cancel_execution(
    p_execution_id text, p_reason text, p_actor text DEFAULT NULL, p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_execution public.workflow_orchestration;
    v_reason text := lead.sanitise(p_reason);
    v_answer jsonb;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_reason', p_reason);
    PERFORM lead.check_actor(p_actor);
    SELECT w.* INTO v_execution FROM public.workflow_orchestration AS w WHERE w.execution_id = p_execution_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_execution_id: there is no execution %', quote_nullable(left(p_execution_id, 200)) USING ERRCODE = 'LC005';
    END IF;
    v_answer := jsonb_build_object('execution_id', p_execution_id, 'status_before', v_execution.status, 'changed', true, 'returned', 0);
    IF v_execution.status IN ('completed', 'failed', 'timeout', 'cancelled') THEN
        RETURN v_answer || jsonb_build_object('status', v_execution.status, 'changed', false);
    ELSIF v_execution.reserved_at IS NULL THEN
        UPDATE public.workflow_orchestration AS w
        SET status = 'cancelled', completed_at = p_current_time, updated_at = p_current_time,
            error_details = jsonb_build_object('reason', v_reason)
        WHERE w.id = v_execution.id;
        v_answer := v_answer || '{"status": "cancelled"}';
    ELSIF v_execution.status = 'running' THEN
        UPDATE public.workflow_orchestration AS w SET stop_requested = v_reason, updated_at = p_current_time WHERE w.id = v_execution.id;
        v_answer := v_answer || '{"status": "running"}';
    ELSE
        v_answer := v_answer || jsonb_build_object('status', 'cancelled', 'returned',
            lead.end_execution(v_execution, 'cancelled', v_reason, false, NULL, NULL, p_current_time) -> 'returned');
    END IF;
    PERFORM lead.audit('cancel_execution', 'execution:' || p_execution_id, jsonb_build_object('status', v_execution.status),
        jsonb_build_object('status', v_answer ->> 'status', 'stop_requested', v_execution.status = 'running'), p_reason, p_actor);
    RETURN v_answer;
END;
$$;

-- Workers of one's own -------------------------------------------------------------------------------------------------
-- Claims a batch at once, without a plan, a row a task: for workers that bring their own capacity. They take none of our slots;
-- what they call is limited and paid like any call, held from the day as they go. No row: nothing waits, or the type is paused.
CREATE OR REPLACE FUNCTION public.claim_tasks(
    p_worker_id text, p_task_type text, p_limit integer DEFAULT 1, p_lease_seconds integer DEFAULT 60,
    p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS TABLE (
    execution_id text, fence bigint, task_id bigint, payload jsonb, attempt integer, value_usd numeric, deadline_at timestamptz,
    tenant text, submitted_at timestamptz
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
-- Planning anew would cost as much as a tenth of a batch.
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    v_policy lead.workflow_policy;
    v_fence bigint;
    v_execution_id text;
    v_picked bigint[];
    v_rows tid[];
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_worker_id', p_worker_id);
    IF p_limit IS NULL OR p_limit NOT BETWEEN 1 AND 10000 THEN
        PERFORM lead.refuse('p_limit', p_limit::text, '1 to 10000 tasks are allowed');
    END IF;
    IF p_lease_seconds IS NULL OR p_lease_seconds NOT BETWEEN 5 AND 86400 THEN
        PERFORM lead.refuse('p_lease_seconds', p_lease_seconds::text, '5 to 86400 seconds are allowed');
    END IF;
    SELECT p.* INTO v_policy FROM lead.workflow_policy AS p WHERE p.task_type = p_task_type;
    IF NOT FOUND THEN
        PERFORM lead.refuse('p_task_type', p_task_type,
            (SELECT 'one of ' || string_agg(p.task_type, ', ' ORDER BY p.task_type) || ' is needed' FROM lead.workflow_policy AS p));
    END IF;
    IF v_policy.mode = 'paused' THEN
        RETURN;
    END IF;
    SELECT p.task_ids, p.task_rows INTO v_picked, v_rows FROM lead.take_out_tasks(p_task_type, p_limit, p_current_time) AS p;
    IF cardinality(v_picked) = 0 THEN
        RETURN;
    END IF;
    v_fence := nextval('lead.fence');
    v_execution_id := split_part(v_policy.workflow_type, '_', 1) || '-claim-' || v_fence;
    INSERT INTO public.workflow_orchestration (
        execution_id, workflow_type, status, priority_score, scheduled_at, started_at, timeout_at, batch_size, worker_id, created_at,
        updated_at, reserved_at, budget_day, run_id, fence, heartbeat_at, lease_expires_at, is_external, task_ids
    ) VALUES (
        v_execution_id, v_policy.workflow_type, 'running', v_policy.base_priority, p_current_time, p_current_time,
        p_current_time + greatest(lead.seconds(p_lease_seconds), lead.seconds(60 * lead.setting_number('execution_timeout_minutes'))),
        cardinality(v_picked), p_worker_id, p_current_time, p_current_time, p_current_time, lead.budget_day(p_current_time), p_worker_id,
        v_fence, p_current_time, p_current_time + lead.seconds(p_lease_seconds), true, v_picked
    );
    RETURN QUERY
    UPDATE lead.task AS t
    SET status = 'processing', execution_id = v_execution_id, claimed_at = p_current_time
    WHERE t.ctid = ANY (v_rows)
    RETURNING v_execution_id, v_fence, t.id, t.payload, t.attempts + 1, t.value_usd, t.deadline_at, t.tenant, t.created_at;
    -- A claim and a completion note four differences; each of many claims sums them up once in a while.
    IF v_fence % 16 = 0 THEN
        PERFORM lead.fold_queue_depth();
    END IF;
END;
$$;

-- Completes many tasks of an execution in one go: those of p_results ([{task_id, result}]), or all it still holds where that is
-- NULL. With p_finish the execution ends too, and what it still held goes back.
CREATE OR REPLACE FUNCTION public.complete_tasks(
    p_execution_id text, p_fence bigint, p_results jsonb DEFAULT NULL, p_finish boolean DEFAULT true,
    p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
-- Planning anew would cost as much as a tenth of a batch.
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_execution public.workflow_orchestration;
    v_problem text;
    v_ids bigint[];
    v_completed integer;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    IF p_results IS NOT NULL THEN
        IF jsonb_typeof(p_results) <> 'array' OR jsonb_array_length(p_results) > 10000 THEN
            PERFORM lead.refuse('p_results', p_results::text, 'an array of at most 10000 {"task_id": …, "result": {…}} is needed');
        END IF;
        SELECT r::text INTO v_problem FROM jsonb_array_elements(p_results) AS r
        WHERE jsonb_typeof(r) <> 'object' OR coalesce(r ->> 'task_id', '') !~ '^[1-9][0-9]{0,17}$'
            OR jsonb_typeof(coalesce(r -> 'result', '{}')) <> 'object' LIMIT 1;
        IF FOUND THEN
            PERFORM lead.refuse('p_results', v_problem, 'each element needs a task_id and may have a result that is a JSON object');
        END IF;
        v_ids := ARRAY(SELECT DISTINCT (r ->> 'task_id')::bigint FROM jsonb_array_elements(p_results) AS r);
    END IF;
    v_execution := lead.held_execution(p_execution_id, p_fence);
    PERFORM lead.announce_move(p.task_type, 'processing', 'completed')
    FROM lead.workflow_policy AS p WHERE p.workflow_type = v_execution.workflow_type;
    IF p_results IS NULL AND v_execution.actual_cost = 0 THEN
        WITH done AS (
            UPDATE lead.task AS t
            SET status = 'completed', processed_at = p_current_time, defer_reason = NULL, result = '{}'
            WHERE t.id = ANY (v_execution.task_ids) AND t.execution_id = p_execution_id AND t.status = 'processing'
            RETURNING t.id, t.attempts, t.claimed_at
        ), ended AS (
            INSERT INTO lead.task_attempt (task_id, attempt, execution_id, started_at, ended_at, outcome)
            SELECT d.id, d.attempts + 1, p_execution_id, d.claimed_at, p_current_time, 'completed' FROM done AS d
        )
        SELECT count(*), array_agg(d.id) INTO v_completed, v_ids FROM done AS d;
    ELSE
        WITH done AS (
            UPDATE lead.task AS t
            SET status = 'completed', processed_at = p_current_time, defer_reason = NULL,
                result = coalesce(given.result, '{}'), cost_usd = t.cost_usd + coalesce(paid.cost_usd, 0)
            FROM lead.task AS held
            LEFT JOIN (
                SELECT (r ->> 'task_id')::bigint AS task_id, r -> 'result' AS result FROM jsonb_array_elements(p_results) AS r
            ) AS given ON given.task_id = held.id
            LEFT JOIN (
                SELECT c.task_id, sum(c.cost_usd) AS cost_usd FROM lead.api_call AS c
                WHERE c.execution_id = p_execution_id AND c.status = 'settled' GROUP BY c.task_id
            ) AS paid ON paid.task_id = held.id
            WHERE held.id = ANY (CASE WHEN p_results IS NULL THEN v_execution.task_ids ELSE v_ids END)
                AND held.execution_id = p_execution_id AND held.status = 'processing'
                AND t.id = held.id
            RETURNING t.id, t.attempts, t.claimed_at, coalesce(paid.cost_usd, 0) AS cost_usd
        ), ended AS (
            INSERT INTO lead.task_attempt (task_id, attempt, execution_id, started_at, ended_at, outcome, cost_usd)
            SELECT d.id, d.attempts + 1, p_execution_id, d.claimed_at, p_current_time, 'completed', d.cost_usd FROM done AS d
        )
        SELECT count(*), array_agg(d.id) INTO v_completed, v_ids FROM done AS d;
    END IF;
    IF EXISTS (SELECT 1 FROM lead.task_dependency AS d WHERE d.depends_on = ANY (v_ids)) THEN
        PERFORM lead.release_dependants(v_ids, p_current_time);
    END IF;
    IF p_finish THEN
        v_execution.tasks_completed := v_execution.tasks_completed + v_completed;
        PERFORM lead.end_execution(v_execution, 'completed', 'run ended as completed', false, NULL, NULL, p_current_time);
    ELSE
        UPDATE public.workflow_orchestration AS w
        SET tasks_completed = w.tasks_completed + v_completed, updated_at = p_current_time
        WHERE w.id = v_execution.id;
    END IF;
    RETURN v_completed;
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
    PERFORM lead.check_clock(p_current_time);
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
    -- It stopped because it was told to: no failure of the run or of its tasks.
    IF v_execution.stop_requested IS NOT NULL THEN
        RETURN lead.end_execution(v_execution, 'cancelled', v_execution.stop_requested, false, NULL, NULL, p_current_time);
    END IF;
    RETURN lead.end_execution(v_execution, 'failed', left(coalesce(lead.sanitise(p_reason), 'the run failed'), 500), true, NULL, NULL, p_current_time);
END;
$$;

CREATE OR REPLACE FUNCTION public.recover_executions(p_current_time timestamptz DEFAULT clock_timestamp()) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_ids bigint[] := ARRAY(
        SELECT w.id FROM public.workflow_orchestration AS w
        WHERE w.status = 'running' AND w.reserved_at IS NOT NULL AND (w.lease_expires_at <= p_current_time OR w.timeout_at <= p_current_time)
        ORDER BY w.id FOR NO KEY UPDATE SKIP LOCKED
    );
    v_reserved text[] := ARRAY(
        SELECT r.execution_id FROM lead.plan_reservation AS r
        WHERE r.reserved_at + lead.seconds(lead.setting_number('reservation_seconds')) <= p_current_time
        ORDER BY r.execution_id FOR UPDATE SKIP LOCKED
    );
    v_types text[];
    v_days date[];
    v_resolved jsonb;
    v_execution public.workflow_orchestration;
    v_reservation lead.plan_reservation;
    v_recovered jsonb := '[]'::jsonb;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    -- What all of them need is locked first, in the order that holds everywhere: one after the other they would break it.
    IF v_ids <> '{}' OR v_reserved <> '{}' THEN
        SELECT array_agg(DISTINCT e.workflow_type), array_agg(DISTINCT e.budget_day) INTO v_types, v_days
        FROM (
            SELECT w.workflow_type, w.budget_day FROM public.workflow_orchestration AS w WHERE w.id = ANY (v_ids)
            UNION ALL
            SELECT r.workflow_type, r.budget_day FROM lead.plan_reservation AS r WHERE r.execution_id = ANY (v_reserved)
        ) AS e;
        PERFORM 1 FROM lead.task AS t
        WHERE t.status = 'processing' AND t.id = ANY (ARRAY(
            SELECT i FROM public.workflow_orchestration AS w, unnest(lead.claimed_tasks(w.execution_id, w.task_ids)) AS i WHERE w.id = ANY (v_ids)
        )) AND t.execution_id = ANY (ARRAY(SELECT w.execution_id FROM public.workflow_orchestration AS w WHERE w.id = ANY (v_ids)))
        ORDER BY t.id FOR UPDATE;
        SELECT jsonb_object_agg(r.execution_id, jsonb_build_object('calls_settled', r.settled, 'calls_released', r.released)) INTO v_resolved
        FROM lead.resolve_calls(
            ARRAY(SELECT w.execution_id FROM public.workflow_orchestration AS w WHERE w.id = ANY (v_ids)), NULL, false, p_current_time
        ) AS r;
        PERFORM 1 FROM lead.circuit_breaker AS b
        WHERE b.name = ANY (ARRAY(SELECT 'pipeline:' || w FROM unnest(v_types) AS w)) ORDER BY b.name FOR UPDATE;
        PERFORM 1 FROM lead.budget_account AS a
        WHERE a.budget_day = ANY (v_days) AND (a.scope = 'total' OR (a.scope = 'workflow' AND a.scope_key = ANY (v_types)))
        ORDER BY a.scope, a.scope_key, a.budget_day FOR UPDATE;
    END IF;
    FOR v_execution IN SELECT w.* FROM public.workflow_orchestration AS w WHERE w.id = ANY (v_ids) ORDER BY w.workflow_type, w.id LOOP
        v_recovered := v_recovered || (CASE
            WHEN v_execution.stop_requested IS NOT NULL
                THEN lead.end_execution(v_execution, 'cancelled', v_execution.stop_requested, false, NULL, NULL, p_current_time)
            WHEN v_execution.timeout_at <= p_current_time
                THEN lead.end_execution(v_execution, 'timeout', format('timed out at %s', v_execution.timeout_at), true, NULL, NULL, p_current_time)
            ELSE lead.end_execution(v_execution, 'failed', format('no heartbeat since %s', v_execution.heartbeat_at), true, NULL, NULL, p_current_time)
        END || coalesce(v_resolved -> v_execution.execution_id, '{}'));
    END LOOP;
    FOR v_reservation IN SELECT r.* FROM lead.plan_reservation AS r WHERE r.execution_id = ANY (v_reserved) ORDER BY r.execution_id LOOP
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
    v_admitted record;
    v_memory integer;
    v_taken bigint[];
    v_amount numeric;
    v_reason text;
    v_wait text;
    v_day date := lead.budget_day(p_current_time);
    v_adopted jsonb := '[]'::jsonb;
    v_refused jsonb := '[]'::jsonb;
    v_waiting jsonb := '[]'::jsonb;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM 1 FROM lead.coordinator AS c FOR UPDATE;
    FOR v_execution IN
        SELECT w.* FROM public.workflow_orchestration AS w
        WHERE w.status IN ('pending', 'analyzing', 'dispatching', 'running') AND w.reserved_at IS NULL
        ORDER BY w.priority_score DESC, w.id LIMIT 100 FOR UPDATE SKIP LOCKED
    LOOP
        SELECT p.* INTO v_policy FROM lead.workflow_policy AS p WHERE p.workflow_type = v_execution.workflow_type;
        SELECT c.* INTO v_capacity FROM lead.capacity(p_current_time) AS c;
        v_memory := lead.run_memory_mb(v_execution.workflow_type);
        v_amount := least(greatest(v_execution.batch_size, 1), v_policy.max_batch) * v_policy.item_cost_limit_usd;
        v_reason := CASE
            WHEN v_execution.status <> 'pending' THEN format('it was inserted as %s: only a pending row can be adopted', v_execution.status)
            WHEN NOT v_policy.enabled THEN format('%s is disabled by policy: %s', v_policy.workflow_type, coalesce(v_policy.disabled_reason, 'by an operator'))
            WHEN v_policy.mode = 'paused' THEN format('%s is paused by an operator', v_policy.workflow_type)
            WHEN lead.queue_depth(v_policy.task_type, 'queued') = 0 THEN format('no %s task waits', v_policy.task_type)
        END;
        IF v_reason IS NULL THEN
            -- What a decision would ask too: a row of somebody else's gets no more than its type's share.
            v_wait := CASE
                WHEN v_capacity.free_slots = 0 OR v_capacity.memory_remaining_mb < v_memory THEN format(
                    '%s of %s slots busy, %s MB and %s USD left', v_capacity.active, v_capacity.max_concurrent, v_capacity.memory_remaining_mb,
                    round(v_capacity.budget_remaining_usd, 2))
                WHEN v_capacity.free_slots = 1 AND v_capacity.max_concurrent > 1
                    AND EXISTS (SELECT 1 FROM lead.workflow_policy AS p WHERE p.enabled AND p.workflow_type <> v_execution.workflow_type)
                    AND (
                        SELECT count(*) FROM public.workflow_orchestration AS w
                        WHERE w.status IN ('pending', 'analyzing', 'dispatching', 'running') AND w.reserved_at IS NOT NULL
                            AND NOT w.is_external AND w.workflow_type = v_execution.workflow_type
                    ) >= v_capacity.max_concurrent - 1 THEN format('%s holds all other slots: the last one is for the other types', v_execution.workflow_type)
                WHEN v_amount > lead.paced_budget(v_execution.priority_score, p_current_time) - v_capacity.budget_committed_usd THEN format(
                    'pacing: %s of %s USD held or spent, and %s may be by now at priority %s', round(v_capacity.budget_committed_usd, 2),
                    round(v_capacity.budget_limit_usd, 2), round(lead.paced_budget(v_execution.priority_score, p_current_time), 2),
                    v_execution.priority_score)
            END;
            IF v_wait IS NULL THEN
                SELECT a.* INTO v_admitted FROM lead.breaker_admit('pipeline:' || v_execution.workflow_type, p_current_time) AS a;
                IF NOT v_admitted.admitted THEN
                    v_wait := format('the circuit breaker pipeline:%s is not closed', v_execution.workflow_type);
                ELSIF NOT lead.execution_hold(v_day, v_execution.workflow_type, v_amount) THEN
                    PERFORM lead.breaker_record('pipeline:' || v_execution.workflow_type, 'neutral', v_admitted.is_probe, false, NULL, p_current_time);
                    v_wait := format('budget: %s USD left, %s are needed', round(v_capacity.budget_remaining_usd, 2), round(v_amount, 2));
                END IF;
            END IF;
            IF v_wait IS NOT NULL THEN
                v_waiting := v_waiting || jsonb_build_object('execution_id', v_execution.execution_id, 'reason', v_wait);
                CONTINUE;
            END IF;
            v_taken := lead.take_tasks(
                v_execution.execution_id, v_policy.task_type, least(greatest(v_execution.batch_size, 1), v_policy.max_batch), p_current_time
            );
            PERFORM lead.execution_settle(v_day, v_execution.workflow_type, v_amount - cardinality(v_taken) * v_policy.item_cost_limit_usd, 0);
            v_amount := cardinality(v_taken) * v_policy.item_cost_limit_usd;
            IF cardinality(v_taken) = 0 THEN
                PERFORM lead.breaker_record('pipeline:' || v_execution.workflow_type, 'neutral', v_admitted.is_probe, false, NULL, p_current_time);
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
            estimated_cost = v_amount, batch_size = cardinality(v_taken), task_ids = v_taken, memory_allocated_mb = v_memory, api_calls_allocated = cardinality(v_taken) * v_policy.calls_per_item,
            is_probe = v_admitted.is_probe
        WHERE w.id = v_execution.id;
        PERFORM lead.record_execution_state(v_execution.execution_id, 'DISPATCHING', format('adopted with %s tasks', cardinality(v_taken)), NULL, p_current_time);
        v_adopted := v_adopted || to_jsonb(v_execution.execution_id);
    END LOOP;
    IF v_adopted <> '[]' THEN
        PERFORM lead.carry_idle_types('{}', p_current_time);
    END IF;
    RETURN jsonb_build_object('adopted', v_adopted, 'refused', v_refused, 'waiting', v_waiting);
END;
$$;

-- Calls to providers -------------------------------------------------------------------------------------------------
-- Holds a call's maximum in its provider's and its tenant's account, both or neither.
CREATE OR REPLACE FUNCTION lead.call_hold(
    p_day date, p_provider text, p_provider_limit numeric, p_tenant text, p_amount numeric
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    IF NOT lead.budget_hold(p_day, 'provider', p_provider, p_amount, p_provider_limit) THEN
        RETURN false;
    END IF;
    IF p_tenant IS NOT NULL AND NOT lead.budget_hold(p_day, 'tenant', p_tenant, p_amount,
        (SELECT t.daily_cost_limit_usd FROM lead.tenant AS t WHERE t.tenant = p_tenant)) THEN
        PERFORM lead.budget_settle(p_day, 'provider', p_provider, p_amount, 0);
        RETURN false;
    END IF;
    RETURN true;
END;
$$;

CREATE OR REPLACE FUNCTION lead.call_settle(p_call lead.api_call, p_spent numeric) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    PERFORM lead.budget_settle(p_call.budget_day, 'provider', p_call.provider, p_call.max_cost_usd, p_spent);
    IF p_call.tenant IS NOT NULL THEN
        PERFORM lead.budget_settle(p_call.budget_day, 'tenant', p_call.tenant, p_call.max_cost_usd, p_spent);
    END IF;
END;
$$;

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
    PERFORM lead.call_settle(p_call, 0);
END;
$$;

CREATE OR REPLACE FUNCTION public.begin_api_call(
    p_execution_id text, p_fence bigint, p_task_id bigint, p_step text, p_candidates jsonb,
    p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_execution public.workflow_orchestration;
    v_attempt integer;
    v_tenant text;
    v_item_limit numeric;
    v_item_committed numeric;
    v_candidate jsonb;
    v_provider record;
    v_max numeric;
    v_extra numeric;
    v_draw numeric;
    v_admitted record;
    v_is_probe boolean;
    v_slot_no integer;
    v_next_free timestamptz;
    v_call_id bigint;
    v_grant_seconds numeric := lead.setting_number('grant_seconds');
    v_reason text;
    v_wait_ms integer;
    v_blocked jsonb := '[]'::jsonb;
BEGIN
    PERFORM lead.check_clock(p_current_time), lead.check_name('p_step', p_step);
    IF jsonb_typeof(p_candidates) IS DISTINCT FROM 'array' OR jsonb_array_length(p_candidates) NOT BETWEEN 1 AND 20 THEN
        PERFORM lead.refuse('p_candidates', p_candidates::text, 'an array of 1 to 20 candidates is needed');
    END IF;
    v_execution := lead.held_execution(p_execution_id, p_fence);
    SELECT t.attempts + 1, t.tenant, (SELECT p.item_cost_limit_usd FROM lead.workflow_policy AS p WHERE p.workflow_type = v_execution.workflow_type),
        (
            SELECT coalesce(sum(coalesce(c.cost_usd, c.max_cost_usd)), 0)
            FROM lead.api_call AS c WHERE c.task_id = p_task_id AND c.execution_id = p_execution_id
        )
    INTO v_attempt, v_tenant, v_item_limit, v_item_committed
    FROM lead.task AS t
    WHERE t.id = p_task_id AND t.status = 'processing' AND t.execution_id = p_execution_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_task_id: execution % does not hold task %', p_execution_id, coalesce(p_task_id::text, 'NULL') USING ERRCODE = 'LC002';
    END IF;

    FOR v_place IN 0..jsonb_array_length(p_candidates) - 1 LOOP
        v_candidate := p_candidates -> v_place;
        SELECT r.provider, r.is_available, r.blocked_until, r.adaptive_limit, r.daily_cost_limit,
            EXISTS (SELECT 1 FROM lead.circuit_breaker AS b WHERE b.name = 'provider:' || r.provider AND b.state <> 'closed') AS is_broken
        INTO v_provider FROM public.api_rate_limits AS r WHERE r.provider = v_candidate ->> 'provider';
        IF NOT FOUND THEN
            PERFORM lead.refuse('p_candidates.provider', v_candidate ->> 'provider',
                (SELECT 'one of ' || string_agg(r.provider, ', ' ORDER BY r.provider) || ' is needed' FROM public.api_rate_limits AS r));
        END IF;
        PERFORM lead.check_name('p_candidates.model', v_candidate ->> 'model'),
            lead.check_number_at('p_candidates', v_candidate, 'input_tokens', 0, 2147483647, true);
        IF coalesce(v_candidate ->> 'max_cost_usd', '') !~ '^[0-9]{1,6}(\.[0-9]{1,20})?(e-[0-9]{1,2})?$' THEN
            PERFORM lead.refuse('p_candidates.max_cost_usd', v_candidate ->> 'max_cost_usd', 'US dollars, 0 to 999999, are needed');
        END IF;
        -- Up, so that what is held is never less than what may be spent.
        v_max := ceil((v_candidate ->> 'max_cost_usd')::numeric * 10000000000) / 10000000000;
        v_draw := 0;
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
            -- What a candidate that is refused had taken is undone with this block, its locks too: two callers that prefer different
            -- providers would otherwise wait for each other. The accounts, which all callers want, come last: whoever holds one
            -- has nothing left to do but to commit.
            BEGIN
                v_is_probe := false;
                IF v_provider.is_broken THEN
                    SELECT a.* INTO v_admitted FROM lead.breaker_admit('provider:' || v_provider.provider, p_current_time) AS a;
                    IF NOT v_admitted.admitted THEN
                        v_reason := 'breaker_open';
                        v_wait_ms := v_admitted.wait_ms;
                        RAISE EXCEPTION 'refused' USING ERRCODE = 'LC000';
                    END IF;
                    v_is_probe := v_admitted.is_probe;
                END IF;
                v_call_id := nextval('lead.api_call_id_seq');
                UPDATE lead.rate_slot AS s
                SET call_id = v_call_id, free_at = p_current_time + lead.seconds(60 + lead.setting_number('rate_margin_ms') / 1000)
                WHERE s.provider = v_provider.provider AND s.slot_no = (
                    SELECT f.slot_no FROM lead.rate_slot AS f
                    WHERE f.provider = v_provider.provider AND f.slot_no <= v_provider.adaptive_limit AND f.free_at <= p_current_time
                    ORDER BY f.free_at LIMIT 1 FOR UPDATE SKIP LOCKED
                )
                RETURNING s.slot_no INTO v_slot_no;
                IF NOT FOUND THEN
                    v_reason := 'rate_limited';
                    SELECT min(s.free_at) INTO v_next_free FROM lead.rate_slot AS s
                    WHERE s.provider = v_provider.provider AND s.slot_no <= v_provider.adaptive_limit;
                    -- A slot that is free and locked is being taken or given back at this moment; one that was never taken is free
                    -- since -infinity, which PostgreSQL before 17 can't subtract from.
                    v_wait_ms := greatest(20, lead.milliseconds_until(greatest(v_next_free, p_current_time), p_current_time));
                    RAISE EXCEPTION 'refused' USING ERRCODE = 'LC000';
                END IF;
                INSERT INTO lead.api_call (
                    id, execution_id, fence, task_id, attempt, step, tenant, provider, model, status, budget_day, max_cost_usd, input_tokens, is_probe,
                    slot_no, use_by, reserved_at
                ) OVERRIDING SYSTEM VALUE VALUES (
                    v_call_id, p_execution_id, p_fence, p_task_id, v_attempt, p_step, v_tenant, v_provider.provider, v_candidate ->> 'model', 'reserved',
                    v_execution.budget_day, v_max, (v_candidate ->> 'input_tokens')::numeric::integer, v_is_probe,
                    v_slot_no, p_current_time + lead.seconds(v_grant_seconds), p_current_time
                );
                IF v_extra > 0 THEN
                    -- Of the accounts that everybody wants, several calls' worth at once, where there is as much.
                    v_draw := greatest(v_extra, least(v_item_limit, 16 * v_max));
                END IF;
                UPDATE public.workflow_orchestration AS w
                SET calls_held_usd = w.calls_held_usd + v_max, envelope_usd = w.envelope_usd + v_draw
                WHERE w.id = v_execution.id;
                IF NOT lead.call_hold(v_execution.budget_day, v_provider.provider, v_provider.daily_cost_limit, v_tenant, v_max) THEN
                    v_reason := 'budget';
                    RAISE EXCEPTION 'refused' USING ERRCODE = 'LC000';
                END IF;
                IF v_draw > 0 AND NOT lead.execution_hold(v_execution.budget_day, v_execution.workflow_type, v_draw) THEN
                    IF NOT lead.execution_hold(v_execution.budget_day, v_execution.workflow_type, v_extra) THEN
                        v_reason := 'budget';
                        RAISE EXCEPTION 'refused' USING ERRCODE = 'LC000';
                    END IF;
                    UPDATE public.workflow_orchestration AS w SET envelope_usd = w.envelope_usd + v_extra - v_draw WHERE w.id = v_execution.id;
                END IF;
            EXCEPTION WHEN SQLSTATE 'LC000' THEN
                NULL;
            END;
        END IF;
        IF v_reason IS NOT NULL THEN
            v_blocked := v_blocked || jsonb_build_object('provider', v_provider.provider, 'reason', v_reason, 'wait_ms', v_wait_ms);
            CONTINUE;
        END IF;
        RETURN jsonb_build_object('granted', true, 'call_id', v_call_id, 'provider', v_provider.provider, 'model', v_candidate ->> 'model',
            'use_by_ms', (1000 * v_grant_seconds)::integer, 'probe', v_is_probe);
    END LOOP;

    -- The reason of whoever may be free first; if no wait helps anywhere, the first candidate's.
    SELECT b ->> 'reason', (b ->> 'wait_ms')::integer INTO v_reason, v_wait_ms
    FROM jsonb_array_elements(v_blocked) WITH ORDINALITY AS g (b, place) ORDER BY (b ->> 'wait_ms')::integer NULLS LAST, place LIMIT 1;
    RETURN jsonb_build_object('granted', false, 'reason', v_reason, 'wait_ms', v_wait_ms, 'blocked', v_blocked);
END;
$$;

-- Several slots at a time: one answer a call, in the order given, each granted or not by itself. What the calls may touch is locked
-- first, in the order that holds everywhere, so that two batches never wait for each other in a circle.
CREATE OR REPLACE FUNCTION public.begin_api_calls(
    p_execution_id text, p_fence bigint, p_calls jsonb, p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_execution public.workflow_orchestration;
    v_call record;
    v_providers text[];
    v_tenants text[];
    v_answers jsonb := '[]'::jsonb;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    IF jsonb_typeof(p_calls) IS DISTINCT FROM 'array' OR jsonb_array_length(p_calls) NOT BETWEEN 1 AND 100 THEN
        PERFORM lead.refuse('p_calls', p_calls::text, 'an array of 1 to 100 {"task_id": …, "step": …, "candidates": […]} is needed');
    END IF;
    FOR v_call IN SELECT g.call, format('p_calls[%s]', g.place - 1) AS field FROM jsonb_array_elements(p_calls) WITH ORDINALITY AS g (call, place) LOOP
        IF jsonb_typeof(v_call.call) <> 'object' THEN
            PERFORM lead.refuse(v_call.field, v_call.call::text, 'an object is needed');
        ELSIF coalesce(v_call.call ->> 'task_id', '') !~ '^[1-9][0-9]{0,17}$' THEN
            PERFORM lead.refuse(v_call.field || '.task_id', v_call.call ->> 'task_id', 'a task id is needed');
        ELSIF jsonb_typeof(v_call.call -> 'candidates') IS DISTINCT FROM 'array' THEN
            PERFORM lead.refuse(v_call.field || '.candidates', v_call.call ->> 'candidates', 'an array of 1 to 20 candidates is needed');
        END IF;
    END LOOP;
    v_execution := lead.held_execution(p_execution_id, p_fence);
    SELECT array_agg(DISTINCT c ->> 'provider') INTO v_providers
    FROM jsonb_array_elements(p_calls) AS g, jsonb_array_elements(g -> 'candidates') AS c;
    SELECT array_agg(DISTINCT t.tenant) INTO v_tenants
    FROM lead.task AS t WHERE t.id = ANY (ARRAY(SELECT (g ->> 'task_id')::bigint FROM jsonb_array_elements(p_calls) AS g));
    PERFORM 1 FROM lead.circuit_breaker AS b
    WHERE b.name = ANY (ARRAY(SELECT 'provider:' || p FROM unnest(v_providers) AS p)) ORDER BY b.name FOR UPDATE;
    -- An account that isn't there yet can't be locked: the day's first calls make it.
    INSERT INTO lead.budget_account (budget_day, scope, scope_key)
    SELECT v_execution.budget_day, n.scope, n.scope_key
    FROM (SELECT 'provider', unnest(v_providers) UNION ALL SELECT 'tenant', unnest(v_tenants)) AS n (scope, scope_key)
    WHERE n.scope_key IS NOT NULL
    ORDER BY n.scope, n.scope_key
    ON CONFLICT (budget_day, scope, scope_key) DO NOTHING;
    PERFORM 1 FROM lead.budget_account AS a
    WHERE a.budget_day = v_execution.budget_day AND a.scope = 'provider' AND a.scope_key = ANY (v_providers)
    ORDER BY a.scope_key FOR UPDATE;
    PERFORM 1 FROM lead.budget_account AS a
    WHERE a.budget_day = v_execution.budget_day AND a.scope = 'tenant' AND a.scope_key = ANY (v_tenants)
    ORDER BY a.scope_key FOR UPDATE;
    FOR v_call IN SELECT g.call FROM jsonb_array_elements(p_calls) WITH ORDINALITY AS g (call, place) ORDER BY g.place LOOP
        v_answers := v_answers || jsonb_build_array(
            jsonb_build_object('task_id', v_call.call -> 'task_id', 'step', v_call.call -> 'step') || begin_api_call(
                p_execution_id, p_fence, (v_call.call ->> 'task_id')::bigint, v_call.call ->> 'step', v_call.call -> 'candidates',
                p_current_time
            )
        );
    END LOOP;
    RETURN v_answers;
END;
$$;

-- The last thing before the request leaves. The slot's 60 seconds begin anew, so that only the way from here to the provider must
-- fit into the margin.
CREATE OR REPLACE FUNCTION public.mark_api_call_sent(
    p_call_id bigint, p_fence bigint, p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_execution_id text;
    v_call lead.api_call;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    SELECT c.execution_id INTO v_execution_id FROM lead.api_call AS c WHERE c.id = p_call_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_call_id: there is no call %', coalesce(p_call_id::text, 'NULL') USING ERRCODE = 'LC005';
    END IF;
    -- Whoever changes a call has locked its execution before.
    PERFORM lead.held_execution(v_execution_id, p_fence);
    UPDATE lead.api_call AS c SET status = 'sent', sent_at = p_current_time
    WHERE c.id = p_call_id AND c.status = 'reserved' AND c.use_by > p_current_time
    RETURNING c.* INTO v_call;
    IF NOT FOUND THEN
        SELECT c.* INTO v_call FROM lead.api_call AS c WHERE c.id = p_call_id;
        IF v_call.status <> 'reserved' THEN
            RETURN jsonb_build_object('ok', false, 'reason', 'the call is ' || v_call.status);
        END IF;
        PERFORM lead.release_call(v_call, p_current_time);
        RETURN jsonb_build_object('ok', false, 'reason', 'the grant had to be used by ' || v_call.use_by);
    END IF;
    UPDATE lead.rate_slot AS s SET free_at = p_current_time + lead.seconds(60 + lead.setting_number('rate_margin_ms') / 1000)
    WHERE s.provider = v_call.provider AND s.slot_no = v_call.slot_no AND s.call_id = p_call_id;
    RETURN jsonb_build_object('ok', true, 'reason', NULL);
END;
$$;

CREATE OR REPLACE FUNCTION public.release_api_call(
    p_call_id bigint, p_fence bigint, p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_call lead.api_call;
BEGIN
    PERFORM lead.check_clock(p_current_time);
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
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_call lead.api_call;
    v_ending text;
    v_state text;
    v_day date := lead.budget_day(p_current_time);
    v_retry_after interval := lead.seconds(least(coalesce(p_retry_after_ms, 1000), 120000) / 1000.0);
BEGIN
    PERFORM lead.check_clock(p_current_time);
    IF p_outcome IS NULL OR p_outcome NOT IN ('ok', 'rate_limited', 'server_error', 'timeout', 'connection_error', 'bad_response', 'client_error',
        'auth_error', 'billing_stop', 'cancelled') THEN
        PERFORM lead.refuse('p_outcome', p_outcome, 'ok, rate_limited, server_error, timeout, connection_error, bad_response, client_error, auth_error, '
            || 'billing_stop or cancelled is needed');
    END IF;
    IF p_cost_usd < 0 OR p_cost_usd > 1000000 THEN
        PERFORM lead.refuse('p_cost_usd', p_cost_usd::text, 'US dollars, 0 to 1000000, or NULL for unknown, are needed');
    END IF;
    IF jsonb_typeof(p_usage) NOT IN ('object', 'null') THEN
        PERFORM lead.refuse('p_usage', p_usage::text, 'an object of token counts is needed');
    END IF;
    PERFORM lead.check_number_at('p_usage', p_usage, 'input_tokens', 0, 2147483647, true),
        lead.check_number_at('p_usage', p_usage, 'output_tokens', 0, 2147483647, true),
        lead.check_number_at('p_usage', p_usage, 'thinking_tokens', 0, 2147483647, true),
        lead.check_number_at('p_usage', p_usage, 'cached_tokens', 0, 2147483647, true);
    IF p_retry_after_ms NOT BETWEEN 0 AND 86400000 THEN
        PERFORM lead.refuse('p_retry_after_ms', p_retry_after_ms::text, '0 to 86400000 ms are allowed');
    END IF;
    -- Whoever changes a call has locked its execution before.
    PERFORM 1 FROM public.workflow_orchestration AS w
    WHERE w.execution_id = (SELECT c.execution_id FROM lead.api_call AS c WHERE c.id = p_call_id) FOR NO KEY UPDATE;
    UPDATE lead.api_call AS c
    SET status = 'settled', outcome = p_outcome, settled_at = p_current_time, http_status = p_http_status,
        -- Half up at the ledger's tenth digit; an unknown cost counts as the maximum, since it may have been billed.
        cost_usd = round(coalesce(p_cost_usd, c.max_cost_usd), 10),
        error_message = left(lead.sanitise(p_error), 2000),
        input_tokens = coalesce((p_usage ->> 'input_tokens')::numeric::integer, c.input_tokens),
        output_tokens = (p_usage ->> 'output_tokens')::numeric::integer,
        thinking_tokens = (p_usage ->> 'thinking_tokens')::numeric::integer,
        cached_tokens = (p_usage ->> 'cached_tokens')::numeric::integer
    WHERE c.id = p_call_id AND c.status = 'sent'
    RETURNING c.* INTO v_call;
    IF NOT FOUND THEN
        SELECT c.* INTO v_call FROM lead.api_call AS c WHERE c.id = p_call_id;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'p_call_id: there is no call %', coalesce(p_call_id::text, 'NULL') USING ERRCODE = 'LC005';
        ELSIF v_call.status = 'reserved' THEN
            RAISE EXCEPTION 'p_call_id: call % was never marked as sent; release it instead', p_call_id USING ERRCODE = '22023';
        END IF;
        -- Settling is idempotent; a run that was given up for dead finds its calls resolved already.
        RETURN jsonb_build_object('cost_usd', v_call.cost_usd, 'already_settled', true,
            'breaker_state', (SELECT b.state FROM lead.circuit_breaker AS b WHERE b.name = 'provider:' || v_call.provider));
    END IF;
    UPDATE public.workflow_orchestration AS w
    SET calls_held_usd = greatest(0, w.calls_held_usd - v_call.max_cost_usd), actual_cost = w.actual_cost + v_call.cost_usd, updated_at = p_current_time
    WHERE w.execution_id = v_call.execution_id;

    v_ending := CASE
        WHEN p_outcome = 'ok' THEN 'success'
        -- A 429 is back-pressure, a 400 is ours, a cancelled call says nothing.
        WHEN p_outcome IN ('rate_limited', 'client_error', 'cancelled') THEN 'neutral'
        ELSE 'failure'
    END;
    v_state := lead.breaker_record('provider:' || v_call.provider, v_ending, v_call.is_probe, p_outcome IN ('auth_error', 'billing_stop'), p_error,
        p_current_time);
    PERFORM lead.call_settle(v_call, v_call.cost_usd);

    UPDATE public.api_rate_limits AS r
    -- Counted once a second; in between each call adds itself.
    SET requests_used_current_minute = CASE
            WHEN r.updated_at BETWEEN p_current_time - interval '1 second' AND p_current_time
                THEN least(r.requests_per_minute, r.requests_used_current_minute + 1)
            ELSE (SELECT count(*) FROM lead.rate_slot AS s WHERE s.provider = r.provider AND s.free_at > p_current_time)
        END,
        minute_reset_at = p_current_time + interval '60 seconds',
        daily_cost_used = (
            SELECT coalesce(sum(a.spent_usd), 0) FROM lead.budget_account AS a
            WHERE a.budget_day = v_day AND a.scope = 'provider' AND a.scope_key = r.provider
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
    RETURN jsonb_build_object('cost_usd', v_call.cost_usd, 'breaker_state', v_state);
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
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_site', p_site);
    PERFORM lead.check_name('p_title', p_title);
    IF p_slug IS NULL OR p_slug !~ '^[a-z0-9]+(-[a-z0-9]+)*$' OR length(p_slug) > 190 THEN
        PERFORM lead.refuse('p_slug', p_slug, 'lower-case letters, digits and single hyphens, at most 190 characters, are needed');
    END IF;
    PERFORM lead.held_execution(p_execution_id, p_fence);
    PERFORM lead.held_task(p_task_id, p_execution_id);
    SELECT p.* INTO v_publication FROM lead.publication AS p WHERE p.site = p_site AND p.task_id = p_task_id FOR UPDATE;
    -- What is out already is left to whoever holds it now.
    IF v_publication.status = 'intended' THEN
        UPDATE lead.publication AS p
        SET execution_id = p_execution_id, fence = p_fence, holder_task_id = p_task_id, title = p_title
        WHERE p.id = v_publication.id
        RETURNING p.* INTO v_publication;
    END IF;
    WHILE v_publication.id IS NULL LOOP
        v_slug := CASE v_number WHEN 1 THEN p_slug ELSE p_slug || '-' || v_number END;
        INSERT INTO lead.publication (task_id, site, slug, title, status, execution_id, fence, holder_task_id, created_at)
        VALUES (p_task_id, p_site, v_slug, p_title, 'intended', p_execution_id, p_fence, p_task_id, p_current_time)
        ON CONFLICT (site, slug) DO NOTHING
        RETURNING * INTO v_publication;
        v_number := v_number + 1;
    END LOOP;
    RETURN jsonb_build_object('publication_id', v_publication.id, 'slug', v_publication.slug,
        'already_published', v_publication.status <> 'intended', 'url', v_publication.url);
END;
$$;

-- The first version's, without p_article_id: beside the new one a call would be ambiguous.
DROP FUNCTION IF EXISTS public.confirm_publication(bigint, text, bigint, text, text, jsonb, timestamptz);
CREATE OR REPLACE FUNCTION public.confirm_publication(
    p_publication_id bigint, p_execution_id text, p_fence bigint, p_url text, p_content_sha256 text, p_details jsonb DEFAULT '{}',
    p_article_id bigint DEFAULT NULL, p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    PERFORM lead.check_clock(p_current_time);
    IF p_url IS NULL OR length(p_url) NOT BETWEEN 1 AND 2000 THEN
        PERFORM lead.refuse('p_url', p_url, 'a URL of 1 to 2000 characters is needed');
    END IF;
    IF p_content_sha256 IS NULL OR p_content_sha256 !~ '^[0-9a-f]{64}$' THEN
        PERFORM lead.refuse('p_content_sha256', p_content_sha256, '64 hexadecimal digits are needed');
    END IF;
    PERFORM lead.held_execution(p_execution_id, p_fence);
    PERFORM lead.held_publication(p_publication_id, p_execution_id, p_fence);
    IF p_article_id IS NOT NULL THEN
        PERFORM lead.make_current(p_article_id, p_publication_id);
    END IF;
    UPDATE lead.publication AS p
    SET status = 'published', url = p_url, content_sha256 = p_content_sha256, details = lead.sanitise(coalesce(p_details, '{}')),
        title = coalesce((SELECT left(a.content ->> 'title', 200) FROM lead.article AS a WHERE a.id = p_article_id), p.title),
        published_at = coalesce(p.published_at, p_current_time), updated_at = p_current_time, changes = p.changes + 1,
        holder_task_id = NULL
    WHERE p.id = p_publication_id;
END;
$$;

CREATE OR REPLACE FUNCTION public.list_publications(p_site text, p_limit integer DEFAULT 1000) RETURNS TABLE (
    publication_id bigint, task_id bigint, slug text, title text, url text, published_at timestamptz, details jsonb
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM lead.check_name('p_site', p_site);
    PERFORM lead.check_range('p_limit', p_limit, 1, 1000000);
    RETURN QUERY
    SELECT p.id, p.task_id, p.slug, p.title, p.url, p.published_at, p.details
    FROM lead.publication AS p
    WHERE p.site = p_site AND p.status = 'published'
    ORDER BY p.published_at DESC, p.id DESC
    LIMIT p_limit;
END;
$$;

-- The environment seeds rows; a row that is there wins, and whoever deploys is told where the two differ. ------------------
CREATE OR REPLACE FUNCTION public.configure_platform(p_settings jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_given record;
    v_row record;
    v_provider text;
    v_seeded jsonb := '[]'::jsonb;
    v_differing jsonb := '[]'::jsonb;
    v_acting record;
BEGIN
    IF jsonb_typeof(p_settings) IS DISTINCT FROM 'object' THEN
        PERFORM lead.refuse('p_settings', p_settings::text, 'an object of settings and their values is needed');
    END IF;
    SELECT * INTO v_acting FROM lead.act_as(coalesce(nullif(current_setting('lead.actor', true), ''), 'configuration'), 'seeded from the environment');
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
    PERFORM lead.act_as(v_acting.was_actor, v_acting.was_reason);
    RETURN jsonb_build_object('seeded', v_seeded, 'differing', v_differing);
END;
$$;

-- Operations ---------------------------------------------------------------------------------------------------------
-- What a person does to a running platform, each with who and why in lead.audit_log; and what a person asks it.
INSERT INTO lead.setting (name, value, minimum, maximum, unit, description) VALUES
('history_keep_days', '90', 1, 3650, 'days', 'prune_history deletes ended tasks, executions, ticks and usage older than this'),
('dagster_keep_days', '14', 1, 3650, 'days', 'Ended Dagster runs with their event logs are deleted after this')
ON CONFLICT (name) DO NOTHING;

-- Dead rows of the tables that grow are taken up before they are a twentieth; set where missing, since it takes a lock.
DO $$
DECLARE
    v_table record;
BEGIN
    FOR v_table IN
        SELECT w.name, w.option, w.value
        FROM (VALUES
            ('lead.task_attempt', 'autovacuum_vacuum_scale_factor', '0.05'),
            ('lead.api_call', 'autovacuum_vacuum_scale_factor', '0.05'),
            ('lead.tick', 'autovacuum_vacuum_scale_factor', '0.05'),
            ('lead.dead_letter', 'autovacuum_vacuum_scale_factor', '0.05'),
            ('public.workflow_states', 'autovacuum_vacuum_scale_factor', '0.05'),
            -- A state's duration is written once, when the next begins: room for that in the same page.
            ('public.workflow_states', 'fillfactor', '90'),
            ('public.resource_usage', 'autovacuum_vacuum_scale_factor', '0.05'),
            ('lead.prune_progress', 'fillfactor', '50')
        ) AS w (name, option, value)
        INNER JOIN pg_class AS c ON c.oid = w.name::regclass
        WHERE NOT coalesce(c.reloptions, '{}') @> ARRAY[w.option || '=' || w.value]
    LOOP
        EXECUTE format('ALTER TABLE %s SET (%s = %s)', v_table.name, v_table.option, v_table.value);
    END LOOP;
END;
$$;

-- Audit --------------------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION lead.check_actor(p_actor text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    IF p_actor IS NOT NULL THEN
        PERFORM lead.check_name('p_actor', p_actor);
    END IF;
END;
$$;

-- Who acts: the argument, else the setting lead.actor of the session or transaction, else whoever logged in. It is what the
-- caller says; database_role, next to it, is what the server knows.
CREATE OR REPLACE FUNCTION lead.actor(p_actor text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    RETURN left(lead.sanitise(
        coalesce(nullif(p_actor, ''), nullif(current_setting('lead.actor', true), ''), session_user::text)
    ), 200);
END;
$$;

CREATE OR REPLACE FUNCTION lead.audit(
    p_action text, p_subject text, p_before jsonb, p_after jsonb, p_reason text DEFAULT NULL, p_actor text DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    INSERT INTO lead.audit_log (actor, database_role, action, subject, before, after, reason)
    VALUES (
        lead.actor(p_actor),
        -- SET ROLE (as PostgREST does it) says more than the login it came through.
        coalesce(nullif(current_setting('role', true), 'none'), session_user::text),
        p_action, p_subject, p_before, p_after,
        left(lead.sanitise(coalesce(p_reason, nullif(current_setting('lead.reason', true), ''))), 2000)
    );
END;
$$;

-- Says for the triggers below who acts and why, until the same is called with what it answers.
CREATE OR REPLACE FUNCTION lead.act_as(p_actor text, p_reason text, OUT was_actor text, OUT was_reason text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    was_actor := coalesce(current_setting('lead.actor', true), '');
    was_reason := coalesce(current_setting('lead.reason', true), '');
    PERFORM set_config('lead.actor', coalesce(p_actor, was_actor), true),
        set_config('lead.reason', coalesce(p_reason, was_reason), true);
END;
$$;

-- Trigger (what, key column, columns that count): a change by a function and one by a bare UPDATE are recorded alike.
CREATE OR REPLACE FUNCTION lead.audit_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_old jsonb := CASE WHEN tg_op <> 'INSERT' THEN to_jsonb(old) END;
    v_new jsonb := CASE WHEN tg_op <> 'DELETE' THEN to_jsonb(new) END;
    v_before jsonb;
    v_after jsonb;
BEGIN
    SELECT jsonb_object_agg(c.name, v_old -> c.name), jsonb_object_agg(c.name, v_new -> c.name)
    INTO v_before, v_after
    FROM jsonb_object_keys(coalesce(v_new, v_old)) AS c (name)
    WHERE c.name NOT IN ('updated_at', 'seeded_at') AND (tg_argv[2] IS NULL OR c.name = ANY (string_to_array(tg_argv[2], ' ')))
        AND (v_old -> c.name) IS DISTINCT FROM (v_new -> c.name);
    IF v_after IS NOT NULL THEN
        PERFORM lead.audit(
            CASE tg_op WHEN 'INSERT' THEN 'add_' WHEN 'DELETE' THEN 'remove_' ELSE 'change_' END || tg_argv[0],
            tg_argv[0] || ':' || (coalesce(v_new, v_old) ->> tg_argv[1]),
            CASE WHEN tg_op <> 'INSERT' THEN lead.sanitise(v_before) END, CASE WHEN tg_op <> 'DELETE' THEN lead.sanitise(v_after) END
        );
    END IF;
    RETURN NULL;
END;
$$;

CREATE OR REPLACE FUNCTION lead.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '%.% is append-only: % is refused', tg_table_schema, tg_table_name, tg_op
        USING ERRCODE = 'insufficient_privilege';
END;
$$;

-- What hangs on a task goes with it, also when an outsider deletes it. Its calls are money: prune_history takes them later.
CREATE OR REPLACE FUNCTION lead.forget_tasks() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    DELETE FROM lead.task_attempt AS a USING old_tasks AS o WHERE a.task_id = o.id;
    DELETE FROM lead.dead_letter AS d USING old_tasks AS o WHERE d.task_id = o.id;
    DELETE FROM lead.task_dependency AS d USING old_tasks AS o WHERE d.task_id = o.id;
    DELETE FROM lead.kept_step AS k USING old_tasks AS o WHERE k.task_id = o.id;
    RETURN NULL;
END;
$$;

DO $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_trigger WHERE tgname = 'audit_append_only' AND tgrelid = 'lead.audit_log'::regclass) THEN
        CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON lead.audit_log
        FOR EACH STATEMENT EXECUTE FUNCTION lead.refuse_change();
        ALTER TABLE lead.audit_log ENABLE ALWAYS TRIGGER audit_append_only;
        CREATE TRIGGER setting_audited AFTER UPDATE OR DELETE ON lead.setting
        FOR EACH ROW EXECUTE FUNCTION lead.audit_row('setting', 'name');
        CREATE TRIGGER policy_audited AFTER UPDATE OR DELETE ON lead.workflow_policy
        FOR EACH ROW EXECUTE FUNCTION lead.audit_row('policy', 'workflow_type');
        CREATE TRIGGER tenant_audited AFTER INSERT OR UPDATE OR DELETE ON lead.tenant
        FOR EACH ROW EXECUTE FUNCTION lead.audit_row('tenant', 'tenant');
        CREATE TRIGGER task_forgotten AFTER DELETE ON lead.task
        REFERENCING OLD TABLE AS old_tasks FOR EACH STATEMENT EXECUTE FUNCTION lead.forget_tasks();
        -- Every settled call updates this table: only what an operator sets counts, and only where it differs.
        CREATE TRIGGER rate_limit_audited
        AFTER UPDATE OF requests_per_minute, daily_cost_limit, is_available, burst_capacity ON public.api_rate_limits
        FOR EACH ROW WHEN (
            (old.requests_per_minute, old.daily_cost_limit, old.is_available, old.burst_capacity)
            IS DISTINCT FROM (new.requests_per_minute, new.daily_cost_limit, new.is_available, new.burst_capacity)
        ) EXECUTE FUNCTION lead.audit_row('provider', 'provider',
            'requests_per_minute daily_cost_limit is_available burst_capacity');
        CREATE TRIGGER provider_audited AFTER INSERT OR DELETE ON public.api_rate_limits
        FOR EACH ROW EXECUTE FUNCTION lead.audit_row('provider', 'provider',
            'provider requests_per_minute daily_cost_limit is_available burst_capacity');
    END IF;
END;
$$;

-- Dead letters -------------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION lead.check_dead_letter_filter(p_filter jsonb, p_changes boolean) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_key text;
    v_value jsonb;
BEGIN
    IF jsonb_typeof(p_filter) IS DISTINCT FROM 'object' THEN
        PERFORM lead.refuse('p_filter', p_filter::text, 'a JSON object is needed, for example {"error_class": "task_error"}');
    END IF;
    FOR v_key, v_value IN SELECT f.key, f.value FROM jsonb_each(p_filter) AS f LOOP
        CASE
            WHEN v_key = 'task_ids' THEN
                IF jsonb_typeof(v_value) <> 'array' OR jsonb_array_length(v_value) NOT BETWEEN 1 AND 10000
                    OR EXISTS (SELECT 1 FROM jsonb_array_elements(v_value) AS e WHERE e::text !~ '^[1-9][0-9]{0,17}$') THEN
                    PERFORM lead.refuse('p_filter.task_ids', v_value::text, 'an array of 1 to 10000 task ids is needed');
                END IF;
            WHEN v_key = 'task_type' THEN
                IF NOT EXISTS (SELECT 1 FROM lead.workflow_policy AS p WHERE to_jsonb(p.task_type) = v_value) THEN
                    PERFORM lead.refuse('p_filter.task_type', v_value #>> '{}', (
                        SELECT 'one of ' || string_agg(p.task_type, ', ' ORDER BY p.task_type) || ' is needed'
                            FROM lead.workflow_policy AS p
                    ));
                END IF;
            WHEN v_key IN ('error_class', 'message_contains') OR (v_key = 'tenant' AND v_value <> 'null') THEN
                IF jsonb_typeof(v_value) <> 'string' OR length(v_value #>> '{}') NOT BETWEEN 1 AND 200 THEN
                    PERFORM lead.refuse('p_filter.' || v_key, v_value #>> '{}', 'text of 1 to 200 characters is needed');
                END IF;
            WHEN v_key = 'tenant' THEN NULL;
            WHEN v_key IN ('created_after', 'created_before') THEN
                BEGIN
                    PERFORM (v_value #>> '{}')::timestamptz;
                    v_key := CASE WHEN jsonb_typeof(v_value) = 'string' THEN NULL ELSE v_key END;
                EXCEPTION WHEN invalid_datetime_format OR datetime_field_overflow OR invalid_parameter_value THEN NULL;
                END;
                IF v_key IS NOT NULL THEN
                    PERFORM lead.refuse('p_filter.' || v_key, v_value #>> '{}',
                        'a time is needed, for example "2030-01-31T12:00:00Z"');
                END IF;
            WHEN v_key = 'all' THEN
                IF jsonb_typeof(v_value) <> 'boolean' THEN
                    PERFORM lead.refuse('p_filter.all', v_value #>> '{}', 'true or false is needed');
                END IF;
            WHEN v_key = 'resolution' AND NOT p_changes THEN
                IF v_value NOT IN ('"open"', '"replayed"', '"discarded"', '"any"') THEN
                    PERFORM lead.refuse('p_filter.resolution', v_value #>> '{}', 'open, replayed, discarded or any is needed');
                END IF;
            ELSE
                PERFORM lead.refuse('p_filter', v_key,
                    'its keys are task_ids, task_type, error_class, tenant, created_after, created_before, '
                    || 'message_contains and ' || CASE WHEN p_changes THEN 'all' ELSE 'resolution' END);
        END CASE;
    END LOOP;
    IF p_changes AND p_filter - 'all' = '{}' AND p_filter -> 'all' IS DISTINCT FROM 'true' THEN
        PERFORM lead.refuse('p_filter', p_filter::text, 'say which; {"all": true} means every open dead letter');
    END IF;
END;
$$;

CREATE OR REPLACE FUNCTION lead.matching_dead_letters(
    p_filter jsonb, p_newest_first boolean, p_limit integer
) RETURNS SETOF lead.dead_letter
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    -- Only the conditions that are asked for, so that each can use its index.
    RETURN QUERY EXECUTE 'SELECT d.* FROM lead.dead_letter AS d WHERE ' || concat_ws(' AND ',
        CASE coalesce(p_filter ->> 'resolution', 'open')
            WHEN 'open' THEN 'd.resolution IS NULL' WHEN 'any' THEN 'true' ELSE 'd.resolution = $1 ->> ''resolution'''
        END,
        CASE WHEN p_filter ? 'task_ids'
            THEN 'd.task_id = ANY (ARRAY(SELECT e::bigint FROM jsonb_array_elements_text($1 -> ''task_ids'') AS e))' END,
        CASE WHEN p_filter ? 'task_type' THEN 'd.task_type = $1 ->> ''task_type''' END,
        CASE WHEN p_filter ? 'error_class' THEN 'd.error_class = $1 ->> ''error_class''' END,
        CASE WHEN p_filter ? 'tenant' THEN 'd.tenant IS NOT DISTINCT FROM $1 ->> ''tenant''' END,
        CASE WHEN p_filter ? 'created_after' THEN 'd.created_at > ($1 ->> ''created_after'')::timestamptz' END,
        CASE WHEN p_filter ? 'created_before' THEN 'd.created_at < ($1 ->> ''created_before'')::timestamptz' END,
        CASE WHEN p_filter ? 'message_contains'
            THEN 'position(lower($1 ->> ''message_contains'') IN lower(d.error_message)) > 0' END
    ) || CASE WHEN p_newest_first THEN ' ORDER BY d.created_at DESC, d.id DESC' ELSE ' ORDER BY d.created_at, d.id' END
        || ' LIMIT $2'
    USING p_filter, p_limit;
END;
$$;

-- Newest first. The filter {"resolution": "replayed"} (discarded, any) shows those that are no longer open.
CREATE OR REPLACE FUNCTION public.list_dead_letters(p_filter jsonb DEFAULT '{}', p_limit integer DEFAULT 100) RETURNS TABLE (
    dead_letter_id bigint, task_id bigint, task_type text, tenant text, reason text, error_class text, error_message text,
    context jsonb, times_replayed integer, created_at timestamptz, resolution text, resolved_at timestamptz, resolved_by text,
    resolution_reason text, payload jsonb, priority integer, cost_usd numeric
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM lead.check_dead_letter_filter(p_filter, false);
    IF p_limit IS NULL OR p_limit NOT BETWEEN 1 AND 10000 THEN
        PERFORM lead.refuse('p_limit', p_limit::text, '1 to 10000 are allowed');
    END IF;
    RETURN QUERY
    SELECT d.id, d.task_id, d.task_type, d.tenant, d.reason, d.error_class, d.error_message, d.context, d.times_replayed,
        d.created_at,
        d.resolution, d.resolved_at, d.resolved_by, d.resolution_reason, t.payload, t.priority_base, t.cost_usd
    FROM lead.matching_dead_letters(p_filter, true, p_limit) AS d
    LEFT JOIN lead.task AS t ON t.id = d.task_id
    ORDER BY d.created_at DESC, d.id DESC;
END;
$$;

-- Closes the letters that match, oldest first, and answers their tasks: locked, and dead until this transaction.
CREATE OR REPLACE FUNCTION lead.resolve_dead_letters(
    p_filter jsonb, p_resolution text, p_actor text, p_reason text, p_limit integer, p_current_time timestamptz
) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_found bigint[];
    v_resolved bigint[];
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_actor(p_actor);
    PERFORM lead.check_dead_letter_filter(p_filter, true);
    IF p_limit IS NULL OR p_limit NOT BETWEEN 1 AND 10000 THEN
        PERFORM lead.refuse('p_limit', p_limit::text, '1 to 10000 are allowed');
    END IF;
    v_found := ARRAY(SELECT d.task_id FROM lead.matching_dead_letters(p_filter, false, p_limit) AS d);
    PERFORM 1 FROM lead.task AS t WHERE t.id = ANY (v_found) ORDER BY t.id FOR UPDATE;
    -- In a statement of its own, so that it sees what a rival resolved while this one waited for the locks.
    WITH resolved AS (
        UPDATE lead.dead_letter AS d
        SET resolution = p_resolution, resolved_at = p_current_time, resolved_by = lead.actor(p_actor),
            resolution_reason = left(lead.sanitise(p_reason), 2000)
        FROM lead.task AS t
        WHERE d.task_id = ANY (v_found) AND d.resolution IS NULL AND t.id = d.task_id AND t.status = 'dead_letter'
        RETURNING d.task_id
    )
    SELECT coalesce(array_agg(r.task_id ORDER BY r.task_id), '{}') INTO v_resolved FROM resolved AS r;
    RETURN v_resolved;
END;
$$;

-- Back into the queue at once, with all its attempts before it. What happened stays: task_attempt, calls and the letter itself.
CREATE OR REPLACE FUNCTION public.replay_dead_letters(
    p_filter jsonb, p_actor text, p_reason text DEFAULT NULL, p_limit integer DEFAULT 1000,
    p_current_time timestamptz DEFAULT now()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_tasks bigint[] := lead.resolve_dead_letters(p_filter, 'replayed', p_actor, p_reason, p_limit, p_current_time);
    v_answer jsonb := jsonb_build_object('replayed', cardinality(v_tasks), 'task_ids', to_jsonb(v_tasks));
BEGIN
    IF cardinality(v_tasks) > 0 THEN
        UPDATE lead.task AS t
        SET status = 'queued', attempts = 0, stalls = 0, deferrals = 0, queued_at = p_current_time, deferred_until = NULL,
            defer_reason = NULL,
            processed_at = NULL, execution_id = NULL, claimed_at = NULL
        WHERE t.id = ANY (v_tasks);
        PERFORM lead.audit('replay_dead_letters', 'dead_letters', jsonb_build_object('filter', p_filter), v_answer, p_reason,
            p_actor);
    END IF;
    RETURN v_answer;
END;
$$;

-- Given up for good: the task ends as failed. What depends on it goes on waiting, and the answer says how many do.
CREATE OR REPLACE FUNCTION public.discard_dead_letters(
    p_filter jsonb, p_reason text, p_actor text DEFAULT NULL, p_limit integer DEFAULT 1000,
    p_current_time timestamptz DEFAULT now()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_tasks bigint[];
    v_answer jsonb;
BEGIN
    PERFORM lead.check_name('p_reason', p_reason);
    v_tasks := lead.resolve_dead_letters(p_filter, 'discarded', p_actor, p_reason, p_limit, p_current_time);
    v_answer := jsonb_build_object('discarded', cardinality(v_tasks), 'task_ids', to_jsonb(v_tasks), 'dependents_waiting', (
        SELECT count(DISTINCT d.task_id) FROM lead.task_dependency AS d WHERE d.depends_on = ANY (v_tasks)
    ));
    IF cardinality(v_tasks) > 0 THEN
        UPDATE lead.task AS t SET status = 'failed', processed_at = p_current_time WHERE t.id = ANY (v_tasks);
        PERFORM lead.audit('discard_dead_letters', 'dead_letters', jsonb_build_object('filter', p_filter), v_answer, p_reason,
            p_actor);
    END IF;
    RETURN v_answer;
END;
$$;

-- One task, one breaker, one setting, one policy ---------------------------------------------------------------------
-- False in "changed": the task has ended, or has this priority already.
CREATE OR REPLACE FUNCTION public.reprioritise_task(
    p_task_id bigint, p_priority integer, p_actor text DEFAULT NULL, p_reason text DEFAULT NULL,
    p_current_time timestamptz DEFAULT now()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_task lead.task;
    v_was integer;
    v_changed boolean;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_actor(p_actor);
    IF p_priority IS NULL OR p_priority NOT BETWEEN 0 AND 100 THEN
        PERFORM lead.refuse('p_priority', p_priority::text, 'a whole number from 0 to 100 is needed');
    END IF;
    SELECT t.* INTO v_task FROM lead.task AS t WHERE t.id = p_task_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_task_id: there is no task %', coalesce(p_task_id::text, 'NULL') USING ERRCODE = 'LC005';
    END IF;
    v_was := v_task.priority_base;
    v_changed := v_task.status IN ('queued', 'deferred', 'processing') AND v_was <> p_priority;
    IF v_changed THEN
        UPDATE lead.task AS t SET priority_base = p_priority WHERE t.id = p_task_id RETURNING t.* INTO v_task;
        PERFORM lead.audit('reprioritise_task', 'task:' || p_task_id, jsonb_build_object('priority', v_was),
            jsonb_build_object('priority', p_priority), p_reason, p_actor);
    END IF;
    RETURN jsonb_build_object('task_id', p_task_id, 'changed', v_changed, 'status', v_task.status, 'priority_before', v_was,
        'priority', v_task.priority_base, 'score', v_task.score);
END;
$$;

-- A run that can't go on with some of its tasks hands them back: no attempt is spent, no stall counted, and they keep their
-- place. Those it doesn't hold (any more) are passed over. Calls that were not sent are released; answers that are still out
-- are settled when they come, or when the execution ends.
CREATE OR REPLACE FUNCTION public.give_back_tasks(
    p_execution_id text, p_fence bigint, p_task_ids bigint[], p_reason text, p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_held bigint[];
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_reason', p_reason);
    IF p_task_ids IS NULL OR cardinality(p_task_ids) NOT BETWEEN 1 AND 10000 THEN
        PERFORM lead.refuse('p_task_ids', p_task_ids::text, '1 to 10000 task ids are needed');
    END IF;
    PERFORM lead.held_execution(p_execution_id, p_fence);
    v_held := ARRAY(
        SELECT t.id FROM lead.task AS t
        WHERE t.id = ANY (p_task_ids) AND t.execution_id = p_execution_id AND t.status = 'processing' ORDER BY t.id FOR UPDATE
    );
    PERFORM lead.resolve_calls(ARRAY[p_execution_id], v_held, true, p_current_time);
    WITH paid AS (
        SELECT c.task_id, sum(c.cost_usd) AS cost_usd FROM lead.api_call AS c
        WHERE c.execution_id = p_execution_id AND c.task_id = ANY (v_held) AND c.status = 'settled' GROUP BY c.task_id
    ), ended AS (
        INSERT INTO lead.task_attempt (task_id, attempt, execution_id, started_at, ended_at, outcome, error_message, cost_usd)
        SELECT t.id, t.attempts + 1, p_execution_id, t.claimed_at, p_current_time, 'returned',
            left(lead.sanitise(p_reason), 4000), coalesce(p.cost_usd, 0)
        FROM lead.task AS t LEFT JOIN paid AS p ON p.task_id = t.id
        WHERE t.id = ANY (v_held)
        RETURNING task_id, cost_usd
    )
    UPDATE lead.task AS t
    SET status = 'queued', execution_id = NULL, claimed_at = NULL, cost_usd = t.cost_usd + e.cost_usd
    FROM ended AS e WHERE t.id = e.task_id;
    RETURN cardinality(v_held);
END;
$$;

-- Closed at once, whatever it had counted; what was deferred because of this destination is due now.
CREATE OR REPLACE FUNCTION public.reset_breaker(
    p_name text, p_actor text DEFAULT NULL, p_reason text DEFAULT NULL, p_current_time timestamptz DEFAULT now()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_was lead.circuit_breaker;
    v_is lead.circuit_breaker;
    v_due integer := 0;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_actor(p_actor);
    SELECT b.* INTO v_was FROM lead.circuit_breaker AS b WHERE b.name = p_name FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM lead.refuse('p_name', p_name,
            (SELECT 'one of ' || string_agg(b.name, ', ' ORDER BY b.name) || ' is needed' FROM lead.circuit_breaker AS b));
    END IF;
    UPDATE lead.circuit_breaker AS b
    SET state = 'closed', consecutive_failures = 0, opened_at = NULL, retry_at = NULL, probe_limit = 0, probes_started = 0,
        probes_succeeded = 0,
        updated_at = p_current_time
    WHERE b.name = p_name
    RETURNING b.* INTO v_is;
    IF p_name LIKE 'provider:%' AND v_was.state <> 'closed' THEN
        UPDATE lead.task AS t SET deferred_until = p_current_time
        WHERE t.id = ANY (ARRAY(
            SELECT w.id FROM lead.due AS d
            INNER JOIN lead.task AS w ON w.id = d.task_id AND w.status = 'deferred' AND w.defer_reason = 'destination_down'
            WHERE d.due_at > p_current_time
            ORDER BY d.due_at LIMIT 10000 FOR UPDATE OF w SKIP LOCKED
        ));
        GET DIAGNOSTICS v_due = ROW_COUNT;
    END IF;
    PERFORM lead.audit('reset_breaker', 'breaker:' || p_name, to_jsonb(v_was) - 'updated_at', to_jsonb(v_is) - 'updated_at',
        p_reason, p_actor);
    RETURN jsonb_build_object('name', p_name, 'state_before', v_was.state, 'state', v_is.state,
        'failures_before', v_was.consecutive_failures, 'tasks_due', v_due);
END;
$$;

CREATE OR REPLACE FUNCTION public.change_setting(
    p_name text, p_value text, p_actor text DEFAULT NULL, p_reason text DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_was record;
    v_acting record;
BEGIN
    PERFORM lead.check_actor(p_actor);
    SELECT s.value, s.unit INTO v_was FROM lead.setting AS s WHERE s.name = p_name FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM lead.refuse('p_name', p_name,
            (SELECT 'one of ' || string_agg(s.name, ', ' ORDER BY s.name) || ' is needed' FROM lead.setting AS s));
    END IF;
    IF p_value IS NULL THEN
        PERFORM lead.refuse('p_value', NULL, p_name || ' needs a value');
    END IF;
    SELECT * INTO v_acting FROM lead.act_as(p_actor, p_reason);
    -- lead.check_setting refuses what is out of its range, by name.
    UPDATE lead.setting AS s SET value = p_value WHERE s.name = p_name AND s.value <> p_value;
    PERFORM lead.act_as(v_acting.was_actor, v_acting.was_reason);
    RETURN jsonb_build_object('name', p_name, 'before', v_was.value, 'after', p_value, 'unit', v_was.unit);
END;
$$;

-- The columns of a policy that may be changed, and to what. One list for the check and for whoever asks.
CREATE OR REPLACE FUNCTION lead.policy_columns() RETURNS TABLE (
    name text, kind text, minimum numeric, maximum numeric, may_be_null boolean
)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT c.name, c.kind, c.minimum, c.maximum, c.may_be_null
    FROM (VALUES
        ('enabled', 'boolean', NULL::numeric, NULL::numeric, false),
        ('interval_minutes', 'integer', 1, 10080, false),
        ('base_priority', 'integer', 0, 100, false),
        ('fair_weight', 'number', 0.001, 999, false),
        ('max_batch', 'integer', 1, 1000, false),
        ('expected_seconds', 'integer', 1, 3600, false),
        ('item_cost_limit_usd', 'number', 0, 1000000, false),
        ('calls_per_item', 'integer', 0, 100, false),
        ('memory_mb', 'integer', 1, 65536, false),
        ('target_success_rate', 'number', 0, 1, false),
        ('daily_cost_limit_usd', 'number', 0, 1000000, true),
        ('disabled_reason', 'text', 1, 500, true)
    ) AS c (name, kind, minimum, maximum, may_be_null);
$$;

CREATE OR REPLACE FUNCTION public.change_policy(
    p_workflow_type text, p_changes jsonb, p_actor text DEFAULT NULL, p_reason text DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_was lead.workflow_policy;
    v_new lead.workflow_policy;
    v_column record;
    v_acting record;
    v_good boolean;
BEGIN
    PERFORM lead.check_actor(p_actor);
    SELECT p.* INTO v_was FROM lead.workflow_policy AS p WHERE p.workflow_type = p_workflow_type FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM lead.refuse('p_workflow_type', p_workflow_type,
            (SELECT 'one of ' || string_agg(p.workflow_type, ', ' ORDER BY p.workflow_type) || ' is needed'
                FROM lead.workflow_policy AS p));
    END IF;
    IF jsonb_typeof(p_changes) IS DISTINCT FROM 'object' OR p_changes = '{}' THEN
        PERFORM lead.refuse('p_changes', p_changes::text,
            'an object of columns and their new values is needed, for example {"max_batch": 5}');
    END IF;
    FOR v_column IN
        SELECT g.key, g.value, c.kind, c.minimum, c.maximum, c.may_be_null
        FROM jsonb_each(p_changes) AS g LEFT JOIN lead.policy_columns() AS c ON c.name = g.key
    LOOP
        IF v_column.kind IS NULL THEN
            PERFORM lead.refuse('p_changes', v_column.key,
                (SELECT 'a policy''s columns that may be changed are ' || string_agg(c.name, ', ' ORDER BY c.name)
                    FROM lead.policy_columns() AS c));
        END IF;
        v_good := CASE
            WHEN v_column.value = 'null' THEN v_column.may_be_null
            WHEN v_column.kind = 'boolean' THEN jsonb_typeof(v_column.value) = 'boolean'
            WHEN v_column.kind = 'text' THEN jsonb_typeof(v_column.value) = 'string'
                AND length(v_column.value #>> '{}') BETWEEN v_column.minimum AND v_column.maximum
            WHEN jsonb_typeof(v_column.value) <> 'number' THEN false
            WHEN v_column.kind = 'integer' AND (v_column.value #>> '{}')::numeric <> trunc((v_column.value #>> '{}')::numeric)
                THEN false
            ELSE (v_column.value #>> '{}')::numeric BETWEEN v_column.minimum AND v_column.maximum
        END;
        IF NOT v_good THEN
            PERFORM lead.refuse('p_changes.' || v_column.key, v_column.value #>> '{}', CASE v_column.kind
                WHEN 'boolean' THEN 'true or false is needed'
                WHEN 'text' THEN format('text of %s to %s characters', v_column.minimum, v_column.maximum)
                WHEN 'integer' THEN format('a whole number from %s to %s', v_column.minimum, v_column.maximum)
                ELSE format('a number from %s to %s', v_column.minimum, v_column.maximum)
            END || CASE WHEN v_column.kind = 'boolean' THEN '' WHEN v_column.may_be_null THEN ', or null, is needed'
                ELSE ' is needed' END);
        END IF;
    END LOOP;
    v_new := jsonb_populate_record(v_was, p_changes);
    v_new.disabled_reason := lead.sanitise(v_new.disabled_reason);
    SELECT * INTO v_acting FROM lead.act_as(p_actor, p_reason);
    UPDATE lead.workflow_policy AS p
    SET enabled = v_new.enabled, interval_minutes = v_new.interval_minutes, base_priority = v_new.base_priority,
        fair_weight = v_new.fair_weight,
        max_batch = v_new.max_batch, expected_seconds = v_new.expected_seconds, item_cost_limit_usd = v_new.item_cost_limit_usd,
        calls_per_item = v_new.calls_per_item, memory_mb = v_new.memory_mb, target_success_rate = v_new.target_success_rate,
        daily_cost_limit_usd = v_new.daily_cost_limit_usd, disabled_reason = v_new.disabled_reason, updated_at = clock_timestamp()
    WHERE p.workflow_type = p_workflow_type
    RETURNING p.* INTO v_new;
    PERFORM lead.act_as(v_acting.was_actor, v_acting.was_reason);
    RETURN (
        SELECT jsonb_build_object('workflow_type', p_workflow_type,
            'before', coalesce(jsonb_object_agg(c.name, to_jsonb(v_was) -> c.name), '{}'),
            'after', coalesce(jsonb_object_agg(c.name, to_jsonb(v_new) -> c.name), '{}'))
        FROM lead.policy_columns() AS c WHERE (to_jsonb(v_was) -> c.name) IS DISTINCT FROM (to_jsonb(v_new) -> c.name)
    );
END;
$$;

-- Explaining ---------------------------------------------------------------------------------------------------------
-- How many waiting tasks come before one with this effective score and age, at most p_most + 1. Probes of the claim's index.
CREATE OR REPLACE FUNCTION lead.tasks_before(
    p_task_type text, p_lanes text[], p_effective_score integer, p_is_starving boolean, p_queued_at timestamptz, p_id bigint,
    p_points integer, p_starving_since timestamptz, p_most integer
) RETURNS integer
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_memoize = off
SET jit = off
AS $$
BEGIN
    RETURN (
        SELECT count(*)
        FROM (
            SELECT 1
            FROM generate_series(100 + p_points, p_effective_score, -1) AS e (effective_score),
            unnest(p_lanes) AS l (lane),
            -- Among equals those who starve come first, then the older, then the lower id. The last pair is an open end.
            LATERAL (VALUES
                (
                    e.effective_score - p_points, '-infinity'::timestamptz,
                    CASE WHEN e.effective_score = p_effective_score AND p_is_starving THEN p_queued_at ELSE p_starving_since END,
                    CASE WHEN e.effective_score = p_effective_score AND p_is_starving THEN p_id ELSE 9223372036854775807 END
                ),
                (
                    CASE WHEN e.effective_score = p_effective_score AND p_is_starving THEN -1 ELSE e.effective_score END,
                    p_starving_since + interval '1 microsecond',
                    CASE WHEN e.effective_score = p_effective_score THEN p_queued_at ELSE 'infinity' END,
                    CASE WHEN e.effective_score = p_effective_score THEN p_id ELSE 9223372036854775807 END
                )
            ) AS range (score, queued_from, queued_to, id_to),
            LATERAL (
                SELECT r.task_id
                FROM lead.ready AS r
                WHERE range.score BETWEEN 0 AND 100
                    AND r.task_type = p_task_type AND r.lane = l.lane AND r.score = range.score::smallint
                    AND r.queued_at >= range.queued_from AND (r.queued_at, r.task_id) < (range.queued_to, range.id_to)
                ORDER BY r.queued_at, r.task_id
                LIMIT p_most + 1
            ) AS found
            LIMIT p_most + 1
        ) AS counted
    );
END;
$$;

-- The terms of a task's score, with what each adds.
CREATE OR REPLACE FUNCTION lead.score_terms(p_task lead.task, p_current_time timestamptz) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_points integer := lead.setting_number('starvation_points');
    v_minutes numeric := lead.setting_number('starvation_minutes');
    v_starves_at timestamptz := p_task.queued_at + lead.seconds(60 * v_minutes);
    v_value integer := lead.static_score(0, p_task.value_usd, NULL, NULL);
    v_cost integer := lead.static_score(100, NULL, NULL, p_task.estimated_cost) - 100;
    v_success integer := coalesce(round(10 * (p_task.predicted_success_rate - 0.5))::integer, 0);
    v_waits boolean := p_task.status = 'queued';
    v_ageing integer := CASE WHEN v_waits AND v_starves_at <= p_current_time THEN v_points ELSE 0 END;
BEGIN
    RETURN jsonb_build_object(
        'effective', p_task.score + v_ageing,
        'static', p_task.score,
        'terms', jsonb_build_array(
            jsonb_build_object('term', 'base priority', 'points', p_task.priority_base, 'why',
                'given when it was submitted, or by an operator'),
            jsonb_build_object('term', 'value', 'points', v_value, 'why', CASE
                WHEN p_task.value_usd IS NULL THEN 'no value was given'
                ELSE format('worth %s USD: 3 ln(1 + value), at most 15', trim_scale(round(p_task.value_usd, 2)))
            END),
            jsonb_build_object('term', 'cost', 'points', v_cost, 'why', CASE
                WHEN p_task.estimated_cost IS NULL THEN 'no cost was given'
                ELSE format('will cost %s USD: 3 ln(1 + 10 × cost), at most 10 less', trim_scale(round(p_task.estimated_cost, 4)))
            END),
            jsonb_build_object('term', 'predicted success', 'points', v_success, 'why', CASE
                WHEN p_task.predicted_success_rate IS NULL THEN 'nothing was predicted'
                ELSE format('predicted %s: 10 × (rate − 0.5)', trim_scale(p_task.predicted_success_rate))
            END),
            jsonb_build_object('term', 'limit', 'points', p_task.score - (p_task.priority_base + v_value + v_cost + v_success),
                'why', 'the sum is kept from 0 to 100'),
            jsonb_build_object('term', 'ageing', 'points', v_ageing, 'why', CASE
                WHEN NOT v_waits THEN 'only a task that waits in the queue ages'
                WHEN v_ageing > 0 THEN format('it has waited %s minutes, %s are enough',
                    floor(extract(EPOCH FROM p_current_time - p_task.queued_at) / 60), v_minutes)
                ELSE format('it gains %s points at %s', v_points, v_starves_at)
            END)
        )
    );
END;
$$;

-- Why a queued task's type or tenant starts nothing at this moment, each a sentence with its numbers, in the order in which a
-- decision looks. Empty: the next decision may take its type.
CREATE OR REPLACE FUNCTION lead.why_waiting(
    p_policy lead.workflow_policy, p_tenant text, p_scheduled jsonb, p_resources jsonb, p_current_time timestamptz
) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_why text[] := '{}'::text[];
    v_capacity record;
    v_breaker lead.circuit_breaker;
    v_tenant lead.tenant;
    v_health jsonb;
    v_so_far integer;
    v_day date := lead.budget_day(p_current_time);
    v_memory integer := lead.run_memory_mb(p_policy.workflow_type);
    v_committed numeric;
    v_paced numeric;
    v_plan jsonb;
BEGIN
    IF NOT p_policy.enabled THEN
        v_why := v_why || format('%s is disabled by policy: %s', p_policy.workflow_type,
            coalesce(p_policy.disabled_reason, 'by an operator'));
    END IF;
    IF p_policy.mode = 'paused' THEN
        v_why := v_why || format('%s is paused by an operator', p_policy.task_type);
    END IF;
    SELECT t.* INTO v_tenant FROM lead.tenant AS t WHERE t.tenant = p_tenant;
    IF v_tenant.mode = 'paused' THEN
        v_why := v_why || format('tenant %s is paused by an operator', p_tenant);
    END IF;
    SELECT b.* INTO v_breaker FROM lead.circuit_breaker AS b WHERE b.name = 'pipeline:' || p_policy.workflow_type;
    IF v_breaker.state = 'open' AND v_breaker.retry_at > p_current_time THEN
        v_why := v_why || format('the circuit breaker %s is open until %s after %s failures in a row: %s', v_breaker.name,
            v_breaker.retry_at,
            v_breaker.consecutive_failures, coalesce(v_breaker.last_error, 'no error was recorded'));
    END IF;

    v_so_far := cardinality(v_why);
    SELECT c.* INTO v_capacity FROM lead.capacity(p_current_time) AS c;
    IF v_capacity.free_slots = 0 THEN
        v_why := v_why || format('%s of %s slots are busy (%s)', v_capacity.active, v_capacity.max_concurrent, (
            SELECT string_agg(format('%s %s', held.runs, held.workflow_type), ', ' ORDER BY held.workflow_type)
            FROM (
                SELECT w.workflow_type, count(*) AS runs FROM public.workflow_orchestration AS w
                WHERE w.status IN ('pending', 'analyzing', 'dispatching', 'running') AND w.reserved_at IS NOT NULL
                    AND NOT w.is_external
                GROUP BY w.workflow_type
            ) AS held
        ));
    END IF;
    IF v_capacity.memory_remaining_mb < v_memory THEN
        v_why := v_why || format('a run needs %s MB and %s of %s MB are free', v_memory, v_capacity.memory_remaining_mb,
            v_capacity.memory_limit_mb);
    END IF;
    IF v_capacity.connections_remaining < 2 THEN
        v_why := v_why || format('%s of %s database connections are open', v_capacity.connections_used,
            v_capacity.connection_limit);
    END IF;
    v_paced := greatest(0, lead.paced_budget(
        coalesce((SELECT (s ->> 'priority')::integer FROM jsonb_array_elements(p_scheduled -> 'tasks') AS s
            WHERE s ->> 'workflow_type' = p_policy.workflow_type), p_policy.base_priority), p_current_time
    ) - v_capacity.budget_committed_usd);
    IF v_capacity.budget_remaining_usd < p_policy.item_cost_limit_usd THEN
        v_why := v_why || format('budget: %s of %s USD are held or spent on %s, and a task may need %s',
            round(v_capacity.budget_committed_usd, 2), round(v_capacity.budget_limit_usd, 2), v_day,
            trim_scale(p_policy.item_cost_limit_usd));
    ELSIF v_paced < p_policy.item_cost_limit_usd THEN
        v_why := v_why || format('pacing: %s USD of %s are held or spent on %s, and its priority may use no more by now',
            round(v_capacity.budget_committed_usd, 2), round(v_capacity.budget_limit_usd, 2), v_day);
    END IF;
    SELECT coalesce(sum(a.held_usd + a.spent_usd), 0) INTO v_committed FROM lead.budget_account AS a
    WHERE a.budget_day = v_day AND a.scope = 'workflow' AND a.scope_key = p_policy.workflow_type;
    IF v_committed + p_policy.item_cost_limit_usd > p_policy.daily_cost_limit_usd THEN
        v_why := v_why || format('budget of %s: %s of %s USD are held or spent on %s', p_policy.workflow_type,
            round(v_committed, 2), round(p_policy.daily_cost_limit_usd, 2), v_day);
    END IF;
    SELECT coalesce(sum(a.held_usd + a.spent_usd), 0) INTO v_committed FROM lead.budget_account AS a
    WHERE a.budget_day = v_day AND a.scope = 'tenant' AND a.scope_key = p_tenant;
    IF v_committed >= v_tenant.daily_cost_limit_usd THEN
        v_why := v_why || format('budget of tenant %s: %s of %s USD are held or spent on %s', p_tenant, round(v_committed, 2),
            round(v_tenant.daily_cost_limit_usd, 2), v_day);
    END IF;
    -- The health check stops for the same shortages, and for others.
    v_health := check_system_health_comprehensive(p_current_time);
    IF cardinality(v_why) = v_so_far AND NOT (v_health ->> 'can_proceed')::boolean THEN
        v_why := v_why || format('the health check says stop: %s', v_health ->> 'reason');
    END IF;
    -- One provider that can be called is enough.
    IF NOT EXISTS (SELECT 1 FROM jsonb_each(p_resources -> 'api_limits') AS l
        WHERE l.value ->> 'status' NOT IN ('switched_off', 'breaker_open', 'budget_exhausted')) THEN
        v_why := v_why || lead.provider_sentences(p_resources, p_current_time);
    END IF;

    IF v_why = '{}' THEN
        -- Nothing stands out by itself: what would a decision say that is made now? Planning reserves nothing.
        v_plan := create_optimal_execution_plan(p_scheduled, p_resources, 'explain_task', p_current_time);
        v_why := ARRAY(
            SELECT format('%s is passed over: %s', o ->> 'workflow_type', o ->> 'reason')
            FROM jsonb_array_elements(v_plan -> 'passed_over') AS o
            WHERE o ->> 'workflow_type' = p_policy.workflow_type AND NOT EXISTS (
                SELECT 1 FROM jsonb_array_elements(v_plan -> 'workflows_to_execute') AS w
                    WHERE w ->> 'workflow_type' = p_policy.workflow_type
            )
        );
    END IF;
    RETURN v_why;
END;
$$;

CREATE OR REPLACE FUNCTION lead.provider_sentences(p_resources jsonb, p_current_time timestamptz) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT coalesce(array_agg(format('provider %s: %s', l.key, CASE l.value ->> 'status'
        WHEN 'switched_off' THEN 'switched off by an operator (is_available = false)'
        WHEN 'breaker_open' THEN format('its circuit breaker is open until %s: %s', b.retry_at,
            coalesce(b.last_error, 'no error was recorded'))
        WHEN 'budget_exhausted' THEN format('%s %% of its daily budget are held or spent',
            l.value ->> 'budget_utilization_percent')
        ELSE format('%s of %s requests a minute are used, the next is free at %s',
            r.adaptive_limit - (l.value ->> 'requests_remaining')::integer,
            r.adaptive_limit, l.value ->> 'next_reset')
    END) ORDER BY l.key), '{}')
    FROM jsonb_each(p_resources -> 'api_limits') AS l
    INNER JOIN public.api_rate_limits AS r ON r.provider = l.key
    LEFT JOIN lead.circuit_breaker AS b ON b.name = 'provider:' || l.key
    WHERE l.value ->> 'status' NOT IN ('healthy', 'warning');
$$;

-- Where a task stands and why it has not run. Reads only; probes indexes, so that a million waiting tasks make no difference.
CREATE OR REPLACE FUNCTION public.explain_task(p_task_id bigint, p_current_time timestamptz DEFAULT now()) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_most constant integer := 10000;
    v_task lead.task;
    v_policy lead.workflow_policy;
    v_score jsonb;
    v_scheduled jsonb;
    v_resources jsonb;
    v_standing jsonb;
    v_lanes text[];
    v_lane text;
    v_among text;
    v_before integer;
    v_waiting bigint;
    v_points integer := lead.setting_number('starvation_points');
    v_starving_since timestamptz := p_current_time - lead.seconds(60 * lead.setting_number('starvation_minutes'));
    v_execution public.workflow_orchestration;
    v_letter lead.dead_letter;
    v_why text[] := '{}'::text[];
    v_notes text[] := '{}'::text[];
    v_next text;
    v_tick jsonb;
    v_given integer;
    v_looked timestamptz;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    SELECT t.* INTO v_task FROM lead.task AS t WHERE t.id = p_task_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_task_id: there is no task %', coalesce(p_task_id::text, 'NULL') USING ERRCODE = 'LC005';
    END IF;
    SELECT p.* INTO v_policy FROM lead.workflow_policy AS p WHERE p.task_type = v_task.task_type;
    v_score := lead.score_terms(v_task, p_current_time);
    v_scheduled := get_intelligent_scheduled_tasks(p_current_time, lead.setting_number('max_concurrent_workflows')::integer);
    v_resources := check_comprehensive_resource_availability(v_scheduled, p_current_time);
    SELECT s INTO v_standing FROM jsonb_array_elements(v_scheduled -> 'tasks') AS s WHERE s ->> 'task_type' = v_task.task_type;

    -- Rank --------------------------------------------------------------------------------------------------------
    IF v_task.status = 'queued' THEN
        v_lane := coalesce(v_task.tenant, '');
        SELECT array_agg(l.lane), sum(l.tasks) INTO v_lanes, v_waiting FROM lead.claimable_lanes(v_task.task_type) AS l;
        v_among := 'its type';
        -- Tenants take turns, so with many of them only the place within its own says when its turn comes.
        IF v_lanes IS NULL OR cardinality(v_lanes) > 20 OR NOT v_lane = ANY (v_lanes) THEN
            v_lanes := ARRAY[v_lane];
            v_among := 'its type and tenant';
            SELECT coalesce(sum(d.tasks), 0) INTO v_waiting FROM lead.queue_depth_delta AS d
            WHERE d.task_type = v_task.task_type AND d.lane = v_lane AND d.status = 'queued';
        END IF;
        v_before := lead.tasks_before(v_task.task_type, v_lanes, (v_score ->> 'effective')::integer,
            v_task.queued_at <= v_starving_since,
            v_task.queued_at, v_task.id, v_points, v_starving_since, v_most);
    END IF;

    -- What stands in its way ------------------------------------------------------------------------------------------
    CASE v_task.status
        WHEN 'queued' THEN
            v_why := lead.why_waiting(v_policy, v_task.tenant, v_scheduled, v_resources, p_current_time);
            -- Since it was queued nobody has looked: then no other reason counts.
            SELECT greatest(v_task.queued_at, max(k.decided_at)) INTO v_looked FROM lead.tick AS k WHERE k.decided_at <= p_current_time;
            IF v_looked <= p_current_time - lead.seconds(60 * lead.setting_number('tick_overdue_minutes')) THEN
                v_why := v_why || format('no decision has been made since %s (%s minutes): is the coordinator running?', v_looked,
                    floor(extract(EPOCH FROM p_current_time - v_looked) / 60));
            END IF;
            v_given := least(v_policy.max_batch, v_waiting);
            IF v_why = '{}' AND v_before >= v_policy.max_batch THEN
                v_why := v_why || format('%s waiting tasks of %s come first, and a run takes %s',
                    CASE WHEN v_before > v_most THEN 'more than ' || v_most ELSE v_before::text END, v_among, v_policy.max_batch);
            END IF;
            v_next := CASE WHEN v_why = '{}'
                THEN format('nothing stands in its way: the next decision takes up to %s tasks of its type', v_given)
                ELSE 'it waits in the queue and is looked at with every decision' END;
            IF v_task.stalls >= greatest(1, lead.setting_number('stall_limit')::integer - 1) THEN
                v_notes := v_notes || format('it was lost with its run %s times, so it is given out alone', v_task.stalls);
            END IF;
        WHEN 'deferred' THEN
            SELECT array_agg(format('it depends on task %s, which %s', d.depends_on, CASE
                WHEN t.id IS NULL THEN 'is gone' WHEN t.status IN ('failed', 'cancelled') THEN 'ended as ' || t.status
                    || ' and will not complete'
                WHEN t.status = 'dead_letter' THEN 'lies in the dead-letter queue: replay it, or cancel this one'
                ELSE 'is ' || t.status END) ORDER BY d.depends_on)
            INTO v_why
            FROM lead.task_dependency AS d LEFT JOIN lead.task AS t ON t.id = d.depends_on
            WHERE d.task_id = p_task_id;
            v_why := coalesce(v_why, '{}');
            IF v_task.deferred_until IS NOT NULL THEN
                v_why := v_why || format('it is deferred until %s (%s seconds from now): %s', v_task.deferred_until,
                    greatest(0, round(extract(EPOCH FROM v_task.deferred_until - p_current_time))), CASE v_task.defer_reason
                        WHEN 'retry' THEN format('retry %s of %s after its own error: %s', v_task.attempts,
                            lead.setting_text('retry_limit'),
                            coalesce(v_task.last_error_message, 'no message'))
                        WHEN 'destination_down' THEN format('what it calls was down, deferred %s times, no attempt spent',
                            v_task.deferrals)
                        WHEN 'rate_limited' THEN format('what it calls was at its limit, deferred %s times, no attempt spent',
                            v_task.deferrals)
                        WHEN 'budget_exhausted' THEN format('the budget was used up, deferred %s times, no attempt spent',
                            v_task.deferrals)
                        ELSE coalesce(v_task.defer_reason, 'no reason was given')
                    END);
            END IF;
            v_next := CASE WHEN v_task.deferred_until IS NULL THEN 'it is queued when the last task it depends on completes'
                ELSE 'it is queued by the first decision after that time' END;
        WHEN 'processing' THEN
            SELECT w.* INTO v_execution FROM public.workflow_orchestration AS w WHERE w.execution_id = v_task.execution_id;
            v_why := ARRAY[CASE v_execution.status
                WHEN 'pending' THEN format('it is reserved for execution %s since %s, whose run has not started yet (launch %s)',
                    v_task.execution_id, v_task.claimed_at, v_execution.launch_number)
                ELSE format('execution %s works on it since %s (run %s, lease until %s, times out at %s)', v_task.execution_id,
                    v_task.claimed_at,
                    coalesce(v_execution.run_id, 'unknown'), coalesce(v_execution.lease_expires_at::text, 'unknown'),
                    coalesce(v_execution.timeout_at::text, 'unknown'))
            END];
            v_next := 'its run completes or fails it, or it is queued again when the run is lost';
        WHEN 'dead_letter' THEN
            SELECT d.* INTO v_letter FROM lead.dead_letter AS d WHERE d.task_id = p_task_id AND d.resolution IS NULL;
            v_why := ARRAY[format('it lies in the dead-letter queue since %s: %s (%s: %s)', v_letter.created_at, v_letter.reason,
                v_letter.error_class, v_letter.error_message)];
            v_next := 'replay_dead_letters puts it back into the queue, discard_dead_letters ends it';
        ELSE
            v_why := ARRAY[format('it ended as %s at %s%s', v_task.status, v_task.processed_at,
                CASE WHEN v_task.status <> 'completed' THEN ': ' || coalesce(v_task.last_error_message, 'no reason was given')
                    ELSE '' END)];
            v_next := 'nothing more happens to it';
    END CASE;
    IF v_task.status IN ('queued', 'deferred', 'processing') THEN
        IF v_task.deadline_at <= p_current_time THEN
            v_notes := v_notes || format('its deadline %s has passed', v_task.deadline_at);
        END IF;
        v_notes := v_notes || lead.provider_sentences(v_resources, p_current_time);
    END IF;

    -- The last decision that looked at its type -----------------------------------------------------------------------
    SELECT jsonb_build_object('tick_id', k.tick_id, 'decided_at', k.decided_at, 'outcome', k.outcome, 'reason', k.reason,
        'said', coalesce((
            SELECT jsonb_agg(o ->> 'reason') FROM jsonb_array_elements(k.decision -> 'passed_over') AS o
            WHERE o ->> 'workflow_type' = v_policy.workflow_type
        ), c.candidate -> 'reasoning'),
        'priority', c.candidate -> 'priority', 'pending_items', c.candidate -> 'pending_items',
        'dispatched', (
            SELECT coalesce(jsonb_agg(
                jsonb_build_object('execution_id', w ->> 'execution_id', 'batch_size', w -> 'batch_size')
            ), '[]')
            FROM jsonb_array_elements(k.decision -> 'chosen') AS w WHERE w ->> 'workflow_type' = v_policy.workflow_type
        ))
    INTO v_tick
    FROM (SELECT t.* FROM lead.tick AS t WHERE t.decided_at <= p_current_time ORDER BY t.decided_at DESC LIMIT 20) AS k
    CROSS JOIN LATERAL (
        SELECT g AS candidate FROM jsonb_array_elements(k.decision -> 'candidates') AS g
            WHERE g ->> 'workflow_type' = v_policy.workflow_type
    ) AS c
    ORDER BY k.decided_at DESC
    LIMIT 1;

    RETURN jsonb_build_object(
        'task_id', v_task.id,
        'task_type', v_task.task_type,
        'tenant', v_task.tenant,
        'status', v_task.status,
        'created_at', v_task.created_at,
        'queued_at', v_task.queued_at,
        'deadline_at', v_task.deadline_at,
        'score', v_score,
        'rank', CASE WHEN v_before IS NULL THEN NULL
            WHEN v_before > v_most THEN to_jsonb('more than ' || v_most) ELSE to_jsonb(v_before + 1) END,
        'rank_among', v_among,
        'waiting', v_waiting,
        'type', jsonb_build_object(
            'workflow_type', v_policy.workflow_type, 'enabled', v_policy.enabled, 'mode', v_policy.mode,
            'priority', v_standing -> 'priority',
            'reasoning', v_standing -> 'reasoning', 'should_execute', v_standing -> 'should_execute',
            'max_batch', v_policy.max_batch, 'max_concurrent', lead.setting_number('max_concurrent_workflows'), 'slots_held', (
                SELECT count(*) FROM public.workflow_orchestration AS w
                WHERE w.workflow_type = v_policy.workflow_type AND w.status IN ('pending', 'analyzing', 'dispatching', 'running')
                    AND w.reserved_at IS NOT NULL AND NOT w.is_external
            )
        ),
        'why', to_jsonb(v_why),
        'next', v_next,
        'notes', to_jsonb(v_notes),
        'last_tick', v_tick,
        'attempts', jsonb_build_object('spent', v_task.attempts, 'deferrals', v_task.deferrals, 'stalls', v_task.stalls,
            'recent', (
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'attempt', a.attempt, 'execution_id', a.execution_id, 'started_at', a.started_at, 'ended_at', a.ended_at,
                'outcome', a.outcome, 'error_class', a.error_class, 'error_message', left(a.error_message, 300),
                'cost_usd', a.cost_usd
            ) ORDER BY a.ended_at DESC), '[]')
            FROM (SELECT h.* FROM lead.task_attempt AS h WHERE h.task_id = p_task_id ORDER BY h.ended_at DESC LIMIT 10) AS a
        )),
        'calls', (
            SELECT jsonb_build_object('made', count(*) FILTER (WHERE c.status <> 'released'),
                'open', count(*) FILTER (WHERE c.status IN ('reserved', 'sent')),
                'failed', count(*) FILTER (WHERE c.status = 'settled' AND c.outcome <> 'ok'),
                'input_tokens', coalesce(sum(c.input_tokens), 0), 'output_tokens', coalesce(sum(c.output_tokens), 0))
            FROM lead.api_call AS c WHERE c.task_id = p_task_id
        ),
        'cost', (
            SELECT jsonb_build_object('spent_usd', coalesce(sum(c.cost_usd) FILTER (WHERE c.status = 'settled'), 0),
                'held_usd', coalesce(sum(c.max_cost_usd) FILTER (WHERE c.status IN ('reserved', 'sent')), 0),
                'limit_usd', v_policy.item_cost_limit_usd)
            FROM lead.api_call AS c WHERE c.task_id = p_task_id
        )
    );
END;
$$;

-- Estimating ---------------------------------------------------------------------------------------------------------
-- What a type's tasks cost and how fast they go: from the last seven days where 20 tasks have ended, else from its policy.
CREATE OR REPLACE FUNCTION lead.type_pace(
    p_policy lead.workflow_policy, p_current_time timestamptz,
    OUT cost_per_item numeric, OUT cost_basis text, OUT items_per_second numeric, OUT pace_basis text, OUT slots integer,
    OUT item_seconds numeric
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_past record;
    v_calls numeric;
    v_requests numeric;
    v_weights numeric;
    v_max integer := lead.setting_number('max_concurrent_workflows');
BEGIN
    SELECT coalesce(sum(h.tasks_completed + h.tasks_failed), 0) AS ended, coalesce(sum(h.tasks_completed), 0) AS completed,
        sum(h.total_cost) AS cost, sum(h.avg_duration_ms * h.total_executions) / 1000 AS seconds,
        sum(h.avg_duration_ms * h.total_executions) / nullif(sum(h.total_executions), 0) / 1000 AS run_seconds,
        sum(h.avg_api_calls * h.total_executions) AS calls
    INTO v_past
    FROM public.execution_history AS h
    WHERE h.workflow_type = p_policy.workflow_type
        AND h.execution_date >= (p_current_time AT TIME ZONE lead.setting_text('coordinator_timezone'))::date - 7;

    IF v_past.ended >= 20 THEN
        cost_per_item := v_past.cost / v_past.ended;
        cost_basis := format('%s tasks of the last 7 days', v_past.ended);
    ELSE
        cost_per_item := p_policy.item_cost_limit_usd;
        cost_basis := format('the policy''s item_cost_limit_usd, since only %s tasks have ended in 7 days', v_past.ended);
    END IF;

    -- Slots: all that it may hold, in proportion to its weight where other types have work too.
    SELECT sum(p.fair_weight) INTO v_weights FROM lead.workflow_policy AS p
    WHERE p.workflow_type = p_policy.workflow_type
        OR (p.enabled AND p.mode <> 'paused' AND lead.queue_depth(p.task_type, 'queued') > 0);
    slots := greatest(1, floor(v_max * p_policy.fair_weight / v_weights));
    IF v_past.completed >= 20 AND v_past.seconds > 0 THEN
        items_per_second := slots * v_past.completed / v_past.seconds;
        item_seconds := v_past.run_seconds;
        pace_basis := format('%s tasks of the last 7 days, on %s slots', v_past.completed, slots);
    ELSE
        items_per_second := slots * p_policy.max_batch::numeric / p_policy.expected_seconds;
        item_seconds := p_policy.expected_seconds;
        pace_basis := format('the policy: %s slots × %s tasks in %s s', slots, p_policy.max_batch, p_policy.expected_seconds);
    END IF;

    v_calls := CASE WHEN v_past.ended >= 20 THEN v_past.calls / v_past.ended ELSE p_policy.calls_per_item END;
    SELECT sum(least(r.adaptive_limit, r.requests_per_minute)) / 60.0 INTO v_requests
    FROM public.api_rate_limits AS r
    LEFT JOIN lead.circuit_breaker AS b ON b.name = 'provider:' || r.provider
    WHERE r.is_available AND NOT (coalesce(b.state, 'closed') = 'open' AND b.retry_at > p_current_time);
    IF v_calls > 0 AND coalesce(v_requests, 0) / v_calls < items_per_second THEN
        items_per_second := coalesce(v_requests, 0) / v_calls;
        pace_basis := format('the rate limits: %s requests a minute, %s calls a task', round(60 * coalesce(v_requests, 0)),
            round(v_calls, 2));
    END IF;
END;
$$;

-- What a submission would cost and when it would be done. Nothing is written. One pass over what is given, and index probes.
CREATE OR REPLACE FUNCTION public.estimate_tasks(p_tasks jsonb, p_current_time timestamptz DEFAULT now()) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_most constant integer := 10000;
    v_problem text;
    v_zone text := lead.setting_text('coordinator_timezone');
    v_points integer := lead.setting_number('starvation_points');
    v_starving_since timestamptz := p_current_time - lead.seconds(60 * lead.setting_number('starvation_minutes'));
    v_capacity record;
    v_day_ends timestamptz;
    v_policy lead.workflow_policy;
    v_pace record;
    v_given record;
    v_lanes text[];
    v_waiting bigint;
    v_first bigint;
    v_last bigint;
    v_affordable numeric;
    v_days integer;
    v_left numeric;
    v_start timestamptz;
    v_finish timestamptz;
    v_late record;
    v_bound text;
    v_types jsonb := '{}'::jsonb;
    v_warnings text[] := '{}'::text[];
    v_budget_ahead numeric := 0;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    IF jsonb_typeof(p_tasks) IS DISTINCT FROM 'array' OR jsonb_array_length(p_tasks) NOT BETWEEN 1 AND 10000 THEN
        PERFORM lead.refuse('p_tasks', p_tasks::text, 'a JSON array of 1 to 10000 tasks is needed');
    END IF;
    SELECT format('tasks[%s]%s', g.place - 1, p.problem) INTO v_problem
    FROM jsonb_array_elements(p_tasks) WITH ORDINALITY AS g (task, place),
    lead.task_problem(g.task, p_current_time) AS p (problem)
    WHERE p.problem IS NOT NULL
    ORDER BY g.place LIMIT 1;
    IF v_problem IS NOT NULL THEN
        RAISE EXCEPTION '%', v_problem USING ERRCODE = '22023';
    END IF;
    SELECT c.* INTO v_capacity FROM lead.capacity(p_current_time) AS c;
    v_day_ends := (lead.budget_day(p_current_time) + 1)::timestamp AT TIME ZONE v_zone;

    FOR v_given IN
        -- A known key, or one given twice, makes no second task.
        WITH given AS (
            SELECT g.place - 1 AS place, g.task, g.task ->> 'task_type' AS task_type,
                lead.static_score(coalesce((g.task ->> 'priority')::numeric::integer, 50), (g.task ->> 'value_usd')::numeric,
                    (g.task ->> 'predicted_success_rate')::numeric, (g.task ->> 'estimated_cost')::numeric) AS score,
                (g.task ->> 'not_before')::timestamptz AS not_before, (g.task ->> 'deadline')::timestamptz AS deadline,
                g.task ->> 'idempotency_key' IS NOT NULL AND (
                    row_number() OVER (PARTITION BY g.task ->> 'idempotency_key' ORDER BY g.place) > 1
                    OR (SELECT s.task_id FROM lead.submission AS s
                        WHERE s.idempotency_key = g.task ->> 'idempotency_key') IS NOT NULL
                ) AS is_duplicate
            FROM jsonb_array_elements(p_tasks) WITH ORDINALITY AS g (task, place)
        )
        SELECT g.task_type, count(*) FILTER (WHERE NOT g.is_duplicate) AS tasks,
            count(*) FILTER (WHERE g.is_duplicate) AS duplicates,
            coalesce(max(g.score) FILTER (WHERE NOT g.is_duplicate), 0) AS best,
            coalesce(min(g.score) FILTER (WHERE NOT g.is_duplicate), 0) AS worst,
            count(g.task ->> 'estimated_cost') FILTER (WHERE NOT g.is_duplicate) AS own_costs,
            coalesce(sum((g.task ->> 'estimated_cost')::numeric) FILTER (WHERE NOT g.is_duplicate), 0) AS own_cost_usd,
            greatest(p_current_time, min(coalesce(g.not_before, p_current_time))) AS may_start,
            greatest(p_current_time, max(coalesce(g.not_before, p_current_time))) AS all_may_start,
            jsonb_agg(jsonb_build_object('place', g.place, 'score', g.score, 'deadline', g.deadline)) FILTER (
                WHERE g.deadline IS NOT NULL AND NOT g.is_duplicate
            ) AS deadlines,
            count(*) FILTER (WHERE jsonb_typeof(g.task -> 'dependencies') = 'array'
                AND g.task -> 'dependencies' <> '[]') AS dependent
        FROM given AS g GROUP BY g.task_type ORDER BY g.task_type
    LOOP
        SELECT p.* INTO v_policy FROM lead.workflow_policy AS p WHERE p.task_type = v_given.task_type;
        SELECT p.* INTO v_pace FROM lead.type_pace(v_policy, p_current_time) AS p;
        SELECT array_agg(l.lane), coalesce(sum(l.tasks), 0) INTO v_lanes, v_waiting
        FROM lead.claimable_lanes(v_given.task_type) AS l;

        -- Ahead: exact up to 10,000; beyond that all that waits, which is the most it can be.
        IF cardinality(v_lanes) <= 20 THEN
            v_first := lead.tasks_before(v_given.task_type, v_lanes, v_given.best, false, 'infinity', 9223372036854775807,
                v_points,
                v_starving_since, v_most);
            v_last := lead.tasks_before(v_given.task_type, v_lanes, v_given.worst, false, 'infinity', 9223372036854775807,
                v_points,
                v_starving_since, v_most);
        ELSE
            v_first := coalesce(v_waiting, 0);
            v_last := v_first;
        END IF;
        v_first := CASE WHEN v_first > v_most THEN v_waiting ELSE coalesce(v_first, 0) END;
        v_last := CASE WHEN v_last > v_most THEN v_waiting ELSE coalesce(v_last, 0) END;

        v_start := NULL;
        v_finish := NULL;
        v_bound := v_pace.pace_basis;
        IF NOT v_policy.enabled THEN
            v_warnings := v_warnings || format('%s is disabled by policy (%s): submit_tasks would refuse all of it',
                v_given.task_type,
                coalesce(v_policy.disabled_reason, 'by an operator'));
        ELSIF v_policy.mode <> 'open' THEN
            v_warnings := v_warnings || format('%s is %s: %s', v_given.task_type, v_policy.mode,
                CASE v_policy.mode WHEN 'draining' THEN 'submit_tasks would refuse all of it'
                    ELSE 'nothing starts until it is resumed' END);
        ELSIF v_pace.items_per_second > 0 AND v_given.tasks > 0 THEN
            v_start := greatest(v_given.may_start, p_current_time + lead.seconds(v_first / v_pace.items_per_second));
            v_finish := greatest(
                p_current_time + lead.seconds((v_last + v_given.tasks) / v_pace.items_per_second),
                v_given.all_may_start + lead.seconds(v_pace.item_seconds)
            );
            -- The day's budget: what is left of it for those ahead and these, then a whole one each day.
            IF v_pace.cost_per_item > 0 THEN
                v_affordable := floor(greatest(0, v_capacity.budget_remaining_usd - v_budget_ahead) / v_pace.cost_per_item);
                v_left := v_last + v_given.tasks - v_affordable;
                IF v_left > 0 THEN
                    v_warnings := v_warnings || format(
                        '%s does not fit the budget of %s: %s tasks and %s ahead of them cost about %s USD, %s of %s are left',
                        v_given.task_type, lead.budget_day(p_current_time), v_given.tasks, v_last,
                        round((v_last + v_given.tasks) * v_pace.cost_per_item, 2),
                        round(greatest(0, v_capacity.budget_remaining_usd - v_budget_ahead), 2),
                        round(v_capacity.budget_limit_usd, 2));
                    v_bound := 'the daily budget';
                    IF v_capacity.budget_limit_usd < v_pace.cost_per_item THEN
                        v_warnings := v_warnings || format('%s never fits: a task costs about %s USD and a day has %s',
                            v_given.task_type,
                            round(v_pace.cost_per_item, 4), round(v_capacity.budget_limit_usd, 2));
                        v_start := CASE WHEN v_affordable > v_first THEN v_start END;
                        v_finish := NULL;
                    ELSE
                        v_days := ceil(v_left * v_pace.cost_per_item / v_capacity.budget_limit_usd) - 1;
                        v_finish := greatest(v_finish, v_day_ends + make_interval(days => v_days) + lead.seconds(
                            (v_left - floor(v_days * v_capacity.budget_limit_usd / v_pace.cost_per_item))
                            / v_pace.items_per_second
                        ));
                        IF v_first >= v_affordable THEN
                            v_start := greatest(v_start, v_day_ends + make_interval(days => floor(
                                (v_first - v_affordable) * v_pace.cost_per_item / v_capacity.budget_limit_usd)::integer));
                        END IF;
                    END IF;
                END IF;
                v_budget_ahead := v_budget_ahead + (v_last + v_given.tasks) * v_pace.cost_per_item;
            END IF;
        ELSIF v_given.tasks > 0 THEN
            v_warnings := v_warnings || format('%s would not run: %s', v_given.task_type, v_pace.pace_basis);
        END IF;

        -- Deadlines, by the place a task takes among those given: its share of the time from start to finish.
        SELECT count(*) AS tasks, min(l.place) AS place, min(l.deadline) AS deadline INTO v_late
        FROM (
            SELECT (d ->> 'place')::integer AS place, (d ->> 'deadline')::timestamptz AS deadline,
                v_start + (v_finish - v_start) * CASE WHEN v_given.best = v_given.worst THEN 1 ELSE
                    (v_given.best - (d ->> 'score')::integer + 1.0) / (v_given.best - v_given.worst + 1) END AS expected
            FROM jsonb_array_elements(v_given.deadlines) AS d
        ) AS l
        WHERE l.expected IS NULL OR l.expected > l.deadline;
        IF v_late.tasks > 0 THEN
            v_warnings := v_warnings
                || format('tasks[%s]%s would end after the deadline (the first is %s, all are expected to end by %s)',
                v_late.place, CASE WHEN v_late.tasks > 1 THEN format(' and %s more', v_late.tasks - 1) ELSE '' END,
                    v_late.deadline,
                coalesce(v_finish::text, 'no time that can be told'));
        END IF;
        IF v_given.dependent > 0 THEN
            v_warnings := v_warnings || format('%s tasks of %s depend on others; the time those take is not in the estimate',
                v_given.dependent,
                v_given.task_type);
        END IF;

        v_types := v_types || jsonb_build_object(v_given.task_type, jsonb_build_object(
            'workflow_type', v_policy.workflow_type, 'tasks', v_given.tasks, 'duplicates', v_given.duplicates,
            -- A task's own estimate, where it has one.
            'expected_cost_usd', round(v_given.own_cost_usd + (v_given.tasks - v_given.own_costs) * v_pace.cost_per_item, 10),
            'maximum_cost_usd', round(v_given.tasks * v_policy.item_cost_limit_usd, 10),
            'cost_per_item_usd', round(v_pace.cost_per_item, 10), 'cost_basis', v_pace.cost_basis,
            'ahead', v_last, 'ahead_is', CASE WHEN v_last > v_most THEN 'at most' ELSE 'exact' END,
            'waiting', coalesce(v_waiting, 0),
            'tasks_per_minute', round(60 * v_pace.items_per_second, 3), 'pace_basis', v_pace.pace_basis, 'bounded_by', v_bound,
            'expected_start', v_start, 'expected_finish', v_finish
        ));
    END LOOP;

    RETURN (
        SELECT jsonb_build_object(
            'tasks', sum((t.value ->> 'tasks')::bigint), 'duplicates', sum((t.value ->> 'duplicates')::bigint),
            'expected_cost_usd', sum((t.value ->> 'expected_cost_usd')::numeric),
            'maximum_cost_usd', sum((t.value ->> 'maximum_cost_usd')::numeric),
            'expected_start', min((t.value ->> 'expected_start')::timestamptz),
            'expected_finish', CASE WHEN count(*) FILTER (WHERE t.value -> 'expected_finish' = 'null'
                AND t.value -> 'tasks' <> '0') = 0
                THEN max((t.value ->> 'expected_finish')::timestamptz) END,
            'budget', jsonb_build_object('day', lead.budget_day(p_current_time), 'limit_usd', v_capacity.budget_limit_usd,
                'remaining_usd', v_capacity.budget_remaining_usd),
            'types', v_types, 'warnings', to_jsonb(v_warnings), 'estimated_at', p_current_time
        )
        FROM jsonb_each(v_types) AS t
    );
END;
$$;

-- The content pipeline's records -------------------------------------------------------------------------------------
-- The publication if this lease took it last, locked; else LC002.
CREATE OR REPLACE FUNCTION lead.held_publication(p_publication_id bigint, p_execution_id text, p_fence bigint) RETURNS lead.publication
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_publication lead.publication;
BEGIN
    SELECT p.* INTO v_publication FROM lead.publication AS p
    WHERE p.id = p_publication_id AND p.execution_id = p_execution_id AND p.fence = p_fence FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_publication_id: execution % does not hold publication %', p_execution_id, coalesce(p_publication_id::text, 'NULL')
            USING ERRCODE = 'LC002';
    END IF;
    RETURN v_publication;
END;
$$;

-- An article's next state, if that may follow its state; else LC003.
CREATE OR REPLACE FUNCTION lead.move_article(p_article lead.article, p_state text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_allowed text[] := CASE p_article.state
        WHEN 'ready' THEN ARRAY['current', 'rejected']
        WHEN 'draft' THEN ARRAY['approved', 'rejected']
        WHEN 'in_review' THEN ARRAY['approved', 'rejected']
        WHEN 'scheduled' THEN ARRAY['current', 'rejected']
        WHEN 'approved' THEN ARRAY['current', 'rejected']
        WHEN 'current' THEN ARRAY['superseded']
        ELSE '{}'::text[]
    END;
BEGIN
    IF p_state <> ALL (v_allowed) THEN
        RAISE EXCEPTION 'p_article_id: article % cannot go from % to %; from % it may go to %', p_article.id, p_article.state, p_state,
            p_article.state, coalesce(nullif(array_to_string(v_allowed, ', '), ''), 'nothing') USING ERRCODE = 'LC003';
    END IF;
    UPDATE lead.article AS a SET state = p_state WHERE a.id = p_article.id;
END;
$$;

-- The article of a publication that is out from now on; what was out before is superseded.
CREATE OR REPLACE FUNCTION lead.make_current(p_article_id bigint, p_publication_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_article lead.article;
    v_before lead.article;
BEGIN
    SELECT a.* INTO v_article FROM lead.article AS a WHERE a.id = p_article_id AND a.publication_id = p_publication_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_article_id: publication % has no article %', p_publication_id, p_article_id USING ERRCODE = 'LC005';
    END IF;
    IF v_article.state = 'current' THEN
        RETURN;
    END IF;
    SELECT a.* INTO v_before FROM lead.article AS a WHERE a.publication_id = p_publication_id AND a.state = 'current' FOR UPDATE;
    IF FOUND THEN
        PERFORM lead.move_article(v_before, 'superseded');
    END IF;
    PERFORM lead.move_article(v_article, 'current');
END;
$$;

-- The task that brings an article out, once. It comes before what is still to be written.
CREATE OR REPLACE FUNCTION lead.submit_change(
    p_wish text, p_site text, p_what jsonb, p_key text, p_not_before timestamptz, p_current_time timestamptz
) RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT (public.submit_tasks(jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
        'task_type', 'content_generation', 'payload', jsonb_build_object('site', p_site, p_wish, p_what), 'priority', 100,
        'idempotency_key', p_key, 'not_before', CASE WHEN p_not_before > p_current_time THEN p_not_before END
    ))), p_current_time) #>> '{tasks,0,task_id}')::bigint;
$$;

CREATE OR REPLACE FUNCTION public.keep_step(
    p_task_id bigint, p_execution_id text, p_fence bigint, p_step text, p_asked text, p_kept jsonb,
    p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_step', p_step);
    IF p_asked IS NULL OR p_asked !~ '^[0-9a-f]{64}$' THEN
        PERFORM lead.refuse('p_asked', p_asked, '64 hexadecimal digits are needed');
    END IF;
    IF jsonb_typeof(p_kept) IS DISTINCT FROM 'object' OR octet_length(p_kept::text) > 1000000 THEN
        PERFORM lead.refuse('p_kept', left(p_kept::text, 100), 'a JSON object of at most 1000000 bytes is needed');
    END IF;
    PERFORM lead.held_execution(p_execution_id, p_fence);
    PERFORM lead.held_task(p_task_id, p_execution_id);
    INSERT INTO lead.kept_step AS k (task_id, step, asked, kept, kept_at) VALUES (p_task_id, p_step, p_asked, p_kept, p_current_time)
    ON CONFLICT (task_id, step) DO UPDATE SET asked = excluded.asked, kept = excluded.kept, kept_at = excluded.kept_at;
END;
$$;

CREATE OR REPLACE FUNCTION public.kept_steps(p_task_id bigint) RETURNS TABLE (step text, asked text, kept jsonb, kept_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT k.step, k.asked, k.kept, k.kept_at FROM lead.kept_step AS k WHERE k.task_id = p_task_id ORDER BY k.kept_at, k.step;
$$;

-- Takes a publication over for a change of it: an update, a decision. Busy while the task that holds it is at work.
CREATE OR REPLACE FUNCTION public.begin_update(
    p_task_id bigint, p_execution_id text, p_fence bigint, p_publication_id bigint, p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_publication lead.publication;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.held_execution(p_execution_id, p_fence);
    PERFORM lead.held_task(p_task_id, p_execution_id);
    SELECT p.* INTO v_publication FROM lead.publication AS p WHERE p.id = p_publication_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_publication_id: there is no publication %', coalesce(p_publication_id::text, 'NULL') USING ERRCODE = 'LC005';
    END IF;
    IF v_publication.holder_task_id <> p_task_id AND EXISTS (
        SELECT 1 FROM lead.task AS t WHERE t.id = v_publication.holder_task_id AND t.status = 'processing'
    ) THEN
        RETURN jsonb_build_object('publication_id', p_publication_id, 'busy', true, 'holder_task_id', v_publication.holder_task_id);
    END IF;
    UPDATE lead.publication AS p SET execution_id = p_execution_id, fence = p_fence, holder_task_id = p_task_id
    WHERE p.id = p_publication_id;
    RETURN jsonb_build_object('publication_id', p_publication_id, 'busy', false, 'site', v_publication.site, 'slug', v_publication.slug,
        'status', v_publication.status, 'url', v_publication.url, 'changes', v_publication.changes, 'details', v_publication.details,
        'published_at', v_publication.published_at);
END;
$$;

CREATE OR REPLACE FUNCTION public.keep_article(
    p_publication_id bigint, p_task_id bigint, p_execution_id text, p_fence bigint, p_content jsonb, p_details jsonb,
    p_signature text, p_policy text, p_publish_at timestamptz DEFAULT NULL, p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_publication lead.publication;
    v_article lead.article;
    v_state text;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    IF jsonb_typeof(p_content) IS DISTINCT FROM 'object' OR jsonb_typeof(p_content -> 'title') IS DISTINCT FROM 'string'
        OR octet_length(p_content::text) > 2000000 THEN
        PERFORM lead.refuse('p_content', left(p_content::text, 100), 'a JSON object with a title, of at most 2000000 bytes, is needed');
    END IF;
    IF jsonb_typeof(p_details) IS DISTINCT FROM 'object' OR octet_length(p_details::text) > 1000000 THEN
        PERFORM lead.refuse('p_details', left(p_details::text, 100), 'a JSON object of at most 1000000 bytes is needed');
    END IF;
    IF p_signature IS NOT NULL AND (p_signature !~ '^([0-9a-f]{2})+$' OR length(p_signature) > 20000) THEN
        PERFORM lead.refuse('p_signature', left(p_signature, 100), 'pairs of hexadecimal digits, at most 20000, or NULL are needed');
    END IF;
    IF p_policy IS NULL OR p_policy NOT IN ('auto', 'review', 'draft') THEN
        PERFORM lead.refuse('p_policy', p_policy, 'auto, review or draft is needed');
    END IF;
    IF p_publish_at IS NOT NULL THEN
        PERFORM lead.valid_time('p_publish_at', p_publish_at);
    END IF;
    PERFORM lead.held_execution(p_execution_id, p_fence);
    PERFORM lead.held_task(p_task_id, p_execution_id);
    v_publication := lead.held_publication(p_publication_id, p_execution_id, p_fence);
    v_state := CASE p_policy
        WHEN 'draft' THEN 'draft' WHEN 'review' THEN 'in_review'
        ELSE CASE WHEN p_publish_at > p_current_time THEN 'scheduled' ELSE 'ready' END
    END;
    SELECT a.* INTO v_article FROM lead.article AS a WHERE a.publication_id = p_publication_id AND a.task_id = p_task_id FOR UPDATE;
    IF v_article.state = 'ready' THEN
        -- An attempt that died before it was published: what is written now counts.
        UPDATE lead.article AS a
        SET content = p_content, details = lead.sanitise(p_details), signature = decode(p_signature, 'hex'), state = v_state,
            publish_at = p_publish_at
        WHERE a.id = v_article.id RETURNING a.* INTO v_article;
    ELSIF v_article.id IS NULL THEN
        INSERT INTO lead.article (publication_id, revision, task_id, state, content, details, signature, publish_at, created_at)
        SELECT p_publication_id, coalesce(max(o.revision), 0) + 1, p_task_id, v_state, p_content, lead.sanitise(p_details),
            decode(p_signature, 'hex'), p_publish_at, p_current_time
        FROM lead.article AS o WHERE o.publication_id = p_publication_id
        RETURNING * INTO v_article;
    END IF;
    IF v_article.state = 'scheduled' AND v_article.publish_task_id IS NULL THEN
        UPDATE lead.article AS a
        SET publish_task_id = lead.submit_change('publish', v_publication.site, jsonb_build_object('article_id', a.id),
            'publish:' || a.id, a.publish_at, p_current_time)
        WHERE a.id = v_article.id RETURNING a.* INTO v_article;
    END IF;
    IF v_article.state <> 'ready' THEN
        UPDATE lead.publication AS p SET holder_task_id = NULL WHERE p.id = p_publication_id;
    END IF;
    DELETE FROM lead.kept_step AS k WHERE k.task_id = p_task_id;
    RETURN jsonb_build_object('article_id', v_article.id, 'revision', v_article.revision, 'state', v_article.state,
        'publish_at', v_article.publish_at, 'publish_task_id', v_article.publish_task_id);
END;
$$;

CREATE OR REPLACE FUNCTION public.confirm_unpublication(
    p_publication_id bigint, p_execution_id text, p_fence bigint, p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_publication lead.publication;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.held_execution(p_execution_id, p_fence);
    v_publication := lead.held_publication(p_publication_id, p_execution_id, p_fence);
    UPDATE lead.publication AS p
    SET status = CASE p.status WHEN 'published' THEN 'unpublished' ELSE p.status END,
        changes = p.changes + (p.status = 'published')::integer, updated_at = p_current_time, holder_task_id = NULL
    WHERE p.id = p_publication_id;
    RETURN v_publication.status = 'published';
END;
$$;

-- What a person decides about an article that waits. Approved, a task brings it out.
CREATE OR REPLACE FUNCTION public.decide_article(
    p_article_id bigint, p_decision text, p_reason text DEFAULT NULL, p_publish_at timestamptz DEFAULT NULL, p_actor text DEFAULT NULL,
    p_current_time timestamptz DEFAULT now()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_article lead.article;
    v_site text;
    v_slug text;
    v_state text := CASE p_decision WHEN 'approve' THEN 'approved' WHEN 'reject' THEN 'rejected' END;
    v_task_id bigint;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    IF v_state IS NULL THEN
        PERFORM lead.refuse('p_decision', p_decision, 'approve or reject is needed');
    END IF;
    IF p_reason IS NOT NULL THEN
        PERFORM lead.check_name('p_reason', p_reason);
    END IF;
    PERFORM lead.check_actor(p_actor);
    IF p_publish_at IS NOT NULL THEN
        PERFORM lead.valid_time('p_publish_at', p_publish_at);
    END IF;
    SELECT a.* INTO v_article FROM lead.article AS a WHERE a.id = p_article_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_article_id: there is no article %', coalesce(p_article_id::text, 'NULL') USING ERRCODE = 'LC005';
    END IF;
    SELECT p.site, p.slug INTO v_site, v_slug FROM lead.publication AS p WHERE p.id = v_article.publication_id;
    PERFORM lead.move_article(v_article, v_state);
    IF v_state = 'approved' THEN
        v_task_id := lead.submit_change('publish', v_site, jsonb_build_object('article_id', p_article_id), 'publish:' || p_article_id,
            coalesce(p_publish_at, v_article.publish_at), p_current_time);
    END IF;
    UPDATE lead.article AS a
    SET decided_at = p_current_time, decided_by = lead.actor(p_actor), decision_reason = lead.sanitise(p_reason),
        publish_at = coalesce(p_publish_at, a.publish_at), publish_task_id = coalesce(v_task_id, a.publish_task_id)
    WHERE a.id = p_article_id;
    PERFORM lead.audit(p_decision || '_article', 'article:' || p_article_id, jsonb_build_object('state', v_article.state),
        jsonb_strip_nulls(jsonb_build_object('state', v_state, 'publish_at', p_publish_at)), p_reason, p_actor);
    RETURN jsonb_build_object('article_id', p_article_id, 'state', v_state, 'site', v_site, 'slug', v_slug, 'publish_task_id', v_task_id);
END;
$$;

-- Takes what is out off its site, or puts it back: a task does it, and this says which.
CREATE OR REPLACE FUNCTION public.change_publication(
    p_site text, p_slug text, p_wish text, p_reason text DEFAULT NULL, p_actor text DEFAULT NULL,
    p_current_time timestamptz DEFAULT now()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_publication lead.publication;
    v_from text := CASE p_wish WHEN 'unpublish' THEN 'published' WHEN 'republish' THEN 'unpublished' END;
    v_task_id bigint;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_site', p_site);
    PERFORM lead.check_name('p_slug', p_slug);
    IF v_from IS NULL THEN
        PERFORM lead.refuse('p_wish', p_wish, 'unpublish or republish is needed');
    END IF;
    IF p_reason IS NOT NULL THEN
        PERFORM lead.check_name('p_reason', p_reason);
    END IF;
    PERFORM lead.check_actor(p_actor);
    SELECT p.* INTO v_publication FROM lead.publication AS p WHERE p.site = p_site AND p.slug = p_slug;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_slug: site % has no publication %', p_site, p_slug USING ERRCODE = 'LC005';
    END IF;
    IF v_publication.status <> v_from THEN
        RAISE EXCEPTION 'p_wish: publication % is %; to % it must be %', v_publication.id, v_publication.status, p_wish, v_from
            USING ERRCODE = 'LC003';
    END IF;
    v_task_id := lead.submit_change(p_wish, p_site, jsonb_build_object('publication_id', v_publication.id, 'slug', p_slug),
        format('%s:%s:%s', p_wish, v_publication.id, v_publication.changes), NULL, p_current_time);
    PERFORM lead.audit(p_wish || '_article', 'publication:' || v_publication.id, jsonb_build_object('status', v_publication.status),
        jsonb_build_object('wish', p_wish, 'task_id', v_task_id), p_reason, p_actor);
    RETURN jsonb_build_object('publication_id', v_publication.id, 'site', p_site, 'slug', p_slug, 'task_id', v_task_id);
END;
$$;

CREATE OR REPLACE FUNCTION public.find_publication(p_site text, p_slug text) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    PERFORM lead.check_name('p_site', p_site);
    PERFORM lead.check_name('p_slug', p_slug);
    RETURN (
        SELECT jsonb_build_object('publication_id', p.id, 'task_id', p.task_id, 'site', p.site, 'slug', p.slug, 'title', p.title,
            'status', p.status, 'url', p.url, 'published_at', p.published_at, 'details', p.details, 'changes', p.changes,
            'article_id', a.id, 'revision', a.revision, 'content', a.content, 'article_details', a.details)
        FROM lead.publication AS p
        LEFT JOIN lead.article AS a ON a.publication_id = p.id AND a.state = 'current'
        WHERE p.site = p_site AND p.slug = p_slug
    );
END;
$$;

CREATE OR REPLACE FUNCTION public.get_article(p_article_id bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_article jsonb;
BEGIN
    SELECT (to_jsonb(a) - 'signature' - 'id') || jsonb_build_object('article_id', a.id, 'site', p.site, 'slug', p.slug, 'url', p.url,
        'status', p.status, 'published_at', p.published_at) INTO v_article
    FROM lead.article AS a INNER JOIN lead.publication AS p ON p.id = a.publication_id
    WHERE a.id = p_article_id;
    IF v_article IS NULL THEN
        RAISE EXCEPTION 'p_article_id: there is no article %', coalesce(p_article_id::text, 'NULL') USING ERRCODE = 'LC005';
    END IF;
    RETURN v_article;
END;
$$;

CREATE OR REPLACE FUNCTION public.list_articles(
    p_site text DEFAULT NULL, p_state text DEFAULT NULL, p_limit integer DEFAULT 100
) RETURNS TABLE (
    article_id bigint, publication_id bigint, revision integer, site text, slug text, title text, state text, status text, url text,
    words integer, task_id bigint, publish_at timestamptz, created_at timestamptz, decided_by text, decision_reason text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF p_site IS NOT NULL THEN
        PERFORM lead.check_name('p_site', p_site);
    END IF;
    IF p_state IS NOT NULL AND p_state NOT IN (
        'ready', 'draft', 'in_review', 'scheduled', 'approved', 'current', 'superseded', 'rejected'
    ) THEN
        PERFORM lead.refuse('p_state', p_state,
            'ready, draft, in_review, scheduled, approved, current, superseded, rejected or NULL is needed');
    END IF;
    PERFORM lead.check_range('p_limit', p_limit, 1, 10000);
    RETURN QUERY
    SELECT a.id, a.publication_id, a.revision, p.site, p.slug, left(a.content ->> 'title', 200), a.state, p.status, p.url,
        CASE WHEN jsonb_typeof(a.content -> 'words') = 'number' THEN (a.content ->> 'words')::numeric::integer END, a.task_id,
        a.publish_at, a.created_at, a.decided_by, a.decision_reason
    FROM lead.article AS a
    INNER JOIN lead.publication AS p ON p.id = a.publication_id
    WHERE (p_site IS NULL OR p.site = p_site) AND (p_state IS NULL OR a.state = p_state)
    ORDER BY a.id DESC
    LIMIT p_limit;
END;
$$;

-- Of all that is out, on every site: the signatures that a new text is compared with.
CREATE OR REPLACE FUNCTION public.published_signatures(p_limit integer DEFAULT 100000) RETURNS TABLE (
    publication_id bigint, site text, slug text, url text, signature bytea
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM lead.check_range('p_limit', p_limit, 1, 1000000);
    RETURN QUERY
    SELECT p.id, p.site, p.slug, p.url, a.signature
    FROM lead.article AS a
    INNER JOIN lead.publication AS p ON p.id = a.publication_id
    WHERE a.state = 'current' AND p.status = 'published' AND a.signature IS NOT NULL
    ORDER BY p.id DESC
    LIMIT p_limit;
END;
$$;

-- The SEO monitor's records -------------------------------------------------------------------------------------------
-- Why one element of an array of addresses isn't allowed (field, value, what is), or NULL.
CREATE OR REPLACE FUNCTION lead.seo_address_problem(p_row jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, public, lead, pg_temp
RETURN CASE
    WHEN jsonb_typeof(p_row) IS DISTINCT FROM 'object' THEN format(': %s is not an object', coalesce(left(p_row::text, 100), 'NULL'))
    WHEN jsonb_typeof(p_row -> 'url') IS DISTINCT FROM 'string' OR (p_row ->> 'url') !~ '^https?://[^/]' OR length(p_row ->> 'url') > 2000
        THEN format('.url: %s is not an http or https address of at most 2000 characters', coalesce(left(p_row ->> 'url', 200), 'NULL'))
    WHEN p_row ->> 'kind' IS NULL OR p_row ->> 'kind' NOT IN ('sitemap', 'page', 'link', 'external', 'image', 'asset')
        THEN format('.kind: %s is not sitemap, page, link, external, image or asset', coalesce(left(p_row ->> 'kind', 100), 'NULL'))
    WHEN jsonb_typeof(p_row -> 'depth') IS DISTINCT FROM 'number' OR (p_row ->> 'depth')::numeric NOT BETWEEN 0 AND 1000
        OR (p_row ->> 'depth')::numeric <> trunc((p_row ->> 'depth')::numeric)
        THEN format('.depth: %s is not a whole number from 0 to 1000', coalesce(left(p_row ->> 'depth', 100), 'NULL'))
END;

CREATE OR REPLACE FUNCTION lead.check_seo_addresses(p_field text, p_rows jsonb, p_most integer) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_problem record;
BEGIN
    IF jsonb_typeof(p_rows) IS DISTINCT FROM 'array' OR jsonb_array_length(p_rows) > p_most THEN
        PERFORM lead.refuse(p_field, left(p_rows::text, 100), format('an array of at most %s objects is needed', p_most));
    END IF;
    SELECT r.place, lead.seo_address_problem(r.value) AS problem INTO v_problem
    FROM jsonb_array_elements(p_rows) WITH ORDINALITY AS r (value, place)
    WHERE lead.seo_address_problem(r.value) IS NOT NULL
    ORDER BY r.place LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '%[%]%', p_field, v_problem.place - 1, v_problem.problem USING ERRCODE = '22023';
    END IF;
END;
$$;

-- Puts addresses into the frontier, each once, as long as there is room. The audit's row is locked by the caller.
CREATE OR REPLACE FUNCTION lead.add_seo_pages(p_audit_id bigint, p_rows jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_audit lead.seo_audit;
    v_pages integer;
    v_resources integer;
    v_turned_away boolean;
BEGIN
    SELECT a.* INTO STRICT v_audit FROM lead.seo_audit AS a WHERE a.id = p_audit_id;
    -- What was found before may turn out to be more: listed by a sitemap, or a page rather than a mere link.
    UPDATE lead.seo_page AS p
    SET in_sitemap = p.in_sitemap OR f.in_sitemap,
        kind = CASE WHEN p.kind = 'link' AND f.is_page AND p.facts IS NULL THEN 'page' ELSE p.kind END,
        depth = least(p.depth, f.depth)
    FROM (
        SELECT r.url, bool_or(coalesce(r.in_sitemap, false)) AS in_sitemap, bool_or(r.kind = 'page') AS is_page, min(r.depth) AS depth
        FROM jsonb_to_recordset(p_rows) AS r (url text, kind text, depth integer, in_sitemap boolean)
        GROUP BY r.url
    ) AS f
    WHERE p.audit_id = p_audit_id AND p.url = f.url
        AND ((f.in_sitemap AND NOT p.in_sitemap) OR (p.kind = 'link' AND f.is_page AND p.facts IS NULL) OR p.depth > f.depth);

    WITH fresh AS (
        SELECT DISTINCT ON (r.url) r.url, r.kind, r.depth, r.place,
            bool_or(coalesce(r.in_sitemap, false)) OVER (PARTITION BY r.url) AS in_sitemap,
            bool_or(coalesce(r.wanted, false)) OVER (PARTITION BY r.url) AS wanted
        FROM ROWS FROM (jsonb_to_recordset(p_rows) AS (url text, kind text, depth integer, in_sitemap boolean, wanted boolean))
            WITH ORDINALITY AS r (url, kind, depth, in_sitemap, wanted, place)
        WHERE NOT EXISTS (SELECT 1 FROM lead.seo_page AS p WHERE p.audit_id = p_audit_id AND p.url = r.url)
        -- The same address as page and as image is a page.
        ORDER BY r.url, CASE r.kind WHEN 'sitemap' THEN 0 WHEN 'page' THEN 1 ELSE 2 END, r.place
    ), numbered AS (
        SELECT f.*, f.kind IN ('page', 'sitemap') AS is_page,
            row_number() OVER (PARTITION BY f.kind IN ('page', 'sitemap') ORDER BY f.wanted DESC, f.depth, f.place) AS number
        FROM fresh AS f
    ), admitted AS (
        INSERT INTO lead.seo_page (audit_id, url, kind, depth, in_sitemap, wanted)
        SELECT p_audit_id, n.url, n.kind, n.depth, n.in_sitemap, n.wanted FROM numbered AS n
        WHERE n.number <= CASE WHEN n.is_page THEN v_audit.max_pages - v_audit.pages ELSE v_audit.max_resources - v_audit.resources END
        ORDER BY n.number
        RETURNING kind
    )
    SELECT count(*) FILTER (WHERE a.kind IN ('page', 'sitemap')), count(*) FILTER (WHERE a.kind NOT IN ('page', 'sitemap')),
        (SELECT count(*) FROM numbered) > count(*)
    INTO v_pages, v_resources, v_turned_away
    FROM admitted AS a;
    UPDATE lead.seo_audit AS a
    SET pages = a.pages + v_pages, resources = a.resources + v_resources, complete = a.complete AND NOT v_turned_away
    WHERE a.id = p_audit_id;
END;
$$;

-- The same key again gives the same audit, so that an attempt which comes later goes on where the one before stopped.
CREATE OR REPLACE FUNCTION public.begin_seo_audit(
    p_key text, p_site text, p_scope text, p_start_url text, p_pages jsonb, p_max_pages integer DEFAULT 2000,
    p_max_resources integer DEFAULT 4000, p_current_time timestamptz DEFAULT now()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_audit lead.seo_audit;
    v_created boolean := true;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_key', p_key);
    PERFORM lead.check_name('p_site', p_site);
    IF p_scope IS NULL OR p_scope NOT IN ('site', 'pages') THEN
        PERFORM lead.refuse('p_scope', p_scope, 'site or pages is needed');
    END IF;
    IF p_start_url IS NULL OR p_start_url !~ '^https?://[^/]' OR length(p_start_url) > 2000 THEN
        PERFORM lead.refuse('p_start_url', p_start_url, 'an http or https address of at most 2000 characters is needed');
    END IF;
    PERFORM lead.check_range('p_max_pages', p_max_pages, 1, 100000);
    PERFORM lead.check_range('p_max_resources', p_max_resources, 0, 100000);
    PERFORM lead.check_seo_addresses('p_pages', p_pages, 1000);
    INSERT INTO lead.seo_audit (site, audit_key, scope, start_url, max_pages, max_resources, previous_id, started_at)
    VALUES (
        p_site, p_key, p_scope, p_start_url, p_max_pages, p_max_resources,
        (SELECT max(a.id) FROM lead.seo_audit AS a WHERE a.site = p_site AND a.scope = 'site' AND a.status = 'finished'), p_current_time
    )
    ON CONFLICT (audit_key) DO NOTHING
    RETURNING * INTO v_audit;
    IF v_audit.id IS NULL THEN
        v_created := false;
        SELECT a.* INTO STRICT v_audit FROM lead.seo_audit AS a WHERE a.audit_key = p_key;
        IF v_audit.site <> p_site OR v_audit.scope <> p_scope THEN
            PERFORM lead.refuse('p_key', p_key, format('it names an audit of %s, scope %s, already', v_audit.site, v_audit.scope));
        END IF;
    ELSE
        PERFORM lead.add_seo_pages(v_audit.id, p_pages);
    END IF;
    RETURN jsonb_build_object('audit_id', v_audit.id, 'created', v_created);
END;
$$;

CREATE OR REPLACE FUNCTION public.get_seo_audit(p_audit_id bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_audit jsonb := (SELECT to_jsonb(a) FROM lead.seo_audit AS a WHERE a.id = p_audit_id);
BEGIN
    IF v_audit IS NULL THEN
        RAISE EXCEPTION 'p_audit_id: there is no audit %', coalesce(p_audit_id::text, 'NULL') USING ERRCODE = 'LC005';
    END IF;
    RETURN v_audit || jsonb_build_object('waiting',
        (SELECT count(*) FROM lead.seo_page AS p WHERE p.audit_id = p_audit_id AND p.facts IS NULL));
END;
$$;

-- What is to be visited next. earlier: the facts of the same page in the audit before, where its server named a version.
CREATE OR REPLACE FUNCTION public.next_seo_pages(p_audit_id bigint, p_limit integer DEFAULT 50) RETURNS TABLE (
    page_id bigint, url text, kind text, depth integer, earlier jsonb
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    PERFORM lead.check_range('p_limit', p_limit, 1, 1000);
    RETURN QUERY
    SELECT w.id, w.url, w.kind, w.depth, e.facts
    FROM (
        SELECT p.id, p.url, p.kind, p.depth, p.turn FROM lead.seo_page AS p
        WHERE p.audit_id = p_audit_id AND p.facts IS NULL
        ORDER BY p.turn, p.depth, p.id LIMIT p_limit
    ) AS w
    LEFT JOIN lead.seo_page AS e
        ON e.audit_id = (SELECT a.previous_id FROM lead.seo_audit AS a WHERE a.id = p_audit_id) AND e.url = w.url
        AND w.kind = 'page' AND e.kind = 'page' AND e.facts ? 'html' AND (e.facts -> 'visit' ?| ARRAY['etag', 'last_modified'])
    ORDER BY w.turn, w.depth, w.id;
END;
$$;

-- p_pages: [{page_id, facts}], what was visited; p_found: [{url, kind, depth, in_sitemap}], what that led to. A page that was
-- recorded before keeps what it has.
CREATE OR REPLACE FUNCTION public.record_seo_pages(
    p_audit_id bigint, p_execution_id text, p_fence bigint, p_pages jsonb, p_found jsonb DEFAULT '[]',
    p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_audit lead.seo_audit;
    v_recorded bigint;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    IF jsonb_typeof(p_pages) IS DISTINCT FROM 'array' OR jsonb_array_length(p_pages) > 1000 OR EXISTS (
        SELECT 1 FROM jsonb_array_elements(p_pages) AS r (value)
        WHERE jsonb_typeof(r.value -> 'page_id') IS DISTINCT FROM 'number' OR jsonb_typeof(r.value -> 'facts') IS DISTINCT FROM 'object'
    ) THEN
        PERFORM lead.refuse('p_pages', left(p_pages::text, 100), 'an array of at most 1000 objects with page_id and facts is needed');
    END IF;
    PERFORM lead.check_seo_addresses('p_found', p_found, 100000);
    PERFORM lead.held_execution(p_execution_id, p_fence);
    SELECT a.* INTO v_audit FROM lead.seo_audit AS a WHERE a.id = p_audit_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_audit_id: there is no audit %', coalesce(p_audit_id::text, 'NULL') USING ERRCODE = 'LC005';
    END IF;
    v_recorded := 0;
    IF v_audit.status = 'running' THEN
        UPDATE lead.seo_page AS p SET facts = r.facts, visited_at = p_current_time
        FROM jsonb_to_recordset(p_pages) AS r (page_id bigint, facts jsonb)
        WHERE p.id = r.page_id AND p.audit_id = p_audit_id AND p.facts IS NULL;
        GET DIAGNOSTICS v_recorded = ROW_COUNT;
        PERFORM lead.add_seo_pages(p_audit_id, p_found);
    END IF;
    RETURN (
        SELECT jsonb_build_object('recorded', v_recorded, 'waiting', count(p.id)) FROM lead.seo_page AS p
        WHERE p.audit_id = p_audit_id AND p.facts IS NULL
    );
END;
$$;

CREATE OR REPLACE FUNCTION public.get_seo_pages(p_audit_id bigint, p_after bigint DEFAULT 0, p_limit integer DEFAULT 200) RETURNS TABLE (
    page_id bigint, url text, kind text, in_sitemap boolean, wanted boolean, facts jsonb, score integer
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    PERFORM lead.check_range('p_limit', p_limit, 1, 1000);
    RETURN QUERY
    SELECT p.id, p.url, p.kind, p.in_sitemap, p.wanted, p.facts, p.score FROM lead.seo_page AS p
    WHERE p.audit_id = p_audit_id AND p.id > coalesce(p_after, 0) AND p.facts IS NOT NULL
    ORDER BY p.id LIMIT p_limit;
END;
$$;

-- p_findings: [{url, rule, severity, evidence}], all that the audit found. p_unread: addresses that gave nothing this time; what
-- was found on them before stays as it is. p_rules: the rules that were checked, NULL for all. What was open, was checked, and
-- isn't found any more, is fixed. Called again for a finished audit it changes nothing and gives the same answer.
CREATE OR REPLACE FUNCTION public.finish_seo_audit(
    p_audit_id bigint, p_execution_id text, p_fence bigint, p_findings jsonb, p_scores jsonb DEFAULT '{}',
    p_site_score numeric DEFAULT NULL, p_unread jsonb DEFAULT '[]', p_rules text[] DEFAULT NULL, p_summary jsonb DEFAULT '{}',
    p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_audit lead.seo_audit;
    v_changes jsonb;
    v_fixed jsonb;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    IF jsonb_typeof(p_findings) IS DISTINCT FROM 'array' OR jsonb_array_length(p_findings) > 500000 OR EXISTS (
        SELECT 1 FROM jsonb_array_elements(p_findings) AS r (value)
        WHERE coalesce(r.value ->> 'url', '') !~ '^https?://' OR length(r.value ->> 'url') > 2000
            OR coalesce(r.value ->> 'rule', '') !~ '^[a-z][a-z0-9-]{1,40}$'
            OR coalesce(r.value ->> 'severity', '') NOT IN ('critical', 'error', 'warning', 'notice')
    ) THEN
        PERFORM lead.refuse('p_findings', left(p_findings::text, 100),
            'an array of at most 500000 objects with url, rule and severity (critical, error, warning, notice) is needed');
    END IF;
    IF jsonb_typeof(p_scores) IS DISTINCT FROM 'object' THEN
        PERFORM lead.refuse('p_scores', left(p_scores::text, 100), 'an object of addresses and scores from 0 to 100 is needed');
    END IF;
    IF jsonb_typeof(p_unread) IS DISTINCT FROM 'array' THEN
        PERFORM lead.refuse('p_unread', left(p_unread::text, 100), 'an array of addresses is needed');
    END IF;
    IF jsonb_typeof(p_summary) IS DISTINCT FROM 'object' THEN
        PERFORM lead.refuse('p_summary', left(p_summary::text, 100), 'an object is needed');
    END IF;
    IF p_site_score NOT BETWEEN 0 AND 100 THEN
        PERFORM lead.refuse('p_site_score', p_site_score::text, '0 to 100 is allowed');
    END IF;
    PERFORM lead.held_execution(p_execution_id, p_fence);
    SELECT a.* INTO v_audit FROM lead.seo_audit AS a WHERE a.id = p_audit_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_audit_id: there is no audit %', coalesce(p_audit_id::text, 'NULL') USING ERRCODE = 'LC005';
    END IF;
    IF v_audit.status = 'finished' THEN
        RETURN v_audit.changes;
    END IF;
    -- Two audits of a site that end together follow each other; in one order they can't wait in a circle.
    PERFORM pg_advisory_xact_lock(hashtextextended('lead_coordinator.seo:' || v_audit.site, 0));

    WITH written AS (
        INSERT INTO lead.seo_finding AS f (site, url, rule, severity, evidence, opened_by, seen_by, opened_at, seen_at)
        SELECT DISTINCT ON (r.url, r.rule) v_audit.site, r.url, r.rule, r.severity, coalesce(r.evidence, '{}'), p_audit_id, p_audit_id,
            p_current_time, p_current_time
        FROM jsonb_to_recordset(p_findings) AS r (url text, rule text, severity text, evidence jsonb)
        ORDER BY r.url, r.rule
        ON CONFLICT (site, url, rule) DO UPDATE SET
            severity = excluded.severity,
            evidence = excluded.evidence,
            status = 'open',
            times_opened = f.times_opened + (f.status = 'fixed')::integer,
            opened_by = CASE f.status WHEN 'fixed' THEN p_audit_id ELSE f.opened_by END,
            opened_at = CASE f.status WHEN 'fixed' THEN p_current_time ELSE f.opened_at END,
            seen_by = p_audit_id,
            seen_at = p_current_time,
            fixed_at = NULL
        RETURNING f.id, f.url, f.rule, f.severity, f.times_opened,
            CASE WHEN f.opened_by <> p_audit_id THEN 'still' WHEN f.times_opened = 1 THEN 'opened' ELSE 'regressed' END AS life
    )
    SELECT jsonb_build_object(
        'opened', count(*) FILTER (WHERE w.life = 'opened'),
        'regressed', count(*) FILTER (WHERE w.life = 'regressed'),
        'still', count(*) FILTER (WHERE w.life = 'still'),
        'new_critical', coalesce(jsonb_agg(jsonb_build_object('finding_id', w.id, 'url', w.url, 'rule', w.rule, 'times_opened',
            w.times_opened) ORDER BY w.id) FILTER (WHERE w.life <> 'still' AND w.severity = 'critical'), '[]')
    ) INTO v_changes
    FROM written AS w;

    WITH gone AS (
        UPDATE lead.seo_finding AS f SET status = 'fixed', fixed_at = p_current_time
        WHERE f.site = v_audit.site AND f.status = 'open' AND f.seen_by <> p_audit_id
            AND (p_rules IS NULL OR f.rule = ANY (p_rules))
            AND NOT p_unread ? f.url
            -- What a limit, or a page that didn't answer, kept us from seeing may still be there, and what wasn't asked for was not
            -- looked at.
            AND ((v_audit.scope = 'site' AND ((v_audit.complete AND p_unread = '[]') OR f.url LIKE '%/robots.txt')) OR EXISTS (
                SELECT 1 FROM lead.seo_page AS p
                WHERE p.audit_id = p_audit_id AND p.url = f.url AND p.facts IS NOT NULL AND (v_audit.scope = 'site' OR p.wanted)
            ))
        RETURNING f.id, f.url, f.rule
    )
    SELECT jsonb_build_object('fixed', count(*), 'fixed_samples',
        coalesce((SELECT jsonb_agg(jsonb_build_array(s.url, s.rule)) FROM (SELECT g.url, g.rule FROM gone AS g ORDER BY g.id LIMIT 20) AS s), '[]'))
    INTO v_fixed
    FROM gone;

    UPDATE lead.seo_page AS p SET score = (s.value #>> '{}')::integer
    FROM jsonb_each(p_scores) AS s (key, value)
    WHERE p.audit_id = p_audit_id AND p.url = s.key;
    v_changes := v_changes || v_fixed || jsonb_build_object('audit_id', p_audit_id, 'previous_id', v_audit.previous_id, 'previous_score',
        (SELECT b.site_score FROM lead.seo_audit AS b WHERE b.id = v_audit.previous_id));
    UPDATE lead.seo_audit AS a
    SET status = 'finished', finished_at = p_current_time, site_score = p_site_score, summary = p_summary, changes = v_changes
    WHERE a.id = p_audit_id;
    -- Pages are kept for the audit after: of the last one of the whole site, and of this one.
    DELETE FROM lead.seo_page AS p USING lead.seo_audit AS a
    WHERE a.id = p.audit_id AND a.site = v_audit.site AND a.status = 'finished' AND a.id <> p_audit_id
        AND a.id IS DISTINCT FROM CASE v_audit.scope WHEN 'pages' THEN v_audit.previous_id END;
    RETURN v_changes;
END;
$$;

CREATE OR REPLACE FUNCTION public.list_seo_findings(p_site text, p_status text DEFAULT 'open', p_limit integer DEFAULT 1000) RETURNS TABLE (
    finding_id bigint, url text, rule text, severity text, status text, evidence jsonb, times_opened integer, opened_at timestamptz,
    seen_at timestamptz, fixed_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    IF p_status IS NOT NULL AND p_status NOT IN ('open', 'fixed') THEN
        PERFORM lead.refuse('p_status', p_status, 'open, fixed, or NULL for both is needed');
    END IF;
    PERFORM lead.check_range('p_limit', p_limit, 1, 100000);
    RETURN QUERY
    SELECT f.id, f.url, f.rule, f.severity, f.status, f.evidence, f.times_opened, f.opened_at, f.seen_at, f.fixed_at
    FROM lead.seo_finding AS f
    WHERE f.site = p_site AND (p_status IS NULL OR f.status = p_status)
    ORDER BY array_position(ARRAY['critical', 'error', 'warning', 'notice'], f.severity), f.url, f.rule
    LIMIT p_limit;
END;
$$;

CREATE OR REPLACE FUNCTION public.list_seo_audits(p_site text, p_limit integer DEFAULT 20) RETURNS TABLE (
    audit_id bigint, scope text, status text, start_url text, pages integer, resources integer, complete boolean, site_score numeric,
    summary jsonb, changes jsonb, started_at timestamptz, finished_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    PERFORM lead.check_range('p_limit', p_limit, 1, 1000);
    RETURN QUERY
    SELECT a.id, a.scope, a.status, a.start_url, a.pages, a.resources, a.complete, a.site_score, a.summary, a.changes, a.started_at, a.finished_at
    FROM lead.seo_audit AS a
    WHERE a.site = p_site
    ORDER BY a.id DESC LIMIT p_limit;
END;
$$;

-- The revenue optimiser's records ------------------------------------------------------------------------------------
-- Why one element of p_rows is not allowed (field, value, what is), or NULL.
CREATE OR REPLACE FUNCTION lead.page_metric_problem(p_row jsonb, p_latest date) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_page text;
    v_day text;
    v_unknown text;
    v_field record;
BEGIN
    IF jsonb_typeof(p_row) IS DISTINCT FROM 'object' THEN
        RETURN format(': %s is not an object', coalesce(left(p_row::text, 100), 'NULL'));
    END IF;
    v_unknown := (
        SELECT k FROM jsonb_object_keys(p_row) AS k
        WHERE k NOT IN ('page', 'day', 'clicks', 'impressions', 'position', 'views', 'sessions', 'conversions', 'revenue_usd') LIMIT 1
    );
    IF v_unknown IS NOT NULL THEN
        RETURN format('.%s: there is no such field; page, day, clicks, impressions, position, views, sessions, conversions and revenue_usd are known',
            left(v_unknown, 100));
    END IF;
    v_page := p_row ->> 'page';
    IF jsonb_typeof(p_row -> 'page') IS DISTINCT FROM 'string' OR v_page NOT LIKE '/%' OR length(v_page) > 500 OR v_page ~ '[[:cntrl:]]' THEN
        RETURN format('.page: %s is not a path that begins with / and has at most 500 characters', coalesce(left(v_page, 200), 'NULL'));
    END IF;
    v_day := p_row ->> 'day';
    IF jsonb_typeof(p_row -> 'day') IS DISTINCT FROM 'string' OR v_day !~ '^2[01][0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$'
        OR substr(v_day, 9)::integer > extract(DAY FROM
            make_date(left(v_day, 4)::integer, substr(v_day, 6, 2)::integer, 1) + interval '1 month' - interval '1 day')
        OR v_day::date > p_latest THEN
        RETURN format('.day: %s is not a date from 2000-01-01 to %s', coalesce(left(v_day, 100), 'NULL'), p_latest);
    END IF;
    IF p_row - 'page' - 'day' = '{}' OR jsonb_strip_nulls(p_row) - 'page' - 'day' = '{}' THEN
        RETURN ': it holds no figure';
    END IF;
    FOR v_field IN
        SELECT f.name, f.least, f.most, f.whole, p_row -> f.name AS value
        FROM (VALUES
            ('clicks', 0, 1e12, true), ('impressions', 0, 1e12, true), ('position', 1, 10000, false), ('views', 0, 1e12, true),
            ('sessions', 0, 1e12, true), ('conversions', 0, 1e12, false), ('revenue_usd', -1e9, 1e9, false)
        ) AS f (name, least, most, whole)
        WHERE coalesce(p_row -> f.name, 'null') <> 'null'
    LOOP
        IF jsonb_typeof(v_field.value) <> 'number' THEN
            RETURN format('.%s: %s is not a number', v_field.name, left(v_field.value::text, 100));
        END IF;
        IF v_field.value::numeric NOT BETWEEN v_field.least AND v_field.most
            OR (v_field.whole AND v_field.value::numeric <> trunc(v_field.value::numeric)) THEN
            RETURN format('.%s: %s is not a %snumber from %s to %s', v_field.name, left(v_field.value::text, 100),
                CASE WHEN v_field.whole THEN 'whole ' ELSE '' END, v_field.least::numeric(20, 0), v_field.most::numeric(20, 0));
        END IF;
    END LOOP;
    IF (p_row ->> 'clicks')::numeric > (p_row ->> 'impressions')::numeric THEN
        RETURN format('.clicks: %s is more than the impressions, %s', p_row ->> 'clicks', p_row ->> 'impressions');
    END IF;
    RETURN NULL;
END;
$$;

CREATE OR REPLACE FUNCTION public.import_page_metrics(p_site text, p_rows jsonb, p_current_time timestamptz DEFAULT now()) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_problem record;
    v_twice record;
    v_inserted bigint;
    v_updated bigint;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_site', p_site);
    IF jsonb_typeof(p_rows) IS DISTINCT FROM 'array' THEN
        PERFORM lead.refuse('p_rows', p_rows::text, 'an array of 1 to 10000 objects is needed');
    END IF;
    IF jsonb_array_length(p_rows) NOT BETWEEN 1 AND 10000 THEN
        PERFORM lead.refuse('p_rows', jsonb_array_length(p_rows)::text || ' rows', 'an array of 1 to 10000 objects is needed');
    END IF;
    -- A day that is over somewhere on earth may be reported.
    SELECT r.place, x.problem INTO v_problem
    FROM jsonb_array_elements(p_rows) WITH ORDINALITY AS r (value, place)
    CROSS JOIN LATERAL (SELECT lead.page_metric_problem(r.value, (p_current_time AT TIME ZONE 'UTC')::date + 1) AS problem) AS x
    WHERE x.problem IS NOT NULL
    ORDER BY r.place LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'p_rows[%]%', v_problem.place - 1, v_problem.problem USING ERRCODE = '22023';
    END IF;
    SELECT r.value ->> 'page' AS page, r.value ->> 'day' AS day, count(*) AS times INTO v_twice
    FROM jsonb_array_elements(p_rows) AS r (value)
    GROUP BY 1, 2 HAVING count(*) > 1 ORDER BY 1, 2 LIMIT 1;
    IF FOUND THEN
        PERFORM lead.refuse('p_rows', format('%s on %s, %s times', v_twice.page, v_twice.day, v_twice.times), 'a row a page and day is needed');
    END IF;

    -- In the order of the key, so that two imports can't wait for each other in a circle.
    WITH written AS (
        INSERT INTO lead.page_metric AS m (
            site, page, day, clicks, impressions, search_position, views, sessions, conversions, revenue_usd, imported_at
        )
        SELECT p_site, r.page, r.day, r.clicks::bigint, r.impressions::bigint, r.position, r.views::bigint, r.sessions::bigint, r.conversions,
            r.revenue_usd, p_current_time
        FROM jsonb_to_recordset(p_rows) AS r (
            page text, day date, clicks numeric, impressions numeric, position numeric, views numeric, sessions numeric, conversions numeric,
            revenue_usd numeric
        )
        ORDER BY r.page, r.day
        ON CONFLICT (site, page, day) DO UPDATE SET
            clicks = coalesce(excluded.clicks, m.clicks),
            impressions = coalesce(excluded.impressions, m.impressions),
            search_position = coalesce(excluded.search_position, m.search_position),
            views = coalesce(excluded.views, m.views),
            sessions = coalesce(excluded.sessions, m.sessions),
            conversions = coalesce(excluded.conversions, m.conversions),
            revenue_usd = coalesce(excluded.revenue_usd, m.revenue_usd),
            imported_at = excluded.imported_at
        RETURNING (xmax = 0) AS is_new
    )
    SELECT count(*) FILTER (WHERE w.is_new), count(*) FILTER (WHERE NOT w.is_new) INTO v_inserted, v_updated FROM written AS w;
    RETURN jsonb_build_object('inserted', v_inserted, 'updated', v_updated);
END;
$$;

-- The first variant is the control. The same experiment again changes nothing; the same name for another one is refused.
CREATE OR REPLACE FUNCTION public.create_experiment(
    p_site text, p_name text, p_kind text, p_page text, p_variants jsonb, p_rules jsonb DEFAULT '{}',
    p_current_time timestamptz DEFAULT now()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_unknown text;
    v_bad record;
    v_number integer;
    v_experiment lead.experiment%rowtype;
    v_same boolean;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_site', p_site);
    PERFORM lead.check_name('p_name', p_name);
    IF p_kind IS NULL OR p_kind NOT IN ('headline', 'placement') THEN
        PERFORM lead.refuse('p_kind', p_kind, 'headline or placement is needed');
    END IF;
    IF p_page IS NULL OR p_page NOT LIKE '/%' OR length(p_page) > 500 OR p_page ~ '[[:cntrl:]]' THEN
        PERFORM lead.refuse('p_page', p_page, 'a path that begins with / and has at most 500 characters is needed');
    END IF;
    IF jsonb_typeof(p_variants) IS DISTINCT FROM 'array' THEN
        PERFORM lead.refuse('p_variants', p_variants::text, 'an array of 2 to 10 objects is needed');
    END IF;
    v_number := jsonb_array_length(p_variants);
    IF v_number NOT BETWEEN 2 AND 10 THEN
        PERFORM lead.refuse('p_variants', v_number || ' variants', 'an array of 2 to 10 objects is needed');
    END IF;
    SELECT v.place - 1 AS place, v.value INTO v_bad
    FROM jsonb_array_elements(p_variants) WITH ORDINALITY AS v (value, place)
    WHERE jsonb_typeof(v.value) <> 'object' OR v.value - 'variant' - 'content' <> '{}'
        OR jsonb_typeof(v.value -> 'variant') IS DISTINCT FROM 'string' OR v.value ->> 'variant' !~ '^[a-zA-Z0-9][a-zA-Z0-9_-]{0,39}$'
        OR jsonb_typeof(v.value -> 'content') IS DISTINCT FROM 'string' OR length(v.value ->> 'content') NOT BETWEEN 1 AND 1000
        OR v.value ->> 'content' ~ '[[:cntrl:]]'
    ORDER BY v.place LIMIT 1;
    IF FOUND THEN
        PERFORM lead.refuse(format('p_variants[%s]', v_bad.place), v_bad.value::text,
            '"variant" (1 to 40 letters, digits, - and _) and "content" (1 to 1000 characters without control characters) are needed');
    END IF;
    IF (SELECT count(DISTINCT v.value ->> 'variant') FROM jsonb_array_elements(p_variants) AS v (value)) < v_number THEN
        PERFORM lead.refuse('p_variants', p_variants::text, 'each variant needs a name of its own');
    END IF;
    IF jsonb_typeof(p_rules) IS DISTINCT FROM 'object' THEN
        PERFORM lead.refuse('p_rules', p_rules::text, 'an object is needed');
    END IF;
    v_unknown := (
        SELECT k FROM jsonb_object_keys(p_rules) AS k
        WHERE k NOT IN ('minimum_exposures', 'maximum_days', 'maximum_regret', 'error_rate', 'minimum_share') LIMIT 1
    );
    IF v_unknown IS NOT NULL THEN
        PERFORM lead.refuse('p_rules', v_unknown, 'its keys are minimum_exposures, maximum_days, maximum_regret, error_rate and minimum_share');
    END IF;
    PERFORM lead.check_number_at('p_rules', p_rules, 'minimum_exposures', 1, 1e9, true);
    PERFORM lead.check_number_at('p_rules', p_rules, 'maximum_days', 1, 180, true);
    PERFORM lead.check_number_at('p_rules', p_rules, 'maximum_regret', 1, 1e9);
    PERFORM lead.check_number_at('p_rules', p_rules, 'error_rate', 0.001, 0.5);
    PERFORM lead.check_number_at('p_rules', p_rules, 'minimum_share', 0, 0.5);

    INSERT INTO lead.experiment (site, name, kind, page, rules, created_at)
    VALUES (p_site, p_name, p_kind, p_page, p_rules, p_current_time)
    ON CONFLICT (site, name) DO NOTHING RETURNING * INTO v_experiment;
    IF v_experiment.id IS NOT NULL THEN
        INSERT INTO lead.experiment_variant (experiment_id, variant, place, content, share)
        SELECT v_experiment.id, v.value ->> 'variant', v.place, v.value ->> 'content', 1.0 / v_number
        FROM jsonb_array_elements(p_variants) WITH ORDINALITY AS v (value, place);
        RETURN jsonb_build_object('experiment_id', v_experiment.id, 'created', true);
    END IF;
    SELECT e.* INTO v_experiment FROM lead.experiment AS e WHERE e.site = p_site AND e.name = p_name;
    v_same := v_experiment.kind = p_kind AND v_experiment.page = p_page AND v_experiment.rules = p_rules AND p_variants = (
        SELECT jsonb_agg(jsonb_build_object('variant', v.variant, 'content', v.content) ORDER BY v.place)
        FROM lead.experiment_variant AS v WHERE v.experiment_id = v_experiment.id
    );
    IF NOT v_same THEN
        PERFORM lead.refuse('p_name', p_name, 'it names another experiment of this site');
    END IF;
    RETURN jsonb_build_object('experiment_id', v_experiment.id, 'created', false);
END;
$$;

-- The experiment, locked. What is recorded and what is decided wait for one another.
CREATE OR REPLACE FUNCTION lead.locked_experiment(p_experiment_id bigint) RETURNS lead.experiment
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_experiment lead.experiment%rowtype;
BEGIN
    SELECT e.* INTO v_experiment FROM lead.experiment AS e WHERE e.id = p_experiment_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'p_experiment_id: there is no experiment %', coalesce(p_experiment_id::text, 'NULL') USING ERRCODE = 'LC005';
    END IF;
    RETURN v_experiment;
END;
$$;

-- What happened to visitors since the last time: counts, not totals. With a key, the same counts are recorded once.
CREATE OR REPLACE FUNCTION public.record_outcomes(
    p_experiment_id bigint, p_outcomes jsonb, p_key text DEFAULT NULL, p_current_time timestamptz DEFAULT now()
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_experiment lead.experiment%rowtype;
    v_bad record;
    v_place integer := 0;
    v_outcome jsonb;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    IF p_key IS NOT NULL THEN
        PERFORM lead.check_name('p_key', p_key);
    END IF;
    IF jsonb_typeof(p_outcomes) IS DISTINCT FROM 'array' THEN
        PERFORM lead.refuse('p_outcomes', p_outcomes::text, 'an array of 1 to 10 objects is needed');
    END IF;
    IF jsonb_array_length(p_outcomes) NOT BETWEEN 1 AND 10 THEN
        PERFORM lead.refuse('p_outcomes', jsonb_array_length(p_outcomes) || ' outcomes', 'an array of 1 to 10 objects is needed');
    END IF;
    v_experiment := lead.locked_experiment(p_experiment_id);
    FOR v_outcome IN SELECT o.value FROM jsonb_array_elements(p_outcomes) WITH ORDINALITY AS o (value, place) ORDER BY o.place LOOP
        IF jsonb_typeof(v_outcome) <> 'object' OR v_outcome - 'variant' - 'exposures' - 'successes' <> '{}'
            OR jsonb_typeof(v_outcome -> 'exposures') IS DISTINCT FROM 'number'
            OR jsonb_typeof(v_outcome -> 'successes') IS DISTINCT FROM 'number' THEN
            PERFORM lead.refuse(format('p_outcomes[%s]', v_place), v_outcome::text, '{"variant": name, "exposures": n, "successes": n} is needed');
        END IF;
        PERFORM lead.check_number_at(format('p_outcomes[%s]', v_place), v_outcome, 'exposures', 0, 1e9, true);
        PERFORM lead.check_number_at(format('p_outcomes[%s]', v_place), v_outcome, 'successes', 0, (v_outcome ->> 'exposures')::numeric, true);
        v_place := v_place + 1;
    END LOOP;
    SELECT o.value ->> 'variant' AS variant, count(*) AS times, count(v.variant) AS known INTO v_bad
    FROM jsonb_array_elements(p_outcomes) AS o (value)
    LEFT JOIN lead.experiment_variant AS v ON v.experiment_id = p_experiment_id AND v.variant = o.value ->> 'variant'
    GROUP BY 1 HAVING count(*) > 1 OR count(v.variant) = 0
    ORDER BY 1 LIMIT 1;
    IF FOUND THEN
        PERFORM lead.refuse('p_outcomes', v_bad.variant, CASE WHEN v_bad.known = 0 THEN 'a variant of this experiment is needed: ' || (
            SELECT string_agg(v.variant, ', ' ORDER BY v.place) FROM lead.experiment_variant AS v WHERE v.experiment_id = p_experiment_id
        ) ELSE 'each variant may stand there once' END);
    END IF;
    IF p_key IS NOT NULL AND EXISTS (
        SELECT 1 FROM lead.experiment_outcome AS o WHERE o.experiment_id = p_experiment_id AND o.outcome_key = p_key
    ) THEN
        RETURN false;
    END IF;
    IF v_experiment.status = 'stopped' THEN
        PERFORM lead.refuse('p_experiment_id', p_experiment_id::text, format('it was stopped at %s: %s', v_experiment.stopped_at, v_experiment.reason));
    END IF;
    -- Each record is weighed on its own when it is decided: hourly ones of half a year fit, one a visitor would not.
    IF (SELECT count(*) FROM lead.experiment_outcome AS o WHERE o.experiment_id = p_experiment_id) + v_place > 20000 THEN
        PERFORM lead.refuse('p_outcomes', v_place || ' more outcomes',
            'an experiment holds 20000; record more visitors at once, by the hour or the day');
    END IF;
    INSERT INTO lead.experiment_outcome (experiment_id, variant, recorded_at, exposures, successes, outcome_key)
    SELECT p_experiment_id, o.variant, p_current_time, o.exposures::bigint, o.successes::bigint, p_key
    FROM jsonb_to_recordset(p_outcomes) AS o (variant text, exposures numeric, successes numeric);
    UPDATE lead.experiment_variant AS v
    SET exposures = v.exposures + o.exposures::bigint, successes = v.successes + o.successes::bigint
    FROM jsonb_to_recordset(p_outcomes) AS o (variant text, exposures numeric, successes numeric)
    WHERE v.experiment_id = p_experiment_id AND v.variant = o.variant;
    RETURN true;
END;
$$;

-- What was decided on what has been recorded: the shares of traffic from now on, or that it ends. False: it had ended before.
CREATE OR REPLACE FUNCTION public.decide_experiment(
    p_experiment_id bigint, p_shares jsonb DEFAULT NULL, p_stop boolean DEFAULT false, p_winner text DEFAULT NULL,
    p_reason text DEFAULT NULL, p_current_time timestamptz DEFAULT now()
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_experiment lead.experiment%rowtype;
    v_key text;
    v_variants text[];
BEGIN
    PERFORM lead.check_clock(p_current_time);
    IF p_stop IS NULL THEN
        PERFORM lead.refuse('p_stop', p_stop::text, 'true or false is needed');
    END IF;
    IF p_stop AND (p_reason IS NULL OR length(p_reason) NOT BETWEEN 1 AND 500 OR p_reason ~ '[[:cntrl:]]') THEN
        PERFORM lead.refuse('p_reason', p_reason, 'why it ends, in 1 to 500 characters without control characters, is needed');
    END IF;
    v_experiment := lead.locked_experiment(p_experiment_id);
    v_variants := ARRAY(SELECT v.variant FROM lead.experiment_variant AS v WHERE v.experiment_id = p_experiment_id ORDER BY v.place);
    IF p_winner IS NOT NULL AND NOT (p_stop AND p_winner = ANY (v_variants)) THEN
        PERFORM lead.refuse('p_winner', p_winner, 'a variant of an experiment that is stopped is needed: ' || array_to_string(v_variants, ', '));
    END IF;
    IF p_shares IS NOT NULL THEN
        IF jsonb_typeof(p_shares) <> 'object' OR NOT p_shares ?& v_variants OR p_shares - v_variants <> '{}' THEN
            PERFORM lead.refuse('p_shares', p_shares::text, 'an object with a share for each variant is needed: ' || array_to_string(v_variants, ', '));
        END IF;
        FOREACH v_key IN ARRAY v_variants LOOP
            IF jsonb_typeof(p_shares -> v_key) <> 'number' OR (p_shares ->> v_key)::numeric NOT BETWEEN 0 AND 1 THEN
                PERFORM lead.refuse('p_shares.' || v_key, p_shares ->> v_key, 'a number from 0 to 1 is needed');
            END IF;
        END LOOP;
        IF abs((SELECT sum(s.value::numeric) FROM jsonb_each_text(p_shares) AS s) - 1) > 0.001 THEN
            PERFORM lead.refuse('p_shares', p_shares::text, 'together they must be 1');
        END IF;
    END IF;
    IF v_experiment.status = 'stopped' THEN
        RETURN false;
    END IF;
    UPDATE lead.experiment_variant AS v SET share = (p_shares ->> v.variant)::numeric
    WHERE p_shares IS NOT NULL AND v.experiment_id = p_experiment_id;
    IF p_stop THEN
        UPDATE lead.experiment AS e SET status = 'stopped', stopped_at = p_current_time, winner = p_winner, reason = p_reason
        WHERE e.id = p_experiment_id;
    END IF;
    RETURN true;
END;
$$;

CREATE OR REPLACE FUNCTION public.list_experiments(
    p_site text DEFAULT NULL, p_status text DEFAULT NULL, p_limit integer DEFAULT 100
) RETURNS TABLE (
    experiment_id bigint, site text, name text, kind text, page text, status text, rules jsonb, winner text, reason text,
    created_at timestamptz, stopped_at timestamptz, variants jsonb
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF p_site IS NOT NULL THEN
        PERFORM lead.check_name('p_site', p_site);
    END IF;
    IF p_status IS NOT NULL AND p_status NOT IN ('running', 'stopped') THEN
        PERFORM lead.refuse('p_status', p_status, 'running, stopped or NULL is needed');
    END IF;
    PERFORM lead.check_range('p_limit', p_limit, 1, 10000);
    RETURN QUERY
    SELECT e.id, e.site, e.name, e.kind, e.page, e.status, e.rules, e.winner, e.reason, e.created_at, e.stopped_at, (
        SELECT jsonb_agg(jsonb_build_object('variant', v.variant, 'content', v.content, 'share', v.share, 'exposures', v.exposures,
            'successes', v.successes) ORDER BY v.place)
        FROM lead.experiment_variant AS v WHERE v.experiment_id = e.id
    )
    FROM lead.experiment AS e
    WHERE (p_site IS NULL OR e.site = p_site) AND (p_status IS NULL OR e.status = p_status)
    ORDER BY e.created_at DESC, e.id DESC
    LIMIT p_limit;
END;
$$;

-- Sites --------------------------------------------------------------------------------------------------------------
DO $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_trigger WHERE tgname = 'site_audited' AND tgrelid = 'lead.site'::regclass) THEN
        CREATE TRIGGER site_audited AFTER INSERT OR UPDATE OR DELETE ON lead.site
        FOR EACH ROW EXECUTE FUNCTION lead.audit_row('site', 'site');
    END IF;
END;
$$;

CREATE OR REPLACE FUNCTION public.set_site(
    p_site text, p_profile jsonb, p_actor text DEFAULT NULL, p_reason text DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_acting record;
    v_created boolean;
    v_changed boolean;
BEGIN
    PERFORM lead.check_actor(p_actor);
    IF p_site IS NULL OR p_site !~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$' THEN
        PERFORM lead.refuse('p_site', p_site, '1 to 63 lower-case letters, digits and hyphens within are needed');
    END IF;
    IF jsonb_typeof(p_profile) IS DISTINCT FROM 'object' THEN
        PERFORM lead.refuse('p_profile', p_profile::text, 'an object is needed, for example {"url": "https://example.org/"}');
    END IF;
    IF octet_length(p_profile::text) > 262144 THEN
        PERFORM lead.refuse('p_profile', octet_length(p_profile::text) || ' bytes', '262144 bytes at most');
    END IF;
    IF coalesce(p_profile -> 'url', 'null') <> 'null'
        AND (jsonb_typeof(p_profile -> 'url') <> 'string' OR p_profile ->> 'url' !~ '^https?://[^[:space:]]+$'
            OR length(p_profile ->> 'url') > 2000) THEN
        PERFORM lead.refuse('p_profile.url', p_profile ->> 'url', 'an address that begins with http:// or https:// is needed');
    END IF;
    IF coalesce(p_profile #> '{intelligence,feeds}', 'null') <> 'null' AND jsonb_typeof(p_profile #> '{intelligence,feeds}') <> 'array' THEN
        PERFORM lead.refuse('p_profile.intelligence.feeds', p_profile #>> '{intelligence,feeds}', 'a list is needed');
    END IF;
    SELECT * INTO v_acting FROM lead.act_as(p_actor, p_reason);
    INSERT INTO lead.site AS s (site, profile) VALUES (p_site, p_profile) ON CONFLICT (site) DO NOTHING;
    v_created := found;
    UPDATE lead.site AS s SET profile = p_profile, updated_at = clock_timestamp() WHERE s.site = p_site AND s.profile <> p_profile;
    v_changed := v_created OR found;
    PERFORM lead.act_as(v_acting.was_actor, v_acting.was_reason);
    RETURN jsonb_build_object('site', p_site, 'created', v_created, 'changed', v_changed);
END;
$$;

-- NULL: there is no such site.
CREATE OR REPLACE FUNCTION public.get_site(p_site text) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    PERFORM lead.check_name('p_site', p_site);
    RETURN (SELECT s.profile FROM lead.site AS s WHERE s.site = p_site);
END;
$$;

CREATE OR REPLACE FUNCTION public.list_sites() RETURNS TABLE (site text, profile jsonb, updated_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT s.site, s.profile, s.updated_at FROM lead.site AS s ORDER BY s.site;
$$;

-- What a site's profile asks of a pipeline at each of its intervals: an audit of its pages, a poll of its feeds, a ranking of pages
-- that have figures.
CREATE OR REPLACE FUNCTION lead.wants_standing_work(p_workflow_type text, p_site text, p_profile jsonb) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    RETURN CASE p_workflow_type
        WHEN 'seo_monitor' THEN p_profile ->> 'url' IS NOT NULL
        WHEN 'intelligence_engine' THEN coalesce(p_profile #> '{intelligence,feeds}', '[]') NOT IN ('[]', 'null')
        WHEN 'revenue_optimizer' THEN p_profile #>> '{revenue,enabled}' IS DISTINCT FROM 'false'
            AND (
                EXISTS (SELECT 1 FROM lead.page_metric AS m WHERE m.site = p_site)
                OR EXISTS (SELECT 1 FROM lead.experiment AS e WHERE e.site = p_site AND e.status = 'running')
            )
        ELSE false
    END;
END;
$$;

-- Part of each decision, under its lock: one task a site and interval. One that has not ended is not followed by another, so a
-- pipeline that can't work piles nothing up.
CREATE OR REPLACE FUNCTION lead.submit_standing_work(p_current_time timestamptz) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_due jsonb;
    v_answer jsonb;
BEGIN
    SELECT jsonb_agg(jsonb_build_object('workflow_type', d.workflow_type, 'site', d.site, 'task', jsonb_build_object(
        'task_type', d.task_type, 'payload', jsonb_build_object('standing', true, 'site', d.site),
        'idempotency_key', format('standing:%s:%s:%s', d.workflow_type, d.site,
            to_char(p_current_time AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MI'))
    )) ORDER BY d.workflow_type, d.site)
    INTO v_due
    FROM (
        SELECT p.workflow_type, p.task_type, s.site
        FROM lead.workflow_policy AS p
        CROSS JOIN lead.site AS s
        LEFT JOIN lead.standing_task AS l ON l.workflow_type = p.workflow_type AND l.site = s.site
        WHERE p.enabled AND p.mode = 'open'
            AND (l.submitted_at IS NULL OR l.submitted_at <= p_current_time - make_interval(mins => p.interval_minutes))
            AND NOT EXISTS (
                SELECT 1 FROM lead.task AS t WHERE t.id = l.task_id AND t.status IN ('queued', 'deferred', 'processing')
            )
            AND lead.wants_standing_work(p.workflow_type, s.site, s.profile)
        ORDER BY p.workflow_type, s.site
        LIMIT 1000
    ) AS d;
    IF v_due IS NULL THEN
        RETURN 0;
    END IF;
    v_answer := submit_tasks((SELECT jsonb_agg(d -> 'task' ORDER BY g.place) FROM jsonb_array_elements(v_due) WITH ORDINALITY AS g (d, place)),
        p_current_time);
    INSERT INTO lead.standing_task AS l (workflow_type, site, task_id, submitted_at)
    SELECT g.d ->> 'workflow_type', g.d ->> 'site', (v_answer #>> ARRAY['tasks', (g.place - 1)::text, 'task_id'])::bigint, p_current_time
    FROM jsonb_array_elements(v_due) WITH ORDINALITY AS g (d, place)
    ON CONFLICT (workflow_type, site) DO UPDATE SET task_id = excluded.task_id, submitted_at = excluded.submitted_at;
    RETURN (v_answer ->> 'submitted')::bigint;
END;
$$;

-- The intelligence engine's records ----------------------------------------------------------------------------------
-- Why an object doesn't hold what p_fields says (field: [kind, least, most]; a kind that ends in ? may be null), or NULL. Kinds: text
-- and its length, key (a text that is indexed, its length in bytes), number and its range, whole (a number without a fraction),
-- object, flag. A time is a number of seconds since 1970.
CREATE OR REPLACE FUNCTION lead.object_problem(p_object jsonb, p_fields jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_field record;
    v_unknown text;
BEGIN
    IF jsonb_typeof(p_object) IS DISTINCT FROM 'object' THEN
        RETURN format(': %s is not an object', coalesce(left(p_object::text, 100), 'NULL'));
    END IF;
    v_unknown := (SELECT k FROM jsonb_object_keys(p_object) AS k WHERE NOT p_fields ? k ORDER BY k LIMIT 1);
    IF v_unknown IS NOT NULL THEN
        RETURN format('.%s: there is no such field', left(v_unknown, 100));
    END IF;
    FOR v_field IN
        SELECT f.key AS name, rtrim(f.value ->> 0, '?') AS kind, f.value ->> 0 LIKE '%?' AS is_optional, (f.value ->> 1)::numeric AS least,
            (f.value ->> 2)::numeric AS most, coalesce(p_object -> f.key, 'null') AS found, p_object ->> f.key AS said
        FROM jsonb_each(p_fields) AS f
        ORDER BY f.key
    LOOP
        IF v_field.found = 'null' THEN
            IF NOT v_field.is_optional THEN
                RETURN format('.%s: NULL is not allowed', v_field.name);
            END IF;
        ELSIF v_field.kind IN ('text', 'key') THEN
            IF jsonb_typeof(v_field.found) <> 'string'
                OR (CASE v_field.kind WHEN 'key' THEN octet_length(v_field.said) ELSE length(v_field.said) END)
                NOT BETWEEN v_field.least AND v_field.most THEN
                RETURN format('.%s: %s is no text of %s to %s %s', v_field.name, left(v_field.found::text, 100), v_field.least,
                    v_field.most, CASE v_field.kind WHEN 'key' THEN 'bytes' ELSE 'characters' END);
            END IF;
        ELSIF v_field.kind IN ('number', 'whole') THEN
            IF jsonb_typeof(v_field.found) <> 'number' THEN
                RETURN format('.%s: %s is no number', v_field.name, left(v_field.found::text, 100));
            END IF;
            IF v_field.said::numeric NOT BETWEEN v_field.least AND v_field.most
                OR (v_field.kind = 'whole' AND v_field.said::numeric <> trunc(v_field.said::numeric)) THEN
                RETURN format('.%s: %s is no %s number from %s to %s', v_field.name, left(v_field.said, 100), v_field.kind, v_field.least,
                    v_field.most);
            END IF;
        ELSIF jsonb_typeof(v_field.found) <> (CASE v_field.kind WHEN 'flag' THEN 'boolean' ELSE v_field.kind END) THEN
            RETURN format('.%s: %s is no %s', v_field.name, left(v_field.found::text, 100), v_field.kind);
        END IF;
    END LOOP;
    RETURN NULL;
END;
$$;

-- The array under a key of a round, each element checked; one that isn't there is empty.
CREATE OR REPLACE FUNCTION lead.round_part(p_round jsonb, p_key text, p_most integer, p_fields jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_part jsonb := coalesce(p_round -> p_key, '[]');
    v_problem record;
BEGIN
    IF jsonb_typeof(v_part) <> 'array' THEN
        PERFORM lead.refuse('p_round.' || p_key, v_part::text, 'an array is needed');
    END IF;
    IF jsonb_array_length(v_part) > p_most THEN
        PERFORM lead.refuse('p_round.' || p_key, jsonb_array_length(v_part) || ' elements', format('at most %s are allowed', p_most));
    END IF;
    SELECT e.place, x.problem INTO v_problem
    FROM jsonb_array_elements(v_part) WITH ORDINALITY AS e (value, place)
    CROSS JOIN LATERAL (SELECT lead.object_problem(e.value, p_fields) AS problem) AS x
    WHERE x.problem IS NOT NULL
    ORDER BY e.place LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'p_round.%[%]%', p_key, v_problem.place - 1, v_problem.problem USING ERRCODE = '22023';
    END IF;
    RETURN v_part;
END;
$$;

-- All that a round found, at once and under the lease: what a feed said is never lost between its validators and its items. Counts of
-- terms are those of the items that were new, so that a round that is recorded twice counts once.
CREATE OR REPLACE FUNCTION public.record_intelligence(
    p_task_id bigint, p_execution_id text, p_fence bigint, p_site text, p_round jsonb,
    p_current_time timestamptz DEFAULT clock_timestamp()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_unknown text;
    v_feeds jsonb;
    v_items jsonb;
    v_stories jsonb;
    v_proposals jsonb;
    v_new bigint;
    v_terms bigint;
    v_wanted text[];
    c_time constant jsonb := '["number", 946684800, 7258118399]'::jsonb;
    c_time_or_null constant jsonb := '["number?", 946684800, 7258118399]'::jsonb;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    PERFORM lead.check_name('p_site', p_site);
    IF jsonb_typeof(p_round) IS DISTINCT FROM 'object' THEN
        PERFORM lead.refuse('p_round', p_round::text, 'an object is needed');
    END IF;
    v_unknown := (SELECT k FROM jsonb_object_keys(p_round) AS k WHERE k NOT IN ('feeds', 'items', 'stories', 'proposals') ORDER BY k LIMIT 1);
    IF v_unknown IS NOT NULL THEN
        PERFORM lead.refuse('p_round', v_unknown, 'feeds, items, stories and proposals are known');
    END IF;
    v_feeds := lead.round_part(p_round, 'feeds', 1000, jsonb_build_object(
        'url', '["key", 1, 1500]'::jsonb, 'title', '["text", 0, 300]'::jsonb, 'etag', '["text?", 1, 500]'::jsonb,
        'last_modified', '["text?", 1, 500]'::jsonb, 'polled_at', c_time, 'changed_at', c_time_or_null,
        'failures', '["whole", 0, 1000000]'::jsonb, 'error', '["text", 0, 300]'::jsonb
    ));
    v_items := lead.round_part(p_round, 'items', 20000, jsonb_build_object(
        'identity', '["key", 1, 64]'::jsonb, 'feed_url', '["text", 1, 2000]'::jsonb, 'url', '["text", 0, 2000]'::jsonb,
        'title', '["text", 0, 300]'::jsonb, 'summary', '["text", 0, 1000]'::jsonb, 'published_at', c_time, 'words', '["text", 1, 64]'::jsonb,
        'signature', '["text", 1, 1000]'::jsonb, 'terms', '["object"]'::jsonb, 'duplicate_of', '["text", 0, 64]'::jsonb,
        'story_id', '["key", 1, 64]'::jsonb
    ));
    v_stories := lead.round_part(p_round, 'stories', 20000, jsonb_build_object(
        'story_id', '["key", 1, 64]'::jsonb, 'title', '["text", 0, 300]'::jsonb, 'summary', '["text", 0, 1000]'::jsonb, 'first_at', c_time,
        'last_at', c_time, 'items', '["whole", 1, 1000000]'::jsonb, 'centroid', '["object"]'::jsonb
    ));
    v_proposals := lead.round_part(p_round, 'proposals', 1000, jsonb_build_object(
        'story_id', '["key", 1, 64]'::jsonb, 'title', '["text", 1, 300]'::jsonb, 'value_usd', '["number?", -1000000, 1000000]'::jsonb,
        'details', '["object"]'::jsonb, 'submit', '["flag"]'::jsonb
    ));
    PERFORM lead.held_execution(p_execution_id, p_fence);
    PERFORM lead.held_task(p_task_id, p_execution_id);
    -- Two rounds of one site at once would wait for each other's rows in any order.
    PERFORM pg_advisory_xact_lock(hashtextextended('lead_coordinator.intelligence:' || p_site, 0));

    INSERT INTO lead.feed AS f (site, url, title, etag, last_modified, polled_at, changed_at, failures, error)
    SELECT DISTINCT ON (r.url) p_site, r.url, r.title, r.etag, r.last_modified, to_timestamp(r.polled_at), to_timestamp(r.changed_at),
        r.failures, r.error
    FROM jsonb_to_recordset(v_feeds) AS r (
        url text, title text, etag text, last_modified text, polled_at double precision, changed_at double precision, failures integer,
        error text
    )
    ORDER BY r.url
    ON CONFLICT (site, url) DO UPDATE SET
        title = excluded.title, etag = excluded.etag, last_modified = excluded.last_modified, polled_at = excluded.polled_at,
        changed_at = excluded.changed_at, failures = excluded.failures, error = excluded.error;

    WITH written AS (
        INSERT INTO lead.feed_item (
            site, identity, feed_url, url, title, summary, published_at, words, signature, terms, duplicate_of, story_id, seen_at
        )
        SELECT p_site, r.identity, r.feed_url, r.url, r.title, r.summary, to_timestamp(r.published_at), r.words, r.signature, r.terms,
            r.duplicate_of, r.story_id, p_current_time
        FROM jsonb_to_recordset(v_items) AS r (
            identity text, feed_url text, url text, title text, summary text, published_at double precision, words text, signature text,
            terms jsonb, duplicate_of text, story_id text
        )
        ON CONFLICT (site, identity) DO NOTHING
        RETURNING published_at, terms, duplicate_of
    ), counted AS (
        SELECT (w.published_at AT TIME ZONE 'UTC')::date AS day, t.term, count(*) AS items
        FROM written AS w
        CROSS JOIN LATERAL (
            SELECT left(k, 200) AS term FROM jsonb_object_keys(w.terms) AS k WHERE k <> '' UNION SELECT ''
        ) AS t
        WHERE w.duplicate_of = ''
        GROUP BY 1, 2
    ), added AS (
        INSERT INTO lead.term_count AS c (site, day, term, items)
        SELECT p_site, n.day, n.term, n.items FROM counted AS n ORDER BY n.day, n.term
        ON CONFLICT (site, day, term) DO UPDATE SET items = c.items + excluded.items
        RETURNING 1 AS one
    )
    SELECT (SELECT count(*) FROM written), (SELECT count(*) FROM added) INTO v_new, v_terms;

    INSERT INTO lead.story AS s (site, story_id, title, summary, first_at, last_at, items, centroid)
    SELECT DISTINCT ON (r.story_id) p_site, r.story_id, r.title, r.summary, to_timestamp(r.first_at), to_timestamp(r.last_at), r.items,
        r.centroid
    FROM jsonb_to_recordset(v_stories) AS r (
        story_id text, title text, summary text, first_at double precision, last_at double precision, items integer, centroid jsonb
    )
    ORDER BY r.story_id
    ON CONFLICT (site, story_id) DO UPDATE SET
        title = excluded.title, summary = excluded.summary, first_at = least(s.first_at, excluded.first_at),
        last_at = greatest(s.last_at, excluded.last_at), items = greatest(s.items, excluded.items), centroid = excluded.centroid;

    -- Once wanted, a topic stays wanted: its content task may have been written already.
    INSERT INTO lead.topic_proposal AS p (site, story_id, title, value_usd, details, proposed_at, updated_at, submitted_at)
    SELECT DISTINCT ON (r.story_id) p_site, r.story_id, r.title, r.value_usd, lead.sanitise(r.details), p_current_time, p_current_time,
        CASE WHEN r.submit THEN p_current_time END
    FROM jsonb_to_recordset(v_proposals) AS r (story_id text, title text, value_usd numeric, details jsonb, submit boolean)
    ORDER BY r.story_id
    ON CONFLICT (site, story_id) DO UPDATE SET
        title = CASE WHEN p.submitted_at IS NULL THEN excluded.title ELSE p.title END,
        value_usd = CASE WHEN p.submitted_at IS NULL THEN excluded.value_usd ELSE p.value_usd END,
        details = CASE WHEN p.submitted_at IS NULL THEN excluded.details ELSE p.details END,
        updated_at = excluded.updated_at,
        submitted_at = coalesce(p.submitted_at, excluded.submitted_at);
    v_wanted := ARRAY(
        SELECT p.story_id FROM lead.topic_proposal AS p WHERE p.site = p_site AND p.submitted_at = p_current_time ORDER BY p.story_id
    );
    RETURN jsonb_build_object('new_items', v_new, 'term_days', v_terms, 'newly_submitted', to_jsonb(v_wanted));
END;
$$;

-- Retention ----------------------------------------------------------------------------------------------------------
-- One step: at most p_limit rows of each table, oldest first. Call it again while "more" is true. What stays: whatever has not
-- ended, open dead letters with their calls, idempotency keys, publications, the audit log, hourly history and budget accounts.
-- Where this round goes on in a table; NULL: it has been through it.
CREATE OR REPLACE FUNCTION lead.prune_position(p_table_name text) RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    INSERT INTO lead.prune_progress (table_name) VALUES (p_table_name) ON CONFLICT (table_name) DO NOTHING;
    SELECT p.position FROM lead.prune_progress AS p WHERE p.table_name = p_table_name;
$$;

-- After a window of a table: it goes on after p_last, unless it has come to where nothing is old.
CREATE OR REPLACE FUNCTION lead.prune_advance(p_table_name text, p_last bigint, p_goes_on boolean) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    UPDATE lead.prune_progress AS p SET position = CASE WHEN p_goes_on THEN p_last END WHERE p.table_name = p_table_name;
$$;

CREATE OR REPLACE FUNCTION public.prune_history(
    p_keep interval DEFAULT NULL, p_limit integer DEFAULT 10000, p_current_time timestamptz DEFAULT now()
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    v_keep interval := coalesce(p_keep, make_interval(days => lead.setting_number('history_keep_days')::integer));
    v_before timestamptz;
    v_position bigint;
    v_ids bigint[];
    v_keys text[];
    v_last bigint;
    v_looked bigint;
    v_old boolean;
    v_count bigint;
    v_more boolean := false;
    v_deleted jsonb := '{}'::jsonb;
BEGIN
    PERFORM lead.check_clock(p_current_time);
    IF v_keep < interval '1 day' OR v_keep > interval '10 years' THEN
        PERFORM lead.refuse('p_keep', p_keep::text, '1 day to 10 years are allowed');
    END IF;
    v_before := p_current_time - v_keep;
    IF p_limit IS NULL OR p_limit NOT BETWEEN 1 AND 100000 THEN
        PERFORM lead.refuse('p_limit', p_limit::text, '1 to 100000 are allowed');
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtextextended('lead_coordinator.prune', 0)) THEN
        RETURN jsonb_build_object('deleted', '{}'::jsonb, 'more', false, 'reason', 'somebody else is pruning at this moment');
    END IF;

    -- Tables with survivors: a window in the order of the key, and the next step begins after it. It ends where nothing in the
    -- window is old. Read first, filter afterwards, so that a window costs the same whatever it holds. A position of NULL finds
    -- nothing: this round has been through that table.
    v_position := lead.prune_position('lead.task');
    SELECT array_agg(w.id) FILTER (
            WHERE w.status IN ('completed', 'failed', 'cancelled') AND coalesce(w.processed_at, w.created_at) < v_before
            AND (SELECT d.task_id FROM lead.task_dependency AS d WHERE d.depends_on = w.id LIMIT 1) IS NULL
        ), max(w.id), count(*), bool_or(w.created_at < v_before)
    INTO v_ids, v_last, v_looked, v_old
    FROM (
        SELECT t.id, t.status, t.processed_at, t.created_at FROM lead.task AS t WHERE t.id > v_position
            ORDER BY t.id LIMIT p_limit
    ) AS w;
    PERFORM lead.prune_advance('lead.task', v_last, v_looked = p_limit AND v_old);
    DELETE FROM lead.task_attempt AS a WHERE a.task_id = ANY (v_ids);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_deleted := v_deleted || jsonb_build_object('task_attempt', v_count);
    DELETE FROM lead.dead_letter AS d WHERE d.task_id = ANY (v_ids);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_deleted := v_deleted || jsonb_build_object('dead_letter', v_count);
    DELETE FROM lead.task AS t WHERE t.id = ANY (v_ids) AND t.status IN ('completed', 'failed', 'cancelled');
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_deleted := v_deleted || jsonb_build_object('task', v_count);

    -- Calls once the tasks of this round are through: a call goes after its task, whoever deleted that.
    IF lead.prune_position('lead.task') IS NULL THEN
        v_position := lead.prune_position('lead.api_call');
        SELECT array_agg(w.id) FILTER (
                WHERE w.status IN ('settled', 'released') AND w.reserved_at < v_before
                AND (SELECT t.id FROM lead.task AS t WHERE t.id = w.task_id) IS NULL
                -- What an execution cost is summed up over its calls when it ends.
                AND (
                    SELECT o.id FROM public.workflow_orchestration AS o
                    WHERE o.execution_id = w.execution_id AND o.completed_at IS NULL
                ) IS NULL
            ), max(w.id), count(*), bool_or(w.reserved_at < v_before)
        INTO v_ids, v_last, v_looked, v_old
        FROM (
            SELECT c.id, c.status, c.reserved_at, c.task_id, c.execution_id FROM lead.api_call AS c WHERE c.id > v_position
                ORDER BY c.id LIMIT p_limit
        ) AS w;
        PERFORM lead.prune_advance('lead.api_call', v_last, v_looked = p_limit AND v_old);
        DELETE FROM lead.api_call AS c WHERE c.id = ANY (v_ids);
        GET DIAGNOSTICS v_count = ROW_COUNT;
        v_deleted := v_deleted || jsonb_build_object('api_call', v_count);
    END IF;

    v_position := lead.prune_position('public.workflow_orchestration');
    SELECT array_agg(w.id) FILTER (
            WHERE w.status IN ('completed', 'failed', 'timeout', 'cancelled')
            AND coalesce(w.completed_at, w.created_at) < v_before
        ), max(w.id), count(*), bool_or(w.created_at < v_before)
    INTO v_ids, v_last, v_looked, v_old
    FROM (
        SELECT o.id, o.status, o.completed_at, o.created_at FROM public.workflow_orchestration AS o
        WHERE o.id > v_position ORDER BY o.id LIMIT p_limit
    ) AS w;
    PERFORM lead.prune_advance('public.workflow_orchestration', v_last, v_looked = p_limit AND v_old);
    DELETE FROM public.workflow_orchestration AS o
    WHERE o.id = ANY (v_ids) AND o.status IN ('completed', 'failed', 'timeout', 'cancelled');
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_deleted := v_deleted || jsonb_build_object('workflow_orchestration', v_count);

    -- Likewise the states of executions; the coordinator's own go with time, but never the one it is in.
    IF lead.prune_position('public.workflow_orchestration') IS NULL THEN
        v_position := lead.prune_position('public.workflow_states');
        SELECT array_agg(w.id) FILTER (
                WHERE w.entered_at < v_before AND w.id IS DISTINCT FROM (SELECT c.state_row_id FROM lead.coordinator AS c)
                AND (SELECT o.id FROM public.workflow_orchestration AS o WHERE o.execution_id = w.execution_id) IS NULL
            ), max(w.id), count(*), bool_or(w.entered_at < v_before)
        INTO v_ids, v_last, v_looked, v_old
        FROM (
            SELECT s.id, s.execution_id, s.entered_at FROM public.workflow_states AS s WHERE s.id > v_position
                ORDER BY s.id LIMIT p_limit
        ) AS w;
        PERFORM lead.prune_advance('public.workflow_states', v_last, v_looked = p_limit AND v_old);
        DELETE FROM public.workflow_states AS s WHERE s.id = ANY (v_ids);
        GET DIAGNOSTICS v_count = ROW_COUNT;
        v_deleted := v_deleted || jsonb_build_object('workflow_states', v_count);
    END IF;

    -- Tables of which nothing old is left: the oldest by their index on time.
    v_keys := ARRAY(SELECT t.tick_id FROM lead.tick AS t WHERE t.decided_at < v_before ORDER BY t.decided_at LIMIT p_limit);
    DELETE FROM lead.tick AS t WHERE t.tick_id = ANY (v_keys);
    v_deleted := v_deleted || jsonb_build_object('tick', cardinality(v_keys));
    v_more := v_more OR cardinality(v_keys) = p_limit;

    v_ids := ARRAY(SELECT u.id FROM public.resource_usage AS u WHERE u.timestamp < v_before ORDER BY u.timestamp LIMIT p_limit);
    DELETE FROM public.resource_usage AS u WHERE u.id = ANY (v_ids);
    v_deleted := v_deleted || jsonb_build_object('resource_usage', cardinality(v_ids));
    v_more := v_more OR cardinality(v_ids) = p_limit;

    v_ids := ARRAY(SELECT e.id FROM lead.error_log AS e WHERE e.occurred_at < v_before ORDER BY e.occurred_at LIMIT p_limit);
    DELETE FROM lead.error_log AS e WHERE e.id = ANY (v_ids);
    v_deleted := v_deleted || jsonb_build_object('error_log', cardinality(v_ids));
    v_more := v_more OR cardinality(v_ids) = p_limit;

    -- These are kept longer: a season of the year shows only beside the year before.
    v_count := 0;
    DELETE FROM lead.page_metric AS m USING (
        SELECT d.site, d.page, d.day FROM lead.page_metric AS d
        WHERE d.day < (p_current_time - greatest(v_keep, make_interval(days => lead.setting_number('metrics_keep_days')::integer)))::date
        ORDER BY d.day LIMIT p_limit
    ) AS o WHERE m.site = o.site AND m.page = o.page AND m.day = o.day;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_deleted := v_deleted || jsonb_build_object('page_metric', v_count);
    v_more := v_more OR v_count = p_limit;
    DELETE FROM lead.experiment_outcome AS x WHERE x.ctid = ANY (ARRAY(
        SELECT o.ctid FROM lead.experiment_outcome AS o
        WHERE o.recorded_at < p_current_time - greatest(v_keep, make_interval(days => lead.setting_number('metrics_keep_days')::integer))
        ORDER BY o.recorded_at LIMIT p_limit
    ));
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_deleted := v_deleted || jsonb_build_object('experiment_outcome', v_count);
    v_more := v_more OR v_count = p_limit;

    -- Revisions that no page shows any more, and answers that no task waits for.
    v_ids := ARRAY(
        SELECT a.id FROM lead.article AS a WHERE a.state IN ('superseded', 'rejected') AND a.created_at < v_before
        ORDER BY a.created_at LIMIT p_limit
    );
    DELETE FROM lead.article AS a WHERE a.id = ANY (v_ids);
    v_deleted := v_deleted || jsonb_build_object('article', cardinality(v_ids));
    v_more := v_more OR cardinality(v_ids) = p_limit;
    DELETE FROM lead.kept_step AS k USING (
        SELECT s.task_id, s.step FROM lead.kept_step AS s WHERE s.kept_at < v_before ORDER BY s.kept_at LIMIT p_limit
    ) AS o WHERE k.task_id = o.task_id AND k.step = o.step;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_deleted := v_deleted || jsonb_build_object('kept_step', v_count);
    v_more := v_more OR v_count = p_limit;

    -- What feeds said. A proposal stays while its story does, and for ever once it was submitted: never twice for the same story.
    DELETE FROM lead.feed_item AS f WHERE f.ctid = ANY (ARRAY(
        SELECT i.ctid FROM lead.feed_item AS i
        WHERE i.seen_at < p_current_time - greatest(v_keep, make_interval(days => lead.setting_number('intelligence_keep_days')::integer))
        ORDER BY i.seen_at LIMIT p_limit
    ));
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_deleted := v_deleted || jsonb_build_object('feed_item', v_count);
    v_more := v_more OR v_count = p_limit;
    DELETE FROM lead.term_count AS t WHERE t.ctid = ANY (ARRAY(
        SELECT c.ctid FROM lead.term_count AS c
        WHERE c.day < (p_current_time - greatest(v_keep, make_interval(days => lead.setting_number('intelligence_keep_days')::integer)))::date
        ORDER BY c.day LIMIT p_limit
    ));
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_deleted := v_deleted || jsonb_build_object('term_count', v_count);
    v_more := v_more OR v_count = p_limit;
    WITH gone AS (
        DELETE FROM lead.story AS s WHERE s.ctid = ANY (ARRAY(
            SELECT o.ctid FROM lead.story AS o
            WHERE o.last_at < p_current_time - greatest(v_keep, make_interval(days => lead.setting_number('intelligence_keep_days')::integer))
            ORDER BY o.last_at LIMIT p_limit
        ))
        RETURNING s.site, s.story_id
    ), proposals AS (
        DELETE FROM lead.topic_proposal AS p USING gone AS g
        WHERE p.site = g.site AND p.story_id = g.story_id AND p.submitted_at IS NULL
    )
    SELECT count(*) INTO v_count FROM gone;
    v_deleted := v_deleted || jsonb_build_object('story', v_count);
    v_more := v_more OR v_count = p_limit;

    -- Audits with their pages, and findings that were mended; an open finding stays, and the audit that the next one compares with.
    DELETE FROM lead.seo_audit AS a WHERE a.id = ANY (ARRAY(
        SELECT o.id FROM lead.seo_audit AS o
        WHERE o.started_at < v_before AND EXISTS (
            SELECT 1 FROM lead.seo_audit AS n WHERE n.site = o.site AND n.id > o.id AND n.scope = 'site' AND n.status = 'finished'
        )
        -- Each may take thousands of pages with it.
        ORDER BY o.started_at LIMIT greatest(1, p_limit / 1000)
    ));
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_deleted := v_deleted || jsonb_build_object('seo_audit', v_count);
    v_more := v_more OR v_count = greatest(1, p_limit / 1000);
    v_ids := ARRAY(
        SELECT f.id FROM lead.seo_finding AS f WHERE f.status = 'fixed' AND f.fixed_at < v_before ORDER BY f.fixed_at LIMIT p_limit
    );
    DELETE FROM lead.seo_finding AS f WHERE f.id = ANY (v_ids);
    v_deleted := v_deleted || jsonb_build_object('seo_finding', cardinality(v_ids));
    v_more := v_more OR cardinality(v_ids) = p_limit;

    v_more := v_more OR EXISTS (SELECT 1 FROM lead.prune_progress AS p WHERE p.position IS NOT NULL);
    IF NOT v_more THEN
        -- The round is done; the next one begins anew.
        UPDATE lead.prune_progress AS p SET position = 0, completed_at = p_current_time;
    END IF;
    RETURN jsonb_build_object('deleted', v_deleted, 'more', v_more, 'before', v_before);
END;
$$;

-- Pages of an index on which a single row survived (an open dead letter among ten thousand tasks) are never given back, so with
-- pruning an index can go on growing while its table does not. These are far larger than their entries need: REINDEX INDEX
-- CONCURRENTLY makes them small again without stopping anybody. Expected: 12 bytes and the key for each entry, pages two thirds full.
CREATE OR REPLACE FUNCTION public.find_sparse_indexes(p_minimum_bytes bigint DEFAULT 8000000) RETURNS TABLE (
    schema_name text, index_name text, table_name text, size_bytes bigint, expected_bytes bigint
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT s.schema_name, s.index_name, s.table_name, s.size_bytes, s.expected_bytes
    FROM (
        SELECT t.schema_name, c.relname::text AS index_name, t.relation_name AS table_name, pg_relation_size(c.oid) AS size_bytes,
            (greatest(c.reltuples, 0) * (12 + 8 * ceil(k.width / 8.0)) * 1.5)::bigint + 16384 AS expected_bytes
        FROM lead.our_relations() AS t
        INNER JOIN pg_index AS i ON i.indrelid = t.oid AND i.indisvalid
        INNER JOIN pg_class AS c ON c.oid = i.indexrelid
        INNER JOIN pg_am AS m ON m.oid = c.relam AND m.amname = 'btree'
        -- Statistics of a column are hidden under row-level security: text counts as 32 bytes.
        CROSS JOIN LATERAL (
            SELECT sum(CASE WHEN a.attlen > 0 THEN a.attlen ELSE 32 END) AS width FROM pg_attribute AS a WHERE a.attrelid = c.oid
        ) AS k
    ) AS s
    WHERE s.size_bytes >= p_minimum_bytes AND s.size_bytes > 2 * s.expected_bytes
    ORDER BY s.size_bytes - s.expected_bytes DESC;
$$;

DO $$
BEGIN
    PERFORM lead.record_functions();
    PERFORM lead.apply_security();
END;
$$;
COMMIT;
