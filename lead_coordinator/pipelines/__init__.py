"""The pipelines: one folder each, its domain logic as plain functions and a thin Dagster face.

runtime.py   what a pipeline is made of: a handler, and what it is given for a task
task.py      one task, from its payload to its end
batch.py     a batch of tasks under the lease of one execution (report.py: what became of it)
face.py      its asset and its job in Dagster; jobs.py: all of them
profile.py   what is set for each site
watchdog.py  ends a run's process that hangs
"""
