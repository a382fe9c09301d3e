"""Lead Coordinator: decides what work runs next on a content platform, launches it, watches it, recovers it.

The control plane is SQL in PostgreSQL (`sql/`), the execution plane is Dagster (this package). A room imports
only from rooms below it: `cli` and `definitions` on top; then `coordinator`, `pipelines`, `observability`;
then `providers`; `database`, `settings`, `errors` and `files` on the ground.
"""

from __future__ import annotations

__version__ = "0.3.0"
