"""How every command ends: exit code 0 when it did its work, 1 when that failed, 2 when it was asked wrongly.

A failure that we know is one sentence on stderr, without a traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

OK, FAILED, WRONG = 0, 1, 2


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Says why on stderr and ends the command."""
    import typer

    typer.echo(f"lead-coordinator: {message}", err=True)
    raise typer.Exit(code)


@contextmanager
def known_errors() -> Iterator[None]:
    """Turns the errors of this package into one sentence and an exit code; what isn't known keeps its
    traceback."""
    import psycopg

    from lead_coordinator.errors import InvalidInput, LeadCoordinatorError, SettingsError

    try:
        yield
    except SettingsError as error:
        fail(str(error), WRONG)
    except InvalidInput as error:
        fail(str(error), WRONG)
    except LeadCoordinatorError as error:
        fail(str(error), FAILED)
    except psycopg.Error as error:  # what the database room doesn't translate
        reason = error.diag.message_primary or str(error).partition("\n")[0]
        fail(f"The database refused: {reason} ({error.sqlstate}). `lead-coordinator doctor` tells more.")
