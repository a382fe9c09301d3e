"""What people see: the lineage from the queue to the day's summary, and the figures of each step.

- `sources.py`: the queue and the executions, which the database keeps, as external assets.
- `figures.py`: the figures of a day as plain functions over the database; pandas lives here and nowhere
  else.
- `assets.py`: `execution_metrics`, `daily_cost_report` and `platform_summary`, daily partitions including
  today.
- `automation.py`: `reports_job` and the sensor that starts it after work was done, at most once in five
  minutes.
- `retention.py`: `prune_job`, which deletes what ended long ago every night, Dagster's own runs included.
"""
