"""The pipelines: one folder each, its domain logic as plain functions and a thin Dagster face."""
