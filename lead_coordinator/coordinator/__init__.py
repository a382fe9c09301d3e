"""The tick and what happens between ticks: when things happen, never what is decided (SQL decides).

- `job.py`, `ops.py`: `coordinator_job`, the eight core components in order; `schedule.py` starts it every
  five minutes.
- `sensors.py`: `dispatch_sensor` (every five seconds) and the run-status sensors.
- `dispatch.py`: what the dispatch sensor says and requests, as plain functions over plain data.
- `runs.py`: the only questions asked of Dagster's own records: is a run still alive, and end it.
"""
