import pytest

from lead_coordinator.database.connection import Database
from lead_coordinator_tests.sql.play import Play


@pytest.fixture
def play(db: Database) -> Play:
    return Play(db)
