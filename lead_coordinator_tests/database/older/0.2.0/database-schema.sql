-- Lead Coordinator, file 1 of 4: schemas, roles, tables, indexes, policies (rows) and what guards them.
--
--   psql … -f sql/database-schema.sql
--
-- Re-runnable on a live, filled database: what exists is left alone, so no lock is taken that a claim would wait for.
-- Everything runs in one transaction: an error leaves nothing changed and makes psql exit with a code other than zero.
--
-- public   the tables and functions that outside callers rely on
-- lead     everything of our own; never exposed over REST
\set ON_ERROR_STOP on
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL lock_timeout = '10s';

DO $$
BEGIN
    IF current_setting('server_version_num')::integer < 150000 THEN
        RAISE EXCEPTION 'server_version: PostgreSQL % is too old, 15 or newer is needed', current_setting('server_version');
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('lead_coordinator.deploy', 0));
END;
$$;

-- Roles ---------------------------------------------------------------------------------------------------------
-- anon, authenticated and service_role exist on Supabase; elsewhere they are made here, without a login.
-- lead_application may call functions and read tables; lead_dashboard may only read.
DO $$
DECLARE
    v_missing text[] := ARRAY(
        SELECT w.role_name
        FROM unnest(ARRAY['anon', 'authenticated', 'service_role', 'lead_application', 'lead_dashboard']) AS w (role_name)
        WHERE NOT EXISTS (SELECT 1 FROM pg_roles AS r WHERE r.rolname = w.role_name)
    );
    v_role text;
BEGIN
    IF cardinality(v_missing) > 0 AND NOT (SELECT r.rolsuper OR r.rolcreaterole FROM pg_roles AS r WHERE r.rolname = current_user) THEN
        RAISE EXCEPTION 'roles are missing and % may not create them: run as an administrator, then deploy again: %', current_user,
            (SELECT string_agg(format('CREATE ROLE %I NOLOGIN;', m.role_name), ' ') FROM unnest(v_missing) AS m (role_name))
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    FOREACH v_role IN ARRAY v_missing LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', v_role);
        EXCEPTION
            -- Roles belong to the cluster: another database of it may be deployed at the same moment.
            WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END LOOP;
END;
$$;

CREATE SCHEMA IF NOT EXISTS lead;

-- Version -----------------------------------------------------------------------------------------------------------
-- Of the four files together, the same as the package's. The other three files refuse to follow a file of another version.
CREATE OR REPLACE FUNCTION lead.schema_version() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '0.2.0';

CREATE OR REPLACE FUNCTION lead.version_number(p_version text) RETURNS integer[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN string_to_array(p_version, '.')::integer[];

-- Written at the end of the last file, and again when a version is deployed with other contents.
CREATE TABLE IF NOT EXISTS lead.deployment (
    version text PRIMARY KEY,
    deployed_at timestamptz NOT NULL DEFAULT now(),
    deployed_by text NOT NULL DEFAULT current_user,
    -- Of everything the files define (lead.deployed_object); NULL for 0.1.0, which kept none.
    fingerprint text
);

DO $$
DECLARE
    v_newest text;
BEGIN
    SELECT d.version INTO v_newest FROM lead.deployment AS d ORDER BY lead.version_number(d.version) DESC LIMIT 1;
    IF lead.version_number(v_newest) > lead.version_number(lead.schema_version()) THEN
        RAISE EXCEPTION 'version: this database is at %, and % may not be deployed over it: there is no way back', v_newest,
            lead.schema_version() USING ERRCODE = 'LC006', HINT = format('deploy version %s or a newer one', v_newest);
    END IF;
END;
$$;

-- Helpers that only an earlier version calls. A call that is under way while it is brought forward goes on with the body it began
-- with, and finds them; the next deployment drops them.
CREATE OR REPLACE FUNCTION lead.outgoing_functions() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY[
    'lead.claim_tasks(text, text, integer, timestamp with time zone)',
    'lead.pick_tasks(text, integer, timestamp with time zone)'
];

-- One static score a task, so that ranking writes nothing. Ageing is added where tasks are claimed, by probing the same
-- index twice (see lead.pick_from_lane). score = base priority, up to 15 points for value (3 ln(1 + dollars)), up to 10 less for what
-- it will cost (3 ln(1 + 10 dollars)), up to 5 more or less for the predicted chance of success; 0 to 100.
CREATE OR REPLACE FUNCTION lead.static_score(
    p_priority_base integer, p_value_usd numeric, p_predicted_success_rate numeric, p_estimated_cost numeric
) RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN least(100, greatest(0,
    p_priority_base
    + least(15, floor(3 * ln((1 + coalesce(p_value_usd, 0))::double precision))::integer)
    - least(10, floor(3 * ln((1 + 10 * coalesce(p_estimated_cost, 0))::double precision))::integer)
    + coalesce(round(10 * (p_predicted_success_rate - 0.5))::integer, 0)
))::smallint;

-- Bringing an older deployment forward ---------------------------------------------------------------------------------
-- What CREATE … IF NOT EXISTS can't do: change what is there. Each step looks before it acts, so that it is done once, also if
-- an earlier attempt ended between two files. What is only missing (a table, an index, a trigger, a view) is made further below.
-- A function whose parameters changed is dropped where its successor is made, in the same transaction.
--
-- The tables that change are locked first, all together or not at all: a client that holds one of them and waits for another is
-- let through within a third of a second, and never chosen as the victim of a deadlock.
DO $$
DECLARE
    v_tables text;
    v_steps text[];
    v_step text;
BEGIN
    IF to_regclass('lead.task') IS NULL THEN
        RETURN;
    END IF;
    -- 0.2.0: what may be claimed and what becomes due are tables of their own. They are filled before anything is locked, which takes
    -- seconds for a million waiting tasks; what changes meanwhile is made up for below, once lead.task is locked.
    IF to_regclass('lead.ready') IS NULL THEN
        CREATE TABLE lead.ready (
            task_type text NOT NULL, lane text NOT NULL, score smallint NOT NULL, queued_at timestamptz NOT NULL, task_id bigint NOT NULL
        ) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
        CREATE TABLE lead.due (
            due_at timestamptz NOT NULL, task_id bigint NOT NULL, PRIMARY KEY (due_at, task_id)
        ) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
        -- Whatever began later than this may be unseen by the two statements after it.
        PERFORM set_config('lead.forward_since', pg_snapshot_xmin(pg_current_snapshot())::text, true);
        INSERT INTO lead.ready (task_type, lane, score, queued_at, task_id)
        SELECT t.task_type, coalesce(t.tenant, ''),
            lead.static_score(t.priority_base, t.value_usd, t.predicted_success_rate, t.estimated_cost), t.queued_at, t.id
        FROM lead.task AS t WHERE t.status = 'queued';
        INSERT INTO lead.due (due_at, task_id)
        SELECT t.deferred_until, t.id FROM lead.task AS t WHERE t.status = 'deferred' AND t.deferred_until IS NOT NULL;
        CREATE UNIQUE INDEX ready_in_order ON lead.ready (task_type, lane, score DESC, queued_at, task_id);
    END IF;
    WITH new_columns (relation, name, definition) AS (
        VALUES
        -- since 0.2.0
        ('lead.workflow_policy', 'mode', 'text NOT NULL DEFAULT ''open'' CHECK (mode IN (''open'', ''paused'', ''draining''))'),
        ('lead.queue_depth_delta', 'lane', 'text NOT NULL DEFAULT '''''),
        ('lead.queue_depth_delta', 'score', 'smallint'),
        ('lead.api_call', 'tenant', 'text'),
        ('lead.deployment', 'fingerprint', 'text'),
        ('public.workflow_orchestration', 'is_external', 'boolean NOT NULL DEFAULT false'),
        ('public.workflow_orchestration', 'task_ids', 'bigint[] NOT NULL DEFAULT ''{}''')
    ), missing AS (
        SELECT c.relation, c.name, c.definition
        FROM new_columns AS c
        WHERE NOT EXISTS (
            SELECT 1 FROM pg_attribute AS a
            WHERE a.attrelid = to_regclass(c.relation) AND a.attname = c.name AND NOT a.attisdropped
        )
    ), steps (place, relation, is_needed, statement) AS (
        SELECT 10, m.relation, true, format('ALTER TABLE %s ADD COLUMN %I %s', m.relation, m.name, m.definition) FROM missing AS m
        UNION ALL
        -- 0.2.0: what a task will cost is part of its score. Before PostgreSQL 17 the column has to be made anew, and the view on it.
        SELECT x.place, 'lead.task', d.is_old, x.statement
        FROM (
            SELECT bool_or(pg_get_expr(a.adbin, a.adrelid) NOT LIKE '%estimated_cost%') AS is_old
            FROM pg_attrdef AS a
            INNER JOIN pg_attribute AS c ON c.attrelid = a.adrelid AND c.attnum = a.adnum
            WHERE a.adrelid = to_regclass('lead.task') AND c.attname = 'score'
        ) AS d
        CROSS JOIN LATERAL (
            SELECT e.expression, current_setting('server_version_num')::integer >= 170000 AS can_change
            FROM (VALUES ('lead.static_score(priority_base, value_usd, predicted_success_rate, estimated_cost)')) AS e (expression)
        ) AS e
        CROSS JOIN LATERAL (VALUES
            (5, CASE WHEN e.can_change THEN format('ALTER TABLE lead.task ALTER COLUMN score SET EXPRESSION AS (%s)', e.expression) END),
            -- The second file makes it anew; until then nothing seems to starve.
            (5, CASE WHEN NOT e.can_change THEN 'CREATE OR REPLACE FUNCTION lead.oldest_queued(p_task_type text) RETURNS timestamptz
                LANGUAGE sql AS ''SELECT NULL::timestamptz''' END),
            (5, CASE WHEN NOT e.can_change THEN 'DROP VIEW public.task_queue' END),
            (6, CASE WHEN NOT e.can_change THEN format(
                'ALTER TABLE lead.task DROP COLUMN score, ADD COLUMN score smallint NOT NULL GENERATED ALWAYS AS (%s) STORED', e.expression) END),
            (7, 'DROP FUNCTION IF EXISTS lead.static_score(integer, numeric, numeric)')
        ) AS x (place, statement)
        UNION ALL
        -- 0.2.0: a tenant's tasks are counted in its own lane.
        SELECT 11, 'lead.task', EXISTS (SELECT 1 FROM missing AS m WHERE m.name = 'lane'),
            'INSERT INTO lead.queue_depth_delta (task_type, lane, status, tasks)
            SELECT t.task_type, l.lane, t.status, l.sign * count(*)
            FROM lead.task AS t CROSS JOIN LATERAL (VALUES (t.tenant, 1), ('''', -1)) AS l (lane, sign)
            WHERE t.tenant IS NOT NULL GROUP BY t.task_type, l.lane, t.status, l.sign'
        UNION ALL
        -- 0.2.0: what waits is counted by score too.
        SELECT 12, 'lead.task', EXISTS (SELECT 1 FROM missing AS m WHERE m.relation = 'lead.queue_depth_delta' AND m.name = 'score'),
            'INSERT INTO lead.queue_depth_delta (task_type, lane, status, score, tasks)
            SELECT t.task_type, coalesce(t.tenant, ''''), t.status, s.score, s.sign * count(*)
            FROM lead.task AS t CROSS JOIN LATERAL (VALUES (t.score, 1), (NULL, -1)) AS s (score, sign)
            WHERE t.status = ''queued'' GROUP BY t.task_type, coalesce(t.tenant, ''''), t.status, s.score, s.sign'
        UNION ALL
        -- Until the second file makes it anew, nothing folds the log: the old way forgets lanes and scores.
        SELECT 12, NULL, EXISTS (SELECT 1 FROM missing AS m WHERE m.relation = 'lead.queue_depth_delta'),
            'CREATE OR REPLACE FUNCTION lead.fold_queue_depth() RETURNS void LANGUAGE sql AS '''''
        UNION ALL
        SELECT 13, 'public.workflow_orchestration', EXISTS (SELECT 1 FROM missing AS m WHERE m.name = 'task_ids'),
            'UPDATE public.workflow_orchestration AS w
            SET task_ids = ARRAY(
                SELECT t.id FROM lead.task AS t WHERE t.execution_id = w.execution_id AND t.status = ''processing'' ORDER BY t.id
            )
            WHERE w.status IN (''pending'', ''analyzing'', ''dispatching'', ''running'')'
        UNION ALL
        -- 0.2.0: no index holds a task's status.
        SELECT 20, 'lead.task', current_setting('lead.forward_since', true) <> '', NULL
        UNION ALL
        SELECT 20, 'lead.task', to_regclass('lead.' || i.name) IS NOT NULL, format('DROP INDEX IF EXISTS lead.%I', i.name)
        FROM (VALUES ('task_ready'), ('task_deferred'), ('task_processing')) AS i (name)
        UNION ALL
        SELECT 20, 'lead.api_call', to_regclass('lead.api_call_open') IS NOT NULL, 'DROP INDEX lead.api_call_open'
        UNION ALL
        SELECT 20, 'lead.task_attempt', NOT EXISTS (
            SELECT 1 FROM pg_class AS c WHERE c.oid = to_regclass('lead.task_attempt_ended') AND 'pages_per_range=16' = ANY (c.reloptions)
        ), 'DROP INDEX IF EXISTS lead.task_attempt_ended'
        UNION ALL
        -- 0.2.0: budgets a tenant.
        SELECT 20, 'lead.budget_account', NOT EXISTS (
            SELECT 1 FROM pg_constraint AS c
            WHERE c.conrelid = to_regclass('lead.budget_account') AND c.conname = 'budget_account_scope_check'
                AND pg_get_constraintdef(c.oid) LIKE '%''tenant''%'
        ), 'ALTER TABLE lead.budget_account DROP CONSTRAINT budget_account_scope_check, ADD CONSTRAINT budget_account_scope_check
            CHECK (scope IN (''total'', ''workflow'', ''provider'', ''tenant''))'
        UNION ALL
        -- 0.2.0: fair shares are rows of lead.fair_share.
        SELECT 20, 'lead.coordinator', EXISTS (
            SELECT 1 FROM pg_attribute AS a
            WHERE a.attrelid = to_regclass('lead.coordinator') AND a.attname = 'slots_served' AND NOT a.attisdropped
        ), 'ALTER TABLE lead.coordinator DROP COLUMN slots_served'
        UNION ALL
        -- 0.2.0: a task may die more than once, and each death is resolved on its own.
        SELECT 20, 'lead.dead_letter', NOT EXISTS (
            SELECT 1 FROM pg_attribute AS a WHERE a.attrelid = to_regclass('lead.dead_letter') AND a.attname = 'resolution'
        ), 'ALTER TABLE lead.dead_letter DROP CONSTRAINT dead_letter_pkey, ALTER COLUMN task_id SET NOT NULL,
            ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            ADD COLUMN times_replayed integer NOT NULL DEFAULT 0,
            ADD COLUMN resolved_at timestamptz,
            ADD COLUMN resolution text CHECK (resolution IN (''replayed'', ''discarded'')),
            ADD COLUMN resolved_by text,
            ADD COLUMN resolution_reason text,
            ADD CONSTRAINT dead_letter_resolved CHECK ((resolution IS NULL) = (resolved_at IS NULL))'
        UNION ALL
        SELECT 20, 'lead.task', NOT EXISTS (
            SELECT 1 FROM pg_class AS c WHERE c.oid = to_regclass('lead.task') AND 'fillfactor=80' = ANY (c.reloptions)
        ), 'ALTER TABLE lead.task SET (fillfactor = 80)'
        UNION ALL
        -- Only to be locked here: an index or a trigger of theirs is made below.
        SELECT 90, m.relation, NOT EXISTS (
            SELECT 1 FROM pg_index AS i INNER JOIN pg_class AS c ON c.oid = i.indexrelid
            WHERE i.indrelid = to_regclass(m.relation) AND c.relname = m.name
            UNION ALL
            SELECT 1 FROM pg_trigger AS t WHERE t.tgrelid = to_regclass(m.relation) AND t.tgname = m.name
        ), NULL
        FROM (VALUES
            ('lead.task_dependency', 'task_dependency_task'),
            ('lead.dead_letter', 'dead_letter_open'),
            ('lead.api_call', 'api_call_execution'),
            ('lead.rate_slot', 'rate_slot_free'),
            ('lead.setting', 'older_files_refused'),
            ('lead.setting', 'setting_audited'),
            ('lead.workflow_policy', 'policy_audited'),
            ('public.api_rate_limits', 'rate_limit_audited'),
            ('lead.task', 'task_forgotten'),
            ('lead.task', 'task_truncated')
        ) AS m (relation, name)
    )
    SELECT array_agg(s.statement ORDER BY s.place) FILTER (WHERE s.statement IS NOT NULL),
        string_agg(DISTINCT s.relation, ', ' ORDER BY s.relation)
    INTO v_steps, v_tables
    FROM steps AS s
    WHERE s.is_needed;

    FOR v_try IN 1..40 LOOP
        EXIT WHEN v_tables IS NULL;
        BEGIN
            PERFORM set_config('lock_timeout', '300ms', true);
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', v_tables);
            EXIT;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            -- Undoing the block gave back what had been locked already.
            IF v_try = 40 THEN
                RAISE;
            END IF;
            PERFORM pg_sleep(0.05 + random() / 10);
        END;
    END LOOP;
    FOREACH v_step IN ARRAY coalesce(v_steps, '{}') LOOP
        EXECUTE v_step;
    END LOOP;
    PERFORM set_config('lock_timeout', '10s', true);
END;
$$;
-- Settings and policies: rows, so that an operator changes them without a deploy -----------------------------------
CREATE TABLE IF NOT EXISTS lead.setting (
    name text PRIMARY KEY,
    value text NOT NULL,
    minimum numeric,
    maximum numeric,
    unit text NOT NULL,
    description text NOT NULL,
    -- When the environment gave the value; from then on the row wins.
    seeded_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS lead.workflow_policy (
    workflow_type text PRIMARY KEY,
    task_type text NOT NULL UNIQUE,
    enabled boolean NOT NULL,
    interval_minutes integer NOT NULL CHECK (interval_minutes BETWEEN 1 AND 10080),
    base_priority integer NOT NULL CHECK (base_priority BETWEEN 0 AND 100),
    fair_weight numeric(6, 3) NOT NULL DEFAULT 1 CHECK (fair_weight > 0),
    max_batch integer NOT NULL CHECK (max_batch BETWEEN 1 AND 1000),
    expected_seconds integer NOT NULL CHECK (expected_seconds BETWEEN 1 AND 3600),
    item_cost_limit_usd numeric(20, 10) NOT NULL CHECK (item_cost_limit_usd >= 0),
    calls_per_item integer NOT NULL CHECK (calls_per_item BETWEEN 0 AND 100),
    memory_mb integer NOT NULL CHECK (memory_mb BETWEEN 1 AND 65536),
    target_success_rate numeric(5, 4) NOT NULL CHECK (target_success_rate BETWEEN 0 AND 1),
    daily_cost_limit_usd numeric(20, 10) CHECK (daily_cost_limit_usd >= 0),
    disabled_reason text,
    -- open; paused: takes tasks and starts none; draining: takes none and works off what it has.
    mode text NOT NULL DEFAULT 'open' CHECK (mode IN ('open', 'paused', 'draining')),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- A tenant without a row is open, weighs 1 and has no limit of its own.
CREATE TABLE IF NOT EXISTS lead.tenant (
    tenant text PRIMARY KEY CHECK (length(tenant) BETWEEN 1 AND 200),
    fair_weight numeric(6, 3) NOT NULL DEFAULT 1 CHECK (fair_weight > 0),
    mode text NOT NULL DEFAULT 'open' CHECK (mode IN ('open', 'paused', 'draining')),
    daily_cost_limit_usd numeric(20, 10) CHECK (daily_cost_limit_usd >= 0),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- The queue -----------------------------------------------------------------------------------------------------
CREATE TABLE IF NOT EXISTS lead.task (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    task_type text NOT NULL CHECK (
        task_type IN ('content_generation', 'seo_analysis', 'revenue_optimization', 'intelligence_analysis')
    ),
    payload jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(payload) = 'object'),
    dependencies bigint[] NOT NULL DEFAULT '{}',
    estimated_duration_ms integer CHECK (estimated_duration_ms >= 0),
    estimated_cost numeric(20, 10) CHECK (estimated_cost >= 0),
    predicted_success_rate numeric(5, 4) CHECK (predicted_success_rate BETWEEN 0 AND 1),
    complexity_score numeric(6, 3),
    value_usd numeric(20, 10) CHECK (value_usd >= 0 AND value_usd < 'infinity'),
    deadline_at timestamptz,
    not_before timestamptz,
    tenant text,
    idempotency_key text,
    created_at timestamptz NOT NULL DEFAULT now(),
    priority_base integer NOT NULL DEFAULT 50 CHECK (priority_base BETWEEN 0 AND 100),
    score smallint NOT NULL GENERATED ALWAYS AS (
        lead.static_score(priority_base, value_usd, predicted_success_rate, estimated_cost)
    ) STORED,
    queued_at timestamptz NOT NULL DEFAULT now(),
    -- NULL while deferred: until the tasks it depends on have completed.
    deferred_until timestamptz,
    defer_reason text,
    attempts smallint NOT NULL DEFAULT 0,
    deferrals smallint NOT NULL DEFAULT 0,
    stalls smallint NOT NULL DEFAULT 0,
    last_error_class text,
    last_error_message text,
    cost_usd numeric(20, 10) NOT NULL DEFAULT 0,
    -- What a claim and a completion change comes last: the log then holds only the end of the row.
    status text NOT NULL DEFAULT 'queued' CHECK (
        status IN ('queued', 'processing', 'completed', 'failed', 'deferred', 'cancelled', 'dead_letter')
    ),
    execution_id text,
    claimed_at timestamptz,
    processed_at timestamptz,
    result jsonb
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);

-- What may be claimed, and what becomes due, in tables of their own that triggers keep: so no index of lead.task holds its status,
-- and a claim or a completion is a HOT update that touches no index at all. Locks are always taken on lead.task first.
CREATE TABLE IF NOT EXISTS lead.ready (
    task_type text NOT NULL,
    lane text NOT NULL,
    score smallint NOT NULL,
    queued_at timestamptz NOT NULL,
    task_id bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

CREATE TABLE IF NOT EXISTS lead.due (
    due_at timestamptz NOT NULL,
    task_id bigint NOT NULL,
    PRIMARY KEY (due_at, task_id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

DO $$
BEGIN
    -- CREATE INDEX IF NOT EXISTS would lock the table before it looks; this looks first.
    IF to_regclass('lead.ready_in_order') IS NULL THEN
        CREATE UNIQUE INDEX ready_in_order ON lead.ready (task_type, lane, score DESC, queued_at, task_id);
    END IF;
END;
$$;

-- Outlives the task it names, so that a key is never used twice, also after pruning.
CREATE TABLE IF NOT EXISTS lead.submission (
    idempotency_key text PRIMARY KEY,
    task_id bigint NOT NULL,
    submitted_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS lead.task_dependency (
    task_id bigint NOT NULL,
    depends_on bigint NOT NULL,
    PRIMARY KEY (depends_on, task_id)
);

DO $$
BEGIN
    IF to_regclass('lead.task_dependency_task') IS NULL THEN
        CREATE INDEX task_dependency_task ON lead.task_dependency (task_id);
    END IF;
END;
$$;

-- Depth as a log of differences: writers only ever append, so counting never makes two of them wait for each other. The tick
-- folds the log (lead.fold_queue_depth).
CREATE TABLE IF NOT EXISTS lead.queue_depth_delta (
    task_type text NOT NULL,
    lane text NOT NULL DEFAULT '',
    status text NOT NULL,
    -- Of what is queued, so that a claim looks only where something waits; NULL for every other status.
    score smallint,
    tasks integer NOT NULL
) WITH (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.5);

-- Weighted fair shares by virtual time (start-time fair queueing, Goyal et al. 1996): who was served least for its weight comes
-- next, and who comes back from idle starts where the others are, so that idleness earns no credit.
-- scope 'type': key is a workflow type, served are slot-seconds; 'charge:<workflow type>': key is an execution that has ended, its
-- slot-seconds not booked yet. Scope 'lane:<task type>': key is a tenant, served are tasks; 'clock': key is such a scope.
CREATE TABLE IF NOT EXISTS lead.fair_share (
    scope text NOT NULL,
    key text NOT NULL,
    virtual_time numeric(30, 6) NOT NULL DEFAULT 0,
    PRIMARY KEY (scope, key)
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS lead.task_attempt (
    task_id bigint NOT NULL,
    attempt integer NOT NULL,
    execution_id text NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('completed', 'retried', 'deferred', 'returned', 'stalled', 'dead_letter', 'cancelled')),
    error_class text,
    error_message text,
    cost_usd numeric(20, 10) NOT NULL DEFAULT 0
);

DO $$
BEGIN
    IF to_regclass('lead.task_attempt_task') IS NULL THEN
        CREATE INDEX task_attempt_task ON lead.task_attempt (task_id);
    END IF;
    IF to_regclass('lead.task_attempt_ended') IS NULL THEN
        -- Some thousand attempts a range: reports ask for the last thousand.
        CREATE INDEX task_attempt_ended ON lead.task_attempt USING brin (ended_at) WITH (pages_per_range = 16);
    END IF;
END;
$$;

-- A row each time a task dies. It is open while resolution is NULL; once it was replayed or discarded it stays as history, and a
-- task that dies again gets a new row.
CREATE TABLE IF NOT EXISTS lead.dead_letter (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id bigint NOT NULL,
    task_type text NOT NULL,
    tenant text,
    reason text NOT NULL,
    error_class text NOT NULL,
    error_message text NOT NULL,
    context jsonb NOT NULL DEFAULT '{}',
    -- How often the task had been replayed before it died this time.
    times_replayed integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    resolution text CHECK (resolution IN ('replayed', 'discarded')),
    resolved_by text,
    resolution_reason text,
    CONSTRAINT dead_letter_resolved CHECK ((resolution IS NULL) = (resolved_at IS NULL))
);

DO $$
BEGIN
    IF to_regclass('lead.dead_letter_open') IS NULL THEN
        CREATE UNIQUE INDEX dead_letter_open ON lead.dead_letter (task_id) WHERE resolution IS NULL;
        CREATE INDEX dead_letter_waiting ON lead.dead_letter (created_at, id) WHERE resolution IS NULL;
        CREATE INDEX dead_letter_task ON lead.dead_letter (task_id);
    END IF;
END;
$$;

-- What outsiders fill and read. Auto-updatable (INSERT, UPDATE, DELETE, RETURNING and ON CONFLICT work); the two computed
-- columns are right at every moment because nothing stores them.
DO $$
BEGIN
    IF to_regclass('public.task_queue') IS NULL THEN
        CREATE VIEW public.task_queue WITH (security_invoker = true) AS
        SELECT
            t.id,
            t.task_type,
            t.priority_base,
            t.score + CASE
                WHEN t.status = 'queued' AND now() - t.queued_at >= make_interval(
                    mins => (SELECT s.value::integer FROM lead.setting AS s WHERE s.name = 'starvation_minutes')
                ) THEN (SELECT s.value::integer FROM lead.setting AS s WHERE s.name = 'starvation_points')
                ELSE 0
            END AS priority_calculated,
            floor(extract(EPOCH FROM coalesce(t.processed_at, now()) - t.created_at) / 60)::integer AS age_minutes,
            t.payload,
            t.dependencies,
            t.estimated_duration_ms,
            t.estimated_cost,
            t.status,
            t.deferred_until,
            t.defer_reason,
            t.predicted_success_rate,
            t.complexity_score,
            t.created_at,
            t.processed_at,
            t.value_usd,
            t.deadline_at,
            t.not_before,
            t.tenant,
            t.idempotency_key,
            t.attempts,
            t.deferrals,
            t.stalls,
            t.execution_id,
            t.claimed_at,
            t.cost_usd,
            t.result,
            t.last_error_class,
            t.last_error_message,
            t.queued_at
        FROM lead.task AS t;
    END IF;
END;
$$;

-- Executions (the outbox), their states and history ---------------------------------------------------------------
CREATE TABLE IF NOT EXISTS public.workflow_orchestration (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    execution_id text NOT NULL UNIQUE CHECK (length(execution_id) BETWEEN 1 AND 200),
    workflow_type text NOT NULL CHECK (
        workflow_type IN ('content_pipeline', 'seo_monitor', 'revenue_optimizer', 'intelligence_engine')
    ),
    status text NOT NULL DEFAULT 'pending' CHECK (
        status IN ('pending', 'analyzing', 'dispatching', 'running', 'completed', 'failed', 'timeout', 'cancelled')
    ),
    priority_score integer NOT NULL DEFAULT 50 CHECK (priority_score BETWEEN 0 AND 100),
    scheduled_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    completed_at timestamptz,
    timeout_at timestamptz,
    batch_size integer NOT NULL DEFAULT 1 CHECK (batch_size >= 0),
    estimated_cost numeric(20, 10) NOT NULL DEFAULT 0 CHECK (estimated_cost >= 0),
    actual_cost numeric(20, 10) NOT NULL DEFAULT 0 CHECK (actual_cost >= 0),
    api_calls_allocated integer NOT NULL DEFAULT 0 CHECK (api_calls_allocated >= 0),
    memory_allocated_mb integer NOT NULL DEFAULT 0 CHECK (memory_allocated_mb >= 0),
    input_context jsonb NOT NULL DEFAULT '{}',
    output_result jsonb,
    error_details jsonb,
    metrics jsonb NOT NULL DEFAULT '{}',
    parent_execution_id text,
    worker_id text NOT NULL,
    retry_count integer NOT NULL DEFAULT 0 CHECK (retry_count >= 0),
    max_retries integer NOT NULL DEFAULT 3 CHECK (max_retries >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- Ours. A row counts as reserved once reserved_at is set; only such rows are launched.
    reserved_at timestamptz,
    budget_day date,
    -- What is held of the day's budget for this execution. actual_cost + calls_held_usd never exceed it.
    envelope_usd numeric(20, 10) NOT NULL DEFAULT 0,
    calls_held_usd numeric(20, 10) NOT NULL DEFAULT 0,
    launch_number integer NOT NULL DEFAULT 1,
    run_id text,
    fence bigint NOT NULL DEFAULT 0,
    heartbeat_at timestamptz,
    lease_expires_at timestamptz,
    memory_peak_mb integer,
    stop_requested text,
    -- Claimed by a worker of its own (claim_tasks): it takes none of our slots and memory, and its calls draw on the day.
    is_external boolean NOT NULL DEFAULT false,
    is_probe boolean NOT NULL DEFAULT false,
    tasks_completed integer NOT NULL DEFAULT 0,
    tasks_failed integer NOT NULL DEFAULT 0,
    quality_scores integer NOT NULL DEFAULT 0,
    quality_sum numeric(20, 4) NOT NULL DEFAULT 0,
    -- What was claimed for it, so that no index on lead.task is needed to find it again.
    task_ids bigint[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

DO $$
BEGIN
    IF to_regclass('public.workflow_orchestration_active') IS NULL THEN
        CREATE INDEX workflow_orchestration_active ON public.workflow_orchestration (status, workflow_type)
        WHERE status IN ('pending', 'analyzing', 'dispatching', 'running');
        CREATE INDEX workflow_orchestration_recent ON public.workflow_orchestration (created_at);
        CREATE INDEX workflow_orchestration_ended ON public.workflow_orchestration (workflow_type, completed_at)
        WHERE completed_at IS NOT NULL;
        CREATE INDEX workflow_orchestration_parent ON public.workflow_orchestration (parent_execution_id);
    END IF;
END;
$$;

-- A fencing number only grows, over all executions: an old lease can never equal a new one.
CREATE SEQUENCE IF NOT EXISTS lead.fence;

-- What a plan has reserved and create_execution_records has not yet turned into an execution.
CREATE TABLE IF NOT EXISTS lead.plan_reservation (
    plan_id text NOT NULL,
    execution_id text PRIMARY KEY,
    workflow_type text NOT NULL,
    budget_day date NOT NULL,
    amount_usd numeric(20, 10) NOT NULL,
    memory_mb integer NOT NULL,
    is_probe boolean NOT NULL DEFAULT false,
    reserved_at timestamptz NOT NULL
);

CREATE TABLE IF NOT EXISTS public.workflow_states (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    execution_id text NOT NULL,
    state text NOT NULL CHECK (
        state IN ('IDLE', 'ANALYZING', 'DISPATCHING', 'MONITORING', 'ERROR_RECOVERY', 'COOLDOWN', 'COMPLETED')
    ),
    previous_state text,
    transition_reason text,
    entered_at timestamptz NOT NULL DEFAULT now(),
    duration_ms bigint,
    state_data jsonb NOT NULL DEFAULT '{}',
    cpu_usage_percent numeric(6, 2),
    memory_usage_mb integer,
    active_connections integer
);

DO $$
BEGIN
    IF to_regclass('public.workflow_states_execution') IS NULL THEN
        CREATE INDEX workflow_states_execution ON public.workflow_states (execution_id, id);
    END IF;
END;
$$;

CREATE TABLE IF NOT EXISTS lead.state_transition (
    subject text NOT NULL CHECK (subject IN ('coordinator', 'execution')),
    from_state text NOT NULL,
    to_state text NOT NULL,
    PRIMARY KEY (subject, from_state, to_state)
);

-- One row: the coordinator's state, and who may decide. Deciding locks it, so it is also the lock for concurrency slots.
CREATE TABLE IF NOT EXISTS lead.coordinator (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    state text NOT NULL DEFAULT 'IDLE',
    state_entered_at timestamptz NOT NULL DEFAULT now(),
    state_row_id bigint,
    lease_holder text,
    lease_expires_at timestamptz,
    lease_fence bigint NOT NULL DEFAULT 0
);

CREATE TABLE IF NOT EXISTS lead.tick (
    tick_id text PRIMARY KEY,
    worker_id text NOT NULL,
    decided_at timestamptz NOT NULL,
    duration_ms numeric(12, 3),
    outcome text NOT NULL CHECK (outcome IN ('dispatched', 'nothing_to_do', 'refused')),
    reason text,
    workflows_dispatched integer NOT NULL DEFAULT 0,
    decision jsonb NOT NULL DEFAULT '{}'
);

DO $$
BEGIN
    IF to_regclass('lead.tick_decided') IS NULL THEN
        CREATE INDEX tick_decided ON lead.tick (decided_at);
    END IF;
END;
$$;

CREATE TABLE IF NOT EXISTS public.execution_history (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    workflow_type text NOT NULL CHECK (
        workflow_type IN ('content_pipeline', 'seo_monitor', 'revenue_optimizer', 'intelligence_engine')
    ),
    execution_date date NOT NULL,
    hour_of_day integer NOT NULL CHECK (hour_of_day BETWEEN 0 AND 23),
    total_executions integer NOT NULL DEFAULT 0,
    successful_executions integer NOT NULL DEFAULT 0,
    failed_executions integer NOT NULL DEFAULT 0,
    avg_duration_ms numeric(14, 2) NOT NULL DEFAULT 0,
    total_cost numeric(20, 10) NOT NULL DEFAULT 0,
    avg_api_calls numeric(12, 3) NOT NULL DEFAULT 0,
    avg_memory_mb numeric(12, 2) NOT NULL DEFAULT 0,
    avg_batch_size numeric(12, 3) NOT NULL DEFAULT 0,
    peak_concurrent_executions integer NOT NULL DEFAULT 0,
    avg_success_rate numeric(7, 6) NOT NULL DEFAULT 0,
    avg_quality_score numeric(7, 3),
    content_items_processed integer NOT NULL DEFAULT 0,
    revenue_generated numeric(20, 10) NOT NULL DEFAULT 0,
    -- Ours: what the averages are made of.
    tasks_completed integer NOT NULL DEFAULT 0,
    tasks_failed integer NOT NULL DEFAULT 0,
    quality_scores integer NOT NULL DEFAULT 0,
    UNIQUE (workflow_type, execution_date, hour_of_day)
);

-- Money ------------------------------------------------------------------------------------------------------------
-- held: promised to executions (scopes total, workflow) or to open calls (scopes provider, tenant); spent: settled.
CREATE TABLE IF NOT EXISTS lead.budget_account (
    budget_day date NOT NULL,
    scope text NOT NULL CHECK (scope IN ('total', 'workflow', 'provider', 'tenant')),
    scope_key text NOT NULL,
    held_usd numeric(20, 10) NOT NULL DEFAULT 0 CHECK (held_usd >= 0),
    spent_usd numeric(20, 10) NOT NULL DEFAULT 0 CHECK (spent_usd >= 0),
    PRIMARY KEY (budget_day, scope, scope_key)
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS lead.api_call (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id text NOT NULL,
    fence bigint NOT NULL,
    task_id bigint NOT NULL,
    attempt integer NOT NULL,
    step text NOT NULL,
    tenant text,
    provider text NOT NULL,
    model text NOT NULL,
    status text NOT NULL CHECK (status IN ('reserved', 'sent', 'settled', 'released')),
    outcome text,
    budget_day date NOT NULL,
    max_cost_usd numeric(20, 10) NOT NULL CHECK (max_cost_usd >= 0),
    cost_usd numeric(20, 10) CHECK (cost_usd >= 0),
    input_tokens integer,
    output_tokens integer,
    thinking_tokens integer,
    cached_tokens integer,
    http_status integer,
    error_message text,
    is_probe boolean NOT NULL DEFAULT false,
    slot_no integer NOT NULL,
    use_by timestamptz NOT NULL,
    reserved_at timestamptz NOT NULL,
    sent_at timestamptz,
    settled_at timestamptz
) WITH (fillfactor = 85);

DO $$
BEGIN
    IF to_regclass('lead.api_call_task') IS NULL THEN
        CREATE INDEX api_call_task ON lead.api_call (task_id);
        CREATE INDEX api_call_reserved ON lead.api_call (reserved_at);
    END IF;
    IF to_regclass('lead.api_call_execution') IS NULL THEN
        -- No index holds a call's status, so that sending and settling are HOT updates.
        CREATE INDEX api_call_execution ON lead.api_call (execution_id);
    END IF;
END;
$$;

-- Limits -----------------------------------------------------------------------------------------------------------
CREATE TABLE IF NOT EXISTS public.api_rate_limits (
    provider text PRIMARY KEY CHECK (provider ~ '^[a-z][a-z0-9_]{0,39}$'),
    requests_per_minute integer NOT NULL CHECK (requests_per_minute BETWEEN 1 AND 100000),
    requests_used_current_minute integer NOT NULL DEFAULT 0,
    minute_reset_at timestamptz NOT NULL DEFAULT now(),
    daily_cost_limit numeric(20, 10) CHECK (daily_cost_limit >= 0),
    daily_cost_used numeric(20, 10) NOT NULL DEFAULT 0,
    day_reset_at timestamptz NOT NULL DEFAULT now(),
    is_available boolean NOT NULL DEFAULT true,
    last_error_at timestamptz,
    consecutive_errors integer NOT NULL DEFAULT 0,
    burst_capacity integer NOT NULL DEFAULT 0 CHECK (burst_capacity >= 0),
    burst_used integer NOT NULL DEFAULT 0,
    -- The limit in force: a tenth lower after a 429, raised again by one every five seconds without (settle_api_call).
    adaptive_limit integer NOT NULL DEFAULT 1 CHECK (adaptive_limit >= 1),
    updated_at timestamptz NOT NULL DEFAULT now(),
    blocked_until timestamptz,
    adapted_at timestamptz,
    seeded_at timestamptz
) WITH (fillfactor = 50);

-- A row a request of the limit; it is taken for 60 seconds and a margin. With N rows no 60-second window can hold more than N.
CREATE TABLE IF NOT EXISTS lead.rate_slot (
    provider text NOT NULL REFERENCES public.api_rate_limits (provider) ON DELETE CASCADE,
    slot_no integer NOT NULL,
    free_at timestamptz NOT NULL DEFAULT '-infinity',
    call_id bigint,
    PRIMARY KEY (provider, slot_no)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500);

DO $$
BEGIN
    IF to_regclass('lead.rate_slot_free') IS NULL THEN
        CREATE INDEX rate_slot_free ON lead.rate_slot (provider, free_at, slot_no);
    END IF;
END;
$$;

CREATE TABLE IF NOT EXISTS lead.circuit_breaker (
    name text PRIMARY KEY,
    state text NOT NULL DEFAULT 'closed' CHECK (state IN ('closed', 'open', 'half_open')),
    consecutive_failures integer NOT NULL DEFAULT 0,
    opened_at timestamptz,
    retry_at timestamptz,
    probe_limit integer NOT NULL DEFAULT 0,
    probes_started integer NOT NULL DEFAULT 0,
    probes_succeeded integer NOT NULL DEFAULT 0,
    times_opened integer NOT NULL DEFAULT 0,
    last_error text,
    last_error_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- What leaves the database: the intent is taken here first, once per task and once per address.
CREATE TABLE IF NOT EXISTS lead.publication (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id bigint NOT NULL,
    site text NOT NULL,
    slug text NOT NULL CHECK (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND length(slug) <= 200),
    title text NOT NULL,
    status text NOT NULL CHECK (status IN ('intended', 'published')),
    execution_id text NOT NULL,
    fence bigint NOT NULL,
    url text,
    content_sha256 text,
    details jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    UNIQUE (site, slug),
    UNIQUE (site, task_id)
);

-- Operating ----------------------------------------------------------------------------------------------------------
-- Who changed what, when, from what to what. Append-only: a trigger refuses every change of it, to its owner too, and pruning
-- leaves it alone. The actor is what the caller says; the role is what the server knows.
CREATE TABLE IF NOT EXISTS lead.audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,
    database_role text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    before jsonb,
    after jsonb,
    reason text
);

DO $$
BEGIN
    IF to_regclass('lead.audit_log_at') IS NULL THEN
        CREATE INDEX audit_log_at ON lead.audit_log (at);
        CREATE INDEX audit_log_subject ON lead.audit_log (subject, id);
    END IF;
END;
$$;

-- How far prune_history has looked in this round (NULL: through), so that no step reads again what an earlier one had to leave.
CREATE TABLE IF NOT EXISTS lead.prune_progress (
    table_name text PRIMARY KEY,
    position bigint DEFAULT 0,
    completed_at timestamptz
) WITH (fillfactor = 50);

-- Watching -----------------------------------------------------------------------------------------------------------
CREATE TABLE IF NOT EXISTS public.resource_usage (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    timestamp timestamptz NOT NULL DEFAULT now(),
    resource_type text NOT NULL,
    used_amount numeric(20, 10) NOT NULL DEFAULT 0,
    total_capacity numeric(20, 10),
    utilization_percent numeric(10, 3) GENERATED ALWAYS AS (
        CASE WHEN total_capacity > 0 THEN round(100 * used_amount / total_capacity, 3) END
    ) STORED,
    soft_limit numeric(20, 10),
    hard_limit numeric(20, 10),
    threshold_alert_sent boolean NOT NULL DEFAULT false,
    execution_id text,
    workflow_type text,
    provider text,
    metadata jsonb NOT NULL DEFAULT '{}'
);

CREATE TABLE IF NOT EXISTS public.system_health (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    metric_name text NOT NULL UNIQUE,
    metric_value numeric(20, 6) NOT NULL DEFAULT 0,
    metric_unit text,
    threshold_warning numeric(20, 6),
    threshold_critical numeric(20, 6),
    is_healthy boolean NOT NULL DEFAULT true,
    previous_value numeric(20, 6),
    trend_direction text NOT NULL DEFAULT 'stable' CHECK (trend_direction IN ('up', 'down', 'stable')),
    change_rate numeric(20, 6),
    source text NOT NULL DEFAULT 'coordinator',
    tags jsonb NOT NULL DEFAULT '{}',
    last_updated timestamptz NOT NULL DEFAULT now()
);

-- What the files defined when they were last applied, by fingerprint: validate_coordinator_deployment compares with it.
CREATE TABLE IF NOT EXISTS lead.deployed_object (
    kind text NOT NULL,
    name text NOT NULL,
    fingerprint text NOT NULL,
    PRIMARY KEY (kind, name)
);

CREATE TABLE IF NOT EXISTS lead.error_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    occurred_at timestamptz NOT NULL DEFAULT now(),
    error_code text NOT NULL,
    error_message text NOT NULL,
    context jsonb NOT NULL DEFAULT '{}',
    worker_id text
);

DO $$
BEGIN
    IF to_regclass('public.resource_usage_recent') IS NULL THEN
        CREATE INDEX resource_usage_recent ON public.resource_usage (timestamp);
        CREATE INDEX error_log_recent ON lead.error_log (occurred_at);
    END IF;
    IF to_regclass('lead.publication_published') IS NULL THEN
        CREATE INDEX publication_published ON lead.publication (published_at) WHERE status = 'published';
    END IF;
    IF to_regclass('public.coordinator_monitoring') IS NULL THEN
        CREATE VIEW public.coordinator_monitoring WITH (security_invoker = true) AS
        SELECT
            w.execution_id,
            w.workflow_type,
            w.status,
            w.priority_score,
            w.batch_size,
            w.scheduled_at,
            w.started_at,
            w.completed_at,
            w.timeout_at,
            round(extract(EPOCH FROM coalesce(w.completed_at, now()) - w.started_at) * 1000)::bigint AS duration_ms,
            (
                SELECT s.state FROM public.workflow_states AS s
                WHERE s.execution_id = w.execution_id ORDER BY s.id DESC LIMIT 1
            ) AS current_state,
            w.estimated_cost,
            w.actual_cost,
            w.worker_id,
            w.run_id,
            w.retry_count,
            w.parent_execution_id,
            w.error_details,
            w.created_at,
            w.updated_at
        FROM public.workflow_orchestration AS w;
    END IF;
END;
$$;

-- Reading settings ---------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION lead.setting_text(p_name text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_value text;
BEGIN
    SELECT s.value INTO v_value FROM lead.setting AS s WHERE s.name = p_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'setting: % has no row in lead.setting; deploy again to seed it', quote_literal(p_name) USING ERRCODE = '22023';
    END IF;
    RETURN v_value;
END;
$$;

CREATE OR REPLACE FUNCTION lead.setting_number(p_name text) RETURNS numeric
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_value numeric;
BEGIN
    SELECT s.value::numeric INTO v_value FROM lead.setting AS s WHERE s.name = p_name;
    RETURN CASE WHEN found THEN v_value ELSE lead.setting_text(p_name)::numeric END;
END;
$$;

-- One place that says what a setting may be, for the seeding and for an operator's UPDATE alike.
CREATE OR REPLACE FUNCTION lead.check_setting() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_number numeric;
BEGIN
    IF new.unit = 'time zone' THEN
        IF NOT EXISTS (SELECT 1 FROM pg_timezone_names AS z WHERE z.name = new.value) THEN
            RAISE EXCEPTION '%: % is not a time zone this server knows', new.name, quote_literal(new.value) USING ERRCODE = '22023';
        END IF;
    ELSIF new.unit = 'boolean' THEN
        IF new.value NOT IN ('true', 'false') THEN
            RAISE EXCEPTION '%: % is neither true nor false', new.name, quote_literal(new.value) USING ERRCODE = '22023';
        END IF;
    ELSE
        BEGIN
            v_number := new.value::numeric;
        EXCEPTION WHEN invalid_text_representation OR numeric_value_out_of_range THEN
            RAISE EXCEPTION '%: % is not a number', new.name, quote_literal(new.value) USING ERRCODE = '22023';
        END;
        IF v_number = 'NaN' OR v_number < coalesce(new.minimum, '-infinity') OR v_number > coalesce(new.maximum, 'infinity') THEN
            RAISE EXCEPTION '%: % is out of range, % to % % are allowed', new.name, new.value,
                coalesce(new.minimum::text, 'anything'), coalesce(new.maximum::text, 'anything'), new.unit USING ERRCODE = '22023';
        END IF;
    END IF;
    new.updated_at := clock_timestamp();
    IF tg_op = 'UPDATE' AND new.value <> old.value THEN
        -- An operator's change counts as seeded: no environment overwrites it.
        new.seeded_at := coalesce(new.seeded_at, clock_timestamp());
    END IF;
    RETURN new;
END;
$$;

-- Counting the queue ---------------------------------------------------------------------------------------------------
CREATE OR REPLACE FUNCTION lead.count_inserted_tasks() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_with_dependencies bigint;
    v_draining_type text;
    v_draining_tenant text;
BEGIN
    WITH counted AS (
        SELECT n.task_type, coalesce(n.tenant, '') AS lane, n.status, CASE WHEN n.status = 'queued' THEN n.score END AS score,
            count(*)::integer AS tasks, count(*) FILTER (WHERE n.dependencies <> '{}') AS waiting
        FROM new_tasks AS n
        GROUP BY n.task_type, coalesce(n.tenant, ''), n.status, CASE WHEN n.status = 'queued' THEN n.score END
    ), logged AS (
        INSERT INTO lead.queue_depth_delta (task_type, lane, status, score, tasks)
        SELECT c.task_type, c.lane, c.status, c.score, c.tasks FROM counted AS c
    ), draining AS (
        SELECT min(p.task_type) AS task_type, min(t.tenant) AS tenant
        FROM counted AS c
        LEFT JOIN lead.workflow_policy AS p ON p.task_type = c.task_type AND p.mode = 'draining'
        LEFT JOIN lead.tenant AS t ON t.tenant = c.lane AND t.mode = 'draining'
    )
    SELECT sum(c.waiting), min(d.task_type), min(d.tenant) INTO v_with_dependencies, v_draining_type, v_draining_tenant
    FROM counted AS c CROSS JOIN draining AS d;
    IF v_draining_type IS NOT NULL OR v_draining_tenant IS NOT NULL THEN
        RAISE EXCEPTION '%', CASE
            WHEN v_draining_type IS NOT NULL THEN format('task_type: %s is draining and takes no new tasks', v_draining_type)
            ELSE format('tenant: %s is draining and takes no new tasks', v_draining_tenant)
        END USING ERRCODE = 'LC001';
    END IF;

    INSERT INTO lead.ready (task_type, lane, score, queued_at, task_id)
    SELECT n.task_type, coalesce(n.tenant, ''), n.score, n.queued_at, n.id FROM new_tasks AS n WHERE n.status = 'queued';
    INSERT INTO lead.due (due_at, task_id)
    SELECT n.deferred_until, n.id FROM new_tasks AS n WHERE n.status = 'deferred' AND n.deferred_until IS NOT NULL;

    IF v_with_dependencies > 0 THEN
        INSERT INTO lead.task_dependency (task_id, depends_on)
        SELECT DISTINCT n.id, d.depends_on
        FROM new_tasks AS n, unnest(n.dependencies) AS d (depends_on)
        WHERE n.status IN ('queued', 'deferred');
        -- FOR SHARE waits for a completion that is under way, so that a task is never left waiting for one that has just ended.
        PERFORM 1
        FROM lead.task AS t
        WHERE t.id IN (SELECT d.depends_on FROM new_tasks AS n, unnest(n.dependencies) AS d (depends_on))
        ORDER BY t.id
        FOR SHARE OF t;
        DELETE FROM lead.task_dependency AS d
        USING new_tasks AS n, lead.task AS t
        WHERE d.task_id = n.id AND t.id = d.depends_on AND t.status = 'completed';
        UPDATE lead.task AS t
        SET status = 'deferred', deferred_until = NULL, defer_reason = 'waits for tasks it depends on'
        FROM new_tasks AS n
        WHERE t.id = n.id AND EXISTS (SELECT 1 FROM lead.task_dependency AS d WHERE d.task_id = n.id);
    END IF;
    RETURN NULL;
END;
$$;

-- A statement that moves every one of its rows from one status to another, all of one type, may say so beforehand. Then only lanes
-- are counted, and lead.ready and lead.due are left to the caller.
CREATE OR REPLACE FUNCTION lead.announce_move(p_task_type text, p_from text, p_to text) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
RETURN set_config('lead.announced_move', concat_ws(' ', p_task_type, p_from, p_to), true);

CREATE OR REPLACE FUNCTION lead.count_updated_tasks() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
-- A look-up by key for each row, whatever the planner believes about tables that have just been filled.
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    v_announced text[] := string_to_array(nullif(current_setting('lead.announced_move', true), ''), ' ');
    v_queued bigint;
    v_deferred bigint;
BEGIN
    IF v_announced IS NOT NULL THEN
        PERFORM set_config('lead.announced_move', '', true);
        WITH counted AS (
            SELECT coalesce(n.tenant, '') AS lane, CASE WHEN v_announced[2] = 'queued' THEN n.score END AS score, count(*)::integer AS tasks
            FROM new_tasks AS n GROUP BY 1, 2
        )
        INSERT INTO lead.queue_depth_delta (task_type, lane, status, score, tasks)
        SELECT v_announced[1], c.lane, v_announced[2], c.score, -c.tasks FROM counted AS c
        UNION ALL
        SELECT v_announced[1], c.lane, v_announced[3], NULL, sum(c.tasks)::integer FROM counted AS c GROUP BY c.lane;
        RETURN NULL;
    END IF;
    WITH moved AS (
        SELECT m.task_type, m.lane, m.status, m.score, sum(m.tasks)::integer AS tasks
        FROM (
            SELECT o.task_type, coalesce(o.tenant, '') AS lane, o.status, CASE WHEN o.status = 'queued' THEN o.score END AS score, -1 AS tasks
            FROM old_tasks AS o
            UNION ALL
            SELECT n.task_type, coalesce(n.tenant, ''), n.status, CASE WHEN n.status = 'queued' THEN n.score END, 1 FROM new_tasks AS n
        ) AS m
        GROUP BY m.task_type, m.lane, m.status, m.score
    ), logged AS (
        INSERT INTO lead.queue_depth_delta (task_type, lane, status, score, tasks)
        SELECT m.task_type, m.lane, m.status, m.score, m.tasks FROM moved AS m WHERE m.tasks <> 0
    )
    SELECT count(*) FILTER (WHERE m.status = 'queued'), count(*) FILTER (WHERE m.status = 'deferred') INTO v_queued, v_deferred
    FROM moved AS m;
    IF v_queued > 0 THEN
        DELETE FROM lead.ready AS r
        USING old_tasks AS o
        WHERE o.status = 'queued' AND r.task_type = o.task_type AND r.lane = coalesce(o.tenant, '') AND r.score = o.score
            AND r.queued_at = o.queued_at AND r.task_id = o.id;
        INSERT INTO lead.ready (task_type, lane, score, queued_at, task_id)
        SELECT n.task_type, coalesce(n.tenant, ''), n.score, n.queued_at, n.id FROM new_tasks AS n WHERE n.status = 'queued';
    END IF;
    IF v_deferred > 0 THEN
        DELETE FROM lead.due AS d
        USING old_tasks AS o
        WHERE o.status = 'deferred' AND d.due_at = o.deferred_until AND d.task_id = o.id;
        INSERT INTO lead.due (due_at, task_id)
        SELECT n.deferred_until, n.id FROM new_tasks AS n WHERE n.status = 'deferred' AND n.deferred_until IS NOT NULL;
    END IF;
    RETURN NULL;
END;
$$;

CREATE OR REPLACE FUNCTION lead.count_deleted_tasks() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    INSERT INTO lead.queue_depth_delta (task_type, lane, status, score, tasks)
    SELECT o.task_type, coalesce(o.tenant, ''), o.status, CASE WHEN o.status = 'queued' THEN o.score END, -count(*)::integer
    FROM old_tasks AS o GROUP BY o.task_type, coalesce(o.tenant, ''), o.status, CASE WHEN o.status = 'queued' THEN o.score END;
    DELETE FROM lead.ready AS r
    USING old_tasks AS o
    WHERE o.status = 'queued' AND r.task_type = o.task_type AND r.lane = coalesce(o.tenant, '') AND r.score = o.score
        AND r.queued_at = o.queued_at AND r.task_id = o.id;
    DELETE FROM lead.due AS d
    USING old_tasks AS o
    WHERE o.status = 'deferred' AND d.due_at = o.deferred_until AND d.task_id = o.id;
    RETURN NULL;
END;
$$;

CREATE OR REPLACE FUNCTION lead.forget_truncated_tasks() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    TRUNCATE lead.ready, lead.due, lead.queue_depth_delta, lead.task_dependency;
    RETURN NULL;
END;
$$;

-- Files of a version that does not look for a newer one (0.1.0) stop here, before they have changed anything that stays: they
-- make the functions of their first file anew and then add settings, but know of no lead.schema_version.
CREATE OR REPLACE FUNCTION lead.refuse_older_files() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_now constant xid := pg_current_xact_id()::xid;
BEGIN
    IF EXISTS (SELECT 1 FROM pg_proc AS p WHERE p.oid = 'lead.check_setting()'::regprocedure AND p.xmin = v_now)
        AND EXISTS (SELECT 1 FROM pg_proc AS p WHERE p.oid = 'lead.schema_version()'::regprocedure AND p.xmin <> v_now) THEN
        RAISE EXCEPTION 'version: this database is at %, and an older one may not be deployed over it: there is no way back',
            lead.schema_version()
            USING ERRCODE = 'LC006', HINT = format('deploy version %s or a newer one', lead.schema_version());
    END IF;
    RETURN NULL;
END;
$$;

-- The rows of lead.rate_slot follow requests_per_minute. Requests that were made are not forgotten: where the limit falls, rows that
-- stay are taken for as long as those beyond it would have been, the longest first; and what is beyond it goes only once it is free,
-- so that a limit that rises again finds it. SKIP LOCKED: whoever holds a slot may wait for who waits for this provider's row.
CREATE OR REPLACE FUNCTION lead.follow_rate_limit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_beyond timestamptz[];
BEGIN
    INSERT INTO lead.rate_slot (provider, slot_no)
    SELECT new.provider, n FROM generate_series(1, new.requests_per_minute) AS g (n)
    ON CONFLICT (provider, slot_no) DO NOTHING;
    IF tg_op = 'UPDATE' AND new.requests_per_minute < old.requests_per_minute THEN
        v_beyond := ARRAY(
            SELECT s.free_at FROM lead.rate_slot AS s
            WHERE s.provider = new.provider AND s.slot_no > new.requests_per_minute AND s.slot_no <= old.requests_per_minute
            ORDER BY s.free_at DESC
        );
        WITH kept AS (
            SELECT s.slot_no, s.free_at FROM lead.rate_slot AS s
            WHERE s.provider = new.provider AND s.slot_no <= new.requests_per_minute
            ORDER BY s.free_at, s.slot_no LIMIT cardinality(v_beyond) FOR UPDATE SKIP LOCKED
        )
        UPDATE lead.rate_slot AS s SET free_at = v_beyond[k.place], call_id = NULL
        FROM (SELECT e.slot_no, e.free_at, row_number() OVER (ORDER BY e.free_at, e.slot_no) AS place FROM kept AS e) AS k
        WHERE s.provider = new.provider AND s.slot_no = k.slot_no AND v_beyond[k.place] > k.free_at;
    END IF;
    DELETE FROM lead.rate_slot AS s WHERE s.provider = new.provider AND s.slot_no = ANY (ARRAY(
        SELECT b.slot_no FROM lead.rate_slot AS b
        WHERE b.provider = new.provider AND b.slot_no > new.requests_per_minute
            -- On a scratch database any time may be now: only a slot that was never taken is surely free.
            AND b.free_at <= CASE lead.setting_text('scratch_database') WHEN 'true' THEN '-infinity' ELSE clock_timestamp() END
        FOR UPDATE SKIP LOCKED
    ));
    INSERT INTO lead.circuit_breaker (name) VALUES ('provider:' || new.provider) ON CONFLICT (name) DO NOTHING;
    RETURN NULL;
END;
$$;

CREATE OR REPLACE FUNCTION lead.fill_rate_limit() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
BEGIN
    IF tg_op = 'INSERT' OR new.requests_per_minute IS DISTINCT FROM old.requests_per_minute THEN
        new.adaptive_limit := new.requests_per_minute;
    END IF;
    RETURN new;
END;
$$;

DO $$
BEGIN
    -- A trigger is made once: making it again would lock the table.
    IF NOT EXISTS (SELECT 1 FROM pg_trigger WHERE tgname = 'task_inserted' AND tgrelid = 'lead.task'::regclass) THEN
        CREATE TRIGGER task_inserted AFTER INSERT ON lead.task
        REFERENCING NEW TABLE AS new_tasks FOR EACH STATEMENT EXECUTE FUNCTION lead.count_inserted_tasks();
        CREATE TRIGGER task_updated AFTER UPDATE ON lead.task
        REFERENCING OLD TABLE AS old_tasks NEW TABLE AS new_tasks
        FOR EACH STATEMENT EXECUTE FUNCTION lead.count_updated_tasks();
        CREATE TRIGGER task_deleted AFTER DELETE ON lead.task
        REFERENCING OLD TABLE AS old_tasks FOR EACH STATEMENT EXECUTE FUNCTION lead.count_deleted_tasks();
        CREATE TRIGGER task_truncated AFTER TRUNCATE ON lead.task FOR EACH STATEMENT EXECUTE FUNCTION lead.forget_truncated_tasks();
        CREATE TRIGGER setting_checked BEFORE INSERT OR UPDATE ON lead.setting
        FOR EACH ROW EXECUTE FUNCTION lead.check_setting();
        CREATE TRIGGER rate_limit_filled BEFORE INSERT OR UPDATE OF requests_per_minute ON public.api_rate_limits
        FOR EACH ROW EXECUTE FUNCTION lead.fill_rate_limit();
        CREATE TRIGGER rate_limit_followed AFTER INSERT OR UPDATE OF requests_per_minute ON public.api_rate_limits
        FOR EACH ROW EXECUTE FUNCTION lead.follow_rate_limit();
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_trigger WHERE tgname = 'older_files_refused' AND tgrelid = 'lead.setting'::regclass) THEN
        CREATE TRIGGER older_files_refused BEFORE INSERT ON lead.setting
        FOR EACH STATEMENT EXECUTE FUNCTION lead.refuse_older_files();
    END IF;
END;
$$;

-- Bringing an older deployment forward, what is left of it: what changed while the new tables were filled -------------------
-- lead.task is locked since further above. Row versions younger than the filling are the only ones that it may have missed.
DO $$
DECLARE
    v_since xid;
    v_queued bigint;
    v_deferred bigint;
BEGIN
    IF current_setting('lead.forward_since', true) <> '' THEN
        v_since := (current_setting('lead.forward_since')::numeric % 4294967296)::text::xid;
        CREATE TEMPORARY TABLE changed_meanwhile ON COMMIT DROP AS
        SELECT t.id, t.status, t.task_type, coalesce(t.tenant, '') AS lane, t.score, t.queued_at, t.deferred_until
        FROM lead.task AS t WHERE age(t.xmin) <= age(v_since);
        DELETE FROM lead.ready AS r USING pg_temp.changed_meanwhile AS c WHERE r.task_id = c.id;
        DELETE FROM lead.due AS d USING pg_temp.changed_meanwhile AS c WHERE d.task_id = c.id;
        INSERT INTO lead.ready (task_type, lane, score, queued_at, task_id)
        SELECT c.task_type, c.lane, c.score, c.queued_at, c.id FROM pg_temp.changed_meanwhile AS c WHERE c.status = 'queued';
        INSERT INTO lead.due (due_at, task_id)
        SELECT c.deferred_until, c.id FROM pg_temp.changed_meanwhile AS c WHERE c.status = 'deferred' AND c.deferred_until IS NOT NULL;
        -- A row that was deleted meanwhile has no version that tells.
        SELECT count(*) FILTER (WHERE t.status = 'queued'),
            count(*) FILTER (WHERE t.status = 'deferred' AND t.deferred_until IS NOT NULL)
        INTO v_queued, v_deferred
        FROM lead.task AS t;
        IF (SELECT count(*) FROM lead.ready) <> v_queued OR (SELECT count(*) FROM lead.due) <> v_deferred THEN
            DELETE FROM lead.ready AS r WHERE NOT EXISTS (SELECT 1 FROM lead.task AS t WHERE t.id = r.task_id);
            DELETE FROM lead.due AS d WHERE NOT EXISTS (SELECT 1 FROM lead.task AS t WHERE t.id = d.task_id);
        END IF;
        PERFORM set_config('lead.forward_since', '', true);
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_trigger WHERE tgname = 'task_truncated' AND tgrelid = 'lead.task'::regclass) THEN
        CREATE TRIGGER task_truncated AFTER TRUNCATE ON lead.task
        FOR EACH STATEMENT EXECUTE FUNCTION lead.forget_truncated_tasks();
    END IF;
END;
$$;

-- Rows every deployment has. What an operator has changed is never overwritten. ---------------------------------------
INSERT INTO lead.setting (name, value, minimum, maximum, unit, description) VALUES
('max_concurrent_workflows', '3', 1, 10, 'executions', 'Executions reserved or running at the same time'),
('daily_budget_usd', '500', 0, 1000000, 'US dollars', 'Hard limit of a budget day, over all providers'),
('execution_timeout_minutes', '5', 1, 60, 'minutes', 'A pipeline run is stopped and recovered after this'),
('database_connection_limit', '20', 1, 1000, 'connections', 'Connections of the whole platform'),
('memory_limit_mb', '2048', 256, 1048576, 'MB', 'Memory of the whole platform'),
('memory_report_seconds', '300', 10, 3600, 'seconds', 'A baseline the supervisor reported counts for this long'),
('pacing_enabled', 'true', NULL, NULL, 'boolean', 'Spread the budget over the day by priority'),
('pacing_head_start_percent', '25', 0, 100, 'percent', 'Of the budget that any work may use from the start of the day'),
('pacing_free_priority', '50', 0, 100, 'points', 'Work up to this priority is paced by the clock; 100 is not paced at all'),
('memory_baseline_mb', '700', 0, 1048576, 'MB', 'Memory without any run, until the supervisor reports what it measured'),
('business_hours_start', '9', 0, 24, 'hour', 'Business hours begin'),
('business_hours_end', '17', 0, 24, 'hour', 'Business hours end'),
('peak_hours_start', '10', 0, 24, 'hour', 'Peak hours begin'),
('peak_hours_end', '16', 0, 24, 'hour', 'Peak hours end'),
('coordinator_timezone', 'UTC', NULL, NULL, 'time zone', 'Budget days, business and peak hours are counted in it'),
('scratch_database', 'false', NULL, NULL, 'boolean', 'true on a database for tests and simulation: any p_current_time is accepted'),
('clock_tolerance_seconds', '300', 1, 86400, 'seconds', 'How far p_current_time may be off on a production database'),
('heartbeat_seconds', '10', 1, 300, 'seconds', 'A run reports this often'),
('lease_seconds', '30', 3, 900, 'seconds', 'A lease ends this long after the last heartbeat: three missed beats'),
('launch_timeout_seconds', '120', 10, 3600, 'seconds', 'An execution that has not started after this may be launched again'),
('reservation_seconds', '60', 5, 3600, 'seconds', 'A reserved plan without execution records is released after this'),
('starvation_minutes', '30', 1, 10080, 'minutes', 'A task that waits this long gets starvation_points'),
('starvation_points', '50', 0, 1000, 'points', 'Added to the score of a starving task'),
('overdue_minutes', '1440', 1, 525600, 'minutes', 'A task that waits this long is in its type''s next batches, whatever its score'),
('retry_base_seconds', '60', 1, 86400, 'seconds', 'Wait before the first retry; doubles with each'),
('retry_max_seconds', '960', 1, 86400, 'seconds', 'Longest wait before a retry'),
('retry_jitter_seconds', '30', 0, 3600, 'seconds', 'Jitter of a retry, plus or minus'),
('retry_limit', '3', 0, 20, 'retries', 'Retries of a task''s own error before the dead-letter queue'),
('stall_limit', '3', 1, 20, 'stalls', 'A task lost with this many runs is parked in the dead-letter queue'),
('breaker_failures', '5', 1, 1000, 'failures', 'Consecutive failures that open a circuit breaker'),
('breaker_cooldown_seconds', '300', 1, 86400, 'seconds', 'An open breaker lets a probe through after this'),
('breaker_probe_wait_seconds', '30', 1, 86400, 'seconds', 'Wait after a failed probe'),
('breaker_last_probes', '4', 1, 64, 'probes', 'Half-open lets 1, 2, 4 … probes through; this many successes close it'),
('rate_margin_ms', '500', 0, 10000, 'ms', 'A rate slot is taken for 60 s and this margin: the most that grant and arrival may be apart'),
('grant_seconds', '5', 1, 60, 'seconds', 'A granted call must be marked as sent within this')
ON CONFLICT (name) DO NOTHING;

INSERT INTO lead.workflow_policy (
    workflow_type, task_type, enabled, interval_minutes, base_priority, fair_weight, max_batch, expected_seconds,
    item_cost_limit_usd, calls_per_item, memory_mb, target_success_rate, disabled_reason
) VALUES
('content_pipeline', 'content_generation', true, 15, 90, 1, 10, 180, 0.09, 3, 512, 0.85, NULL),
('seo_monitor', 'seo_analysis', false, 120, 60, 1, 20, 120, 0.05, 1, 256, 0.90, 'this version has no SEO monitor'),
('revenue_optimizer', 'revenue_optimization', false, 240, 50, 1, 50, 90, 0.10, 2, 128, 0.95, 'this version has no revenue optimiser'),
('intelligence_engine', 'intelligence_analysis', false, 60, 40, 1, 1, 240, 0.25, 5, 1024, 0.98, 'this version has no intelligence engine')
ON CONFLICT (workflow_type) DO NOTHING;

-- The legal transitions that every deployment has, for the rows and for whoever checks them.
CREATE OR REPLACE FUNCTION lead.expected_transitions() RETURNS TABLE (subject text, from_state text, to_state text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT t.subject, t.from_state, t.to_state
    FROM (VALUES
        ('coordinator', 'IDLE', 'ANALYZING'),
        ('coordinator', 'ANALYZING', 'DISPATCHING'),
        ('coordinator', 'ANALYZING', 'IDLE'),
        ('coordinator', 'DISPATCHING', 'MONITORING'),
        ('coordinator', 'MONITORING', 'IDLE'),
        ('coordinator', 'IDLE', 'ERROR_RECOVERY'),
        ('coordinator', 'ANALYZING', 'ERROR_RECOVERY'),
        ('coordinator', 'DISPATCHING', 'ERROR_RECOVERY'),
        ('coordinator', 'MONITORING', 'ERROR_RECOVERY'),
        ('coordinator', 'ERROR_RECOVERY', 'IDLE'),
        ('coordinator', 'ERROR_RECOVERY', 'ANALYZING'),
        ('execution', 'DISPATCHING', 'MONITORING'),
        ('execution', 'DISPATCHING', 'ERROR_RECOVERY'),
        ('execution', 'MONITORING', 'COMPLETED'),
        ('execution', 'MONITORING', 'ERROR_RECOVERY'),
        ('execution', 'MONITORING', 'COOLDOWN'),
        ('execution', 'ERROR_RECOVERY', 'COOLDOWN'),
        ('execution', 'DISPATCHING', 'COOLDOWN')
    ) AS t (subject, from_state, to_state);
$$;

INSERT INTO lead.state_transition (subject, from_state, to_state)
SELECT
    t.subject,
    t.from_state,
    t.to_state
FROM lead.expected_transitions() AS t
ON CONFLICT DO NOTHING;

INSERT INTO lead.coordinator (singleton) VALUES (true) ON CONFLICT DO NOTHING;

INSERT INTO public.api_rate_limits (provider, requests_per_minute) VALUES ('gemini', 60), ('openai', 50)
ON CONFLICT (provider) DO NOTHING;

INSERT INTO lead.circuit_breaker (name)
SELECT 'pipeline:' || p.workflow_type FROM lead.workflow_policy AS p
ON CONFLICT (name) DO NOTHING;

-- Security ---------------------------------------------------------------------------------------------------------
-- What is ours: everything in lead, and in public what is listed here.
CREATE OR REPLACE FUNCTION lead.our_relations() RETURNS TABLE (oid oid, relkind text, schema_name text, relation_name text)
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT c.oid, c.relkind::text, n.nspname::text, c.relname::text
    FROM pg_class AS c
    INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'v') AND (n.nspname = 'lead' OR (n.nspname = 'public' AND c.relname IN (
        'workflow_orchestration', 'workflow_states', 'resource_usage', 'api_rate_limits', 'system_health', 'execution_history',
        'task_queue', 'coordinator_monitoring'
    )));
$$;

-- Our functions in public are known by their pinned search path, which no one else uses.
CREATE OR REPLACE FUNCTION lead.our_functions() RETURNS TABLE (oid oid, schema_name text, function_name text, name text)
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT p.oid, n.nspname::text, p.proname::text, format('%I.%I(%s)', n.nspname, p.proname, oidvectortypes(p.proargtypes))
    FROM pg_proc AS p
    INNER JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = 'lead'
        OR (n.nspname = 'public' AND p.proconfig @> ARRAY['search_path=pg_catalog, public, lead, pg_temp']);
$$;

-- What a file has just written is what it defines: CREATE OR REPLACE sets every attribute of a function but owner and grants. So
-- its fingerprint is taken in the same transaction, before grants touch the row, and only of rows that this transaction wrote:
-- a function of another file that somebody altered is not taken for right because this file was applied again.
CREATE OR REPLACE FUNCTION lead.function_definition(p_function oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT concat_ws(E'\n', pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), p.prosecdef, p.provolatile,
        p.proisstrict, p.proleakproof, p.proparallel, p.prosupport, p.proconfig::text, l.lanname, p.prosrc, pg_get_function_sqlbody(p.oid))
    FROM pg_proc AS p
    INNER JOIN pg_language AS l ON l.oid = p.prolang
    WHERE p.oid = p_function;
$$;

CREATE OR REPLACE FUNCTION lead.record_functions() RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    INSERT INTO lead.deployed_object AS d (kind, name, fingerprint)
    SELECT 'function', f.name, encode(sha256(convert_to(lead.function_definition(f.oid), 'UTF8')), 'hex')
    FROM lead.our_functions() AS f
    INNER JOIN pg_proc AS p ON p.oid = f.oid
    WHERE p.xmin = pg_current_xact_id()::xid
    ON CONFLICT (kind, name) DO UPDATE SET fingerprint = excluded.fingerprint
    WHERE d.fingerprint <> excluded.fingerprint;
$$;

-- Who may do what. The owner may do everything; PUBLIC, anon and authenticated nothing; what is not said here is not granted.
CREATE OR REPLACE FUNCTION lead.expected_grants() RETURNS TABLE (object text, role_name text, privilege text)
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    SELECT 'SCHEMA lead', r.role_name, 'USAGE'
    FROM (VALUES ('service_role'), ('lead_application'), ('lead_dashboard')) AS r (role_name)
    UNION ALL
    -- Who may call or look may read.
    SELECT format('TABLE %I.%I', o.schema_name, o.relation_name), r.role_name, 'SELECT'
    FROM lead.our_relations() AS o
    CROSS JOIN (VALUES ('service_role'), ('lead_application'), ('lead_dashboard')) AS r (role_name)
    UNION ALL
    -- Existing callers write the tables of the contract directly; an operator changes settings and policies as service_role.
    SELECT format('TABLE %I.%I', o.schema_name, o.relation_name), 'service_role', w.privilege
    FROM lead.our_relations() AS o
    CROSS JOIN (VALUES ('INSERT'), ('UPDATE'), ('DELETE')) AS w (privilege)
    WHERE (o.schema_name = 'public' AND o.relation_name <> 'coordinator_monitoring')
        OR (o.schema_name = 'lead' AND o.relation_name = 'task')
        OR (o.schema_name = 'lead' AND o.relation_name IN ('setting', 'workflow_policy') AND w.privilege = 'UPDATE')
        OR (o.schema_name = 'lead' AND o.relation_name = 'tenant' AND w.privilege IN ('INSERT', 'UPDATE'))
    UNION ALL
    SELECT 'FUNCTION ' || f.name, r.role_name, 'EXECUTE'
    FROM lead.our_functions() AS f
    INNER JOIN pg_proc AS p ON p.oid = f.oid
    CROSS JOIN (VALUES ('service_role'), ('lead_application'), ('lead_dashboard')) AS r (role_name)
    -- A dashboard calls what only reads.
    WHERE f.schema_name = 'public' AND (r.role_name <> 'lead_dashboard' OR p.provolatile = 's')
    UNION ALL
    -- The generated score is computed with the rights of whoever writes the row.
    SELECT 'FUNCTION lead.static_score(integer, numeric, numeric, numeric)', 'service_role', 'EXECUTE';
$$;

-- What is granted on our objects to the roles that this file names; to others an operator may grant what he likes.
CREATE OR REPLACE FUNCTION lead.actual_grants() RETURNS TABLE (object text, role_name text, privilege text, with_option boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, public, lead, pg_temp
AS $$
    WITH granted (object, acl) AS (
        SELECT format('SCHEMA %I', n.nspname), n.nspacl FROM pg_namespace AS n WHERE n.nspname = 'lead'
        UNION ALL
        SELECT format('TABLE %I.%I', o.schema_name, o.relation_name), c.relacl
        FROM lead.our_relations() AS o
        INNER JOIN pg_class AS c ON c.oid = o.oid
        UNION ALL
        -- Identity columns need no grant on their sequence, and Supabase's default privileges give one to everybody.
        SELECT format('SEQUENCE %I.%I', n.nspname, c.relname), c.relacl
        FROM pg_class AS c
        INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
        LEFT JOIN pg_depend AS d
            ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
            AND d.deptype IN ('a', 'i')
        WHERE c.relkind = 'S' AND (n.nspname = 'lead' OR d.refobjid IN (SELECT o.oid FROM lead.our_relations() AS o))
        UNION ALL
        SELECT 'FUNCTION ' || f.name, coalesce(p.proacl, acldefault('f', p.proowner))
        FROM lead.our_functions() AS f
        INNER JOIN pg_proc AS p ON p.oid = f.oid
    ), entries AS (
        SELECT g.object, a.grantee, a.privilege_type, a.is_grantable FROM granted AS g CROSS JOIN LATERAL aclexplode(g.acl) AS a
        UNION ALL
        SELECT format('TABLE %I.%I', o.schema_name, o.relation_name), a.grantee, format('%s (%I)', a.privilege_type, t.attname),
            a.is_grantable
        FROM lead.our_relations() AS o
        INNER JOIN pg_attribute AS t ON t.attrelid = o.oid AND t.attacl IS NOT NULL AND NOT t.attisdropped
        CROSS JOIN LATERAL aclexplode(t.attacl) AS a
    )
    SELECT e.object, coalesce(r.rolname::text, 'PUBLIC'), e.privilege_type, e.is_grantable
    FROM entries AS e
    LEFT JOIN pg_roles AS r ON r.oid = e.grantee
    WHERE e.grantee = 0 OR r.rolname IN ('anon', 'authenticated', 'service_role', 'lead_application', 'lead_dashboard');
$$;

-- Called at the end of each file. Changes only what isn't right: each change takes a lock or makes every plan be made anew.
CREATE OR REPLACE FUNCTION lead.apply_security() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, public, lead, pg_temp
AS $$
DECLARE
    v_row record;
BEGIN
    FOR v_row IN
        SELECT o.oid, o.schema_name, o.relation_name, c.relrowsecurity AND c.relforcerowsecurity AS is_secured
        FROM lead.our_relations() AS o
        INNER JOIN pg_class AS c ON c.oid = o.oid
        WHERE o.relkind = 'r'
    LOOP
        IF NOT v_row.is_secured THEN
            EXECUTE format('ALTER TABLE %I.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', v_row.schema_name,
                v_row.relation_name);
        END IF;
        -- Under FORCE the owner needs a policy of its own, or its functions see no rows.
        IF NOT EXISTS (SELECT 1 FROM pg_policy AS p WHERE p.polrelid = v_row.oid AND p.polname = 'owner_all') THEN
            EXECUTE format('CREATE POLICY owner_all ON %I.%I TO %I USING (true) WITH CHECK (true)',
                v_row.schema_name, v_row.relation_name, current_user);
        END IF;
        IF NOT EXISTS (SELECT 1 FROM pg_policy AS p WHERE p.polrelid = v_row.oid AND p.polname = 'readers') THEN
            EXECUTE format('CREATE POLICY readers ON %I.%I FOR SELECT TO lead_application, lead_dashboard USING (true)',
                v_row.schema_name, v_row.relation_name);
        END IF;
        IF NOT EXISTS (SELECT 1 FROM pg_policy AS p WHERE p.polrelid = v_row.oid AND p.polname = 'service_all') THEN
            EXECUTE format('CREATE POLICY service_all ON %I.%I TO service_role USING (true) WITH CHECK (true)',
                v_row.schema_name, v_row.relation_name);
        END IF;
    END LOOP;

    FOR v_row IN
        SELECT a.object, a.role_name, a.privilege
        FROM lead.actual_grants() AS a
        LEFT JOIN lead.expected_grants() AS e ON e.object = a.object AND e.role_name = a.role_name AND e.privilege = a.privilege
        WHERE e.object IS NULL OR a.with_option
    LOOP
        EXECUTE format('REVOKE %s ON %s FROM %s', v_row.privilege, v_row.object,
            CASE v_row.role_name WHEN 'PUBLIC' THEN 'PUBLIC' ELSE quote_ident(v_row.role_name) END);
    END LOOP;
    FOR v_row IN
        SELECT e.object, e.role_name, e.privilege
        FROM lead.expected_grants() AS e
        WHERE NOT EXISTS (
            SELECT 1 FROM lead.actual_grants() AS a
            WHERE a.object = e.object AND a.role_name = e.role_name AND a.privilege = e.privilege
        )
    LOOP
        EXECUTE format('GRANT %s ON %s TO %I', v_row.privilege, v_row.object, v_row.role_name);
    END LOOP;
END;
$$;

DO $$
BEGIN
    PERFORM lead.record_functions();
    PERFORM lead.apply_security();
END;
$$;
COMMIT;
