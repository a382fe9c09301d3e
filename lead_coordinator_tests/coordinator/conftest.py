"""A Dagster instance for tests: real storage in a temporary folder, emptied for each test."""

from collections.abc import Callable, Iterator, Mapping

import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.utils import make_new_run_id

from lead_coordinator.database.connection import Database
from lead_coordinator.database.resource import DatabaseResource

AddRun = Callable[..., DagsterRun]


@pytest.fixture(scope="session")
def session_instance(tmp_path_factory: pytest.TempPathFactory) -> DagsterInstance:
    return DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster")))


@pytest.fixture
def instance(session_instance: DagsterInstance) -> Iterator[DagsterInstance]:
    yield session_instance
    session_instance.run_storage.wipe()
    session_instance.event_log_storage.wipe()


@pytest.fixture
def add_run(instance: DagsterInstance) -> AddRun:
    """Puts a run of a job, in the status and with the tags given, into Dagster's records."""

    def add(job_name: str, status: DagsterRunStatus, tags: Mapping[str, str] | None = None) -> DagsterRun:
        repository = RemoteRepositoryOrigin(
            RegisteredCodeLocationOrigin("lead_coordinator"), "__repository__"
        )
        return instance.run_storage.add_run(
            DagsterRun(
                job_name=job_name,
                run_id=make_new_run_id(),
                status=status,
                tags=dict(tags or {}),
                remote_job_origin=RemoteJobOrigin(repository, job_name),
            )
        )

    return add


@pytest.fixture
def database(database_url: str) -> DatabaseResource:
    return DatabaseResource(database_url=database_url)


@pytest.fixture
def submit(db: Database) -> Callable[[int], list[int]]:
    """Submits so many briefs; answers their task ids."""

    def submit_briefs(count: int) -> list[int]:
        tasks = [
            {
                "task_type": "content_generation",
                "payload": {"title": f"Reading rate limits {number}"},
            }
            for number in range(count)
        ]
        answer = db.call("submit_tasks", tasks=tasks)
        return [task["task_id"] for task in answer["tasks"]]

    return submit_briefs
