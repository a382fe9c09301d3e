"""Running the whole platform on one machine: what `up`, `demo` and the end-to-end tests stand on.

One supervising process owns a LEAD_HOME. It starts the embedded database (unless DATABASE_URL names another),
deploys `sql/`, starts the sandbox provider (unless there are keys), the webserver and the daemon, restarts
what dies, and stops everything when it is told to. What must hold, and what keeps it:

- One supervisor a LEAD_HOME: an exclusive lock on a file there (`home.py`). The kernel gives it back however
  the supervisor ends.
- No process is left behind: every process carries LEAD_PLATFORM_ID in its environment, inherited by whatever
  Dagster starts in its turn (code servers, run workers), so they are found without having been registered
  (`processes.py`). A supervisor that is killed is noticed by its guard (`guard.py`), which ends the rest; if
  the guard is killed too, the next start does it.
- Nothing here imports dagster: the supervisor stays at a few tens of megabytes.
"""
