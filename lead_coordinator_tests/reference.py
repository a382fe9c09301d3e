"""What the database says about its public functions, in the words of docs/SQL-REFERENCE.md."""

from __future__ import annotations

# A row a parameter, in order; a function without any has one row with NULLs.
SIGNATURES = """
    SELECT f.function_name AS function, a.name AS parameter,
        replace(format_type(a.type, NULL), 'timestamp with time zone', 'timestamptz') AS type,
        regexp_replace(
            pg_get_function_arg_default(f.oid, a.place::integer), '::[a-z][a-z ]*(\\[\\])?$', ''
        ) AS default
    FROM lead.our_functions() AS f
    INNER JOIN pg_proc AS p ON p.oid = f.oid
    LEFT JOIN LATERAL unnest(p.proargtypes::oid[], p.proargnames[:p.pronargs])
        WITH ORDINALITY AS a (type, name, place) ON true
    WHERE f.schema_name = 'public'
    ORDER BY f.function_name, a.place
"""
