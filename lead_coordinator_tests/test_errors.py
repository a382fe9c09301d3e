"""Errors: the classes that `fail_task` takes, and nothing else."""

from typing import get_args

import pytest

from lead_coordinator import errors
from lead_coordinator.errors import ErrorClass, TaskError

TASK_ERRORS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TaskError)
]


@pytest.mark.parametrize("kind", TASK_ERRORS, ids=lambda kind: kind.__name__)
def test_each_task_error_carries_a_class_that_fail_task_knows(kind: type[TaskError]) -> None:
    assert kind.error_class in get_args(ErrorClass)
    assert kind("why", retry_after_ms=250).retry_after_ms == 250
    assert str(kind("why")) == "why"


def test_every_class_of_fail_task_can_be_raised() -> None:
    assert {kind.error_class for kind in TASK_ERRORS} == set(get_args(ErrorClass))
